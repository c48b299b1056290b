//! Regions that fail or lag, and are excluded.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_stores::{
    Breaker, FAILURES_TO_OPEN, Fault, Lane, Limits, MemoryStore, ObjectKey, Operation, PutMode, Rule, SealedBody,
    Store, WithBreaker, WithFaults, WithLimit,
};
use lifeboat_vocabulary::{ByteCount, RegionName};
use tokio_util::sync::CancellationToken;

use crate::backup::progress::Progress;
use crate::backup::write::upload::{BufferPermit, ExclusionReason, UploadHub, UploadSettings};
use crate::format::aead::sha256;
use crate::format::ids::ObjectId;
use crate::format::layout;
use crate::log::region_store::RegionStore;

const LAG_LIMIT: Duration = Duration::from_secs(4);

fn name(text: &str) -> RegionName {
    text.parse().unwrap()
}

fn region(text: &str, rules: Vec<Rule>) -> (RegionStore, Arc<MemoryStore>) {
    let memory = Arc::new(MemoryStore::default());
    let store = Arc::new(WithFaults::new(Arc::clone(&memory) as Arc<dyn Store>));
    rules.into_iter().for_each(|rule| store.add(rule));
    (RegionStore { name: name(text), store }, memory)
}

fn hub(regions: Vec<RegionStore>, stop: &CancellationToken) -> Arc<UploadHub> {
    let settings = UploadSettings { concurrency: 2, lag_limit: LAG_LIMIT, objects_in_flight: 64 };
    UploadHub::start(regions, settings, Arc::new(Progress::default()), stop.clone())
}

fn submit(hub: &UploadHub, count: u32, permits: &(async_channel::Sender<()>, async_channel::Receiver<()>)) {
    for number in 0..count {
        permits.1.try_recv().unwrap();
        let key: ObjectKey = format!("data/p{number}").parse().unwrap();
        let bytes = Bytes::from(vec![7; 1000]);
        let body = SealedBody { sha256: sha256(&bytes), bytes };
        hub.submit(&key, body, BufferPermit::new(permits.0.clone()));
    }
}

fn permits(count: usize) -> (async_channel::Sender<()>, async_channel::Receiver<()>) {
    let (back, out) = async_channel::bounded(count);
    (0..count).for_each(|_| back.try_send(()).unwrap());
    (back, out)
}

async fn count(store: &MemoryStore) -> usize {
    store.list("", None).await.unwrap().entries.len()
}

#[tokio::test(start_paused = true)]
async fn every_object_reaches_every_region_and_every_permit_is_returned() {
    let ((a, in_a), (b, in_b)) = (region("a", vec![]), region("b", vec![]));
    let hub = hub(vec![a, b], &CancellationToken::new());
    let permits = permits(16);
    submit(&hub, 16, &permits);
    hub.close();
    hub.drained(&name("a")).await.unwrap();
    hub.drained(&name("b")).await.unwrap();
    assert_eq!((count(&in_a).await, count(&in_b).await), (16, 16));
    assert_eq!(permits.1.len(), 16);
}

#[tokio::test(start_paused = true)]
async fn a_region_that_fails_midway_is_excluded_and_the_other_one_is_complete() {
    let dead = Rule { skip: 5, ..Rule::always(Fault::Denied) };
    let ((a, _), (b, in_b)) = (region("a", vec![dead]), region("b", vec![]));
    let hub = hub(vec![a, b], &CancellationToken::new());
    let permits = permits(16);
    submit(&hub, 16, &permits);
    hub.close();
    let reason = hub.drained(&name("a")).await.unwrap_err();
    assert!(matches!(reason, ExclusionReason::Upload { .. }), "{reason:?}");
    hub.drained(&name("b")).await.unwrap();
    assert_eq!(count(&in_b).await, 16);
    assert_eq!(permits.1.len(), 16, "what the dead region held is free again");
}

#[tokio::test(start_paused = true)]
async fn a_region_that_is_left_alone_takes_the_next_backup_as_soon_as_it_is_back() {
    // While the pause goes on, and long after it.
    for later in [Duration::ZERO, Duration::from_secs(3600)] {
        let memory = Arc::new(MemoryStore::default());
        let faults = Arc::new(WithFaults::new(Arc::clone(&memory) as Arc<dyn Store>));
        let store = Arc::new(WithBreaker::new(Arc::clone(&faults) as Arc<dyn Store>, Breaker::new(), |_| Lane::Bulk));
        faults.add(Rule::always(Fault::Lost));
        for _ in 0..FAILURES_TO_OPEN {
            store.list("", None).await.unwrap_err();
        }
        faults.heal();
        tokio::time::sleep(later).await;
        // The first pack finds out, and takes its time.
        faults.add(Rule::always(Fault::Slow(Duration::from_secs(20))));
        let hub = hub(vec![RegionStore { name: name("a"), store }], &CancellationToken::new());
        let permits = permits(4);
        submit(&hub, 4, &permits);
        hub.close();
        hub.drained(&name("a")).await.unwrap();
        assert_eq!(permits.1.len(), 4);
        faults.heal();
        assert_eq!(count(&memory).await, 4);
    }
}

#[tokio::test(start_paused = true)]
async fn a_region_that_alone_lags_is_excluded() {
    let slow = Rule::always(Fault::Slow(Duration::from_secs(3600)));
    let ((a, _), (b, in_b)) = (region("a", vec![slow]), region("b", vec![]));
    let hub = hub(vec![a, b], &CancellationToken::new());
    let permits = permits(16);
    submit(&hub, 16, &permits);
    hub.close();
    let begun = tokio::time::Instant::now();
    let reason = hub.drained(&name("a")).await.unwrap_err();
    assert!(matches!(reason, ExclusionReason::Lagged { limit: LAG_LIMIT, .. }), "{reason:?}");
    assert!(begun.elapsed() < 2 * LAG_LIMIT);
    hub.drained(&name("b")).await.unwrap();
    assert_eq!(count(&in_b).await, 16);
}

/// Uploads for so long, with four objects under way at the most; returns how many regions take part then.
async fn keep_uploading(hub: &UploadHub, bytes: usize, time: Duration) -> usize {
    let permits = permits(4);
    let upload = async {
        for number in 0.. {
            permits.1.recv().await.unwrap();
            let key: ObjectKey = format!("data/p{number}").parse().unwrap();
            let bytes = Bytes::from(vec![7; bytes]);
            let body = SealedBody { sha256: sha256(&bytes), bytes };
            hub.submit(&key, body, BufferPermit::new(permits.0.clone()));
            // What was read of a database takes time, too: without a slow region nothing else would let any pass.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    assert!(tokio::time::timeout(time, upload).await.is_err(), "it goes on for ever");
    hub.taking_part()
}

#[tokio::test(start_paused = true)]
async fn a_region_that_holds_up_the_others_is_excluded_however_small_the_packs_are() {
    // Its oldest object is never older than two seconds.
    let ((a, _), (b, _)) = (narrow("a", 1), region("b", vec![]));
    let hub = hub(vec![a, b], &CancellationToken::new());
    assert_eq!(keep_uploading(&hub, 1000, 3 * LAG_LIMIT).await, 1);
    assert!(matches!(hub.take_reasons().as_slice(), [(_, ExclusionReason::Lagged { .. })]));
}

#[tokio::test(start_paused = true)]
async fn a_region_that_our_own_limits_hold_back_is_not_excluded_for_lagging() {
    let limits = Limits { concurrency: 8, bandwidth: Some(ByteCount::from_bytes(64 << 10)) };
    let limited = WithLimit::new(Arc::new(MemoryStore::default()), limits, |_| Lane::Bulk, Arc::default());
    let a = RegionStore { name: name("a"), store: Arc::new(limited) };
    let hub = hub(vec![a, region("b", vec![]).0], &CancellationToken::new());
    assert_eq!(keep_uploading(&hub, 64 << 10, 10 * LAG_LIMIT).await, 2);
}

#[tokio::test(start_paused = true)]
async fn when_all_regions_are_slow_none_is_excluded() {
    let slow = || vec![Rule { operation: Some(Operation::Put), ..Rule::always(Fault::Slow(2 * LAG_LIMIT)) }];
    let ((a, in_a), (b, in_b)) = (region("a", slow()), region("b", slow()));
    let hub = hub(vec![a, b], &CancellationToken::new());
    submit(&hub, 4, &permits(4));
    hub.close();
    hub.drained(&name("a")).await.unwrap();
    hub.drained(&name("b")).await.unwrap();
    assert_eq!((count(&in_a).await, count(&in_b).await), (4, 4));
}

/// A region whose objects take so long, one after the other, as on a line that others share.
fn narrow(text: &str, seconds: u64) -> (RegionStore, Arc<MemoryStore>) {
    region(
        text,
        vec![Rule { operation: Some(Operation::Put), ..Rule::always(Fault::Slow(Duration::from_secs(seconds))) }],
    )
}

#[tokio::test(start_paused = true)]
async fn of_two_regions_that_share_a_slow_line_the_later_one_is_not_excluded() {
    // One has everything when the other one still has half of it to take: it lags, and no fault of its own makes it.
    let ((a, in_a), (b, in_b)) = (narrow("a", 2), narrow("b", 4));
    let hub = hub(vec![a, b], &CancellationToken::new());
    submit(&hub, 16, &permits(16));
    hub.close();
    hub.drained(&name("a")).await.unwrap();
    hub.drained(&name("b")).await.unwrap();
    assert_eq!((count(&in_a).await, count(&in_b).await), (16, 16));
}

#[tokio::test(start_paused = true)]
async fn packs_become_small_where_a_region_is_slow() {
    let (a, _) = narrow("a", 20);
    let hub = hub(vec![a], &CancellationToken::new());
    let (least, most) = (320 << 10, 16 << 20);
    assert_eq!(hub.pack_bytes(least, most), 4 << 20, "nothing is known yet");
    submit(&hub, 4, &permits(4));
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(hub.pack_bytes(least, most), 1 << 20);
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_uploads_that_would_take_for_ever() {
    let stop = CancellationToken::new();
    let (a, _) = region("a", vec![Rule::always(Fault::Slow(Duration::from_secs(1 << 20)))]);
    let hub = hub(vec![a], &stop);
    submit(&hub, 4, &permits(4));
    hub.close();
    stop.cancel();
    assert!(hub.drained(&name("a")).await.is_err(), "an upload that was cut short is not complete");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_somebody_else_has_taken_excludes_the_region_and_our_own_does_not() {
    let backup = "20261120T020003Z-5f1c09ab".parse().unwrap();
    let (index, pack) = (layout::index_shard(&backup, 0), layout::pack(&backup, 0, ObjectId::from_bytes([9; 16])));
    for (key, there, is_done) in [
        (&index, &b"junk"[..], false),
        (&index, &[7; 1000], true),
        (&index, &[7; 1001], false),
        (&pack, &[7; 999], false),
        // Never read: one of our own first attempts is known by the retries, and comes no further than them.
        (&pack, &[7; 1000], false),
    ] {
        let ((a, in_a), permits) = (region("a", vec![]), permits(1));
        let body = |bytes: &[u8]| SealedBody { sha256: sha256(bytes), bytes: Bytes::copy_from_slice(bytes) };
        in_a.put(key, body(there), PutMode::CreateOnly).await.unwrap();
        let hub = hub(vec![a], &CancellationToken::new());
        permits.1.try_recv().unwrap();
        hub.submit(key, body(&[7; 1000]), BufferPermit::new(permits.0.clone()));
        hub.close();
        match hub.drained(&name("a")).await {
            Ok(()) => assert!(is_done, "{key} of {} bytes", there.len()),
            Err(ExclusionReason::Taken { key: taken }) => assert_eq!((is_done, &taken), (false, key)),
            Err(other) => panic!("{key}: {other:?}"),
        }
    }
}
