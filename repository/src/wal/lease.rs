//! A writer's lease: of two processes with the same name, only one ships WAL into a region.
//!
//! The store's clock judges: when the lease was written against what time it is now, both from one listing. So two hosts
//! whose clocks differ agree. Losing a lease is not unsafe, because every object is created once; it only tells a second
//! writer early that it is one.
//!
//! A copy of an installation has the name of the original. So a lease is ours if the name in it is, and what was drawn for its
//! last writing was drawn here: see [`LeaseMemory`].

use std::time::Duration;

use bytes::Bytes;
use lifeboat_stores::{Entry, ObjectKey, ObjectVersion, PutMode, SealedBody, Store, StoreError, Support};
use lifeboat_vocabulary::{Clock, ClusterName, UtcTime};
use serde::{Deserialize, Serialize};

use crate::format::aead::sha256;
use crate::format::ids::{InstanceId, RandomError};
use crate::format::json_text::{as_optional_text, as_text};
use crate::format::key_name::KeyName;
use crate::format::layout::StoredName;
use crate::log::create_once::small_object;
use crate::wal::lease_memory::LeaseMemory;

/// How long a lease lasts without being renewed, if nothing else is said.
pub const LEASE_TTL: Duration = Duration::from_secs(60);
/// No lease lasts longer, whatever it says.
const TTL_MAX: Duration = Duration::from_secs(3600);
/// How far ahead of the store's clock a lease may be written.
const AHEAD_MAX: Duration = Duration::from_secs(300);
const VERSION: u32 = 1;
/// How often [`Lease::acquire`] looks again when the object has changed.
const ATTEMPTS: u32 = 4;

/// Who asks for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// The writer's name.
    pub writer: KeyName,
    /// Its installation.
    pub instance: InstanceId,
    /// The cluster that it works for.
    pub cluster: ClusterName,
    /// How long the lease lasts without being renewed; renew it three times as often.
    pub ttl: Duration,
}

/// What a lease says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseText {
    v: u32,
    /// The installation that holds it.
    #[serde(with = "as_text")]
    pub instance: InstanceId,
    /// The cluster that it works for.
    #[serde(with = "as_text")]
    pub cluster: ClusterName,
    /// Since when it holds it, by its own clock; only information.
    #[serde(with = "as_text")]
    pub since: UtcTime,
    /// How long it lasts after it was written, in **seconds**; 0 once it was given back.
    pub ttl_seconds: u64,
    /// Drawn at random for each writing. Stores name a version by its content: without this, a lease that was renewed
    /// would be the same version as before, and a reader that saw it expire could take it from its holder.
    #[serde(default)]
    pub nonce: String,
    /// Another installation that has asked for the lease while it is held, and has left its name: so the holder hears of it.
    #[serde(with = "as_optional_text", default, skip_serializing_if = "Option::is_none")]
    pub contested_by: Option<InstanceId>,
}

/// Another installation, as its lease describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseHolder {
    /// What its lease says; `None` if that cannot be read.
    pub lease: Option<LeaseText>,
    /// How long its lease lasts, if it is not renewed.
    pub remaining: Duration,
}

/// Whether the one who asks may have a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseJudgement {
    /// It holds it already, from an earlier run.
    Ours {
        /// Since when.
        since: UtcTime,
        /// Who else has asked for it since it was last renewed.
        contested_by: Option<InstanceId>,
    },
    /// It is not held any more.
    Expired,
    /// Another one holds it.
    HeldByOther(LeaseHolder),
}

/// The answer to [`Lease::acquire`] and [`Lease::renew`].
#[derive(Debug)]
pub enum LeaseAnswer {
    /// The lease is held.
    Held(Lease),
    /// Another installation has it.
    HeldByOther(LeaseHolder),
}

/// A lease that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    terms: LeaseTerms,
    since: UtcTime,
    version: ObjectVersion,
    exact: Support,
    nonce: String,
    contested_by: Option<InstanceId>,
}

/// What the one who asks knows of itself.
#[derive(Clone, Copy)]
pub(crate) struct Ours<'a> {
    instance: InstanceId,
    /// What it has drawn for writings that may lie in the region.
    nonces: &'a [String],
}

impl Ours<'_> {
    fn has_written(self, lease: &LeaseText) -> bool {
        // Releases before nonces left none.
        lease.instance == self.instance && (lease.nonce.is_empty() || self.nonces.contains(&lease.nonce))
    }
}

/// Why a lease could not be asked for. It says nothing about who holds it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// The store did not do what was asked.
    #[error("reach the lease {key}")]
    Store {
        /// The lease.
        key: ObjectKey,
        /// What the store said.
        source: StoreError,
    },
    /// It cannot be written as text.
    #[error("write a lease")]
    Json(#[from] serde_json::Error),
    /// There is no randomness.
    #[error("make a lease one of its kind")]
    Random(#[from] RandomError),
    /// The object changes faster than it can be read.
    #[error("the lease {key} changed {ATTEMPTS} times in a row")]
    Contended {
        /// The lease.
        key: ObjectKey,
    },
}

/// Decides about a lease that was found. `age` is how long ago it was written, by the store's clock.
#[must_use]
pub(crate) fn judge(found: Option<&LeaseText>, age: Duration, ours: Ours<'_>) -> LeaseJudgement {
    // An unreadable lease was written by another process: it is waited for like any other.
    let ttl = found.map_or(LEASE_TTL, |lease| Duration::from_secs(lease.ttl_seconds)).min(TTL_MAX);
    match found {
        Some(lease) if ours.has_written(lease) => {
            LeaseJudgement::Ours { since: lease.since, contested_by: lease.contested_by }
        }
        _ if age >= ttl => LeaseJudgement::Expired,
        _ => LeaseJudgement::HeldByOther(LeaseHolder { lease: found.cloned(), remaining: ttl - age }),
    }
}

/// Another installation than `ours` that holds the lease of `writer` in a region, if there is one. Nothing is written. A
/// copy of `ours` is another one as well, as far as there is a `memory` that tells.
///
/// # Errors
/// [`LeaseError`]: then nothing is known.
pub async fn other_holder(
    store: &dyn Store,
    writer: &KeyName,
    ours: InstanceId,
    memory: Option<&LeaseMemory>,
    clock: &dyn Clock,
) -> Result<Option<LeaseHolder>, LeaseError> {
    let key = StoredName::Lease { writer: writer.clone() }.key();
    let Some(found) = look(store, &key, clock.now()).await? else { return Ok(None) };
    let is_named_so = found.lease.as_ref().is_some_and(|lease| lease.instance == ours);
    // Looked at behind the lease: what was drawn for it was kept before it was written.
    let nonces = match memory {
        Some(memory) => memory.nonces().await,
        None => None,
    };
    let nonces = match nonces {
        Some(nonces) => nonces,
        None if is_named_so => return Ok(None),
        None => Vec::new(),
    };
    Ok(match judge(found.lease.as_ref(), found.age, Ours { instance: ours, nonces: &nonces }) {
        LeaseJudgement::HeldByOther(holder) => Some(holder),
        LeaseJudgement::Ours { .. } | LeaseJudgement::Expired => None,
    })
}

/// What was found at the place of a lease.
struct Found {
    version: ObjectVersion,
    age: Duration,
    lease: Option<LeaseText>,
}

impl Found {
    /// What was drawn for a writing was kept before it was written: so the memory is looked at behind the lease.
    async fn judge(&self, instance: InstanceId, memory: &LeaseMemory) -> LeaseJudgement {
        let nonces = memory.nonces().await.unwrap_or_default();
        judge(self.lease.as_ref(), self.age, Ours { instance, nonces: &nonces })
    }
}

impl Lease {
    /// Asks for the lease of `terms.writer` in a region. `clock` gives the time of information in the lease, and stands in
    /// for the store's clock where the store has none of its own: in a directory, both are the machine's.
    ///
    /// # Errors
    /// [`LeaseError`]. A request whose answer was lost may have succeeded: asking again finds its own lease.
    pub async fn acquire(
        store: &dyn Store,
        terms: LeaseTerms,
        memory: &LeaseMemory,
        clock: &dyn Clock,
    ) -> Result<LeaseAnswer, LeaseError> {
        let key = key_of(&terms);
        for _ in 0..ATTEMPTS {
            let now = clock.now();
            let found = look(store, &key, now).await?;
            let mut contested_by = None;
            let (mode, since, confirmed) = match &found {
                None => (PutMode::CreateOnly, now, None),
                Some(found) => {
                    let version = PutMode::IfUnchanged(found.version.clone());
                    match found.judge(terms.instance, memory).await {
                        LeaseJudgement::Ours { since, contested_by: other } => {
                            contested_by = other;
                            (version, since, found.lease.as_ref().map(|lease| lease.nonce.as_str()))
                        }
                        LeaseJudgement::Expired => (version, now, None),
                        LeaseJudgement::HeldByOther(holder) => return Ok(LeaseAnswer::HeldByOther(holder)),
                    }
                }
            };
            let nonce = memory.next(confirmed).await?;
            let text = LeaseText::new(&terms, since, terms.ttl, nonce.clone());
            match store.put(&key, text.to_body()?, mode).await {
                Ok(outcome) => {
                    let (version, exact) = (outcome.version, store.capabilities().conditional_put);
                    return Ok(LeaseAnswer::Held(Self { terms, since, version, exact, nonce, contested_by }));
                }
                // Another process was faster, or our own earlier request has arrived after all: look who it is.
                Err(StoreError::Conflict { .. }) => {}
                Err(source) => return Err(LeaseError::Store { key, source }),
            }
        }
        Err(LeaseError::Contended { key })
    }

    /// Leaves our name in the lease that another one holds, so that it hears of us. `before` is what its lease said when we
    /// asked last: only one that was renewed since is written, because to write it makes it last for its whole time again, and
    /// the lease of a writer that is gone must end. Returns whether it was written.
    ///
    /// # Errors
    /// [`LeaseError`]; then it may or may not be written.
    pub async fn contest(
        store: &dyn Store,
        terms: &LeaseTerms,
        memory: &LeaseMemory,
        before: &LeaseText,
        clock: &dyn Clock,
    ) -> Result<bool, LeaseError> {
        let key = key_of(terms);
        let Some(found) = look(store, &key, clock.now()).await? else { return Ok(false) };
        let LeaseJudgement::HeldByOther(LeaseHolder { lease: Some(lease), .. }) =
            found.judge(terms.instance, memory).await
        else {
            return Ok(false);
        };
        let is_renewed = lease.instance == before.instance && lease.nonce != before.nonce;
        if !is_renewed || lease.contested_by.is_some() {
            return Ok(false);
        }
        // With the words of its holder, who knows them again.
        let marked = LeaseText { contested_by: Some(terms.instance), ..lease };
        match store.put(&key, marked.to_body()?, PutMode::IfUnchanged(found.version)).await {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(source) => Err(LeaseError::Store { key, source }),
        }
    }

    /// Whether a writer is at work in a region: whether its lease lasts. Takes nothing.
    ///
    /// # Errors
    /// [`LeaseError::Store`]; then it is unknown.
    pub(crate) async fn is_held(store: &dyn Store, writer: &KeyName, clock: &dyn Clock) -> Result<bool, LeaseError> {
        let key = StoredName::Lease { writer: writer.clone() }.key();
        let Some(found) = look(store, &key, clock.now()).await? else { return Ok(false) };
        // No writer is this one.
        let nobody = Ours { instance: InstanceId::from_bytes([0; 8]), nonces: &[] };
        Ok(matches!(judge(found.lease.as_ref(), found.age, nobody), LeaseJudgement::HeldByOther(_)))
    }

    /// Makes the lease last for its whole time again. To be called every third of it.
    ///
    /// # Errors
    /// [`LeaseError`]; the lease may still be held, until its time is over.
    pub async fn renew(
        &mut self,
        store: &dyn Store,
        memory: &LeaseMemory,
        clock: &dyn Clock,
    ) -> Result<LeaseRenewal, LeaseError> {
        let key = key_of(&self.terms);
        let nonce = memory.next(Some(&self.nonce)).await?;
        let text = LeaseText::new(&self.terms, self.since, self.terms.ttl, nonce.clone());
        match store.put(&key, text.to_body()?, PutMode::IfUnchanged(self.version.clone())).await {
            Ok(outcome) => {
                (self.version, self.nonce, self.contested_by) = (outcome.version, nonce, None);
                return Ok(LeaseRenewal::Held);
            }
            Err(StoreError::Conflict { .. }) => {}
            Err(source) => return Err(LeaseError::Store { key, source }),
        }
        // It is another version: our own renewal whose answer was lost, another process's, or it is gone.
        match Self::acquire(store, self.terms.clone(), memory, clock).await? {
            LeaseAnswer::Held(lease) => {
                *self = lease;
                Ok(LeaseRenewal::Held)
            }
            LeaseAnswer::HeldByOther(holder) => Ok(LeaseRenewal::Lost(holder)),
        }
    }

    /// Gives the lease back, so that no process has to wait for its end. Nothing is deleted: writers have no right to.
    ///
    /// # Errors
    /// [`LeaseError`]; then it ends by itself. That another process has it by now is none.
    pub async fn release(mut self, store: &dyn Store, memory: &LeaseMemory) -> Result<(), LeaseError> {
        let key = key_of(&self.terms);
        let nonce = memory.next(Some(&self.nonce)).await?;
        let text = LeaseText::new(&self.terms, self.since, Duration::ZERO, nonce);
        for _ in 0..ATTEMPTS {
            match store.put(&key, text.to_body()?, PutMode::IfUnchanged(self.version)).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Conflict { .. }) => {}
                Err(source) => return Err(LeaseError::Store { key, source }),
            }
            // Another one has it by now, or has left its name in ours. How old it is decides nothing about that.
            let Some(found) = look(store, &key, self.since).await? else { return Ok(()) };
            let LeaseJudgement::Ours { .. } = found.judge(self.terms.instance, memory).await else { return Ok(()) };
            self.version = found.version;
        }
        Err(LeaseError::Contended { key })
    }

    /// Another installation that was found to ask for the lease at the last renewal.
    #[must_use]
    pub fn contested_by(&self) -> Option<InstanceId> {
        self.contested_by
    }

    /// Whether the lease excludes others for certain. On a store that ignores conditions ([`Support::No`]) two writers
    /// can both believe that they hold it; with [`Support::Unknown`] only a probe of the store can tell.
    #[must_use]
    pub fn is_exact(&self) -> Support {
        self.exact
    }

    /// What it was asked for.
    #[must_use]
    pub fn terms(&self) -> &LeaseTerms {
        &self.terms
    }
}

/// The answer to [`Lease::renew`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseRenewal {
    /// It is held, for its whole time from now.
    Held,
    /// Another installation has it.
    Lost(LeaseHolder),
}

impl LeaseText {
    fn new(terms: &LeaseTerms, since: UtcTime, ttl: Duration, nonce: String) -> Self {
        let (instance, cluster) = (terms.instance, terms.cluster.clone());
        let ttl_seconds = u64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(u64::MAX);
        Self { v: VERSION, instance, cluster, since, ttl_seconds, nonce, contested_by: None }
    }

    fn to_body(&self) -> Result<SealedBody, LeaseError> {
        let bytes = Bytes::from(format!("{}\n", serde_json::to_string(self)?));
        Ok(SealedBody { sha256: sha256(&bytes), bytes })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(bytes).ok().filter(|lease| lease.v == VERSION)
    }
}

fn key_of(terms: &LeaseTerms) -> ObjectKey {
    StoredName::Lease { writer: terms.writer.clone() }.key()
}

/// The version and age come from one listing; if the content is newer than the version, writing will tell.
async fn look(store: &dyn Store, key: &ObjectKey, now: UtcTime) -> Result<Option<Found>, LeaseError> {
    let failed = |source| LeaseError::Store { key: key.clone(), source };
    let page = store.list(key.as_str(), None).await.map_err(failed)?;
    let Some(Entry { meta, .. }) = page.entries.into_iter().find(|entry| entry.key == *key) else { return Ok(None) };
    // Written later than now: the store's clock was set back since, and nobody knows how long ago that was. A holder that is
    // alive renews it soon, and one that is gone must not keep it until its time has come again. A directory has no clock of its
    // own: there, this machine's may be behind, and a lease that lasts must not be taken for that.
    let is_ahead = |modified: UtcTime| page.server_time.is_some_and(|now| modified > now.plus(AHEAD_MAX));
    let now = page.server_time.unwrap_or(now);
    let age = |modified: UtcTime| if is_ahead(modified) { Duration::MAX } else { now.since(modified) };
    let age = meta.modified.map_or(Duration::ZERO, age);
    let lease = match store.get(key, small_object()).await {
        Ok(bytes) => LeaseText::parse(&bytes),
        Err(StoreError::NotFound { .. }) => return Ok(None),
        // Larger than any lease.
        Err(StoreError::Unsupported { .. }) => None,
        Err(source) => return Err(failed(source)),
    };
    Ok(Some(Found { version: meta.version, age, lease }))
}

#[cfg(test)]
mod tests;
