//! What lies behind the place where WAL ends, and whether anybody was told that it is safe.
//!
//! Objects are stored several at a time, in any order. So a host that dies leaves WAL behind a hole that was on its way: nothing from
//! the hole on was ever told to be safe, and the end of what is there without a hole is the end of what counts. The same hole can be
//! what is left of WAL that was safe, and that somebody or something has deleted since. Signs of life tell the two apart: what they
//! say was stored, or was told to PostgreSQL, and the time of the last one.

use lifeboat_vocabulary::{UtcTime, WalPosition};

use crate::target::commit_clock::CLOCK_TOLERANCE;
use crate::target::timeline_tree::TimelinePath;
use crate::target::wal_plan::{ArchiveView, BehindHole, HeadFact};

/// What lies behind the end of the WAL that can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Behind {
    /// Nothing that is known.
    Nothing,
    /// WAL that was never told to be safe, or what only looks like WAL.
    NeverSafe(String),
    /// WAL of which nobody can say that it was not safe.
    Doubtful(String),
    /// WAL that was safe, and is not there any more.
    Lost(Loss),
}

/// WAL that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) why: String,
    /// Whether no region that answers has ever had it, as far as is known.
    pub(crate) may_be_elsewhere: bool,
}

impl Loss {
    /// What is missing between two stretches of WAL.
    #[must_use]
    pub(crate) fn between(end: WalPosition, beyond: WalPosition) -> Self {
        Self { why: format!("WAL is missing from {} to {}", end.lsn, beyond.lsn), may_be_elsewhere: false }
    }
}

impl Behind {
    /// For machines.
    #[must_use]
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::NeverSafe(_) => "never-safe",
            Self::Doubtful(_) => "doubtful",
            Self::Lost(_) => "lost",
        }
    }

    /// For a person; `None` if there is nothing to say.
    #[must_use]
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Nothing => None,
            Self::NeverSafe(text) | Self::Doubtful(text) | Self::Lost(Loss { why: text, .. }) => Some(text),
        }
    }
}

impl ArchiveView {
    /// What lies behind the end of what can be reached along a path, which WAL goes on behind a hole from `beyond`, if it does.
    #[must_use]
    pub(crate) fn behind(&self, path: &TimelinePath, end: WalPosition, beyond: Option<WalPosition>) -> Behind {
        let missing = beyond.map(|beyond| Loss::between(end, beyond).why);
        if let Some(Loss { why, may_be_elsewhere }) = self.lost(path, end) {
            let why = match missing {
                Some(missing) => format!("{missing}; {why}"),
                None => format!("{why}, and is not there any more"),
            };
            return Behind::Lost(Loss { why, may_be_elsewhere });
        }
        let (Some(beyond), Some(missing)) = (beyond, missing) else { return Behind::Nothing };
        if self.is_on_record(end, beyond) {
            let why = format!("{missing}, which is on record, and what follows was safe");
            return Behind::Lost(Loss { why, may_be_elsewhere: false });
        }
        self.behind_hole(end, beyond, &missing)
    }

    /// A sign of life that tells of more WAL on this path than can be reached.
    fn lost(&self, path: &TimelinePath, end: WalPosition) -> Option<Loss> {
        let beyond = |at: &WalPosition| path.contains(*at) && at.lsn > end.lsn;
        let newest = |of: fn(&HeadFact) -> Option<WalPosition>| {
            let heads = self.heads.iter().filter_map(|head| Some((head, of(head).filter(beyond)?)));
            heads.max_by_key(|(_, at)| at.lsn)
        };
        if let Some((head, at)) = newest(|head| head.durable) {
            let (region, time) = (&head.region, head.time);
            let why = format!("WAL up to {at} was stored in region {region} at {time}");
            return Some(Loss { why, may_be_elsewhere: false });
        }
        let (head, at) = newest(|head| head.confirmed)?;
        let why = format!("PostgreSQL was told, by {}, that WAL up to {at} is stored", head.time);
        Some(Loss { why, may_be_elsewhere: true })
    }

    fn is_on_record(&self, end: WalPosition, beyond: WalPosition) -> bool {
        let gaps = self.gaps.get(&beyond.timeline).into_iter().flatten();
        let is_it = |(from, to): &(lifeboat_vocabulary::Lsn, lifeboat_vocabulary::Lsn)| {
            *to == beyond.lsn || (end.timeline == beyond.timeline && *from <= end.lsn && end.lsn < *to)
        };
        gaps.into_iter().any(is_it)
    }

    fn behind_hole(&self, end: WalPosition, beyond: WalPosition, missing: &str) -> Behind {
        let timeline = beyond.timeline;
        let stretches = self.coverage.get(&timeline).into_iter().flat_map(|coverage| coverage.stretches());
        let behind = stretches.map(|(begins, _)| *begins).filter(|begins| *begins >= beyond.lsn);
        let known = behind.map(|begins| self.behind_holes.get(&(timeline, begins)));
        let mut newest: Option<Option<UtcTime>> = None;
        for what in known {
            match what {
                Some(BehindHole::Unreadable) => {}
                Some(BehindHole::Wal { newest: stored }) => {
                    newest = Some(*stored);
                    break;
                }
                None => return Behind::Doubtful(format!("{missing}, and what lies behind is not known")),
            }
        }
        let Some(newest) = newest else {
            return Behind::NeverSafe(format!(
                "objects with names of WAL from {} on cannot be read as WAL of this repository, and count for nothing",
                beyond.lsn
            ));
        };
        let is_last = self.coverage.iter().all(|(other, coverage)| *other <= timeline || coverage.is_empty());
        if end.timeline != timeline || !is_last {
            return Behind::Doubtful(format!("{missing}, and a later timeline goes on behind that"));
        }
        let Some(last) = self.heads.iter().max_by_key(|head| head.stored) else {
            return Behind::Doubtful(format!(
                "{missing}, and no sign of life of a writer says how much of it was safe"
            ));
        };
        let stored = match newest {
            Some(newest) if newest <= last.stored.plus(CLOCK_TOLERANCE) => newest,
            Some(newest) => {
                return Behind::Doubtful(format!(
                    "{missing}; WAL behind that was stored until {newest}, long after the last sign of life of {}, so that nobody \
                     knows what was safe",
                    last.stored
                ));
            }
            None => return Behind::Doubtful(format!("{missing}, and when WAL behind that was stored is not known")),
        };
        let told = match self.heads.iter().filter_map(|head| head.confirmed).max_by_key(|at| (at.timeline, at.lsn)) {
            Some(told) => format!("PostgreSQL had been told no more than {told}"),
            None => "PostgreSQL had been told nothing".to_owned(),
        };
        Behind::NeverSafe(format!(
            "WAL from {} on, stored until {stored}, lies behind a hole that begins at {end}, and does not count: it was on its way, and \
             by the last sign of life, of {}, {told} is safe",
            beyond.lsn, last.stored
        ))
    }
}
