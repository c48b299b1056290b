//! What must not wait for bulk data: WAL, records, heads and leases have a lane of their own in each region.
//!
//! A backup may fill a line for hours. What is small and urgent has its own breaker and always a turn, and while one of its requests
//! does not come through, the bodies of bulk data go at a quarter of their pace: what already lies in the buffers of the system and of
//! routers cannot be taken back, but it need not become more.

use std::collections::BTreeMap;
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
/// A piece of a bulk body waits for so many times as long as a piece takes.
const YIELD_TIMES: u32 = 3;
/// The longest that one piece waits.
const YIELD_MAX: Duration = Duration::from_secs(1);
/// How long a piece waits as long as nobody knows how long one takes.
const YIELD_UNKNOWN: Duration = Duration::from_millis(20);
/// How much one new observation moves the average.
const WEIGHT: f64 = 0.3;

/// The urgent requests that are on their way to one region, and how fast bulk data goes.
#[derive(Debug, Default)]
pub(crate) struct Precedence {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// By number, and hence by age.
    urgent: BTreeMap<u64, Instant>,
    /// Of one bulk body, in **bytes per second**.
    bulk_rate: Option<f64>,
}

/// An urgent request on its way, until it is dropped.
#[derive(Debug)]
pub(crate) struct OnItsWay {
    precedence: Arc<Precedence>,
    number: u64,
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.precedence.state.lock().urgent.remove(&self.number);
    }
}

impl Precedence {
    /// An urgent request sets out.
    pub(crate) fn set_out(self: &Arc<Self>) -> OnItsWay {
        let mut state = self.state.lock();
        let number = state.next;
        state.next = state.next.wrapping_add(1);
        state.urgent.insert(number, Instant::now());
        OnItsWay { precedence: Arc::clone(self), number }
    }

    /// A bulk body of `bytes` has moved in `took`.
    pub(crate) fn bulk_moved(&self, bytes: u64, took: Duration) {
        let bytes = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
        let rate = bytes / took.as_secs_f64().max(1e-6);
        let mut state = self.state.lock();
        state.bulk_rate = Some(state.bulk_rate.map_or(rate, |old| old + WEIGHT * (rate - old)));
    }

    /// How long the next piece of a bulk body, of `bytes`, has to wait: not at all, unless something urgent is being held up.
    pub(crate) fn wait(&self, bytes: usize) -> Option<Duration> {
        let now = Instant::now();
        let state = self.state.lock();
        let (_, oldest) = state.urgent.first_key_value()?;
        if now.saturating_duration_since(*oldest) < URGENT_PATIENCE {
            return None;
        }
        let bytes = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
        let takes = state.bulk_rate.filter(|rate| *rate > 0.0).map(|rate| Duration::try_from_secs_f64(bytes / rate));
        Some(match takes {
            Some(takes) => takes.unwrap_or(YIELD_MAX).saturating_mul(YIELD_TIMES).min(YIELD_MAX),
            None => YIELD_UNKNOWN,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_nobody_waits_for_has_lanes_of_its_own() {
        let usual: fn(&str) -> Lane = |_| Lane::Urgent;
        let patient = |about: &str| if about.starts_with("wal/") { Lane::Bulk } else { Lane::Urgent };
        let found = with_lanes(patient, async { (lane_of(usual, "wal/1"), lane_of(usual, "log/1")) }).await;
        assert_eq!(found, (Lane::Bulk, Lane::Urgent));
        assert_eq!(lane_of(usual, "wal/1"), Lane::Urgent);
    }

    #[tokio::test(start_paused = true)]
    async fn bulk_data_waits_only_while_something_urgent_is_held_up() {
        let precedence = Arc::<Precedence>::default();
        let piece = 16 << 10;
        assert_eq!(precedence.wait(piece), None);
        let first = precedence.set_out();
        assert_eq!(precedence.wait(piece), None, "it has only just set out");
        tokio::time::advance(URGENT_PATIENCE).await;
        assert_eq!(precedence.wait(piece), Some(YIELD_UNKNOWN));
        precedence.bulk_moved(1 << 20, Duration::from_secs(8));
        assert_eq!(precedence.wait(piece), Some(Duration::from_millis(375)), "a quarter of 128 KiB/s is left");
        for _ in 0..30 {
            precedence.bulk_moved(16 << 20, Duration::from_millis(100));
        }
        assert!(precedence.wait(piece).unwrap() < Duration::from_millis(1), "a quarter of a fast line is still fast");
        for _ in 0..90 {
            precedence.bulk_moved(1, Duration::from_secs(3600));
        }
        assert_eq!(precedence.wait(piece), Some(YIELD_MAX));
        let second = precedence.set_out();
        drop(first);
        assert_eq!(precedence.wait(piece), None, "the other one is new");
        tokio::time::advance(URGENT_PATIENCE).await;
        assert!(precedence.wait(piece).is_some());
        drop(second);
        assert_eq!(precedence.wait(piece), None);
    }
}
