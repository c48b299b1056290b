//! What records say about the stream of WAL: its keys, its gaps, and which copy of the cluster may write it.

use std::fmt;
use std::str::FromStr;

use lifeboat_vocabulary::{Lsn, SegmentSize, Sha256Digest, TimelineId};
use serde::{Deserialize, Serialize};

use crate::format::ids::{EpochId, Incarnation};
use crate::format::json_text::{as_optional_text, as_text, timeline};

/// A new key for WAL. Stands in a region's log before the first object that is sealed under it lies there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalEpochRecord {
    /// The epoch.
    #[serde(with = "as_text")]
    pub epoch: EpochId,
    /// SHA-256 of its first set of slots, `keys/<epoch>/0.json`.
    #[serde(with = "as_text")]
    pub keys_sha256: Sha256Digest,
    /// The timeline that was received when the epoch began.
    #[serde(rename = "tli", with = "timeline")]
    pub timeline: TimelineId,
    /// Where the first object of the epoch began.
    #[serde(rename = "start_lsn", with = "as_text")]
    pub start: Lsn,
    /// Size of the cluster's WAL segments in **bytes**.
    pub wal_segment_bytes: u32,
    /// The incarnation of the server; absent for an original.
    #[serde(with = "as_optional_text", default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Incarnation>,
}

/// WAL that was never received and cannot be any more: no restore crosses it, and a new base backup is due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalGapRecord {
    /// The timeline.
    #[serde(rename = "tli", with = "timeline")]
    pub timeline: TimelineId,
    /// The first byte that is missing.
    #[serde(with = "as_text")]
    pub from: Lsn,
    /// Where WAL goes on; absent if that is not known.
    #[serde(with = "as_optional_text", default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Lsn>,
    /// Why it is missing.
    #[serde(with = "as_text")]
    pub reason: GapReason,
    /// Where it is missing.
    pub scope: GapScope,
}

/// Why WAL is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// The server gave up the replication slot, because it held back too much WAL.
    SlotLost,
    /// The server removed the segment before it was received.
    SegmentRemoved,
    /// A new slot begins later than what is stored ends.
    FreshSlot,
    /// The server's WAL ends before what is stored: it went back to an older state.
    ServerWentBack,
    /// This region missed what other regions have.
    RegionMissed,
    /// It is there, and recovery cannot cross it: `wal_level` was `minimal`, and what was loaded then is not in it.
    MinimalWal,
    /// A reason that another version wrote.
    Other,
}

/// Where WAL is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GapScope {
    /// In the region in whose log the record stands; other regions may have it.
    Region,
    /// In all regions.
    Everywhere,
}

/// From here on only this copy of the cluster may write WAL: an operator has said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncarnationRecord {
    /// The copy; absent for the original.
    #[serde(with = "as_optional_text", default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Incarnation>,
}

impl WalEpochRecord {
    /// What contradicts itself, if anything does.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match SegmentSize::from_bytes(u64::from(self.wal_segment_bytes)) {
            Ok(_) => Ok(()),
            Err(_) => Err("its WAL segments have a size that does not exist"),
        }
    }
}

impl WalGapRecord {
    /// What contradicts itself, if anything does.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.to.is_some_and(|to| to <= self.from) { Err("its gap ends before it begins") } else { Ok(()) }
    }
}

impl fmt::Display for WalGapRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { timeline, from, to, reason, .. } = self;
        write!(f, "WAL is missing from {from} ")?;
        match to {
            Some(to) => write!(f, "to {to} ")?,
            None => f.write_str("onwards ")?,
        }
        write!(f, "on timeline {timeline}: {}", reason.sentence())
    }
}

impl GapReason {
    /// All reasons.
    pub const ALL: [Self; 7] = [
        Self::SlotLost,
        Self::SegmentRemoved,
        Self::FreshSlot,
        Self::ServerWentBack,
        Self::RegionMissed,
        Self::MinimalWal,
        Self::Other,
    ];

    /// Whether the gap is none where its WAL is stored after all: it was only never received by the one who said so. For the
    /// other reasons, what stands on both sides does not belong together, whatever is stored in between.
    #[must_use]
    pub fn is_overruled_by_wal(self) -> bool {
        match self {
            Self::SlotLost | Self::SegmentRemoved | Self::FreshSlot | Self::RegionMissed => true,
            Self::ServerWentBack | Self::MinimalWal | Self::Other => false,
        }
    }

    /// The reason for a person.
    #[must_use]
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::SlotLost => "the server gave up the replication slot",
            Self::SegmentRemoved => "the server removed the segment before it was received",
            Self::FreshSlot => "a new replication slot begins later than what is stored ends",
            Self::ServerWentBack => "the server was set back, and what it lost was given up",
            Self::RegionMissed => "the region missed what others have",
            Self::MinimalWal => "wal_level was minimal, and recovery cannot cross what was written then",
            Self::Other => "a reason that this program does not know",
        }
    }
}

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::SlotLost => "slot_lost",
            Self::SegmentRemoved => "segment_removed",
            Self::FreshSlot => "fresh_slot",
            Self::ServerWentBack => "server_went_back",
            Self::RegionMissed => "region_missed",
            Self::MinimalWal => "minimal_wal",
            Self::Other => "other",
        })
    }
}

impl FromStr for GapReason {
    type Err = std::convert::Infallible;

    /// A word that is not known is [`Self::Other`]: a gap stays a gap, whatever made it.
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Ok(Self::ALL.into_iter().find(|reason| reason.to_string() == word).unwrap_or(Self::Other))
    }
}
