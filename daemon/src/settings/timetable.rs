//! When runs are planned, as points in time: a cron line in a time zone, with jitter and hours in which nothing begins.
//! Pure.
//!
//! The line speaks of civil time, which has holes and comes twice where clocks change. A time that falls into a hole
//! means the moment right after it; one that comes twice means the first. So each line gives an increasing sequence of
//! moments, and no two of them are equal.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use lifeboat_config::ScheduleSettings;
use lifeboat_repository::format::aead::sha256;
use lifeboat_vocabulary::{ClusterName, UtcTime};

/// The longest time that comes twice when clocks are set back: 2 h at Antarctica/Troll, rounded up.
const TWICE_MAX: i64 = 3;
/// How many windows may follow each other without a minute between them before they count as endless.
const WINDOWS_IN_A_ROW: usize = 1000;
/// How many times of a line may mean moments that are not wanted: all minutes of [`TWICE_MAX`].
const STEPS_MAX: usize = 200;
const DAY: Duration = Duration::from_secs(86_400);
const WEEK: Duration = Duration::from_secs(7 * 86_400);
/// How far ahead the longest interval is looked for: two months of a monthly schedule.
const INTERVALS_SPAN: Duration = Duration::from_secs(63 * 86_400);
/// Runs that are looked at for it: beyond a weekend for a run every minute.
const INTERVALS_MAX: usize = 20_000;

/// When runs of one cluster are planned.
#[derive(Clone, Debug)]
pub(crate) struct Timetable {
    cluster: ClusterName,
    settings: ScheduleSettings,
}

fn timestamp(time: UtcTime) -> Timestamp {
    Timestamp::from_microsecond(time.as_unix_micros()).unwrap_or(Timestamp::MAX)
}

fn utc(time: Timestamp) -> Option<UtcTime> {
    UtcTime::from_unix_micros(time.as_microsecond())
}

/// What of a time that comes twice is meant.
#[derive(Clone, Copy)]
enum Twice {
    First,
    Second,
}

/// The moment that a civil time means; one that is left out means the moment right after the hole.
fn moment(zone: &TimeZone, civil: DateTime, twice: Twice) -> Option<UtcTime> {
    let ambiguous = zone.to_ambiguous_timestamp(civil);
    let found = match (ambiguous.offset(), twice) {
        (AmbiguousOffset::Unambiguous { .. }, _) => ambiguous.compatible(),
        (AmbiguousOffset::Fold { .. }, Twice::First) => ambiguous.earlier(),
        (AmbiguousOffset::Fold { .. }, Twice::Second) => ambiguous.later(),
        (AmbiguousOffset::Gap { .. }, _) => {
            // By the offset from after the change, the civil time lies before it: the change is what follows.
            let before = ambiguous.earlier().ok()?;
            let change = zone.following(before).next()?;
            return utc(change.timestamp());
        }
    };
    utc(found.ok()?)
}

impl Timetable {
    /// The timetable of a cluster.
    #[must_use]
    pub(crate) fn new(cluster: ClusterName, settings: ScheduleSettings) -> Self {
        Self { cluster, settings }
    }

    /// Line and zone as one text: another one means other times.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        format!("{} {}", self.settings.full, self.settings.timezone_name())
    }

    fn civil(&self, time: UtcTime) -> DateTime {
        self.settings.timezone.to_datetime(timestamp(time))
    }

    /// The first planned time after `time`.
    #[must_use]
    pub(crate) fn next_after(&self, time: UtcTime) -> Option<UtcTime> {
        let mut civil = self.civil(time);
        for _ in 0..STEPS_MAX {
            civil = self.settings.full.next_after(civil)?;
            let planned = moment(&self.settings.timezone, civil, Twice::First)?;
            if planned > time {
                return Some(planned);
            }
        }
        None
    }

    /// The last planned time that was not after `time`.
    #[must_use]
    pub(crate) fn last_until(&self, time: UtcTime) -> Option<UtcTime> {
        let zone = &self.settings.timezone;
        let mut civil = self.civil(time);
        if zone.to_ambiguous_timestamp(civil).is_ambiguous() {
            // Seen for the second time: what comes later on the clock may have been already.
            civil = civil.checked_add(jiff::Span::new().hours(TWICE_MAX)).ok()?;
        }
        for _ in 0..STEPS_MAX {
            civil = self.settings.full.last_until(civil)?;
            let planned = moment(zone, civil, Twice::First)?;
            if planned <= time {
                return Some(planned);
            }
            civil = civil.checked_sub(jiff::Span::new().seconds(1)).ok()?;
        }
        None
    }

    /// When the run that is planned for this time may begin: later by the jitter that was drawn for it, and not in a
    /// window. The same for every process that asks.
    #[must_use]
    pub(crate) fn start_of(&self, planned: UtcTime) -> UtcTime {
        self.outside_windows(planned.plus(self.jitter(planned)))
    }

    /// The first moment from `time` on at which a run may begin.
    #[must_use]
    pub(crate) fn outside_windows(&self, time: UtcTime) -> UtcTime {
        let mut now = time;
        for _ in 0..WINDOWS_IN_A_ROW {
            let civil = self.civil(now);
            let Some(end) = self.settings.blackout.iter().filter_map(|window| window.end_around(civil)).max() else {
                return now;
            };
            let end = moment(&self.settings.timezone, end, Twice::Second).unwrap_or(now);
            // A window that ends in a time that comes twice lasts until its second end.
            now = end.max(now.plus(Duration::from_secs(1)));
        }
        now
    }

    /// The most runs that are planned for 24 hours, around `now`: those of a week are looked at.
    #[must_use]
    pub(crate) fn most_in_a_day(&self, now: UtcTime) -> u64 {
        let mut last = now;
        let mut day = VecDeque::new();
        let mut most = 0;
        for _ in 0..INTERVALS_MAX {
            let Some(next) = self.next_after(last) else { break };
            if next.since(now) > WEEK {
                break;
            }
            day.push_back(next);
            while day.front().is_some_and(|first| next.since(*first) >= DAY) {
                day.pop_front();
            }
            most = most.max(day.len() as u64);
            last = next;
        }
        most
    }

    /// The longest time between the starts of two runs: from the last that was planned before `now`, over those of the
    /// next two months. `None` if there are no two of them.
    #[must_use]
    pub(crate) fn longest_interval(&self, now: UtcTime) -> Option<Duration> {
        let mut last = self.last_until(now).or_else(|| self.next_after(now))?;
        let mut longest = None;
        for _ in 0..INTERVALS_MAX {
            let Some(next) = self.next_after(last) else { break };
            longest = longest.max(Some(self.start_of(next).since(self.start_of(last))));
            last = next;
            if last > now && last.since(now) > INTERVALS_SPAN {
                break;
            }
        }
        longest
    }

    /// Drawn from the names of the cluster and of the time, so that a restart draws the same. Never more than half of
    /// the time until the next run, so that runs stay in order.
    fn jitter(&self, planned: UtcTime) -> Duration {
        let room = self.next_after(planned).map_or(Duration::MAX, |next| next.since(planned) / 2);
        let most = self.settings.jitter.min(room);
        let digest = sha256(format!("{} {planned}", self.cluster).as_bytes());
        let [a, b, c, d, ..] = *digest.as_bytes();
        // A whole number of milliseconds out of the range, each as likely as any other.
        let millis = most.as_millis() * u128::from(u32::from_be_bytes([a, b, c, d])) / u128::from(u32::MAX);
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests;
