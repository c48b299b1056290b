//! Tests of writing bundles.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lifeboat_stores::{Hooks, MemoryStore, Operation, Request, Step, WithHooks};
use lifeboat_vocabulary::SystemClock;

use super::*;
use crate::log::records::trust::CopyRecord;
use crate::samples;
use crate::samples::long_log::{LongLog, backup, pruner, put, writer};

fn bundler(signer: &NoteSigner) -> BundleWriter<'_> {
    BundleWriter::new(signer, &SystemClock, "test").with_records(10, 4)
}

async fn stored(store: &MemoryStore) -> Vec<(u64, u64)> {
    let listed = store.list(layout::BUNDLES_PREFIX, None).await.unwrap().entries;
    let places = listed.iter().map(|entry| match layout::parse(&entry.key) {
        Some(StoredName::LogBundle { first, last, .. }) => (first, last),
        other => panic!("{other:?}"),
    });
    places.collect()
}

#[tokio::test]
async fn records_are_bundled_once_and_only_where_there_are_enough() {
    let (long, signer) = (LongLog::with_records(33).await, pruner());
    let mut log = long.read().await;
    let written = bundler(&signer).write_due(&*long.store, &mut log, &mut ReadSingly::default()).await.unwrap();
    assert_eq!(written, BundlesWritten { new: 3, again: 0, left: 0 });
    assert_eq!(stored(&long.store).await, [(0, 9), (10, 19), (20, 29)]);
    assert_eq!(recorded(&log).count(), 3);
    assert_eq!(log.entries().len(), 36);
    let written = bundler(&signer).write_due(&*long.store, &mut log, &mut ReadSingly::default()).await.unwrap();
    assert_eq!(written, BundlesWritten::default(), "six records are no bundle");
    for entry in log.entries() {
        assert!(!matches!(entry.record.body, RecordBody::Void { .. }), "{entry:?}");
    }
}

#[tokio::test]
async fn a_key_that_may_not_say_so_writes_nothing() {
    let (long, signer) = (LongLog::with_records(33).await, writer());
    let mut log = long.read().await;
    let written = bundler(&signer).write_due(&*long.store, &mut log, &mut ReadSingly::default()).await.unwrap();
    assert_eq!(written, BundlesWritten::default());
    assert_eq!((stored(&long.store).await, log.entries().len()), (Vec::new(), 33));
    let root = samples::signer();
    assert_eq!(bundler(&root).write_due(&*long.store, &mut log, &mut ReadSingly::default()).await.unwrap().new, 3);
}

/// Fails the writing of records, or of bundles.
struct FailPuts {
    of: &'static str,
    fails: AtomicBool,
}

#[async_trait::async_trait]
impl Hooks for FailPuts {
    async fn before(&self, request: Request<'_>) -> Step {
        let is_it = request.operation() == Operation::Put && request.key().ends_with(self.of);
        if is_it && self.fails.load(Ordering::SeqCst) {
            return Step::Fail(StoreError::Transient { doing: "write".to_owned(), source: "reset".into() });
        }
        Step::Pass
    }
}

#[tokio::test]
async fn a_crash_before_or_after_the_object_leaves_a_log_that_is_read_and_bundled_later() {
    for (of, objects) in [(".bundle", 0), (".note", 1)] {
        let (long, signer) = (LongLog::with_records(23).await, pruner());
        let fails = FailPuts { of, fails: AtomicBool::new(true) };
        let store = WithHooks::new(Arc::clone(&long.store) as Arc<dyn Store>, fails);
        let mut log = long.read().await;
        bundler(&signer).write_due(&store, &mut log, &mut ReadSingly::default()).await.unwrap_err();
        assert_eq!(stored(&long.store).await.len(), objects, "{of}");
        let mut log = long.read().await;
        assert_eq!(log.entries().len(), 23);
        let written = bundler(&signer).write_due(&*long.store, &mut log, &mut ReadSingly::default()).await.unwrap();
        assert_eq!((written.new, written.again), (2, 0));
        assert_eq!(stored(&long.store).await, [(0, 9), (10, 19)], "what the crash has left is used");
        assert_eq!(recorded(&log).count(), 2);
    }
}

#[tokio::test]
async fn a_bundle_that_is_gone_or_cut_is_written_again_without_another_record() {
    let (long, signer) = (LongLog::with_records(33).await, pruner());
    let mut log = long.read().await;
    bundler(&signer).write_due(&*long.store, &mut log, &mut ReadSingly::default()).await.unwrap();
    let before = long.store.list(layout::BUNDLES_PREFIX, None).await.unwrap().entries;
    long.store.delete(&before[0].key).await.unwrap();
    long.store.delete(&before[1].key).await.unwrap();
    put(&long.store, &before[1].key, Bytes::from_static(b"LBN1")).await;
    let records = log.entries().len();
    let written = bundler(&signer).write_due(&*long.store, &mut log, &mut ReadSingly::default()).await.unwrap();
    assert_eq!(written, BundlesWritten { new: 0, again: 2, left: 0 });
    assert_eq!(log.entries().len(), records);
    let after = long.store.list(layout::BUNDLES_PREFIX, None).await.unwrap().entries;
    let sizes = |entries: &[lifeboat_stores::Entry]| {
        entries.iter().map(|entry| (entry.key.clone(), entry.meta.size)).collect::<Vec<_>>()
    };
    assert_eq!(sizes(&after), sizes(&before));
    // Where nobody may replace anything, new ones are written all the same.
    long.store.delete(&before[1].key).await.unwrap();
    put(&long.store, &before[1].key, Bytes::from_static(b"LBN1")).await;
    let refuse = |request: &Request<'_>| match request {
        Request::Put { mode: PutMode::IfUnchanged(_), .. } => {
            let (doing, advice) = ("write".to_owned(), "allow it".to_owned());
            Step::Fail(StoreError::Misconfigured { doing, advice, source: "not allowed".into() })
        }
        _ => Step::Pass,
    };
    let store = WithHooks::new(Arc::clone(&long.store) as Arc<dyn Store>, refuse);
    for number in 100..110 {
        let draft = Draft { origin: Origin { wseq: number, ..samples::origin(0) }, body: backup(number) };
        log.append(&*long.store, &samples::signer(), &draft).await.unwrap();
    }
    let written = bundler(&signer).write_due(&store, &mut log, &mut ReadSingly::default()).await.unwrap();
    assert_eq!(written, BundlesWritten { new: 1, again: 0, left: 1 });
}

#[tokio::test]
async fn a_bundle_that_is_damaged_within_is_found_when_its_turn_comes() {
    let (long, signer) = (LongLog::with_records(33).await, pruner());
    let mut log = long.read().await;
    bundler(&signer).write_due(&*long.store, &mut log, &mut ReadSingly::default()).await.unwrap();
    let second = long.store.list(layout::BUNDLES_PREFIX, None).await.unwrap().entries.swap_remove(1);
    let whole = ByteRange::WholeUpTo(second.meta.size);
    let mut object = long.store.get(&second.key, whole).await.unwrap().to_vec();
    *object.last_mut().unwrap() ^= 1;
    long.store.delete(&second.key).await.unwrap();
    put(&long.store, &second.key, object.into()).await;
    let written = bundler(&signer).write_due(&*long.store, &mut log, &mut ReadSingly::default()).await.unwrap();
    assert_eq!(written, BundlesWritten::default(), "names and sizes are right");
    let mut again = Vec::new();
    for turn in 0..6 {
        again.push(bundler(&signer).check_one(&*long.store, &mut log, turn).await.unwrap().again);
    }
    assert_eq!(again, [0, 1, 0, 0, 0, 0]);
    assert_eq!(log.entries().len(), 36, "it has its record");
    let mut empty = LongLog::begun().await.read().await;
    assert_eq!(bundler(&signer).check_one(&*long.store, &mut empty, 7).await.unwrap(), BundlesWritten::default());
}

#[tokio::test]
async fn a_record_that_is_not_what_was_read_is_not_bundled() {
    let (long, signer) = (LongLog::with_records(12).await, pruner());
    let mut log = long.read().await;
    let mut other = long.clone();
    (other.next, other.prev) = (5, log.at(4).map(|entry| entry.sha256));
    let forged = other.note(&writer(), backup(99));
    long.store.delete(&layout::log_note(5)).await.unwrap();
    put(&long.store, &layout::log_note(5), forged).await;
    let error = bundler(&signer).write_due(&*long.store, &mut log, &mut ReadSingly::default()).await.unwrap_err();
    assert!(matches!(error, BundleWriteError::Log(LogError::Forked { seq: 5, .. })), "{error}");
    assert_eq!(stored(&long.store).await, []);
}

#[tokio::test]
async fn records_that_are_too_large_together_make_smaller_bundles() {
    let (mut long, signer) = (LongLog::begun().await, pruner());
    for _ in 0..20 {
        let copy = CopyRecord { note: "x".repeat(900_000) };
        long.say(&pruner(), RecordBody::Copy(copy)).await;
    }
    let mut log = long.read().await;
    bundler(&signer).write_due(&*long.store, &mut log, &mut ReadSingly::default()).await.unwrap();
    assert_eq!(stored(&long.store).await, [(0, 9), (10, 18)]);
    assert_eq!(long.read().await.entries(), log.entries());
}

#[tokio::test]
async fn a_bundle_that_somebody_has_made_up_keeps_nobody_from_writing_others() {
    let (mut long, signer) = (LongLog::with_records(16).await, pruner());
    put(&long.store, &layout::log_note(16), Bytes::from_static(b"junk")).await;
    long.next = 17;
    long.grow_to(45).await;
    // With a hole; up to the very end; another content.
    for (first, last) in [(10, 20), (44, 45), (30, 33)] {
        let made_up = BundleRecord { first, last, sha256: samples::digest(1), bytes: ByteCount::from_bytes(7) };
        long.say(&signer, RecordBody::Bundle(made_up)).await;
    }
    long.grow_to(80).await;
    let mut log = long.read().await;
    let written = bundler(&signer).write_due(&*long.store, &mut log, &mut ReadSingly::default()).await.unwrap();
    assert_eq!((written.again, written.left), (2, 0), "what was said to be bundled is bundled");
    let stored = stored(&long.store).await;
    for places in [(0, 9), (10, 15), (17, 26), (34, 43), (46, 55)] {
        assert!(stored.contains(&places), "{places:?} of {stored:?}");
    }
}

#[tokio::test]
async fn nobody_says_that_he_has_read_a_log_whose_notes_are_not_there() {
    let (long, signer) = (LongLog::with_records(33).await, pruner());
    let mut log = long.read().await;
    // Its reader would not have noticed, with bundles.
    long.store.delete(&layout::log_note(31)).await.unwrap();
    let mut read = ReadSingly::default();
    let error = bundler(&signer).write_due(&*long.store, &mut log, &mut read).await.unwrap_err();
    assert!(matches!(error, BundleWriteError::Log(LogError::RolledBack { found: 31, .. })), "{error}");
    assert_eq!((stored(&long.store).await, log.entries().len()), (Vec::new(), 33));
}

/// Counts what is read of the notes.
fn counting(store: &Arc<MemoryStore>) -> (impl Store + use<>, Arc<std::sync::atomic::AtomicU64>) {
    let count = Arc::<std::sync::atomic::AtomicU64>::default();
    let counter = Arc::clone(&count);
    let hook = move |request: &Request<'_>| {
        if request.operation() == Operation::Get && request.key().starts_with("log/0") {
            counter.fetch_add(1, Ordering::SeqCst);
        }
        Step::Pass
    };
    (WithHooks::new(Arc::clone(store) as Arc<dyn Store>, hook), count)
}

#[tokio::test]
async fn a_log_is_read_singly_once_and_then_behind_what_this_key_has_signed() {
    let (mut long, signer) = (LongLog::with_records(600).await, pruner());
    let bundler = |records| BundleWriter::new(&signer, &SystemClock, "test").with_records(records, records);
    let (store, count) = counting(&long.store);
    let mut log = long.read().await;
    let mut read = ReadSingly::default();
    bundler(600).write_due(&store, &mut log, &mut read).await.unwrap();
    let first = count.swap(0, Ordering::SeqCst);
    assert!(first >= 1200, "once to read it, once to put it together: {first}");
    (long.next, long.prev) = (log.places(), log.head().map(|head| head.sha256));
    long.grow_to(650).await;
    let mut log = long.read().await;
    // Another process, with the same key.
    bundler(20).write_due(&store, &mut log, &mut ReadSingly::default()).await.unwrap();
    let second = count.load(Ordering::SeqCst);
    assert!(second < 200, "{second}");
}
