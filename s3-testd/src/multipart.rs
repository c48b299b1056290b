//! Uploads in parts: what has arrived, and what becomes of it.

use s3s::dto::{
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CreateMultipartUploadInput,
    CreateMultipartUploadOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3Request, S3Result, s3_error};

use crate::body::StoredBody;
use crate::checksums;
use crate::clock;
use crate::objects::{Condition, Content, NewVersion};
use crate::shared::Shared;
use crate::translate::{collect, condition, etag};

/// Parts of one upload (Amazon S3 User Guide, "Multipart upload limits").
const PARTS_MAX: i32 = 10_000;

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
