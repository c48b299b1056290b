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

/// What is found out about the commits and aborts of a stretch of WAL by going through it from its end backwards, one part after
/// the other: what the newer parts hold bounds when the older ones were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decisions {
    /// The newest moment that any clock here knows.
    latest: UtcTime,
    /// When the oldest one that counts was made, of those that were looked at.
    following: Option<UtcTime>,
    /// When the last one that counts was made.
    pub(crate) last: Option<UtcTime>,
    /// The first one that is past what is asked for.
    pub(crate) first_past: Option<Decision>,
    /// The one that its own date puts furthest ahead of what it counts as, where one is by more than [`CLOCK_TOLERANCE`].
    pub(crate) ahead: Option<Decision>,
    /// The first of those behind [`Self::last`], by its own date: it is ahead of every clock, so that nobody knows when they were made.
    pub(crate) undated: Option<Decision>,
}

impl Decisions {
    /// Before anything was looked at; `latest` is the newest moment that any clock here knows.
    #[must_use]
    pub(crate) fn new(latest: UtcTime) -> Self {
        Self { latest, following: None, last: None, first_past: None, ahead: None, undated: None }
    }

    /// Goes on with the part that ends where the last one began; its facts are in the order of the WAL. True as soon as one counts
    /// that is not `past`: no older one is either.
    pub(crate) fn go_back(&mut self, facts: &[WalFact], past: impl Fn(UtcTime) -> bool) -> bool {
        for fact in facts.iter().rev() {
            let (WalFactKind::Commit { time, .. } | WalFactKind::Abort { time, .. }) = &fact.kind else { continue };
            let dated = Decision { start: fact.start, time: *time };
            let is_ahead = *time > self.following.unwrap_or(self.latest).plus(CLOCK_TOLERANCE);
            if is_ahead && self.ahead.is_none_or(|ahead| ahead.time < *time) {
                self.ahead = Some(dated);
            }
            let time = match self.following {
                Some(following) => following.min(*time),
                // When the last one was made nobody knows, if not then.
                None if is_ahead => {
                    self.undated = Some(dated);
                    continue;
                }
                None => *time,
            };
            self.following = Some(time);
            self.last = self.last.or(Some(time));
            if past(time) {
                self.first_past = Some(Decision { start: fact.start, time });
            }
        }
        self.following.is_some_and(|oldest| !past(oldest))
    }

    /// What a person is told about commits that are dated ahead; `None` if none is.
    #[must_use]
    pub(crate) fn attention(&self) -> Option<String> {
        self.undated.map(undated_text).or_else(|| self.ahead.map(ahead_text))
    }
}

fn ahead_text(ahead: Decision) -> String {
    format!(
        "the server's clock was ahead for a time: the commit at WAL {} is dated {}. Such commits count as made when those that \
         follow them were",
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
            // In parts of every size: where a part ends says nothing.
            for size in 1..=3 {
                let facts = commits(&times);
                let mut found = Decisions::new(now);
                let mut counted = Vec::new();
                for part in facts.rchunks(size) {
                    for fact in part.iter().rev() {
                        found.go_back(std::slice::from_ref(fact), |_| true);
                        counted
                            .extend(found.first_past.filter(|first| first.start == fact.start).map(|first| first.time));
                    }
                }
                counted.reverse();
                assert_eq!(counted, expected, "{why}");
                assert_eq!(found.ahead.map(|ahead| ahead.time), ahead, "{why}");
            }
        }
    }
}
