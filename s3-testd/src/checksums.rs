//! Does a body match what the client said about it?

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use hyper::HeaderMap;
use s3s::crypto::{Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::dto::Checksum;
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

/// Begins the name of every header that carries a checksum of the body.
const PREFIX: &str = "x-amz-checksum-";

/// Whether the client sent any checksum in the way that came after `Content-MD5`.
pub(crate) fn has_checksum_header(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with(PREFIX) || name == "x-amz-sdk-checksum-algorithm")
}

/// Whether there is anything but the signature that protects the body, as Object Lock demands.
pub(crate) fn is_protected(headers: &HeaderMap) -> bool {
    has_content_md5(headers) || has_checksum_header(headers)
}

/// Whether there is the one checksum that the oldest servers know.
pub(crate) fn has_content_md5(headers: &HeaderMap) -> bool {
    headers.contains_key("content-md5")
}

/// Compares the body with every checksum that came along, and gives those back that are stored with the object.
///
/// The caller has already compared a signed payload's `x-amz-content-sha256` with the body, so that a SHA-256 is not
/// computed twice. Errors: `BadDigest` for other bytes, `InvalidDigest` or `InvalidRequest` for what is no checksum.
pub(crate) fn check(headers: &HeaderMap, body: &[u8]) -> S3Result<Checksum> {
    if let Some(sent) = headers.get("content-md5") {
        let sent = BASE64.decode(sent.as_bytes()).ok().filter(|digest| digest.len() == 16);
        let sent = sent.ok_or_else(|| s3_error!(InvalidDigest, "The Content-MD5 you specified is not valid."))?;
        if sent != digest::<Md5>(body) {
            return Err(s3_error!(BadDigest, "The Content-MD5 you specified did not match what we received."));
        }
    }
    Ok(Checksum {
        checksum_crc32: one(headers, "crc32", || digest::<Crc32>(body))?,
        checksum_crc32c: one(headers, "crc32c", || digest::<Crc32c>(body))?,
        checksum_crc64nvme: one(headers, "crc64nvme", || digest::<Crc64Nvme>(body))?,
        checksum_sha1: one(headers, "sha1", || digest::<Sha1>(body))?,
        checksum_sha256: one(headers, "sha256", || signed_sha256(headers).unwrap_or_else(|| digest::<Sha256>(body)))?,
        ..Checksum::default()
    })
}

fn one(headers: &HeaderMap, algorithm: &str, compute: impl FnOnce() -> Vec<u8>) -> S3Result<Option<String>> {
    let Some(sent) = headers.get(format!("{PREFIX}{algorithm}")) else { return Ok(None) };
    let computed = BASE64.encode(&compute());
    if sent.as_bytes() == computed.as_bytes() {
        return Ok(Some(computed));
    }
    if sent.len() == computed.len() && BASE64.decode(sent.as_bytes()).is_ok() {
        return Err(s3_error!(BadDigest, "The {algorithm} you specified did not match the calculated checksum."));
    }
    Err(s3_error!(InvalidRequest, "Value for {PREFIX}{algorithm} header is invalid."))
}

/// The SHA-256 in a signed payload's header, which has been compared with the body before we see it.
fn signed_sha256(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get("x-amz-content-sha256")?.as_bytes();
    HEXLOWER_PERMISSIVE.decode(value).ok().filter(|digest| digest.len() == 32)
}

fn digest<C: s3s::crypto::Checksum>(body: &[u8]) -> Vec<u8> {
    C::checksum(body).as_ref().to_vec()
}

/// The MD5 of a body in lower-case hex: an `ETag`.
pub(crate) fn md5_hex(body: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&digest::<Md5>(body))
}

/// The digest in an `ETag`; what is no digest stands for itself.
pub(crate) fn bytes_of_hex(etag: &str) -> Vec<u8> {
    HEXLOWER_PERMISSIVE.decode(etag.as_bytes()).unwrap_or_else(|_| etag.as_bytes().to_vec())
}

/// The body had another SHA-256 than the signature says.
pub(crate) fn content_sha256_mismatch() -> S3Error {
    let code = S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into());
    let mut error =
        S3Error::with_message(code, "The provided 'x-amz-content-sha256' header does not match what was computed.");
    error.set_status_code(hyper::StatusCode::BAD_REQUEST);
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digests of `123456789`, the check value of the CRC catalogues; the others from coreutils.
    const TABLE: [(&str, &str); 6] = [
        ("content-md5", "JfnnlDI7RTiF9RgfG2JNCw=="),
        ("x-amz-checksum-crc32", "y/Q5Jg=="),
        ("x-amz-checksum-crc32c", "4waSgw=="),
        ("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
        ("x-amz-checksum-sha1", "98O8HYCOBHMq32eZZczDTKeuNEE="),
        ("x-amz-checksum-sha256", "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
    ];

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn other_bytes_than_announced_are_a_bad_digest_whatever_the_algorithm() {
        for (name, value) in TABLE {
            let error = check(&headers(name, value), b"123456780").unwrap_err();
            assert_eq!(error.code(), &S3ErrorCode::BadDigest, "{name}");
        }
    }

    #[test]
    fn what_is_no_checksum_is_refused_as_such() {
        for value in ["", "AAAA", "not base64"] {
            let error = check(&headers("content-md5", value), b"123456789").unwrap_err();
            assert_eq!(error.code(), &S3ErrorCode::InvalidDigest, "{value}");
            let error = check(&headers("x-amz-checksum-sha256", value), b"123456789").unwrap_err();
            assert_eq!(error.code(), &S3ErrorCode::InvalidRequest, "{value}");
        }
    }

    #[test]
    fn the_right_checksum_passes_and_is_kept() {
        for (name, value) in TABLE {
            let headers = headers(name, value);
            let kept = check(&headers, b"123456789").unwrap();
            let kept = [
                kept.checksum_crc32,
                kept.checksum_crc32c,
                kept.checksum_crc64nvme,
                kept.checksum_sha1,
                kept.checksum_sha256,
            ];
            let expected = if name == "content-md5" { vec![] } else { vec![value.to_owned()] };
            assert_eq!(kept.into_iter().flatten().collect::<Vec<_>>(), expected);
            assert!(is_protected(&headers));
        }
        assert_eq!(md5_hex(b""), "d41d8cd98f00b204e9800998ecf8427e");
    }
}
