//! Tests of logs that are read by bundles.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lifeboat_stores::{Hooks, MemoryStore, Operation, Request, Step, WithHooks};
use lifeboat_vocabulary::{Sha256Digest, SystemClock};

use super::*;
use crate::log::bundle::writing::{BundleWriter, ReadSingly};
use crate::log::note;
use crate::log::records::bundle::BundleRecord;
use crate::log::records::care::AuditRecord;
use crate::log::records::trust::CopyRecord;
use crate::samples;
use crate::samples::long_log::{LongLog, backup, far_away, pruner, put, revocation, writer};
use crate::samples::wal::trust;

/// Makes bundles of ten records of everything that can be bundled.
async fn bundle_all(log: &LongLog) -> LongLog {
    let (signer, mut read) = (pruner(), log.read().await);
    let bundler = BundleWriter::new(&signer, &SystemClock, "test").with_records(10, 4);
    bundler.write_due(&*log.store, &mut read, &mut ReadSingly::default()).await.unwrap();
    let mut log = log.clone();
    (log.next, log.prev) = (read.places(), read.head().map(|head| head.sha256));
    log
}

async fn put_bundle_record(log: &mut LongLog, by: &note::NoteSigner, name: &StoredName) {
    let StoredName::LogBundle { first, last, sha256 } = *name else { panic!("{name:?}") };
    log.say(by, RecordBody::Bundle(BundleRecord { first, last, sha256, bytes: ByteCount::from_bytes(1) })).await;
}

/// Bundles of ten records are taken, and nothing but their last notes is read singly.
const ANY: BundleRules = BundleRules { records_least: 0, notes_least: 4, samples: 0 };

async fn read_with(store: &dyn Store, rules: BundleRules) -> RegionLog {
    let mut reading = LogReading::new(RegionLog::unread(trust("eu-1"), LogLimits::default())).with_rules(rules);
    reading.go_on(store).await.unwrap();
    reading.into_log()
}

/// What a reader finds that looks at no bundles.
async fn read_singly(store: &MemoryStore) -> RegionLog {
    let mut log = RegionLog::unread(trust("eu-1"), LogLimits::default());
    log.look_ahead(store).await.unwrap();
    log
}

/// A reader finds by bundles exactly what it finds without; returns how many records were not read one by one.
async fn check(log: &LongLog) -> u64 {
    check_with(log, ANY).await
}

async fn check_with(log: &LongLog, rules: BundleRules) -> u64 {
    let (store, _) = far_away(Arc::clone(&log.store) as Arc<dyn Store>, Duration::ZERO);
    let singles = Arc::new(Singles::default());
    let counted = WithHooks::new(store, CountSingles(Arc::clone(&singles)));
    let read = read_with(&counted, rules).await;
    let singly = read_singly(&log.store).await;
    assert_eq!(read.entries(), singly.entries());
    assert_eq!(read.trust().signers, singly.trust().signers);
    let outside =
        |log: &RegionLog| log.outside().iter().map(|outside| (outside.seq, outside.sha256)).collect::<Vec<_>>();
    assert_eq!(outside(&read), outside(&singly));
    assert_eq!(read.next_place(), singly.next_place());
    singly.next_place().saturating_sub(singles.0.lock().len() as u64)
}

/// The places that were read one by one.
#[derive(Default)]
struct Singles(parking_lot::Mutex<std::collections::BTreeSet<String>>);

struct CountSingles(Arc<Singles>);

#[async_trait::async_trait]
impl Hooks for CountSingles {
    async fn before(&self, request: Request<'_>) -> Step {
        if matches!(request, Request::Get { .. })
            && request.key().ends_with(".note")
            && request.key().starts_with("log/")
        {
            self.0.0.lock().insert(request.key().to_owned());
        }
        Step::Pass
    }
}

#[tokio::test]
async fn a_log_is_read_by_its_bundles_and_says_the_same_as_without() {
    let log = bundle_all(&LongLog::with_records(57).await).await;
    // Of six bundles the last note each is compared, and what stands behind them is read.
    assert_eq!(check(&log).await, 6 * 9);
    let mut grown = log.clone();
    grown.grow_to(100).await;
    let grown = bundle_all(&grown).await;
    assert!(check(&grown).await >= 9 * 9);
}

#[tokio::test]
async fn an_old_log_without_bundles_is_read_record_by_record() {
    assert_eq!(check(&LongLog::with_records(40).await).await, 0);
}

#[tokio::test]
async fn junk_among_the_bundles_costs_time_and_nothing_else() {
    let log = bundle_all(&LongLog::with_records(40).await).await;
    let honest = check(&log).await;
    let notes = log.notes(0, 9).await;
    // Under a name that says another content; no bundle at all; records of other places; a bundle that ends elsewhere.
    let wrong = StoredName::LogBundle { first: 0, last: 9, sha256: samples::digest(0) };
    put(&log.store, &wrong.key(), Bytes::from_static(b"junk")).await;
    let junk = StoredName::LogBundle { first: 0, last: 8, sha256: sha256(b"junk") };
    put(&log.store, &junk.key(), Bytes::from_static(b"junk")).await;
    log.bundle_of(1, &notes).await;
    log.bundle_of(0, &notes[..5]).await;
    let huge = StoredName::LogBundle { first: 0, last: u64::MAX, sha256: samples::digest(1) };
    put(&log.store, &huge.key(), Bytes::from_static(b"junk")).await;
    assert!(check(&log).await >= honest - 10);
}

#[tokio::test]
async fn so_much_junk_that_nobody_looks_for_bundles_any_more_hides_nothing() {
    let log = LongLog::with_records(40).await;
    for byte in 0..=u8::try_from(TRIED_IN_VAIN_MAX).unwrap() {
        let content = Bytes::from(vec![byte]);
        let name = StoredName::LogBundle { first: 10, last: 30, sha256: sha256(&content) };
        put(&log.store, &name.key(), content).await;
    }
    assert_eq!(check(&bundle_all(&log).await).await, 9, "the first bundle alone");
}

#[tokio::test]
async fn a_bundle_that_is_gone_or_damaged_is_passed_over() {
    let log = bundle_all(&LongLog::with_records(50).await).await;
    let page = log.store.list(layout::BUNDLES_PREFIX, None).await.unwrap();
    let (second, third) = (&page.entries[1].key, &page.entries[2].key);
    log.store.delete(second).await.unwrap();
    assert_eq!(check(&log).await, 4 * 9);
    log.store.delete(third).await.unwrap();
    put(&log.store, third, Bytes::new()).await;
    assert_eq!(check(&log).await, 3 * 9);
}

#[tokio::test]
async fn a_bundle_counts_only_if_a_record_says_so_whose_key_may() {
    let mut log = LongLog::with_records(12).await;
    let name = log.bundle_of(0, &log.notes(0, 9).await).await;
    assert_eq!(check(&log).await, 0, "a crash came before its record");
    put_bundle_record(&mut log, &writer(), &name).await;
    assert_eq!(check(&log).await, 0, "a writer says so");
    put_bundle_record(&mut log, &pruner(), &name).await;
    assert_eq!(check(&log).await, 9);
}

/// An audit record whose note has so many bytes.
fn audit_of_size(log: &mut LongLog, by: &note::NoteSigner, size: usize) -> Bytes {
    let audit = |reason: usize, owner: usize| {
        let (reason, owner) = ("x".repeat(reason), "y".repeat(owner));
        RecordBody::Audit(AuditRecord { action: "pause".to_owned(), subject: None, reason, owner, expires: None })
    };
    let more = size - log.clone().note(by, audit(1, 1)).len();
    let reason = more.min(499);
    let note = log.note(by, audit(1 + reason, 1 + more - reason));
    assert_eq!(note.len(), size);
    note
}

/// A history that nobody has stored: another record at place `at`, where the log ends, and one behind it, which lies at the next place
/// and follows nothing; with a bundle of both and everything before them. Returns it, to be gone on with.
async fn made_up(log: &LongLog, at: u64, by: &note::NoteSigner) -> LongLog {
    let mut made_up = log.clone();
    (made_up.next, made_up.prev) = (at, Some(sha256(&log.notes(at - 1, at - 1).await[0])));
    let mut notes = log.notes(0, at - 1).await;
    // As large as what lies there.
    for size in [log.notes(at, at).await[0].len(), 700] {
        let note = audit_of_size(&mut made_up, by, size);
        made_up.goes_on_behind(&note);
        notes.push(note);
    }
    put(&log.store, &layout::log_note(at + 1), notes[notes.len() - 1].clone()).await;
    made_up.bundle_of(0, &notes).await;
    made_up
}

/// A writer's sign of life, which names a record.
async fn put_head(store: &MemoryStore, by: &note::NoteSigner, seq: u64, sha256: Sha256Digest) {
    let head = serde_json::json!({
        "v": 1, "kind": "head", "repo": samples::repository().to_string(), "region": "eu-1",
        "writer": by.name().as_str(), "log_seq": seq, "log_sha256": sha256.to_string(),
    });
    let head = note::sign(&format!("{head}\n"), &[by]).unwrap();
    put(store, &StoredName::Head { writer: by.name().clone() }.key(), head.into()).await;
}

fn says_so() -> RecordBody {
    let (sha256, bytes) = (samples::digest(1), ByteCount::ZERO);
    RecordBody::Bundle(BundleRecord { first: 0, last: 9, sha256, bytes })
}

#[tokio::test]
async fn a_history_that_somebody_has_made_up_in_a_bundle_is_not_taken() {
    for by in [None, Some(writer()), Some(pruner())] {
        let mut log = LongLog::with_records(11).await;
        let last = audit_of_size(&mut log, &writer(), 600);
        put(&log.store, &layout::log_note(11), last.clone()).await;
        log.goes_on_behind(&last);
        let mut other = made_up(&log, 11, &writer()).await;
        if let Some(by) = &by {
            other.say(by, says_so()).await;
        }
        // Honest writers go on behind it: their records are what everybody sees.
        log.next = other.next;
        log.say(&writer(), backup(13)).await;
        assert_eq!(check(&log).await, 0, "{:?}", by.map(|by| by.name().clone()));
        assert!(log.read().await.at(log.next - 1).is_some(), "what an honest writer said is not hidden");
    }
}

#[tokio::test]
async fn a_history_that_a_stolen_key_has_made_up_is_not_taken_if_a_writer_has_signed_the_other_one() {
    let mut log = LongLog::with_records(12).await;
    log.say(&samples::signer(), revocation(&pruner())).await;
    let (seq, sha256) = (12, log.prev.unwrap());
    // Without the revocation, and at the very end of the log.
    made_up(&log, 12, &pruner()).await.say(&pruner(), says_so()).await;
    let is_revoked = async || {
        read_with(&*log.store, ANY).await.trust().signers.signer(&pruner().verify_key()).unwrap().revoked.is_some()
    };
    assert!(!is_revoked().await, "nobody has signed anything else: see the decision");
    put_head(&log.store, &writer(), seq, sha256).await;
    assert_eq!(check(&log).await, 0);
    assert!(is_revoked().await);
}

#[tokio::test]
async fn objects_that_are_no_records_lie_between_bundles() {
    let mut log = LongLog::with_records(16).await;
    put(&log.store, &layout::log_note(16), Bytes::from_static(b"junk")).await;
    log.next = 17;
    log.grow_to(45).await;
    let log = bundle_all(&log).await;
    // Ten and six before the junk, three times ten behind it.
    assert_eq!(check(&log).await, 9 + 5 + 3 * 9);
    let read = log.read().await;
    assert_eq!(read.outside().iter().map(|outside| outside.seq).collect::<Vec<_>>(), [16]);
}

#[tokio::test]
async fn a_log_that_was_set_back_or_forked_is_refused_whatever_its_bundles_say() {
    let log = bundle_all(&LongLog::with_records(30).await).await;
    let read = log.read().await;
    let remembered = read.head();
    let with_memory = async || {
        let remembering = LogTrust { remembered, ..trust("eu-1") };
        let unread = RegionLog::unread(remembering, LogLimits::default());
        LogReading::new(unread).with_rules(ANY).go_on(&*log.store).await
    };
    assert!(with_memory().await.is_ok());
    log.store.delete(&layout::log_note(read.head().unwrap().seq)).await.unwrap();
    let refused = with_memory().await.unwrap_err();
    assert!(matches!(refused, LogError::RolledBack { .. }), "{refused}");
    // Set back into the middle of a bundle: nothing behind the free place counts, as without bundles.
    log.store.delete(&layout::log_note(15)).await.unwrap();
    let now = read_with(&*log.store, ANY).await;
    assert_eq!(now.places(), read_singly(&log.store).await.places());
}

/// Fails every request from a number on, once.
struct Breaks {
    left: std::sync::atomic::AtomicI64,
    is_broken: AtomicBool,
}

#[async_trait::async_trait]
impl Hooks for Breaks {
    async fn before(&self, _: Request<'_>) -> Step {
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 0 && self.is_broken.load(Ordering::SeqCst) {
            return Step::Fail(StoreError::Transient { doing: "read".to_owned(), source: "reset".into() });
        }
        Step::Pass
    }
}

#[tokio::test]
async fn a_reading_that_fails_goes_on_where_it_was() {
    let log = bundle_all(&LongLog::with_records(200).await).await;
    let whole = log.read().await;
    for answered in 0..60 {
        let breaks = Breaks { left: answered.into(), is_broken: AtomicBool::new(true) };
        let store = WithHooks::new(Arc::clone(&log.store) as Arc<dyn Store>, breaks);
        let mut reading = LogReading::new(RegionLog::unread(trust("eu-1"), LogLimits::default())).with_rules(ANY);
        let failed = reading.go_on(&store).await;
        let before = reading.log().entries().len();
        reading.go_on(&*log.store).await.unwrap();
        assert_eq!(reading.log().entries(), whole.entries(), "after {answered} answers: {failed:?}, {before} records");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reading_that_is_given_up_again_and_again_comes_to_its_end() {
    let log = bundle_all(&LongLog::with_records(400).await).await;
    let whole = log.read().await;
    let (store, requests) = far_away(Arc::clone(&log.store) as Arc<dyn Store>, Duration::from_millis(50));
    let mut reading = LogReading::new(RegionLog::unread(trust("eu-1"), LogLimits::default())).with_rules(ANY);
    let mut given_up = 0;
    // Its end, its bundles, the heads and what lies behind it are asked for each time.
    while tokio::time::timeout(Duration::from_millis(320), reading.go_on(&*store)).await.is_err() {
        given_up += 1;
        assert!(given_up < 100, "it never comes to an end");
    }
    assert!(given_up > 2, "{given_up}");
    assert_eq!(reading.log().entries(), whole.entries());
    assert!(requests.load(Ordering::Relaxed) < 400);
}

#[tokio::test]
async fn a_log_that_was_set_back_while_nobody_read_on_is_not_taken_as_it_was() {
    for bundled in [false, true] {
        let plain = LongLog::with_records(60).await;
        let log = if bundled { bundle_all(&plain).await } else { plain };
        let breaks = Breaks { left: if bundled { 12 } else { 40 }.into(), is_broken: AtomicBool::new(true) };
        let store = WithHooks::new(Arc::clone(&log.store) as Arc<dyn Store>, breaks);
        let mut reading = LogReading::new(RegionLog::unread(trust("eu-1"), LogLimits::default())).with_rules(ANY);
        reading.go_on(&store).await.unwrap_err();
        let before = reading.log().places();
        assert!(before > 5, "{before}");
        for seq in 5..log.next {
            log.store.delete(&layout::log_note(seq)).await.unwrap();
        }
        for _ in 0..2 {
            let refused = reading.go_on(&*log.store).await.unwrap_err();
            assert!(matches!(refused, LogError::RolledBack { .. }), "{refused}");
        }
    }
}

/// A history without the writer, from the place of its delegation on, which the pruner has made up after it was revoked: as large as the
/// honest one, with its end and a `bundle` record behind the honest end. Returns the honest log, whose next record comes behind both.
async fn without_the_writer(records: u64) -> LongLog {
    let mut log = LongLog::begun_with_the_pruner().await;
    log.grow_to(records).await;
    log.say(&samples::signer(), revocation(&pruner())).await;
    let (mut other, end) = (log.clone(), log.next);
    let mut notes = log.notes(0, 1).await;
    (other.next, other.prev) = (2, Some(sha256(&notes[1])));
    for seq in 2..end {
        let size = log.notes(seq, seq).await[0].len();
        let copy = |length: usize| RecordBody::Copy(CopyRecord { note: "x".repeat(length) });
        let least = other.clone().note(&pruner(), copy(1)).len();
        let note = other.note(&pruner(), copy(1 + size - least));
        assert_eq!(note.len(), size);
        other.goes_on_behind(&note);
        notes.push(note);
    }
    other.say(&pruner(), backup(end)).await;
    notes.extend(log.notes(end, end).await);
    other.bundle_of(0, &notes).await;
    other.say(&pruner(), says_so()).await;
    log.next = other.next;
    log
}

#[tokio::test]
async fn a_history_that_leaves_the_writer_out_is_not_taken_once_the_writer_goes_on() {
    let mut log = without_the_writer(12).await;
    let taken = read_with(&*log.store, ANY).await;
    assert!(taken.trust().signers.signer(&writer().verify_key()).is_none(), "nobody says anything else");
    log.say(&writer(), backup(99)).await;
    assert_eq!(check(&log).await, 0, "what the writer has signed is no junk, although its key is not known");
    assert!(read_with(&*log.store, ANY).await.at(log.next - 1).is_some());
}

#[tokio::test]
async fn a_history_that_leaves_the_writer_out_is_not_taken_against_its_head() {
    let log = without_the_writer(12).await;
    put_head(&log.store, &writer(), 12, log.prev.unwrap()).await;
    assert_eq!(check(&log).await, 0);
}

#[tokio::test]
async fn more_objects_than_are_looked_at_hide_no_other_history() {
    let log = without_the_writer(12).await;
    let is_revoked = async || {
        read_with(&*log.store, ANY).await.trust().signers.signer(&pruner().verify_key()).unwrap().revoked.is_some()
    };
    assert!(!is_revoked().await);
    // What an honest writer says behind them is looked at by nobody.
    for seq in log.next..=log.next + crate::log::outside::OUTSIDE_MAX as u64 {
        put(&log.store, &layout::log_note(seq), Bytes::from_static(b"x")).await;
    }
    assert!(is_revoked().await);
}

#[tokio::test]
async fn a_history_that_is_made_up_from_far_back_differs_from_what_is_read_by_chance() {
    let log = without_the_writer(12).await;
    assert_eq!(check_with(&log, BundleRules { samples: 100, ..ANY }).await, 0);
}

#[tokio::test]
async fn a_short_log_is_read_record_by_record() {
    let log = bundle_all(&LongLog::with_records(57).await).await;
    let read = |records_least| check_with(&log, BundleRules { records_least, ..ANY });
    assert_eq!((read(64).await, read(63).await, read(62).await), (0, 0, 6 * 9), "it has 63 records");
    // Somebody makes it look longer.
    put(&log.store, &layout::log_note(200), Bytes::from_static(b"junk")).await;
    assert_eq!(read(64).await, 0);
}

#[tokio::test]
async fn heads_that_hide_others_are_a_doubt() {
    let log = bundle_all(&LongLog::with_records(40).await).await;
    let honest = check(&log).await;
    put_head(&log.store, &writer(), log.next - 1, log.prev.unwrap()).await;
    assert_eq!(check(&log).await, honest, "the head of a writer that agrees");
    for number in 0..=64 {
        let writer = format!("a.{number}").parse().unwrap();
        put(&log.store, &StoredName::Head { writer }.key(), Bytes::from_static(b"junk")).await;
        let expected = if number < 64 { honest } else { 0 };
        assert_eq!(check(&log).await, expected, "{number}");
    }
}

#[tokio::test]
async fn a_head_of_a_place_where_nothing_was_read_is_a_doubt_and_one_that_cannot_be_read_too() {
    let log = bundle_all(&LongLog::with_records(40).await).await;
    let honest = check(&log).await;
    assert!(honest > 0);
    for operation in [Operation::List, Operation::Get] {
        let broken = move |request: &Request<'_>| {
            if request.operation() == operation && request.key().starts_with("state/") {
                return Step::Fail(StoreError::Transient { doing: "read".to_owned(), source: "reset".into() });
            }
            Step::Pass
        };
        let singles = Arc::new(Singles::default());
        let counted = WithHooks::new(Arc::clone(&log.store) as Arc<dyn Store>, CountSingles(Arc::clone(&singles)));
        let read = read_with(&WithHooks::new(Arc::new(counted) as Arc<dyn Store>, broken), ANY).await;
        assert_eq!(read.entries(), read_singly(&log.store).await.entries());
        assert_eq!(singles.0.lock().len() as u64, read.places(), "{operation:?}");
    }
    put_head(&log.store, &writer(), log.next, samples::digest(1)).await;
    assert_eq!(check(&log).await, 0);
}

#[tokio::test]
async fn many_bundles_that_nobody_has_confirmed_have_the_end_read_twice_and_not_more() {
    let log = LongLog::with_records(60).await;
    for last in 9..30 {
        log.bundle_of(0, &log.notes(0, last).await).await;
    }
    let reads = Arc::<std::sync::atomic::AtomicU64>::default();
    let counting = {
        let reads = Arc::clone(&reads);
        move |request: &Request<'_>| {
            if matches!(request, Request::Get { .. }) && request.key() == layout::log_note(59).as_str() {
                reads.fetch_add(1, Ordering::Relaxed);
            }
            Step::Pass
        }
    };
    let store = WithHooks::new(Arc::clone(&log.store) as Arc<dyn Store>, counting);
    let read = read_with(&store, ANY).await;
    assert_eq!(read.entries(), read_singly(&log.store).await.entries());
    assert_eq!(reads.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn bundles_of_a_few_records_are_none() {
    let mut log = LongLog::with_records(60).await;
    for first in (0..60).step_by(3) {
        let name = log.bundle_of(first, &log.notes(first, first + 2).await).await;
        if first == 57 {
            put_bundle_record(&mut log, &pruner(), &name).await;
        }
    }
    assert_eq!(check(&log).await, 0);
    assert_eq!(check_with(&log, BundleRules { notes_least: 3, ..ANY }).await, 20 * 2);
}
