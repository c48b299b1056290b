//! Reading a log of which nothing, or little, is known: bundles first, then what stands behind them record by record.
//!
//! A bundle is never trusted. Each note in it is judged as if it had been read by itself, and:
//! - an object has to lie at the place of each of its notes, as large as the note, and the last one and some by chance have to be the very notes;
//! - what was taken from it counts only if a `bundle` record of the log stands behind it. Such a record is signed by a key that may delete,
//!   and says that this key has read the log up to there record by record. Without it, whoever has a writer's key could bundle a history
//!   that nobody has ever read: an object at the next place that follows nothing is passed over by whoever reads record by record,
//!   and could be the end of a made-up chain in a bundle;
//! - if anything in the region says that there is another history, all of it is read record by record: a note behind the first bundled place
//!   that belongs to no chain and says that it is the record of its place, or a head that names another record than the one that was
//!   read. Whoever has signed them: a history that somebody has made up names only the keys that he wants to be known. The
//!   same if there may be more to see than was looked at, or if it cannot be read.
//!
//! Whatever does not fit is passed over, and costs time. So a log never says anything by its bundles that it would not say without.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{join_all, join3};
use lifeboat_stores::{ByteRange, ObjectKey, Store, StoreError};
use lifeboat_vocabulary::{ByteCount, error_chain};

use crate::format::aead::sha256;
use crate::format::layout::{self, StoredName};
use crate::log::bundle::codec::{BUNDLE_OBJECT_MAX, BUNDLED_LEAST, Bundle};
use crate::log::bundle::listed::{ListedBundle, ListedBundles};
use crate::log::error::LogError;
use crate::log::records::record::RecordBody;
use crate::log::region_log::mark::Mark;
use crate::log::region_log::{Fetched, LogTrust, RegionLog, fetch};
use crate::log::room::LogLimits;
use crate::log::witness::{SignedEnd, Witnesses};

/// Bundles that are fetched at the same time: of at most 8 MiB each.
const BUNDLES_AT_ONCE: usize = 4;
/// Bundles that are taken before the rest is listed anew.
const CHAIN_MAX: usize = 256;
/// So many objects that are no bundles of the log are tried; then the rest is read record by record.
const TRIED_IN_VAIN_MAX: usize = 32;
/// Others get their turn after so many notes.
const NOTES_IN_A_ROW: usize = 64;

/// When bundles are used, and how closely they are looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BundleRules {
    /// Where fewer records are to be read, they are read one by one.
    pub(crate) records_least: u64,
    /// A bundle of fewer notes is none, unless they are so large that no more of them fit in.
    pub(crate) notes_least: usize,
    /// Notes of each bundle, chosen by chance, that are read by themselves.
    pub(crate) samples: usize,
}

impl Default for BundleRules {
    fn default() -> Self {
        Self { records_least: 4000, notes_least: BUNDLED_LEAST, samples: 4 }
    }
}

/// A log that is being read. It may be given up at any time, and gone on with: what was read stays.
#[derive(Debug)]
pub(crate) struct LogReading {
    log: RegionLog,
    /// How many records were known before.
    begun_with: usize,
    rules: BundleRules,
    /// The bundles whose records were taken, in the order of their places. Each has at least a hundred notes, or mebibytes of
    /// them: a log within its limits has some thousand.
    taken: Vec<Taken>,
    /// Whether the last of them is not taken completely.
    is_taking: bool,
    /// Whether no more are taken.
    is_over: bool,
    /// Objects that are no bundles of this log.
    refused: BTreeSet<ObjectKey>,
}

/// A bundle whose records were taken.
#[derive(Debug)]
struct Taken {
    places: RangeInclusive<u64>,
    before: Mark,
}

/// What lies at the places of a bundle.
struct InTheLog {
    /// The size of each object in **bytes**, in order; `None` where there is none.
    sizes: Vec<Option<u64>>,
    /// The last one, and some by chance, with their places.
    read: Vec<(u64, Fetched)>,
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

    pub(crate) async fn read_within(store: &dyn Store, trust: LogTrust, limits: LogLimits) -> Result<Self, LogError> {
        let mut reading = LogReading::new(Self::unread(trust, limits));
        reading.go_on(store).await?;
        Ok(reading.into_log())
    }

    /// As [`Self::read`], and counts there what is looked at, for whoever waits.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_counted(store: &dyn Store, trust: LogTrust, looked_at: Arc<AtomicU64>) -> Result<Self, LogError> {
        let unread = Self::unread(trust, LogLimits::default()).counting_on(looked_at);
        let mut reading = LogReading::new(unread);
        reading.go_on(store).await?;
        Ok(reading.into_log())
    }

    /// As [`Self::read`], by bundles however few records there are: to find out whether a bundle can say anything that the log does not
    /// say.
    ///
    /// # Errors
    /// As [`Self::read`].
    #[doc(hidden)]
    pub async fn read_by_any_bundles(store: &dyn Store, trust: LogTrust) -> Result<Self, LogError> {
        let rules = BundleRules { records_least: 0, notes_least: 1, samples: 1 };
        let mut reading = LogReading::new(Self::unread(trust, LogLimits::default())).with_rules(rules);
        reading.go_on(store).await?;
        Ok(reading.into_log())
    }

    /// Place of the last record that says that its key has read everything before it.
    fn last_bundle_record(&self) -> Option<u64> {
        let is_one = |record: &RecordBody| matches!(record, RecordBody::Bundle(_));
        let last = self.entries().iter().rev().find(|entry| is_one(&entry.record.body))?;
        Some(last.record.link.seq)
    }
}

impl LogReading {
    /// Goes on from what is known of a log.
    pub(crate) fn new(log: RegionLog) -> Self {
        Self {
            begun_with: log.entries().len(),
            log,
            rules: BundleRules::default(),
            taken: Vec::new(),
            is_taking: false,
            is_over: false,
            refused: BTreeSet::new(),
        }
    }

    pub(crate) fn with_rules(self, rules: BundleRules) -> Self {
        Self { rules, ..self }
    }

    /// The log, once [`Self::go_on`] has come to its end.
    pub(crate) fn into_log(self) -> RegionLog {
        self.log
    }

    /// The log as far as it was read.
    pub(crate) fn log(&self) -> &RegionLog {
        &self.log
    }

    /// Reads on to the end.
    ///
    /// # Errors
    /// [`LogError`], by meaning. What was read stays; nothing of it may be used.
    pub(crate) async fn go_on(&mut self, store: &dyn Store) -> Result<(), LogError> {
        if std::mem::take(&mut self.is_taking)
            && let Some(Taken { before, .. }) = self.taken.pop()
        {
            self.log.rewind(&before);
        }
        // It may be hours since somebody has given up: the region may have been set back since.
        self.log.confirm_head(store).await?;
        loop {
            self.take_bundles(store).await?;
            // Before the end is read: a log that goes on meanwhile is not behind its own heads.
            let heads = if self.taken.is_empty() { None } else { Some(Witnesses::read(store, &self.log).await) };
            self.log.look_ahead(store).await?;
            let Some(heads) = heads else { break };
            match self.unproven() {
                // A crash has come before the record of a bundle, or somebody has made the bundle up. Nobody does that more than once.
                Some(at) if !self.is_over => {
                    tracing::debug!(
                        "no record of the log says that its last bundle was read; what it has is read record by record"
                    );
                    self.take_back(at);
                }
                Some(_) => self.take_back(0),
                None => match self.doubt(store, heads).await? {
                    None => break,
                    Some(why) => {
                        tracing::warn!(why, "the log is read record by record, and not by its bundles");
                        self.take_back(0);
                    }
                },
            }
        }
        if self.log.entries().is_empty()
            && let Some(error) = self.log.first_error(store).await?
        {
            return Err(error);
        }
        self.log.compare_with_remembered()
    }

    /// Takes bundles, as long as one begins at the next place or behind it.
    async fn take_bundles(&mut self, store: &dyn Store) -> Result<(), LogError> {
        if self.is_over || (self.taken.is_empty() && !self.is_long(store).await) {
            return Ok(());
        }
        // Not what they are, but whether they can be had now: another try may have more luck.
        let mut away = BTreeSet::new();
        while self.refused.len() + away.len() < TRIED_IN_VAIN_MAX {
            let listed = match ListedBundles::list(store, self.log.next_place()).await {
                Ok(listed) => listed,
                Err(error) => {
                    tracing::debug!(error = %error_chain(&error), "bundles of the log cannot be listed");
                    return Ok(());
                }
            };
            let chain = listed.chain(CHAIN_MAX, |key| self.refused.contains(key) || away.contains(key));
            let Some(first) = chain.first().map(|bundle| bundle.first) else { return Ok(()) };
            if first > self.log.next_place() {
                self.log.look_ahead_before(store, Some(first)).await?;
                // Behind a free place there is nothing.
                if self.log.next_place() != first {
                    return Ok(());
                }
            }
            self.take_chain(store, chain, &mut away).await?;
        }
        Ok(())
    }

    /// Takes bundles that follow each other, up to the first that is none.
    async fn take_chain(
        &mut self,
        store: &dyn Store,
        chain: Vec<ListedBundle>,
        away: &mut BTreeSet<ObjectKey>,
    ) -> Result<(), LogError> {
        let samples = self.rules.samples;
        let fetch = |bundle: ListedBundle| async move {
            let whole = ByteRange::WholeUpTo(ByteCount::from_bytes(BUNDLE_OBJECT_MAX as u64));
            let chosen = by_chance(bundle.first..=bundle.last, samples);
            let places = [bundle.last].into_iter().chain(chosen);
            let read = join_all(places.map(|place| async move { (place, self::fetch(store, place).await) }));
            let (object, sizes, read) = join3(store.get(&bundle.key, whole), sizes(store, &bundle), read).await;
            let fetched = object.and_then(|object| Ok((object, sizes?)));
            (bundle, fetched, read)
        };
        let mut fetched = futures_util::stream::iter(chain).map(fetch).buffered(BUNDLES_AT_ONCE);
        while let Some((bundle, fetched, read)) = fetched.next().await {
            let key = bundle.key.clone();
            match fetched {
                Ok((object, sizes)) => {
                    let read = read.into_iter().map(|(place, note)| Ok((place, note?)));
                    let found = InTheLog { sizes, read: read.collect::<Result<_, LogError>>()? };
                    if let Err(why) = self.take(&bundle, &object, &found).await {
                        tracing::warn!(%key, why, "it is no bundle of this log; its records are read one by one");
                        self.refused.insert(key);
                        return Ok(());
                    }
                }
                Err(error) => {
                    tracing::debug!(%key, error = %error_chain(&error), "a bundle of the log cannot be read now");
                    let is_gone = matches!(error, StoreError::NotFound { .. } | StoreError::Unsupported { .. });
                    let set = if is_gone { &mut self.refused } else { &mut *away };
                    set.insert(key);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Takes the records of a bundle; `Err` says why it is none, and leaves the log as it was.
    async fn take(&mut self, bundle: &ListedBundle, object: &Bytes, found: &InTheLog) -> Result<(), String> {
        if sha256(object) != bundle.sha256 {
            return Err("it is not what its name says".to_owned());
        }
        let content = Bundle::decode(object).map_err(|error| error_chain(&error))?;
        if (content.first(), content.last()) != (bundle.first, bundle.last) {
            return Err("it has other places than its name says".to_owned());
        }
        // Many small ones would take longer than the records themselves.
        if !content.is_filled(self.rules.notes_least) {
            return Err("it has too few records".to_owned());
        }
        let other = |place: u64| Err(format!("it has another record than the one that lies at place {place}"));
        let sizes = content.notes().map(|note| Some(note.len() as u64));
        if let Some(at) = sizes.enumerate().position(|(at, size)| found.sizes.get(at) != Some(&size)) {
            return other(bundle.first.saturating_add(at as u64));
        }
        for (place, read) in &found.read {
            let at = usize::try_from(place.saturating_sub(bundle.first)).unwrap_or(usize::MAX);
            match read {
                Fetched::Note(note) if content.notes().nth(at) == Some(note.as_ref()) => {}
                _ => return other(*place),
            }
        }
        let before = self.log.mark(self.taken.last().map(|taken| &taken.before));
        self.taken.push(Taken { places: bundle.first..=bundle.last, before });
        self.is_taking = true;
        for (number, note) in content.notes().enumerate() {
            if let Err(error) = self.log.link_in(note) {
                self.is_taking = false;
                if let Some(Taken { before, .. }) = self.taken.pop() {
                    self.log.rewind(&before);
                }
                return Err(error_chain(&error));
            }
            if number % NOTES_IN_A_ROW == NOTES_IN_A_ROW - 1 {
                tokio::task::yield_now().await;
            }
        }
        self.is_taking = false;
        Ok(())
    }

    /// The first of the bundles that were taken and behind which no `bundle` record stands. Asked at the end alone: a record
    /// that lies in a bundle counts only if that bundle does.
    fn unproven(&self) -> Option<usize> {
        let proven = self.log.last_bundle_record().unwrap_or(0);
        self.taken.iter().position(|taken| *taken.places.end() >= proven)
    }

    /// Takes back what was taken from this bundle on, and takes no others.
    fn take_back(&mut self, at: usize) {
        if let Some(Taken { before, .. }) = self.taken.get(at) {
            self.log.rewind(before);
        }
        self.taken.truncate(at);
        self.is_over = true;
    }

    /// Whether there are so many records to read that bundles are worth it: an object lies where the last of them would. What cannot be
    /// listed is read one by one.
    async fn is_long(&self, store: &dyn Store) -> bool {
        let Some(least) = self.rules.records_least.checked_sub(1) else { return true };
        let last = layout::log_note(self.log.next_place().saturating_add(least));
        match store.list(layout::LOG_PREFIX, Some(&last)).await {
            Ok(page) => {
                let first = page.entries.first().and_then(|entry| layout::parse(&entry.key));
                matches!(first, Some(StoredName::LogNote { .. }))
            }
            Err(error) => {
                tracing::debug!(error = %error_chain(&error), "how long the log is cannot be listed");
                false
            }
        }
    }

    /// Why there may be another history than the one that was taken from bundles, if anything says so.
    async fn doubt(
        &self,
        store: &dyn Store,
        heads: Result<Witnesses, LogError>,
    ) -> Result<Option<&'static str>, LogError> {
        let Some(first) = self.taken.first().map(|taken| *taken.places.start()) else { return Ok(None) };
        let read = self.log.entries().len().saturating_sub(self.begun_with) as u64;
        if read < self.rules.records_least {
            return Ok(Some("it has few records, and objects behind them"));
        }
        // What lies behind the last of them was not looked at.
        if self.log.is_closed() {
            return Ok(Some("too many objects lie in it that are no records"));
        }
        if self.log.outside().iter().any(|outside| outside.seq > first && outside.is_claim) {
            return Ok(Some("a note that is no record says that it is one"));
        }
        let heads = match heads {
            Ok(heads) if heads.are_all => heads,
            Ok(_) => return Ok(Some("there are too many heads of writers")),
            Err(error) => {
                // Also where it is not allowed: whoever could take the right to see them away would hide what they say.
                tracing::debug!(error = %error_chain(&error), "the heads of the writers cannot be read");
                return Ok(Some("the heads of its writers cannot be read"));
            }
        };
        for SignedEnd { seq, sha256: named } in heads.claims(self.log.trust()) {
            let Some(record) = self.log.at(seq).map(|entry| entry.sha256) else {
                return Ok(Some("a head names a record that it does not have"));
            };
            if named.is_some_and(|named| named != record.to_string()) {
                return Ok(Some("a head names another record than its bundles have"));
            }
            if self.taken.iter().any(|taken| taken.places.contains(&seq)) {
                match fetch(store, seq).await? {
                    Fetched::Note(note) if sha256(&note) == record => {}
                    _ => return Ok(Some("another record lies at the place that a head names")),
                }
            }
        }
        Ok(None)
    }
}

/// Some of these places. Which ones, nobody can know before; without chance they are none.
fn by_chance(places: RangeInclusive<u64>, count: usize) -> Vec<u64> {
    let span = places.end().saturating_sub(*places.start()).saturating_add(1);
    let choose = |_| {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).ok()?;
        let chosen = u64::from_le_bytes(bytes).checked_rem(span)?;
        Some(places.start().saturating_add(chosen))
    };
    (0..count).map_while(choose).collect()
}

/// The sizes of the objects at the places of a bundle. One listing has a thousand of them, which is as many as a bundle usually has.
async fn sizes(store: &dyn Store, bundle: &ListedBundle) -> Result<Vec<Option<u64>>, StoreError> {
    let mut sizes = Vec::new();
    let mut after = bundle.first.checked_sub(1).map(layout::log_note);
    loop {
        let page = store.list(layout::LOG_PREFIX, after.as_ref()).await?;
        for entry in &page.entries {
            let Some(StoredName::LogNote { seq }) = layout::parse(&entry.key) else { continue };
            let Some(at) = seq.checked_sub(bundle.first).filter(|_| seq <= bundle.last) else { return Ok(sizes) };
            // A bundle has at most some thousand places.
            sizes.resize(usize::try_from(at).unwrap_or(usize::MAX), None);
            sizes.push(Some(entry.meta.size.as_bytes()));
        }
        let has_all = sizes.len() as u64 > bundle.last.saturating_sub(bundle.first);
        match page.entries.last() {
            Some(last) if page.more && !has_all => after = Some(last.key.clone()),
            _ => return Ok(sizes),
        }
    }
}

#[cfg(test)]
mod tests;
