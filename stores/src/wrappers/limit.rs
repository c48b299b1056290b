//! Bounds what one region is asked for at once, and optionally the bytes per second; what is urgent does not wait for bulk data.

mod turns;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_vocabulary::{ByteCount, UtcTime};
use parking_lot::Mutex;
use tokio::sync::AcquireError;
use tokio::time::{Instant, sleep_until};

use crate::error::StoreError;
use crate::key::ObjectKey;
use crate::lane::{Lane, Precedence, lane_of};
use crate::store::{ByteRange, Capabilities, ListPage, ObjectMeta, PutMode, PutOutcome, SealedBody, Store};
use crate::transfer::Transfer;
use crate::wrappers::limit::turns::{Heard, QUICK, Range, SLOW, Turns};

/// What one region may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests at once; at least 1. Fewer for a while after the region asked to slow down, or did not keep up. Of 2 and more, one
    /// is never used for bulk data.
    pub concurrency: u16,
    /// Bytes per second in both directions together; `None` for no limit.
    pub bandwidth: Option<ByteCount>,
}

/// How many bulk requests run at once at the beginning: how many the line bears is found out.
const BULK_FIRST: usize = 2;
/// A booking is never further away than this.
const BOOKED_MAX: Duration = Duration::from_secs(24 * 3600);

/// A store with a bounded number of requests at once.
#[derive(Debug)]
pub struct WithLimit {
    inner: Arc<dyn Store>,
    lane: fn(&str) -> Lane,
    /// For all requests: as many as the region bears.
    all: Turns,
    /// For the requests of each lane, which need one of both: as many as the line bears of them.
    urgent: Turns,
    bulk: Turns,
    bandwidth: Option<ByteCount>,
    bookings: Mutex<Bookings>,
    precedence: Arc<Precedence>,
}

/// Until when the bandwidth is given away.
#[derive(Clone, Copy, Debug, Default)]
struct Bookings {
    all: Option<Instant>,
    /// What is urgent waits for nothing else.
    urgent: Option<Instant>,
}

impl Bookings {
    /// Books a time of this length, and gives when it begins. Urgent bytes push back the bulk data, and not the other way round.
    fn book(&mut self, lane: Lane, takes: Duration, now: Instant) -> Instant {
        let behind = |booked: Option<Instant>| booked.map_or(now, |booked| booked.max(now));
        let all = behind(self.all);
        let urgent = behind(self.urgent);
        self.all = Some(all + takes);
        match lane {
            Lane::Bulk => all,
            Lane::Urgent => {
                self.urgent = Some(urgent + takes);
                urgent
            }
        }
    }
}

/// How a request ended, as far as the turns learn from it.
struct Ended {
    throttled: bool,
    timed_out: bool,
    /// Bytes that it moved; `None` if it failed.
    bytes: Option<ByteCount>,
}

impl Ended {
    fn of<T>(result: &Result<T, StoreError>, bytes: impl Fn(&T) -> ByteCount) -> Self {
        let error = result.as_ref().err();
        Self {
            throttled: matches!(error, Some(StoreError::Throttled { .. })),
            timed_out: error.is_some_and(StoreError::is_timeout),
            bytes: result.as_ref().ok().map(bytes),
        }
    }

    /// What it says about the line; it was begun then and took so long.
    fn of_line(&self, begun: Instant, took: Duration) -> Heard {
        match self {
            Self { throttled: true, .. } => Heard::Throttled,
            Self { timed_out: true, .. } => Heard::Slow { begun },
            Self { bytes: Some(_), .. } if took > SLOW => Heard::Slow { begun },
            Self { bytes: Some(_), .. } if took <= QUICK => Heard::Success,
            _ => Heard::Nothing,
        }
    }

    /// What it says about the region.
    fn of_region(&self) -> Heard {
        match self {
            Self { throttled: true, .. } => Heard::Throttled,
            Self { bytes: Some(_), .. } => Heard::Success,
            _ => Heard::Nothing,
        }
    }
}

impl WithLimit {
    /// Wraps `inner`; `lane` says of a key, or of the prefix of a listing, which lane it has.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, limits: Limits, lane: fn(&str) -> Lane) -> Self {
        let most = usize::from(limits.concurrency.max(1));
        Self {
            inner,
            lane,
            // Of two, bulk data takes one.
            all: Turns::new(most, Range { least: 2, most }),
            urgent: Turns::new(most, Range { least: 1, most }),
            bulk: Turns::new(BULK_FIRST, Range { least: 1, most: most.saturating_sub(1) }),
            bandwidth: limits.bandwidth,
            bookings: Mutex::default(),
            precedence: Arc::default(),
        }
    }

    fn closed(&self, error: &AcquireError) -> StoreError {
        StoreError::Unsupported { doing: format!("wait for a turn at {self}"), why: error.to_string() }
    }

    /// Books `bytes` and gives when they may move. Bytes that moved already push back those that come later.
    fn book(&self, lane: Lane, bytes: ByteCount) -> Option<Instant> {
        let rate = self.bandwidth?.as_bytes().max(1);
        let micros = u128::from(bytes.as_bytes()) * 1_000_000 / u128::from(rate);
        let takes = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)).min(BOOKED_MAX);
        Some(self.bookings.lock().book(lane, takes, Instant::now()))
    }

    /// Makes a request about `about` in its turn. It will send so many bytes, and `moved` says how many it has moved in the end.
    async fn in_turn<T>(
        &self,
        about: &str,
        sends: ByteCount,
        call: impl Future<Output = Result<T, StoreError>>,
        moved: impl Fn(&T) -> ByteCount,
    ) -> Result<T, StoreError> {
        let lane = lane_of(self.lane, about);
        let transfer = Transfer::current();
        // What we hold back ourselves counts against nobody's patience.
        let hold = transfer.hold();
        let turns = match lane {
            Lane::Bulk => &self.bulk,
            Lane::Urgent => &self.urgent,
        };
        let turn = turns.take().await.map_err(|error| self.closed(&error))?;
        let permit = self.all.take().await.map_err(|error| self.closed(&error))?;
        if let Some(start) = self.book(lane, sends) {
            sleep_until(start).await;
        }
        drop(hold);
        let begun = Instant::now();
        let active = transfer.active(begun);
        let on_its_way = match lane {
            Lane::Urgent => Some(self.precedence.set_out()),
            Lane::Bulk => {
                transfer.yield_to(&self.precedence);
                None
            }
        };
        let result = transfer.carry(call).await;
        drop(on_its_way);
        let took = transfer.active(Instant::now()).saturating_sub(active);
        let ended = Ended::of(&result, moved);
        turns.give_back(turn, ended.of_line(begun, took));
        self.all.give_back(permit, ended.of_region());
        if let Some(bytes) = ended.bytes.filter(|bytes| lane == Lane::Bulk && *bytes > ByteCount::ZERO) {
            self.precedence.bulk_moved(bytes.as_bytes(), took);
        }
        result
    }
}

impl fmt::Display for WithLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
impl Store for WithLimit {
    async fn put(&self, key: &ObjectKey, body: SealedBody, mode: PutMode) -> Result<PutOutcome, StoreError> {
        let length = ByteCount::of(&body.bytes);
        self.in_turn(key.as_str(), length, self.inner.put(key, body, mode), |_| length).await
    }

    async fn get(&self, key: &ObjectKey, range: ByteRange) -> Result<Bytes, StoreError> {
        // How much an object holds is known only afterwards: earlier reads are waited for, this one is booked behind.
        let call = self.inner.get(key, range);
        let result = self.in_turn(key.as_str(), ByteCount::ZERO, call, |bytes| ByteCount::of(bytes)).await;
        if let Ok(bytes) = &result {
            self.book(lane_of(self.lane, key.as_str()), ByteCount::of(bytes));
        }
        result
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.in_turn(key.as_str(), ByteCount::ZERO, self.inner.head(key), |_| ByteCount::ZERO).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<ListPage, StoreError> {
        self.in_turn(prefix, ByteCount::ZERO, self.inner.list(prefix, after), |_| ByteCount::ZERO).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.in_turn(key.as_str(), ByteCount::ZERO, self.inner.delete(key), |()| ByteCount::ZERO).await
    }

    async fn retain(&self, key: &ObjectKey, until: UtcTime) -> Result<(), StoreError> {
        self.in_turn(key.as_str(), ByteCount::ZERO, self.inner.retain(key, until), |()| ByteCount::ZERO).await
    }

    async fn retained_until(&self, key: &ObjectKey) -> Result<Option<UtcTime>, StoreError> {
        self.in_turn(key.as_str(), ByteCount::ZERO, self.inner.retained_until(key), |_| ByteCount::ZERO).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

#[cfg(test)]
mod tests;
