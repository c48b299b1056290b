//! A region's log: an ordered, signed, hash-chained history of everything that happened in that region.
//!
//! A record is created at exactly the place after the last one, or not at all. So every log has one order that all
//! writers agree on, without a lock and without a clock, and a writer that loses a race reads what happened and decides again.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use lifeboat_stores::{ObjectKey, Store, StoreError};
use lifeboat_vocabulary::{ByteCount, RegionName, error_chain};

use crate::format::aead::sha256;
use crate::format::ids::RepositoryId;
use crate::format::key_name::KeyName;
use crate::format::layout::{self, StoredName};
use crate::log::create_once::small_object;
use crate::log::error::LogError;
use crate::log::link::{Linked, LogEntry, LogHead, Place, Unlinked};
use crate::log::note;
use crate::log::outside::{OUTSIDE_MAX, Outside, Refused};
use crate::log::records::record::{LOG_BYTES_MAX, LOG_RECORDS_MAX, RecordBody};
use crate::log::signers::Signers;

/// Records that are fetched at the same time.
const FETCHES: usize = 8;
/// Foreign objects among the records that are named; more than that are only skipped.
const STRAYS_KEPT: usize = 16;

/// What a log is measured against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTrust {
    /// The repository that the log belongs to.
    pub repository: RepositoryId,
    /// The keys that may sign: the root key, and those that it has named as far as that is known. A log that is read adds what it
    /// says, see [`RegionLog::trust`].
    pub signers: Signers,
    /// The region's name; `None` takes it from the first record.
    pub region: Option<RegionName>,
    /// The end of the log as it was seen before, by this program or by another reader. A log never gets shorter, and never changes.
    pub remembered: Option<LogHead>,
}

/// A log that was read and checked from its first record. Clones share the records: a clone of a long log is cheap.
#[derive(Clone, Debug)]
pub struct RegionLog {
    trust: LogTrust,
    entries: Vec<Arc<LogEntry>>,
    /// Of all notes together.
    bytes: u64,
    limits: LogLimits,
    strays: Vec<ObjectKey>,
    /// Objects at places of the log that are no records, by place.
    outside: Vec<Outside>,
    /// The first place behind the last record that is free, as far as is known.
    next: u64,
    room: Room,
}

/// Whether more records are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Left,
    /// It has as many as it may have. What comes behind them is not read: whoever fills a log up hides nothing of what stood in it.
    Full,
}

/// What a log may grow to. Nothing is appended beyond it: a log that no reader accepts would be worse than none.
#[derive(Clone, Copy, Debug)]
struct LogLimits {
    records: u64,
    /// A log is kept in memory while it is followed.
    bytes: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { records: LOG_RECORDS_MAX, bytes: LOG_BYTES_MAX }
    }
}

impl LogLimits {
    /// Whether `records` with `bytes` in all are within the limits.
    fn check(self, records: u64, bytes: u64) -> Result<(), LogError> {
        match records {
            records if records > self.records => Err(LogError::TooLong { max: self.records }),
            _ if bytes > self.bytes => Err(LogError::TooLarge { max: ByteCount::from_bytes(self.bytes) }),
            _ => Ok(()),
        }
    }
}

impl RegionLog {
    /// Reads the whole log and checks every signature, the chain, that no record is missing, and that it continues
    /// what was seen before. A log without any record is a region that is not in use yet.
    ///
    /// # Errors
    /// [`LogError`], by meaning. Nothing of the log may be used then.
    pub async fn read(store: &dyn Store, trust: LogTrust) -> Result<Self, LogError> {
        Self::read_within(store, trust, LogLimits::default()).await
    }

    async fn read_within(store: &dyn Store, trust: LogTrust, limits: LogLimits) -> Result<Self, LogError> {
        let (entries, strays, outside) = Default::default();
        let mut log = Self { trust, entries, bytes: 0, limits, strays, outside, next: 0, room: Room::Left };
        let places = log.list(store, None).await?;
        log.take_places(store, places).await?;
        if log.entries.is_empty()
            && let Some(error) = log.first_error(store).await?
        {
            return Err(error);
        }
        log.compare_with_remembered()?;
        Ok(log)
    }

    /// Why the first object is no record, in a log that has none.
    async fn first_error(&self, store: &dyn Store) -> Result<Option<LogError>, LogError> {
        let Some(first) = self.outside.first() else { return Ok(None) };
        let fetched = fetch(store, first.seq).await?;
        Ok(match fetched {
            Fetched::Note(bytes) => self.place(first.seq).judge(&bytes).err().map(|unlinked| *unlinked.error),
            Fetched::TooLarge(source) => Some(LogError::Store { seq: first.seq, source }),
            Fetched::Nothing => None,
        })
    }

    /// Lists the places that are taken, behind `after`, in order.
    async fn list(&mut self, store: &dyn Store, after: Option<u64>) -> Result<Vec<u64>, LogError> {
        let mut places = Vec::new();
        let mut after = after.map(layout::log_note);
        loop {
            let page = store.list(layout::LOG_PREFIX, after.as_ref()).await.map_err(LogError::List)?;
            for entry in &page.entries {
                match layout::parse(&entry.key) {
                    Some(StoredName::LogNote { seq }) => places.push(seq),
                    _ if self.strays.len() < STRAYS_KEPT && !self.strays.contains(&entry.key) => {
                        self.strays.push(entry.key.clone());
                    }
                    _ => {}
                }
            }
            let most = self.limits.records.saturating_add(OUTSIDE_MAX as u64);
            if places.len() as u64 > most {
                return Ok(places);
            }
            match page.entries.last() {
                Some(last) if page.more => after = Some(last.key.clone()),
                _ => return Ok(places),
            }
        }
    }

    /// Reads what lies at these places, in their order.
    async fn take_places(&mut self, store: &dyn Store, places: Vec<u64>) -> Result<(), LogError> {
        let fetch = |seq| async move { (seq, fetch(store, seq).await) };
        let mut fetched = futures_util::stream::iter(places).map(fetch).buffered(FETCHES);
        while let Some((seq, fetched)) = fetched.next().await {
            match fetched? {
                Fetched::Nothing => return Err(LogError::Gap { seq }),
                fetched => self.take(store, seq, fetched).await?,
            }
            if self.room == Room::Full {
                break;
            }
        }
        self.find_next();
        Ok(())
    }

    /// Takes what was found at a place: as the next record, or as something that is none. What looks like none is read twice: it may
    /// have been damaged on its way.
    async fn take(&mut self, store: &dyn Store, seq: u64, found: Fetched) -> Result<(), LogError> {
        let mut outside = match self.link_or_not(seq, found)? {
            None => return Ok(()),
            Some(outside) => outside,
        };
        if self.outside_at(seq).is_none_or(|known| known.sha256 != outside.sha256) {
            match self.link_or_not(seq, fetch(store, seq).await?)? {
                None => return Ok(()),
                Some(again) => outside = again,
            }
        }
        match self.outside.binary_search_by_key(&seq, |known| known.seq) {
            Ok(at) => self.outside[at..=at].fill(outside),
            Err(_) if self.outside.len() >= OUTSIDE_MAX => return Err(LogError::TooManyOutside { max: OUTSIDE_MAX }),
            Err(at) => self.outside.insert(at, outside),
        }
        Ok(())
    }

    fn outside_at(&self, seq: u64) -> Option<&Outside> {
        let at = self.outside.binary_search_by_key(&seq, |known| known.seq).ok()?;
        self.outside.get(at)
    }

    fn link_or_not(&mut self, seq: u64, found: Fetched) -> Result<Option<Outside>, LogError> {
        let bytes = match found {
            Fetched::Note(bytes) => bytes,
            Fetched::TooLarge(error) => {
                let why = error_chain(&error);
                return Ok(Some(Outside { seq, sha256: None, signed_by: None, why }));
            }
            Fetched::Nothing => return Err(LogError::Gap { seq }),
        };
        match self.place(seq).judge(&bytes) {
            Ok(linked) => match self.check_room(&bytes) {
                Ok(()) => {
                    self.push(linked, bytes.len());
                    Ok(None)
                }
                Err(full) => {
                    self.room = Room::Full;
                    let signed_by = Some(Box::new(linked.signer));
                    Ok(Some(Outside { seq, sha256: Some(linked.entry.sha256), signed_by, why: error_chain(&full) }))
                }
            },
            Err(Unlinked { error, signed_by }) => {
                let why = error_chain(&*error);
                Ok(Some(Outside { seq, sha256: Some(sha256(&bytes)), signed_by, why }))
            }
        }
    }

    /// What a note at this place has to be.
    fn place(&self, seq: u64) -> Place<'_> {
        let LogTrust { repository, region, signers, .. } = &self.trust;
        let prev = self.head();
        Place { seq, prev, repository: *repository, region: region.as_ref(), signers }
    }

    /// Puts a record at the end that was written at the next place.
    pub(crate) fn link_in(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        self.check_room(bytes)?;
        let linked = self.place(self.next).judge(bytes).map_err(|unlinked| *unlinked.error)?;
        self.push(linked, bytes.len());
        self.find_next();
        Ok(())
    }

    fn push(&mut self, linked: Linked, bytes: usize) {
        let Linked { entry, statement, .. } = linked;
        self.trust.region = Some(entry.record.link.region.clone());
        statement.iter().for_each(|statement| self.trust.signers.adopt(statement));
        if let Ok(at) = self.outside.binary_search_by_key(&entry.record.link.seq, |known| known.seq) {
            self.outside.remove(at);
        }
        self.entries.push(Arc::new(entry));
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// The first free place behind the last record: objects that are no records lie on some.
    fn find_next(&mut self) {
        let mut next = self.head().map_or(0, |head| head.seq + 1);
        let from = self.outside.partition_point(|outside| outside.seq < next);
        for outside in self.outside.iter().skip(from) {
            if outside.seq > next {
                break;
            }
            next += 1;
        }
        self.next = next;
    }

    /// Whether there is room for one more note.
    pub(crate) fn check_room(&self, note: &[u8]) -> Result<(), LogError> {
        self.limits.check(self.entries.len() as u64 + 1, self.bytes.saturating_add(note.len() as u64))
    }

    /// Whether these bytes, read at place `seq`, are signed as a record of this log has to be.
    pub(crate) fn check_signature(&self, seq: u64, bytes: &[u8]) -> Result<(), LogError> {
        note::verify(bytes, &self.trust.signers.all()).map(drop).map_err(|source| LogError::Note { seq, source })
    }

    /// Whether it was checked against the same keys, for the same repository.
    pub(crate) fn trusts_like(&self, trust: &LogTrust) -> bool {
        let same_region = trust.region.is_none() || trust.region == self.trust.region;
        same_region && trust.repository == self.trust.repository && trust.signers.root() == self.trust.signers.root()
    }

    /// What it is measured against, with the keys that it names itself.
    #[must_use]
    pub fn trust(&self) -> &LogTrust {
        &self.trust
    }

    fn compare_with_remembered(&self) -> Result<(), LogError> {
        self.compare_with(self.trust.remembered)
    }

    /// Whether the log goes on from what was seen before.
    pub(crate) fn compare_with(&self, remembered: Option<LogHead>) -> Result<(), LogError> {
        let Some(remembered) = remembered else { return Ok(()) };
        match self.at(remembered.seq) {
            None => match self.outside_at(remembered.seq) {
                Some(Outside { sha256: Some(found), .. }) => {
                    let LogHead { seq, sha256 } = remembered;
                    Err(LogError::Forked { seq, remembered: sha256, found: *found })
                }
                _ => Err(LogError::RolledBack { remembered: remembered.seq, found: self.places() }),
            },
            Some(entry) if entry.sha256 != remembered.sha256 => {
                let LogHead { seq, sha256 } = remembered;
                Err(LogError::Forked { seq, remembered: sha256, found: entry.sha256 })
            }
            Some(_) => Ok(()),
        }
    }

    /// The record at a place. Places are not the numbers of entries: objects that are no records may lie between them.
    #[must_use]
    pub fn at(&self, seq: u64) -> Option<&Arc<LogEntry>> {
        let index = self.entries.binary_search_by_key(&seq, |entry| entry.record.link.seq).ok()?;
        self.entries.get(index)
    }

    /// How many places the log takes up to its last record.
    #[must_use]
    pub fn places(&self) -> u64 {
        self.head().map_or(0, |head| head.seq + 1)
    }

    /// The place that the next record gets.
    pub(crate) fn next_place(&self) -> u64 {
        self.next
    }

    /// Objects at places of the log that are no records, by place.
    #[must_use]
    pub fn outside(&self) -> &[Outside] {
        &self.outside
    }

    /// Records that say nothing, because their keys may not say it.
    pub fn refused(&self) -> impl Iterator<Item = Refused> {
        self.entries.iter().filter_map(|entry| match &entry.record.body {
            RecordBody::Void { kind, why } => {
                Some(Refused { seq: entry.record.link.seq, kind: kind.clone(), why: why.clone() })
            }
            _ => None,
        })
    }

    /// The region whose log this is; unknown only while it is empty.
    #[must_use]
    pub fn region(&self) -> Option<&RegionName> {
        self.trust.region.as_ref()
    }

    /// All records, from the first.
    #[must_use]
    pub fn entries(&self) -> &[Arc<LogEntry>] {
        &self.entries
    }

    /// The end of the log, to be remembered; `None` while it is empty.
    #[must_use]
    pub fn head(&self) -> Option<LogHead> {
        self.entries.last().map(|last| LogHead { seq: last.record.link.seq, sha256: last.sha256 })
    }

    /// Objects among the records that are none (the first few). They do no harm; a person should look where they come from.
    #[must_use]
    pub(crate) fn strays(&self) -> &[ObjectKey] {
        &self.strays
    }

    /// The highest count that `writer` has used in this log. The next event's must be above that of all logs.
    #[must_use]
    pub fn last_count(&self, writer: &KeyName) -> Option<u64> {
        let is_own = |entry: &&Arc<LogEntry>| {
            entry.record.origin.writer == *writer && !matches!(entry.record.body, RecordBody::Void { .. })
        };
        let own = self.entries.iter().filter(is_own);
        own.map(|entry| entry.record.origin.wseq).max()
    }

    /// Reads what others have appended since, and returns how many records that were.
    ///
    /// # Errors
    /// [`LogError`], by meaning. What was read before stays valid.
    pub async fn refresh(&mut self, store: &dyn Store) -> Result<u64, LogError> {
        let before = self.entries.len();
        if self.room == Room::Full {
            return Ok(0);
        }
        let end = self.places();
        if self.outside.iter().any(|outside| outside.seq >= end) {
            // Where objects lie that are no records, the next record need not be at the next place. What they are is judged anew.
            self.read_behind(store).await?;
        } else {
            loop {
                match fetch(store, self.next).await? {
                    Fetched::Nothing => break,
                    found => self.take(store, self.next, found).await?,
                }
                self.find_next();
                if self.room == Room::Full {
                    break;
                }
            }
        }
        Ok((self.entries.len() - before) as u64)
    }

    /// As [`Self::refresh`], by one listing: finds also what lies behind a place that is free.
    pub(crate) async fn look_ahead(&mut self, store: &dyn Store) -> Result<u64, LogError> {
        let before = self.entries.len();
        self.read_behind(store).await?;
        Ok((self.entries.len() - before) as u64)
    }

    async fn read_behind(&mut self, store: &dyn Store) -> Result<(), LogError> {
        let places = self.list(store, self.head().map(|head| head.seq)).await?;
        let end = self.places();
        self.outside.retain(|outside| outside.seq < end || places.binary_search(&outside.seq).is_ok());
        self.take_places(store, places).await
    }
}

/// What lies at a place of a log.
pub(crate) enum Fetched {
    Nothing,
    Note(Bytes),
    /// More than any record has.
    TooLarge(StoreError),
}

pub(crate) async fn fetch(store: &dyn Store, seq: u64) -> Result<Fetched, LogError> {
    match store.get(&layout::log_note(seq), small_object()).await {
        Ok(bytes) => Ok(Fetched::Note(bytes)),
        Err(StoreError::NotFound { .. }) => Ok(Fetched::Nothing),
        Err(source @ StoreError::Unsupported { .. }) => Ok(Fetched::TooLarge(source)),
        Err(source) => Err(LogError::Store { seq, source }),
    }
}

#[cfg(test)]
mod tests;
