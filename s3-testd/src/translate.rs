//! From what a request says to what the store understands, and back.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use s3s::dto::{ETag, ETagCondition, Object, ObjectLockMode, ObjectStorageClass, StreamingBlob, Timestamp};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

use crate::checksums;
use crate::clock;
use crate::objects::{Bypass, Condition, Content, LockMode, Refusal, Retention, Version};

/// The largest body that the server takes: 256 MiB.
const BODY_MAX: usize = 256 << 20;

impl From<Refusal> for S3Error {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::NoSuchBucket => S3ErrorCode::NoSuchBucket,
            Refusal::BucketExists => S3ErrorCode::BucketAlreadyOwnedByYou,
            Refusal::NoSuchKey => S3ErrorCode::NoSuchKey,
            Refusal::NoSuchVersion => S3ErrorCode::NoSuchVersion,
            Refusal::IsDeleteMarker => S3ErrorCode::MethodNotAllowed,
            Refusal::ConditionFailed => S3ErrorCode::PreconditionFailed,
            Refusal::Locked => S3ErrorCode::AccessDenied,
            Refusal::NoLockInBucket => S3ErrorCode::InvalidRequest,
            Refusal::RetentionInThePast => S3ErrorCode::InvalidArgument,
        };
        Self::with_message(code, refusal.to_string())
    }
}

/// Collects a body into one buffer; the only copy that is made of it.
pub(crate) async fn collect(body: Option<StreamingBlob>, announced: Option<i64>) -> S3Result<Bytes> {
    let Some(mut body) = body else { return Ok(Bytes::new()) };
    let announced = announced.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    if announced > BODY_MAX {
        return Err(s3_error!(EntityTooLarge));
    }
    let mut bytes = Vec::with_capacity(announced);
    while let Some(chunk) = body.next().await {
        // The signature library has no public type for what went wrong, only a text.
        let chunk = chunk.map_err(|error| match error.to_string() {
            text if text.contains("Sha256Mismatch") => checksums::content_sha256_mismatch(),
            _ => s3_error!(IncompleteBody, "You did not provide the number of bytes specified by Content-Length."),
        })?;
        if bytes.len() + chunk.len() > BODY_MAX {
            return Err(s3_error!(EntityTooLarge));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.into())
}

/// The condition that a write or delete carries.
pub(crate) fn condition(if_match: Option<ETagCondition>, if_none_match: Option<ETagCondition>) -> S3Result<Condition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::None),
        (None, Some(ETagCondition::Any)) => Ok(Condition::Absent),
        (Some(ETagCondition::Any), None) => Ok(Condition::Present),
        (Some(ETagCondition::ETag(etag)), None) => Ok(Condition::Etag(etag.value().to_owned())),
        _ => Err(s3_error!(NotImplemented, "A header you provided implies functionality that is not implemented")),
    }
}

pub(crate) fn retention(mode: Option<&str>, until: Option<&Timestamp>) -> S3Result<Option<Retention>> {
    let mode = match (mode, until) {
        (None, None) => return Ok(None),
        (Some(ObjectLockMode::COMPLIANCE), Some(_)) => LockMode::Compliance,
        (Some(ObjectLockMode::GOVERNANCE), Some(_)) => LockMode::Governance,
        (Some(_), Some(_)) => return Err(s3_error!(InvalidArgument, "Unknown wormMode directive.")),
        _ => return Err(s3_error!(InvalidArgument, "Mode and retain until date must both be supplied.")),
    };
    until.map(|until| Ok(Retention { mode, until: clock::time(until)? })).transpose()
}

pub(crate) fn mode_text(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Compliance => ObjectLockMode::COMPLIANCE,
        LockMode::Governance => ObjectLockMode::GOVERNANCE,
    }
}

pub(crate) fn bypass(header: Option<bool>) -> Bypass {
    if header == Some(true) { Bypass::Yes } else { Bypass::No }
}

pub(crate) fn etag(content: &Content) -> Option<ETag> {
    Some(ETag::Strong(content.etag.clone()))
}

pub(crate) fn length(bytes: u64) -> Option<i64> {
    i64::try_from(bytes).ok()
}

/// The conditions that a read may carry; the answer of a failed one has no body.
pub(crate) fn check_read(
    content: &Content,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result {
    let is = |condition: &ETagCondition| condition.as_etag().is_none_or(|etag| etag.value() == content.etag);
    if if_match.is_some_and(|condition| !is(condition)) {
        return Err(Refusal::ConditionFailed.into());
    }
    if if_none_match.is_some_and(is) {
        return Err(s3_error!(NotModified));
    }
    Ok(())
}

/// Time for the head and the first bytes of a cut body to leave before the connection goes.
const CUT_AFTER: Duration = Duration::from_millis(20);

/// A body that ends earlier than the answer's head says.
pub(crate) fn cut_body(kept: Bytes) -> StreamingBlob {
    StreamingBlob::wrap(futures_util::stream::unfold(Some(kept), |kept| async {
        match kept {
            Some(kept) => Some((Ok::<_, std::io::Error>(kept), None)),
            None => {
                tokio::time::sleep(CUT_AFTER).await;
                None
            }
        }
    }))
}

pub(crate) fn object(key: &str, version: &Version) -> Object {
    let content = version.content.as_ref();
    Object {
        e_tag: content.and_then(etag),
        key: Some(key.to_owned()),
        last_modified: Some(clock::timestamp(version.modified)),
        size: content.and_then(|content| length(content.size)),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        ..Object::default()
    }
}

/// The body with some bits of one byte turned round; as it was if the byte is not in it.
pub(crate) fn flip(body: Bytes, offset: u64, mask: u8) -> Bytes {
    let mut bytes = Vec::from(body);
    if let Some(byte) = usize::try_from(offset).ok().and_then(|offset| bytes.get_mut(offset)) {
        *byte ^= mask;
    }
    bytes.into()
}
