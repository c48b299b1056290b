//! A store that fails on purpose, by a script or by seeded chance.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use lifeboat_testkit::SeededRandom;
use lifeboat_vocabulary::UtcTime;
use parking_lot::Mutex;

use crate::error::{StoreError, TimedOut};
use crate::key::ObjectKey;
use crate::sha256;
use crate::store::{ByteRange, Capabilities, ListPage, ObjectMeta, PutMode, PutOutcome, SealedBody, Store};
use crate::wrappers::counters::Operation;

/// Something that goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request never reaches the store: `Transient`.
    Lost,
    /// The request takes effect, then the answer is lost: `Transient`.
    AnswerLost,
    /// The store asks to slow down.
    Throttled,
    /// The store reports that the bytes changed on the way, and keeps nothing.
    Corrupted,
    /// The role lacks the right.
    Denied,
    /// The store has no room.
    Full,
    /// The request takes this much longer.
    Slow(Duration),
    /// Nothing moves for so long, and the request is given up.
    TimedOut(Duration),
    /// `get` gives bytes of the right length with one bit flipped; `put` stores such bytes. Nobody notices here.
    BitFlip,
    /// `get` gives only the first half. Nobody notices here.
    Truncated,
}

/// Which requests go wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Requests of this kind; `None` for all kinds.
    pub operation: Option<Operation>,
    /// About keys that contain this text (listings: their prefix). Empty for all.
    pub key_contains: String,
    /// How many such requests pass unharmed first.
    pub skip: u64,
    /// How many go wrong after that.
    pub count: u64,
    /// How.
    pub fault: Fault,
}

impl Rule {
    /// The `nth` request of this kind (from 1) goes wrong.
    #[must_use]
    pub fn nth(operation: Operation, nth: u64, fault: Fault) -> Self {
        let skip = nth.saturating_sub(1);
        Self { operation: Some(operation), key_contains: String::new(), skip, count: 1, fault }
    }

    /// Every request goes wrong.
    #[must_use]
    pub fn always(fault: Fault) -> Self {
        Self { operation: None, key_contains: String::new(), skip: 0, count: u64::MAX, fault }
    }

    fn hits(&mut self, operation: Operation, key: &str) -> bool {
        if self.operation.is_some_and(|only| only != operation) || !key.contains(&self.key_contains) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let hit = self.count > 0;
        self.count = self.count.saturating_sub(1);
        hit
    }
}

/// Seeded chance: the same seed gives the same faults for the same sequence of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chance {
    /// Print it with every failing test.
    pub seed: u64,
    /// Of a thousand requests, so many go wrong.
    pub per_mille: u64,
    /// One of these.
    pub faults: Vec<Fault>,
}

impl Chance {
    fn pick(&self, random: &mut SeededRandom) -> Option<Fault> {
        if random.below(1000) < self.per_mille { random.choose(&self.faults).copied() } else { None }
    }
}

/// A store whose requests go wrong as the script says.
#[derive(Debug)]
pub struct WithFaults {
    inner: Arc<dyn Store>,
    script: Mutex<Script>,
}

#[derive(Debug, Default)]
struct Script {
    rules: Vec<Rule>,
    chance: Option<(Chance, SeededRandom)>,
    hits: u64,
}

impl WithFaults {
    /// Wraps `inner`; nothing goes wrong yet.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, script: Mutex::default() }
    }

    /// Adds a rule; the first rule that hits decides.
    pub fn add(&self, rule: Rule) {
        self.script.lock().rules.push(rule);
    }

    /// Lets chance decide about requests that no rule hits.
    pub fn chance(&self, chance: Chance) {
        let random = SeededRandom::new(chance.seed);
        self.script.lock().chance = Some((chance, random));
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        *self.script.lock() = Script::default();
    }

    /// How many requests went wrong since the last [`WithFaults::heal`].
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.script.lock().hits
    }

    fn fault(&self, operation: Operation, key: &str) -> Option<Fault> {
        let mut script = self.script.lock();
        let rule = script.rules.iter_mut().find_map(|rule| rule.hits(operation, key).then_some(rule.fault));
        let fault = rule.or_else(|| script.chance.as_mut().and_then(|(chance, random)| chance.pick(random)));
        script.hits += u64::from(fault.is_some());
        fault
    }

    /// What happens instead of the request, or before it.
    async fn before(&self, operation: Operation, key: &str) -> Result<Option<Fault>, StoreError> {
        let fault = self.fault(operation, key);
        let doing = || format!("{} {key} at {self}", operation.as_str());
        let source = || crate::error::Cause::from("a fault on purpose");
        Err(match fault {
            Some(Fault::Lost) => StoreError::Transient { doing: doing(), source: source() },
            Some(Fault::Throttled) => StoreError::Throttled { doing: doing(), retry_after: None },
            Some(Fault::Corrupted) => StoreError::Corrupted { doing: doing(), source: source() },
            Some(Fault::Full) => StoreError::Full { doing: doing(), source: source() },
            Some(Fault::Denied) => {
                let advice = "a fault on purpose".to_owned();
                StoreError::Misconfigured { doing: doing(), advice, source: source() }
            }
            Some(Fault::Slow(time)) => {
                tokio::time::sleep(time).await;
                return Ok(None);
            }
            Some(Fault::TimedOut(time)) => {
                tokio::time::sleep(time).await;
                let why = format!("nothing moved for {} s, on purpose", time.as_secs());
                StoreError::Transient { doing: doing(), source: TimedOut { why }.into() }
            }
            other => return Ok(other),
        })
    }

    fn after<T>(&self, fault: Option<Fault>, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match (fault, result) {
            (Some(Fault::AnswerLost), Ok(_)) => {
                let source = "the answer was lost on purpose".into();
                Err(StoreError::Transient { doing: format!("hear from {self}"), source })
            }
            (_, result) => result,
        }
    }
}

fn flipped(bytes: &Bytes) -> Bytes {
    let mut bytes = BytesMut::from(bytes.as_ref());
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    bytes.freeze()
}

impl fmt::Display for WithFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl Store for WithFaults {
    async fn put(&self, key: &ObjectKey, body: SealedBody, mode: PutMode) -> Result<PutOutcome, StoreError> {
        let fault = self.before(Operation::Put, key.as_str()).await?;
        let body = match fault {
            Some(Fault::BitFlip) => {
                let bytes = flipped(&body.bytes);
                SealedBody { sha256: sha256::digest(&bytes), bytes }
            }
            _ => body,
        };
        self.after(fault, self.inner.put(key, body, mode).await)
    }

    async fn get(&self, key: &ObjectKey, range: ByteRange) -> Result<Bytes, StoreError> {
        let fault = self.before(Operation::Get, key.as_str()).await?;
        let bytes = self.after(fault, self.inner.get(key, range).await)?;
        Ok(match fault {
            Some(Fault::BitFlip) => flipped(&bytes),
            Some(Fault::Truncated) => bytes.slice(..bytes.len() / 2),
            _ => bytes,
        })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        let fault = self.before(Operation::Head, key.as_str()).await?;
        self.after(fault, self.inner.head(key).await)
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<ListPage, StoreError> {
        let fault = self.before(Operation::List, prefix).await?;
        self.after(fault, self.inner.list(prefix, after).await)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let fault = self.before(Operation::Delete, key.as_str()).await?;
        self.after(fault, self.inner.delete(key).await)
    }

    async fn retain(&self, key: &ObjectKey, until: UtcTime) -> Result<(), StoreError> {
        let fault = self.before(Operation::Put, key.as_str()).await?;
        self.after(fault, self.inner.retain(key, until).await)
    }

    async fn retained_until(&self, key: &ObjectKey) -> Result<Option<UtcTime>, StoreError> {
        let fault = self.before(Operation::Head, key.as_str()).await?;
        self.after(fault, self.inner.retained_until(key).await)
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}
