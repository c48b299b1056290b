//! Writing bundles: what stands in a log for good is put together, once, by whoever may delete there.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use lifeboat_stores::{ByteRange, ObjectKey, ObjectMeta, PutMode, SealedBody, Store, StoreError};
use lifeboat_vocabulary::{ByteCount, Clock, error_chain};

use crate::format::aead::sha256;
use crate::format::layout::{self, StoredName};
use crate::log::append::Draft;
use crate::log::bundle::codec::{
    BUNDLE_CONTENT_MAX, BUNDLE_NOTES_MAX, BUNDLED_LEAST, BUNDLED_USUAL, Bundle, BundleError, bytes_in_bundle,
};
use crate::log::create_once::{Created, create_once};
use crate::log::error::LogError;
use crate::log::link::{LogEntry, LogHead};
use crate::log::note::NoteSigner;
use crate::log::records::bundle::{BUNDLED_PLACES_MAX, BundleRecord};
use crate::log::records::record::{Origin, RecordBody};
use crate::log::region_log::{Fetched, RegionLog, fetch};

/// Records of one bundle: a log of 100,000 records is read with about 700 requests, and each bundle with one of half a megabyte.
const RECORDS: u64 = BUNDLED_USUAL as u64;
/// Fewer are not worth a request of their own, where an object that is no record ends a row of them; readers take none with fewer.
const RECORDS_LEAST: u64 = BUNDLED_LEAST as u64;
/// Notes that are fetched at the same time.
const FETCHES: usize = 16;
/// Notes that are compared before it is noted how far it has come.
const COMPARED_AT_ONCE: usize = 256;
/// Pages of the listing of bundles that are looked at: a thousand bundles each, for more records than a log may have.
const PAGES_MAX: usize = 4;
/// Bundles that are written in one call, so that other work gets its turn.
const WRITTEN_MAX: usize = 128;

const _: () = assert!(BUNDLE_NOTES_MAX as u64 == BUNDLED_PLACES_MAX, "what is written can be recorded");

/// How far this process has read the notes of one log one by one, before it signs that it has. It may be given up at any time.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadSingly {
    last: Option<LogHead>,
}

/// Writes the bundles that the log of a region lacks.
#[derive(Clone, Copy)]
pub struct BundleWriter<'a> {
    signer: &'a NoteSigner,
    clock: &'a dyn Clock,
    tool: &'a str,
    records: u64,
    least: u64,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BundlesWritten {
    /// Bundles of records that lay in none.
    pub new: u64,
    /// Bundles that were gone, or cut.
    pub again: u64,
    /// Bundles that are gone or cut, and could not be written again: a region may let nobody replace anything, or their record was
    /// made up. Readers pass over them.
    pub left: u64,
}

/// Why bundles could not be written. Nothing depends on them but time.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleWriteError {
    /// The log cannot be read or written.
    #[error("bundle the records of the log")]
    Log(#[from] LogError),
    /// The bundles cannot be listed.
    #[error("list the bundles of the log")]
    List(#[source] StoreError),
    /// One cannot be stored.
    #[error("store {key}")]
    Store {
        /// It.
        key: ObjectKey,
        /// What the store said.
        source: StoreError,
    },
    /// The records cannot be put together.
    #[error("put records of the log together")]
    Bundle(#[from] BundleError),
}

impl<'a> BundleWriter<'a> {
    /// Writes as the holder of a key, and calls itself `tool` in records.
    #[must_use]
    pub fn new(signer: &'a NoteSigner, clock: &'a dyn Clock, tool: &'a str) -> Self {
        Self { signer, clock, tool, records: RECORDS, least: RECORDS_LEAST }
    }

    /// With so many records in each.
    #[cfg(test)]
    pub(crate) fn with_records(self, records: u64, least: u64) -> Self {
        Self { records, least, ..self }
    }

    /// Writes what is due, and again what is gone. `log` has to be as the region has it now. A key that may not write such records
    /// writes nothing.
    ///
    /// A `bundle` record says that its key has read the log up to there record by record; the log may have been read from bundles of
    /// others. So the notes are compared before, behind the last such record of this key and behind what `read` says.
    ///
    /// CRASH SAFETY: the object first, then the record. A crash between the two leaves an object that readers pass over, because no
    /// record stands behind it; the next call makes the same bytes, finds them there, and writes the record. The other way round
    /// readers would look for an object that nobody has written.
    ///
    /// # Errors
    /// [`BundleWriteError`], by meaning; what was written before stays.
    pub async fn write_due(
        &self,
        store: &dyn Store,
        log: &mut RegionLog,
        read: &mut ReadSingly,
    ) -> Result<BundlesWritten, BundleWriteError> {
        let mut written = BundlesWritten::default();
        if !self.may_write(log) {
            return Ok(written);
        }
        let listed = list(store).await?;
        let lost = lost(log, &listed);
        if lost.is_empty() && self.due(log).is_none() {
            return Ok(written);
        }
        self.read_singly(store, log, read).await?;
        for places in lost {
            let first = *places.start();
            match self.write(store, log, places).await {
                Ok(()) => written.again += 1,
                Err(
                    error @ BundleWriteError::Log(
                        LogError::Forked { .. } | LogError::RolledBack { .. } | LogError::Gap { .. },
                    ),
                ) => {
                    return Err(error);
                }
                // What somebody has said of bundles that never were keeps nobody from writing others.
                Err(error) => {
                    tracing::debug!(first, error = %error_chain(&error), "a bundle of the log is not written again");
                    written.left += 1;
                }
            }
        }
        for _ in 0..WRITTEN_MAX {
            let Some(places) = self.due(log) else { break };
            self.write(store, log, places).await?;
            written.new += 1;
        }
        Ok(written)
    }

    /// Reads one bundle back, another one in each `turn`, and writes it again if it is not what its record says.
    ///
    /// # Errors
    /// [`BundleWriteError`], by meaning.
    pub async fn check_one(
        &self,
        store: &dyn Store,
        log: &mut RegionLog,
        turn: usize,
    ) -> Result<BundlesWritten, BundleWriteError> {
        let mut written = BundlesWritten::default();
        let count = recorded(log).count();
        let record = turn.checked_rem(count).and_then(|number| recorded(log).nth(number).copied());
        let Some(record) = record.filter(|_| self.may_write(log)) else { return Ok(written) };
        let key = key_of(&record);
        match store.get(&key, ByteRange::WholeUpTo(record.bytes)).await {
            Ok(object) if sha256(&object) == record.sha256 => return Ok(written),
            // What is gone is seen in the listing; what is larger is none.
            Ok(_) | Err(StoreError::NotFound { .. } | StoreError::Unsupported { .. }) => {}
            Err(source) => return Err(BundleWriteError::Store { key, source }),
        }
        self.write(store, log, record.first..=record.last).await?;
        written.again = 1;
        Ok(written)
    }

    /// Reads the notes of a log one by one, as far as this key has not said that it did, and this process has not.
    async fn read_singly(
        &self,
        store: &dyn Store,
        log: &RegionLog,
        read: &mut ReadSingly,
    ) -> Result<(), BundleWriteError> {
        let key = self.signer.verify_key();
        let is_own = |entry: &&Arc<LogEntry>| entry.signer == key && matches!(entry.record.body, RecordBody::Bundle(_));
        let own = log.entries().iter().rev().find(is_own).map(|entry| entry.record.link.seq);
        let is_same = |last: &LogHead| log.at(last.seq).is_some_and(|entry| entry.sha256 == last.sha256);
        let known = read.last.filter(is_same).map(|last| last.seq);
        let mut from = own.max(known).map_or(0, |seq| seq.saturating_add(1));
        while let Some(next) = log.compare_notes(store, from, COMPARED_AT_ONCE).await? {
            from = next;
            let last = next.checked_sub(1).and_then(|last| log.at(last));
            read.last = last.map(|entry| LogHead { seq: entry.record.link.seq, sha256: entry.sha256 });
        }
        read.last = log.head();
        Ok(())
    }

    fn may_write(&self, log: &RegionLog) -> bool {
        let probe = BundleRecord { first: 0, last: 0, sha256: sha256(b""), bytes: ByteCount::ZERO };
        log.may_write(self.signer, &self.draft(log, probe))
    }

    fn draft(&self, log: &RegionLog, record: BundleRecord) -> Draft {
        let (now, writer) = (self.clock.now(), self.signer.name().clone());
        let wseq = Origin::next_count(log.last_count(&writer), now);
        let origin = Origin { writer, wseq, time: now, tool: self.tool.to_owned() };
        Draft { origin, body: RecordBody::Bundle(record) }
    }

    /// The next records that lie in no bundle and are enough for one.
    fn due(&self, log: &RegionLog) -> Option<RangeInclusive<u64>> {
        let mut bundled: Vec<(u64, u64)> = recorded(log).map(|record| (record.first, record.last)).collect();
        bundled.sort_unstable();
        let mut bundled = bundled.into_iter().peekable();
        let (mut reach, mut row): (Option<u64>, Option<RangeInclusive<u64>>) = (None, None);
        let length = |row: &RangeInclusive<u64>| row.end().saturating_sub(*row.start()).saturating_add(1);
        for place in log.entries().iter().map(|entry| entry.record.link.seq) {
            while let Some((_, last)) = bundled.next_if(|(first, _)| *first <= place) {
                reach = reach.max(Some(last));
            }
            let is_free = reach.is_none_or(|reach| reach < place);
            let goes_on = row.clone().filter(|row| is_free && row.end().checked_add(1) == Some(place));
            // It has ended: nothing will ever come behind it.
            if goes_on.is_none() && row.as_ref().is_some_and(|row| length(row) >= self.least) {
                return row;
            }
            row = is_free.then(|| goes_on.map_or(place..=place, |row| *row.start()..=place));
            if row.as_ref().is_some_and(|row| length(row) >= self.records) {
                return row;
            }
        }
        None
    }

    async fn write(
        &self,
        store: &dyn Store,
        log: &mut RegionLog,
        places: RangeInclusive<u64>,
    ) -> Result<(), BundleWriteError> {
        let notes = notes(store, log, places.clone()).await?;
        let first = *places.start();
        let object = Bundle::encode(first, notes.iter().map(AsRef::as_ref))?;
        let last = first.saturating_add(notes.len() as u64).saturating_sub(1);
        let body = SealedBody { sha256: sha256(&object), bytes: object.into() };
        let record = BundleRecord { first, last, sha256: body.sha256, bytes: ByteCount::of(&body.bytes) };
        put(store, &key_of(&record), &body).await?;
        if !recorded(log).any(|known| *known == record) {
            log.append(store, self.signer, &self.draft(log, record)).await?;
        }
        Ok(())
    }
}

fn key_of(record: &BundleRecord) -> ObjectKey {
    StoredName::LogBundle { first: record.first, last: record.last, sha256: record.sha256 }.key()
}

/// The bundles of a log, by its records. Whoever may write such records can make up some with holes: there are no such bundles.
fn recorded(log: &RegionLog) -> impl Iterator<Item = &BundleRecord> {
    log.entries().iter().filter_map(|entry| match &entry.record.body {
        RecordBody::Bundle(record) if has_all(log, record) => Some(record),
        _ => None,
    })
}

/// Whether a record stands at each place of a bundle.
fn has_all(log: &RegionLog, BundleRecord { first, last, .. }: &BundleRecord) -> bool {
    let at = log.entries().partition_point(|entry| entry.record.link.seq < *first);
    let end = usize::try_from(last.saturating_sub(*first)).ok().and_then(|span| at.checked_add(span));
    let place = |at: usize| log.entries().get(at).map(|entry| entry.record.link.seq);
    place(at) == Some(*first) && end.and_then(place) == Some(*last)
}

/// The places whose bundles a log names and a listing does not have, or not in their size.
fn lost(log: &RegionLog, listed: &BTreeMap<ObjectKey, ObjectMeta>) -> Vec<RangeInclusive<u64>> {
    let is_there = |record: &&BundleRecord| listed.get(&key_of(record)).is_some_and(|meta| meta.size == record.bytes);
    let there: Vec<&BundleRecord> = recorded(log).filter(is_there).collect();
    let is_lost =
        |record: &&BundleRecord| there.iter().all(|there| there.first > record.first || there.last < record.last);
    let mut lost: Vec<_> = recorded(log).filter(is_lost).map(|record| (record.first, record.last)).collect();
    lost.sort_unstable();
    lost.dedup();
    lost.truncate(WRITTEN_MAX);
    lost.into_iter().map(|(first, last)| first..=last).collect()
}

async fn list(store: &dyn Store) -> Result<BTreeMap<ObjectKey, ObjectMeta>, BundleWriteError> {
    let (mut listed, mut after) = (BTreeMap::new(), None);
    for _ in 0..PAGES_MAX {
        let page = store.list(layout::BUNDLES_PREFIX, after.as_ref()).await.map_err(BundleWriteError::List)?;
        after = page.entries.last().map(|last| last.key.clone()).filter(|_| page.more);
        listed.extend(page.entries.into_iter().map(|entry| (entry.key, entry.meta)));
        if after.is_none() {
            break;
        }
    }
    Ok(listed)
}

/// Notes of a log, as they are stored, up to as many as fit into a bundle. Each is compared with what was read of the log.
async fn notes(store: &dyn Store, log: &RegionLog, places: RangeInclusive<u64>) -> Result<Vec<Bytes>, LogError> {
    let fetch = |seq| async move { (seq, fetch(store, seq).await) };
    let mut fetched = futures_util::stream::iter(places).map(fetch).buffered(FETCHES);
    let (mut notes, mut bytes) = (Vec::new(), 0_usize);
    while let Some((seq, note)) = fetched.next().await {
        let Fetched::Note(note) = note? else { return Err(LogError::Gap { seq }) };
        let (found, known) = (sha256(&note), log.at(seq).map(|entry| entry.sha256));
        let Some(remembered) = known else { return Err(LogError::Gap { seq }) };
        if found != remembered {
            log.check_signature(seq, &note)?;
            return Err(LogError::Forked { seq, remembered, found });
        }
        bytes = bytes.saturating_add(bytes_in_bundle(&note));
        if bytes > BUNDLE_CONTENT_MAX {
            break;
        }
        notes.push(note);
    }
    Ok(notes)
}

/// Creates a bundle, or replaces one that is damaged: its name says what it has to be.
async fn put(store: &dyn Store, key: &ObjectKey, body: &SealedBody) -> Result<(), BundleWriteError> {
    let failed = |source| BundleWriteError::Store { key: key.clone(), source };
    match create_once(store, key, body).await.map_err(failed)? {
        Created::Ours => Ok(()),
        Created::Others => {
            let version = store.head(key).await.map_err(failed)?.version;
            store.put(key, body.clone(), PutMode::IfUnchanged(version)).await.map_err(failed)?;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
