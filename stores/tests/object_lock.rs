//! Buckets with Object Lock: what is locked stays, what is not goes with all its versions.

mod support;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_s3_testd::{Bucket, Config, Deny, KeyPattern, Moto, Operation, Server};
use lifeboat_stores::contract::body;
use lifeboat_stores::{
    ByteRange, OBJECT_BYTES_MAX, ObjectKey, ObjectLock, PutMode, StackOptions, Store, StoreError, open, standard_stack,
};
use lifeboat_vocabulary::{Clock, SystemClock, UtcTime};

const ALL: ByteRange = ByteRange::WholeUpTo(OBJECT_BYTES_MAX);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn key(text: &str) -> ObjectKey {
    text.parse().expect("a key")
}

fn in_days(days: u32) -> UtcTime {
    SystemClock.now().plus(DAY * days)
}

async fn store(endpoint: &str, object_lock: ObjectLock) -> Arc<dyn Store> {
    let mut settings = support::region(endpoint, "");
    settings.object_lock = object_lock;
    open(&settings).await.expect("a store")
}

fn server(bucket: Bucket) -> Server {
    Server::start(Config { buckets: vec![bucket], page_size: 2, ..Config::default() }).expect("a server")
}

async fn create(store: &Arc<dyn Store>, name: &str, content: &'static str) {
    store.put(&key(name), body(content), PutMode::CreateOnly).await.expect("written");
}

#[tokio::test]
async fn a_locked_object_goes_when_its_lock_has_ended_and_not_before() {
    for mode in [ObjectLock::Governance, ObjectLock::Compliance] {
        let server = server(Bucket::locked("lifeboat"));
        let store = store(&server.url(), mode).await;
        create(&store, "a", "kept").await;
        assert_eq!(store.retained_until(&key("a")).await.unwrap(), None);
        let until = in_days(10);
        store.retain(&key("a"), until).await.unwrap();
        let held = store.retained_until(&key("a")).await.unwrap().unwrap();
        assert!(held >= until && held.since(until) <= Duration::from_secs(1), "{held} for {until}");

        let refused = store.delete(&key("a")).await.unwrap_err();
        let StoreError::Locked { key: locked, until: Some(told) } = &refused else { panic!("{refused:?}") };
        assert_eq!((locked, *told), (&key("a"), held));
        assert_eq!(store.get(&key("a"), ALL).await.unwrap(), "kept", "it is not even hidden");

        server.faults().change(|plan| plan.retention_clock_ahead = DAY * 11);
        store.delete(&key("a")).await.unwrap();
        assert!(matches!(store.get(&key("a"), ALL).await, Err(StoreError::NotFound { .. })));
        store.delete(&key("a")).await.expect("deleting is repeatable");
    }
}

#[tokio::test]
async fn a_lock_is_only_ever_extended_and_asks_nothing_where_it_lasts_long_enough() {
    let server = server(Bucket::locked("lifeboat"));
    let store = store(&server.url(), ObjectLock::Compliance).await;
    create(&store, "a", "x").await;
    let (long, longer) = (in_days(20), in_days(30));
    store.retain(&key("a"), long).await.unwrap();
    let held = store.retained_until(&key("a")).await.unwrap();
    let before = server.count(Operation::PutObjectRetention);
    store.retain(&key("a"), in_days(5)).await.expect("it lasts longer already");
    store.retain(&key("a"), long).await.unwrap();
    assert_eq!(store.retained_until(&key("a")).await.unwrap(), held);
    assert_eq!(server.count(Operation::PutObjectRetention), before);
    store.retain(&key("a"), longer).await.unwrap();
    assert!(store.retained_until(&key("a")).await.unwrap() > held);
    assert!(matches!(store.retain(&key("b"), long).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn what_is_deleted_leaves_no_version_and_no_marker_behind() {
    let server = server(Bucket::locked("lifeboat"));
    let locking = store(&server.url(), ObjectLock::Governance).await;
    let plain = store(&server.url(), ObjectLock::Off).await;
    for round in 0..3 {
        create(&locking, "a", "x").await;
        create(&locking, "ab", "neighbour").await;
        if round < 2 {
            // A store that does not know of the lock only hides.
            plain.delete(&key("a")).await.unwrap();
            plain.delete(&key("ab")).await.unwrap();
        }
    }
    locking.delete(&key("a")).await.unwrap();
    let versions = server.count(Operation::DeleteObject);
    locking.delete(&key("a")).await.unwrap();
    assert_eq!(server.count(Operation::DeleteObject), versions, "nothing of it is left to delete");
    assert_eq!(locking.get(&key("ab"), ALL).await.unwrap(), "neighbour");
}

#[tokio::test]
async fn a_role_without_the_right_is_not_taken_for_a_lock() {
    let server = server(Bucket::locked("lifeboat"));
    let store = store(&server.url(), ObjectLock::Governance).await;
    create(&store, "a", "x").await;
    let deny = Deny { operation: Operation::DeleteObject, keys: KeyPattern::any() };
    server.faults().change(|plan| plan.deny.push(deny));
    let refused = store.delete(&key("a")).await.unwrap_err();
    assert!(matches!(refused, StoreError::Misconfigured { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_region_without_locks_says_so() {
    let server = server(Bucket::plain("lifeboat"));
    let off = store(&server.url(), ObjectLock::Off).await;
    create(&off, "a", "x").await;
    assert!(matches!(off.retain(&key("a"), in_days(1)).await, Err(StoreError::Unsupported { .. })));
    assert_eq!(off.retained_until(&key("a")).await.unwrap(), None);
    let mistaken = store(&server.url(), ObjectLock::Governance).await;
    assert!(mistaken.retain(&key("a"), in_days(1)).await.is_err(), "the bucket has no Object Lock");
    assert!(off.get(&key("a"), ALL).await.is_ok());
}

#[tokio::test]
async fn wrappers_pass_locks_on_and_a_lock_is_no_failure() {
    let server = server(Bucket::locked("lifeboat"));
    let bare = store(&server.url(), ObjectLock::Governance).await;
    let stack = standard_stack(bare, StackOptions::with_short_pauses(2));
    create(&stack.store, "a", "x").await;
    stack.store.retain(&key("a"), in_days(2)).await.unwrap();
    assert!(stack.store.retained_until(&key("a")).await.unwrap().is_some());
    for _ in 0..5 {
        assert!(matches!(stack.store.delete(&key("a")).await, Err(StoreError::Locked { .. })));
    }
    let snapshot = stack.metrics.snapshot();
    assert_eq!(snapshot.of(lifeboat_stores::Operation::Delete).errors, 0);
    assert_eq!(stack.breaker.state(), lifeboat_stores::BreakerState::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_agrees_about_locks() {
    let moto = tokio::task::spawn_blocking(|| Moto::start("lifeboat")).await.unwrap().unwrap();
    // Its bucket has no Object Lock: what matters is that nothing is taken for locked or deleted that is not.
    let store = store(&moto.url(), ObjectLock::Governance).await;
    create(&store, "a", "x").await;
    assert!(store.retain(&key("a"), in_days(1)).await.is_err());
    store.delete(&key("a")).await.unwrap();
    assert!(matches!(store.get(&key("a"), ALL).await, Err(StoreError::NotFound { .. })));
    assert!(store.put(&key("a"), body(Bytes::from("again")), PutMode::CreateOnly).await.is_ok());
    // In one that has it a lock is taken and extended: the answer is empty, and has the type of a page.
    let address = moto.url().trim_start_matches("http://").trim_end_matches('/').to_owned();
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    let request = format!(
        "PUT /locked HTTP/1.1\r\nHost: {address}\r\nx-amz-bucket-object-lock-enabled: true\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut settings = support::region_in("locked", &moto.url(), "");
    settings.object_lock = ObjectLock::Governance;
    let store = open(&settings).await.expect("a store");
    create(&store, "a", "x").await;
    for until in [in_days(1), in_days(2)] {
        store.retain(&key("a"), until).await.unwrap();
        assert!(store.retained_until(&key("a")).await.unwrap() >= Some(until));
    }
}
