//! What writers have signed about the end of a log, in their heads in the same region.
//!
//! Asked before anything is appended behind an object that is no record: it may lie where a record was.

use lifeboat_stores::Store;
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
}

/// The furthest place of the log that a writer has signed in its head, and the writer. Heads that cannot be used say nothing.
///
/// # Errors
/// If the heads cannot be listed or read: then nobody knows where the log ends.
pub(crate) async fn furthest_signed_end(
    store: &dyn Store,
    trust: &LogTrust,
) -> Result<Option<(u64, KeyName)>, LogError> {
    let page = store.list(layout::HEADS_PREFIX, None).await.map_err(LogError::Witness)?;
    let mut furthest: Option<(u64, KeyName)> = None;
    for entry in page.entries.iter().take(WITNESSES_MAX) {
        let Some(StoredName::Head { writer }) = layout::parse(&entry.key) else { continue };
        let bytes = match store.get(&entry.key, small_object()).await {
            Ok(bytes) => bytes,
            Err(lifeboat_stores::StoreError::NotFound { .. } | lifeboat_stores::StoreError::Unsupported { .. }) => {
                continue;
            }
            Err(source) => return Err(LogError::Witness(source)),
        };
        if let Some(seq) = signed_end(&bytes, &writer, trust)
            && furthest.as_ref().is_none_or(|(known, _)| *known < seq)
        {
            furthest = Some((seq, writer));
        }
    }
    Ok(furthest)
}

fn signed_end(bytes: &[u8], writer: &KeyName, trust: &LogTrust) -> Option<u64> {
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
    seen.log_seq.filter(|_| is_of_here)
}
