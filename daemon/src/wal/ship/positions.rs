//! How far the WAL has come, as the rest of the daemon sees it.

use lifeboat_vocabulary::{ByteCount, Lsn, RegionName, TimelineId, UtcTime, WalPosition};

/// How far everything has come, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// The timeline that is being received; `None` before the first [`begin`](super::Shipper::begin).
    pub timeline: Option<TimelineId>,
    /// After the last byte that was taken on `timeline`.
    pub received: Option<Lsn>,
    /// Up to here on `timeline` the bytes lie in sealed objects.
    pub sealed: Option<Lsn>,
    /// Up to here on `timeline`, every region has the bytes or the fsynced spool of this host keeps them for it.
    pub spooled: Option<Lsn>,
    /// Up to here, as many regions as the quorum asks for have every byte.
    pub quorum: Option<WalPosition>,
    /// What PostgreSQL may hear as flushed: in the quorum, and in every region or the spool. Never beyond `received`,
    /// never back on one timeline. Its timeline may still be an earlier one than `timeline`.
    pub confirmed: Option<WalPosition>,
    /// Bytes of sealed objects in the spool.
    pub spool_bytes: ByteCount,
    /// Every region, in the order of the configuration.
    pub regions: Vec<RegionPosition>,
}

/// How far one region has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionPosition {
    /// The region.
    pub region: RegionName,
    /// It has every byte up to here; `None` while it is not known, or if it has none.
    pub durable: Option<WalPosition>,
    /// How it is doing.
    pub state: UploadState,
    /// An object under a name of WAL that is not ours, if one was met since the start.
    pub unverified: Option<String>,
    /// Another installation that asks for the lease of the region, which is ours.
    pub contested: Option<String>,
}

/// How the way into one region is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UploadState {
    /// It could not be asked yet what it has.
    Unknown {
        /// Why not, once it was tried.
        why: Option<String>,
    },
    /// It gets objects as they are made.
    Current,
    /// It gets objects, but has older ones to catch up with.
    Behind {
        /// Sealed bytes that it lacks.
        bytes: ByteCount,
    },
    /// It takes nothing just now; it is tried again every half minute at the latest.
    Away {
        /// Since when.
        since: UtcTime,
        /// What it said.
        why: String,
    },
    /// Another daemon holds the lease there; this one waits and writes nothing.
    Leased {
        /// What is known about the other one.
        holder: String,
    },
    /// Another writer has put something else where this daemon's WAL belongs. Nothing more is written there until a
    /// person has looked at it and the daemon was started again.
    Conflict {
        /// Which object, and what is wrong with it.
        what: String,
    },
}

/// Where a stream has to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumePoint {
    /// Every region that could be asked has everything before this, or the spool keeps it for it. Begin at the start of its
    /// segment at the latest.
    pub position: WalPosition,
    /// At or before `position`: behind it some region has only slices where it should have whole pieces. Begin at the start
    /// of its segment if the server still has that; if not, nothing is missing, only kept in smaller parts.
    pub pieces: WalPosition,
    /// The highest position that the quorum holds: a server whose WAL ends before it has lost WAL that we keep. `None`
    /// if too few regions could be asked.
    pub quorum: Option<WalPosition>,
    /// The highest position that any region or the spool holds.
    pub highest: WalPosition,
    /// Regions that could not be asked yet, or have no WAL at all. They may lack more than `position` says: while there are any, begin at the
    /// slot's `restart_lsn` if that is earlier.
    pub unknown: Vec<RegionName>,
}

/// What became of offered bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Offer {
    /// They were taken.
    Taken,
    /// Spool or memory are full, nothing was taken: close the connection, so that the slot keeps the WAL, and come back
    /// later.
    Full,
}

/// Why bytes were refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShipError {
    /// Bytes before the first `begin`.
    #[error("WAL was offered before its timeline and segment were named")]
    NotBegun,
    /// `begin` at a position that is not the start of a segment.
    #[error("{at} is not the start of a segment")]
    NotAligned {
        /// What was asked for.
        at: WalPosition,
    },
    /// `begin` on a timeline that was left before: servers never go back to one.
    #[error("WAL of timeline {current} was received, and {at} is on an earlier one")]
    EarlierTimeline {
        /// The timeline that is being received.
        current: TimelineId,
        /// What was asked for.
        at: WalPosition,
    },
    /// `begin` with another segment size than before.
    #[error("the segment size changed from {before} to {now} bytes")]
    SegmentSize {
        /// In bytes.
        before: u64,
        /// In bytes.
        now: u64,
    },
    /// `begin` so far back that what was received there can no longer be compared.
    #[error("WAL was begun again at {at}; what was received can be compared from {oldest} on")]
    TooFarBack {
        /// What was asked for.
        at: WalPosition,
        /// What would be possible.
        oldest: Lsn,
    },
    /// Bytes are missing between the last one and these.
    #[error("WAL up to {expected} was received, and the next bytes are those at {found}")]
    Hole {
        /// Where the next byte belongs.
        expected: Lsn,
        /// Where these begin.
        found: WalPosition,
    },
    /// The same positions came again with other bytes. The server's WAL was changed under the same name: it was reset,
    /// or this is another server.
    #[error("the server sends other bytes than before for the WAL between {from} and {to} of timeline {timeline}")]
    Changed {
        /// The timeline.
        timeline: TimelineId,
        /// The difference lies at or after this.
        from: Lsn,
        /// And before this.
        to: Lsn,
    },
}

/// The highest position that is stored, or the first of `seen` on the latest timeline if that is a later one: the server has gone
/// on there, and whoever is on an earlier one is a former primary.
pub(crate) fn on_latest_timeline(highest: WalPosition, seen: impl IntoIterator<Item = WalPosition>) -> WalPosition {
    let later = seen.into_iter().filter(|at| at.timeline > highest.timeline);
    later.max_by_key(|at| (at.timeline, std::cmp::Reverse(at.lsn))).unwrap_or(highest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_vocabulary::{Lsn, TimelineId};

    #[test]
    fn wal_of_a_later_timeline_says_where_the_server_has_gone_on() {
        let at = |number, bytes| WalPosition {
            timeline: TimelineId::new(number).unwrap(),
            lsn: Lsn::from_bytes(bytes).unwrap(),
        };
        for (why, seen, expected) in [
            ("nothing more", vec![], at(2, 110)),
            ("behind a hole", vec![at(2, 200)], at(2, 110)),
            ("of an earlier one", vec![at(1, 200)], at(2, 110)),
            ("of later ones", vec![at(3, 120), at(4, 200), at(4, 130)], at(4, 130)),
        ] {
            assert_eq!(on_latest_timeline(at(2, 110), seen), expected, "{why}");
        }
    }
}
