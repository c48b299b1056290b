//! Tests of the log.

use super::*;
use crate::format::key_name::KeyName;
use crate::log::append::{Attempt, Draft};
use crate::log::records::record::{LOG_BYTES_MAX, Link, Record};
use crate::samples;
use async_trait::async_trait;
use lifeboat_stores::{Hooks, MemoryStore, PutMode, Request, SealedBody, Step, WithHooks};
use parking_lot::Mutex;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub(super) fn trust() -> LogTrust {
    let signers = Signers::root_only(samples::signer().verify_key());
    LogTrust { repository: samples::repository(), signers, region: Some("eu-1".parse().unwrap()), remembered: None }
}

pub(super) fn init() -> Draft {
    Draft { origin: samples::origin(0), body: RecordBody::Init(samples::init_record()) }
}

pub(super) fn backup(wseq: u64) -> Draft {
    let id = format!("20261120T020003Z-{wseq:08x}");
    let record = samples::backup_record_named(&id, "2026-11-20T02:41:07Z");
    Draft { origin: samples::origin(wseq), body: RecordBody::Backup(Box::new(record)) }
}

pub(super) async fn filled(count: u64) -> (MemoryStore, RegionLog) {
    let store = MemoryStore::new();
    let mut log = RegionLog::read(&store, trust()).await.unwrap();
    log.append(&store, &samples::signer(), &init()).await.unwrap();
    for wseq in 1..count {
        log.append(&store, &samples::signer(), &backup(wseq)).await.unwrap();
    }
    (store, log)
}

pub(super) async fn put(store: &MemoryStore, key: &str, bytes: Bytes) {
    let key = key.parse().unwrap();
    store.delete(&key).await.unwrap();
    store.put(&key, SealedBody { sha256: sha256(&bytes), bytes }, PutMode::CreateOnly).await.unwrap();
}

pub(super) async fn note_at(store: &MemoryStore, seq: u64) -> Bytes {
    store.get(&layout::log_note(seq), small_object()).await.unwrap()
}

pub(super) fn signed(link: Link, draft: Draft) -> Bytes {
    let record = Record { link, origin: draft.origin, body: draft.body };
    note::sign(&record.to_text().unwrap(), &[&samples::signer()]).unwrap().into()
}

async fn refused(store: &MemoryStore, trust: LogTrust) -> String {
    lifeboat_vocabulary::error_chain(&RegionLog::read(store, trust).await.unwrap_err())
}

/// What a reader finds that knows nothing from before.
pub(super) async fn found(store: &MemoryStore) -> (usize, Vec<Outside>) {
    let log = RegionLog::read(store, trust()).await.unwrap();
    (log.entries().len(), log.outside().to_vec())
}

#[tokio::test]
async fn a_log_that_was_tampered_with_is_read_up_to_there_and_says_so() {
    let (_, log) = filled(4).await;
    let link = |seq: u64| log.at(seq).unwrap().record.link.clone();
    let other_region = Link { region: "us-1".parse().unwrap(), ..link(2) };
    let (store, _) = filled(4).await;
    let text = String::from_utf8(note_at(&store, 2).await.to_vec()).unwrap();
    let foreign = note::sign("{}\n", &[&samples::signer_named("stranger", 1)]).unwrap();
    let broken = Link { prev: Some(samples::digest(1)), ..link(2) };
    for (why, seq, bytes, is_ours, expected) in [
        ("exchanged", 2, note_at(&store, 1).await, false, "place 2 of the log has record 1"),
        ("broken link", 2, signed(broken, backup(2)), true, "record 2 of the log does not"),
        (
            "another region",
            2,
            signed(other_region, backup(2)),
            false,
            "record 2 of the log of eu-1 belongs to region us",
        ),
        (
            "changed",
            2,
            text.replace("full", "fulk").into(),
            false,
            "check the signature of record 2 of the log: signature line 1",
        ),
        ("a stranger", 3, foreign.into(), false, "check the signature of record 3 of the log: the note is not signed"),
        (
            "no note",
            3,
            Bytes::from_static(b"junk"),
            false,
            "check the signature of record 3 of the log: the note is not",
        ),
        ("too large", 3, vec![b'a'; (1 << 20) + 1].into(), false, "read log/00000000000000000003"),
    ] {
        let (store, _) = filled(4).await;
        put(&store, layout::log_note(seq).as_str(), bytes).await;
        let (records, outside) = found(&store).await;
        assert_eq!(records as u64, seq, "{why}: what stands before it counts");
        let first = outside.first().unwrap();
        assert!(first.why.starts_with(expected), "{why}: {first}");
        assert_eq!((first.seq, first.signed_by.is_some()), (seq, is_ours), "{why}");
        // Behind it stands what followed the record that was there.
        assert!(outside.iter().skip(1).all(|outside| outside.why.contains("history was changed")), "{why}");
        assert_eq!(outside.len() as u64, 4 - seq, "{why}");
    }
    // Another history, validly signed: what follows does not follow it.
    let (store, _) = filled(4).await;
    put(&store, layout::log_note(2).as_str(), signed(link(2), backup(77))).await;
    let (records, outside) = found(&store).await;
    assert_eq!((records, outside.len()), (3, 1));
    assert!(outside[0].why.starts_with("record 3 of the log does not follow the record before it"));
    // Removed from the middle: nothing follows any more.
    for seq in 1..3 {
        let (store, _) = filled(4).await;
        store.delete(&layout::log_note(seq)).await.unwrap();
        let (records, outside) = found(&store).await;
        assert_eq!((records as u64, outside.len() as u64), (seq, 3 - seq));
        assert!(outside.iter().all(|outside| outside.signed_by.is_some()));
    }
}

#[tokio::test]
async fn a_log_without_any_record_of_ours_is_refused_with_its_fault() {
    let (store, _) = filled(4).await;
    let other = LogTrust { repository: RepositoryId::from_bytes([1; 16]), ..trust() };
    assert!(refused(&store, other).await.starts_with("the log belongs to repository a0a1a2a3"));
    let stranger = Signers::root_only(samples::signer_named("x", 1).verify_key());
    let other = LogTrust { signers: stranger, ..trust() };
    assert!(refused(&store, other).await.starts_with("check the signature of record 0 of the log: the note is not"));
    store.delete(&layout::log_note(0)).await.unwrap();
    assert!(refused(&store, trust()).await.starts_with("record 1 of the log does not follow"));
}

#[tokio::test]
async fn nothing_is_appended_where_records_were_hidden_or_history_was_changed() {
    let signer = samples::signer();
    // A record was overwritten with junk, and its writer has signed that it was there.
    let (store, log) = filled(4).await;
    let head = serde_json::json!({
        "v": 1, "kind": "head", "repo": samples::repository().to_string(), "region": "eu-1",
        "writer": signer.name().as_str(), "log_seq": 3,
    });
    let head = note::sign(&format!("{head}\n"), &[&signer]).unwrap();
    let key = StoredName::Head { writer: signer.name().clone() }.key();
    put(&store, key.as_str(), head.into()).await;
    put(&store, layout::log_note(3).as_str(), Bytes::from_static(b"junk")).await;
    let mut read = RegionLog::read(&store, trust()).await.unwrap();
    let error = read.append(&store, &signer, &backup(9)).await.unwrap_err();
    assert!(matches!(error, LogError::EndHidden { seq: 3, found: 2, .. }), "{error}");
    // Behind a record that is signed and does not follow, too.
    let link = Link { prev: Some(samples::digest(1)), ..log.at(3).unwrap().record.link.clone() };
    put(&store, layout::log_note(3).as_str(), signed(link, backup(3))).await;
    let mut read = RegionLog::read(&store, trust()).await.unwrap();
    let error = read.append(&store, &signer, &backup(9)).await.unwrap_err();
    assert!(matches!(error, LogError::HistoryChanged { seq: 3, .. }), "{error}");
}

#[tokio::test]
async fn a_log_that_lost_or_changed_what_was_seen_is_refused() {
    let (store, log) = filled(4).await;
    let remembered = log.head().unwrap();
    let with = |remembered| LogTrust { remembered: Some(remembered), ..trust() };
    assert!(RegionLog::read(&store, with(remembered)).await.is_ok());
    store.delete(&layout::log_note(3)).await.unwrap();
    let expected = "the log was rolled back: it had a record 3, and now has 3 records";
    assert_eq!(refused(&store, with(remembered)).await, expected);
    // The same writer, tricked into signing another record for the same place.
    let forked = signed(log.entries()[3].record.link.clone(), backup(99));
    put(&store, layout::log_note(3).as_str(), forked).await;
    assert!(RegionLog::read(&store, trust()).await.is_ok(), "validly signed: nobody without a memory could tell");
    assert!(refused(&store, with(remembered)).await.starts_with("the log was forked: record 3 had SHA-256 "));
    let empty = MemoryStore::new();
    assert!(refused(&empty, with(remembered)).await.starts_with("the log was rolled back"));
}

#[tokio::test]
async fn what_was_appended_is_read_back_in_order_over_several_pages() {
    let (store, log) = filled(1100).await;
    put(&store, "log/readme.txt", Bytes::from_static(b"hello")).await;
    let unnamed = LogTrust { region: None, ..trust() };
    let again = RegionLog::read(&store, unnamed).await.unwrap();
    assert_eq!(again.entries(), log.entries());
    assert_eq!(again.head(), log.head());
    assert_eq!(again.region().unwrap().as_str(), "eu-1");
    assert_eq!(again.strays(), ["log/readme.txt".parse().unwrap()]);
    assert_eq!(again.last_count(samples::signer().name()), Some(1099));
    assert_eq!(again.last_count(&"somebody".parse().unwrap()), None);
}

#[tokio::test]
async fn drafts_that_cannot_stand_there_are_refused() {
    let store = MemoryStore::new();
    let signer = samples::signer();
    let mut nameless = RegionLog::read(&store, LogTrust { region: None, ..trust() }).await.unwrap();
    assert!(matches!(nameless.append(&store, &signer, &init()).await, Err(LogError::Nameless)));
    let mut log = RegionLog::read(&store, trust()).await.unwrap();
    let no_init = log.append(&store, &signer, &backup(0)).await;
    assert!(matches!(no_init, Err(LogError::Record { seq: 0, .. })), "a log begins with init");
    let stranger = samples::signer_named("stranger", 1);
    assert!(matches!(log.append(&store, &stranger, &init()).await, Err(LogError::UnknownSigner { .. })));
    log.append(&store, &signer, &init()).await.unwrap();
    let mut second_init = init();
    second_init.origin.wseq = 1;
    assert!(matches!(log.append(&store, &signer, &second_init).await, Err(LogError::Record { seq: 1, .. })));
    let reused = Draft { origin: samples::origin(0), ..backup(5) };
    assert!(matches!(log.append(&store, &signer, &reused).await, Err(LogError::CountReused { seq: 0, .. })));
    assert_eq!(log.entries().len(), 1);
}

#[tokio::test]
async fn an_overtaken_writer_reads_the_log_before_it_tries_again() {
    let (store, mut first) = filled(1).await;
    let mut second = RegionLog::read(&store, trust()).await.unwrap();
    first.append(&store, &samples::signer(), &backup(1)).await.unwrap();
    let attempt = second.try_append(&store, &samples::signer(), &backup(2)).await.unwrap();
    assert_eq!(attempt, Attempt::Overtaken { new_from: 1 });
    assert_eq!(second.entries().len(), 2);
    let head = second.append(&store, &samples::signer(), &backup(2)).await.unwrap();
    assert_eq!(head.seq, 2);
    assert_eq!(first.refresh(&store).await.unwrap(), 1);
    assert_eq!(first.head(), second.head());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_that_race_all_get_a_place_and_the_chain_holds() {
    let (store, _) = filled(1).await;
    let store = Arc::new(store);
    let writers = (0..4u8).map(|number| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let signer = samples::signer_named(&format!("writer-{number}"), 0xe0);
            let mut log = RegionLog::read(&*store, trust()).await.unwrap();
            for wseq in 0..10 {
                let mut draft = backup(u64::from(number) * 100 + wseq + 1);
                draft.origin.writer = signer.name().clone();
                log.append(&*store, &signer, &draft).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let log = RegionLog::read(&*store, trust()).await.unwrap();
    assert_eq!(log.entries().len(), 41);
    for number in 0..4 {
        let writer: KeyName = format!("writer-{number}").parse().unwrap();
        assert_eq!(log.entries().iter().filter(|entry| entry.record.origin.writer == writer).count(), 10);
    }
}

/// What happens to the next writes.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It happens, and the answer is lost.
    AnswerLost,
    /// It does not happen.
    RequestLost,
    /// It happens, the answer is lost, and so is the one after reading back.
    Blackout,
}

/// The faults of the next writes, in order.
struct Faults {
    next: Mutex<VecDeque<Fault>>,
    /// Whether the answer to the next read is lost as well.
    dark: AtomicBool,
}

fn lost(doing: &str) -> StoreError {
    StoreError::Transient { doing: doing.to_owned(), source: "connection reset".into() }
}

#[async_trait]
impl Hooks for Faults {
    async fn before(&self, request: Request<'_>) -> Step {
        match request {
            Request::Put { .. } => match self.next.lock().pop_front() {
                None => Step::Pass,
                Some(Fault::RequestLost) => Step::Fail(lost("write")),
                Some(Fault::AnswerLost) => Step::FailAfter(lost("write")),
                Some(Fault::Blackout) => {
                    self.dark.store(true, Ordering::Relaxed);
                    Step::FailAfter(lost("write"))
                }
            },
            Request::Get { .. } if self.dark.swap(false, Ordering::Relaxed) => Step::Fail(lost("read")),
            _ => Step::Pass,
        }
    }
}

async fn faulty(faults: &[Fault]) -> (WithHooks<Faults>, RegionLog) {
    let (inner, log) = filled(2).await;
    let faults = Faults { next: Mutex::new(faults.iter().copied().collect()), dark: AtomicBool::new(false) };
    (WithHooks::new(Arc::new(inner), faults), log)
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_found_and_not_repeated() {
    let (store, mut log) = faulty(&[Fault::AnswerLost]).await;
    let head = log.append(&store, &samples::signer(), &backup(2)).await.unwrap();
    assert_eq!(head.seq, 2);
    assert_eq!(RegionLog::read(&store, trust()).await.unwrap().entries().len(), 3);
}

#[tokio::test]
async fn a_write_of_unknown_outcome_is_an_error_and_repeating_it_writes_once() {
    for (fault, other_writes_first) in
        [(Fault::RequestLost, false), (Fault::RequestLost, true), (Fault::Blackout, true)]
    {
        let (store, mut log) = faulty(&[fault]).await;
        let failed = log.append(&store, &samples::signer(), &backup(2)).await;
        assert!(matches!(failed, Err(LogError::Store { seq: 2, .. })), "{fault:?}");
        if other_writes_first {
            let mut other = RegionLog::read(&store, trust()).await.unwrap();
            other.append(&store, &samples::signer(), &backup(3)).await.unwrap();
        }
        log.append(&store, &samples::signer(), &backup(2)).await.unwrap();
        let log = RegionLog::read(&store, trust()).await.unwrap();
        let ours = log.entries().iter().filter(|entry| entry.record.body == backup(2).body).count();
        assert_eq!(ours, 1, "{fault:?}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_for_a_record_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut log = RegionLog::unread(trust(), LogLimits::default());
        prop_assert!(log.link_in(&bytes).is_err());
    }
}

#[tokio::test]
async fn a_log_that_is_full_takes_no_record_that_would_make_it_unreadable() {
    let (_, log) = filled(3).await;
    let cases = [
        (LogLimits { records: 3, bytes: LOG_BYTES_MAX }, "the log would have more than 3 records"),
        (LogLimits { records: 9, bytes: log.bytes + 10 }, "the records of the log would take more than"),
    ];
    for (limits, expected) in cases {
        let (store, _) = filled(3).await;
        let mut log = RegionLog::read_within(&store, trust(), limits).await.unwrap();
        let error = log.append(&store, &samples::signer(), &backup(7)).await.unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
        assert_eq!(RegionLog::read_within(&store, trust(), limits).await.unwrap().entries().len(), 3);
        // Whoever fills it up hides nothing of what stood there.
        let (store, _) = filled(5).await;
        let read = RegionLog::read_within(&store, trust(), limits).await.unwrap();
        log.refresh(&store).await.unwrap();
        for log in [&read, &log] {
            assert_eq!((log.entries().len(), log.outside().len()), (3, 2));
            assert!(log.outside()[0].why.starts_with(expected), "{}", log.outside()[0]);
        }
        let error = log.append(&store, &samples::signer(), &backup(9)).await.unwrap_err();
        assert!(matches!(error, LogError::HistoryChanged { seq: 3, .. }), "{error}");
    }
}

#[tokio::test]
async fn nothing_is_written_behind_a_log_that_was_set_back_or_replaced() {
    let (store, mut log) = filled(4).await;
    let mut rolled_back = log.clone();
    store.delete(&layout::log_note(3)).await.unwrap();
    let error = rolled_back.append(&store, &samples::signer(), &backup(7)).await.unwrap_err();
    assert!(matches!(error, LogError::RolledBack { remembered: 3, .. }), "{error:?}");
    let mut now = RegionLog::read(&store, trust()).await.unwrap();
    now.append(&store, &samples::signer(), &backup(8)).await.unwrap();
    let error = log.append(&store, &samples::signer(), &backup(7)).await.unwrap_err();
    assert!(matches!(error, LogError::Forked { seq: 3, .. }), "{error:?}");
    assert_eq!(RegionLog::read(&store, trust()).await.unwrap().entries(), now.entries());
}

#[tokio::test]
async fn a_full_log_still_takes_what_only_the_pruner_says() {
    let (store, _) = filled(20).await;
    let limits = LogLimits { records: 20, bytes: LOG_BYTES_MAX };
    let mut log = RegionLog::read_within(&store, trust(), limits).await.unwrap();
    let backups = vec!["20261120T020003Z-00000001".parse().unwrap()];
    let body = RecordBody::Keep(crate::log::records::care::KeepRecord { backups });
    let keep = Draft { origin: samples::origin(77), body };
    let error = log.append(&store, &samples::signer(), &backup(20)).await.unwrap_err();
    assert!(matches!(error, LogError::TooLong { max: 20 }), "{error}");
    log.append(&store, &samples::signer(), &keep).await.unwrap();
    let read = RegionLog::read_within(&store, trust(), limits).await.unwrap();
    assert_eq!(read.entries(), log.entries());
}
