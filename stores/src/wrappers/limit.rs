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
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

use crate::error::StoreError;
use crate::key::ObjectKey;
use crate::lane::{Lane, Pace, Precedence, lane_of};
use crate::store::{ByteRange, Capabilities, ListPage, ObjectMeta, PutMode, PutOutcome, SealedBody, Store};
use crate::transfer::Transfer;
use crate::wrappers::limit::turns::{Heard, QUICK, Range, SLOW, Turn, Turns};

/// What one region may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests at once; at least 1, and one more that is small and urgent. Fewer for a while after the region asked to slow down, or
    /// did not keep up. Of 2 and more, one is never used for bulk data.
    pub concurrency: u16,
    /// Bytes per second in both directions together; `None` for no limit.
    pub bandwidth: Option<ByteCount>,
}

/// How many bulk requests run at once at the beginning: how many the line bears is found out.
const BULK_FIRST: usize = 2;
/// A booking is never further away than this.
const BOOKED_MAX: Duration = Duration::from_secs(24 * 3600);

/// Leases, heads and most records have less; pieces of WAL that have more may be many, and each takes long.
const SMALL_BODY: ByteCount = ByteCount::from_bytes(64 << 10);
/// No record is larger.
const SMALL_ANSWER: ByteCount = ByteCount::from_mib(1);

/// A request, as far as its turn depends on it.
#[derive(Clone, Copy, Debug)]
struct Request<'a> {
    /// The key, or the prefix of a listing.
    about: &'a str,
    /// Bytes of its body.
    sends: ByteCount,
    /// Bytes that the answer may have.
    receives: ByteCount,
}

impl<'a> Request<'a> {
    /// One that moves hardly anything.
    fn about(about: &'a str) -> Self {
        Self { about, sends: ByteCount::ZERO, receives: ByteCount::ZERO }
    }
}

/// What a request has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Large, and nobody waits for it.
    Bulk,
    /// Pieces of WAL: they may be many.
    Piece,
    /// Leases, heads, records, listings. They wait for none of the others: a lease that is renewed too late is lost.
    Small,
}

/// A store with a bounded number of requests at once.
#[derive(Debug)]
pub struct WithLimit {
    inner: Arc<dyn Store>,
    lane: fn(&str) -> Lane,
    /// For all requests: as many as the settings say.
    all: Semaphore,
    /// One more, which only small requests may take.
    reserved: Semaphore,
    /// For pieces of WAL and for bulk data, which need one of both: as many as line and region bear of them.
    pieces: Turns,
    bulk: Turns,
    bandwidth: Option<ByteCount>,
    bookings: Mutex<Bookings>,
    pace: Arc<Pace>,
}

/// Until when the bandwidth is given away.
#[derive(Clone, Copy, Debug, Default)]
struct Bookings {
    all: Option<Instant>,
    /// What is urgent waits for nothing else.
    urgent: Option<Instant>,
}

impl Bookings {
    /// Books a time of this length, and gives when it begins. Urgent bytes push back the bulk data, small requests both, and not the
    /// other way round.
    fn book(&mut self, kind: Kind, takes: Duration, now: Instant) -> Instant {
        let behind = |booked: Option<Instant>| booked.map_or(now, |booked| booked.max(now));
        let all = behind(self.all);
        let urgent = behind(self.urgent);
        self.all = Some(all + takes);
        if kind == Kind::Bulk {
            return all;
        }
        self.urgent = Some(urgent + takes);
        if kind == Kind::Small { now } else { urgent }
    }

    /// Gives back what [`Self::book`] gave away.
    fn give_back(&mut self, kind: Kind, takes: Duration) {
        let less = |booked: &mut Option<Instant>| *booked = booked.and_then(|booked| booked.checked_sub(takes));
        less(&mut self.all);
        if kind != Kind::Bulk {
            less(&mut self.urgent);
        }
    }
}

/// Time that is booked. A request that is cut short before its bytes move gives it back when this is dropped: otherwise the next ones would
/// wait for bytes that nobody sends.
struct Booked<'a> {
    bookings: Option<&'a Mutex<Bookings>>,
    kind: Kind,
    takes: Duration,
    start: Instant,
}

impl Booked<'_> {
    /// Waits until the bytes may move.
    async fn begins(self) {
        sleep_until(self.start).await;
        self.use_up();
    }

    /// It is not given back.
    fn use_up(mut self) {
        self.bookings = None;
    }
}

impl Drop for Booked<'_> {
    fn drop(&mut self) {
        if let Some(bookings) = self.bookings {
            bookings.lock().give_back(self.kind, self.takes);
        }
    }
}

/// How a request ended, as far as the turns learn from it.
struct Ended {
    throttled: bool,
    timed_out: bool,
    succeeded: bool,
}

impl Ended {
    fn of<T>(result: &Result<T, StoreError>) -> Self {
        let error = result.as_ref().err();
        Self {
            throttled: matches!(error, Some(StoreError::Throttled { .. })),
            timed_out: error.is_some_and(StoreError::is_timeout),
            succeeded: result.is_ok(),
        }
    }

    /// What it says about how many should run at once. `took` is all of its time, and `moving` that in which the line was busy with it: a
    /// region that always answers late is no slower for more at once.
    fn heard(&self, begun: Instant, took: Duration, moving: Duration) -> Heard {
        match self {
            Self { throttled: true, .. } => Heard::Throttled,
            Self { timed_out: true, .. } => Heard::Slow { begun },
            Self { succeeded: true, .. } if took > SLOW => Heard::Slow { begun },
            Self { succeeded: true, .. } if moving <= QUICK => Heard::Success,
            _ => Heard::Nothing,
        }
    }
}

/// A request on the line. One that is dropped after it took long, because its deadline has passed, says as much as one that timed out.
struct OnTheLine<'a> {
    turns: Option<&'a Turns>,
    transfer: Arc<Transfer>,
    begun: Instant,
    active: Duration,
    awaited: Duration,
}

impl<'a> OnTheLine<'a> {
    fn new(turns: Option<&'a Turns>, transfer: Arc<Transfer>) -> Self {
        let begun = Instant::now();
        let (active, awaited) = (transfer.active(begun), transfer.awaited());
        Self { turns, transfer, begun, active, awaited }
    }

    fn took(&self) -> Duration {
        self.transfer.active(Instant::now()).saturating_sub(self.active)
    }

    /// It has ended like this; returns how long it took.
    fn ended(mut self, ended: &Ended) -> Duration {
        let took = self.took();
        let moving = took.saturating_sub(self.transfer.awaited().saturating_sub(self.awaited));
        if let Some(turns) = self.turns.take() {
            turns.learn(ended.heard(self.begun, took, moving));
        }
        took
    }
}

impl Drop for OnTheLine<'_> {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.filter(|_| self.took() > SLOW) {
            turns.learn(Heard::Slow { begun: self.begun });
        }
    }
}

impl WithLimit {
    /// Wraps `inner`; `lane` says of a key, or of the prefix of a listing, which lane it has. What is urgent goes before bulk data in all
    /// stores with the same `precedence`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, limits: Limits, lane: fn(&str) -> Lane, precedence: Arc<Precedence>) -> Self {
        let most = usize::from(limits.concurrency.max(1));
        Self {
            inner,
            lane,
            all: Semaphore::new(most),
            reserved: Semaphore::new(1),
            pieces: Turns::new(most, Range { least: 1, most }),
            bulk: Turns::new(BULK_FIRST, Range { least: 1, most: most.saturating_sub(1) }),
            bandwidth: limits.bandwidth,
            bookings: Mutex::default(),
            pace: Pace::new(precedence),
        }
    }

    fn kind(&self, request: Request<'_>) -> Kind {
        match lane_of(self.lane, request.about) {
            Lane::Bulk => Kind::Bulk,
            Lane::Urgent if request.sends <= SMALL_BODY && request.receives <= SMALL_ANSWER => Kind::Small,
            Lane::Urgent => Kind::Piece,
        }
    }

    fn closed(&self, error: &AcquireError) -> StoreError {
        StoreError::Unsupported { doing: format!("wait for a turn at {self}"), why: error.to_string() }
    }

    /// Waits for a turn among all requests.
    async fn any_turn(&self, kind: Kind) -> Result<SemaphorePermit<'_>, AcquireError> {
        match kind {
            Kind::Bulk | Kind::Piece => self.all.acquire().await,
            Kind::Small => tokio::select! {
                biased;
                permit = self.all.acquire() => permit,
                permit = self.reserved.acquire() => permit,
            },
        }
    }

    /// Waits for a turn among the requests of the same kind, where they need one.
    async fn turn_of<'a>(turns: Option<&'a Turns>) -> Result<Option<Turn<'a>>, AcquireError> {
        match turns {
            Some(turns) => turns.take().await.map(Some),
            None => Ok(None),
        }
    }

    /// Books `bytes`, until what is returned is dropped.
    fn book(&self, kind: Kind, bytes: ByteCount) -> Option<Booked<'_>> {
        let rate = self.bandwidth?.as_bytes().max(1);
        let micros = u128::from(bytes.as_bytes()) * 1_000_000 / u128::from(rate);
        let takes = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)).min(BOOKED_MAX);
        let start = self.bookings.lock().book(kind, takes, Instant::now());
        Some(Booked { bookings: Some(&self.bookings), kind, takes, start })
    }

    /// Makes a request in its turn.
    async fn in_turn<T>(
        &self,
        request: Request<'_>,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let kind = self.kind(request);
        let turns = match kind {
            Kind::Bulk => Some(&self.bulk),
            Kind::Piece => Some(&self.pieces),
            Kind::Small => None,
        };
        let transfer = Transfer::current();
        // What we hold back ourselves counts against nobody's patience.
        let hold = transfer.hold();
        let _turn = Self::turn_of(turns).await.map_err(|error| self.closed(&error))?;
        let _permit = self.any_turn(kind).await.map_err(|error| self.closed(&error))?;
        if let Some(booked) = self.book(kind, request.sends) {
            booked.begins().await;
        }
        drop(hold);
        let on_its_way = if kind == Kind::Bulk {
            transfer.yield_to(&self.pace);
            None
        } else {
            Some(self.pace.precedence().set_out(transfer.clone()))
        };
        let held = transfer.held(Instant::now());
        let on_the_line = OnTheLine::new(turns, Arc::clone(&transfer));
        let result = transfer.carry(call).await;
        drop(on_its_way);
        let ended = Ended::of(&result);
        let took = on_the_line.ended(&ended);
        if ended.throttled {
            // It asks for less of everything, and one burst of refusals counts once.
            self.bulk.learn(Heard::Throttled);
            self.pieces.learn(Heard::Throttled);
        }
        let is_sent = kind == Kind::Bulk && ended.succeeded && request.sends > ByteCount::ZERO;
        if is_sent && transfer.held(Instant::now()) == held {
            self.pace.bulk_moved(request.sends.as_bytes(), took);
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
        let request = Request { sends: length, ..Request::about(key.as_str()) };
        self.in_turn(request, self.inner.put(key, body, mode)).await
    }

    async fn get(&self, key: &ObjectKey, range: ByteRange) -> Result<Bytes, StoreError> {
        let receives = match range {
            ByteRange::WholeUpTo(most) => most,
            ByteRange::Part { length, .. } => ByteCount::from_bytes(length),
        };
        let request = Request { receives, ..Request::about(key.as_str()) };
        // How much an object holds is known only afterwards: earlier reads are waited for, this one is booked behind.
        let result = self.in_turn(request, self.inner.get(key, range)).await;
        if let Ok(bytes) = &result
            && let Some(booked) = self.book(self.kind(request), ByteCount::of(bytes))
        {
            // They have moved already, and push back those that come later.
            booked.use_up();
        }
        result
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StoreError> {
        self.in_turn(Request::about(key.as_str()), self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<ListPage, StoreError> {
        self.in_turn(Request::about(prefix), self.inner.list(prefix, after)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.in_turn(Request::about(key.as_str()), self.inner.delete(key)).await
    }

    async fn retain(&self, key: &ObjectKey, until: UtcTime) -> Result<(), StoreError> {
        self.in_turn(Request::about(key.as_str()), self.inner.retain(key, until)).await
    }

    async fn retained_until(&self, key: &ObjectKey) -> Result<Option<UtcTime>, StoreError> {
        self.in_turn(Request::about(key.as_str()), self.inner.retained_until(key)).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

#[cfg(test)]
mod tests;
