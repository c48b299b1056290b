//! Creating an object exactly once, and knowing for certain who did.

use lifeboat_stores::{ByteRange, ObjectKey, PutMode, SealedBody, Store, StoreError};
use lifeboat_vocabulary::ByteCount;

use crate::log::note::NOTE_BYTES_MAX;

/// Who created the object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Created {
    /// It holds our bytes.
    Ours,
    /// Another writer was first.
    Others,
}

/// The bound for reading notes and other small objects.
pub(crate) fn small_object() -> ByteRange {
    ByteRange::WholeUpTo(ByteCount::from_bytes(NOTE_BYTES_MAX as u64))
}

/// Creates `key` with `body`, if there is no such object. For names that somebody else may know before the object is there.
///
/// A request whose answer was lost may have succeeded, and its repetition then meets its own object: so after
/// "exists already", and after every failure that leaves the outcome open, the object is read and compared.
pub(crate) async fn create_once(store: &dyn Store, key: &ObjectKey, body: &SealedBody) -> Result<Created, StoreError> {
    let error = match store.put(key, body.clone(), PutMode::CreateOnly).await {
        Ok(_) => return Ok(Created::Ours),
        Err(error) => error,
    };
    let may_have_happened = matches!(error, StoreError::Conflict { .. } | StoreError::DeadlineExceeded { .. });
    if !may_have_happened && !error.is_transient() {
        return Err(error);
    }
    match store.get(key, ByteRange::WholeUpTo(ByteCount::of(&body.bytes))).await {
        Ok(found) if found == body.bytes => Ok(Created::Ours),
        Ok(_) => Ok(Created::Others),
        // Too large to be ours.
        Err(StoreError::Unsupported { .. }) => Ok(Created::Others),
        Err(read) => {
            tracing::debug!(%key, %read, "the outcome of a write stays unknown");
            Err(error)
        }
    }
}
