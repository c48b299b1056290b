//! Logs that grow, are rolled back, forked, forgotten, and regions that hang.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lifeboat_repository::format::layout::StoredName;
use lifeboat_repository::log::KeepsLogs;
use lifeboat_repository::log::records::RecordBody;
use lifeboat_stores::{Hooks, Metrics, Operation, Request, Step, WithHooks, WithMetrics};
use tokio::sync::Notify;

use super::*;
use crate::log_samples::{Regions, backup};
use crate::regions::kept_logs::KeptLogs;

async fn two_regions_with_backups() -> Regions {
    let mut regions = Regions::new(&["a", "b"]).await;
    for name in ["a", "b"] {
        for day in 1..4 {
            add(&mut regions, name, day).await;
        }
    }
    regions
}

async fn add(regions: &mut Regions, name: &str, day: u32) {
    let time = format!("2026-11-{day:02}T02:00:00Z");
    regions.append(name, &time, RecordBody::Backup(Box::new(backup(&time, 1)))).await;
}

fn trust(regions: &Regions, name: &str) -> LogTrust {
    regions.logs[&name.parse().unwrap()].trust().clone()
}

async fn remove_last(region: &RegionStore, log: &RegionLog) {
    let last = StoredName::LogNote { seq: log.head().unwrap().seq };
    region.store.delete(&last.key()).await.unwrap();
}

#[tokio::test]
async fn a_log_is_published_as_it_was_read_and_every_reader_gets_the_same_one() {
    let mut regions = two_regions_with_backups().await;
    let (a, trust) = (regions.stores[0].clone(), trust(&regions, "a"));
    let follower = LogFollower::default();
    let mut changes = follower.changes();
    let first = follower.read_log(&a, &trust).await.unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let published = follower.latest().remove(&a.name).unwrap();
    assert_eq!(published.log.head(), first.head());
    assert!(Arc::ptr_eq(&published.log, &first));

    add(&mut regions, "a", 4).await;
    assert_eq!(follower.latest()[&a.name].log.head(), first.head(), "nobody has looked");
    let second = follower.read_log(&a, &trust).await.unwrap();
    assert_eq!(second.head(), regions.logs[&a.name].head());
    assert!(Arc::ptr_eq(&follower.latest()[&a.name].log, &second));
    assert_eq!(follower.current().keys().collect::<Vec<_>>(), [&a.name], "the other one was never read");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_has_lost_a_record_in_its_middle_is_refused_once_it_is_compared() {
    let regions = two_regions_with_backups().await;
    let (a, trust) = (regions.stores[0].clone(), trust(&regions, "a"));
    let follower = LogFollower::default();
    assert_eq!(follower.compare_notes(&a, 0, 100).await.unwrap(), None, "nothing was read");
    let whole = follower.read_log(&a, &trust).await.unwrap();
    assert_eq!(follower.compare_notes(&a, 0, 2).await.unwrap(), Some(2));
    a.store.delete(&StoredName::LogNote { seq: 2 }.key()).await.unwrap();
    assert!(follower.read_log(&a, &trust).await.is_ok(), "it still ends where it ended");
    assert!(follower.compare_notes(&a, 0, 2).await.is_ok());
    let lost = follower.compare_notes(&a, 2, 100).await.unwrap_err();
    assert!(matches!(*lost, LogError::RolledBack { found: 2, .. }), "{lost}");
    assert!(!follower.has_changed(&a.name), "it may be an old answer");
    tokio::time::sleep(Duration::from_secs(600)).await;
    follower.compare_notes(&a, 2, 100).await.unwrap_err();
    assert!(follower.has_changed(&a.name) && follower.current().is_empty());
    assert!(follower.read_log(&a, &trust).await.is_err() && follower.has_changed(&a.name));
    let now = follower.read_log_even_if_changed(&a, &trust).await.unwrap();
    assert!(now.places() < whole.places(), "as it is now, for WAL");
    follower.forget(&a.name);
    assert_eq!(follower.read_log(&a, &trust).await.unwrap().places(), now.places(), "a person has accepted it");
}

#[tokio::test]
async fn a_rolled_back_log_is_refused_to_all_until_it_is_forgotten_but_wal_may_go_on() {
    let regions = two_regions_with_backups().await;
    let (a, trust) = (regions.stores[0].clone(), trust(&regions, "a"));
    let follower = LogFollower::default();
    let whole = follower.read_log(&a, &trust).await.unwrap();
    remove_last(&a, &whole).await;
    for _ in 0..2 {
        let refused = follower.read_log(&a, &trust).await.unwrap_err();
        assert!(matches!(*refused, LogError::RolledBack { .. }), "{refused:?}");
        let known = follower.latest().remove(&a.name).unwrap();
        assert_eq!(known.log.head(), whole.head(), "the last good one stays");
        assert!(follower.has_changed(&a.name));
        assert!(follower.current().is_empty(), "nobody judges by it");
        let now = follower.read_log_even_if_changed(&a, &trust).await.unwrap();
        assert_eq!(now.entries().len() + 1, whole.entries().len());
    }
    let (names, forgets) = ([a.name.clone()], follower.forgets());
    assert!(follower.has_tried(names.iter()));
    follower.forget(&a.name);
    assert!(follower.latest().is_empty() && !follower.has_tried(names.iter()) && forgets.has_changed().unwrap());
    let now = follower.read_log(&a, &trust).await.unwrap();
    assert_eq!(now.entries().len() + 1, whole.entries().len());
    assert_eq!(follower.current().len(), 1);
}

#[tokio::test]
async fn a_forked_log_is_refused_until_it_is_forgotten() {
    let mut regions = two_regions_with_backups().await;
    let (a, trust) = (regions.stores[0].clone(), trust(&regions, "a"));
    let follower = LogFollower::default();
    let whole = follower.read_log(&a, &trust).await.unwrap();
    remove_last(&a, &whole).await;
    let fork = RegionLog::read(&*a.store, trust.clone()).await.unwrap();
    regions.logs.insert(a.name.clone(), fork);
    for day in 8..12 {
        add(&mut regions, "a", day).await;
    }
    let refused = follower.read_log(&a, &trust).await.unwrap_err();
    assert!(matches!(*refused, LogError::Forked { .. }), "{refused:?}");
    follower.forget(&a.name);
    assert_eq!(follower.read_log(&a, &trust).await.unwrap().head(), regions.logs[&a.name].head());
}

#[tokio::test]
async fn a_region_that_does_not_answer_keeps_its_last_log_and_costs_the_others_nothing() {
    let mut regions = two_regions_with_backups().await;
    let (hang, released) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let hangs = Hangs { hang: Arc::clone(&hang), released: Arc::clone(&released) };
    let [mut a, b] = [0, 1].map(|index| regions.stores[index].clone());
    a.store = Arc::new(WithHooks::new(Arc::clone(&a.store), hangs));
    let trusts = ["a", "b"].map(|name| trust(&regions, name));
    let follower = Arc::new(LogFollower::default());
    follower.read_log(&a, &trusts[0]).await.unwrap();
    hang.store(true, Ordering::SeqCst);
    let reading = tokio::spawn({
        let (follower, a, trust) = (Arc::clone(&follower), a.clone(), trusts[0].clone());
        async move { follower.read_log(&a, &trust).await }
    });
    tokio::task::yield_now().await;
    add(&mut regions, "b", 4).await;
    let other = tokio::time::timeout(Duration::from_secs(20), follower.read_log(&b, &trusts[1])).await.unwrap();
    assert_eq!(other.unwrap().head(), regions.logs[&b.name].head());
    assert_eq!(follower.latest().len(), 2);
    hang.store(false, Ordering::SeqCst);
    released.notify_one();
    reading.await.unwrap().unwrap();
}

/// A store that hangs while it is told to.
struct Hangs {
    hang: Arc<AtomicBool>,
    released: Arc<Notify>,
}

#[async_trait::async_trait]
impl Hooks for Hangs {
    async fn before(&self, _: Request<'_>) -> Step {
        if self.hang.load(Ordering::SeqCst) {
            self.released.notified().await;
        }
        Step::Pass
    }
}

#[tokio::test]
async fn a_look_costs_two_requests_however_long_the_log_is() {
    let regions = two_regions_with_backups().await;
    let (mut a, trust) = (regions.stores[0].clone(), trust(&regions, "a"));
    let metrics = Arc::<Metrics>::default();
    a.store = Arc::new(WithMetrics::new(Arc::clone(&a.store), Arc::clone(&metrics), Arc::new(SystemClock)));
    let requests = || Operation::ALL.iter().map(|operation| metrics.snapshot().of(*operation).requests).sum::<u64>();
    let follower = LogFollower::default();
    follower.read_log(&a, &trust).await.unwrap();
    let whole = requests();
    for _ in 0..3 {
        follower.read_log(&a, &trust).await.unwrap();
    }
    assert_eq!(requests() - whole, 3 * 2);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_lacks_a_record_is_read_from_nothing_for_wal_once_and_not_at_each_look() {
    let (regions, trust) = with_many_backups().await;
    let (mut a, metrics) = (regions.stores[0].clone(), Arc::<Metrics>::default());
    a.store = Arc::new(WithMetrics::new(Arc::clone(&a.store), Arc::clone(&metrics), Arc::new(SystemClock)));
    let requests = || Operation::ALL.iter().map(|operation| metrics.snapshot().of(*operation).requests).sum::<u64>();
    let follower = LogFollower::default();
    follower.read_log(&a, &trust).await.unwrap();
    a.store.delete(&StoredName::LogNote { seq: 50 }.key()).await.unwrap();
    for _ in 0..2 {
        follower.compare_notes(&a, 0, 100).await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
    let before = requests();
    assert_eq!(follower.read_log_even_if_changed(&a, &trust).await.unwrap().places(), 50);
    assert!(requests() - before >= 50, "all of it");
    let before = requests();
    for _ in 0..3 {
        assert_eq!(follower.read_log_even_if_changed(&a, &trust).await.unwrap().places(), 50);
    }
    assert!(requests() - before < 20, "what is new");
    a.store.delete(&StoredName::LogNote { seq: 49 }.key()).await.unwrap();
    let now = follower.read_log_even_if_changed(&a, &trust).await.unwrap();
    assert_eq!(now.places(), 49, "it has changed once more");
}

#[tokio::test]
async fn an_emptied_region_is_no_log_that_wal_can_go_on_in() {
    let regions = two_regions_with_backups().await;
    let (a, trust) = (regions.stores[0].clone(), trust(&regions, "a"));
    let follower = LogFollower::default();
    let whole = follower.read_log(&a, &trust).await.unwrap();
    for seq in 0..whole.entries().len() as u64 {
        a.store.delete(&StoredName::LogNote { seq }.key()).await.unwrap();
    }
    let refused = follower.read_log_even_if_changed(&a, &trust).await.unwrap_err();
    assert!(matches!(*refused, LogError::RolledBack { .. }), "{refused:?}");
}

/// A store that takes so long for each request.
struct Slow(Duration);

#[async_trait::async_trait]
impl Hooks for Slow {
    async fn before(&self, _: Request<'_>) -> Step {
        tokio::time::sleep(self.0).await;
        Step::Pass
    }
}

/// A store that answers one request after the other.
struct Trickles(tokio::sync::Mutex<()>);

#[async_trait::async_trait]
impl Hooks for Trickles {
    async fn before(&self, request: Request<'_>) -> Step {
        if request.operation() == Operation::Get {
            let _turn = self.0.lock().await;
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        Step::Pass
    }
}

async fn with_many_backups() -> (Regions, LogTrust) {
    let mut regions = Regions::new(&["a"]).await;
    for number in 0..60 {
        let time = format!("2026-11-20T02:{number:02}:00Z");
        regions.append("a", &time, RecordBody::Backup(Box::new(backup(&time, 1)))).await;
    }
    let trust = trust(&regions, "a");
    (regions, trust)
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_read_on_is_waited_for_and_one_that_hangs_is_not() {
    let (regions, trust) = with_many_backups().await;
    let mut slow = regions.stores[0].clone();
    slow.store = Arc::new(WithHooks::new(Arc::clone(&slow.store), Slow(Duration::from_secs(1))));
    let (follower, begun, patience) = (LogFollower::default(), Instant::now(), Duration::from_secs(5));
    let read = follower.while_reading([&slow.name], patience, follower.read_log(&slow, &trust)).await;
    assert_eq!(read.unwrap().unwrap().entries().len(), 61);
    assert!(begun.elapsed() > patience, "{:?}", begun.elapsed());

    let mut hung = regions.stores[0].clone();
    hung.store = Arc::new(WithHooks::new(Arc::clone(&hung.store), Slow(Duration::from_secs(3600))));
    let (follower, begun) = (LogFollower::default(), Instant::now());
    let read = follower.while_reading([&hung.name], patience, follower.read_log(&hung, &trust)).await;
    assert_eq!(read.unwrap_err().to_string(), "no answer within 5 s");
    assert_eq!(begun.elapsed(), patience);
    // One that gives a record every four seconds does not get on either.
    let mut trickles = regions.stores[0].clone();
    trickles.store = Arc::new(WithHooks::new(Arc::clone(&trickles.store), Trickles(tokio::sync::Mutex::default())));
    let (follower, begun) = (LogFollower::default(), Instant::now());
    let read = follower.while_reading([&trickles.name], patience, follower.read_log(&trickles, &trust)).await;
    assert!(read.is_err() && begun.elapsed() == patience, "{:?}", begun.elapsed());
    // What hung is asked again by the next one, who gets an answer.
    assert!(follower.read_log(&regions.stores[0], &trust).await.is_ok());
}

#[tokio::test]
async fn what_was_read_is_kept_over_a_restart_in_the_state_directory() {
    let (mut regions, trust) = with_many_backups().await;
    let directory = tempfile::tempdir().unwrap();
    let (mut a, metrics) = (regions.stores[0].clone(), Arc::<Metrics>::default());
    a.store = Arc::new(WithMetrics::new(Arc::clone(&a.store), Arc::clone(&metrics), Arc::new(SystemClock)));
    let gets = || metrics.snapshot().of(Operation::Get).requests;
    let restarted = || {
        let follower = LogFollower::default();
        follower.keep_in(directory.path());
        follower
    };
    restarted().read_log(&a, &trust).await.unwrap();
    assert!(gets() >= 61);
    // Nobody waits for the disk but this test.
    while KeptLogs::in_directory(directory.path()).load(&a.name).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    add(&mut regions, "a", 25).await;
    let before = gets();
    let log = restarted().read_log(&a, &trust).await.unwrap();
    assert_eq!(log.entries(), regions.logs[&a.name].entries());
    assert_eq!(gets() - before, 2, "its end, and the new record");
    // Another log under the same name: what was kept is of no use.
    let other = Regions::new(&["a"]).await;
    let read = restarted().read_log(&other.stores[0], &self::trust(&other, "a")).await.unwrap();
    assert_eq!(read.entries(), other.logs[&a.name].entries());
}
