//! What S3 servers and the way to them say, translated once into what a caller may do about it.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::http::Response;

use crate::error::{StoreError, TimedOut};
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
    /// A connection, an answer that broke off.
    Way,
    /// Nothing moved any more.
    TimedOut,
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

/// No operation has more patience: who is told to wait for longer gives up now.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);
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
            retry_after: retry_after(header("x-amz-retry-after"), header("retry-after")),
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
            SdkError::TimeoutError(_) => Self::timed_out(chain(error)),
            SdkError::DispatchFailure(failure) if failure.is_timeout() && kind(error) == Kind::Way => {
                Self::timed_out(format!("there was no connection in time: {}", innermost(error)))
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

    /// Nothing moved any more.
    pub(crate) fn timed_out(why: String) -> Self {
        Self { kind: Kind::TimedOut, message: why, ..Self::default() }
    }

    /// Something answered in place of the store.
    pub(crate) fn no_answer_of_s3(why: String) -> Self {
        let message = format!("{why}: something else than the store answers (a proxy, a portal, a wrong endpoint?)");
        Self { kind: Kind::Foreign, message, ..Self::default() }
    }

    /// The table of what each answer means.
    pub(crate) fn class(&self) -> Class {
        match self.kind {
            Kind::Way | Kind::TimedOut | Kind::Foreign => return Class::Transient,
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
            (Class::Transient, _) if self.kind == Kind::TimedOut => {
                StoreError::Transient { doing, source: Box::new(TimedOut { why: self.to_string() }) }
            }
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
            error if error.is_timeout() => return Self::Now,
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

/// How long the server wants us to wait. Whatever it says: no longer than [`RETRY_AFTER_MAX`].
fn retry_after(millis: Option<&str>, seconds: Option<&str>) -> Option<Duration> {
    let millis = millis.and_then(|text| text.parse().ok().map(Duration::from_millis));
    let wait = millis.or_else(|| seconds.and_then(|text| text.parse().ok().map(Duration::from_secs)));
    wait.map(|wait| wait.min(RETRY_AFTER_MAX))
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
mod tests;
