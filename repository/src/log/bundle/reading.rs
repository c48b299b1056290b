//! Reading a log of which nothing, or little, is known: bundles first, then what stands behind them record by record.
//!
//! A bundle is never trusted. Each note in it is judged as if it had been read by itself, and:
//! - an object has to lie at the place of each of its notes, as large as the note, and the last one has to be the very note;
//! - what was taken from it counts only if a `bundle` record of the log stands behind it. Such a record is signed by a key that may delete,
//!   and says that this key has read the log up to there record by record. Without it, whoever has a writer's key could bundle a history
//!   that nobody has ever read: an object at the next place that follows nothing is passed over by whoever reads record by record,
//!   and could be the end of a made-up chain in a bundle;
//! - if a key in force has signed an object behind it that does not follow, or a writer's head names another record than the one that
//!   was read, somebody has another history: then all of it is read record by record.
//!
//! Whatever does not fit is passed over, and costs time. So a log never says anything by its bundles that it would not say without.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join3;
use lifeboat_stores::{ByteRange, ObjectKey, Store, StoreError};
use lifeboat_vocabulary::{ByteCount, Sha256Digest, error_chain};

use crate::format::aead::sha256;
use crate::format::layout::{self, StoredName};
use crate::log::bundle::codec::{BUNDLE_OBJECT_MAX, Bundle};
use crate::log::bundle::listed::{ListedBundle, ListedBundles};
use crate::log::error::LogError;
use crate::log::outside::Outside;
use crate::log::records::record::RecordBody;
use crate::log::region_log::mark::Mark;
use crate::log::region_log::{Fetched, LogTrust, RegionLog, fetch};
use crate::log::room::LogLimits;
use crate::log::witness::signed_ends;

/// Bundles that are fetched at the same time: of at most 8 MiB each.
const BUNDLES_AT_ONCE: usize = 4;
/// Bundles that are taken before the rest is listed anew.
const CHAIN_MAX: usize = 256;
/// So many objects that are no bundles of the log are tried; then the rest is read record by record.
const TRIED_IN_VAIN_MAX: usize = 32;
/// Others get their turn after so many notes.
const NOTES_IN_A_ROW: usize = 64;

/// A log that is being read. It may be given up at any time, and gone on with: what was read stays.
#[derive(Debug)]
pub(crate) struct LogReading {
    log: RegionLog,
    /// How the log stood before each bundle behind which no `bundle` record was read yet.
    unproven: Vec<Unproven>,
    /// Whether the last of them is not taken completely.
    is_taking: bool,
    /// Objects that are no bundles of this log.
    refused: BTreeSet<ObjectKey>,
    bundles: Bundles,
}

#[derive(Debug)]
struct Unproven {
    bundle: ListedBundle,
    before: Mark,
}

/// What lies at the places of a bundle.
struct InTheLog {
    /// The size of each object in **bytes**, in order; `None` where there is none.
    sizes: Vec<Option<u64>>,
    /// The last one.
    end: Fetched,
}

/// Whether records are taken from bundles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bundles {
    /// They may be.
    Allowed,
    /// Some were.
    Used,
    /// Somebody has another history than they say.
    Doubted,
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

    /// Place of the last record that says that its key has read everything before it.
    pub(crate) fn last_bundle_record(&self) -> Option<u64> {
        let is_one = |record: &RecordBody| matches!(record, RecordBody::Bundle(_));
        let last = self.entries().iter().rev().find(|entry| is_one(&entry.record.body))?;
        Some(last.record.link.seq)
    }
}

impl LogReading {
    /// Goes on from what is known of a log.
    pub(crate) fn new(log: RegionLog) -> Self {
        Self { log, unproven: Vec::new(), is_taking: false, refused: BTreeSet::new(), bundles: Bundles::Allowed }
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
        loop {
            self.take_bundles(store).await?;
            self.log.look_ahead(store).await?;
            self.prove();
            if self.give_up_unproven() {
                continue;
            }
            if self.bundles != Bundles::Used || !self.is_doubtful(store).await? {
                break;
            }
            let LogReading { log, refused, .. } = self;
            let (log, refused) = (log.unread_again(), std::mem::take(refused));
            *self = Self { refused, bundles: Bundles::Doubted, ..Self::new(log) };
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
        if std::mem::take(&mut self.is_taking)
            && let Some(Unproven { before, .. }) = self.unproven.pop()
        {
            self.log.rewind(before);
        }
        // Not what they are, but whether they can be had now: another try may have more luck.
        let mut away = BTreeSet::new();
        while self.bundles != Bundles::Doubted && self.refused.len() + away.len() < TRIED_IN_VAIN_MAX {
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
        let fetch = |bundle: ListedBundle| async move {
            let whole = ByteRange::WholeUpTo(ByteCount::from_bytes(BUNDLE_OBJECT_MAX as u64));
            let (object, end, sizes) =
                join3(store.get(&bundle.key, whole), fetch(store, bundle.last), sizes(store, &bundle)).await;
            let fetched = object.and_then(|object| Ok((object, sizes?)));
            (bundle, fetched, end)
        };
        let mut fetched = futures_util::stream::iter(chain).map(fetch).buffered(BUNDLES_AT_ONCE);
        while let Some((bundle, fetched, end)) = fetched.next().await {
            let key = bundle.key.clone();
            match fetched {
                Ok((object, sizes)) => {
                    if let Err(why) = self.take(bundle, &object, &InTheLog { sizes, end: end? }).await {
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
    async fn take(&mut self, bundle: ListedBundle, object: &Bytes, found: &InTheLog) -> Result<(), String> {
        if sha256(object) != bundle.sha256 {
            return Err("it is not what its name says".to_owned());
        }
        let content = Bundle::decode(object).map_err(|error| error_chain(&error))?;
        if (content.first(), content.last()) != (bundle.first, bundle.last) {
            return Err("it has other places than its name says".to_owned());
        }
        let sizes = content.notes().map(|note| Some(note.len() as u64));
        if let Some(at) = sizes.enumerate().position(|(at, size)| found.sizes.get(at) != Some(&size)) {
            let place = bundle.first.saturating_add(at as u64);
            return Err(format!("it has another record than the one that lies at place {place}"));
        }
        match &found.end {
            Fetched::Note(end) if content.notes().next_back() == Some(end.as_ref()) => {}
            _ => return Err(format!("it does not end with what lies at place {}", bundle.last)),
        }
        self.unproven.push(Unproven { bundle, before: self.log.mark() });
        self.is_taking = true;
        for (number, note) in content.notes().enumerate() {
            if let Err(error) = self.log.link_in(note) {
                self.is_taking = false;
                if let Some(Unproven { before, .. }) = self.unproven.pop() {
                    self.log.rewind(before);
                }
                return Err(error_chain(&error));
            }
            if number % NOTES_IN_A_ROW == NOTES_IN_A_ROW - 1 {
                tokio::task::yield_now().await;
            }
        }
        self.is_taking = false;
        self.bundles = Bundles::Used;
        self.prove();
        Ok(())
    }

    /// What stands before a `bundle` record was read by the key that has signed it.
    fn prove(&mut self) {
        if let Some(seq) = self.log.last_bundle_record() {
            self.unproven.retain(|unproven| unproven.bundle.last >= seq);
        }
    }

    /// Takes back what nobody has confirmed: a crash has come before the record of a bundle, or somebody has made the bundle up. Returns
    /// whether there was any.
    fn give_up_unproven(&mut self) -> bool {
        let unproven = std::mem::take(&mut self.unproven);
        let found = !unproven.is_empty();
        self.refused.extend(unproven.iter().map(|unproven| unproven.bundle.key.clone()));
        if let Some(Unproven { before, bundle }) = unproven.into_iter().next() {
            tracing::debug!(key = %bundle.key, "no record of the log says that it was bundled; its records are read one by one");
            self.log.rewind(before);
        }
        found
    }

    /// Whether somebody has signed another history than the one that was taken from bundles.
    async fn is_doubtful(&self, store: &dyn Store) -> Result<bool, LogError> {
        let signers = &self.log.trust().signers;
        let in_force = signers.not_revoked();
        let is_signed = |outside: &&Outside| outside.signed_by.as_deref().is_some_and(|key| in_force.contains(key));
        if let Some(Outside { seq, why, .. }) = self.log.outside().iter().find(is_signed) {
            tracing::warn!(
                seq,
                why,
                "the log is read record by record, because a key in force has signed an object that is no record"
            );
            return Ok(true);
        }
        let ends = match signed_ends(store, self.log.trust()).await {
            Ok(ends) => ends,
            // Heads are evidence and no condition: a reader may not be allowed to see them.
            Err(error) => {
                tracing::debug!(error = %error_chain(&error), "what writers have signed about the end of the log is not known");
                return Ok(false);
            }
        };
        let differs =
            |(seq, sha256): &(u64, Sha256Digest)| self.log.at(*seq).is_some_and(|entry| entry.sha256 != *sha256);
        let other = ends.into_iter().find(differs);
        if let Some((seq, _)) = other {
            tracing::warn!(
                seq,
                "the log is read record by record, because a writer has signed another record than its bundles have"
            );
        }
        Ok(other.is_some())
    }
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
