//! S3's operations over [`Objects`]: what a request says, what the document answers.

use std::sync::Arc;

use s3s::dto::*;
use s3s::{Body, S3, S3Error, S3Request, S3Response, S3Result, s3_error};

use crate::body::StoredBody;
use crate::checksums;
use crate::clock;
use crate::config::History;
use crate::faults::Truncation;
use crate::listing::{self, Marker, Position, Query, Row};
use crate::objects::{Condition, Locking, NewVersion, Removal};
use crate::shared::Shared;
use crate::translate::{
    bypass, check_read, collect, condition, cut_body, etag, flip, length, mode_text, object, retention,
};

/// The handler that `s3s` calls after it has checked the signature.
#[derive(Clone, Debug)]
pub(crate) struct Backend(pub(crate) Arc<Shared>);

#[async_trait::async_trait]
impl S3 for Backend {
    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let S3Request { input, mut headers, trailing_headers, .. } = req;
        let body = collect(input.body, input.content_length).await?;
        headers.extend(trailing_headers.and_then(|trailers| trailers.take()).unwrap_or_default());
        let (ignores_conditions, rejects_checksums) =
            self.0.faults.read(|plan| (plan.ignore_if_none_match, plan.reject_checksum_headers));
        if rejects_checksums && checksums::has_checksum_header(&headers) {
            return Err(s3_error!(
                NotImplemented,
                "A header you provided implies functionality that is not implemented"
            ));
        }
        let checksum = self.0.check(&headers, &body)?;
        let mode = input.object_lock_mode.as_ref().map(ObjectLockMode::as_str);
        let retention = retention(mode, input.object_lock_retain_until_date.as_ref())?;
        if retention.is_some() && !checksums::is_protected(&headers) {
            let message = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters";
            return Err(s3_error!(InvalidRequest, "{message}"));
        }
        let condition = match condition(input.if_match, input.if_none_match)? {
            _ if ignores_conditions => Condition::None,
            condition => condition,
        };
        let content = self.0.content(body, checksum);
        let output = PutObjectOutput {
            e_tag: etag(&content),
            checksum_crc32: content.checksum.checksum_crc32.clone(),
            checksum_sha256: content.checksum.checksum_sha256.clone(),
            ..PutObjectOutput::default()
        };
        let at = clock::moment(&self.0.faults);
        let new = NewVersion { content, retention, condition };
        let version_id = self.0.objects.lock().put(&input.bucket, &input.key, new, at)?;
        Ok(S3Response::new(PutObjectOutput { version_id, ..output }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = req.input;
        let (version, content, shown_id) = {
            let objects = self.0.objects.lock();
            let (version, content) = objects.get(&input.bucket, &input.key, input.version_id.as_deref())?;
            (version.clone(), content.clone(), objects.bucket(&input.bucket)?.shown_id(&version.id))
        };
        check_read(&content, input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let plan = self.0.faults.read(|plan| {
            let wrong = plan.wrong_bytes.get(&input.key).cloned();
            (wrong, plan.corrupt_get.clone(), plan.truncate_get.clone())
        });
        let (wrong, corrupt, truncate) = plan;
        let Some(mut body) = wrong.map(StoredBody::from).or_else(|| content.body.clone()) else {
            return Err(s3_error!(InvalidObjectState, "The body was not kept."));
        };
        if let Some(fault) = corrupt.filter(|fault| fault.keys.matches(&input.key)) {
            body = flip(body.join(), fault.offset, fault.mask).into();
        }
        let total = body.len();
        let mut content_range = None;
        if let Some(range) = input.range {
            let range = range.check(total as u64)?;
            content_range = Some(format!("bytes {}-{}/{total}", range.start, range.end.saturating_sub(1)));
            let bound = |offset: u64| usize::try_from(offset).unwrap_or(total).min(total);
            body = body.slice(bound(range.start)..bound(range.end));
        }
        let with_checksum = content_range.is_none() && input.checksum_mode.is_some();
        let mut announced = body.len();
        let mut blob = body.clone().stream();
        if let Some(fault) = truncate.filter(|fault| fault.keys.matches(&input.key) && fault.keep < announced) {
            let kept = body.slice(0..fault.keep).join();
            match fault.how {
                Truncation::ConnectionCut => blob = cut_body(kept),
                Truncation::ShorterLength => {
                    announced = kept.len();
                    blob = StreamingBlob::from(Body::from(kept));
                }
            }
        }
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            body: Some(blob),
            content_length: length(announced as u64),
            content_range,
            e_tag: etag(&content),
            last_modified: Some(clock::timestamp(version.modified)),
            checksum_crc32: content.checksum.checksum_crc32.filter(|_| with_checksum),
            checksum_sha256: content.checksum.checksum_sha256.filter(|_| with_checksum),
            object_lock_mode: version.retention.map(|lock| ObjectLockMode::from_static(mode_text(lock.mode))),
            object_lock_retain_until_date: version.retention.map(|lock| clock::timestamp(lock.until)),
            version_id: shown_id,
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = req.input;
        let objects = self.0.objects.lock();
        let (version, content) = objects.get(&input.bucket, &input.key, input.version_id.as_deref())?;
        check_read(content, input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let checksum = input.checksum_mode.map(|_| content.checksum.clone()).unwrap_or_default();
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: length(content.size),
            e_tag: etag(content),
            last_modified: Some(clock::timestamp(version.modified)),
            checksum_crc32: checksum.checksum_crc32,
            checksum_sha256: checksum.checksum_sha256,
            object_lock_mode: version.retention.map(|lock| ObjectLockMode::from_static(mode_text(lock.mode))),
            object_lock_retain_until_date: version.retention.map(|lock| clock::timestamp(lock.until)),
            version_id: objects.bucket(&input.bucket)?.shown_id(&version.id),
            ..HeadObjectOutput::default()
        }))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = req.input;
        let removal = Removal {
            version: input.version_id.as_deref(),
            condition: self.removal_condition(input.if_match)?,
            bypass: bypass(input.bypass_governance_retention),
        };
        let at = clock::moment(&self.0.faults);
        let removed = self.0.objects.lock().delete(&input.bucket, &input.key, &removal, at)?;
        let delete_marker = removed.marker.then_some(true);
        Ok(S3Response::new(DeleteObjectOutput {
            delete_marker,
            version_id: removed.version,
            ..DeleteObjectOutput::default()
        }))
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = req.input;
        if input.delete.objects.len() > 1000 {
            return Err(s3_error!(MalformedXML));
        }
        let at = clock::moment(&self.0.faults);
        let mut objects = self.0.objects.lock();
        objects.bucket(&input.bucket)?;
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for object in input.delete.objects {
            let removal = Removal {
                version: object.version_id.as_deref(),
                condition: self.removal_condition(object.e_tag.map(ETagCondition::ETag))?,
                bypass: bypass(input.bypass_governance_retention),
            };
            match objects.delete(&input.bucket, &object.key, &removal, at) {
                Ok(removed) => deleted.push(DeletedObject {
                    delete_marker: removed.marker.then_some(true),
                    delete_marker_version_id: removed.version.filter(|_| removed.marker),
                    key: Some(object.key),
                    version_id: object.version_id,
                }),
                Err(refusal) => errors.push(Error {
                    code: Some(S3Error::from(refusal).code().as_str().to_owned()),
                    key: Some(object.key),
                    message: Some(refusal.to_string()),
                    version_id: object.version_id,
                }),
            }
        }
        let deleted = (input.delete.quiet != Some(true)).then_some(deleted);
        let output = DeleteObjectsOutput { deleted, errors: Some(errors), ..DeleteObjectsOutput::default() };
        Ok(S3Response::new(output))
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let after = match (&input.continuation_token, &input.start_after) {
            (Some(token), _) => Some(
                Position::from_token(token)
                    .ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))?,
            ),
            (None, after) => after.clone().map(Position::Key),
        };
        let max = self.0.page_rows(input.max_keys);
        let query = Query {
            prefix: input.prefix.as_deref().unwrap_or(""),
            delimiter: input.delimiter.as_deref().unwrap_or(""),
            after,
            max,
        };
        let objects = self.0.objects.lock();
        let page = listing::page(objects.bucket(&input.bucket)?, &query, |key, version| self.0.is_listed(key, version));
        let (mut contents, mut common_prefixes) = (Vec::new(), Vec::new());
        let rows = page.rows.len();
        for row in page.rows {
            match row {
                Row::Object(key, version) => contents.push(object(key, version)),
                Row::CommonPrefix(prefix) => common_prefixes.push(CommonPrefix { prefix: Some(prefix) }),
            }
        }
        let next = page.next.as_ref().map(Position::token);
        drop(objects);
        Ok(S3Response::new(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            max_keys: i32::try_from(max).ok(),
            key_count: i32::try_from(rows).ok(),
            continuation_token: input.continuation_token,
            is_truncated: Some(next.is_some()),
            next_continuation_token: next,
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            delimiter: input.delimiter,
            start_after: input.start_after,
            ..ListObjectsV2Output::default()
        }))
    }

    async fn list_object_versions(
        &self,
        req: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let input = req.input;
        if input.delimiter.is_some() {
            return Err(s3_error!(NotImplemented, "A delimiter in a listing of versions is not implemented"));
        }
        let marker = input.key_marker.as_deref().filter(|key| !key.is_empty());
        let after = marker.map(|key| Marker { key, version: input.version_id_marker.as_deref() });
        let objects = self.0.objects.lock();
        let max = self.0.page_rows(input.max_keys);
        let prefix = input.prefix.as_deref().unwrap_or("");
        let (rows, more) = listing::versions(objects.bucket(&input.bucket)?, prefix, after, max);
        let last = rows.last().filter(|_| more).map(|row| (row.key.to_owned(), row.version.id.clone()));
        let (mut versions, mut delete_markers) = (Vec::new(), Vec::new());
        for row in rows {
            let (key, is_latest) = (Some(row.key.to_owned()), Some(row.is_latest));
            let version_id = Some(row.version.id.clone());
            let last_modified = Some(clock::timestamp(row.version.modified));
            match &row.version.content {
                Some(content) => versions.push(ObjectVersion {
                    e_tag: etag(content),
                    is_latest,
                    key,
                    last_modified,
                    size: length(content.size),
                    version_id,
                    ..ObjectVersion::default()
                }),
                None => {
                    delete_markers.push(DeleteMarkerEntry { is_latest, key, last_modified, owner: None, version_id });
                }
            }
        }
        drop(objects);
        let (next_key_marker, next_version_id_marker) = last.unzip();
        Ok(S3Response::new(ListObjectVersionsOutput {
            delete_markers: Some(delete_markers),
            is_truncated: Some(more),
            key_marker: input.key_marker,
            max_keys: i32::try_from(max).ok(),
            name: Some(input.bucket),
            next_key_marker,
            next_version_id_marker,
            prefix: input.prefix,
            version_id_marker: input.version_id_marker,
            versions: Some(versions),
            ..ListObjectVersionsOutput::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.0.begin_upload(req.input).map(S3Response::new)
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        self.0.take_part(req).await.map(S3Response::new)
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.0.complete_upload(req.input).map(S3Response::new)
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let AbortMultipartUploadInput { bucket, key, upload_id, .. } = req.input;
        self.0.uploads.lock().abort(&upload_id, &bucket, &key)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        let locked = req.input.object_lock_enabled_for_bucket == Some(true);
        let history = if locked { History::ObjectLock } else { History::Latest };
        self.0.objects.lock().create_bucket(&req.input.bucket, history)?;
        Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{}", req.input.bucket)) }))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.0.objects.lock().bucket(&req.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn put_object_retention(
        &self,
        req: S3Request<PutObjectRetentionInput>,
    ) -> S3Result<S3Response<PutObjectRetentionOutput>> {
        let input = req.input;
        let asked = input.retention.ok_or_else(|| s3_error!(MalformedXML))?;
        let mode = asked.mode.as_ref().map(ObjectLockRetentionMode::as_str);
        let retention = retention(mode, asked.retain_until_date.as_ref())?;
        let target = Locking {
            bucket: &input.bucket,
            key: &input.key,
            version: input.version_id.as_deref(),
            bypass: bypass(input.bypass_governance_retention),
        };
        self.0.objects.lock().retain(target, retention, clock::moment(&self.0.faults))?;
        Ok(S3Response::new(PutObjectRetentionOutput::default()))
    }

    async fn get_object_retention(
        &self,
        req: S3Request<GetObjectRetentionInput>,
    ) -> S3Result<S3Response<GetObjectRetentionOutput>> {
        let objects = self.0.objects.lock();
        let (version, _) = objects.get(&req.input.bucket, &req.input.key, req.input.version_id.as_deref())?;
        let lock = version.retention.ok_or_else(|| s3_error!(NoSuchObjectLockConfiguration))?;
        let retention = ObjectLockRetention {
            mode: Some(ObjectLockRetentionMode::from_static(mode_text(lock.mode))),
            retain_until_date: Some(clock::timestamp(lock.until)),
        };
        Ok(S3Response::new(GetObjectRetentionOutput { retention: Some(retention) }))
    }
}

impl Backend {
    fn removal_condition(&self, if_match: Option<ETagCondition>) -> S3Result<Condition> {
        if self.0.faults.read(|plan| plan.ignore_if_none_match) {
            return Ok(Condition::None);
        }
        condition(if_match, None)
    }
}
