//! Uploads in parts: what has arrived.

use std::collections::BTreeMap;

use s3s::dto::CompletedPart;
use s3s::{S3Result, s3_error};

use crate::objects::Content;
use crate::translate::etag;

/// Uploads that may be open at once; a client that forgets more than this has a fault of its own.
const UPLOADS_MAX: usize = 1000;
/// All uploads that are neither completed nor aborted.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    begun: u64,
    pub(crate) open: BTreeMap<String, Upload>,
}

#[derive(Debug)]
pub(crate) struct Upload {
    bucket: String,
    key: String,
    pub(crate) parts: BTreeMap<i32, Content>,
}

impl Uploads {
    pub(crate) fn begin(&mut self, bucket: &str, key: &str) -> S3Result<String> {
        if self.open.len() >= UPLOADS_MAX {
            return Err(s3_error!(SlowDown, "Too many uploads are open."));
        }
        self.begun += 1;
        let id = format!("upload-{:08}", self.begun);
        let upload = Upload { bucket: bucket.to_owned(), key: key.to_owned(), parts: BTreeMap::new() };
        self.open.insert(id.clone(), upload);
        Ok(id)
    }

    pub(crate) fn find(&mut self, id: &str, bucket: &str, key: &str) -> S3Result<&mut Upload> {
        let upload = self.open.get_mut(id).filter(|upload| upload.bucket == bucket && upload.key == key);
        upload.ok_or_else(|| s3_error!(NoSuchUpload, "The specified multipart upload does not exist."))
    }

    /// Forgets an upload and its parts.
    pub(crate) fn abort(&mut self, id: &str, bucket: &str, key: &str) -> S3Result {
        self.find(id, bucket, key)?;
        self.open.remove(id);
        Ok(())
    }
}

impl Upload {
    /// The parts that the client names, which must be in order and what we received.
    pub(crate) fn assemble(&self, named: &[CompletedPart]) -> S3Result<Vec<Content>> {
        if named.is_empty() {
            return Err(s3_error!(MalformedXML, "You must specify at least one part"));
        }
        let mut parts = Vec::with_capacity(named.len());
        let mut previous = 0;
        for part in named {
            let number = part.part_number.unwrap_or(0);
            if number <= previous {
                return Err(s3_error!(InvalidPartOrder, "The list of parts was not in ascending order."));
            }
            previous = number;
            let found = self.parts.get(&number).filter(|found| part.e_tag == etag(found));
            let found = found.ok_or_else(|| s3_error!(InvalidPart, "One or more of the parts could not be found."))?;
            parts.push(found.clone());
        }
        Ok(parts)
    }
}
