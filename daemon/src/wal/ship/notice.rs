//! What goes into a region's log on behalf of WAL: the keys that it is sealed under, and what is missing.
//!
//! A notice waits its turn among the sealed objects, and in the spool, so that a region hears of a key before it gets what
//! is sealed under it.

use bytes::Bytes;
use lifeboat_repository::format::aead::sha256;
use lifeboat_repository::format::ids::EpochId;
use lifeboat_repository::format::layout;
use lifeboat_repository::format::layout::WalRange;
use lifeboat_repository::log::records::{GapReason, GapScope, RecordBody, WalEpochRecord, WalGapRecord};
use lifeboat_stores::{ObjectKey, SealedBody};
use lifeboat_vocabulary::{RegionName, UtcTime};
use serde::{Deserialize, Serialize};

/// What there is to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Notice {
    /// A new key for WAL.
    Epoch {
        record: WalEpochRecord,
        /// The object with the wrapped key, which is JSON itself.
        slots: String,
        /// When, in microseconds since 1970.
        time: i64,
    },
    /// Missing WAL.
    Gap {
        record: WalGapRecord,
        /// When, in microseconds since 1970.
        time: i64,
        /// The regions in whose logs it is to stand; empty for all.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        regions: Vec<String>,
    },
}

impl Notice {
    /// What stands in the log.
    pub(crate) fn body(&self) -> RecordBody {
        match self {
            Self::Epoch { record, .. } => RecordBody::WalEpoch(record.clone()),
            Self::Gap { record, .. } => RecordBody::WalGap(record.clone()),
        }
    }

    /// The key that it is about, if it is about one.
    pub(crate) fn epoch(&self) -> Option<EpochId> {
        match self {
            Self::Epoch { record, .. } => Some(record.epoch),
            Self::Gap { .. } => None,
        }
    }

    /// When it was said first. A repetition says the same.
    pub(crate) fn time(&self) -> Option<UtcTime> {
        match self {
            Self::Epoch { time, .. } | Self::Gap { time, .. } => UtcTime::from_unix_micros(*time),
        }
    }

    /// The object that has to be in the region before the record, if there is one.
    pub(crate) fn object(&self) -> Option<(ObjectKey, SealedBody)> {
        match self {
            Self::Epoch { record, slots, .. } => {
                let bytes = Bytes::from(slots.clone().into_bytes());
                Some((layout::slots(record.epoch, 0), SealedBody { sha256: sha256(&bytes), bytes }))
            }
            Self::Gap { .. } => None,
        }
    }

    /// The WAL that will never come.
    pub(crate) fn missing(&self) -> Option<WalRange> {
        match self {
            Self::Epoch { .. } => None,
            Self::Gap { record, .. } => gap_range(record),
        }
    }

    /// Why WAL is missing.
    pub(crate) fn reason(&self) -> Option<GapReason> {
        match self {
            Self::Epoch { .. } => None,
            Self::Gap { record, .. } => Some(record.reason),
        }
    }

    /// Whether it says that WAL is missing in one region, and others may have it.
    pub(crate) fn is_of_one_region(&self) -> bool {
        matches!(self, Self::Gap { record, .. } if record.scope == GapScope::Region)
    }

    /// Which of these regions are to hear of it; `None` for all.
    pub(crate) fn wanted<'a>(&self, all: impl Iterator<Item = &'a RegionName>) -> Option<Vec<usize>> {
        let Self::Gap { regions, .. } = self else { return None };
        let is_wanted = |(_, name): &(usize, &RegionName)| regions.iter().any(|wanted| wanted == name.as_str());
        (!regions.is_empty()).then(|| all.enumerate().filter(is_wanted).map(|(region, _)| region).collect())
    }

    /// Its bytes in the spool.
    pub(crate) fn to_bytes(&self) -> serde_json::Result<Bytes> {
        serde_json::to_vec(self).map(Bytes::from)
    }

    pub(crate) fn parse(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }
}

/// What a recorded gap leaves out; `None` if it is not known where WAL goes on.
pub(crate) fn gap_range(record: &WalGapRecord) -> Option<WalRange> {
    record.to.map(|end| WalRange { timeline: record.timeline, start: record.from, end })
}
