//! How a region is doing, judged with patience: one slow answer does not make a region slow, and one quick answer does not make it healthy. Pure.

use std::fmt;
use std::time::Duration;

use lifeboat_stores::BreakerState;
use lifeboat_vocabulary::UtcTime;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::base::state::time_text;

/// Nobody waits for longer for a small request, in **seconds**.
const LATENCY_MAX: f64 = 3600.0;

/// How a region is doing; each is worse than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = RegionHealth)]
pub(crate) enum Health {
    /// As it should be.
    #[default]
    Healthy,
    /// It answers, and takes far longer than it used to.
    Slow,
    /// Many of its answers are failures.
    Failing,
    /// It does not answer: its breaker is not closed.
    Away,
}

impl Health {
    /// Whether something that needs this region may count on it. One that answers nearly everything with an error is there,
    /// and of no use.
    #[must_use]
    pub(crate) fn is_of_use(self, error_share: f64) -> bool {
        match self {
            Self::Healthy | Self::Slow => true,
            Self::Failing => error_share < USELESS,
            Self::Away => false,
        }
    }

    /// The word for it.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Slow => "slow",
            Self::Failing => "failing",
            Self::Away => "away",
        }
    }

    /// How long a region must look this bad before it is said to be.
    fn patience(self) -> Duration {
        match self {
            Self::Healthy => Duration::ZERO,
            Self::Slow => Duration::from_secs(120),
            Self::Failing => Duration::from_secs(60),
            // The breaker has been patient already: three operations with four attempts each.
            Self::Away => Duration::from_secs(10),
        }
    }

    /// How long a region must look better before it is said to have recovered from this.
    fn convalescence(self) -> Duration {
        match self {
            Self::Healthy => Duration::ZERO,
            Self::Slow => Duration::from_secs(300),
            Self::Failing => Duration::from_secs(120),
            Self::Away => Duration::from_secs(30),
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Shares of failed requests at which a region begins and ceases to be failing.
const FAILING: (f64, f64) = (0.25, 0.05);
/// Share of failed requests from which on a region that fails is of no use.
const USELESS: f64 = 0.75;
/// As many failures without a success between them look like a region that fails, however few they are: a directory that was
/// unmounted in a quiet hour, keys that have expired.
const IN_A_ROW: u64 = 3;
/// Latencies in **seconds** below which no region is slow, whatever it used to be: at the beginning and at the end.
const SLOW_FLOOR: (f64, f64) = (2.0, 1.0);
/// Times the usual latency at which a region begins and ceases to be slow.
const SLOW_FACTOR: (f64, f64) = (4.0, 2.0);
/// What is older than this has little weight in the share of failures.
const ERROR_MEMORY: Duration = Duration::from_secs(60);
/// As many requests as this have the weight of [`ERROR_MEMORY`], so that a single failure of a quiet region weighs little.
const ERROR_REQUESTS: f64 = 20.0;
/// How slowly the usual latency follows the present one.
const USUAL_MEMORY: Duration = Duration::from_secs(6 * 3600);

/// What can be seen of a region at one moment. Counters only grow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Look {
    /// Its breaker.
    pub(crate) breaker: BreakerState,
    /// The present average of small requests.
    pub(crate) latency: Option<Duration>,
    /// Requests that ended since the process began.
    pub(crate) requests: u64,
    /// Of these, the ones that failed.
    pub(crate) errors: u64,
}

/// A change that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// What it was.
    pub(crate) from: Health,
    /// What it is.
    pub(crate) to: Health,
}

/// The course of a region's health.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RegionHealth {
    state: Health,
    #[serde(with = "time_text")]
    since: UtcTime,
    error_share: f64,
    usual_latency: Option<f64>,
    /// Failures since the last success.
    #[serde(skip)]
    in_a_row: u64,
    #[serde(skip)]
    leaning: Option<Leaning>,
    #[serde(skip)]
    last: Option<(Look, Instant)>,
}

/// When something is looked at: patience is measured by a clock that nobody sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// As it is told.
    pub(crate) time: UtcTime,
    pub(crate) instant: Instant,
}

/// Since when it has looked worse, or better, than it is said to be.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Leaning {
    way: Way,
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Worse,
    Better,
}

impl RegionHealth {
    /// Nothing bad is known of it.
    #[must_use]
    pub(crate) fn new(now: UtcTime) -> Self {
        let (state, error_share, in_a_row) = (Health::Healthy, 0.0, 0);
        Self { state, since: now, error_share, usual_latency: None, in_a_row, leaning: None, last: None }
    }

    /// As it was read from a file: numbers that cannot be are left out.
    #[must_use]
    pub(crate) fn recalled(self) -> Self {
        let usual_latency = self.usual_latency.filter(|seconds| (0.0..=LATENCY_MAX).contains(seconds));
        let error_share = if self.error_share.is_finite() { self.error_share.clamp(0.0, 1.0) } else { 0.0 };
        Self { error_share, usual_latency, ..self }
    }

    /// How it is said to be.
    #[must_use]
    pub(crate) fn state(&self) -> Health {
        self.state
    }

    /// Since when.
    #[must_use]
    pub(crate) fn since(&self) -> UtcTime {
        self.since
    }

    /// The share of requests that failed of late: 0 to 1.
    #[must_use]
    pub(crate) fn error_share(&self) -> f64 {
        self.error_share
    }

    /// Whether it is worth asking at once how it is: it is not well, or looks as if it were not.
    #[must_use]
    pub(crate) fn is_doubtful(&self) -> bool {
        self.state != Health::Healthy || self.error_share >= FAILING.1 || self.in_a_row > 0
    }

    /// How long small requests usually take; `None` until there were some.
    #[must_use]
    pub(crate) fn usual_latency(&self) -> Option<Duration> {
        self.usual_latency.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }

    /// Takes a look, and says whether the region is told to be something else from now on.
    pub(crate) fn look(&mut self, look: Look, now: Moment) -> Option<Change> {
        let Moment { time, instant } = now;
        self.learn(look, instant);
        self.last = Some((look, instant));
        let seen = self.seen(look);
        let way = match seen.cmp(&self.state) {
            std::cmp::Ordering::Equal => {
                self.leaning = None;
                return None;
            }
            std::cmp::Ordering::Greater => Way::Worse,
            std::cmp::Ordering::Less => Way::Better,
        };
        let leaning = self.leaning.filter(|leaning| leaning.way == way).unwrap_or(Leaning { way, since: instant });
        self.leaning = Some(leaning);
        let wait = match way {
            Way::Worse => seen.patience(),
            Way::Better => self.state.convalescence(),
        };
        if instant.saturating_duration_since(leaning.since) < wait {
            return None;
        }
        let change = Change { from: self.state, to: seen };
        (self.state, self.since, self.leaning) = (seen, time, None);
        Some(change)
    }

    /// What it looks like just now. Leaving a state takes more than not entering it.
    fn seen(&self, look: Look) -> Health {
        if look.breaker != BreakerState::Closed {
            return Health::Away;
        }
        let failing = if self.state == Health::Failing { FAILING.1 } else { FAILING.0 };
        if self.error_share >= failing || self.in_a_row >= IN_A_ROW {
            return Health::Failing;
        }
        let (floor, factor) =
            if self.state == Health::Slow { (SLOW_FLOOR.1, SLOW_FACTOR.1) } else { (SLOW_FLOOR.0, SLOW_FACTOR.0) };
        let limit = self.usual_latency.map_or(floor, |usual| (usual * factor).max(floor));
        match look.latency {
            Some(latency) if latency.as_secs_f64() >= limit => Health::Slow,
            _ => Health::Healthy,
        }
    }

    fn learn(&mut self, look: Look, now: Instant) {
        let (requests, errors, elapsed) = match self.last {
            Some((last, then)) => {
                if last.breaker != BreakerState::Closed && look.breaker == BreakerState::Closed {
                    self.in_a_row = 0;
                    self.error_share = 0.0; // what failed before it went away says nothing about how it came back
                }
                (
                    look.requests.saturating_sub(last.requests),
                    look.errors.saturating_sub(last.errors),
                    now.saturating_duration_since(then),
                )
            }
            None => (look.requests, look.errors, ERROR_MEMORY),
        };
        if requests == 0 {
            return;
        }
        self.in_a_row = if errors >= requests { self.in_a_row.saturating_add(errors) } else { 0 };
        let count = |number: u64| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
        let share = (count(errors) / count(requests)).min(1.0);
        let share_weight = weight(elapsed, ERROR_MEMORY).min(1.0 - (-count(requests) / ERROR_REQUESTS).exp());
        self.error_share += share_weight * (share - self.error_share);
        if let Some(latency) = look.latency.map(|latency| latency.as_secs_f64())
            && self.state == Health::Healthy
        {
            let usual = self.usual_latency.unwrap_or(latency);
            self.usual_latency = Some(usual + weight(elapsed, USUAL_MEMORY) * (latency - usual));
        }
    }
}

/// How much a look after `elapsed` moves an average that forgets within `memory`.
fn weight(elapsed: Duration, memory: Duration) -> f64 {
    1.0 - (-elapsed.as_secs_f64() / memory.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests;
