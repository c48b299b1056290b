use super::*;
use crate::contract::body;
use crate::memory::MemoryStore;
use crate::wrappers::counters::Metrics;
use crate::wrappers::faults::{Fault, Rule, WithFaults};
use crate::wrappers::hooks::{Hooks, Step, WithHooks};
use crate::wrappers::metrics::WithMetrics;

fn key(number: usize) -> ObjectKey {
    format!("k{number}").parse().unwrap()
}

fn lane(key: &str) -> Lane {
    if key.starts_with("data/") { Lane::Bulk } else { Lane::Urgent }
}

fn pack(number: usize) -> ObjectKey {
    format!("data/p{number}").parse().unwrap()
}

/// A piece of WAL that is too large to go with leases and records.
fn piece() -> crate::SealedBody {
    body(vec![0; (64 << 10) + 1])
}

fn slow(limits: Limits) -> (Arc<WithLimit>, Arc<WithFaults>, Arc<Metrics>) {
    let faults = Arc::new(WithFaults::new(Arc::new(MemoryStore::new())));
    faults.add(Rule::always(Fault::Slow(Duration::from_secs(1))));
    let metrics = Arc::<Metrics>::default();
    let clock = Arc::new(lifeboat_vocabulary::SystemClock);
    let counted = WithMetrics::new(faults.clone(), metrics.clone(), clock);
    (Arc::new(WithLimit::new(Arc::new(counted), limits, lane, Arc::default())), faults, metrics)
}

fn put_all(store: &Arc<WithLimit>, count: usize) -> Vec<tokio::task::JoinHandle<()>> {
    let put = |number| {
        let store = store.clone();
        tokio::spawn(async move {
            store.put(&key(number), piece(), PutMode::CreateOnly).await.unwrap();
        })
    };
    (0..count).map(put).collect()
}

#[tokio::test(start_paused = true)]
async fn no_more_requests_run_at_once_than_allowed() {
    let (store, _, metrics) = slow(Limits { concurrency: 3, bandwidth: None });
    let start = Instant::now();
    let tasks = put_all(&store, 9);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(metrics.snapshot().in_flight, 3);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    assert_eq!(metrics.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_request_gives_its_turn_back() {
    let (store, _, metrics) = slow(Limits { concurrency: 1, bandwidth: None });
    let tasks = put_all(&store, 2);
    tokio::time::sleep(Duration::from_millis(500)).await;
    tasks[0].abort();
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(metrics.snapshot().in_flight, 1, "the second one runs");
}

#[tokio::test(start_paused = true)]
async fn bytes_move_no_faster_than_allowed_in_both_directions() {
    let memory = Arc::new(MemoryStore::new());
    let rate = ByteCount::from_bytes(1 << 20);
    let store = WithLimit::new(memory, Limits { concurrency: 8, bandwidth: Some(rate) }, lane, Arc::default());
    let start = Instant::now();
    for number in 0..3 {
        store.put(&key(number), body(vec![0; 2 << 20]), PutMode::CreateOnly).await.unwrap();
    }
    assert_eq!(start.elapsed().as_secs(), 4, "the third begins when the first two had their time");
    for number in 0..2 {
        store.get(&key(number), ByteRange::WholeUpTo(rate.plus(rate))).await.unwrap();
    }
    assert_eq!(start.elapsed().as_secs(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_cut_short_before_its_bytes_move_gives_their_time_back() {
    for named in [key as fn(usize) -> ObjectKey, pack] {
        let rate = ByteCount::from_bytes(1 << 20);
        let limits = Limits { concurrency: 8, bandwidth: Some(rate) };
        let store = WithLimit::new(Arc::new(MemoryStore::new()), limits, lane, Arc::default());
        let start = Instant::now();
        store.put(&named(0), body(vec![0; 2 << 20]), PutMode::CreateOnly).await.unwrap();
        let (second, large) = (named(1), body(vec![0; 8 << 20]));
        let cut_short = store.put(&second, large, PutMode::CreateOnly);
        assert!(tokio::time::timeout(Duration::from_millis(500), cut_short).await.is_err());
        store.put(&named(2), piece(), PutMode::CreateOnly).await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 2, "only the first one had to be waited for");
    }
}

#[tokio::test(start_paused = true)]
async fn a_throttling_region_gets_fewer_requests_at_once_and_later_as_many_as_before() {
    let (store, faults, metrics) = slow(Limits { concurrency: 4, bandwidth: None });
    faults.heal();
    faults.add(Rule { count: 1, ..Rule::always(Fault::Throttled) });
    faults.add(Rule::always(Fault::Slow(Duration::from_secs(1))));
    assert!(store.head(&key(0)).await.is_err());
    let tasks = put_all(&store, 40);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(metrics.snapshot().in_flight, 2);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!((store.pieces.allowed(), store.pieces.free(), store.all.available_permits()), (4, 4, 4));
}

fn put_packs(store: &Arc<WithLimit>, numbers: std::ops::Range<usize>) -> Vec<tokio::task::JoinHandle<()>> {
    let put = |number| {
        let store = store.clone();
        tokio::spawn(async move {
            // One that fails is a part of the scene.
            drop(store.put(&pack(number), body("x"), PutMode::CreateOnly).await);
        })
    };
    numbers.map(put).collect()
}

async fn all(tasks: Vec<tokio::task::JoinHandle<()>>) {
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn bulk_data_begins_with_two_at_once_and_never_takes_the_last_turn() {
    let (store, _, metrics) = slow(Limits { concurrency: 4, bandwidth: None });
    let tasks = put_packs(&store, 0..40);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(metrics.snapshot().in_flight, 2);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(metrics.snapshot().in_flight, 3, "as many as the settings say, but one");
    let begun = Instant::now();
    store.put(&key(0), body("wal"), PutMode::CreateOnly).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_secs(1), "what is urgent waits for no pack");
    all(tasks).await;
    assert_eq!((store.bulk.allowed(), store.bulk.free(), store.all.available_permits()), (3, 3, 4));
}

#[tokio::test(start_paused = true)]
async fn a_region_with_one_turn_still_takes_everything() {
    let (store, _, metrics) = slow(Limits { concurrency: 1, bandwidth: None });
    let tasks = put_packs(&store, 0..3);
    store.put(&key(0), body("wal"), PutMode::CreateOnly).await.unwrap();
    all(tasks).await;
    assert_eq!(metrics.snapshot().total().requests, 4);
}

#[tokio::test(start_paused = true)]
async fn after_time_outs_fewer_packs_go_at_once_and_later_more_again() {
    let (store, faults, _) = slow(Limits { concurrency: 8, bandwidth: None });
    all(put_packs(&store, 0..20)).await;
    assert_eq!(store.bulk.allowed(), 7);
    faults.heal();
    faults.add(Rule::always(Fault::TimedOut(Duration::from_secs(60))));
    all(put_packs(&store, 20..27)).await;
    assert_eq!(store.bulk.allowed(), 3, "seven that were begun together are one reason");
    all(put_packs(&store, 27..30)).await;
    assert_eq!(store.bulk.allowed(), 1);
    all(put_packs(&store, 30..33)).await;
    assert_eq!((store.bulk.allowed(), store.pieces.allowed()), (1, 8), "one goes on, and what is urgent has all turns");
    faults.heal();
    all(put_packs(&store, 33..70)).await;
    assert_eq!((store.bulk.allowed(), store.bulk.free()), (7, 7));
}

#[tokio::test(start_paused = true)]
async fn where_packs_take_long_fewer_go_at_once_although_none_fails() {
    let (store, faults, _) = slow(Limits { concurrency: 8, bandwidth: None });
    all(put_packs(&store, 0..20)).await;
    faults.heal();
    faults.add(Rule::always(Fault::Slow(Duration::from_secs(20))));
    all(put_packs(&store, 20..40)).await;
    assert_eq!(store.bulk.allowed(), 7, "neither quick nor slow");
    faults.heal();
    faults.add(Rule::always(Fault::Slow(Duration::from_secs(40))));
    all(put_packs(&store, 40..60)).await;
    assert_eq!(store.bulk.allowed(), 1);
}

#[tokio::test(start_paused = true)]
async fn with_the_least_bandwidth_urgent_bytes_go_before_bulk_data_that_waits_and_no_time_out_counts_the_wait() {
    let memory = Arc::new(MemoryStore::new());
    let least = ByteCount::from_bytes(64 << 10);
    let store = WithLimit::new(memory, Limits { concurrency: 8, bandwidth: Some(least) }, lane, Arc::default());
    let store = Arc::new(store);
    let begun = Instant::now();
    let packs = (0..3).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            let operation = Transfer::begin();
            let key = pack(number);
            let put = store.put(&key, body(vec![0; 16 << 20]), PutMode::CreateOnly);
            operation.carry(put).await.unwrap();
            operation.active(Instant::now())
        })
    });
    let packs: Vec<_> = packs.collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let urgent = Instant::now();
    store.put(&key(0), body(vec![0; 64 << 10]), PutMode::CreateOnly).await.unwrap();
    assert_eq!(urgent.elapsed(), Duration::ZERO);
    for pack in packs {
        assert_eq!(pack.await.unwrap(), Duration::ZERO, "nothing but our own limit took time");
    }
    assert!(begun.elapsed() >= Duration::from_secs(512), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn large_pieces_of_wal_go_one_after_the_other_where_the_line_is_slow() {
    let (store, faults, _) = slow(Limits { concurrency: 8, bandwidth: None });
    faults.heal();
    faults.add(Rule::always(Fault::Slow(Duration::from_secs(100))));
    all(put_all(&store, 30)).await;
    assert_eq!((store.pieces.allowed(), store.bulk.allowed(), store.all.available_permits()), (1, 2, 8));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_beside_many_large_pieces_of_wal() {
    for concurrency in [1, 8] {
        let (store, faults, metrics) = slow(Limits { concurrency, bandwidth: None });
        faults.heal();
        faults.add(Rule { key_contains: "k".to_owned(), ..Rule::always(Fault::Slow(Duration::from_secs(300))) });
        let pieces = put_all(&store, 40);
        tokio::time::sleep(Duration::from_secs(700)).await;
        assert!(metrics.snapshot().in_flight <= concurrency.into());
        let begun = Instant::now();
        let lease: ObjectKey = "state/lease".parse().unwrap();
        let version = store.put(&lease, body("ours"), PutMode::CreateOnly).await.unwrap().version;
        store.put(&lease, body("still ours"), PutMode::IfUnchanged(version)).await.unwrap();
        store.get(&lease, ByteRange::WholeUpTo(ByteCount::from_mib(1))).await.unwrap();
        store.list("log/", None).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO, "{concurrency} at once");
        pieces.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_does_not_wait_for_the_bandwidth_that_pieces_of_wal_have_booked() {
    let rate = ByteCount::from_bytes(64 << 10);
    let memory = Arc::new(MemoryStore::new());
    let store =
        Arc::new(WithLimit::new(memory, Limits { concurrency: 8, bandwidth: Some(rate) }, lane, Arc::default()));
    let begun = Instant::now();
    let pieces: Vec<_> = (0..3)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                store.put(&key(number), body(vec![0; 16 << 20]), PutMode::CreateOnly).await.unwrap();
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.put(&key(9), body(vec![0; 64 << 10]), PutMode::CreateOnly).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_secs(1));
    all(pieces).await;
    assert_eq!(begun.elapsed(), Duration::from_secs(512));
    store.put(&key(10), piece(), PutMode::CreateOnly).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_secs(769), "its second is booked all the same");
}

#[tokio::test(start_paused = true)]
async fn a_region_that_throttles_wal_leaves_a_turn_for_it_beside_packs() {
    let (store, faults, metrics) = slow(Limits { concurrency: 8, bandwidth: None });
    all(put_packs(&store, 0..20)).await;
    assert_eq!(store.bulk.allowed(), 7);
    faults.heal();
    faults.add(Rule { key_contains: "k".to_owned(), ..Rule::always(Fault::Throttled) });
    faults.add(Rule::always(Fault::Slow(Duration::from_secs(20))));
    for number in 0..6 {
        assert!(store.put(&key(number), piece(), PutMode::CreateOnly).await.is_err());
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert_eq!((store.pieces.allowed(), store.bulk.allowed()), (1, 1), "it asks for less of everything");
    faults.heal();
    faults.add(Rule { key_contains: "data/".to_owned(), ..Rule::always(Fault::Slow(Duration::from_secs(20))) });
    let packs = put_packs(&store, 20..40);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(metrics.snapshot().in_flight, 1);
    let begun = Instant::now();
    store.put(&key(10), piece(), PutMode::CreateOnly).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO, "no pack has the turn of WAL");
    packs.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_cut_off_by_a_deadline_says_that_fewer_should_go_at_once() {
    let (store, faults, _) = slow(Limits { concurrency: 8, bandwidth: None });
    faults.heal();
    faults.add(Rule::always(Fault::Slow(Duration::from_secs(3600))));
    let name = key(0);
    for (seconds, allowed) in [(20, 8), (300, 4), (300, 2), (300, 1)] {
        let put = store.put(&name, piece(), PutMode::CreateOnly);
        tokio::time::timeout(Duration::from_secs(seconds), put).await.unwrap_err();
        assert_eq!((store.pieces.allowed(), store.all.available_permits()), (allowed, 8), "after {seconds} s");
    }
}

#[tokio::test(start_paused = true)]
async fn where_every_answer_comes_late_more_packs_go_at_once_all_the_same() {
    struct Late;
    #[async_trait]
    impl Hooks for Late {
        async fn before(&self, _: crate::wrappers::hooks::Request<'_>) -> Step {
            let request = Transfer::begin();
            request.took(1 << 20);
            request.sent();
            tokio::time::sleep(Duration::from_secs(20)).await;
            request.came(0);
            Step::Pass
        }
    }
    let late = Arc::new(WithHooks::new(Arc::new(MemoryStore::new()), Late));
    let limits = Limits { concurrency: 8, bandwidth: None };
    let store = Arc::new(WithLimit::new(late, limits, lane, Arc::default()));
    all(put_packs(&store, 0..20)).await;
    assert_eq!(store.bulk.allowed(), 7);
}

#[tokio::test(start_paused = true)]
async fn bulk_data_that_was_held_back_says_nothing_about_how_fast_it_goes() {
    struct Sends;
    #[async_trait]
    impl Hooks for Sends {
        async fn before(&self, request: crate::wrappers::hooks::Request<'_>) -> Step {
            let transfer = Transfer::begin();
            if request.key() == "data/p2" {
                let hold = transfer.hold();
                tokio::time::sleep(Duration::from_secs(10)).await;
                drop(hold);
            } else {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Step::Pass
        }
    }
    let precedence = Arc::<Precedence>::default();
    let sends = Arc::new(WithHooks::new(Arc::new(MemoryStore::new()), Sends));
    let limits = Limits { concurrency: 8, bandwidth: None };
    let store = WithLimit::new(sends, limits, lane, Arc::clone(&precedence));
    let put = async |number| {
        store.put(&pack(number), body(vec![0; 64 << 10]), PutMode::CreateOnly).await.unwrap();
    };
    put(1).await;
    let _held_up = precedence.set_out(Transfer::begin());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let quarter = store.pace.wait(16 << 10);
    assert_eq!(quarter, Some(Duration::from_millis(750)), "of 64 KiB/s");
    put(2).await;
    assert_eq!(store.pace.wait(16 << 10), quarter, "our own pauses are no speed");
}
