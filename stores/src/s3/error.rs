//! What S3 servers and the way to them say, translated once into what a caller may do about it.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::http::Response;

use crate::error::StoreError;
use crate::key::ObjectKey;
use crate::s3::answer::is_page;

/// What the server itself said, or how far the request came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    kind: Kind,
    status: Option<u16>,
    code: Option<String>,
    message: String,
    retry_after: Option<Duration>,
    bucket_region: Option<String>,
}

/// How far the request came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    /// A server answered.
    #[default]
    Answer,
    /// A connection, a time-out, an answer that broke off.
    Way,
    /// Something else than a store answered.
    Foreign,
    /// The server's certificate is not one that we trust.
    Certificate,
    /// There are no credentials, or they cannot be read.
    Credentials,
    /// The request could not even be made.
    Request,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The same request may succeed later.
    Transient,
    /// The server wants less.
    Throttled,
    /// A concurrent conditional request was in the way: again in a moment.
    Raced,
    /// The condition does not hold. An answer.
    Conflict,
    /// There is no such object. An answer.
    Missing,
    /// The range lies past the end. An answer.
    Range,
    /// The status of an answer about the object, without the code that S3 gives with it: anything on the way may have said so.
    Doubtful(Doubt),
    /// The bytes changed on the way.
    Corrupted,
    /// The credentials ran out: fetch new ones.
    Expired,
    /// A quota or a disk.
    Full,
    /// A person has to change something: what.
    Misconfigured(&'static str),
    /// Nothing that we should ever have asked.
    Unsupported,
}

/// What an answer of which only the status speaks would mean if the store had given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// 404: there is no such object.
    Missing,
    /// 412: the condition of a write does not hold.
    Conflict,
    /// 416: the range lies past the end.
    Range,
}

const NO_RIGHT: &str = "the credentials lack the right to do this: compare the role's policy with the documented one";
const BAD_KEY: &str = "the store does not accept these credentials: check the access key, the secret key and the clock";
const NO_BUCKET: &str = "there is no such bucket: check the region's url, or create it";
const OTHER_REGION: &str = "the bucket lies in another region: set s3_region (and endpoint) to match";
const NO_KMS_KEY: &str = "the store cannot use the KMS key of this object: enable the key, and give the role kms:GenerateDataKey and kms:Decrypt";
const ARCHIVED: &str = "the object was moved to an archive class: restore it there first";
const LACKS: &str = "the server lacks a feature that this profile uses: choose another profile, such as other";
const UNTRUSTED: &str = "the server's certificate is not trusted: set ca_file to the authority that signed it";
const NO_CODE: &str =
    "no code that S3 gives with it; something else than the store may answer (a proxy, a portal, a wrong endpoint?)";
const NO_CREDENTIALS: &str =
    "no usable credentials: set credentials_file or aws_profile, or give this machine a role that the SDK finds";

impl Seen {
    /// Takes from an error of the SDK what matters. The request, which holds signatures, is not looked at.
    pub(crate) fn of<E>(error: &SdkError<E, Response>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let header = |name| error.raw_response().and_then(|response| response.headers().get(name));
        let answered = |code: Option<&str>, message: String| Self {
            kind: Kind::Answer,
            status: error.raw_response().map(|response| response.status().as_u16()),
            code: code.map(str::to_owned),
            message,
            retry_after: header("x-amz-retry-after")
                .and_then(|text| text.parse().ok().map(Duration::from_millis))
                .or_else(|| header("retry-after").and_then(|text| text.parse().ok().map(Duration::from_secs))),
            bucket_region: header("x-amz-bucket-region").map(str::to_owned),
        };
        // A page that says "not there" is not the store's word, and would count as an answer about the object.
        let has_body =
            error.raw_response().and_then(|response| response.body().bytes()).is_some_and(|body| !body.is_empty());
        let is_page = has_body && header("content-type").is_some_and(is_page);
        let has_code = matches!(error, SdkError::ServiceError(service) if service.err().code().is_some());
        let status = error.raw_response().map_or(0, |response| response.status().as_u16());
        if is_page && !has_code && is_judged_by_form(status) {
            return Self::no_answer_of_s3(format!("status {status} with an HTML page"));
        }
        match error {
            // It came whole, and cannot be read.
            SdkError::ResponseError(answer) if answer.raw().body().bytes().is_some() => {
                Self::no_answer_of_s3(format!("status {status} with {}", chain(error)))
            }
            SdkError::ServiceError(service) => {
                answered(service.err().code(), service.err().message().unwrap_or("").to_owned())
            }
            SdkError::DispatchFailure(failure) if failure.is_io() && kind(error) == Kind::Way => {
                let message = format!("the connection failed (endpoint, network, proxy?): {}", innermost(error));
                Self { kind: Kind::Way, message, ..Self::default() }
            }
            other => Self { kind: kind(other), message: chain(other), ..Self::default() },
        }
    }

    /// A fault of the connection that only showed while the body was read.
    pub(crate) fn broken_off(why: String) -> Self {
        Self { kind: Kind::Way, message: why, ..Self::default() }
    }

    /// Something answered in place of the store.
    pub(crate) fn no_answer_of_s3(why: String) -> Self {
        let message = format!("{why}: something else than the store answers (a proxy, a portal, a wrong endpoint?)");
        Self { kind: Kind::Foreign, message, ..Self::default() }
    }

    /// The table of what each answer means.
    pub(crate) fn class(&self) -> Class {
        match self.kind {
            Kind::Way | Kind::Foreign => return Class::Transient,
            Kind::Certificate => return Class::Misconfigured(UNTRUSTED),
            Kind::Credentials => return Class::Misconfigured(NO_CREDENTIALS),
            Kind::Request => return Class::Unsupported,
            Kind::Answer => {}
        }
        match self.code.as_deref().unwrap_or("") {
            "RequestTimeout" | "InternalError" | "RequestCanceled" | "ServiceUnavailable" | "RequestTimeTooSkewed" => {
                Class::Transient
            }
            "SlowDown" | "Throttling" | "ThrottlingException" | "TooManyRequests" | "RequestLimitExceeded" => {
                Class::Throttled
            }
            "ConditionalRequestConflict" | "OperationAborted" => Class::Raced,
            "PreconditionFailed" => Class::Conflict,
            "BadDigest" | "XAmzContentSHA256Mismatch" | "InvalidDigest" | "XAmzContentChecksumMismatch" => {
                Class::Corrupted
            }
            "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => Class::Expired,
            "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "NotSignedUp" => {
                Class::Misconfigured(BAD_KEY)
            }
            "NoSuchBucket" => Class::Misconfigured(NO_BUCKET),
            "PermanentRedirect"
            | "AuthorizationHeaderMalformed"
            | "TemporaryRedirect"
            | "IllegalLocationConstraintException" => Class::Misconfigured(OTHER_REGION),
            "InvalidObjectState" => Class::Misconfigured(ARCHIVED),
            "QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage" => Class::Full,
            "InvalidRange" => Class::Range,
            // The SDK itself calls every 404 without a body `NotFound`: that is nobody's word.
            "NoSuchKey" | "NoSuchVersion" => Class::Missing,
            "NotImplemented" => Class::Misconfigured(LACKS),
            code if code.starts_with("KMS.") => Class::Misconfigured(NO_KMS_KEY),
            _ => self.class_of_status(),
        }
    }

    fn class_of_status(&self) -> Class {
        match self.status.unwrap_or(0) {
            301 | 307 => Class::Misconfigured(OTHER_REGION),
            401 | 403 => Class::Misconfigured(NO_RIGHT),
            404 => Class::Doubtful(Doubt::Missing),
            408 | 500 | 502 | 503 | 504 => Class::Transient,
            409 => Class::Raced,
            412 => Class::Doubtful(Doubt::Conflict),
            416 => Class::Doubtful(Doubt::Range),
            429 => Class::Throttled,
            501 => Class::Misconfigured(LACKS),
            507 => Class::Full,
            status if status >= 500 => Class::Transient,
            // An answer without a status, or with one of success: something between us and the server speaks for it.
            status if status < 300 => Class::Transient,
            // A store names what it does not like. The SDK says `Unknown` where it found no name.
            _ if matches!(self.code.as_deref(), None | Some("" | "Unknown")) => Class::Transient,
            _ => Class::Unsupported,
        }
    }

    /// The error for a request about `key` (a listing has none).
    pub(crate) fn into_error(self, doing: String, key: Option<&ObjectKey>) -> StoreError {
        let class = self.class();
        match (class, key) {
            (Class::Conflict, Some(key)) => StoreError::Conflict { key: key.clone() },
            (Class::Missing, Some(key)) => StoreError::NotFound { key: key.clone() },
            (Class::Throttled, _) => StoreError::Throttled { doing, retry_after: self.retry_after },
            (Class::Raced, _) => StoreError::Throttled { doing, retry_after: Some(Duration::from_millis(250)) },
            (Class::Transient | Class::Expired | Class::Doubtful(_) | Class::Missing, _) => {
                StoreError::Transient { doing, source: Box::new(self) }
            }
            (Class::Corrupted, _) => StoreError::Corrupted { doing, source: Box::new(self) },
            (Class::Full, _) => StoreError::Full { doing, source: Box::new(self) },
            (Class::Misconfigured(advice), _) => {
                let advice = match &self.bucket_region {
                    Some(region) if advice == OTHER_REGION => format!("{advice}; the store says `{region}`"),
                    _ => advice.to_owned(),
                };
                StoreError::Misconfigured { doing, advice, source: Box::new(self) }
            }
            (Class::Range | Class::Unsupported | Class::Conflict, _) => {
                StoreError::Unsupported { doing, why: self.to_string() }
            }
        }
    }
}

/// `503 SlowDown: please reduce your request rate`, cut to a length that fits a line.
impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status.map(|status| status.to_string());
        let printable = |text: &str, most: usize| -> String {
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect()
        };
        let code = self.code.as_deref().map(|code| printable(code, 100));
        let words = [status, code].into_iter().flatten().collect::<Vec<_>>().join(" ");
        let mut message = printable(&self.message, 300);
        if matches!(self.class(), Class::Doubtful(_)) {
            message.insert_str(0, if message.is_empty() { NO_CODE } else { "no code that S3 gives with it: " });
        }
        match (words.is_empty(), message.is_empty()) {
            (true, _) => f.write_str(&message),
            (false, true) => f.write_str(&words),
            (false, false) => write!(f, "{words}: {message}"),
        }
    }
}

impl Error for Seen {}

impl Doubt {
    /// The doubt in an error, if the store itself has to be asked about it.
    pub(crate) fn of(error: &StoreError) -> Option<Self> {
        let StoreError::Transient { source, .. } = error else { return None };
        match source.downcast_ref::<Seen>()?.class() {
            Class::Doubtful(doubt) => Some(doubt),
            _ => None,
        }
    }
}

/// Why a store that has taken an object cannot be asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unseen {
    /// For now: it wants less, or the way is disturbed.
    Now,
    /// The role has no right to look.
    NoRight,
    /// What answered is no store.
    NoStore,
}

impl Unseen {
    /// What the error of a listing says about that.
    pub(crate) fn of(error: &StoreError) -> Self {
        let seen = match error {
            StoreError::Throttled { .. } => return Self::Now,
            StoreError::Transient { source, .. } | StoreError::Misconfigured { source, .. } => {
                source.downcast_ref::<Seen>()
            }
            _ => None,
        };
        let Some(seen) = seen else { return Self::NoStore };
        let is_refused = matches!(seen.status, Some(401 | 403));
        match (seen.class(), seen.kind) {
            (Class::Misconfigured(_), Kind::Answer) if is_refused && seen.code.is_some() => Self::NoRight,
            (Class::Transient, Kind::Way) | (Class::Expired, Kind::Answer) => Self::Now,
            (Class::Transient, Kind::Answer) if seen.code.is_some() || seen.status >= Some(400) => Self::Now,
            _ => Self::NoStore,
        }
    }
}

/// Whether an answer of this status that is a page, without a code of S3, is not the word of a store: it would count as one about
/// the object, or about the role's rights.
fn is_judged_by_form(status: u16) -> bool {
    matches!(status, 401 | 403 | 404 | 409 | 412 | 416)
}

fn kind<E: Error + 'static>(error: &SdkError<E, Response>) -> Kind {
    if causes(error).any(is_certificate_fault) {
        return Kind::Certificate;
    }
    let no_credentials = |cause: &(dyn Error + 'static)| {
        let lasting = |e: &CredentialsError| {
            matches!(e, CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_))
        };
        cause.downcast_ref::<CredentialsError>().is_some_and(lasting)
    };
    match error {
        _ if causes(error).any(no_credentials) => Kind::Credentials,
        SdkError::ConstructionFailure(_) => Kind::Request,
        SdkError::DispatchFailure(failure) if failure.is_user() => Kind::Request,
        _ => Kind::Way,
    }
}

/// The error and everything below it.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| below(*error)).take(16)
}

/// What an I/O error wraps is entered, because its own `source` skips it.
fn below<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

fn is_certificate_fault(error: &(dyn Error + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_)))
}

/// Layers above the cause only repeat that something failed.
fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in causes(error) {
        let text = cause.to_string();
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> Seen {
        let code = (!code.is_empty()).then(|| code.to_owned());
        Seen { status: Some(status), code, ..Seen::default() }
    }

    #[test]
    fn every_answer_means_what_a_caller_may_do_about_it() {
        for (status, code, class) in [
            (408, "", Class::Transient),
            (500, "InternalError", Class::Transient),
            (502, "", Class::Transient),
            (503, "", Class::Transient),
            (504, "", Class::Transient),
            (520, "", Class::Transient),
            (400, "RequestTimeout", Class::Transient),
            (408, "RequestCanceled", Class::Transient),
            (403, "RequestTimeTooSkewed", Class::Transient),
            (200, "InternalError", Class::Transient),
            (200, "", Class::Transient),
            (429, "", Class::Throttled),
            (503, "SlowDown", Class::Throttled),
            (400, "ThrottlingException", Class::Throttled),
            (409, "ConditionalRequestConflict", Class::Raced),
            (409, "OperationAborted", Class::Raced),
            (412, "PreconditionFailed", Class::Conflict),
            (412, "", Class::Doubtful(Doubt::Conflict)),
            (412, "Unknown", Class::Doubtful(Doubt::Conflict)),
            (400, "BadDigest", Class::Corrupted),
            (400, "XAmzContentSHA256Mismatch", Class::Corrupted),
            (400, "InvalidDigest", Class::Corrupted),
            (400, "ExpiredToken", Class::Expired),
            (403, "AccessDenied", Class::Misconfigured(NO_RIGHT)),
            (403, "", Class::Misconfigured(NO_RIGHT)),
            (403, "InvalidAccessKeyId", Class::Misconfigured(BAD_KEY)),
            (403, "SignatureDoesNotMatch", Class::Misconfigured(BAD_KEY)),
            (404, "NoSuchBucket", Class::Misconfigured(NO_BUCKET)),
            (404, "NoSuchKey", Class::Missing),
            (404, "NoSuchVersion", Class::Missing),
            (404, "", Class::Doubtful(Doubt::Missing)),
            (404, "NotFound", Class::Doubtful(Doubt::Missing)),
            (404, "Unknown", Class::Doubtful(Doubt::Missing)),
            (301, "PermanentRedirect", Class::Misconfigured(OTHER_REGION)),
            (400, "AuthorizationHeaderMalformed", Class::Misconfigured(OTHER_REGION)),
            (403, "InvalidObjectState", Class::Misconfigured(ARCHIVED)),
            (501, "NotImplemented", Class::Misconfigured(LACKS)),
            (416, "InvalidRange", Class::Range),
            (416, "", Class::Doubtful(Doubt::Range)),
            (507, "", Class::Full),
            (400, "InvalidArgument", Class::Unsupported),
            (400, "KMS.DisabledException", Class::Misconfigured(NO_KMS_KEY)),
            (400, "KMS.NotFoundException", Class::Misconfigured(NO_KMS_KEY)),
            (400, "", Class::Transient),
            (400, "Unknown", Class::Transient),
            (418, "", Class::Transient),
        ] {
            assert_eq!(answer(status, code).class(), class, "{status} {code}");
        }
    }

    #[test]
    fn only_a_store_that_cannot_be_asked_is_believed_unseen() {
        let way = Seen::broken_off("cut".to_owned());
        let page = Seen::no_answer_of_s3("a page".to_owned());
        for (seen, unseen) in [
            (answer(503, "SlowDown"), Unseen::Now),
            (answer(429, ""), Unseen::Now),
            (answer(500, "InternalError"), Unseen::Now),
            (answer(504, ""), Unseen::Now),
            (answer(400, "ExpiredToken"), Unseen::Now),
            (way, Unseen::Now),
            (answer(403, "AccessDenied"), Unseen::NoRight),
            (answer(403, ""), Unseen::NoStore),
            (answer(404, "NoSuchBucket"), Unseen::NoStore),
            (answer(404, "NotFound"), Unseen::NoStore),
            (answer(301, ""), Unseen::NoStore),
            (answer(200, ""), Unseen::NoStore),
            (answer(400, "InvalidArgument"), Unseen::NoStore),
            (page, Unseen::NoStore),
        ] {
            assert_eq!(Unseen::of(&seen.clone().into_error("list".to_owned(), None)), unseen, "{seen:?}");
        }
        assert!(is_judged_by_form(401) && is_judged_by_form(403));
    }

    #[test]
    fn a_status_alone_says_nothing_about_an_object() {
        let key: ObjectKey = "log/1".parse().unwrap();
        for (status, doubt) in [(404, Doubt::Missing), (412, Doubt::Conflict), (416, Doubt::Range)] {
            for about in [Some(&key), None] {
                let error = answer(status, "").into_error("read log/1".to_owned(), about);
                assert!(matches!(&error, StoreError::Transient { source, .. } if source.to_string().contains("proxy")));
                assert_eq!(Doubt::of(&error), Some(doubt), "{status} {about:?}");
            }
        }
        assert_eq!(Doubt::of(&answer(404, "NoSuchKey").into_error("read log/1".to_owned(), Some(&key))), None);
        assert_eq!(Doubt::of(&answer(503, "").into_error("read log/1".to_owned(), Some(&key))), None);
    }

    #[test]
    fn an_error_names_the_status_the_code_and_the_message_on_one_bounded_line() {
        let mut seen = answer(503, "SlowDown");
        assert_eq!(seen.to_string(), "503 SlowDown");
        seen.message = format!("two\nlines{}", "x".repeat(5000));
        let text = seen.to_string();
        assert!(text.starts_with("503 SlowDown: two lines") && text.len() < 400, "{text}");
    }

    #[test]
    fn a_bucket_in_another_region_is_named_with_the_region_that_has_it() {
        let seen = Seen { bucket_region: Some("eu-west-3".to_owned()), ..answer(301, "PermanentRedirect") };
        let StoreError::Misconfigured { advice, .. } = seen.into_error("list".to_owned(), None) else {
            panic!("not misconfigured")
        };
        assert!(advice.contains("`eu-west-3`"), "{advice}");
    }

    #[test]
    fn a_lost_race_between_two_writers_is_asked_again_at_once_and_is_no_sign_of_a_sick_region() {
        let error = answer(409, "ConditionalRequestConflict").into_error("write".to_owned(), None);
        let soon = Duration::from_millis(500);
        assert!(matches!(error, StoreError::Throttled { retry_after: Some(wait), .. } if wait < soon), "{error:?}");
    }
}
