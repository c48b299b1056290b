//! Regions that fail, lag, return or belong to somebody else; disks that are full; processes that are killed.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

#[allow(dead_code, reason = "shared by two test programs")]
mod wal_support;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_daemon::wal::CommitMode;
use lifeboat_daemon::wal::ship::positions::{Offer, ShipError, UploadState};
use lifeboat_daemon::wal::ship::settings::ShipSettings;
use lifeboat_daemon::wal::ship::shipper::Shipper;
use lifeboat_repository::format::layout::{StoredName, WalForm};
use lifeboat_repository::log::LogError;
use lifeboat_repository::log::records::GapReason;
use lifeboat_stores::{Chance, Fault, Operation, Rule, Store};
use lifeboat_vocabulary::{ByteCount, Clock, SystemClock, UtcTime};
use wal_support::*;

fn is_away(state: &UploadState) -> bool {
    matches!(state, UploadState::Away { .. })
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_requests_and_answers_change_nothing_but_the_time_that_it_takes() {
    let world = World::new(2).await;
    for (seed, store) in world.stores.iter().enumerate() {
        let faults = vec![Fault::Lost, Fault::AnswerLost, Fault::Throttled, Fault::Corrupted];
        store.chance(Chance { seed: seed as u64 + 7, per_mille: 60, faults });
    }
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    let mut sent = 16 * MIB;
    for bytes in [1000, 3 * MIB, 70, 5 * MIB + 1, 20, 2 * MIB, 9] {
        sent = offer(&shipper, 1, sent, sent + bytes).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    everywhere(&shipper, 1, sent).await;
    assert!(world.stores.iter().all(|store| store.hits() > 0), "something did go wrong");
    world.stores.iter().for_each(|store| store.heal());
    world.all_have(&[0, 1], range(1, 16 * MIB, sent), segment(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_away_for_long_catches_up_from_the_spool_oldest_first() {
    let world = World::new(2).await;
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    let mut sent = offer(&shipper, 1, 16 * MIB, 16 * MIB + 10).await;
    everywhere(&shipper, 1, sent).await;
    world.stores[1].add(Rule::always(Fault::Lost));
    sent = offer(&shipper, 1, sent, sent + 30 * MIB).await;
    let now = until(&shipper, "what the spool makes safe", |now| now.confirmed == Some(at(1, sent))).await;
    assert!(is_away(&now.regions[1].state), "{now:?}");
    assert_eq!((&now.regions[0].state, now.regions[1].durable), (&UploadState::Current, Some(at(1, 16 * MIB + 10))));
    assert_eq!(now.spooled, Some(lsn(sent)));
    until(&shipper, "a spool of pieces alone", |now| now.spool_bytes < ByteCount::from_mib(32)).await;
    assert!(world.spooled().len() >= 30, "{:?}", world.spooled());

    // While it catches up, slowly, the other region is served as ever.
    world.stores[1].heal();
    world.stores[1].add(puts_of_wal(Fault::Slow(Duration::from_millis(40))));
    until(&shipper, "the way back", |now| !is_away(&now.regions[1].state)).await;
    for _ in 0..10 {
        let begun = tokio::time::Instant::now();
        sent = offer(&shipper, 1, sent, sent + 100).await;
        until(&shipper, "the other region", |now| now.regions[0].durable == Some(at(1, sent))).await;
        assert!(begun.elapsed() < Duration::from_secs(2), "the other region waited {:?}", begun.elapsed());
    }
    everywhere(&shipper, 1, sent).await;
    until(&shipper, "an empty spool", |now| now.spool_bytes == ByteCount::ZERO).await;
    world.stores[1].heal();
    let mut versions = Vec::new();
    for object in world.objects(1, WalForm::Piece).await {
        let version = world.stores[1].head(&object.key()).await.unwrap().version.0;
        versions.push(version.parse::<i64>().unwrap());
    }
    let passed = versions.windows(2).filter(|pair| pair[1] < pair[0] - 8).count();
    assert_eq!(passed, 0, "oldest first, but for those on their way together: {versions:?}");
    world.all_have(&[0, 1], range(1, 16 * MIB, sent), segment(1)).await;
    let slices = world.objects(1, WalForm::Slice).await.len();
    assert!(slices < 20, "pieces stand for the slices that were missed, not {slices}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_refuses_bytes_until_there_is_room_again() {
    let world = World::new(2).await;
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 64 * MIB), segment(16)).unwrap();
    world.stores[1].add(Rule::always(Fault::Lost));
    let full = tokio::time::timeout(Duration::from_secs(60), offer(&shipper, 1, 64 * MIB, 1024 * MIB)).await.unwrap();
    assert!((96 * MIB..256 * MIB).contains(&full), "{full}");
    assert_eq!(shipper.offer(at(1, full), wal(1, full, full + 1)).await.unwrap(), Offer::Full);
    let now = shipper.positions();
    assert!(now.spool_bytes <= world.settings().spool_limit, "{now:?}");
    assert_eq!(now.received, Some(lsn(full)));
    world.stores[1].heal();
    until(&shipper, "room", |now| now.spool_bytes < ByteCount::from_mib(30)).await;
    shipper.begin(at(1, full / (16 * MIB) * 16 * MIB), segment(16)).unwrap();
    // What waited in memory may go to the spool meanwhile, and fill it once more.
    let (mut sent, patience) = (full / (16 * MIB) * 16 * MIB, tokio::time::Instant::now() + Duration::from_secs(60));
    while sent < full + 17 * MIB && tokio::time::Instant::now() < patience {
        sent = offer(&shipper, 1, sent, full + 17 * MIB).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(sent, full + 17 * MIB);
    everywhere(&shipper, 1, sent).await;
    until(&shipper, "an empty spool", |now| now.spool_bytes == ByteCount::ZERO).await;
    world.all_have(&[0, 1], range(1, 64 * MIB, sent), segment(16)).await;
}

/// Runs this test program's test `name` again, in a mount namespace of its own with a small disk.
fn on_a_small_disk(name: &str, mib: u64) {
    let disk = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t tmpfs -o size={mib}m tmpfs {disk} && SMALL_DISK={disk} exec {program} --exact {name} --nocapture",
        disk = disk.path().display(),
        program = std::env::current_exe().unwrap().display(),
    );
    let id = Command::new("id").arg("-u").output().unwrap();
    let rights: &[&str] = if id.stdout.starts_with(b"0\n") { &["-m"] } else { &["-rm"] };
    let ended = Command::new("unshare").args(rights).args(["sh", "-c", &script]).output().unwrap();
    let out = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && out.contains("1 passed"), "{out}");
}

#[test]
fn a_full_disk_under_the_spool_refuses_bytes_and_loses_nothing() {
    let Some(disk) = std::env::var_os("SMALL_DISK") else {
        return on_a_small_disk("a_full_disk_under_the_spool_refuses_bytes_and_loses_nothing", 8);
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let world = World::new(2).await;
        let spool_directory = std::path::PathBuf::from(disk).join("spool");
        let shipper = world.start(ShipSettings { spool_directory, ..world.settings() }).await;
        shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
        world.stores[1].add(Rule::always(Fault::Lost));
        let full = offer(&shipper, 1, 16 * MIB, 200 * MIB).await;
        assert!((20 * MIB..100 * MIB).contains(&full), "{full}");
        let now = shipper.positions();
        assert!(now.confirmed.unwrap().lsn < lsn(full), "what is not on the disk is not confirmed: {now:?}");
        assert!(now.confirmed.unwrap().lsn > lsn(18 * MIB), "what is on the disk is: {now:?}");
        world.stores[1].heal();
        everywhere(&shipper, 1, full).await;
        until(&shipper, "room", |now| now.spool_bytes == ByteCount::ZERO).await;
        let sent = offer(&shipper, 1, full, full + 5 * MIB).await;
        assert_eq!(sent, full + 5 * MIB);
        everywhere(&shipper, 1, sent).await;
        world.all_have(&[0, 1], range(1, 16 * MIB, sent), segment(1)).await;
    });
}

#[test]
fn a_disk_that_is_full_at_the_start_does_not_end_the_start() {
    let Some(disk) = std::env::var_os("SMALL_DISK") else {
        return on_a_small_disk("a_disk_that_is_full_at_the_start_does_not_end_the_start", 8);
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let world = World::new(2).await;
        let disk = std::path::PathBuf::from(disk);
        let spool_directory = disk.join("spool");
        let filler = disk.join("filler");
        std::fs::write(&filler, vec![1; 16 << 20]).unwrap_err();
        let shipper = world.start(ShipSettings { spool_directory: spool_directory.clone(), ..world.settings() }).await;
        assert!(!spool_directory.join("instance").exists(), "the disk was not full");
        std::fs::remove_file(filler).unwrap();
        shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
        let sent = offer(&shipper, 1, 16 * MIB, 20 * MIB).await;
        everywhere(&shipper, 1, sent).await;
        world.all_have(&[0, 1], range(1, 16 * MIB, sent), segment(1)).await;
    });
}

async fn confirmed_is_in_the_quorum(world: &World, quorum: usize, start: u64, confirmed: u64) {
    let wanted = range(1, start, confirmed);
    let lacking = [world.lacks(0, wanted, segment(1)).await, world.lacks(1, wanted, segment(1)).await];
    let lacking = lacking.map(|lacking| lacking.map(|(part, read)| format!("{part}: {read:?}")));
    let complete = lacking.iter().filter(|lacking| lacking.is_none()).count();
    assert!(complete >= quorum, "{complete} of {quorum} have all of what was confirmed, {confirmed:x}: {lacking:#?}");
}

/// The server's side of a reconnect: where the shipper wants it, and from there on everything. In even rounds the server
/// has no more than the slot holds, which is what was confirmed.
async fn resume(shipper: &Shipper, first: u64, round: u64, confirmed: u64) -> u64 {
    let from = match shipper.resume() {
        Some(resume) if round.is_multiple_of(2) => {
            let position = resume.position.lsn.as_bytes();
            assert!(
                position >= confirmed,
                "round {round}: {position:x} is wanted again, and {confirmed:x} was confirmed"
            );
            if resume.unknown.is_empty() { position } else { position.min(confirmed) }
        }
        Some(resume) if resume.unknown.is_empty() => resume.pieces.lsn.as_bytes(),
        Some(resume) => resume.pieces.lsn.as_bytes().min(confirmed),
        None => first,
    };
    let from = from / MIB * MIB;
    shipper.begin(at(1, from), segment(1)).unwrap();
    from
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_was_confirmed_survives_a_kill_at_any_moment() {
    let world = World::new(2).await;
    kill_again_and_again(&world, world.settings()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_was_confirmed_for_waiting_commits_survives_a_kill_in_both_regions() {
    let world = World::new(2).await;
    kill_again_and_again(&world, ShipSettings { wal_quorum: 2, mode: CommitMode::Synchronous, ..world.settings() })
        .await;
}

async fn kill_again_and_again(world: &World, settings: ShipSettings) {
    let start = 16 * MIB;
    let (mut confirmed, mut sent) = (start, start);
    for round in 0..12_u64 {
        world.stores.iter().for_each(|store| store.heal());
        let shipper = world.start(settings.clone()).await;
        let from = resume(&shipper, start, round, confirmed).await;
        for (seed, store) in world.stores.iter().enumerate() {
            let faults = vec![Fault::Lost, Fault::AnswerLost, Fault::Slow(Duration::from_millis(100))];
            store.chance(Chance { seed: round * 2 + seed as u64 + 1, per_mille: 100, faults });
        }
        if round % 3 == 2 {
            world.stores[1].add(puts_of_wal(Fault::Lost));
        }
        let positions = shipper.watch();
        let feed = async {
            let mut at = offer(&shipper, 1, from, sent.max(from)).await;
            loop {
                at = offer(&shipper, 1, at, at + 40_000 + round * 13_007).await;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let killed = tokio::time::timeout(Duration::from_millis(150 + round * 97 % 400), feed).await;
        assert!(killed.is_err());
        let last = positions.borrow().clone();
        drop(shipper);
        sent = last.received.unwrap().as_bytes();
        confirmed = confirmed.max(last.confirmed.map_or(start, |at| at.lsn.as_bytes()));
        world.stores.iter().for_each(|store| store.heal());
        confirmed_is_in_the_quorum(world, settings.wal_quorum, start, confirmed).await;
    }
    assert!(confirmed > start + 3 * MIB, "the rounds did something: {confirmed:x}");
    let shipper = world.start(settings.clone()).await;
    let from = resume(&shipper, start, 13, confirmed).await;
    let end = offer(&shipper, 1, from, sent + 100_000).await;
    everywhere(&shipper, 1, end).await;
    until(&shipper, "an empty spool", |now| now.spool_bytes == ByteCount::ZERO).await;
    let positions = shipper.stop(Duration::from_secs(10)).await;
    assert!(positions.regions.iter().all(|region| region.state == UploadState::Current), "{positions:?}");
    world.all_have(&[0, 1], range(1, start, end), segment(1)).await;
    for region in 0..2 {
        assert_eq!(world.log(region).await.wal_gaps().count(), 0, "region {region} misses nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_create_and_read_wal_alone_ships_as_well() {
    let world = World::new(1).await;
    let unreadable = |key: &str| Rule {
        operation: Some(Operation::Get),
        key_contains: key.to_owned(),
        ..Rule::always(Fault::Denied)
    };
    ["data/", "keys/"].iter().for_each(|key| world.stores[0].add(unreadable(key)));
    let lost = Rule {
        operation: Some(Operation::Put),
        key_contains: "slices/".to_owned(),
        skip: 1,
        count: 2,
        fault: Fault::AnswerLost,
    };
    world.stores[0].add(lost);
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    let mut sent = 16 * MIB;
    for _ in 0..4 {
        sent = offer(&shipper, 1, sent, sent + 1000).await;
        everywhere(&shipper, 1, sent).await;
    }
    assert!(world.stores[0].hits() >= 2);
    world.stores[0].heal();
    world.all_have(&[0], range(1, 16 * MIB, sent), segment(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_cannot_be_asked_at_the_start_gets_everything_later() {
    let world = World::new(2).await;
    world.stores[1].add(Rule::always(Fault::Lost));
    let shipper = world.start(world.settings()).await;
    assert!(matches!(&shipper.positions().regions[1].state, UploadState::Unknown { why: Some(_) }));
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    let sent = offer(&shipper, 1, 16 * MIB, 20 * MIB + 5).await;
    until(&shipper, "the quorum and the spool", |now| now.confirmed == Some(at(1, sent))).await;
    drop(shipper);
    // The next process cannot ask either; the spool has what the region lacks.
    let shipper = world.start(world.settings()).await;
    let found = shipper.resume().unwrap();
    assert_eq!(found.unknown.len(), 1);
    shipper.begin(at(1, found.position.lsn.as_bytes() / MIB * MIB), segment(1)).unwrap();
    let from = found.position.lsn.as_bytes() / MIB * MIB;
    let end = offer(&shipper, 1, from, 21 * MIB).await;
    world.stores[1].heal();
    everywhere(&shipper, 1, end).await;
    world.all_have(&[0, 1], range(1, 16 * MIB, end), segment(1)).await;
    for region in 0..2 {
        assert_eq!(world.log(region).await.wal_gaps().count(), 0);
    }
    until(&shipper, "an empty spool", |now| now.spool_bytes == ByteCount::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_set_back_while_wal_flows_gets_no_record_behind_its_hole_and_stays_refused() {
    let world = World::new(1).await;
    let settings = ShipSettings { ..world.settings() };
    let follower = Arc::clone(&settings.logs);
    let shipper = world.start(settings).await;
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    let sent = offer(&shipper, 1, 16 * MIB, 18 * MIB + 10).await;
    everywhere(&shipper, 1, sent).await;
    let whole = world.log(0).await;
    assert!(whole.entries().len() >= 2, "the first record, and a key for WAL");
    follower.read_log(&world.region(0), whole.trust()).await.unwrap();
    let last = StoredName::LogNote { seq: whole.head().unwrap().seq };
    world.stores[0].delete(&last.key()).await.unwrap();
    let refused = follower.read_log(&world.region(0), whole.trust()).await.unwrap_err();
    assert!(matches!(*refused, LogError::RolledBack { .. }), "{refused:?}");
    for _ in 0..200 {
        if world.log(0).await.wal_epochs().count() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.log(0).await.wal_epochs().count(), 1, "the key in use stands there again");
    world.all_have(&[0], range(1, 16 * MIB, sent), segment(1)).await;
    // A hole in the WAL has to be recorded in the log.
    shipper.record_gap(range(1, 20 * MIB, 21 * MIB), GapReason::Other).await.unwrap();
    for _ in 0..200 {
        if world.log(0).await.wal_gaps().count() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let now = world.log(0).await;
    assert_eq!((now.wal_gaps().count(), now.entries().len()), (1, whole.entries().len() + 1), "readable, with the gap");
    let refused = follower.read_log(&world.region(0), whole.trust()).await.unwrap_err();
    assert!(matches!(*refused, LogError::Forked { .. } | LogError::RolledBack { .. }), "{refused:?}");
    shipper.stop(Duration::from_secs(10)).await;
}

/// The machine's clock, until it breaks.
#[derive(Debug, Default)]
struct BrokenClock(std::sync::atomic::AtomicBool);

impl Clock for BrokenClock {
    fn now(&self) -> UtcTime {
        assert!(!self.0.load(std::sync::atomic::Ordering::Relaxed), "as planned");
        SystemClock.now()
    }
}

#[tokio::test]
async fn a_part_of_the_shipper_that_dies_is_noticed() {
    let world = World::new(1).await;
    let clock = Arc::new(BrokenClock::default());
    let shipper =
        Shipper::start(world.settings(), vec![world.region(0)], Arc::clone(&clock) as Arc<dyn Clock>).await.unwrap();
    shipper.begin(at(1, 16 * MIB), segment(16)).unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(200), shipper.failed()).await.is_err(), "all is well");
    clock.0.store(true, std::sync::atomic::Ordering::Relaxed);
    offer(&shipper, 1, 16 * MIB, 16 * MIB + 100).await;
    let failed = tokio::time::timeout(Duration::from_secs(20), shipper.failed()).await;
    assert_eq!(failed.unwrap(), "sealing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_never_takes_the_place_of_slices_with_other_content() {
    let world = World::new(1).await;
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    let sent = offer(&shipper, 1, 16 * MIB, 16 * MIB + 5000).await;
    everywhere(&shipper, 1, sent).await;
    // Killed: the head knows nothing of the slices yet, and the next run finds them by listing.
    drop(shipper);
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    let mut other = wal(1, 16 * MIB, 16 * MIB + 6000).to_vec();
    other[2000] ^= 1;
    for _ in 0..2 {
        let changed = shipper.offer(at(1, 16 * MIB), Bytes::from(other.clone())).await;
        assert!(matches!(changed, Err(ShipError::Changed { .. })), "{changed:?}");
    }
    let sent = offer(&shipper, 1, 16 * MIB, 17 * MIB + 10).await;
    everywhere(&shipper, 1, sent).await;
    world.all_have(&[0], range(1, 16 * MIB, sent), segment(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_spool_has_lost_is_received_again_as_long_as_the_server_has_it() {
    let world = World::new(2).await;
    // A quorum of both, so that nothing is confirmed that one of them lacks.
    let settings = ShipSettings { wal_quorum: 2, ..world.settings() };
    let shipper = world.start(settings.clone()).await;
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    let sent = offer(&shipper, 1, 16 * MIB, 16 * MIB + 100).await;
    everywhere(&shipper, 1, sent).await;
    world.stores[1].add(puts_of_wal(Fault::Lost));
    let sent = offer(&shipper, 1, sent, 18 * MIB).await;
    eventually("the spool keeps it", async || world.spooled().len() >= 2).await;
    drop(shipper);
    // The disk loses what it was given.
    for name in world.spooled().into_iter().filter(|name| name.ends_with(".lbw")) {
        let path = world.spool().join(name);
        let length = usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap();
        std::fs::write(&path, vec![0; length]).unwrap();
    }
    let shipper = world.start(settings.clone()).await;
    world.stores[1].heal();
    let failed = tokio::time::timeout(Duration::from_secs(30), shipper.failed()).await;
    assert_eq!(failed.unwrap(), "upload into a region");
    drop(shipper);
    begun_again_until_everywhere(&world, &settings, 16 * MIB, sent).await;
    for region in 0..2 {
        assert_eq!(world.log(region).await.wal_gaps().count(), 0, "region {region} misses nothing");
    }
    world.all_have(&[0, 1], range(1, 16 * MIB, sent), segment(1)).await;
}

/// Region 1 got nothing from the second start on, and the spool holds what it lacks but not the files that `lost` names. Returns up to where WAL went.
async fn with_a_spool_that_has_lost(world: &World, lost: impl Fn(&str) -> bool) -> u64 {
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    let first = offer(&shipper, 1, 16 * MIB, 16 * MIB + 100).await;
    everywhere(&shipper, 1, first).await;
    drop(shipper);
    world.stores[1].add(Rule::always(Fault::Lost));
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    let sent = offer(&shipper, 1, 16 * MIB, 18 * MIB).await;
    until(&shipper, "the quorum and the spool", |now| now.confirmed == Some(at(1, sent))).await;
    eventually("the spool keeps it", async || world.spooled().len() >= 3).await;
    drop(shipper);
    let files = std::fs::read_dir(world.spool()).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(|path| lost(path.file_name().unwrap().to_str().unwrap())).collect();
    assert!(!files.is_empty(), "{:?}", world.spooled());
    files.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    world.stores[1].heal();
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn no_wal_goes_into_a_region_before_its_key_is_on_record_there() {
    let world = World::new(2).await;
    let sent = with_a_spool_that_has_lost(&world, |name| name.ends_with("-notice")).await;
    // WAL could go there, and its key cannot.
    world.stores[1].add(Rule { key_contains: "log/".to_owned(), ..puts_of_wal(Fault::Lost) });
    let shipper = world.start(world.settings()).await;
    let state = shipper.positions().regions[1].state.clone();
    assert!(
        matches!(&state, UploadState::Unknown { why: Some(why) } if why.contains("put the keys for WAL on record")),
        "{state:?}"
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let there = [world.objects(1, WalForm::Piece).await, world.objects(1, WalForm::Slice).await].concat();
    assert!(there.iter().all(|object| object.range.end.as_bytes() <= 16 * MIB + 100), "nobody could read {there:?}");
    world.stores[1].heal();
    shipper.begin(at(1, 18 * MIB), segment(1)).unwrap();
    let end = offer(&shipper, 1, sent, 19 * MIB).await;
    everywhere(&shipper, 1, end).await;
    world.all_have(&[0, 1], range(1, 16 * MIB, end), segment(1)).await;
    assert_eq!(world.log(1).await.wal_gaps().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_whose_key_nobody_has_any_more_does_not_count_as_stored() {
    let world = World::new(2).await;
    let is_of_keys = |name: &str| name.ends_with("-notice") || name.starts_with("epoch-");
    let sent = with_a_spool_that_has_lost(&world, is_of_keys).await;
    let end = 19 * MIB;
    begun_again_until_everywhere(&world, &world.settings(), sent, end).await;
    world.all_have(&[0], range(1, 16 * MIB, end), segment(1)).await;
    world.all_have(&[1], range(1, sent, end), segment(1)).await;
    let log = world.log(1).await;
    assert!(log.wal_gaps().count() > 0, "what region 1 lacks is on record there");
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_whose_key_nobody_has_any_more_is_received_again_as_long_as_the_server_has_it() {
    let world = World::new(1).await;
    let settings = world.settings();
    let shipper = world.start(settings.clone()).await;
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    let first = offer(&shipper, 1, 16 * MIB, 16 * MIB + 100).await;
    everywhere(&shipper, 1, first).await;
    drop(shipper);
    world.stores[0].add(puts_of_wal(Fault::Lost));
    let shipper = world.start(settings.clone()).await;
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    let sent = offer(&shipper, 1, 16 * MIB, 24 * MIB).await;
    eventually("the spool keeps it", async || world.spooled().len() >= 8).await;
    assert!(shipper.positions().confirmed.is_none_or(|told| told.lsn <= lsn(first)), "no region has it");
    drop(shipper);
    let lost = std::fs::read_dir(world.spool()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.ends_with("-notice") || name.starts_with("epoch-")
    });
    lost.for_each(|path| std::fs::remove_file(path).unwrap());
    world.stores[0].heal();
    begun_again_until_everywhere(&world, &settings, 16 * MIB, sent).await;
    world.all_have(&[0], range(1, 16 * MIB, sent), segment(1)).await;
    assert_eq!(world.log(0).await.wal_gaps().count(), 0);
}
