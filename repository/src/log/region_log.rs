//! A region's log: an ordered, signed, hash-chained history of everything that happened in that region.
//!
//! A record is created at exactly the place after the last one, or not at all. So every log has one order that all
//! writers agree on, without a lock and without a clock, and a writer that loses a race reads what happened and decides again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use lifeboat_stores::{ObjectKey, ObjectMeta, Store, StoreError};
use lifeboat_vocabulary::{RegionName, Sha256Digest, error_chain};

use crate::format::aead::sha256;
use crate::format::ids::RepositoryId;
use crate::format::layout::{self, StoredName};
use crate::keys::signing::VerifyKey;
use crate::log::bundle::unkept::Unkept;
use crate::log::create_once::small_object;
use crate::log::error::LogError;
use crate::log::link::{Linked, LogEntry, LogHead, Place, Signatures, Unlinked};
use crate::log::note;
use crate::log::outside::{Judged, OUTSIDE_MAX, Outside};
use crate::log::records::record::RecordBody;
use crate::log::room::{LogLimits, Room};
use crate::log::signers::Signers;

/// Records that are fetched at the same time.
const FETCHES: usize = 16;
/// So many new records are asked for one by one, because there are seldom more; then what is new is listed.
const ONE_BY_ONE: usize = 8;
/// Objects behind a free place that are looked at.
const FAR_MAX: usize = 1000;
/// With more objects that are no records, a log is being flooded: then they are read once.
const READ_TWICE_MAX: usize = 1000;
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
    /// The first free place. What lies behind it belongs to no chain: whoever fills that place later decides what follows it.
    next: u64,
    room: Room,
    /// Counts what was looked at, for whoever waits for it.
    looked_at: Arc<AtomicU64>,
    /// The notes that are to be kept over a restart and are not yet; `None` if none are to be.
    unkept: Option<Unkept>,
}

impl RegionLog {
    /// A log of which nothing was read yet.
    pub(crate) fn unread(trust: LogTrust, limits: LogLimits) -> Self {
        let (entries, strays, outside) = Default::default();
        let (next, room, looked_at) = (0, Room::Left, Arc::default());
        Self { trust, entries, bytes: 0, limits, strays, outside, next, room, looked_at, unkept: None }
    }

    /// Counts there what is looked at from now on.
    pub(crate) fn counting_on(self, looked_at: Arc<AtomicU64>) -> Self {
        Self { looked_at, ..self }
    }

    /// Why the first object is no record, in a log that has none.
    pub(crate) async fn first_error(&self, store: &dyn Store) -> Result<Option<LogError>, LogError> {
        let Some(first) = self.outside.first() else { return Ok(None) };
        let fetched = fetch(store, first.seq).await?;
        Ok(match fetched {
            Fetched::Note(bytes) => self.place(first.seq).judge(&bytes).err().map(|unlinked| *unlinked.error),
            Fetched::TooLarge(source) => Some(LogError::Store { seq: first.seq, source }),
            Fetched::Nothing => None,
        })
    }

    /// Lists the places that are taken, in order.
    async fn list(&mut self, store: &dyn Store, asked: Asked) -> Result<Listed, LogError> {
        let Asked { mut after, end, pages } = asked;
        let most = self.limits.records.saturating_add(OUTSIDE_MAX as u64);
        let mut places = Vec::new();
        loop {
            let page = store.list(layout::LOG_PREFIX, after.as_ref()).await.map_err(LogError::List)?;
            for entry in &page.entries {
                match layout::parse(&entry.key) {
                    Some(StoredName::LogNote { seq }) if end.is_some_and(|end| seq >= end) => {
                        return Ok(Listed { places, behind: None });
                    }
                    Some(StoredName::LogNote { seq }) => places.push((seq, entry.meta.clone())),
                    // They lie behind all records.
                    Some(StoredName::LogBundle { .. }) => return Ok(Listed { places, behind: None }),
                    _ if self.strays.len() < STRAYS_KEPT && !self.strays.contains(&entry.key) => {
                        self.strays.push(entry.key.clone());
                    }
                    _ => {}
                }
            }
            after = page.entries.last().map(|last| last.key.clone()).filter(|_| page.more);
            if after.is_none() || pages == Pages::One || places.len() as u64 > most {
                return Ok(Listed { places, behind: after });
            }
        }
    }

    /// Reads what lies at these places, in their order. What was judged before and cannot be judged otherwise now is not read again.
    /// `far` counts those that lie behind a free place.
    async fn take_places(
        &mut self,
        store: &dyn Store,
        places: Vec<(u64, ObjectMeta)>,
        far: &mut usize,
    ) -> Result<(), LogError> {
        let mut next = self.next;
        let is_known = |(seq, meta): &(u64, ObjectMeta)| {
            let is_known = self.knows(*seq, next, meta);
            // Whatever lies at the next place, the one behind it is the next then.
            next = if *seq == next { seq.saturating_add(1) } else { next };
            is_known
        };
        let known: Vec<bool> = places.iter().map(is_known).collect();
        let fetch = |((seq, meta), is_known): ((u64, ObjectMeta), bool)| async move {
            let fetched = if is_known { None } else { Some(fetch(store, seq).await) };
            (seq, meta, fetched)
        };
        let mut fetched = futures_util::stream::iter(places.into_iter().zip(known)).map(fetch).buffered(FETCHES);
        while let Some((seq, meta, ahead)) = fetched.next().await {
            // They can say nothing; a few are looked at, to see whose they are.
            *far += usize::from(seq > self.next);
            if *far > FAR_MAX {
                break;
            }
            let found = match ahead {
                Some(found) => found?,
                // A record that was found meanwhile may be what it follows.
                None if !self.knows(seq, self.next, &meta) => self::fetch(store, seq).await?,
                None => {
                    self.next = if seq == self.next { seq.saturating_add(1) } else { self.next };
                    continue;
                }
            };
            match found {
                Fetched::Nothing => return Err(LogError::Gap { seq }),
                found => self.take(store, seq, found, Some(meta)).await?,
            }
            if self.room == Room::Full {
                break;
            }
        }
        Ok(())
    }

    /// Whether an object is known that is no record, and can be none as long as no record comes before it. `next` is the first place
    /// of which nothing is known then.
    fn knows(&self, seq: u64, next: u64, meta: &ObjectMeta) -> bool {
        self.outside_at(seq).is_some_and(|known| known.judged == self.judging(seq, next, Some(meta.clone())))
    }

    /// What the judgement of the object at a place goes by.
    fn judging(&self, seq: u64, next: u64, meta: Option<ObjectMeta>) -> Judged {
        // Behind a free place it does not matter what the last record is.
        let free = (seq > next).then_some(next);
        Judged {
            behind: self.head().filter(|_| free.is_none()).map(|head| head.seq),
            is_behind_free: free.is_some(),
            meta,
        }
    }

    /// Takes what was found at a place: as the next record, or as something that is none. What looks like none is read twice: it may
    /// have been damaged on its way.
    async fn take(
        &mut self,
        store: &dyn Store,
        seq: u64,
        found: Fetched,
        meta: Option<ObjectMeta>,
    ) -> Result<(), LogError> {
        self.looked_at.fetch_add(1, Ordering::Relaxed);
        let judged = self.judging(seq, self.next, meta);
        let mut outside = self.link_or_not(seq, found)?;
        let is_known = |outside: &NoRecord| self.outside_at(seq).is_some_and(|known| known.sha256 == outside.sha256);
        let is_flood = self.outside.len() > READ_TWICE_MAX;
        if !is_flood && outside.as_ref().is_some_and(|outside| !is_known(outside)) {
            outside = self.link_or_not(seq, fetch(store, seq).await?)?;
        }
        if seq == self.next {
            self.next = seq.saturating_add(1);
        }
        let Some(NoRecord { sha256, signed_by, is_claim, why }) = outside else { return Ok(()) };
        let outside = Outside { seq, sha256, signed_by, is_claim, why, judged: judged.clone() };
        match self.outside.binary_search_by_key(&seq, |known| known.seq) {
            Ok(at) => self.outside[at..=at].fill(outside),
            // What stands up to here stays readable, whatever somebody puts behind it.
            Err(_) if self.outside.len() >= OUTSIDE_MAX && judged.is_behind_free => {}
            Err(_) if self.outside.len() >= OUTSIDE_MAX => self.room = Room::Full,
            Err(at) => self.outside.insert(at, outside),
        }
        Ok(())
    }

    fn outside_at(&self, seq: u64) -> Option<&Outside> {
        let at = self.outside.binary_search_by_key(&seq, |known| known.seq).ok()?;
        self.outside.get(at)
    }

    fn link_or_not(&mut self, seq: u64, found: Fetched) -> Result<Option<NoRecord>, LogError> {
        let bytes = match found {
            Fetched::Note(bytes) => bytes,
            Fetched::TooLarge(error) => {
                return Ok(Some(NoRecord { sha256: None, signed_by: None, is_claim: false, why: error_chain(&error) }));
            }
            Fetched::Nothing => return Err(LogError::Gap { seq }),
        };
        let place = self.place(seq);
        let is_claim = place.is_claimed_by(&bytes);
        let no_record = |error: &LogError, signed_by| {
            Some(NoRecord { sha256: Some(sha256(&bytes)), signed_by, is_claim, why: error_chain(error) })
        };
        match place.judge(&bytes) {
            Ok(linked) => match self.check_room(&linked, bytes.len()) {
                Ok(()) => {
                    self.push(linked, &bytes);
                    Ok(None)
                }
                Err(full) => Ok(no_record(&full, Some(Box::new(linked.entry.signer)))),
            },
            Err(Unlinked { error, signed_by }) => Ok(no_record(&error, signed_by)),
        }
    }

    /// What a note at this place has to be.
    fn place(&self, seq: u64) -> Place<'_> {
        let LogTrust { repository, region, signers, .. } = &self.trust;
        let prev = self.head();
        let free = (seq > self.next).then_some(self.next);
        let sysid = self.entries.first().and_then(|first| match &first.record.body {
            RecordBody::Init(init) => Some(init.sysid),
            _ => None,
        });
        let signatures = Signatures::Verified;
        Place { seq, prev, free, repository: *repository, sysid, region: region.as_ref(), signers, signatures }
    }

    /// Whether a note that is to be written at the next place would be a record.
    pub(crate) fn check_next(&self, bytes: &[u8]) -> Result<(), LogError> {
        if self.room == Room::Full {
            return Err(LogError::TooManyOutside { max: OUTSIDE_MAX });
        }
        let linked = self.place(self.next).judge(bytes).map_err(|unlinked| *unlinked.error)?;
        self.check_room(&linked, bytes.len())
    }

    /// Puts a record at the end that was written at the next place.
    pub(crate) fn link_in(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        self.looked_at.fetch_add(1, Ordering::Relaxed);
        let linked = self.place(self.next).judge(bytes).map_err(|unlinked| *unlinked.error)?;
        self.check_room(&linked, bytes.len())?;
        self.push(linked, bytes);
        self.next = self.places();
        Ok(())
    }

    fn push(&mut self, linked: Linked, note: &[u8]) {
        if let Some(unkept) = &mut self.unkept {
            unkept.add(linked.entry.record.link.seq, note);
        }
        let Linked { entry, statement, .. } = linked;
        self.trust.region = Some(entry.record.link.region.clone());
        statement.iter().for_each(|statement| self.trust.signers.adopt(statement));
        if let Ok(at) = self.outside.binary_search_by_key(&entry.record.link.seq, |known| known.seq) {
            self.outside.remove(at);
        }
        self.entries.push(Arc::new(entry));
        self.bytes = self.bytes.saturating_add(note.len() as u64);
    }

    fn check_room(&self, linked: &Linked, bytes: usize) -> Result<(), LogError> {
        let (records, bytes) = (self.entries.len() as u64 + 1, self.bytes.saturating_add(bytes as u64));
        self.limits.check(records, bytes).or_else(|full| {
            let is_let_in = linked.is_let_into_a_full_log(&self.trust.signers);
            if is_let_in { self.limits.with_reserve().check(records, bytes) } else { Err(full) }
        })
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

    /// Whether the log goes on from what its reader was told.
    pub(crate) fn compare_with_remembered(&self) -> Result<(), LogError> {
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

    /// Reads what others have appended since, and returns how many records that were.
    ///
    /// # Errors
    /// [`LogError`], by meaning. What was read before stays valid.
    pub async fn refresh(&mut self, store: &dyn Store) -> Result<u64, LogError> {
        let before = self.entries.len();
        let mut has_listed = false;
        loop {
            // Where objects lie that are no records, the next place need not be the one that it was: some may be gone.
            let end = self.places();
            let is_far_behind = self.entries.len() - before >= ONE_BY_ONE;
            if !has_listed && (is_far_behind || self.outside.last().is_some_and(|outside| outside.seq >= end)) {
                self.look_ahead(store).await?;
                has_listed = true;
            }
            // A listing may be older than what was written last.
            let found = match self.room {
                Room::Left => fetch(store, self.next).await?,
                Room::Full => Fetched::Nothing,
            };
            match found {
                Fetched::Nothing => return Ok((self.entries.len() - before) as u64),
                found => self.take(store, self.next, found, None).await?,
            }
        }
    }

    /// Whether it says other things than an earlier reading of it: about records, or about objects that are none.
    pub(crate) fn differs_from(&self, earlier: &Self) -> bool {
        (self.entries.len(), self.next, self.room) != (earlier.entries.len(), earlier.next, earlier.room)
            || self.outside != earlier.outside
    }

    /// As [`Self::refresh`], by listings: finds also what lies behind a place that is free, and what was exchanged. It may be given up
    /// at any time: what was read stays, and the next call goes on behind it.
    pub(crate) async fn look_ahead(&mut self, store: &dyn Store) -> Result<u64, LogError> {
        self.look_ahead_before(store, None).await
    }

    /// As [`Self::look_ahead`], without the places from `end` on.
    pub(crate) async fn look_ahead_before(&mut self, store: &dyn Store, end: Option<u64>) -> Result<u64, LogError> {
        let (before, from) = (self.entries.len(), self.places());
        let mut after = self.head().map(|head| layout::log_note(head.seq));
        // What is known to lie there may be gone: then all that lies there now has to be known before any of it is judged.
        let knows_behind = self.outside.last().is_some_and(|outside| outside.seq >= from);
        let pages = if knows_behind { Pages::All } else { Pages::One };
        let (mut far, mut is_first) = (0, true);
        loop {
            let Listed { places, behind } = self.list(store, Asked { after, end, pages }).await?;
            if is_first {
                (self.next, self.room, is_first) = (from, Room::Left, false);
            }
            if knows_behind {
                let is_listed = |seq: u64| places.binary_search_by_key(&seq, |(seq, _)| *seq).is_ok();
                let is_asked = |seq: u64| seq >= from && end.is_none_or(|end| seq < end);
                self.outside.retain(|outside| !is_asked(outside.seq) || is_listed(outside.seq));
            }
            self.take_places(store, places, &mut far).await?;
            let ends = pages == Pages::All || far > FAR_MAX || self.room == Room::Full;
            match behind {
                Some(behind) if !ends => after = Some(behind),
                _ => return Ok((self.entries.len() - before) as u64),
            }
        }
    }
}

/// What is listed of a log.
struct Asked {
    /// The key behind which it begins.
    after: Option<ObjectKey>,
    /// The place before which it ends.
    end: Option<u64>,
    pages: Pages,
}

/// How much is listed at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pages {
    One,
    All,
}

/// Places that are taken.
struct Listed {
    places: Vec<(u64, ObjectMeta)>,
    /// The key behind which there is more to list.
    behind: Option<ObjectKey>,
}

/// What was found at a place, and is no record.
struct NoRecord {
    sha256: Option<Sha256Digest>,
    signed_by: Option<Box<VerifyKey>>,
    is_claim: bool,
    why: String,
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

mod contents;
mod kept;
pub(crate) mod mark;

#[cfg(test)]
mod outside_tests;
#[cfg(test)]
mod tests;
