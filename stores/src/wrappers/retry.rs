//! Asks again, with pauses, until an answer, a lasting error or the deadline. The only layer that does.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_vocabulary::{ByteCount, UtcTime};
use tokio::time::{Instant, sleep};

use crate::error::StoreError;
use crate::key::ObjectKey;
use crate::lane::Moving as _;
use crate::store::{ByteRange, Capabilities, Entry, ListPage, ObjectMeta, PutMode, PutOutcome, SealedBody, Store};
use crate::transfer::{Transfer, time_for};

/// Pauses before the second, third and fourth attempt, before chance is applied.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// Damaged bytes are sent again this often; if that does not help, it is a machine that needs a person.
const CORRUPTED_RETRIES: usize = 2;
const THROTTLE_FIRST: Duration = Duration::from_millis(500);
const THROTTLE_MAX: Duration = Duration::from_secs(30);
/// No wish of a server is longer; what is bounded where it enters is bounded here for everybody else's stores.
const WISH_MAX: Duration = Duration::from_secs(3600);

/// Chance, so that many clients do not retry in step. An argument, so that tests know what it says.
pub trait Jitter: fmt::Debug + Send + Sync {
    /// What the next pause is multiplied with: 0.5 to 1.5.
    fn factor(&self) -> f64;
}

/// Chance from the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomJitter;

impl Jitter for RandomJitter {
    fn factor(&self) -> f64 {
        let mut bytes = [0; 4];
        match getrandom::fill(&mut bytes) {
            Ok(()) => 0.5 + f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
            // Without chance the pauses are still right, only in step.
            Err(_) => 1.0,
        }
    }
}

/// Always the same factor, for tests.
#[derive(Clone, Copy, Debug)]
pub struct FixedJitter(pub f64);

impl Jitter for FixedJitter {
    fn factor(&self) -> f64 {
        self.0
    }
}

/// Whether anybody else could write the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyNature {
    /// Names that follow a rule, such as log records: somebody else may have taken it.
    Predictable,
    /// Names with at least 128 random bits: only we can have written it.
    Unguessable,
}

/// How patient the retries are, and what they know about keys.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Time for one operation with all its attempts and pauses, besides a second for each 32 KiB that one of them moves. Time in which our own
    /// limits hold it back is not counted.
    pub deadline: Duration,
    /// Which keys nobody else can have written. Asked only after a lost answer.
    pub key_nature: fn(&ObjectKey) -> KeyNature,
}

impl Default for RetryPolicy {
    /// Five minutes; every key may have been taken by somebody else.
    fn default() -> Self {
        Self { deadline: Duration::from_secs(300), key_nature: |_| KeyNature::Predictable }
    }
}

/// A store that is asked again when it fails.
#[derive(Debug)]
pub struct WithRetry {
    inner: Arc<dyn Store>,
    policy: RetryPolicy,
    jitter: Arc<dyn Jitter>,
}

/// Decides after each failure how long to wait, if at all. Pure but for the chance that it is given.
#[derive(Debug, Default)]
struct Backoff {
    failures: usize,
    throttles: u32,
}

impl Backoff {
    fn pause(&mut self, error: &StoreError, factor: f64) -> Option<Duration> {
        match error {
            StoreError::Throttled { retry_after, .. } => {
                // Also where the store wants less of a pause: it may take a whole body each time before it says so.
                let wait = THROTTLE_FIRST.saturating_mul(2_u32.saturating_pow(self.throttles)).min(THROTTLE_MAX);
                self.throttles = self.throttles.saturating_add(1);
                let wish = retry_after.unwrap_or_default().min(WISH_MAX);
                Some(wait.mul_f64(factor).max(wish.mul_f64(0.5 + factor)))
            }
            StoreError::Corrupted { .. } if self.failures >= CORRUPTED_RETRIES => None,
            error if error.is_transient() => {
                let wait = PAUSES.get(self.failures)?;
                self.failures += 1;
                Some(wait.mul_f64(factor))
            }
            _ => None,
        }
    }
}

/// Whether an attempt that failed like this may have taken effect.
fn outcome_is_unknown(error: &StoreError) -> bool {
    matches!(error, StoreError::Transient { .. } | StoreError::DeadlineExceeded { .. })
}

/// How long an operation may go on, all its attempts together: its patience, and the time for the bytes of one attempt. Not of all: each
/// attempt would bring the time for the next one, and a store that takes bodies and then refuses them would be asked for ever.
struct Deadline {
    patience: Duration,
    transfer: Arc<Transfer>,
    /// Bytes of what was asked before, such as the write whose answer was lost.
    earlier: u64,
    /// The most bytes that one attempt at the present question has moved.
    most: u64,
    /// Bytes that had moved before the present attempt.
    before: u64,
}

impl Deadline {
    /// What is left of it, if nothing more moves; `None` if nothing is.
    fn left(&self) -> Option<Duration> {
        let moved = self.transfer.moved().saturating_sub(self.before).max(self.most);
        let patience = self.patience.saturating_add(time_for(self.earlier.saturating_add(moved)));
        patience.checked_sub(self.transfer.active(Instant::now())).filter(|left| !left.is_zero())
    }

    /// Another question of the same operation follows.
    fn next_question(&mut self) {
        (self.earlier, self.most) = (self.earlier.saturating_add(self.most), 0);
    }

    /// Waits for an attempt; `None` if the time is over before.
    async fn within<T>(&mut self, attempt: impl Future<Output = T>) -> Option<T> {
        self.before = self.transfer.moved();
        let ended = self.wait(attempt).await;
        self.most = self.most.max(self.transfer.moved().saturating_sub(self.before));
        ended
    }

    async fn wait<T>(&self, attempt: impl Future<Output = T>) -> Option<T> {
        let mut attempt = pin!(self.transfer.carry(attempt));
        loop {
            let left = self.left()?;
            tokio::select! {
                biased;
                done = &mut attempt => return Some(done),
                // What moves or is held meanwhile makes it more, never less.
                () = sleep(left) => {}
            }
        }
    }
}

/// What the attempts of one operation came to.
struct Attempts<T> {
    result: Result<T, StoreError>,
    /// An attempt before the last one may have taken effect.
    earlier_unknown: bool,
}

impl WithRetry {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, policy: RetryPolicy, jitter: Arc<dyn Jitter>) -> Self {
        Self { inner, policy, jitter }
    }

    fn deadline(&self) -> Deadline {
        Deadline { patience: self.policy.deadline, transfer: Transfer::begin(), earlier: 0, most: 0, before: 0 }
    }

    async fn attempts<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        doing: &str,
        deadline: &mut Deadline,
        attempt: impl Fn() -> F,
    ) -> Attempts<T> {
        deadline.next_question();
        let mut backoff = Backoff::default();
        let mut earlier_unknown = false;
        loop {
            let Some(result) = deadline.within(attempt()).await else {
                let after = deadline.transfer.active(Instant::now());
                let error = StoreError::DeadlineExceeded { doing: doing.to_owned(), after };
                return Attempts { result: Err(error), earlier_unknown };
            };
            let Err(error) = result else { return Attempts { result, earlier_unknown } };
            let pause = backoff.pause(&error, self.jitter.factor());
            let Some(pause) = pause.filter(|pause| deadline.left().is_some_and(|left| *pause < left)) else {
                return Attempts { result: Err(error), earlier_unknown };
            };
            tracing::debug!(store = %self.inner, doing, %error, ?pause, "asking again after a pause");
            earlier_unknown |= outcome_is_unknown(&error);
            sleep(pause).await;
        }
    }

    /// After a lost answer, `Conflict` may come from our own first attempt. Decides whose object it is.
    async fn settled(
        &self,
        key: &ObjectKey,
        body: &SealedBody,
        deadline: &mut Deadline,
        nature: KeyNature,
    ) -> Result<PutOutcome, StoreError> {
        let conflict = || StoreError::Conflict { key: key.clone() };
        let length = ByteCount::of(&body.bytes);
        if nature == KeyNature::Predictable {
            let range = ByteRange::WholeUpTo(length);
            let doing = format!("compare {key} in {self} with what was sent");
            let found = self.attempts(&doing, deadline, || self.inner.get(key, range)).await.result;
            match found {
                Ok(found) if found == body.bytes => {}
                Ok(_) | Err(StoreError::Unsupported { .. } | StoreError::NotFound { .. }) => return Err(conflict()),
                Err(error) => return Err(error),
            }
        }
        // A role that may only create may list, but neither read nor look at what it created.
        let doing = format!("find {key} in {self} after a lost answer");
        let page = self.attempts(&doing, deadline, || self.inner.list(key.as_str(), None)).await.result?;
        let entry = page.entries.into_iter().find(|entry: &Entry| entry.key == *key);
        match entry {
            Some(entry) if entry.meta.size == length => {
                Ok(PutOutcome { version: entry.meta.version, server_time: page.server_time })
            }
            _ => Err(conflict()),
        }
    }
}

impl fmt::Display for WithRetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl Store for WithRetry {
    async fn put(&self, key: &ObjectKey, body: SealedBody, mode: PutMode) -> Result<PutOutcome, StoreError> {
        let mut deadline = self.deadline();
        let doing = format!("write {key} to {self}");
        let attempts = self.attempts(&doing, &mut deadline, || self.inner.put(key, body.clone(), mode.clone())).await;
        if !attempts.earlier_unknown {
            return attempts.result;
        }
        let result = match attempts.result {
            Err(StoreError::Conflict { .. }) => {
                let nature = match mode {
                    PutMode::CreateOnly => (self.policy.key_nature)(key),
                    // What is replaced exists already, so its name tells nothing about who wrote the content.
                    PutMode::IfUnchanged(_) => KeyNature::Predictable,
                };
                self.settled(key, &body, &mut deadline, nature).await
            }
            result => result,
        };
        result.map_err(|error| match error {
            answer @ StoreError::Conflict { .. } => answer,
            error if outcome_is_unknown(&error) => error,
            // Any other error would say that nothing was written, and an earlier attempt may have written it.
            error => StoreError::Transient { doing, source: error.into() },
        })
    }

    async fn get(&self, key: &ObjectKey, range: ByteRange) -> Result<Bytes, StoreError> {
        let doing = format!("read {key} from {self}");
        self.attempts(&doing, &mut self.deadline(), || self.inner.get(key, range)).await.result
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        let doing = format!("look at {key} in {self}");
        self.attempts(&doing, &mut self.deadline(), || self.inner.head(key)).await.result
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<ListPage, StoreError> {
        let doing = format!("list {prefix}* in {self}");
        self.attempts(&doing, &mut self.deadline(), || self.inner.list(prefix, after)).await.result
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let doing = format!("delete {key} from {self}");
        self.attempts(&doing, &mut self.deadline(), || self.inner.delete(key)).await.result
    }

    async fn retain(&self, key: &ObjectKey, until: UtcTime) -> Result<(), StoreError> {
        let doing = format!("lock {key} in {self}");
        self.attempts(&doing, &mut self.deadline(), || self.inner.retain(key, until)).await.result
    }

    async fn retained_until(&self, key: &ObjectKey) -> Result<Option<UtcTime>, StoreError> {
        let doing = format!("look at the lock of {key} in {self}");
        self.attempts(&doing, &mut self.deadline(), || self.inner.retained_until(key)).await.result
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

#[cfg(test)]
mod tests;
