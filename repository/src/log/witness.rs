//! What writers have signed about the end of a log, in their heads in the same region.
//!
//! Asked before anything is appended behind an object that is no record: it may lie where a record was.

use lifeboat_stores::Store;
use lifeboat_vocabulary::Sha256Digest;
use serde::Deserialize;

use crate::format::key_name::KeyName;
use crate::format::layout::{self, StoredName};
use crate::log::create_once::small_object;
use crate::log::error::LogError;
use crate::log::note;
use crate::log::region_log::LogTrust;
use crate::log::roles::Role;

/// The most heads that are asked.
const WITNESSES_MAX: usize = 64;

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

/// The furthest place of the log that a writer has signed in its head, and the writer. Heads that cannot be used say nothing.
///
/// # Errors
/// If the heads cannot be listed or read: then nobody knows where the log ends.
pub(crate) async fn furthest_signed_end(
    store: &dyn Store,
    trust: &LogTrust,
) -> Result<Option<(u64, KeyName)>, LogError> {
    let ends = each_end(store, trust).await?.into_iter();
    Ok(ends
        .map(|(SignedEnd { seq, .. }, writer)| (seq, writer))
        .reduce(|one, other| if one.0 < other.0 { other } else { one }))
}

/// The places of the log that writers have signed in their heads, with the SHA-256 of the records there.
///
/// # Errors
/// As [`furthest_signed_end`].
pub(crate) async fn signed_ends(store: &dyn Store, trust: &LogTrust) -> Result<Vec<(u64, Sha256Digest)>, LogError> {
    let ends = each_end(store, trust).await?.into_iter();
    Ok(ends.filter_map(|(end, _)| Some((end.seq, end.sha256?))).collect())
}

/// What a head says of the log's end.
struct SignedEnd {
    seq: u64,
    sha256: Option<Sha256Digest>,
}

async fn each_end(store: &dyn Store, trust: &LogTrust) -> Result<Vec<(SignedEnd, KeyName)>, LogError> {
    let page = store.list(layout::HEADS_PREFIX, None).await.map_err(LogError::Witness)?;
    let mut ends = Vec::new();
    for entry in page.entries.iter().take(WITNESSES_MAX) {
        let Some(StoredName::Head { writer }) = layout::parse(&entry.key) else { continue };
        let bytes = match store.get(&entry.key, small_object()).await {
            Ok(bytes) => bytes,
            Err(lifeboat_stores::StoreError::NotFound { .. } | lifeboat_stores::StoreError::Unsupported { .. }) => {
                continue;
            }
            Err(source) => return Err(LogError::Witness(source)),
        };
        if let Some(end) = signed_end(&bytes, &writer, trust) {
            ends.push((end, writer));
        }
    }
    Ok(ends)
}

fn signed_end(bytes: &[u8], writer: &KeyName, trust: &LogTrust) -> Option<SignedEnd> {
    let verified = note::verify(bytes, &trust.signers.not_revoked()).ok()?;
    if !verified.signers.iter().any(|key| trust.signers.speaks_for(key, writer, Role::Writer)) {
        return None;
    }
    let seen: SeenEnd = serde_json::from_str(verified.text).ok()?;
    let region = trust.region.as_ref().map(ToString::to_string);
    let is_of_here = seen.kind == "head"
        && seen.repo == trust.repository.to_string()
        && seen.writer == writer.as_str()
        && region.is_none_or(|region| region == seen.region);
    let seq = seen.log_seq.filter(|_| is_of_here)?;
    Some(SignedEnd { seq, sha256: seen.log_sha256.and_then(|text| text.parse().ok()) })
}
