//! What clients asked for, so that tests can count it.

use std::collections::{BTreeMap, VecDeque};

use hyper::{HeaderMap, Method};
use parking_lot::Mutex;

/// Requests that the log keeps; older ones are forgotten, the counters are not.
const LOG_MAX: usize = 20_000;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Writes an object.
    PutObject,
    /// Reads an object or a part of it.
    GetObject,
    /// Size and version of an object.
    HeadObject,
    /// Removes an object or one version of it.
    DeleteObject,
    /// Removes up to 1000 objects.
    DeleteObjects,
    /// One page of keys.
    ListObjectsV2,
    /// One page of versions and delete markers.
    ListObjectVersions,
    /// Makes a bucket.
    CreateBucket,
    /// Whether a bucket exists.
    HeadBucket,
    /// Until when a version is locked.
    GetObjectRetention,
    /// Locks a version, or extends its lock.
    PutObjectRetention,
    /// Begins an upload in parts.
    CreateMultipartUpload,
    /// Sends one part.
    UploadPart,
    /// Makes the parts an object.
    CompleteMultipartUpload,
    /// Forgets the parts.
    AbortMultipartUpload,
    /// Anything else: answered with 501.
    Other,
}

impl Operation {
    /// Whether it changes what is stored.
    #[must_use]
    pub fn writes(self) -> bool {
        matches!(
            self,
            Self::PutObject
                | Self::DeleteObject
                | Self::DeleteObjects
                | Self::CreateBucket
                | Self::PutObjectRetention
                | Self::CreateMultipartUpload
                | Self::UploadPart
                | Self::CompleteMultipartUpload
                | Self::AbortMultipartUpload
        )
    }
}

/// One request and how it was answered.
#[derive(Clone, Debug)]
pub struct LoggedRequest {
    /// What it asked for.
    pub operation: Operation,
    /// The bucket, or an empty text.
    pub bucket: String,
    /// The key, or an empty text.
    pub key: String,
    /// The part after `?`, as it was sent.
    pub query: String,
    /// The HTTP status of the answer, or `None` if the connection was dropped instead.
    pub status: Option<u16>,
    /// Bytes of the body, as announced.
    pub bytes_in: u64,
    /// Bytes of the answer's body, as announced.
    pub bytes_out: u64,
    headers: HeaderMap,
}

impl LoggedRequest {
    /// One header of the request, if it was sent and is text. `authorization` is not kept.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// A request's target: what every later step needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) operation: Operation,
    pub(crate) bucket: String,
    pub(crate) key: String,
}

impl Target {
    /// Reads a path-style request line.
    pub(crate) fn of(method: &Method, uri: &hyper::Uri) -> Self {
        let path = percent_decode(uri.path().trim_start_matches('/'));
        let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
        let has = |name: &str| {
            uri.query().unwrap_or("").split('&').any(|pair| pair.split_once('=').map_or(pair, |(key, _)| key) == name)
        };
        let operation = match (method.as_str(), bucket.is_empty(), key.is_empty()) {
            ("GET", false, true) if has("list-type") => Operation::ListObjectsV2,
            ("GET", false, true) if has("versions") => Operation::ListObjectVersions,
            ("HEAD", false, true) => Operation::HeadBucket,
            ("PUT", false, true) if uri.query().is_none_or(|query| query.starts_with("x-id=")) => {
                Operation::CreateBucket
            }
            ("POST", false, true) if has("delete") => Operation::DeleteObjects,
            ("PUT", false, false) if has("retention") => Operation::PutObjectRetention,
            ("GET", false, false) if has("retention") => Operation::GetObjectRetention,
            ("POST", false, false) if has("uploads") => Operation::CreateMultipartUpload,
            ("PUT", false, false) if has("uploadId") => Operation::UploadPart,
            ("POST", false, false) if has("uploadId") => Operation::CompleteMultipartUpload,
            ("DELETE", false, false) if has("uploadId") => Operation::AbortMultipartUpload,
            ("PUT", false, false) => Operation::PutObject,
            ("GET", false, false) => Operation::GetObject,
            ("HEAD", false, false) => Operation::HeadObject,
            ("DELETE", false, false) => Operation::DeleteObject,
            _ => Operation::Other,
        };
        Self { operation, bucket: bucket.to_owned(), key: key.to_owned() }
    }
}

/// Undoes `%41`; what is not valid stays as it is.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match rest {
            [b'%', high, low, ..] => data_encoding::HEXLOWER_PERMISSIVE.decode(&[*high, *low]).ok(),
            _ => None,
        };
        match escaped {
            Some(byte) => {
                bytes.extend(byte);
                rest = rest.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The requests of one server.
#[derive(Debug, Default)]
pub(crate) struct RequestLog {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    requests: VecDeque<LoggedRequest>,
    counts: BTreeMap<Operation, u64>,
    in_flight: usize,
    in_flight_max: usize,
}

/// What is known once a request has been answered.
pub(crate) struct Answered {
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) status: Option<u16>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

/// Counts a request as running until it is dropped, also when its connection dies half-way.
pub(crate) struct InFlight<'a>(&'a RequestLog);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.inner.lock().in_flight -= 1;
    }
}

impl RequestLog {
    pub(crate) fn begin(&self, operation: Operation) -> InFlight<'_> {
        let mut inner = self.inner.lock();
        *inner.counts.entry(operation).or_default() += 1;
        inner.in_flight += 1;
        inner.in_flight_max = inner.in_flight_max.max(inner.in_flight);
        InFlight(self)
    }

    pub(crate) fn end(&self, target: &Target, answered: Answered) {
        let mut inner = self.inner.lock();
        if inner.requests.len() == LOG_MAX {
            inner.requests.pop_front();
        }
        let mut headers = answered.headers;
        headers.remove("authorization");
        inner.requests.push_back(LoggedRequest {
            operation: target.operation,
            bucket: target.bucket.clone(),
            key: target.key.clone(),
            query: answered.query,
            status: answered.status,
            bytes_in: answered.bytes_in,
            bytes_out: answered.bytes_out,
            headers,
        });
    }

    pub(crate) fn requests(&self) -> Vec<LoggedRequest> {
        self.inner.lock().requests.iter().cloned().collect()
    }

    pub(crate) fn count(&self, operation: Operation) -> u64 {
        self.inner.lock().counts.get(&operation).copied().unwrap_or(0)
    }

    pub(crate) fn total(&self) -> u64 {
        self.inner.lock().counts.values().sum()
    }

    pub(crate) fn in_flight_max(&self) -> usize {
        self.inner.lock().in_flight_max
    }

    pub(crate) fn clear(&self) {
        let mut inner = self.inner.lock();
        inner.requests.clear();
        inner.counts.clear();
        inner.in_flight_max = inner.in_flight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_tells_the_operation_the_bucket_and_the_decoded_key() {
        let table = [
            ("PUT", "/b/k?x-id=PutObject", Operation::PutObject, "k"),
            ("GET", "/b/a%20b/%C3%A4", Operation::GetObject, "a b/ä"),
            ("GET", "/b/100%", Operation::GetObject, "100%"),
            ("HEAD", "/b/k?versionId=1", Operation::HeadObject, "k"),
            ("DELETE", "/b/k", Operation::DeleteObject, "k"),
            ("PUT", "/b/k?retention", Operation::PutObjectRetention, "k"),
            ("GET", "/b/k?retention=", Operation::GetObjectRetention, "k"),
            ("GET", "/b?list-type=2&prefix=x", Operation::ListObjectsV2, ""),
            ("GET", "/b/?versions", Operation::ListObjectVersions, ""),
            ("POST", "/b/?delete", Operation::DeleteObjects, ""),
            ("POST", "/b/k?uploads", Operation::CreateMultipartUpload, "k"),
            ("PUT", "/b/k?partNumber=1&uploadId=u", Operation::UploadPart, "k"),
            ("POST", "/b/k?uploadId=u", Operation::CompleteMultipartUpload, "k"),
            ("DELETE", "/b/k?uploadId=u", Operation::AbortMultipartUpload, "k"),
            ("POST", "/b/k", Operation::Other, "k"),
            ("PUT", "/b", Operation::CreateBucket, ""),
            ("HEAD", "/b/", Operation::HeadBucket, ""),
            ("PUT", "/b?versioning", Operation::Other, ""),
            ("GET", "/", Operation::Other, ""),
        ];
        for (method, uri, operation, key) in table {
            let target = Target::of(&method.parse().unwrap(), &uri.parse().unwrap());
            assert_eq!((target.operation, target.key.as_str()), (operation, key), "{method} {uri}");
        }
    }

    #[test]
    fn the_log_forgets_the_oldest_and_keeps_no_signature() {
        let log = RequestLog::default();
        let target = Target { operation: Operation::GetObject, bucket: "b".to_owned(), key: "k".to_owned() };
        for status in 0..=LOG_MAX {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", "AWS4-HMAC-SHA256 x".parse().unwrap());
            headers.insert("range", "bytes=0-1".parse().unwrap());
            let status = u16::try_from(status).ok();
            drop(log.begin(target.operation));
            log.end(&target, Answered { query: String::new(), headers, status, bytes_in: 0, bytes_out: 0 });
        }
        let requests = log.requests();
        assert_eq!((requests.len(), requests[0].status), (LOG_MAX, Some(1)));
        assert_eq!((requests[0].header("authorization"), requests[0].header("range")), (None, Some("bytes=0-1")));
        assert_eq!(log.count(Operation::GetObject), 20_001);
        assert_eq!((log.total(), log.in_flight_max()), (20_001, 1));
    }
}
