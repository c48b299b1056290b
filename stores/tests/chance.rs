//! Whatever goes wrong by chance, an answer of the stack is true.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_stores::contract::body;
use lifeboat_stores::{
    ByteRange, Chance, Fault, Lane, Limits, MemoryStore, OBJECT_BYTES_MAX, ObjectKey, PutMode, RandomJitter,
    RetryPolicy, StackOptions, Store, StoreError, WithFaults, standard_stack,
};

const ALL: ByteRange = ByteRange::WholeUpTo(OBJECT_BYTES_MAX);
const SEEDS: u64 = 1000;

/// A writer with its own bad line to the one store.
fn line(memory: &Arc<MemoryStore>, seed: u64) -> Arc<dyn Store> {
    let faults = vec![Fault::Lost, Fault::AnswerLost, Fault::Throttled, Fault::Slow(Duration::from_secs(2))];
    let store = WithFaults::new(memory.clone());
    store.chance(Chance { seed, per_mille: 400, faults });
    let limits = Limits { concurrency: 4, bandwidth: None };
    let options = StackOptions {
        limits,
        retry: RetryPolicy::default(),
        jitter: Arc::new(RandomJitter),
        lane: |_| Lane::Urgent,
        precedence: Arc::default(),
    };
    standard_stack(Arc::new(store), options).store
}

#[tokio::test(start_paused = true)]
async fn with_bad_connections_each_of_two_writers_learns_who_won() {
    let (mut wins, mut losses, mut unknown) = (0, 0, 0);
    for seed in 1..=SEEDS {
        let memory = Arc::new(MemoryStore::new());
        let key: ObjectKey = "log/00000000000000000001.note".parse().unwrap();
        let (a, b) = (line(&memory, seed), line(&memory, seed ^ 0xFFFF_0000));
        let (a, b) = tokio::join!(
            a.put(&key, body("writer a"), PutMode::CreateOnly),
            b.put(&key, body("writer b"), PutMode::CreateOnly),
        );
        let found = memory.get(&key, ALL).await.ok();
        for (result, own) in [(a, "writer a"), (b, "writer b")] {
            let ours = found.as_ref().is_some_and(|found| found == own);
            match result {
                Ok(outcome) => {
                    assert!(ours, "seed {seed}: {own} got Ok, and {found:?} is there");
                    assert_eq!(outcome.version, memory.head(&key).await.unwrap().version, "seed {seed}");
                    wins += 1;
                }
                Err(StoreError::Conflict { .. }) => {
                    assert!(!ours && found.is_some(), "seed {seed}: {own} got Conflict, and {found:?} is there");
                    losses += 1;
                }
                Err(error) => {
                    assert!(error.is_transient(), "seed {seed}: {error:?}");
                    unknown += 1;
                }
            }
        }
    }
    assert!(wins > SEEDS / 2 && losses > SEEDS / 2 && unknown > 0, "chance was too kind: {wins} {losses} {unknown}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_never_taken_twice_over_bad_connections() {
    for seed in 1..=SEEDS {
        let memory = Arc::new(MemoryStore::new());
        let key: ObjectKey = "state/lease.json".parse().unwrap();
        let before = memory.put(&key, body("free"), PutMode::CreateOnly).await.unwrap().version;
        let takers: Vec<_> = (0..3_u64).map(|number| (number, line(&memory, seed * 7 + number))).collect();
        let mut owners = 0;
        for (number, store) in takers {
            let own = body(format!("taker {number}"));
            if store.put(&key, own.clone(), PutMode::IfUnchanged(before.clone())).await.is_ok() {
                owners += 1;
                assert_eq!(memory.get(&key, ALL).await.unwrap(), own.bytes, "seed {seed}");
            }
        }
        assert!(owners <= 1, "seed {seed}: {owners} owners");
    }
}
