//! Uploads in parts: what has arrived, and what becomes of it.

use std::collections::BTreeMap;

use s3s::dto::{
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CompletedPart, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3Request, S3Result, s3_error};

use crate::body::StoredBody;
use crate::checksums;
use crate::clock;
use crate::objects::{Condition, Content, NewVersion};
use crate::s3::Shared;
use crate::translate::{collect, condition, etag};

/// Uploads that may be open at once; a client that forgets more than this has a fault of its own.
const UPLOADS_MAX: usize = 1000;
/// Parts of one upload (Amazon S3 User Guide, "Multipart upload limits").
const PARTS_MAX: i32 = 10_000;

/// All uploads that are neither completed nor aborted.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    begun: u64,
    open: BTreeMap<String, Upload>,
}

#[derive(Debug)]
struct Upload {
    bucket: String,
    key: String,
    parts: BTreeMap<i32, Content>,
}

impl Uploads {
    fn begin(&mut self, bucket: &str, key: &str) -> S3Result<String> {
        if self.open.len() >= UPLOADS_MAX {
            return Err(s3_error!(SlowDown, "Too many uploads are open."));
        }
        self.begun += 1;
        let id = format!("upload-{:08}", self.begun);
        let upload = Upload { bucket: bucket.to_owned(), key: key.to_owned(), parts: BTreeMap::new() };
        self.open.insert(id.clone(), upload);
        Ok(id)
    }

    fn find(&mut self, id: &str, bucket: &str, key: &str) -> S3Result<&mut Upload> {
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
    fn assemble(&self, named: &[CompletedPart]) -> S3Result<Vec<Content>> {
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

impl Shared {
    pub(crate) fn begin_upload(&self, input: CreateMultipartUploadInput) -> S3Result<CreateMultipartUploadOutput> {
        if input.object_lock_mode.is_some() {
            return Err(s3_error!(NotImplemented, "A locked upload in parts is not implemented"));
        }
        self.objects.lock().bucket(&input.bucket)?;
        let id = self.uploads.lock().begin(&input.bucket, &input.key)?;
        Ok(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        })
    }

    pub(crate) async fn take_part(&self, req: S3Request<UploadPartInput>) -> S3Result<UploadPartOutput> {
        let S3Request { input, mut headers, trailing_headers, .. } = req;
        if !(1..=PARTS_MAX).contains(&input.part_number) {
            return Err(s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive"));
        }
        self.uploads.lock().find(&input.upload_id, &input.bucket, &input.key)?;
        let body = collect(input.body, input.content_length).await?;
        headers.extend(trailing_headers.and_then(|trailers| trailers.take()).unwrap_or_default());
        let checksum = self.check(&headers, &body)?;
        let content = self.content(body, checksum);
        let output = UploadPartOutput {
            e_tag: etag(&content),
            checksum_crc32: content.checksum.checksum_crc32.clone(),
            checksum_sha256: content.checksum.checksum_sha256.clone(),
            ..UploadPartOutput::default()
        };
        let mut uploads = self.uploads.lock();
        uploads.find(&input.upload_id, &input.bucket, &input.key)?.parts.insert(input.part_number, content);
        Ok(output)
    }

    pub(crate) fn complete_upload(
        &self,
        input: CompleteMultipartUploadInput,
    ) -> S3Result<CompleteMultipartUploadOutput> {
        let condition = match condition(input.if_match, input.if_none_match)? {
            _ if self.faults.read(|plan| plan.ignore_if_none_match) => Condition::None,
            condition => condition,
        };
        let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let mut uploads = self.uploads.lock();
        let parts = uploads.find(&input.upload_id, &input.bucket, &input.key)?.assemble(&named)?;
        let content = self.joined(&parts);
        let e_tag = etag(&content);
        let new = NewVersion { content, retention: None, condition };
        let at = clock::moment(&self.faults);
        let version_id = self.objects.lock().put(&input.bucket, &input.key, new, at)?;
        // Only now: an upload whose condition failed can still be aborted, or completed later.
        uploads.open.remove(&input.upload_id);
        Ok(CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag,
            version_id,
            ..CompleteMultipartUploadOutput::default()
        })
    }

    fn joined(&self, parts: &[Content]) -> Content {
        // As Amazon S3 does it: the MD5 of the parts' digests, and their number. No client may rely on it.
        let tags: Vec<u8> = parts.iter().flat_map(|part| checksums::bytes_of_hex(&part.etag)).collect();
        Content {
            size: parts.iter().map(|part| part.size).sum(),
            body: parts.iter().map(|part| part.body.clone()).collect::<Option<Vec<_>>>().map(StoredBody::of_parts),
            etag: format!("{}-{}", checksums::md5_hex(&tags), parts.len()),
            checksum: s3s::dto::Checksum::default(),
        }
    }
}
