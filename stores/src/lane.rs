//! What must not wait for bulk data: WAL, records, heads and leases have a lane of their own in each region.
//!
//! A backup may fill a line for hours. What is small and urgent has its own breaker and always a turn, and while one of its requests
//! does not come through, the bodies of bulk data go at a quarter of their pace, whichever region they are for: what already lies in the
//! buffers of the system and of routers cannot be taken back, but it need not become more.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Which requests share breaker and turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// WAL, records, heads, leases: small, and somebody waits for them.
    Urgent,
    /// Packs and index shards of backups: large, and it is their sum that counts.
    Bulk,
}

tokio::task_local! {
    static LANES: fn(&str) -> Lane;
}

/// Does work, of this task alone, for which other lanes are right than those that a store was given: what nobody waits for is bulk there,
/// be it WAL.
pub async fn with_lanes<T>(lanes: fn(&str) -> Lane, work: impl Future<Output = T>) -> T {
    LANES.scope(lanes, work).await
}

/// `work` for another task, with the lanes of this one.
pub(crate) fn carried<T>(work: impl Future<Output = T> + Send) -> impl Future<Output = T> + Send {
    let lanes = LANES.try_with(|lanes| *lanes).ok();
    async move {
        match lanes {
            Some(lanes) => with_lanes(lanes, work).await,
            None => work.await,
        }
    }
}

/// The lane of a key, or of the prefix of a listing, in a store with the lanes `usual`.
pub(crate) fn lane_of(usual: fn(&str) -> Lane, about: &str) -> Lane {
    LANES.try_with(|lanes| lanes(about)).unwrap_or_else(|_| usual(about))
}

/// An urgent request that takes longer is being held up.
const URGENT_PATIENCE: Duration = Duration::from_secs(1);
/// One of which nothing has moved for so long is held up by its own region, and not by what we send to others.
const NOT_OURS: Duration = Duration::from_secs(30);
/// A piece of a bulk body waits for so many times as long as a piece takes.
const YIELD_TIMES: u32 = 3;
/// The longest that one piece waits.
const YIELD_MAX: Duration = Duration::from_secs(1);
/// How long a piece waits as long as nobody knows how long one takes.
const YIELD_UNKNOWN: Duration = Duration::from_millis(20);
/// How much one new observation moves the average.
const WEIGHT: f64 = 0.3;

/// What tells how many bytes of a request have moved.
pub(crate) trait Moving: fmt::Debug + Send + Sync {
    /// Bytes so far, in both directions.
    fn moved(&self) -> u64;
}

/// The urgent requests of a process that are on their way. All regions share one, because they share a line: WAL for one of them is
/// held up by packs for another.
#[derive(Debug, Default)]
pub struct Precedence {
    urgent: Mutex<Urgent>,
}

#[derive(Debug, Default)]
struct Urgent {
    next: u64,
    requests: BTreeMap<u64, Request>,
}

#[derive(Debug)]
struct Request {
    begun: Instant,
    transfer: Arc<dyn Moving>,
    /// How much of it had moved at the last look, and when that was first seen.
    moved: u64,
    last: Instant,
}

impl Request {
    fn is_held_up(&mut self, now: Instant) -> bool {
        let moved = self.transfer.moved();
        if moved != self.moved {
            (self.moved, self.last) = (moved, now);
        }
        let since = |then| now.saturating_duration_since(then);
        since(self.begun) >= URGENT_PATIENCE && since(self.last) < NOT_OURS
    }
}

/// An urgent request on its way, until it is dropped.
#[derive(Debug)]
pub(crate) struct OnItsWay {
    precedence: Arc<Precedence>,
    number: u64,
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.precedence.urgent.lock().requests.remove(&self.number);
    }
}

impl Precedence {
    /// An urgent request sets out.
    pub(crate) fn set_out(self: &Arc<Self>, transfer: Arc<dyn Moving>) -> OnItsWay {
        let now = Instant::now();
        let request = Request { begun: now, moved: transfer.moved(), transfer, last: now };
        let mut urgent = self.urgent.lock();
        let number = urgent.next;
        urgent.next = urgent.next.wrapping_add(1);
        urgent.requests.insert(number, request);
        OnItsWay { precedence: Arc::clone(self), number }
    }

    /// Whether something urgent is being held up.
    fn is_held_up(&self) -> bool {
        let now = Instant::now();
        self.urgent.lock().requests.values_mut().any(|request| request.is_held_up(now))
    }
}

/// How the bodies of bulk data go to one region: at a quarter of their pace while something urgent is held up.
#[derive(Debug)]
pub(crate) struct Pace {
    precedence: Arc<Precedence>,
    /// Of one body that nothing was held back of, in **bytes per second**.
    rate: Mutex<Option<f64>>,
}

impl Pace {
    pub(crate) fn new(precedence: Arc<Precedence>) -> Arc<Self> {
        Arc::new(Self { precedence, rate: Mutex::default() })
    }

    /// What goes first.
    pub(crate) fn precedence(&self) -> &Arc<Precedence> {
        &self.precedence
    }

    /// A body of `bytes` has moved in `took`. Only for bodies of which nothing was held back: one that waits between its pieces never
    /// fills the buffers of the system, and would look as fast as memory.
    pub(crate) fn bulk_moved(&self, bytes: u64, took: Duration) {
        let bytes = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
        let rate = bytes / took.as_secs_f64().max(1e-6);
        let mut known = self.rate.lock();
        *known = Some(known.map_or(rate, |old| old + WEIGHT * (rate - old)));
    }

    /// How long the next piece of a body, of `bytes`, has to wait: not at all, unless something urgent is being held up.
    pub(crate) fn wait(&self, bytes: usize) -> Option<Duration> {
        if !self.precedence.is_held_up() {
            return None;
        }
        let bytes = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
        let rate = self.rate.lock().filter(|rate| *rate > 0.0);
        let takes = rate.map(|rate| Duration::try_from_secs_f64(bytes / rate));
        Some(match takes {
            Some(takes) => takes.unwrap_or(YIELD_MAX).saturating_mul(YIELD_TIMES).min(YIELD_MAX),
            None => YIELD_UNKNOWN,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[tokio::test]
    async fn work_that_nobody_waits_for_has_lanes_of_its_own() {
        let usual: fn(&str) -> Lane = |_| Lane::Urgent;
        let patient = |about: &str| if about.starts_with("wal/") { Lane::Bulk } else { Lane::Urgent };
        let found = with_lanes(patient, async { (lane_of(usual, "wal/1"), lane_of(usual, "log/1")) }).await;
        assert_eq!(found, (Lane::Bulk, Lane::Urgent));
        assert_eq!(lane_of(usual, "wal/1"), Lane::Urgent);
    }

    /// A request of which so much has moved.
    #[derive(Debug, Default)]
    struct Moved(AtomicU64);

    impl Moving for Moved {
        fn moved(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bulk_data_waits_only_while_something_urgent_is_held_up() {
        let precedence = Arc::<Precedence>::default();
        let pace = Pace::new(Arc::clone(&precedence));
        let piece = 16 << 10;
        let set_out = || precedence.set_out(Arc::<Moved>::default());
        assert_eq!(pace.wait(piece), None);
        let first = set_out();
        assert_eq!(pace.wait(piece), None, "it has only just set out");
        tokio::time::advance(URGENT_PATIENCE).await;
        assert_eq!(pace.wait(piece), Some(YIELD_UNKNOWN));
        pace.bulk_moved(1 << 20, Duration::from_secs(8));
        assert_eq!(pace.wait(piece), Some(Duration::from_millis(375)), "a quarter of 128 KiB/s is left");
        for _ in 0..30 {
            pace.bulk_moved(16 << 20, Duration::from_millis(100));
        }
        assert!(pace.wait(piece).unwrap() < Duration::from_millis(1), "a quarter of a fast line is still fast");
        for _ in 0..90 {
            pace.bulk_moved(1, Duration::from_secs(3600));
        }
        assert_eq!(pace.wait(piece), Some(YIELD_MAX));
        let second = set_out();
        drop(first);
        assert_eq!(pace.wait(piece), None, "the other one is new");
        tokio::time::advance(URGENT_PATIENCE).await;
        assert!(pace.wait(piece).is_some());
        drop(second);
        assert_eq!(pace.wait(piece), None);
    }

    #[tokio::test(start_paused = true)]
    async fn wal_for_one_region_goes_before_packs_for_another_one_and_no_longer_when_its_region_is_away() {
        let precedence = Arc::<Precedence>::default();
        let other = Pace::new(Arc::clone(&precedence));
        let wal = Arc::<Moved>::default();
        let _on_its_way = precedence.set_out(wal.clone());
        for _ in 0..4 {
            tokio::time::advance(NOT_OURS - URGENT_PATIENCE).await;
            assert!(other.wait(1).is_some(), "it gets on");
            wal.0.fetch_add(1, Ordering::Relaxed);
            assert!(other.wait(1).is_some());
        }
        tokio::time::advance(NOT_OURS).await;
        assert_eq!(other.wait(1), None, "nothing of it moves, and that is no fault of ours");
    }
}
