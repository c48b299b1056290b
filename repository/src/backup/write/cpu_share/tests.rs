//! Turns: the laws in a seeded simulation, and real threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lifeboat_testkit::SeededRandom;

use super::*;

fn check_laws(turns: &Turns, seed: u64) {
    let running: usize = turns.parties.iter().map(|party| party.running).sum();
    assert_eq!(running + turns.free, turns.capacity, "seed {seed}: no turn is lost or made up");
    for index in 0..turns.parties.len() {
        let waits = turns.parties[index].waiting > 0;
        assert!(!(waits && turns.may(index)), "seed {seed}: a core idles while one waits that may work");
    }
    let waiting = turns.parties.iter().filter(|party| party.waiting > 0).count();
    assert!(waiting == 0 || turns.free == 0, "seed {seed}: a core idles while somebody waits");
}

#[test]
fn all_turns_are_used_and_no_cluster_gets_more_than_half_while_others_wait() {
    for seed in 1..=400_u64 {
        let mut random = SeededRandom::new(seed);
        let capacity = 1 + random.index(9);
        let mut turns = Turns::new(capacity);
        let count = 1 + random.index(5);
        for _ in 0..count {
            turns.join();
        }
        // Threads of each party: as many as there are turns.
        let mut busy = vec![0_usize; count];
        for _ in 0..2000 {
            let index = random.index(count);
            let waiting = turns.parties[index].waiting;
            let running = turns.parties[index].running;
            if random.one_in(2) && running + waiting < capacity {
                let others_wait =
                    turns.parties.iter().enumerate().any(|(other, party)| other != index && party.waiting > 0);
                if turns.ask(index) {
                    busy[index] += 1;
                    let half = capacity.div_ceil(2);
                    assert!(!others_wait || busy[index] <= half, "seed {seed}: {} of {capacity}", busy[index]);
                }
            } else if running > 0 {
                busy[index] -= 1;
                if let Some(next) = turns.done(index) {
                    assert!(turns.take_granted(next), "seed {seed}");
                    busy[next] += 1;
                    let others_wait =
                        turns.parties.iter().enumerate().any(|(other, party)| other != next && party.waiting > 0);
                    assert!(!others_wait || busy[next] <= capacity.div_ceil(2), "seed {seed}");
                }
            }
            assert_eq!(busy, turns.parties.iter().map(|party| party.running).collect::<Vec<_>>(), "seed {seed}");
            check_laws(&turns, seed);
        }
    }
}

#[test]
fn a_second_cluster_gets_half_of_the_turns_as_soon_as_frames_end() {
    let mut turns = Turns::new(4);
    let (first, second) = (turns.join(), turns.join());
    for _ in 0..4 {
        assert!(turns.ask(first), "alone it gets all");
    }
    for _ in 0..4 {
        assert!(!turns.ask(second));
    }
    assert_eq!(turns.done(first), Some(second));
    assert!(!turns.ask(first), "the other one waits");
    assert_eq!(turns.done(first), Some(second));
    assert!(!turns.ask(first));
    // Two each: from now on each gets what it gives back.
    assert_eq!(turns.done(first), Some(first));
    assert_eq!(turns.done(second), Some(second));
    assert_eq!((turns.parties[first].running, turns.parties[second].running), (2, 2));
}

#[test]
fn the_waiting_cluster_with_the_fewest_turns_is_next_and_none_starves() {
    let mut turns = Turns::new(2);
    let parties: Vec<usize> = (0..5).map(|_| turns.join()).collect();
    let mut holders = vec![parties[0], parties[0]];
    assert!(turns.ask(parties[0]) && turns.ask(parties[0]));
    for party in &parties {
        turns.ask(*party);
        turns.ask(*party);
    }
    let mut served = [0; 5];
    for _ in 0..50 {
        let done = holders.remove(0);
        let next = turns.done(done).unwrap();
        assert!(turns.take_granted(next));
        served[next] += 1;
        holders.push(next);
        // Whoever had a turn wants another.
        turns.ask(done);
    }
    assert!(served.iter().all(|turns| (9..=11).contains(turns)), "{served:?}");
}

#[test]
fn threads_of_two_clusters_share_and_their_times_are_counted() {
    let shares = CpuShares::new(2);
    let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let clusters: Vec<ClusterName> = ["a", "b"].iter().map(|name| name.parse().unwrap()).collect();
    std::thread::scope(|scope| {
        for cluster in &clusters {
            for _ in 0..2 {
                let (share, now, most) = (shares.of(cluster), &now, &most);
                scope.spawn(move || {
                    for _ in 0..200 {
                        share.work(|| {
                            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            let until = Instant::now() + Duration::from_micros(200);
                            while Instant::now() < until {
                                std::hint::spin_loop();
                            }
                            now.fetch_sub(1, Ordering::SeqCst);
                        });
                    }
                });
            }
        }
    });
    assert!(most.load(Ordering::SeqCst) <= 2, "never more at once than there are turns");
    let times: Vec<_> = clusters.iter().map(|cluster| shares.of(cluster).times()).collect();
    assert!(times.iter().all(|times| times.running >= Duration::from_millis(80)), "{times:?}");
    assert!(times.iter().any(|times| times.waiting > Duration::ZERO), "{times:?}");
}

#[test]
fn a_panic_gives_the_turn_back() {
    let shares = CpuShares::new(1);
    let share = shares.of(&"a".parse().unwrap());
    let other = share.clone();
    let panicked = std::thread::spawn(move || other.work(|| panic!("on purpose"))).join();
    assert!(panicked.is_err());
    assert_eq!(share.work(|| 5), 5);
}
