//! Objects in a log's folder that are no records, and places that are free.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_stores::{Capabilities, Hooks, MemoryStore, Request, Step, Support, WithHooks};

use super::tests::{backup, filled, found, init, note_at, put, signed, trust};
use super::*;
use crate::log::append::Attempt;
use crate::log::records::record::Link;
use crate::samples;

#[tokio::test]
async fn an_object_that_is_no_record_stops_neither_readers_nor_writers() {
    let (store, mut old) = filled(3).await;
    let mut other = old.clone();
    put(&store, layout::log_note(3).as_str(), Bytes::from_static(b"junk")).await;
    put(&store, layout::log_note(6).as_str(), Bytes::from_static(b"junk")).await;
    let signer = samples::signer();
    // One that has not seen it, one that reads everything, and one that follows.
    assert_eq!(old.append(&store, &signer, &backup(3)).await.unwrap().seq, 4);
    let mut new = RegionLog::read(&store, trust()).await.unwrap();
    assert_eq!(new.append(&store, &signer, &backup(4)).await.unwrap().seq, 5);
    assert_eq!(other.refresh(&store).await.unwrap(), 2);
    assert_eq!(other.append(&store, &signer, &backup(5)).await.unwrap().seq, 7);
    for log in [&mut old, &mut new] {
        log.refresh(&store).await.unwrap();
        assert_eq!(log.entries(), other.entries());
    }
    let (records, outside) = found(&store).await;
    assert_eq!(records, 6);
    assert_eq!(outside.iter().map(|outside| outside.seq).collect::<Vec<_>>(), [3, 6]);
    assert_eq!(old.at(4).unwrap().record.body, backup(3).body);
    assert!(old.at(3).is_none());
    // Taken away, it leaves a place free that somebody else could fill: anything in its place cures that.
    store.delete(&layout::log_note(3)).await.unwrap();
    let (records, outside) = found(&store).await;
    assert_eq!((records, outside[0].seq), (3, 4));
    assert!(outside[0].why.contains("nothing lies at place 3 of the log"), "{}", outside[0]);
    put(&store, layout::log_note(3).as_str(), Bytes::from_static(b"other junk")).await;
    assert_eq!(found(&store).await.0, 6);
}

#[tokio::test]
async fn a_record_behind_a_place_that_was_left_free_is_none_and_takes_nothing_out_of_the_log() {
    let signer = samples::signer();
    let (store, log) = filled(2).await;
    let head = log.head().unwrap();
    // An intruder with a key of the log writes one ahead, and fills the place between later.
    let link = Link { seq: 3, prev: Some(head.sha256), ..log.at(1).unwrap().record.link.clone() };
    put(&store, layout::log_note(3).as_str(), signed(link, backup(66))).await;
    let mut honest = RegionLog::read(&store, trust()).await.unwrap();
    assert_eq!((honest.entries().len(), honest.outside().len()), (2, 1));
    let error = honest.append(&store, &signer, &backup(2)).await.unwrap_err();
    assert!(matches!(error, LogError::HistoryChanged { seq: 3, .. }), "a key of the log has signed it: {error}");
    // Others, that have not looked, go on, and what they write stays part of the log for ever and for everybody.
    let link = Link { seq: 2, prev: Some(head.sha256), ..log.at(1).unwrap().record.link.clone() };
    put(&store, layout::log_note(2).as_str(), signed(link, backup(2))).await;
    assert_eq!(honest.refresh(&store).await.unwrap(), 1);
    let read = RegionLog::read(&store, trust()).await.unwrap();
    for log in [&honest, &read] {
        assert_eq!(log.entries().last().unwrap().record.body, backup(2).body);
        assert_eq!(log.outside().iter().map(|outside| outside.seq).collect::<Vec<_>>(), [3]);
    }
}

#[tokio::test]
async fn strange_objects_are_read_once() {
    let (store, _) = filled(2).await;
    for seq in 2..12 {
        put(&store, layout::log_note(seq).as_str(), Bytes::from(format!("junk {seq}"))).await;
    }
    let store = Arc::new(store);
    let reads = Arc::new(AtomicUsize::new(0));
    let counted = WithHooks::new(Arc::<MemoryStore>::clone(&store), CountReads(Arc::clone(&reads)));
    let mut log = RegionLog::read(&counted, trust()).await.unwrap();
    let after_first = reads.load(Ordering::Relaxed);
    for _ in 0..5 {
        log.look_ahead(&counted).await.unwrap();
        log.refresh(&counted).await.unwrap();
    }
    // One for each refresh, which asks for the next place.
    assert_eq!(reads.load(Ordering::Relaxed), after_first + 5);
    // An object that was exchanged is looked at again.
    let link = Link { seq: 7, prev: Some(log.head().unwrap().sha256), ..log.at(1).unwrap().record.link.clone() };
    put(&store, layout::log_note(7).as_str(), signed(link, backup(7))).await;
    assert_eq!(log.look_ahead(&counted).await.unwrap(), 1);
    assert_eq!(log.entries(), RegionLog::read(&*store, trust()).await.unwrap().entries());
}

struct CountReads(Arc<AtomicUsize>);

#[async_trait]
impl Hooks for CountReads {
    async fn before(&self, request: Request<'_>) -> Step {
        if matches!(request, Request::Get { .. }) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Step::Pass
    }
}

#[tokio::test]
async fn a_record_far_behind_the_last_one_is_none() {
    let (store, log) = filled(2).await;
    let head = log.head().unwrap();
    for seq in [u64::MAX, head.seq + 2] {
        let link = Link { seq, prev: Some(head.sha256), ..log.at(1).unwrap().record.link.clone() };
        put(&store, layout::log_note(seq).as_str(), signed(link, backup(2))).await;
    }
    let mut read = RegionLog::read(&store, trust()).await.unwrap();
    assert_eq!((read.entries().len(), read.outside().len()), (2, 2));
    assert_eq!(
        read.append(&store, &samples::signer(), &backup(3)).await.unwrap_err().to_string().split(':').next(),
        Some("nothing is appended behind place 3, where history was changed")
    );
}

#[tokio::test]
async fn a_copy_of_a_record_at_another_place_stops_nobody() {
    let (store, mut log) = filled(3).await;
    put(&store, layout::log_note(3).as_str(), note_at(&store, 1).await).await;
    let (us, mut region) = (MemoryStore::new(), LogTrust { region: Some("us-1".parse().unwrap()), ..trust() });
    region.remembered = None;
    let mut other = RegionLog::read(&us, region).await.unwrap();
    other.append(&us, &samples::signer(), &init()).await.unwrap();
    put(&store, layout::log_note(4).as_str(), note_at(&us, 0).await).await;
    assert_eq!(log.append(&store, &samples::signer(), &backup(3)).await.unwrap().seq, 5);
}

#[tokio::test]
async fn nothing_is_appended_at_a_place_that_became_free_before_records() {
    let (store, log) = filled(2).await;
    let (mut first, mut second) = (log.clone(), log);
    put(&store, layout::log_note(2).as_str(), Bytes::from_static(b"junk")).await;
    first.append(&store, &samples::signer(), &backup(2)).await.unwrap();
    store.delete(&layout::log_note(2)).await.unwrap();
    let error = second.append(&store, &samples::signer(), &backup(3)).await.unwrap_err();
    assert!(matches!(error, LogError::HistoryChanged { seq: 3, .. }), "{error}");
    put(&store, layout::log_note(2).as_str(), Bytes::from_static(b"anything")).await;
    assert_eq!(second.append(&store, &samples::signer(), &backup(3)).await.unwrap().seq, 4);
    assert_eq!(found(&store).await.0, 4);
}

#[tokio::test]
async fn a_record_that_was_misread_once_is_a_record() {
    let (store, log) = filled(4).await;
    let (store, whole) = (Arc::new(store), note_at(&store_of(4).await, 2).await);
    let damaged = DamagedOnce { store: Arc::clone(&store), whole, reads: AtomicUsize::new(0) };
    let store = WithHooks::new(store, damaged);
    let read = RegionLog::read(&store, trust()).await.unwrap();
    assert_eq!(read.entries(), log.entries());
    assert!(read.outside().is_empty());
}

async fn store_of(count: u64) -> MemoryStore {
    filled(count).await.0
}

/// The third record is not as it should be when it is read first.
struct DamagedOnce {
    store: Arc<MemoryStore>,
    whole: Bytes,
    reads: AtomicUsize,
}

#[async_trait]
impl Hooks for DamagedOnce {
    async fn before(&self, request: Request<'_>) -> Step {
        let key = layout::log_note(2);
        if matches!(request, Request::Get { .. }) && request.key() == key.as_str() {
            let content = match self.reads.fetch_add(1, Ordering::Relaxed) {
                0 => Bytes::from_static(b"junk"),
                _ => self.whole.clone(),
            };
            put(&self.store, key.as_str(), content).await;
        }
        Step::Pass
    }
}

#[tokio::test]
async fn who_follows_finds_a_record_at_a_place_that_became_free() {
    let signer = samples::signer();
    let (store, mut writer) = filled(2).await;
    put(&store, layout::log_note(2).as_str(), Bytes::from_static(b"junk")).await;
    let mut follower = RegionLog::read(&store, trust()).await.unwrap();
    store.delete(&layout::log_note(2)).await.unwrap();
    for wseq in 2..4 {
        assert_eq!(writer.append(&store, &signer, &backup(wseq)).await.unwrap().seq, wseq);
        assert_eq!(follower.refresh(&store).await.unwrap(), 1);
    }
    assert_eq!(follower.entries(), writer.entries());
}

#[tokio::test]
async fn objects_behind_a_free_place_close_no_log() {
    let (store, _) = filled(2).await;
    for seq in 0..FAR_MAX as u64 + 50 {
        put(&store, layout::log_note(1_000_000 + seq).as_str(), Bytes::from(format!("junk {seq}"))).await;
    }
    let mut log = RegionLog::read(&store, trust()).await.unwrap();
    assert_eq!((log.entries().len(), log.outside().len(), log.room), (2, FAR_MAX, Room::Left));
    log.append(&store, &samples::signer(), &backup(2)).await.unwrap();
}

/// A store that ignores conditions, into which somebody writes behind the listing.
struct WritesBehindTheListing {
    store: Arc<MemoryStore>,
    note: Bytes,
    has_written: AtomicBool,
}

#[async_trait]
impl Hooks for WritesBehindTheListing {
    async fn before(&self, request: Request<'_>) -> Step {
        let key = layout::log_note(2);
        let is_it = matches!(request, Request::Get { .. }) && request.key() == key.as_str();
        if is_it && !self.has_written.swap(true, Ordering::Relaxed) {
            put(&self.store, key.as_str(), self.note.clone()).await;
        }
        Step::Pass
    }

    fn capabilities(&self, inner: Capabilities) -> Capabilities {
        Capabilities { conditional_put: Support::No, ..inner }
    }
}

#[tokio::test]
async fn where_conditions_are_ignored_a_record_that_no_listing_shows_yet_is_not_replaced() {
    let (store, mut log) = filled(2).await;
    let head = log.head().unwrap();
    let link = Link { seq: 2, prev: Some(head.sha256), ..log.at(1).unwrap().record.link.clone() };
    let store = Arc::new(store);
    let note = signed(link, backup(5));
    let hooks = WritesBehindTheListing { store: Arc::clone(&store), note, has_written: AtomicBool::new(false) };
    let ignoring = WithHooks::new(Arc::<MemoryStore>::clone(&store), hooks);
    let tried = log.try_append(&ignoring, &samples::signer(), &backup(6)).await.unwrap();
    assert_eq!(tried, Attempt::Overtaken { new_from: 2 });
    assert_eq!(log.append(&ignoring, &samples::signer(), &backup(6)).await.unwrap().seq, 3);
    assert_eq!(RegionLog::read(&*store, trust()).await.unwrap().entries(), log.entries());
}
