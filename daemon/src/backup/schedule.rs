//! What is due now? Pure: the timetable, what was run, and the time come in; what to do comes out.
//!
//! Rules. A planned time is taken care of by a good run that was planned for it, or that began between it and now: so a
//! clock that is set back does not run it again, one that is set forward catches up once however many times were
//! missed, and a run from a future that the clock has left counts for nothing else. A run that failed is tried again
//! after longer and longer pauses, until the next planned time takes its place.

use std::time::Duration;

use lifeboat_vocabulary::UtcTime;

use crate::settings::timetable::Timetable;

/// The pause after the first failure; it doubles with each.
const PAUSE_MIN: Duration = Duration::from_secs(15 * 60);
const PAUSE_MAX: Duration = Duration::from_secs(4 * 3600);
/// A run that begins this much after its time was missed.
const LATE: Duration = Duration::from_secs(5 * 60);
/// A backup that is this late is overdue, beyond half of the time between two.
const SLACK: Duration = Duration::from_secs(3600);

/// How a run ended, as far as it matters for what is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There is a backup that counts.
    Good,
    /// There is one that does not count because data is missing in it. The next would be like it, until somebody has changed the
    /// server: it is not made again before its time.
    Incomplete,
    /// There is none: it failed, or was killed in the middle.
    Failed,
    /// It was told to stop, and is wanted as soon as possible.
    Stopped,
}

impl Outcome {
    /// Whether there is a backup, good or not, so that another one is due at its time only.
    fn is_backup(self) -> bool {
        matches!(self, Self::Good | Self::Incomplete)
    }
}

/// A run that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// The time that it was planned for; `None` if somebody asked for it.
    pub(crate) planned: Option<UtcTime>,
    pub(crate) started: UtcTime,
    /// When it was over.
    pub(crate) ended: UtcTime,
    pub(crate) outcome: Outcome,
}

/// What was run, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Past {
    /// Runs that are over, in the order in which they ended.
    pub(crate) attempts: Vec<Attempt>,
    /// Since when this timetable is in force, if it was another one before: earlier times of it are owed to nobody.
    pub(crate) in_force_since: Option<UtcTime>,
}

/// Why a run begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It is its time.
    Scheduled,
    /// Its time was missed.
    Missed,
    /// There is no backup yet.
    First,
    /// So many runs for the same time have failed.
    Retry(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Begin a run now.
    Run {
        /// The time that it is planned for.
        planned: UtcTime,
        why: Why,
    },
    /// Look again then.
    Wait {
        /// When the next run begins, as it looks now.
        until: UtcTime,
    },
    /// Nothing will ever be due.
    Never,
}

impl Past {
    fn takes_care_of(&self, planned: UtcTime, now: UtcTime) -> bool {
        let by = |attempt: &Attempt| {
            let began = planned <= attempt.started && attempt.started <= now;
            attempt.outcome.is_backup() && (attempt.planned == Some(planned) || began)
        };
        // What came into force in a future that the clock has left is in force since nobody knows when.
        let is_older = self.in_force_since.is_some_and(|since| planned < since && since <= now);
        is_older || self.attempts.iter().any(by)
    }

    /// Failures in a row for this time, and when the last of them was over.
    fn failures(&self, planned: UtcTime, now: UtcTime) -> (usize, Option<UtcTime>) {
        let meant = |attempt: &&Attempt| {
            attempt.planned == Some(planned) || planned <= attempt.started && attempt.started <= now
        };
        let failed = self.attempts.iter().rev().take_while(meant).filter(|attempt| attempt.outcome == Outcome::Failed);
        let (count, last) = failed.fold((0, None), |(count, last): (usize, Option<UtcTime>), attempt| {
            (count + 1, last.max(Some(attempt.ended)))
        });
        (count, last)
    }

    /// When the newest run began that made a backup.
    #[must_use]
    pub(crate) fn newest_made(&self) -> Option<UtcTime> {
        self.attempts.iter().filter(|attempt| attempt.outcome.is_backup()).map(|attempt| attempt.started).max()
    }
}

/// How long to wait after so many failures in a row.
#[must_use]
pub(crate) fn pause_after(failures: usize) -> Duration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX).min(8);
    PAUSE_MIN.saturating_mul(1 << doublings).min(PAUSE_MAX)
}

/// Decides what is due now.
#[must_use]
pub(crate) fn decide(timetable: &Timetable, past: &Past, now: UtcTime) -> Decision {
    let next = next_start(timetable, past, now);
    let owed = timetable.last_until(now).filter(|planned| !past.takes_care_of(*planned, now));
    let (planned, first) = match (owed, past.newest_made()) {
        (_, None) => (timetable.last_until(now).unwrap_or(now), true),
        (Some(planned), Some(_)) => (planned, false),
        (None, Some(_)) => return next.map_or(Decision::Never, |until| Decision::Wait { until }),
    };
    let (failures, last) = past.failures(planned, now);
    let begin = match (failures, last) {
        // A pause that would end in a future that the clock has left is over.
        (1.., Some(last)) if last <= now => last.plus(pause_after(failures)),
        (1.., _) => now,
        _ if first => now,
        _ => timetable.start_of(planned),
    };
    let begin = match (first, failures) {
        // Before there is a backup, nothing can be restored.
        (true, 0) => begin,
        _ => timetable.outside_windows(begin.max(now)),
    };
    if begin > now {
        let until = next.map_or(begin, |next| next.min(begin));
        return Decision::Wait { until };
    }
    let why = match failures {
        0 if first => Why::First,
        0 if now.since(timetable.start_of(planned)) > LATE => Why::Missed,
        0 => Why::Scheduled,
        failures => Why::Retry(failures),
    };
    Decision::Run { planned, why }
}

/// When the first run begins that is planned for later than now and not taken care of.
fn next_start(timetable: &Timetable, past: &Past, now: UtcTime) -> Option<UtcTime> {
    let mut planned = timetable.next_after(now)?;
    // As many as there are runs can be taken care of, where the clock was set back.
    for _ in 0..=past.attempts.len() {
        if !past.takes_care_of(planned, now) {
            break;
        }
        planned = timetable.next_after(planned)?;
    }
    Some(timetable.start_of(planned))
}

/// When the next backup is overdue: half of the time between two runs, and an hour, after the run that should have
/// followed `good`, the beginning of the newest good backup (or when the cluster was first seen).
#[must_use]
pub(crate) fn overdue_after(timetable: &Timetable, good: UtcTime) -> Option<UtcTime> {
    let due = timetable.next_after(good)?;
    let half = timetable.next_after(due).map_or(Duration::ZERO, |following| following.since(due) / 2);
    Some(timetable.start_of(due).plus(half + SLACK))
}

#[cfg(test)]
mod tests;
