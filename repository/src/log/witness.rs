//! What writers have signed about the end of a log, in their heads in the same region.
//!
//! Asked before anything is appended behind an object that is no record, which may lie where a record was; and before a log is believed
//! that was read by bundles.

use bytes::Bytes;
use futures_util::StreamExt;
use lifeboat_stores::{Store, StoreError};
use serde::Deserialize;

use crate::format::key_name::KeyName;
use crate::format::layout::{self, StoredName};
use crate::log::create_once::small_object;
use crate::log::error::LogError;
use crate::log::note;
use crate::log::region_log::{LogTrust, RegionLog};
use crate::log::roles::Role;

/// The most heads that are asked, of writers that the log knows, and of others.
const WITNESSES_MAX: usize = 64;
/// Heads that are fetched at the same time.
const FETCHES: usize = 16;

/// What this needs of a head; `wal/head` has all of it.
#[derive(Deserialize)]
struct SeenEnd {
    kind: String,
    repo: String,
    region: String,
    writer: String,
    log_seq: Option<u64>,
    log_sha256: Option<String>,
}

/// What a head says about the end of the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SignedEnd {
    /// The place of the last record.
    pub(crate) seq: u64,
    /// Its SHA-256, as text.
    pub(crate) sha256: Option<String>,
}

/// The heads of a region.
pub(crate) struct Witnesses {
    heads: Vec<(KeyName, Bytes)>,
    /// Whether there are no others.
    pub(crate) are_all: bool,
}

impl Witnesses {
    /// Reads the heads: those of writers that the log names come first, whatever somebody puts beside them.
    ///
    /// # Errors
    /// [`LogError::Witness`] if they cannot be listed or read: then nobody knows where the log ends.
    pub(crate) async fn read(store: &dyn Store, log: &RegionLog) -> Result<Self, LogError> {
        let page = store.list(layout::HEADS_PREFIX, None).await.map_err(LogError::Witness)?;
        let mut names = known_writers(log);
        let listed = page.entries.iter().filter_map(|entry| match layout::parse(&entry.key) {
            Some(StoredName::Head { writer }) if !names.contains(&writer) => Some(writer),
            _ => None,
        });
        let mut others: Vec<KeyName> = listed.collect();
        let are_all = !page.more && others.len() <= WITNESSES_MAX;
        others.truncate(WITNESSES_MAX);
        names.append(&mut others);
        let fetch = |writer: KeyName| async move {
            let head = store.get(&StoredName::Head { writer: writer.clone() }.key(), small_object()).await;
            (writer, head)
        };
        let mut fetched = futures_util::stream::iter(names).map(fetch).buffered(FETCHES);
        let mut heads = Vec::new();
        while let Some((writer, head)) = fetched.next().await {
            match head {
                Ok(head) => heads.push((writer, head)),
                Err(StoreError::NotFound { .. } | StoreError::Unsupported { .. }) => {}
                Err(source) => return Err(LogError::Witness(source)),
            }
        }
        Ok(Self { heads, are_all })
    }

    /// What they say about the end of the log of this region, whoever has signed them. What says nothing of it is left out.
    pub(crate) fn claims(&self, trust: &LogTrust) -> impl Iterator<Item = SignedEnd> {
        let claim = move |(writer, head): &(KeyName, Bytes)| {
            let (text, _) = note::split(head).ok()?;
            end_in(text, writer, trust)
        };
        self.heads.iter().filter_map(claim)
    }

    /// The furthest place of the log that a writer has signed, and the writer. Heads that cannot be used say nothing.
    pub(crate) fn furthest_signed_end(&self, trust: &LogTrust) -> Option<(u64, KeyName)> {
        let in_force = trust.signers.not_revoked();
        let signed = |(writer, head): &(KeyName, Bytes)| {
            let verified = note::verify(head, &in_force).ok()?;
            let speaks = verified.signers.iter().any(|key| trust.signers.speaks_for(key, writer, Role::Writer));
            let end = end_in(verified.text, writer, trust).filter(|_| speaks)?;
            Some((end.seq, writer.clone()))
        };
        self.heads.iter().filter_map(signed).reduce(|one, other| if one.0 < other.0 { other } else { one })
    }
}

/// The writers of a log: those that the root key has named, and those under whose names it has signed itself. The newest of them.
fn known_writers(log: &RegionLog) -> Vec<KeyName> {
    let mut names: Vec<KeyName> = Vec::new();
    let signers = &log.trust().signers;
    let root = signers.root();
    let by_root = log.entries().iter().rev().filter(|entry| entry.signer == root);
    let by_root = by_root.map(|entry| &entry.record.origin.writer);
    for name in signers.names_of(Role::Writer).iter().rev().chain(by_root) {
        if names.len() < WITNESSES_MAX && !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

fn end_in(text: &str, writer: &KeyName, trust: &LogTrust) -> Option<SignedEnd> {
    let seen: SeenEnd = serde_json::from_str(text).ok()?;
    let region = trust.region.as_ref().map(ToString::to_string);
    let is_of_here = seen.kind == "head"
        && seen.repo == trust.repository.to_string()
        && seen.writer == writer.as_str()
        && region.is_none_or(|region| region == seen.region);
    let seq = seen.log_seq.filter(|_| is_of_here)?;
    Some(SignedEnd { seq, sha256: seen.log_sha256 })
}
