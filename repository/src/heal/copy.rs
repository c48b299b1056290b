//! One sealed object from a healthy region into another: fetched, verified, put, and nothing taken on trust.
//!
//! Ciphertext is copied as it is, without any key. What an object must be is known beforehand: its SHA-256 from a signed
//! record, or, for WAL, the signature that it carries.

use std::collections::BTreeSet;

use bytes::Bytes;
use lifeboat_stores::{ObjectKey, ObjectVersion, PutMode, Ranking, SealedBody, StoreError};
use lifeboat_vocabulary::{ByteCount, RegionName, error_chain};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::format::aead::sha256;
use crate::heal::pace::Pace;
use crate::heal::progress::HealProgress;
use crate::heal::proof::Proof;
use crate::heal::tools::HealTools;
use crate::log::damage::FoundDamage;
use crate::log::error::LogError;
use crate::log::region_store::RegionStore;
use crate::wal::object::WalTrust;

/// What is known about the object's place in the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing was listed there.
    Empty,
    /// Something is there that may be damaged.
    Suspect,
}

/// An object that is to be copied.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) key: &'a ObjectKey,
    pub(crate) proof: &'a Proof,
    /// As it was listed; zero if it was not.
    pub(crate) size: ByteCount,
    /// The sources that have it; empty for all.
    pub(crate) holders: &'a BTreeSet<RegionName>,
}

static ALL_SOURCES: BTreeSet<RegionName> = BTreeSet::new();

impl<'a> Wanted<'a> {
    /// An object of which nothing was listed, from any source.
    pub(crate) fn from_anywhere(key: &'a ObjectKey, proof: &'a Proof) -> Self {
        Self { key, proof, size: ByteCount::ZERO, holders: &ALL_SOURCES }
    }
}

/// An object as a source gave it, verified.
pub(crate) struct Fetched {
    pub(crate) body: SealedBody,
    pub(crate) from: RegionName,
}

/// How a copy ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Copied {
    /// It was put there.
    Put { size: ByteCount, from: RegionName },
    /// It was there already, as it should be.
    Found { size: ByteCount },
}

/// Why an object could not be copied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    /// The stop token.
    #[error("stopped")]
    Stopped,
    /// The target does not take it. The rest would fare no better.
    #[error("write {key} to {region}")]
    Target { key: ObjectKey, region: RegionName, source: StoreError },
    /// What lies in its place cannot be read. The rest may be.
    #[error("read {key} in {region}")]
    Unread { key: ObjectKey, region: RegionName, source: StoreError },
    /// No region gave it as it should be.
    #[error("no region has {key} as it should be ({})", list(.tried))]
    NoSource { key: ObjectKey, tried: Vec<(RegionName, String)> },
    /// No region gave it, and one of them did not say whether it has it: it may be whole there.
    #[error("{key} cannot be read at present ({})", list(.tried))]
    SourceAway { key: ObjectKey, tried: Vec<(RegionName, String)> },
    /// The key that it is sealed under is not known, or cannot be brought along.
    #[error("{key} is sealed under a key that the region does not have: {why}")]
    Epoch { key: ObjectKey, why: String },
    /// The region's log takes no record.
    #[error("write into the log of {region}")]
    Log { region: RegionName, source: LogError },
    /// Something lies there, and nobody knows what.
    #[error("{key} in {region} exists and may not be read with these credentials: heal with a role that may")]
    NotReadable { key: ObjectKey, region: RegionName },
    /// What lies there is damaged, and must not be replaced with this role's rights.
    #[error(
        "{key} in {region} is damaged and may not be replaced with these credentials: delete it with a role that may, then heal again"
    )]
    NotReplaceable { key: ObjectKey, region: RegionName },
}

fn list(tried: &[(RegionName, String)]) -> String {
    tried.iter().map(|(region, what)| format!("{region}: {what}")).collect::<Vec<_>>().join("; ")
}

/// Damage that is remembered from one run; more is only logged.
const DAMAGE_KEPT: usize = 1000;

/// Copies objects into one region, one at a time.
pub(crate) struct Copier<'a> {
    pub(crate) target: &'a RegionStore,
    pub(crate) sources: Vec<RegionStore>,
    pub(crate) trust: &'a WalTrust,
    pub(crate) pace: &'a Pace,
    pub(crate) stop: &'a CancellationToken,
    pub(crate) progress: &'a HealProgress,
    ranking: Ranking,
    damage: Mutex<Vec<FoundDamage>>,
}

impl<'a> Copier<'a> {
    pub(crate) fn new(
        target: &'a RegionStore,
        sources: Vec<RegionStore>,
        trust: &'a WalTrust,
        tools: &HealTools<'a>,
    ) -> Self {
        let HealTools { pace, progress, stop, .. } = *tools;
        let ranking = Ranking::of(sources.len());
        Self { target, sources, trust, pace, stop, progress, ranking, damage: Mutex::default() }
    }

    /// What was found damaged in the sources so far.
    pub(crate) fn damage(&self) -> Vec<FoundDamage> {
        self.damage.lock().clone()
    }

    /// Brings the object to its place in the target.
    ///
    /// CRASH SAFETY: one create-only put, or one put on the condition that the damaged version is still there. A crash or a
    /// lost answer leaves the object or nothing; a repetition finds it.
    pub(crate) async fn copy(&self, wanted: &Wanted<'_>, place: Place) -> Result<Copied, CopyError> {
        let Wanted { key, proof, .. } = *wanted;
        let work = async {
            let mut replaces = None;
            if place == Place::Suspect {
                match self.look(key, proof).await? {
                    Look::Intact(size) => return Ok(Copied::Found { size }),
                    Look::Damaged(version) => replaces = Some(version),
                    Look::Unseen => return Err(self.not_readable(key)),
                    Look::Gone => {}
                }
            }
            let fetched = self.fetch(wanted).await?;
            self.put(key, proof, fetched, replaces).await
        };
        let copied = self.stoppable(work).await?;
        self.done(&copied);
        Ok(copied)
    }

    /// As [`Self::copy`] to an empty place, for bytes that were fetched already.
    pub(crate) async fn put_fetched(
        &self,
        key: &ObjectKey,
        proof: &Proof,
        fetched: Fetched,
    ) -> Result<Copied, CopyError> {
        let copied = self.stoppable(self.put(key, proof, fetched, None)).await?;
        self.done(&copied);
        Ok(copied)
    }

    fn done(&self, copied: &Copied) {
        let (Copied::Put { size, .. } | Copied::Found { size }) = copied;
        self.progress.did(*size);
    }

    pub(crate) async fn stoppable<T>(&self, work: impl Future<Output = Result<T, CopyError>>) -> Result<T, CopyError> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(CopyError::Stopped),
            done = work => done,
        }
    }

    /// Reads the object from the best source that has it whole.
    pub(crate) async fn fetch(&self, wanted: &Wanted<'_>) -> Result<Fetched, CopyError> {
        let Wanted { key, proof, size, holders } = *wanted;
        let (mut tried, mut is_away) = (Vec::new(), false);
        self.pace.take(size).await;
        for index in self.ranking.order(size) {
            let Some(source) = self.sources.get(index) else { continue };
            if !holders.is_empty() && !holders.contains(&source.name) {
                continue;
            }
            let begun = tokio::time::Instant::now();
            let what = match source.store.get(key, proof.bound()).await {
                Ok(bytes) => match proof.fault(self.trust, &bytes) {
                    None => {
                        self.ranking.answered(index, ByteCount::of(&bytes), begun.elapsed());
                        let body = SealedBody { sha256: sha256(&bytes), bytes };
                        return Ok(Fetched { body, from: source.name.clone() });
                    }
                    Some(what) => {
                        self.found_damage(source, key, &what);
                        what
                    }
                },
                Err(error) => {
                    is_away |= !matches!(error, StoreError::NotFound { .. } | StoreError::Unsupported { .. });
                    error_chain(&error)
                }
            };
            self.ranking.failed(index);
            tracing::debug!(region = %source.name, %key, %what, "a region does not give an object");
            tried.push((source.name.clone(), what));
        }
        let key = key.clone();
        Err(if is_away { CopyError::SourceAway { key, tried } } else { CopyError::NoSource { key, tried } })
    }

    fn found_damage(&self, source: &RegionStore, key: &ObjectKey, what: &str) {
        tracing::warn!(region = %source.name, %key, what, "an object is damaged");
        let mut damage = self.damage.lock();
        if damage.len() < DAMAGE_KEPT {
            damage.push(FoundDamage { region: source.name.clone(), key: key.clone(), what: what.to_owned() });
        }
    }

    async fn put(
        &self,
        key: &ObjectKey,
        proof: &Proof,
        fetched: Fetched,
        mut replaces: Option<ObjectVersion>,
    ) -> Result<Copied, CopyError> {
        let Fetched { body, from } = fetched;
        let size = ByteCount::of(&body.bytes);
        for _ in 0..3 {
            let mode = replaces.clone().map_or(PutMode::CreateOnly, PutMode::IfUnchanged);
            let replacing = replaces.is_some();
            match self.target.store.put(key, body.clone(), mode).await {
                Ok(_) => return Ok(Copied::Put { size, from }),
                Err(StoreError::Conflict { .. }) => match self.look(key, proof).await? {
                    Look::Intact(size) => return Ok(Copied::Found { size }),
                    Look::Unseen => return Err(self.not_readable(key)),
                    Look::Damaged(version) => replaces = Some(version),
                    Look::Gone => replaces = None,
                },
                Err(StoreError::Misconfigured { .. }) if replacing => return Err(self.not_replaceable(key)),
                Err(source) => return Err(self.target_failed(key, source)),
            }
        }
        let (doing, source) = (format!("replace {key}"), "it changes all the time".into());
        Err(self.target_failed(key, StoreError::Transient { doing, source }))
    }

    /// Reads an object of the target itself; `None` if it is not there as it should be. `size` as it was listed.
    pub(crate) async fn read_in_place(
        &self,
        key: &ObjectKey,
        proof: &Proof,
        size: ByteCount,
    ) -> Result<Option<Bytes>, CopyError> {
        self.progress.doing(key.to_string());
        let read = async {
            self.pace.take(size).await;
            match self.target.store.get(key, proof.bound()).await {
                Ok(bytes) => Ok(Some(bytes).filter(|bytes| proof.fault(self.trust, bytes).is_none())),
                Err(StoreError::NotFound { .. } | StoreError::Unsupported { .. }) => Ok(None),
                Err(StoreError::Misconfigured { .. }) => Err(self.not_readable(key)),
                Err(source) => Err(self.not_read(key, source)),
            }
        };
        self.stoppable(read).await
    }

    /// What lies at `key` of the target.
    async fn look(&self, key: &ObjectKey, proof: &Proof) -> Result<Look, CopyError> {
        let version = self.version(key).await?;
        match self.target.store.get(key, proof.bound()).await {
            Ok(bytes) if proof.fault(self.trust, &bytes).is_none() => Ok(Look::Intact(ByteCount::of(&bytes))),
            Ok(bytes) => self.look_again(key, proof, bytes, version).await,
            // Larger than any such object.
            Err(StoreError::Unsupported { .. }) => {
                Ok(version.map_or(Look::Gone, |(version, _)| Look::Damaged(version)))
            }
            Err(StoreError::NotFound { .. }) => Ok(Look::Gone),
            Err(StoreError::Misconfigured { .. }) => Ok(version.map_or(Look::Gone, |_| Look::Unseen)),
            Err(source) => Err(self.not_read(key, source)),
        }
    }

    /// What is overwritten for good must not be a bit that flipped on the way.
    async fn look_again(
        &self,
        key: &ObjectKey,
        proof: &Proof,
        first: Bytes,
        version: Option<(ObjectVersion, ByteCount)>,
    ) -> Result<Look, CopyError> {
        match self.target.store.get(key, proof.bound()).await {
            Ok(bytes) if proof.fault(self.trust, &bytes).is_none() => Ok(Look::Intact(ByteCount::of(&bytes))),
            Ok(bytes) if bytes == first => Ok(version.map_or(Look::Gone, |(version, _)| Look::Damaged(version))),
            Ok(_) => {
                let (doing, source) = (format!("read {key}"), "it reads differently each time".into());
                Err(self.target_failed(key, StoreError::Corrupted { doing, source }))
            }
            Err(StoreError::NotFound { .. }) => Ok(Look::Gone),
            Err(source) => Err(self.not_read(key, source)),
        }
    }

    async fn version(&self, key: &ObjectKey) -> Result<Option<(ObjectVersion, ByteCount)>, CopyError> {
        let page = self.target.store.list(key.as_str(), None).await;
        let page = page.map_err(|source| self.target_failed(key, source))?;
        let entry = page.entries.into_iter().find(|entry| entry.key == *key);
        Ok(entry.map(|entry| (entry.meta.version, entry.meta.size)))
    }

    pub(crate) fn target_failed(&self, key: &ObjectKey, source: StoreError) -> CopyError {
        CopyError::Target { key: key.clone(), region: self.target.name.clone(), source }
    }

    fn not_read(&self, key: &ObjectKey, source: StoreError) -> CopyError {
        CopyError::Unread { key: key.clone(), region: self.target.name.clone(), source }
    }

    fn not_readable(&self, key: &ObjectKey) -> CopyError {
        CopyError::NotReadable { key: key.clone(), region: self.target.name.clone() }
    }

    fn not_replaceable(&self, key: &ObjectKey) -> CopyError {
        CopyError::NotReplaceable { key: key.clone(), region: self.target.name.clone() }
    }
}

enum Look {
    Intact(ByteCount),
    Damaged(ObjectVersion),
    /// It is there, and the role may not read it. Whoever sees another region knows its name, so it may be anything.
    Unseen,
    Gone,
}
