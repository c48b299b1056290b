//! Ten years of hourly backups, read over a distance of 50 ms, and again after a restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_stores::{ByteRange, ObjectKey, PutMode, SealedBody, Store};
use lifeboat_vocabulary::{ByteCount, RegionName};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::format::aead::sha256;
use crate::format::layout::{self, StoredName};
use crate::log::bundle::codec::Bundle;
use crate::log::bundle::kept::{KeepsLogs, NotLoaded};
use crate::log::error::LogError;
use crate::log::memory::LogMemory;
use crate::log::records::bundle::BundleRecord;
use crate::log::records::record::RecordBody;
use crate::log::region_store::RegionStore;
use crate::samples::long_log::{LongLog, backup, far_away, pruner, put, writer};
use crate::samples::wal::trust;

const LATENCY: Duration = Duration::from_millis(50);

/// Records of a region that were kept; the file of the daemon does the same.
#[derive(Debug, Default)]
struct KeptHere(Mutex<Vec<Bytes>>);

impl KeptHere {
    fn next(&self) -> u64 {
        let kept = self.0.lock();
        kept.last().map_or(0, |bundle| Bundle::places_of(bundle).unwrap().1 + 1)
    }
}

#[async_trait]
impl KeepsLogs for KeptHere {
    async fn load(&self, _: &RegionName) -> Result<Vec<Bytes>, NotLoaded> {
        Ok(self.0.lock().clone())
    }

    fn add(&self, _: &RegionName, bundles: Vec<Bytes>) -> Result<(), Vec<Bytes>> {
        let (first, _) = Bundle::places_of(&bundles[0]).unwrap();
        if first == 0 {
            self.0.lock().clear();
        }
        assert_eq!(first, self.next(), "it goes on where it ended");
        self.0.lock().extend(bundles);
        Ok(())
    }

    fn forget(&self, _: &RegionName) {
        self.0.lock().clear();
    }
}

/// A log with a bundle of every thousand records, and so many records behind the last of them.
async fn long_log(bundles: u64, tail: u64) -> LongLog {
    let (mut log, writer, pruner) = (LongLog::begun().await, writer(), pruner());
    let mut notes = log.notes(0, log.next - 1).await;
    while log.next < bundles * 1000 + tail {
        let note = log.note(&writer, backup(log.next));
        put(&log.store, &layout::log_note(log.next), note.clone()).await;
        log.goes_on_behind(&note);
        notes.push(note);
        if notes.len() < 1000 {
            continue;
        }
        let first = log.next - 1000;
        let name = log.bundle_of(first, &std::mem::take(&mut notes)).await;
        let StoredName::LogBundle { last, sha256, .. } = name else { panic!("{name:?}") };
        let record = RecordBody::Bundle(BundleRecord { first, last, sha256, bytes: ByteCount::from_bytes(1) });
        let note = log.note(&pruner, record);
        put(&log.store, &layout::log_note(log.next), note.clone()).await;
        log.goes_on_behind(&note);
        notes.push(note);
    }
    log
}

fn region(store: Arc<dyn Store>) -> RegionStore {
    RegionStore { name: "eu-1".parse().unwrap(), store }
}

/// What a program does that has kept this.
fn restarted(kept: &Arc<KeptHere>) -> LogMemory {
    let memory = LogMemory::default();
    memory.keep_in(Arc::clone(kept) as Arc<dyn KeepsLogs>);
    memory
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_records_take_some_hundred_requests_and_a_restart_a_dozen() {
    let mut long = long_log(100, 50).await;
    let (store, requests) = far_away(Arc::clone(&long.store) as Arc<dyn Store>, LATENCY);
    let (region, kept) = (region(store), Arc::<KeptHere>::default());
    let (memory, begun, trust) = (restarted(&kept), Instant::now(), trust("eu-1"));
    // Each of those who ask gives up after a second.
    let mut given_up = 0;
    let log = loop {
        match tokio::time::timeout(Duration::from_secs(1), memory.read(&region, &trust)).await {
            Ok(log) => break log.unwrap(),
            Err(_) => given_up += 1,
        }
        assert!(given_up < 60, "it never comes to its end");
    };
    assert!(log.entries().len() >= 100_050);
    assert_eq!(log.head().map(|head| head.sha256), long.prev);
    assert!(given_up > 0, "it takes longer than anybody waits");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let asked = requests.load(Ordering::Relaxed);
    assert!(asked < 1000, "{asked} requests");

    long.grow_to(long.next + 10).await;
    let (before, begun) = (requests.load(Ordering::Relaxed), Instant::now());
    let again = restarted(&kept).read(&region, &trust).await.unwrap();
    assert_eq!(again.head().map(|head| head.sha256), long.prev);
    assert_eq!(again.entries()[..log.entries().len()], *log.entries());
    assert_eq!(again.trust(), log.trust());
    let asked = requests.load(Ordering::Relaxed) - before;
    assert!(asked < 20, "{asked} requests");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_a_daemon_reads_while_it_runs_is_kept_too() {
    let mut long = LongLog::with_records(40).await;
    let (region, kept) = (region(Arc::clone(&long.store) as Arc<dyn Store>), Arc::<KeptHere>::default());
    let (memory, trust) = (restarted(&kept), trust("eu-1"));
    memory.read(&region, &trust).await.unwrap();
    assert_eq!(kept.next(), 40);
    for (records, expected) in [(41, 40), (60, 40), (80, 80), (80, 80), (113, 113)] {
        long.grow_to(records).await;
        memory.read(&region, &trust).await.unwrap();
        assert_eq!(kept.next(), expected, "with {records} records");
    }
    let again = restarted(&kept).read(&region, &trust).await.unwrap();
    assert_eq!(again.entries(), memory.known(&region.name).unwrap().entries());
    memory.forget(&region.name);
    memory.read(&region, &trust).await.unwrap();
    assert_eq!(kept.next(), 113, "it began anew");
}

#[tokio::test]
async fn what_was_kept_and_is_damaged_is_read_again_and_what_the_region_has_no_more_is_refused() {
    let long = LongLog::with_records(40).await;
    let region = region(Arc::clone(&long.store) as Arc<dyn Store>);
    let (kept, trust) = (Arc::<KeptHere>::default(), trust("eu-1"));
    let log = restarted(&kept).read(&region, &trust).await.unwrap();
    let good = kept.0.lock().clone();
    let mut damaged = good[0].to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let notes = long.notes(0, 9).await;
    let other_place = Bundle::encode(1, notes.iter().map(AsRef::as_ref)).unwrap();
    let mut forged = long.clone();
    (forged.next, forged.prev) = (9, Some(sha256(&notes[8])));
    let mut other_end = notes.clone();
    other_end[9] = forged.note(&writer(), backup(99));
    let other_end = Bundle::encode(0, other_end.iter().map(AsRef::as_ref)).unwrap();
    for (what, bundles) in [
        ("damaged", vec![damaged.into()]),
        ("places that do not follow", vec![other_place.into()]),
        ("twice", vec![good[0].clone(), good[0].clone()]),
    ] {
        *kept.0.lock() = bundles;
        let read = restarted(&kept).read(&region, &trust).await.unwrap();
        assert_eq!(read.entries(), log.entries(), "{what}");
        assert_eq!(*kept.0.lock(), good, "{what}: it is kept anew");
    }
    // Forked or set back meanwhile: what was kept is the proof, until somebody has accepted what is there now.
    *kept.0.lock() = vec![Bytes::from(other_end)];
    let refused = restarted(&kept).read(&region, &trust).await.unwrap_err();
    assert!(matches!(*refused, LogError::Forked { seq: 9, .. }), "{refused}");
    kept.0.lock().clone_from(&good);
    long.store.delete(&layout::log_note(39)).await.unwrap();
    for _ in 0..2 {
        let memory = restarted(&kept);
        for _ in 0..2 {
            let refused = memory.read(&region, &trust).await.unwrap_err();
            assert!(matches!(*refused, LogError::RolledBack { remembered: 39, .. }), "{refused}");
        }
        assert_eq!(*kept.0.lock(), good, "over a restart, too");
    }
    let memory = restarted(&kept);
    memory.read(&region, &trust).await.unwrap_err();
    memory.forget(&region.name);
    assert!(kept.0.lock().is_empty());
    assert_eq!(memory.read(&region, &trust).await.unwrap().entries().len(), 39);
    assert_eq!(kept.next(), 39);
    // A running program remembers it itself.
    let memory = restarted(&kept);
    memory.read(&region, &trust).await.unwrap();
    long.store.delete(&layout::log_note(38)).await.unwrap();
    let refused = memory.read(&region, &trust).await.unwrap_err();
    assert!(matches!(*refused, LogError::RolledBack { .. }), "{refused}");
}

/// What a disk gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gives {
    Nothing,
    AnError,
    NoAnswer,
}

/// A disk that takes nothing for a while.
#[derive(Debug)]
struct Busy {
    gives: Gives,
    refused: AtomicU64,
    taken: Mutex<Vec<(u64, u64)>>,
}

#[async_trait]
impl KeepsLogs for Busy {
    async fn load(&self, _: &RegionName) -> Result<Vec<Bytes>, NotLoaded> {
        match self.gives {
            Gives::Nothing => Ok(Vec::new()),
            Gives::AnError => Err(NotLoaded),
            Gives::NoAnswer => std::future::pending().await,
        }
    }

    fn add(&self, _: &RegionName, bundles: Vec<Bytes>) -> Result<(), Vec<Bytes>> {
        if self.refused.fetch_add(1, Ordering::Relaxed) < 2 {
            return Err(bundles);
        }
        self.taken.lock().extend(bundles.iter().filter_map(|bundle| Bundle::places_of(bundle)));
        Ok(())
    }

    fn forget(&self, _: &RegionName) {}
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_or_fails_keeps_nobody_from_reading_and_what_it_has_is_not_replaced() {
    let mut taken = Vec::new();
    for gives in [Gives::NoAnswer, Gives::AnError, Gives::Nothing] {
        assert!(taken.is_empty(), "what it has may be whole: {gives:?}");
        let mut long = LongLog::with_records(40).await;
        let region = region(Arc::clone(&long.store) as Arc<dyn Store>);
        let disk = Arc::new(Busy { gives, refused: AtomicU64::new(0), taken: Mutex::default() });
        let (memory, trust, begun) = (LogMemory::default(), trust("eu-1"), Instant::now());
        memory.keep_in(Arc::clone(&disk) as Arc<dyn KeepsLogs>);
        assert_eq!(memory.read(&region, &trust).await.unwrap().entries().len(), 40);
        assert!(begun.elapsed() < Duration::from_secs(60), "{gives:?}: {:?}", begun.elapsed());
        for records in [80, 120] {
            long.grow_to(records).await;
            memory.read(&region, &trust).await.unwrap();
        }
        taken = disk.taken.lock().clone();
    }
    assert_eq!((taken.first().map(|bundle| bundle.0), taken.last().map(|bundle| bundle.1)), (Some(0), Some(119)));
    assert!(taken.windows(2).all(|two| two[0].1 + 1 == two[1].0), "nothing is missing: {taken:?}");
}

#[tokio::test]
async fn nothing_is_kept_behind_an_object_that_is_no_record() {
    let mut long = LongLog::with_records(20).await;
    put(&long.store, &layout::log_note(20), Bytes::from_static(b"junk")).await;
    long.next = 21;
    long.grow_to(60).await;
    let (region, kept) = (region(Arc::clone(&long.store) as Arc<dyn Store>), Arc::<KeptHere>::default());
    let trust = trust("eu-1");
    let log = restarted(&kept).read(&region, &trust).await.unwrap();
    assert_eq!((log.places(), kept.next()), (60, 20));
    let again = restarted(&kept).read(&region, &trust).await.unwrap();
    assert_eq!(again.entries(), log.entries());
    let outside = |log: &crate::log::RegionLog| log.outside().iter().map(|outside| outside.seq).collect::<Vec<_>>();
    assert_eq!((outside(&again), outside(&log)), (vec![20], vec![20]), "it is still reported");
}

#[tokio::test]
async fn a_note_that_is_exchanged_for_one_of_the_same_size_is_found_where_it_ends_a_bundle() {
    let long = long_log(5, 20).await;
    let key: ObjectKey = layout::log_note(999);
    let whole = ByteRange::WholeUpTo(ByteCount::from_bytes(1 << 20));
    let mut note = long.store.get(&key, whole).await.unwrap().to_vec();
    let last = note.len() - 10;
    note[last] ^= 1;
    let version = long.store.head(&key).await.unwrap().version;
    let body = SealedBody { sha256: sha256(&note), bytes: note.into() };
    long.store.put(&key, body, PutMode::IfUnchanged(version)).await.unwrap();
    let log = long.read().await;
    assert_eq!(log.places(), 999, "as without bundles");
    assert_eq!(log.outside().first().map(|outside| outside.seq), Some(999));
}
