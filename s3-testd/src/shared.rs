//! What the handlers of all requests share.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hyper::HeaderMap;
use parking_lot::Mutex;
use s3s::S3Result;
use s3s::dto::Checksum;

use crate::body::StoredBody;
use crate::checksums;
use crate::config::Storage;
use crate::faults::Faults;
use crate::objects::{Content, Objects, Version};
use crate::uploads::Uploads;

/// What requests share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) objects: Mutex<Objects>,
    pub(crate) uploads: Mutex<Uploads>,
    pub(crate) faults: Faults,
    pub(crate) page_size: usize,
    pub(crate) storage: Storage,
    pub(crate) random_etags: AtomicU64,
}

impl Shared {
    /// What is stored of a body: all of it, or only what is known about it.
    pub(crate) fn content(&self, body: Bytes, checksum: Checksum) -> Content {
        let etag = if self.faults.read(|plan| plan.etag_not_md5) {
            format!("{:032x}", self.random_etags.fetch_add(1, Ordering::Relaxed))
        } else {
            checksums::md5_hex(&body)
        };
        let kept = match self.storage {
            Storage::DiscardLargerThan(limit) if body.len() > limit => None,
            Storage::DiscardLargerThan(_) | Storage::Memory => Some(StoredBody::from(body.clone())),
        };
        Content { size: body.len() as u64, body: kept, etag, checksum }
    }

    /// Compares a body with the checksums that were sent with it, as far as the switches leave any.
    pub(crate) fn check(&self, headers: &HeaderMap, body: &[u8]) -> S3Result<Checksum> {
        if !self.faults.read(|plan| plan.trust_content_md5) {
            return checksums::check(headers, body);
        }
        let mut headers = headers.clone();
        headers.remove("content-md5");
        checksums::check(&headers, body)
    }

    pub(crate) fn page_rows(&self, asked: Option<i32>) -> usize {
        asked.and_then(|asked| usize::try_from(asked).ok()).unwrap_or(self.page_size).min(self.page_size)
    }

    pub(crate) fn is_listed(&self, key: &str, version: &Version) -> bool {
        self.faults.read(|plan| !plan.vanish.contains(key) && version.written.elapsed() >= plan.list_lag)
    }
}
