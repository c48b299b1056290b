use super::*;
use crate::contract::body;
use crate::memory::MemoryStore;
use crate::wrappers::counters::Metrics;
use crate::wrappers::faults::{Fault, Rule, WithFaults};
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

fn slow(limits: Limits) -> (Arc<WithLimit>, Arc<WithFaults>, Arc<Metrics>) {
    let faults = Arc::new(WithFaults::new(Arc::new(MemoryStore::new())));
    faults.add(Rule::always(Fault::Slow(Duration::from_secs(1))));
    let metrics = Arc::<Metrics>::default();
    let clock = Arc::new(lifeboat_vocabulary::SystemClock);
    let counted = WithMetrics::new(faults.clone(), metrics.clone(), clock);
    (Arc::new(WithLimit::new(Arc::new(counted), limits, lane)), faults, metrics)
}

fn put_all(store: &Arc<WithLimit>, count: usize) -> Vec<tokio::task::JoinHandle<()>> {
    let put = |number| {
        let store = store.clone();
        tokio::spawn(async move {
            store.put(&key(number), body("x"), PutMode::CreateOnly).await.unwrap();
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
    let store = WithLimit::new(memory, Limits { concurrency: 8, bandwidth: Some(rate) }, lane);
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
    assert_eq!((store.all.allowed(), store.all.free()), (4, 4));
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
    assert_eq!((store.bulk.allowed(), store.bulk.free(), store.all.free()), (3, 3, 4));
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
    assert_eq!((store.bulk.allowed(), store.all.allowed()), (1, 8), "one goes on, and what is urgent has all turns");
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
    let store = WithLimit::new(memory, Limits { concurrency: 8, bandwidth: Some(least) }, lane);
    let store = Arc::new(store);
    let begun = Instant::now();
    let packs = (0..3).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            let operation = Transfer::operation();
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
    assert_eq!((store.urgent.allowed(), store.bulk.allowed(), store.all.allowed()), (1, 2, 8));
}
