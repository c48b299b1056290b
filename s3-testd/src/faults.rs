//! Switches that make the server behave like the ones that lose data.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::key_pattern::KeyPattern;
use crate::request_log::{Operation, Target};

/// Everything that can go wrong, all of it off by default. The server counts the numbers in here down as it uses them.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    /// `If-None-Match` and `If-Match` on writes are not read, as by servers older than conditional writes.
    pub ignore_if_none_match: bool,
    /// `PutObject` with any `x-amz-checksum-*` header is answered with 501 `NotImplemented`.
    pub reject_checksum_headers: bool,
    /// `DeleteObjects` and `PutObjectRetention` without `Content-MD5` are answered with 400 `InvalidRequest`, whatever
    /// other checksum they carry.
    pub require_content_md5: bool,
    /// Every n-th request (counted from the last change of this field) is answered with 503 `SlowDown`.
    pub slow_down_every: Option<NonZeroU64>,
    /// The next requests are refused.
    pub fail_next: Option<FailNext>,
    /// That many requests pass, all later ones are refused.
    pub fail_after: Option<(u64, Failure)>,
    /// Requests that are never answered, so that a client stands still at a known place.
    pub hold: Option<Hold>,
    /// All requests are refused.
    pub fail_all: Option<Failure>,
    /// All connections are dropped without an answer as soon as they ask for something.
    pub dead: bool,
    /// The next successful writes happen, and then the connection is dropped instead of answering.
    pub lose_response_after_commit: Option<Times>,
    /// Bits that flip on the way out.
    pub corrupt_get: Option<CorruptGet>,
    /// Bodies that end early.
    pub truncate_get: Option<TruncateGet>,
    /// `GetObject` of these keys gives other bytes (of any length), as if the store had mixed up objects.
    pub wrong_bytes: BTreeMap<String, Bytes>,
    /// `ETag` is not the MD5 of the content, as with KMS encryption. Also spares the server the MD5.
    pub etag_not_md5: bool,
    /// `Content-MD5` of uploads is not compared with the body: in a benchmark the server would cost clients that send
    /// it more than others.
    pub trust_content_md5: bool,
    /// Objects appear in listings this much later than they can be read.
    pub list_lag: Duration,
    /// The server's clock is this many **seconds** ahead (negative: behind): `Date`, `Last-Modified`, retention, and
    /// the 15 minutes that a signature may differ.
    pub clock_offset_seconds: i64,
    /// The clock that retention is judged by is this much further ahead; signatures are not affected.
    pub retention_clock_ahead: Duration,
    /// The next requests are answered with status 200 and an error document.
    pub error_in_200: Option<Times>,
    /// These requests are answered with a page, as by a web application or a proxy that has taken the store's place; nothing
    /// happens.
    pub page: Option<Page>,
    /// Time that every request takes.
    pub delay: Delay,
    /// Time that some requests take, as by a store whose parts are not equally fast.
    pub delay_some: Option<DelaySome>,
    /// Requests that the role may not make: 403 `AccessDenied`.
    pub deny: Vec<Deny>,
    /// Keys that are gone for every reader (404 `NoSuchKey`, not listed) although they are stored.
    pub vanish: BTreeSet<String>,
}

/// From which request on none is answered, and nothing happens, until the client gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// That many pass before.
    pub passes: u64,
    /// Whether only requests that change something are counted and held.
    pub only_writes: bool,
    /// How many were held so far.
    pub held: u64,
}

impl Hold {
    /// The first `passes` requests pass; of those that change something, or of all.
    #[must_use]
    pub fn after(passes: u64, only_writes: bool) -> Self {
        Self { passes, only_writes, held: 0 }
    }

    fn holds(&mut self, operation: Operation) -> bool {
        if self.only_writes && !operation.writes() {
            return false;
        }
        let is_held = self.passes == 0;
        self.passes = self.passes.saturating_sub(1);
        self.held += u64::from(is_held);
        is_held
    }
}

/// What a web application answers to everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Which requests, and how many.
    pub times: Times,
    /// The status of the answer.
    pub status: u16,
    /// Its `Content-Type`.
    pub content_type: String,
    /// Its `ETag`.
    pub etag: String,
    /// Its content; may be empty.
    pub body: String,
}

impl Page {
    /// A page with status 200, as web applications answer to everything.
    #[must_use]
    pub fn html(times: Times, etag: &str, body: &str) -> Self {
        let content_type = "text/html; charset=utf-8".to_owned();
        Self { times, status: 200, content_type, etag: etag.to_owned(), body: body.to_owned() }
    }

    /// A refusal that knows nothing of S3.
    #[must_use]
    pub fn refusal(times: Times, status: u16, content_type: &str, body: &str) -> Self {
        let (content_type, etag) = (content_type.to_owned(), "\"1f-abc\"".to_owned());
        Self { times, status, content_type, etag, body: body.to_owned() }
    }
}

/// How the next requests are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailNext {
    /// How many, and which.
    pub times: Times,
    /// The answer.
    pub failure: Failure,
}

/// A number of requests, of one kind or of any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// How many are left.
    pub count: u64,
    /// Only requests of this kind; others are neither hit nor counted.
    pub only: Option<Operation>,
}

impl Times {
    /// The next `count` requests of any kind.
    #[must_use]
    pub fn any(count: u64) -> Self {
        Self { count, only: None }
    }

    /// The next `count` requests of this kind.
    #[must_use]
    pub fn of(operation: Operation, count: u64) -> Self {
        Self { count, only: Some(operation) }
    }

    fn take(&mut self, operation: Operation) -> bool {
        let hit = self.count > 0 && self.only.is_none_or(|only| only == operation);
        self.count -= u64::from(hit);
        hit
    }
}

/// An answer that refuses a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// HTTP status, 400 to 599.
    pub status: u16,
    /// The S3 error code in the document.
    pub code: String,
    /// `Retry-After`, in seconds, if it is to be sent.
    pub retry_after_seconds: Option<u32>,
}

impl Failure {
    /// The status with the code that S3 usually sends with it.
    #[must_use]
    pub fn status(status: u16) -> Self {
        let code = match status {
            400 => "InvalidRequest",
            403 => "AccessDenied",
            404 => "NoSuchBucket",
            408 => "RequestTimeout",
            409 => "ConditionalRequestConflict",
            412 => "PreconditionFailed",
            429 => "TooManyRequests",
            501 => "NotImplemented",
            503 => "ServiceUnavailable",
            507 => "InsufficientStorage",
            _ => "InternalError",
        };
        Self::new(status, code)
    }

    /// Any status with any code.
    #[must_use]
    pub fn new(status: u16, code: &str) -> Self {
        Self { status, code: code.to_owned(), retry_after_seconds: None }
    }

    /// 503 `SlowDown`.
    #[must_use]
    pub fn slow_down() -> Self {
        Self::new(503, "SlowDown")
    }
}

/// Flips bits of what `GetObject` gives.
#[derive(Clone, Debug)]
pub struct CorruptGet {
    /// Of these objects.
    pub keys: KeyPattern,
    /// Byte of the object, from 0; ranges that do not contain it are not changed.
    pub offset: u64,
    /// Bits of that byte to flip; not 0.
    pub mask: u8,
}

/// Shortens what `GetObject` gives.
#[derive(Clone, Debug)]
pub struct TruncateGet {
    /// Of these objects.
    pub keys: KeyPattern,
    /// Bytes that still arrive.
    pub keep: usize,
    /// Whether HTTP notices.
    pub how: Truncation,
}

/// Whether HTTP notices that a body is too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncation {
    /// `Content-Length` announces all of it, then the connection closes.
    ConnectionCut,
    /// `Content-Length` announces the shorter body: only the reader's own check can notice.
    ShorterLength,
}

/// How long requests take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delay {
    /// Before anything else happens.
    pub fixed: Duration,
    /// For each MiB of both bodies together, before the answer.
    pub per_mib: Duration,
}

/// Requests that take longer than others. Which ones depends on the key alone, so that servers with the same setting delay the same
/// objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelaySome {
    /// This operation,
    pub operation: Operation,
    /// on these keys,
    pub keys: KeyPattern,
    /// of which one in so many is hit,
    pub one_in: u64,
    /// takes so much longer, before anything else happens.
    pub by: Duration,
    /// Another number hits other keys.
    pub salt: u64,
}

impl DelaySome {
    pub(crate) fn of(&self, target: &Target) -> Duration {
        let is_meant = target.operation == self.operation && self.keys.matches(&target.key);
        // FNV-1a, as it is described by its authors.
        let mix = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        let salt = self.salt.to_le_bytes();
        let sum = salt.iter().chain(target.key.as_bytes()).fold(0xcbf2_9ce4_8422_2325, mix);
        let is_hit = is_meant && ((sum >> 32) ^ sum) % self.one_in.max(1) == 0;
        if is_hit { self.by } else { Duration::ZERO }
    }
}

/// Something that a role may not do.
#[derive(Clone, Debug)]
pub struct Deny {
    /// This operation,
    pub operation: Operation,
    /// on these keys.
    pub keys: KeyPattern,
}

/// The switches of one running server; clones turn the same ones.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    plan: FaultPlan,
    since_slow_down: u64,
}

/// What is to become of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Proceed,
    Refuse(Failure),
    ErrorIn200,
    Page(Page),
    Hold,
    Drop,
}

impl Faults {
    /// Changes switches. The closure runs under the lock, so that a request sees all of the change or nothing.
    pub fn change(&self, change: impl FnOnce(&mut FaultPlan)) {
        let mut inner = self.inner.lock();
        let before = inner.plan.slow_down_every;
        change(&mut inner.plan);
        if inner.plan.slow_down_every != before {
            inner.since_slow_down = 0;
        }
    }

    /// Turns everything off.
    pub fn clear(&self) {
        self.change(|plan| *plan = FaultPlan::default());
    }

    /// The switches as they are, with what is left of each count.
    #[must_use]
    pub fn plan(&self) -> FaultPlan {
        self.inner.lock().plan.clone()
    }

    /// Reads a switch without copying the plan.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&FaultPlan) -> T) -> T {
        read(&self.inner.lock().plan)
    }

    /// Decides about a request and counts it.
    pub(crate) fn judge(&self, target: &Target) -> Verdict {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let plan = &mut inner.plan;
        if plan.dead {
            return Verdict::Drop;
        }
        if plan.hold.as_mut().is_some_and(|hold| hold.holds(target.operation)) {
            return Verdict::Hold;
        }
        if let Some(failure) = &plan.fail_all {
            return Verdict::Refuse(failure.clone());
        }
        if let Some((left, failure)) = &mut plan.fail_after {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => return Verdict::Refuse(failure.clone()),
            }
        }
        if let Some(next) = &mut plan.fail_next
            && next.times.take(target.operation)
        {
            return Verdict::Refuse(next.failure.clone());
        }
        if let Some(every) = plan.slow_down_every {
            inner.since_slow_down += 1;
            if inner.since_slow_down.is_multiple_of(every.get()) {
                return Verdict::Refuse(Failure::slow_down());
            }
        }
        if plan.deny.iter().any(|deny| deny.operation == target.operation && deny.keys.matches(&target.key)) {
            return Verdict::Refuse(Failure::status(403));
        }
        if plan.vanish.contains(&target.key) && !target.operation.writes() {
            return Verdict::Refuse(Failure::new(404, "NoSuchKey"));
        }
        if plan.error_in_200.as_mut().is_some_and(|times| times.take(target.operation)) {
            return Verdict::ErrorIn200;
        }
        if let Some(page) = &mut plan.page
            && page.times.take(target.operation)
        {
            return Verdict::Page(page.clone());
        }
        Verdict::Proceed
    }

    /// Whether the answer to this write, which has happened, is to be lost.
    pub(crate) fn loses_response(&self, operation: Operation) -> bool {
        let mut inner = self.inner.lock();
        operation.writes() && inner.plan.lose_response_after_commit.as_mut().is_some_and(|times| times.take(operation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(operation: Operation, key: &str) -> Target {
        Target { operation, bucket: "b".to_owned(), key: key.to_owned() }
    }

    #[test]
    fn from_a_known_request_on_all_are_held() {
        let faults = Faults::default();
        let judge = |operation| faults.judge(&target(operation, "k"));
        faults.change(|plan| plan.hold = Some(Hold::after(1, true)));
        assert_eq!(judge(Operation::GetObject), Verdict::Proceed);
        assert_eq!(judge(Operation::PutObject), Verdict::Proceed);
        assert_eq!(judge(Operation::DeleteObject), Verdict::Hold);
        assert_eq!(judge(Operation::GetObject), Verdict::Proceed);
        assert_eq!(faults.plan().hold, Some(Hold { passes: 0, only_writes: true, held: 1 }));
        faults.change(|plan| plan.hold = Some(Hold::after(0, false)));
        assert_eq!(judge(Operation::GetObject), Verdict::Hold);
        faults.clear();
        assert_eq!(judge(Operation::PutObject), Verdict::Proceed);
    }

    #[test]
    fn counts_run_down_and_spare_other_operations() {
        let faults = Faults::default();
        faults.change(|plan| {
            plan.fail_next =
                Some(FailNext { times: Times::of(Operation::PutObject, 2), failure: Failure::status(500) });
        });
        let verdicts: Vec<_> = [Operation::PutObject, Operation::GetObject, Operation::PutObject, Operation::PutObject]
            .map(|operation| faults.judge(&target(operation, "k")) == Verdict::Proceed)
            .into();
        assert_eq!(verdicts, [false, true, false, true]);
    }

    #[test]
    fn every_third_request_is_slowed_down_and_the_count_begins_anew_with_each_setting() {
        let faults = Faults::default();
        faults.change(|plan| plan.slow_down_every = NonZeroU64::new(3));
        let slowed = |_| faults.judge(&target(Operation::GetObject, "k")) != Verdict::Proceed;
        assert_eq!((0..7).map(slowed).collect::<Vec<_>>(), [false, false, true, false, false, true, false]);
        faults.change(|plan| plan.slow_down_every = NonZeroU64::new(1));
        assert_eq!((0..2).map(slowed).collect::<Vec<_>>(), [true, true]);
        faults.clear();
        assert!(!slowed(0));
    }
}
