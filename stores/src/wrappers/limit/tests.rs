use super::*;
use crate::contract::body;
use crate::memory::MemoryStore;
use crate::wrappers::counters::Metrics;
use crate::wrappers::faults::{Fault, Rule, WithFaults};
use crate::wrappers::metrics::WithMetrics;

fn key(number: usize) -> ObjectKey {
    format!("k{number}").parse().unwrap()
}

fn slow(limits: Limits) -> (Arc<WithLimit>, Arc<WithFaults>, Arc<Metrics>) {
    let faults = Arc::new(WithFaults::new(Arc::new(MemoryStore::new())));
    faults.add(Rule::always(Fault::Slow(Duration::from_secs(1))));
    let metrics = Arc::<Metrics>::default();
    let clock = Arc::new(lifeboat_vocabulary::SystemClock);
    let counted = WithMetrics::new(faults.clone(), metrics.clone(), clock);
    (Arc::new(WithLimit::new(Arc::new(counted), limits)), faults, metrics)
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
    let store = WithLimit::new(memory, Limits { concurrency: 8, bandwidth: Some(rate) });
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

#[test]
fn throttling_halves_the_turns_and_success_gives_them_back_one_by_one() {
    let mut flow = Flow { allowed: 8, owed: 0, successes: 0, halved: None };
    let start = Instant::now();
    flow.throttled(start);
    flow.throttled(start + Duration::from_millis(10));
    assert_eq!((flow.allowed, flow.owed), (4, 4), "one burst of refusals is one reason");
    flow.throttled(start + Duration::from_secs(1));
    flow.throttled(start + Duration::from_secs(2));
    flow.throttled(start + Duration::from_secs(3));
    assert_eq!((flow.allowed, flow.owed), (1, 7), "one turn always remains");
    assert_eq!(flow.succeeded(8), Change::None);
    assert_eq!((flow.allowed, flow.owed), (2, 6), "a permit that was to vanish stays");
    flow.owed = 0;
    assert_eq!((flow.succeeded(8), flow.succeeded(8)), (Change::None, Change::OneMore));
    assert_eq!(flow.allowed, 3);
    flow.allowed = 8;
    for _ in 0..100 {
        assert_eq!(flow.succeeded(8), Change::None, "never more than the settings allow");
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
    assert_eq!(store.flow.lock().allowed, 4);
    assert_eq!(store.permits.available_permits(), 4);
}
