//! Finds out what a region really does, because no table of providers can be trusted.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_vocabulary::{ByteCount, Clock, UtcTime};
use tokio::time::Instant;

use crate::error::StoreError;
use crate::key::ObjectKey;
use crate::sha256;
use crate::store::{ByteRange, ObjectVersion, PutMode, PutOutcome, SealedBody, Store};

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Check {
    /// A new object can be created.
    Create,
    /// A second creation of the same key is refused.
    CreateOnce,
    /// A body that does not match its SHA-256 is refused.
    RefuseDamage,
    /// What was written is read back unchanged.
    ReadBack,
    /// What was written is listed with its size.
    List,
    /// An object is replaced only while it is the version that was read.
    ReplaceOnce,
    /// An object can be deleted. A role that only creates must not be able to.
    Delete,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It holds.
    Holds,
    /// The role may not do this; right or wrong depends on the role.
    NotAllowed {
        /// What the store said.
        said: String,
    },
    /// It does not hold: what the store did, and what follows from it.
    Lacks {
        /// In words for the operator.
        what: String,
    },
    /// The request failed on its way: nothing was found out.
    Unclear {
        /// What happened.
        why: String,
    },
}

/// The findings about one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// Each check with its finding, in the order of [`Check`].
    pub findings: Vec<(Check, Finding)>,
    /// The store's clock minus ours in **microseconds**, exact to about a second; `None` if it does not tell.
    pub clock_skew_micros: Option<i64>,
    /// How long the first write took.
    pub first_write: Duration,
}

impl ProbeReport {
    /// The finding of one check; `None` if it could not be made.
    #[must_use]
    pub fn of(&self, check: Check) -> Option<&Finding> {
        self.findings.iter().find(|(made, _)| *made == check).map(|(_, finding)| finding)
    }

    /// Everything that does not hold, apart from rights that the role lacks.
    pub fn faults(&self) -> impl Iterator<Item = (Check, &str)> {
        self.findings.iter().filter_map(|(check, finding)| match finding {
            Finding::Lacks { what } => Some((*check, what.as_str())),
            Finding::Holds | Finding::NotAllowed { .. } | Finding::Unclear { .. } => None,
        })
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Create => "create an object",
            Self::CreateOnce => "refuse to create it again",
            Self::RefuseDamage => "refuse a damaged body",
            Self::ReadBack => "read it back",
            Self::List => "list it",
            Self::ReplaceOnce => "replace only a known version",
            Self::Delete => "delete it",
        })
    }
}

const FIRST: &[u8] = b"lifeboat probe";
const SECOND: &[u8] = b"lifeboat probe, replaced";

struct Probe<'a> {
    store: &'a dyn Store,
    key: ObjectKey,
    findings: Vec<(Check, Finding)>,
}

/// Tries on `store` all that backups rely on, with small objects `state/probe-<random>`. Give it the bare store: retries
/// would hide what it looks for. Needs no right but to create; whatever else the role may not do is a finding.
///
/// # Errors
/// What the store says to the first write: without that there is nothing to find out.
pub async fn probe(store: &dyn Store, clock: &dyn Clock) -> Result<ProbeReport, StoreError> {
    let (before, start) = (clock.now(), Instant::now());
    let mut probe = Probe { store, key: random_key()?, findings: Vec::new() };
    let created = store.put(&probe.key, body(FIRST), PutMode::CreateOnly).await?;
    let first_write = start.elapsed();
    probe.findings.push((Check::Create, Finding::Holds));
    let clock_skew_micros = created.server_time.map(|server| skew(server, before, first_write));
    probe.create_once().await;
    probe.refuse_damage().await?;
    probe.read_back().await;
    probe.list().await;
    probe.replace_once(created.version).await;
    probe.delete().await;
    Ok(ProbeReport { findings: probe.findings, clock_skew_micros, first_write })
}

/// The server read its clock about half-way through the request.
fn skew(server: UtcTime, before: UtcTime, took: Duration) -> i64 {
    server.as_unix_micros().saturating_sub(before.plus(took / 2).as_unix_micros())
}

fn random_key() -> Result<ObjectKey, StoreError> {
    let mut random = [0; 16];
    let fault = |why: String| StoreError::Unsupported { doing: "draw a random name".to_owned(), why };
    getrandom::fill(&mut random).map_err(|error| fault(error.to_string()))?;
    let name = format!("state/probe-{:032x}", u128::from_be_bytes(random));
    name.parse().map_err(|error: crate::key::KeyError| fault(error.to_string()))
}

fn body(bytes: &'static [u8]) -> SealedBody {
    SealedBody { bytes: Bytes::from_static(bytes), sha256: sha256::digest(bytes) }
}

fn lacks(what: &str) -> Finding {
    Finding::Lacks { what: what.to_owned() }
}

/// What an error means where success was expected.
fn failed(error: &StoreError) -> Finding {
    match error {
        StoreError::Misconfigured { .. } => Finding::NotAllowed { said: said(error) },
        StoreError::Transient { .. }
        | StoreError::DeadlineExceeded { .. }
        | StoreError::Throttled { .. }
        | StoreError::BreakerOpen { .. } => Finding::Unclear { why: said(error) },
        _ => Finding::Lacks { what: said(error) },
    }
}

fn said(error: &StoreError) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

impl Probe<'_> {
    fn found(&mut self, check: Check, finding: Finding) {
        self.findings.push((check, finding));
    }

    async fn create_once(&mut self) {
        let finding = match self.store.put(&self.key, body(FIRST), PutMode::CreateOnly).await {
            Err(StoreError::Conflict { .. }) => Finding::Holds,
            Ok(_) => lacks("it was created twice: only one writer may ever use this region"),
            Err(error) => failed(&error),
        };
        self.found(Check::CreateOnce, finding);
    }

    async fn refuse_damage(&mut self) -> Result<(), StoreError> {
        let key = random_key()?;
        let damaged = SealedBody { sha256: sha256::digest(SECOND), ..body(FIRST) };
        let finding = match self.store.put(&key, damaged, PutMode::CreateOnly).await {
            Err(StoreError::Corrupted { .. }) => Finding::Holds,
            Ok(_) => match self.store.delete(&key).await {
                Ok(()) => lacks("it was stored: damage on the way in is found only when it is read"),
                Err(_) => {
                    lacks("it was stored and cannot be removed: damage on the way in is found only when it is read")
                }
            },
            Err(error) => failed(&error),
        };
        self.found(Check::RefuseDamage, finding);
        Ok(())
    }

    async fn read_back(&mut self) {
        let range = ByteRange::WholeUpTo(ByteCount::of(FIRST));
        let finding = match self.store.get(&self.key, range).await {
            Ok(bytes) if bytes == FIRST => Finding::Holds,
            Ok(_) => lacks("other bytes were returned"),
            Err(error) => failed(&error),
        };
        self.found(Check::ReadBack, finding);
    }

    async fn list(&mut self) {
        let finding = match self.store.list(self.key.as_str(), None).await {
            Ok(page) => match page.entries.iter().find(|entry| entry.key == self.key) {
                Some(entry) if entry.meta.size == ByteCount::of(FIRST) => Finding::Holds,
                Some(_) => lacks("it is listed with another size"),
                None => lacks("it is not listed at once"),
            },
            Err(error) => failed(&error),
        };
        self.found(Check::List, finding);
    }

    async fn replace_once(&mut self, version: ObjectVersion) {
        let replaced: Result<PutOutcome, _> =
            self.store.put(&self.key, body(SECOND), PutMode::IfUnchanged(version.clone())).await;
        let finding = match replaced {
            Ok(_) => match self.store.put(&self.key, body(FIRST), PutMode::IfUnchanged(version)).await {
                Err(StoreError::Conflict { .. }) => Finding::Holds,
                Ok(_) => lacks("a version that was gone was replaced: only one writer may ever use this region"),
                Err(error) => failed(&error),
            },
            Err(error) => failed(&error),
        };
        self.found(Check::ReplaceOnce, finding);
    }

    async fn delete(&mut self) {
        let finding = match self.store.delete(&self.key).await {
            Ok(()) => Finding::Holds,
            Err(error) => failed(&error),
        };
        self.found(Check::Delete, finding);
    }
}
