//! What the logs of all regions say about the stream of WAL, taken together.

use std::collections::BTreeMap;

use lifeboat_vocabulary::{RegionName, Sha256Digest};

use crate::format::ids::{EpochId, Incarnation};
use crate::format::key_name::KeyName;
use crate::log::records::record::{Record, RecordBody};
use crate::log::records::wal::{GapReason, GapScope, WalEpochRecord, WalGapRecord};
use crate::log::region_log::RegionLog;
use crate::log::signers::KeyStanding;

/// A gap, as a log tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GapAsTold<'a> {
    /// The record.
    pub gap: &'a WalGapRecord,
    /// Whether the key of whoever says so was revoked.
    pub standing: KeyStanding,
}

impl RegionLog {
    /// The copy of the cluster that may write WAL into this region: what the last `incarnation` record says. `None` is the
    /// original.
    #[must_use]
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.incarnation_records().last().and_then(|(incarnation, _)| incarnation)
    }

    fn incarnation_records(&self) -> impl Iterator<Item = (Option<Incarnation>, &Record)> {
        self.entries().iter().filter_map(|entry| match &entry.record.body {
            RecordBody::Incarnation(body) => Some((body.incarnation, &entry.record)),
            _ => None,
        })
    }

    /// All gaps that this log records, in its order.
    pub fn wal_gaps(&self) -> impl Iterator<Item = &WalGapRecord> {
        self.gaps_as_told().map(|told| told.gap)
    }

    /// The gaps of this log, and whether the keys of those who tell of them were revoked.
    pub fn gaps_as_told(&self) -> impl Iterator<Item = GapAsTold<'_>> {
        let signers = &self.trust().signers;
        self.entries().iter().filter_map(move |entry| match &entry.record.body {
            RecordBody::WalGap(gap) => Some(GapAsTold { gap, standing: signers.standing(&entry.signer) }),
            _ => None,
        })
    }

    /// All keys for WAL that this log records, in its order.
    pub fn wal_epochs(&self) -> impl Iterator<Item = &WalEpochRecord> {
        self.entries().iter().filter_map(|entry| match &entry.record.body {
            RecordBody::WalEpoch(epoch) => Some(epoch),
            _ => None,
        })
    }

    /// The SHA-256 of an epoch's slots, if this log records the epoch.
    #[must_use]
    pub(crate) fn wal_epoch_keys(&self, epoch: EpochId) -> Option<Sha256Digest> {
        self.wal_epochs().find(|record| record.epoch == epoch).map(|record| record.keys_sha256)
    }
}

/// A gap, and the regions whose logs record it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownGap {
    /// The gap.
    pub gap: WalGapRecord,
    /// The regions.
    pub regions: Vec<RegionName>,
    /// Whether all keys that have signed it were revoked.
    pub standing: KeyStanding,
}

/// Which copy of the cluster may write WAL, by all logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CurrentIncarnation {
    /// This one; `None` is the original.
    One(Option<Incarnation>),
    /// Two copies were adopted, each in regions that do not know of the other: a person has to decide, by adopting one of
    /// them in all regions.
    Disputed(BTreeMap<RegionName, Option<Incarnation>>),
}

/// What all logs that could be read say about WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalRecords {
    /// All gaps: those of single regions and those of all, each once.
    pub gaps: Vec<KnownGap>,
    /// All keys, by epoch: each once for every different SHA-256, which is once.
    pub epochs: BTreeMap<EpochId, Vec<WalEpochRecord>>,
    /// Which copy may write.
    pub incarnation: CurrentIncarnation,
}

impl Default for WalRecords {
    fn default() -> Self {
        Self { gaps: Vec::new(), epochs: BTreeMap::new(), incarnation: CurrentIncarnation::One(None) }
    }
}

impl WalRecords {
    /// Lays the logs side by side.
    #[must_use]
    pub fn of<'a>(logs: impl IntoIterator<Item = (&'a RegionName, &'a RegionLog)>) -> Self {
        let logs: Vec<_> = logs.into_iter().collect();
        let mut records = Self { incarnation: current_incarnation(&logs), ..Self::default() };
        for (region, log) in logs {
            for GapAsTold { gap, standing } in log.gaps_as_told() {
                // The same stretch may be missing in two regions for reasons of their own.
                let Some(known) = records.gaps.iter_mut().find(|known| known.gap == *gap) else {
                    records.gaps.push(KnownGap { gap: gap.clone(), regions: vec![region.clone()], standing });
                    continue;
                };
                known.standing = known.standing.min(standing);
                if !known.regions.contains(region) {
                    known.regions.push(region.clone());
                }
            }
            for epoch in log.wal_epochs() {
                let known = records.epochs.entry(epoch.epoch).or_default();
                if !known.iter().any(|known| known.keys_sha256 == epoch.keys_sha256) {
                    known.push(epoch.clone());
                }
            }
        }
        records
    }

    /// The gaps that no region is known to fill: also those that only some regions have on record, because the others could
    /// not be asked then. What a single region missed is none of them, and what only revoked keys have signed.
    pub fn gaps_of_all(&self) -> impl Iterator<Item = &WalGapRecord> {
        let told = self.gaps.iter().filter(|known| known.standing == KeyStanding::InForce);
        let gaps = told.map(|known| &known.gap);
        gaps.filter(|gap| gap.scope == GapScope::Everywhere || gap.reason != GapReason::RegionMissed)
    }
}

/// Which event a record is about: the same in all logs.
type Event<'a> = (&'a KeyName, u64);
/// What one log says, in its order.
type History<'a> = Vec<(Option<Incarnation>, Event<'a>)>;

/// The last word of every log counts, unless another log knows that something came after it.
fn current_incarnation<'a>(logs: &[(&'a RegionName, &'a RegionLog)]) -> CurrentIncarnation {
    let history = |log: &'a RegionLog| -> History<'a> {
        let event = |record: &'a Record| (&record.origin.writer, record.origin.wseq);
        log.incarnation_records().map(|(incarnation, record)| (incarnation, event(record))).collect()
    };
    let histories: Vec<_> = logs.iter().map(|(region, log)| (*region, history(log))).collect();
    let is_superseded = |event: &Event<'_>| {
        histories.iter().any(|(_, history)| {
            history.iter().position(|(_, found)| found == event).is_some_and(|place| place + 1 < history.len())
        })
    };
    let mut state: BTreeMap<RegionName, Option<Incarnation>> = BTreeMap::new();
    for (region, history) in &histories {
        if let Some((incarnation, event)) = history.last()
            && !is_superseded(event)
        {
            state.insert(RegionName::clone(region), *incarnation);
        }
    }
    let mut values = state.values();
    match values.next().copied() {
        None => CurrentIncarnation::One(None),
        Some(first) if values.all(|other| *other == first) => CurrentIncarnation::One(first),
        Some(_) => CurrentIncarnation::Disputed(state),
    }
}

#[cfg(test)]
mod tests;
