//! A region's log: an ordered, signed, hash-chained history of everything that happened in that region.
//!
//! A record is created at exactly the place after the last one, or not at all. So every log has one order that all
//! writers agree on, without a lock and without a clock, and a writer that loses a race reads what happened and decides again.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use lifeboat_stores::{ObjectKey, Store, StoreError, Support};
use lifeboat_vocabulary::{ByteCount, RegionName, Sha256Digest};
use parking_lot::Mutex;

use crate::format::aead::sha256;
use crate::format::ids::RepositoryId;
use crate::format::key_name::KeyName;
use crate::format::layout::{self, StoredName};
use crate::keys::signing::VerifyKey;
use crate::log::create_once::{Created, create_once, small_object};
use crate::log::error::LogError;
use crate::log::note::{self, NoteSigner};
use crate::log::records::record::{LOG_BYTES_MAX, LOG_RECORDS_MAX, Link, Origin, Record, RecordBody};

/// Records that are fetched at the same time.
const FETCHES: usize = 8;
/// How often [`RegionLog::append`] lets others go first.
const APPEND_ATTEMPTS: u32 = 32;
/// Foreign objects among the records that are named; more than that are only skipped.
const STRAYS_KEPT: usize = 16;

/// What a log is measured against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTrust {
    /// The repository that the log belongs to.
    pub repository: RepositoryId,
    /// The keys that may sign records.
    pub keys: Vec<VerifyKey>,
    /// The region's name; `None` takes it from the first record.
    pub region: Option<RegionName>,
    /// The end of the log as it was seen before, by this program or by another reader. A log never gets shorter, and never changes.
    pub remembered: Option<LogHead>,
}

/// The end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogHead {
    /// Place of the last record, from 0.
    pub seq: u64,
    /// SHA-256 of its note.
    pub sha256: Sha256Digest,
}

/// A record that stands in a log, and was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The record.
    pub record: Record,
    /// SHA-256 of its note.
    pub sha256: Sha256Digest,
}

/// A record before it has its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Who says it. For a repetition after a failure it must be the same, with the same count and time.
    pub origin: Origin,
    /// What is said.
    pub body: RecordBody,
}

/// How one try to append ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The draft stands in the log, at this place.
    Written(LogHead),
    /// Others were first. What they said has been read: entries from this place on are new.
    Overtaken {
        /// Place of the first new entry.
        new_from: u64,
    },
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
        let mut log = Self { trust, entries: Vec::new(), bytes: 0, limits, strays: Vec::new() };
        let count = log.list(store).await?;
        let fetch = |seq| async move { (seq, fetch(store, seq).await) };
        let mut fetched = futures_util::stream::iter(0..count).map(fetch).buffered(FETCHES);
        while let Some((seq, bytes)) = fetched.next().await {
            let bytes = bytes?.ok_or(LogError::Gap { seq })?;
            log.link_in(&bytes)?;
        }
        log.compare_with_remembered()?;
        Ok(log)
    }

    /// Lists the records, and returns how many there are. None may be missing between the first and the last.
    async fn list(&mut self, store: &dyn Store) -> Result<u64, LogError> {
        let mut count = 0;
        let mut after = None;
        loop {
            let page = store.list(layout::LOG_PREFIX, after.as_ref()).await.map_err(LogError::List)?;
            for entry in &page.entries {
                match layout::parse(&entry.key) {
                    Some(StoredName::LogNote { seq }) if seq == count => count += 1,
                    Some(StoredName::LogNote { .. }) => return Err(LogError::Gap { seq: count }),
                    _ if self.strays.len() < STRAYS_KEPT => self.strays.push(entry.key.clone()),
                    _ => {}
                }
            }
            self.limits.check(count, 0)?;
            match page.entries.last() {
                Some(last) if page.more => after = Some(last.key.clone()),
                _ => return Ok(count),
            }
        }
    }

    /// Checks a record and puts it at the end.
    fn link_in(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        let seq = self.entries.len() as u64;
        self.check_room(bytes)?;
        let text = note::verify(bytes, &self.trust.keys).map_err(|source| LogError::Note { seq, source })?.text;
        let record = Record::parse(text).map_err(|source| LogError::Record { seq, source })?;
        let Link { region, seq: found, prev } = &record.link;
        if *found != seq {
            return Err(LogError::Place { seq, found: *found });
        }
        if *prev != self.head().map(|head| head.sha256) {
            return Err(LogError::Chain { seq });
        }
        if let Some(expected) = self.trust.region.as_ref().filter(|expected| *expected != region) {
            return Err(LogError::Region { seq, expected: expected.clone(), found: region.clone() });
        }
        if let RecordBody::Init(init) = &record.body
            && init.repo != self.trust.repository
        {
            return Err(LogError::Repository { expected: self.trust.repository, found: init.repo });
        }
        self.trust.region = Some(region.clone());
        self.entries.push(Arc::new(LogEntry { record, sha256: sha256(bytes) }));
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Whether there is room for one more note.
    fn check_room(&self, note: &[u8]) -> Result<(), LogError> {
        self.limits.check(self.entries.len() as u64 + 1, self.bytes.saturating_add(note.len() as u64))
    }

    /// Whether these bytes, read at place `seq`, are signed as a record of this log has to be.
    pub(crate) fn check_signature(&self, seq: u64, bytes: &[u8]) -> Result<(), LogError> {
        note::verify(bytes, &self.trust.keys).map(drop).map_err(|source| LogError::Note { seq, source })
    }

    /// Whether it was checked against the same keys, for the same repository.
    pub(crate) fn trusts_like(&self, trust: &LogTrust) -> bool {
        let same_region = trust.region.is_none() || trust.region == self.trust.region;
        same_region && trust.repository == self.trust.repository && trust.keys == self.trust.keys
    }

    /// What it is measured against.
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
        let at_that_place = usize::try_from(remembered.seq).ok().and_then(|place| self.entries.get(place));
        match at_that_place {
            None => Err(LogError::RolledBack { remembered: remembered.seq, found: self.entries.len() as u64 }),
            Some(entry) if entry.sha256 != remembered.sha256 => {
                let LogHead { seq, sha256 } = remembered;
                Err(LogError::Forked { seq, remembered: sha256, found: entry.sha256 })
            }
            Some(_) => Ok(()),
        }
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
        let own = self.entries.iter().filter(|entry| entry.record.origin.writer == *writer);
        own.map(|entry| entry.record.origin.wseq).max()
    }

    /// Reads what others have appended since, and returns how many records that were.
    ///
    /// # Errors
    /// [`LogError`], by meaning. What was read before stays valid.
    pub async fn refresh(&mut self, store: &dyn Store) -> Result<u64, LogError> {
        let before = self.entries.len() as u64;
        loop {
            let seq = self.entries.len() as u64;
            match fetch(store, seq).await? {
                Some(bytes) => self.link_in(&bytes)?,
                None => return Ok(seq - before),
            }
        }
    }

    /// Tries once to append at the place after the last record that we have read.
    ///
    /// A draft that stands in the log already (same writer, same count) is not written again: a writer that got no answer
    /// may simply repeat the call with the same draft.
    ///
    /// # Errors
    /// [`LogError`]; after [`LogError::Store`] the record may or may not stand there: repeat with the same draft.
    /// [`LogError::Swept`] for a backup or a key that a `sweep-intent` of this log names; [`LogError::TooLong`] or
    /// [`LogError::TooLarge`] if the log is full; [`LogError::RolledBack`] or [`LogError::Forked`] if it does not end any more
    /// where we know it to end.
    pub(crate) async fn try_append(
        &mut self,
        store: &dyn Store,
        signer: &NoteSigner,
        draft: &Draft,
    ) -> Result<Attempt, LogError> {
        if let Some(head) = self.find(draft)? {
            return Ok(Attempt::Written(head));
        }
        self.refuse_swept(&draft.body)?;
        if !self.trust.keys.contains(&signer.verify_key()) {
            return Err(LogError::UnknownSigner { key: Box::new(signer.verify_key()) });
        }
        let seq = self.entries.len() as u64;
        let region = self.trust.region.clone().ok_or(LogError::Nameless)?;
        let alone = alone_where_conditions_may_be_ignored(store, &self.trust.repository, &region).await;
        if alone.is_some() && self.refresh(store).await? > 0 {
            let found = self.find(draft)?;
            return Ok(found.map_or(Attempt::Overtaken { new_from: seq }, Attempt::Written));
        }
        let link = Link { region, seq, prev: self.head().map(|head| head.sha256) };
        let record = Record { link, origin: draft.origin.clone(), body: draft.body.clone() };
        let text = record.to_text().map_err(|source| LogError::Record { seq, source })?;
        // Signatures are deterministic: a repetition at the same place has the same bytes.
        let bytes = Bytes::from(note::sign(&text, &[signer]).map_err(|source| LogError::Note { seq, source })?);
        self.check_room(&bytes)?;
        // A record behind a log that was set back meanwhile would make it unreadable to everybody.
        self.confirm_head(store).await?;
        let failed = |source| LogError::Store { seq, source };
        match create_once(store, &layout::log_note(seq), bytes.clone()).await.map_err(failed)? {
            Created::Ours => {
                self.link_in(&bytes)?;
                Ok(Attempt::Written(LogHead { seq, sha256: sha256(&bytes) }))
            }
            Created::Others => {
                self.refresh(store).await?;
                match self.find(draft)? {
                    Some(head) => Ok(Attempt::Written(head)),
                    None => Ok(Attempt::Overtaken { new_from: seq }),
                }
            }
        }
    }

    /// Appends, whatever others append meanwhile. For records that depend on what the log says, `try_append`
    /// lets the caller decide anew.
    ///
    /// # Errors
    /// As `try_append`; [`LogError::Contended`] if others were first every time.
    pub async fn append(&mut self, store: &dyn Store, signer: &NoteSigner, draft: &Draft) -> Result<LogHead, LogError> {
        self.append_while(store, signer, draft, |_| Ok(())).await
    }

    /// Appends as long as `holds` says so: it is asked before the first attempt, and again whenever others were first.
    ///
    /// # Errors
    /// As [`Self::append`], and what `holds` says.
    pub(crate) async fn append_while(
        &mut self,
        store: &dyn Store,
        signer: &NoteSigner,
        draft: &Draft,
        holds: impl Fn(&Self) -> Result<(), LogError>,
    ) -> Result<LogHead, LogError> {
        for _ in 0..APPEND_ATTEMPTS {
            holds(self)?;
            if let Attempt::Written(head) = self.try_append(store, signer, draft).await? {
                return Ok(head);
            }
        }
        Err(LogError::Contended { attempts: APPEND_ATTEMPTS })
    }

    /// Where the draft stands already, if it does.
    fn find(&self, draft: &Draft) -> Result<Option<LogHead>, LogError> {
        let Origin { writer, wseq, .. } = &draft.origin;
        let same_count = |entry: &&Arc<LogEntry>| {
            let origin = &entry.record.origin;
            (&origin.writer, origin.wseq) == (writer, *wseq)
        };
        match self.entries.iter().rev().find(same_count) {
            None => Ok(None),
            Some(entry) if entry.record.body == draft.body => {
                Ok(Some(LogHead { seq: entry.record.link.seq, sha256: entry.sha256 }))
            }
            Some(entry) => {
                Err(LogError::CountReused { writer: writer.clone(), wseq: *wseq, seq: entry.record.link.seq })
            }
        }
    }
}

/// One turn for each log that this process appends to where the store may ignore conditions, by repository and region.
type Turns = BTreeMap<(String, RegionName), Arc<tokio::sync::Mutex<()>>>;
static APPENDING: Mutex<Turns> = Mutex::new(BTreeMap::new());

/// Where the store may ignore conditions, a writer that appends with a log that was read a while ago would replace the records
/// of others, and break the chain. So there the tasks of one process take turns, and each looks first; more than one
/// process must not write there in any case.
async fn alone_where_conditions_may_be_ignored(
    store: &dyn Store,
    repository: &RepositoryId,
    region: &RegionName,
) -> Option<tokio::sync::OwnedMutexGuard<()>> {
    if store.capabilities().conditional_put == Support::Yes {
        return None;
    }
    let turn = Arc::clone(APPENDING.lock().entry((repository.to_string(), region.clone())).or_default());
    Some(turn.lock_owned().await)
}

pub(crate) async fn fetch(store: &dyn Store, seq: u64) -> Result<Option<Bytes>, LogError> {
    match store.get(&layout::log_note(seq), small_object()).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(source) => Err(LogError::Store { seq, source }),
    }
}

#[cfg(test)]
mod tests;
