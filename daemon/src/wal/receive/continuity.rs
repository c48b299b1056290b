//! Where a stream goes on after what is stored, or why it must not. Pure: what is known comes in, a decision goes out.
//!
//! Rules: the next timeline comes from the server's own history, never from adding one. WAL that is stored is never
//! rewound: a server whose WAL ends before it is refused, not followed. WAL beyond a fork stays stored under its own
//! timeline, and the new timeline begins at the start of the segment that holds the fork.

use lifeboat_postgres::TimelineHistory;
use lifeboat_vocabulary::{Lsn, TimelineId, WalPosition};

/// What is stored, and what the server says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation<'a> {
    /// Where the stream has to go on so that nobody misses anything; `None` if nothing is stored yet.
    pub(crate) resume: Option<WalPosition>,
    /// The highest position that is stored anywhere.
    pub(crate) highest: Option<WalPosition>,
    /// The end of the server's WAL on its own timeline.
    pub(crate) server: WalPosition,
    /// The history of the server's timeline.
    pub(crate) history: &'a TimelineHistory,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing is stored: begin where the slot begins.
    Fresh,
    /// Go on on this timeline, from the segment that holds this position.
    Continue(WalPosition),
    /// The stored timeline ended at this position; go on on `to`, from the segment that holds it.
    NextTimeline {
        /// The timeline that follows in the server's history.
        to: TimelineId,
        /// Where it forked from the stored one.
        fork: Lsn,
    },
    /// Do not write anything from this server.
    Refuse(Refusal),
}

/// Why a server must not write into the repository.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Refusal {
    /// Its WAL ends before what it, or another server of its history, sent earlier.
    #[error(
        "the server's WAL ends at {server}, but {stored} was received: the server lost WAL (restored from a snapshot, or a \
         crash with fsync = off), or it is a standby that lags behind. If it lags, this ends by itself. If the loss is \
         real, restore the missing commits from the regions; to go on without them, `lifeboatd adopt --lost-wal`"
    )]
    Behind {
        /// Where its WAL ends.
        server: WalPosition,
        /// What is stored.
        stored: WalPosition,
    },
    /// It lives on a timeline that the stored WAL has left: a former primary, or a copy.
    #[error(
        "the server is on timeline {server}, the stored WAL went on to timeline {stored}: it is a former primary or a \
         copy. Take it out of the connection string, or rebuild it with pg_rewind as a standby"
    )]
    OldTimeline {
        /// Its timeline.
        server: TimelineId,
        /// The stored one.
        stored: TimelineId,
    },
    /// Its history does not contain the stored timeline.
    #[error(
        "the history of the server's timeline {server} does not contain timeline {stored}, which is stored: it descends \
         from another branch. If it is to take over, give it a cluster name of its own"
    )]
    OtherBranch {
        /// Its timeline.
        server: TimelineId,
        /// The stored one.
        stored: TimelineId,
    },
}

/// Decides where a stream goes on.
#[must_use]
pub(crate) fn decide(situation: Situation<'_>) -> Decision {
    let Situation { resume, highest, server, history } = situation;
    let Some(resume) = resume else { return Decision::Fresh };
    let stored = highest.unwrap_or(resume);
    if stored.timeline == server.timeline && stored.lsn > server.lsn {
        return Decision::Refuse(Refusal::Behind { server, stored });
    }
    if stored.timeline != server.timeline && history.switch_from(stored.timeline).is_none() {
        let (server, stored) = (server.timeline, stored.timeline);
        let refusal = match server < stored {
            true => Refusal::OldTimeline { server, stored },
            false => Refusal::OtherBranch { server, stored },
        };
        return Decision::Refuse(refusal);
    }
    if resume.timeline == server.timeline {
        return Decision::Continue(resume);
    }
    match history.switch_from(resume.timeline) {
        // The old timeline is not complete yet: the server tells where it ends.
        Some(fork) if resume.lsn < fork => Decision::Continue(resume),
        Some(fork) => Decision::NextTimeline { to: after(history, resume.timeline), fork },
        None => {
            let (server, stored) = (server.timeline, resume.timeline);
            Decision::Refuse(Refusal::OtherBranch { server, stored })
        }
    }
}

/// The timeline that follows an ancestor in a history.
fn after(history: &TimelineHistory, ancestor: TimelineId) -> TimelineId {
    let mut entries = history.entries.iter().skip_while(|entry| entry.timeline != ancestor).skip(1);
    entries.next().map_or(history.timeline, |entry| entry.timeline)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_postgres::HistoryEntry;

    fn timeline(id: u32) -> TimelineId {
        TimelineId::new(id).unwrap()
    }

    fn at(id: u32, lsn: u64) -> WalPosition {
        WalPosition { timeline: timeline(id), lsn: Lsn::from_bytes(lsn).unwrap() }
    }

    fn history(id: u32, ancestors: &[(u32, u64)]) -> TimelineHistory {
        let entry =
            |(id, lsn): &(u32, u64)| HistoryEntry { timeline: timeline(*id), switch: Lsn::from_bytes(*lsn).unwrap() };
        TimelineHistory { timeline: timeline(id), entries: ancestors.iter().map(entry).collect() }
    }

    fn next(to: u32, fork: u64) -> Decision {
        Decision::NextTimeline { to: timeline(to), fork: Lsn::from_bytes(fork).unwrap() }
    }

    #[test]
    fn a_server_that_does_not_continue_what_is_stored_is_refused() {
        let behind = |server, stored| Decision::Refuse(Refusal::Behind { server, stored });
        for (why, resume, highest, server, history, expected) in [
            ("it lost WAL", at(1, 50), at(1, 90), at(1, 80), history(1, &[]), behind(at(1, 80), at(1, 90))),
            (
                "a former primary was started again",
                at(2, 95),
                at(2, 120),
                at(1, 500),
                history(1, &[]),
                Decision::Refuse(Refusal::OldTimeline { server: timeline(1), stored: timeline(2) }),
            ),
            (
                "a copy was promoted past us, from an older branch",
                at(2, 120),
                at(2, 120),
                at(3, 500),
                history(3, &[(1, 90)]),
                Decision::Refuse(Refusal::OtherBranch { server: timeline(3), stored: timeline(2) }),
            ),
        ] {
            let situation = Situation { resume: Some(resume), highest: Some(highest), server, history: &history };
            assert_eq!(decide(situation), expected, "{why}");
        }
    }

    #[test]
    fn a_server_that_continues_what_is_stored_is_followed_through_its_own_history() {
        for (why, resume, highest, server, history, expected) in [
            ("nothing new", at(1, 90), at(1, 90), at(1, 90), history(1, &[]), Decision::Continue(at(1, 90))),
            ("one region lags", at(1, 20), at(1, 90), at(1, 95), history(1, &[]), Decision::Continue(at(1, 20))),
            (
                "the old timeline's end is missing",
                at(1, 80),
                at(1, 80),
                at(2, 200),
                history(2, &[(1, 90)]),
                Decision::Continue(at(1, 80)),
            ),
            ("the old timeline is complete", at(1, 90), at(1, 90), at(2, 200), history(2, &[(1, 90)]), next(2, 90)),
            (
                "more of the old one is stored than the new one has",
                at(1, 95),
                at(1, 99),
                at(2, 200),
                history(2, &[(1, 90)]),
                next(2, 90),
            ),
            (
                "two promotions, and numbers that were left out",
                at(1, 90),
                at(1, 90),
                at(9, 300),
                history(9, &[(1, 90), (4, 120)]),
                next(4, 90),
            ),
            (
                "in the middle of the history",
                at(4, 120),
                at(4, 120),
                at(9, 300),
                history(9, &[(1, 90), (4, 120)]),
                next(9, 120),
            ),
        ] {
            let situation = Situation { resume: Some(resume), highest: Some(highest), server, history: &history };
            assert_eq!(decide(situation), expected, "{why}");
        }
        let first = history(1, &[]);
        let fresh = Situation { resume: None, highest: None, server: at(1, 5), history: &first };
        assert_eq!(decide(fresh), Decision::Fresh);
    }
}
