//! Points in time, and the one place that asks the machine for them.

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// A point in time in UTC, exact to the **microsecond** like PostgreSQL's `timestamptz`, shown as RFC 3339 with `Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UtcTime(Timestamp);

/// A text that is not a point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a point in time (RFC 3339 with an offset, such as 2026-11-20T02:41:07Z)")]
pub struct ParseTimeError {
    text: String,
}

impl UtcTime {
    /// The point `micros` microseconds after 1970-01-01 00:00 UTC, or `None` beyond the year 9999.
    #[must_use]
    pub fn from_unix_micros(micros: i64) -> Option<Self> {
        Timestamp::from_microsecond(micros).ok().map(Self)
    }

    /// Microseconds since 1970-01-01 00:00 UTC.
    #[must_use]
    pub fn as_unix_micros(self) -> i64 {
        self.0.as_microsecond()
    }

    /// Whole seconds since 1970-01-01 00:00 UTC, rounded down.
    #[must_use]
    pub fn as_unix_seconds(self) -> i64 {
        self.0.as_microsecond().div_euclid(1_000_000)
    }

    /// How long before `self` `earlier` was; zero if it was not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let micros = self.as_unix_micros().saturating_sub(earlier.as_unix_micros());
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }

    /// The point `duration` later, or the last point that can be expressed.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self::from_unix_micros(self.as_unix_micros().saturating_add(micros)).unwrap_or(Self(Timestamp::MAX))
    }

    /// What calendars and clocks show in `zone` at this point.
    #[must_use]
    pub fn civil_in(self, zone: &TimeZone) -> DateTime {
        zone.to_datetime(self.0)
    }

    /// `20261120T024107Z`: the form that names backups. Sorts like the time itself.
    #[must_use]
    pub fn compact(self) -> String {
        self.0.strftime("%Y%m%dT%H%M%SZ").to_string()
    }

    /// `2026-11-20 02:41:07`: for tables whose heading says UTC.
    #[must_use]
    pub fn for_tables(self) -> String {
        self.0.strftime("%Y-%m-%d %H:%M:%S").to_string()
    }
}

impl fmt::Display for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.to_string())
    }
}

impl FromStr for UtcTime {
    type Err = ParseTimeError;

    /// RFC 3339; the offset is required, because a time without one means something else on every machine.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let timestamp: Timestamp = text.parse().map_err(|_| ParseTimeError { text: text.to_owned() })?;
        Self::from_unix_micros(timestamp.as_microsecond()).ok_or_else(|| ParseTimeError { text: text.to_owned() })
    }
}

/// What time is it? Rooms that need to know take one of these, or a plain `now`, so that tests decide.
pub trait Clock: Send + Sync {
    /// The present.
    fn now(&self) -> UtcTime;
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UtcTime {
        UtcTime::from_unix_micros(Timestamp::now().as_microsecond()).unwrap_or(UtcTime(Timestamp::MAX))
    }
}

/// A clock that stands still until it is told otherwise.
#[derive(Debug)]
pub struct ManualClock(Mutex<UtcTime>);

impl ManualClock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn at(now: UtcTime) -> Self {
        Self(Mutex::new(now))
    }

    /// Sets the clock, forwards or backwards.
    pub fn set(&self, now: UtcTime) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UtcTime {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_needs_an_offset_and_prints_in_utc() {
        let time: UtcTime = "2026-11-20T03:41:07.5+01:00".parse().unwrap();
        assert_eq!(time.to_string(), "2026-11-20T02:41:07.5Z");
        assert_eq!(time.compact(), "20261120T024107Z");
        assert_eq!(time.for_tables(), "2026-11-20 02:41:07");
        for text in ["2026-11-20", "2026-11-20T02:41:07", "now", ""] {
            assert!(text.parse::<UtcTime>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_manual_clock_may_run_backwards_and_since_does_not() {
        let (early, late) = (UtcTime::from_unix_micros(5).unwrap(), UtcTime::from_unix_micros(9).unwrap());
        let clock = ManualClock::at(late);
        clock.set(early);
        assert_eq!(clock.now(), early);
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(late.since(early), Duration::from_micros(4));
        assert_eq!(early.plus(Duration::from_micros(4)), late);
    }
}
