//! What the times of commits prove, on a server whose clock was set.
//!
//! The server dates each commit by its clock, and nothing keeps that clock from jumping: a virtual machine that wakes up, NTP that steps, a
//! hand. PostgreSQL, told to stop at a time, stops at the first commit that is dated later, wherever that is. So do we, with one exception:
//! a commit that is dated later than every clock that is known here says nothing of when it was made. It counts for nothing, unless no
//! other one lies between it and the place where recovery is to end: then recovery ends before it, as it may be from after the target.
//! Nothing that a commit is dated moves that place further: who restores to the moment before a mistake must not get the mistake.

use std::time::Duration;

use lifeboat_postgres::{WalFact, WalFactKind};
use lifeboat_vocabulary::{Lsn, UtcTime};

/// How far clocks that are kept may be apart.
pub(crate) const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);
/// Commits that run at the same time may be dated this far out of order.
const JITTER: Duration = Duration::from_secs(1);

/// A commit or an abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Where its record begins.
    pub(crate) start: Lsn,
    /// How it is dated.
    pub(crate) time: UtcTime,
}

/// What the commits and aborts of a stretch of WAL say. Stretches that follow each other can be put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decisions {
    /// The last one that counts.
    pub(crate) last: Option<Decision>,
    /// The first one that counts and is past what is asked for.
    pub(crate) first_past: Option<Decision>,
    /// The first of those that do not count and lie right before [`Self::first_past`].
    before_past: Option<Decision>,
    /// Whether one that counts lies before [`Self::first_past`].
    counted_before_past: bool,
    /// The first of those behind [`Self::last`]: they are dated later than every clock, so that nobody knows when they were made.
    pub(crate) undated: Option<Decision>,
    /// The one that is dated latest, of those that count.
    newest: Option<Decision>,
    /// The one that is dated latest, of those that do not.
    beyond_clocks: Option<Decision>,
    /// The last and the earliest dated of those that count, lie behind [`Self::first_past`] and are not past what is asked for.
    not_past_behind: Option<(Decision, UtcTime)>,
    /// Likewise, of all.
    not_past: Option<(Decision, UtcTime)>,
}

impl Decisions {
    /// What these facts say, in the order of the WAL; `latest` is the newest moment that any clock here knows.
    #[must_use]
    pub(crate) fn of(facts: &[WalFact], latest: UtcTime, past: impl Fn(UtcTime) -> bool) -> Self {
        let mut all = Self::default();
        for fact in facts {
            let (WalFactKind::Commit { time, .. } | WalFactKind::Abort { time, .. }) = &fact.kind else { continue };
            let it = Decision { start: fact.start, time: *time };
            let one = if *time > latest.plus(CLOCK_TOLERANCE) {
                Self { undated: Some(it), beyond_clocks: Some(it), ..Self::default() }
            } else {
                let is_past = past(*time);
                Self {
                    last: Some(it),
                    newest: Some(it),
                    first_past: is_past.then_some(it),
                    counted_before_past: !is_past,
                    not_past: (!is_past).then_some((it, *time)),
                    ..Self::default()
                }
            };
            all = all.and(&one);
        }
        all
    }

    /// Together with those of the WAL that follows.
    #[must_use]
    pub(crate) fn and(self, next: &Self) -> Self {
        let later = |a: Option<Decision>, b: Option<Decision>| match (a, b) {
            (Some(a), Some(b)) if a.time >= b.time => Some(a),
            (a, b) => b.or(a),
        };
        let both = |a: Option<(Decision, UtcTime)>, b: Option<(Decision, UtcTime)>| match (a, b) {
            (Some((_, a)), Some((last, b))) => Some((last, a.min(b))),
            (a, b) => b.or(a),
        };
        let before_past = match (self.first_past, next.counted_before_past) {
            (Some(_), _) => self.before_past,
            (None, true) => next.before_past,
            (None, false) => next.first_past.and(self.undated.or(next.before_past)),
        };
        let behind = if self.first_past.is_some() { next.not_past } else { next.not_past_behind };
        Self {
            last: next.last.or(self.last),
            first_past: self.first_past.or(next.first_past),
            before_past,
            counted_before_past: self.counted_before_past || (self.first_past.is_none() && next.counted_before_past),
            undated: if next.last.is_some() { next.undated } else { self.undated.or(next.undated) },
            newest: later(self.newest, next.newest),
            beyond_clocks: later(self.beyond_clocks, next.beyond_clocks),
            not_past_behind: both(self.not_past_behind, behind),
            not_past: both(self.not_past, next.not_past),
        }
    }

    /// Whether there are none, of either kind.
    #[must_use]
    pub(crate) fn are_none(&self) -> bool {
        self.last.is_none() && self.undated.is_none()
    }

    /// The first commit or abort that must not be replayed, if what is asked for is to be there and nothing later: the first that is past it,
    /// or one before or behind all others whose time nobody knows.
    #[must_use]
    pub(crate) fn end(&self) -> Option<Decision> {
        match self.first_past {
            Some(first) => Some(self.before_past.unwrap_or(first)),
            None => self.undated,
        }
    }

    /// The one that is dated furthest ahead, where one is ahead of the last by more than [`CLOCK_TOLERANCE`], or of every clock.
    #[must_use]
    pub(crate) fn ahead(&self) -> Option<Decision> {
        self.beyond_clocks.or_else(|| {
            let last = self.last?.time;
            self.newest.filter(|newest| newest.time > last.plus(CLOCK_TOLERANCE))
        })
    }

    /// What a person is told about a clock that was wrong; `None` if that can be seen nowhere.
    #[must_use]
    pub(crate) fn attention(&self) -> Option<String> {
        let text = match (self.first_past, self.undated) {
            (None, Some(first)) => Some(undated_text(first)),
            _ => self.ahead().map(ahead_text),
        };
        self.not_restored().or(text)
    }

    /// What is not restored although it is dated before the target.
    fn not_restored(&self) -> Option<String> {
        let first = self.first_past?;
        let end = self.end()?.start;
        match (self.not_past_behind, self.before_past) {
            (Some((last, earliest)), _) if first.time > earliest.plus(JITTER) => Some(format!(
                "the server's clock was ahead at WAL {0} (a commit is dated {1}), or was set back behind it: commits up to WAL {2} are dated \
                 before the target again. Recovery ends before WAL {end}, and commits from there to {2} are not restored; to go further, \
                 name a position (--target-lsn {2})",
                first.start, first.time, last.start
            )),
            (_, Some(undated)) => Some(undated_text(undated)),
            _ => None,
        }
    }
}

fn ahead_text(ahead: Decision) -> String {
    format!(
        "the server's clock was ahead for a time, or was set back: the commit at WAL {} is dated {}, later than those that follow it",
        ahead.start, ahead.time
    )
}

fn undated_text(first: Decision) -> String {
    format!(
        "the server's clock is ahead: the commit at WAL {0} is dated {1}, later than any clock shows, and when it and those behind it \
         were made nobody knows. A target by time ends before them; to go further, name a position (--target-lsn)",
        first.start, first.time
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> UtcTime {
        format!("2026-11-20T{text}Z").parse().unwrap()
    }

    fn commits(times: &[UtcTime]) -> Vec<WalFact> {
        let fact = |(number, time): (usize, &UtcTime)| {
            let lsn = |at: usize| Lsn::from_bytes(u64::try_from(at).unwrap()).unwrap();
            let kind = WalFactKind::Commit { xid: 7, time: *time };
            WalFact { start: lsn(100 * (number + 1)), end: lsn(100 * (number + 1) + 50), xid: 7, kind }
        };
        times.iter().enumerate().map(fact).collect()
    }

    #[test]
    fn recovery_ends_before_the_first_commit_past_the_target_and_what_that_costs_is_said() {
        let far: UtcTime = "2036-11-20T00:00:00Z".parse().unwrap();
        let early: UtcTime = "2000-01-01T00:00:00Z".parse().unwrap();
        let (before, past, later) = (time("09:00:00"), time("10:30:00"), time("11:00:00"));
        let moment = time("10:00:00").plus(Duration::from_millis(3));
        // The target is 10:00.
        for (why, times, end, said) in [
            ("in order", vec![before, past, later], Some(1), None),
            ("none is past", vec![before, before], None, None),
            ("one far ahead among those before", vec![before, far, before, past], Some(3), Some("ahead for a time")),
            ("one far ahead right before the target", vec![before, far, far, past], Some(1), Some("nobody knows")),
            ("one far ahead behind it", vec![before, past, far, later], Some(1), Some("ahead for a time")),
            ("the last ones are far ahead", vec![before, far, far], Some(1), Some("nobody knows")),
            ("one in the year 2000", vec![before, past, early, later], Some(1), Some("set back behind it")),
            ("set back for good", vec![before, past, before, before], Some(1), Some("--target-lsn 0/190)")),
            ("set back, and none is past", vec![time("09:30:00"), before], None, Some("was set back")),
            ("at the same time", vec![before, moment, time("10:00:00"), later], Some(1), None),
            ("none", vec![], None, None),
        ] {
            // In parts of every size: where a part ends says nothing.
            for size in 1..=4 {
                let facts = commits(&times);
                let part = |part: &[WalFact]| Decisions::of(part, time("12:00:00"), |it| it > time("10:00:00"));
                let parts: Vec<Decisions> = facts.chunks(size).map(part).collect();
                let forward = parts.iter().fold(Decisions::default(), Decisions::and);
                let grouped = parts.iter().rev().fold(Decisions::default(), |all, part| part.clone().and(&all));
                assert_eq!(forward, grouped, "{why}");
                let expected = end.map(|number: usize| facts[number].start);
                assert_eq!(forward.end().map(|end| end.start), expected, "{why}");
                let attention = forward.attention();
                let fits =
                    attention.as_deref().map_or(said.is_none(), |text| said.is_some_and(|said| text.contains(said)));
                assert!(fits, "{why}: {attention:?}");
            }
        }
    }
}
