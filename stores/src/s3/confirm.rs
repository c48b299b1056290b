//! What a status alone says about an object is asked of the store itself.
//!
//! 404, 412 and 416 are answers about an object: it is gone, somebody else has written it, it ends before. Callers act on them: a
//! deletion is done, an object is damaged, a write has come before. So they count only with the code that S3 gives with them. But
//! an answer to HEAD has no body and hence no code, and some servers send none at all. Then a listing decides: it is a document that
//! nothing else than a store writes. Source: Amazon S3 API Reference, Error responses; HeadObject, "Special errors".

use crate::error::StoreError;
use crate::key::ObjectKey;
use crate::s3::error::{Doubt, Seen};
use crate::s3::store::S3Store;
use crate::store::{ByteRange, Entry, PutMode, Store};

impl S3Store {
    /// What to make of `error` from a request that reads, looks at or removes `key`: [`StoreError::NotFound`] if the status alone said so and
    /// the store does not list it, else the error.
    pub(crate) async fn confirmed(&self, key: &ObjectKey, error: StoreError) -> StoreError {
        self.confirmed_read(key, ByteRange::WholeUpTo(crate::store::OBJECT_BYTES_MAX), error).await
    }

    /// As [`S3Store::confirmed`], for a request that reads `range`: what begins at or past the listed end cannot be read.
    pub(crate) async fn confirmed_read(&self, key: &ObjectKey, range: ByteRange, error: StoreError) -> StoreError {
        let Some(doubt @ (Doubt::Missing | Doubt::Range)) = Doubt::of(&error) else { return error };
        let start = match range {
            ByteRange::WholeUpTo(_) => None,
            ByteRange::Part { start, .. } => Some(start),
        };
        match (doubt, self.listed(key, error).await) {
            (_, Err(error)) => error,
            (Doubt::Missing, Ok((None, _))) => StoreError::NotFound { key: key.clone() },
            (Doubt::Range, Ok((Some(entry), error)))
                if start.is_some_and(|start| start >= entry.meta.size.as_bytes()) =>
            {
                let why = "the range begins past the end of the object".to_owned();
                StoreError::Unsupported { doing: doing(&error), why }
            }
            (_, Ok((found, error))) => contradicted(&error, found.as_ref()),
        }
    }

    /// What to make of `error` from a write of `key`: [`StoreError::Conflict`] if the status alone said so and what the store lists
    /// agrees, else the error.
    pub(crate) async fn confirmed_write(&self, key: &ObjectKey, mode: &PutMode, error: StoreError) -> StoreError {
        match (Doubt::of(&error), mode) {
            (Some(Doubt::Conflict), _) | (Some(Doubt::Missing), PutMode::IfUnchanged(_)) => {}
            // Nothing has to be there to be created: this can only be the bucket, or no store at all.
            _ => return error,
        }
        match self.listed(key, error).await {
            Err(error) => error,
            Ok((found, error)) => {
                let holds = match (mode, &found) {
                    (PutMode::CreateOnly, found) => found.is_none(),
                    (PutMode::IfUnchanged(version), found) => {
                        found.as_ref().is_some_and(|entry| entry.meta.version == *version)
                    }
                };
                if holds { contradicted(&error, found.as_ref()) } else { StoreError::Conflict { key: key.clone() } }
            }
        }
    }

    /// What the store lists under `key`, and the doubtful error again; a store that cannot be asked leaves the doubt.
    async fn listed(&self, key: &ObjectKey, error: StoreError) -> Result<(Option<Entry>, StoreError), StoreError> {
        match self.list(key.as_str(), None).await {
            Ok(page) => Ok((page.entries.into_iter().find(|entry| entry.key == *key), error)),
            // What a person has to change (no bucket, no right to list) says more than a status that nobody signs.
            Err(unlisted @ StoreError::Misconfigured { .. }) => Err(unlisted),
            Err(unlisted) => {
                tracing::debug!(store = %self, %key, %error, %unlisted, "a doubtful answer could not be looked into");
                Err(error)
            }
        }
    }
}

/// The error of an answer that the store's own listing contradicts.
fn contradicted(error: &StoreError, found: Option<&Entry>) -> StoreError {
    let said = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    let listed = if found.is_some() { "lists the object" } else { "does not list the object" };
    let seen = Seen::no_answer_of_s3(format!("{said}; the store {listed}, so that this cannot be its answer"));
    seen.into_error(doing(error), None)
}

/// What was being done.
fn doing(error: &StoreError) -> String {
    match error {
        StoreError::Transient { doing, .. } => doing.clone(),
        other => other.to_string(),
    }
}
