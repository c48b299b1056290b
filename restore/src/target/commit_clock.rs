//! What the times of commits prove, on a server whose clock was set.
//!
//! The server dates each commit by its clock, and nothing keeps that clock from jumping: a virtual machine that wakes up, NTP that steps, a
//! hand. One commit dated ten years ahead would prove that the archive reaches every moment until then, and PostgreSQL, told to stop at a
//! time, stops at the first commit dated later, wherever that is. So a commit counts as no later than any commit that follows it in
//! the WAL, and one that nothing follows counts only if it is not ahead of every clock that is known here. What counts then
//! rises with the position, and a target by time becomes a position.

use std::time::Duration;

use lifeboat_postgres::{WalFact, WalFactKind};
use lifeboat_vocabulary::{Lsn, UtcTime};

/// How far clocks that are kept may be apart. Commits that run at the same time are dated within less.
pub(crate) const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// A commit or an abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Where its record begins.
    pub(crate) start: Lsn,
    /// When it counts as made: never later than one that follows it.
    pub(crate) time: UtcTime,
}

/// The commits and aborts of a stretch of WAL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decisions {
    /// In the order of the WAL; times never fall.
    pub(crate) all: Vec<Decision>,
    /// The one that its own date puts furthest ahead of what it counts as, where one is by more than [`CLOCK_TOLERANCE`].
    pub(crate) ahead: Option<Decision>,
}

impl Decisions {
    /// Of these facts, in the order of the WAL; `latest` is the newest moment that any clock here knows.
    #[must_use]
    pub(crate) fn of(facts: &[WalFact], latest: UtcTime) -> Self {
        let mut decisions = Self::default();
        let mut following: Option<UtcTime> = None;
        for fact in facts.iter().rev() {
            let (WalFactKind::Commit { time, .. } | WalFactKind::Abort { time, .. }) = &fact.kind else { continue };
            let is_ahead = *time > following.unwrap_or(latest).plus(CLOCK_TOLERANCE);
            if is_ahead && decisions.ahead.is_none_or(|ahead| ahead.time < *time) {
                decisions.ahead = Some(Decision { start: fact.start, time: *time });
            }
            let time = match following {
                Some(following) => following.min(*time),
                // When the last one was made nobody knows, if not then.
                None if is_ahead => continue,
                None => *time,
            };
            following = Some(time);
            decisions.all.push(Decision { start: fact.start, time });
        }
        decisions.all.reverse();
        decisions
    }

    /// When the last of them was made.
    #[must_use]
    pub(crate) fn last(&self) -> Option<UtcTime> {
        self.all.last().map(|decision| decision.time)
    }
}

/// What a person is told about a commit that is dated ahead.
#[must_use]
pub(crate) fn ahead_text(ahead: Decision) -> String {
    format!(
        "the server's clock was ahead for a time: the commit at WAL {} is dated {}. Such commits count as made when those that \
         follow them were",
        ahead.start, ahead.time
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
    fn a_commit_counts_as_no_later_than_what_follows_it() {
        let far: UtcTime = "2036-11-20T00:00:00Z".parse().unwrap();
        let now = time("12:00:00");
        for (why, times, expected, ahead) in [
            ("in order", vec![time("10:00:00"), time("10:00:01")], vec![time("10:00:00"), time("10:00:01")], None),
            (
                "one ten years ahead",
                vec![time("10:00:00"), far, time("10:00:09")],
                vec![time("10:00:00"), time("10:00:09"), time("10:00:09")],
                Some(far),
            ),
            (
                "the last one is: when it was made nobody knows",
                vec![time("10:00:00"), far],
                vec![time("10:00:00")],
                Some(far),
            ),
            (
                "an hour back",
                vec![time("11:00:00"), time("10:00:00")],
                vec![time("10:00:00"), time("10:00:00")],
                Some(time("11:00:00")),
            ),
            (
                "a moment, as among commits at the same time",
                vec![time("10:00:01"), time("10:00:00")],
                vec![time("10:00:00"), time("10:00:00")],
                None,
            ),
            ("none", vec![], vec![], None),
        ] {
            let found = Decisions::of(&commits(&times), now);
            let counted: Vec<UtcTime> = found.all.iter().map(|decision| decision.time).collect();
            assert_eq!(counted, expected, "{why}");
            assert_eq!(found.ahead.map(|ahead| ahead.time), ahead, "{why}");
        }
    }
}
