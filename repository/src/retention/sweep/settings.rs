//! The settings of a sweep: what is kept, how writers are kept apart, and what other regions have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lifeboat_stores::{Store, Support};
use lifeboat_vocabulary::{BackupId, UtcTime};

use crate::format::ids::{EpochId, HoldId};
use crate::log::link::LogEntry;
use crate::log::records::care::HoldRecord;
use crate::log::records::record::RecordBody;
use crate::log::region_log::RegionLog;
use crate::log::region_state::RegionState;
use crate::retention::model::{RetentionPlan, RetentionPolicy};
use crate::retention::plan::{StoreFacts, plan_region};
use crate::retention::sweep::error::SweepError;

/// The shortest grace where a store cannot order writers: it is all that keeps them apart there.
pub(crate) const SINGLE_WRITER_GRACE: Duration = Duration::from_secs(72 * 3600);

/// What is deleted by, and when.
#[derive(Clone, Debug)]
pub struct SweepSettings {
    /// What is kept.
    pub policy: RetentionPolicy,
    /// How long a backup can be restored after it was forgotten; longer than the longest restore. Default 72 h.
    pub grace: Duration,
    /// How writers and this one are kept apart.
    pub mode: DeleteMode,
    /// Whether a person has said that an unusual plan is right.
    pub force: Force,
    /// What other regions have.
    pub elsewhere: Elsewhere,
    /// The holds that are in force by the logs of all regions together.
    pub holds: BTreeMap<HoldId, HoldRecord>,
}

/// How deletion is ordered against those who write into the same region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteMode {
    /// By the log: a record is created at exactly one place, or not at all. The store must be able to do that.
    LogOrdered,
    /// The store ignores conditions. The caller guarantees that no other process writes into the region: it is the one
    /// daemon of the cluster, and holds a lock on its host. A grace below `SINGLE_WRITER_GRACE` is refused.
    SingleWriter,
}

/// Whether a plan is carried out that the policy's limits call unusual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// It is refused.
    No,
    /// It is carried out: a person has looked at it.
    Yes,
}

/// What is known of other regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// All their logs were read. What they have is no leftover here: it will be healed.
    Known(Others),
    /// Some cannot be read now: what looks like a leftover stays.
    Unknown,
}

/// What the logs of other regions name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// Backups that exist there.
    pub backups: BTreeSet<BackupId>,
    /// Their keys, and those for WAL.
    pub epochs: BTreeSet<EpochId>,
    /// When records of backups arrived in the first of these regions, by its store's clock.
    pub arrived: BTreeMap<BackupId, UtcTime>,
}

impl Others {
    /// What these logs name together.
    #[must_use]
    pub fn of<'a>(logs: impl IntoIterator<Item = &'a RegionLog>, now: UtcTime) -> Self {
        let mut others = Self::default();
        for log in logs {
            let state = log.state(now);
            let of_backups = state.backups.values().flat_map(|backup| &backup.record.epochs);
            others.epochs.extend(of_backups.map(|epoch| epoch.id));
            others.epochs.extend(log.wal_epochs().map(|record| record.epoch));
            others.backups.extend(state.backups.into_keys());
        }
        others
    }

    /// Takes into account when records arrived in one of these regions.
    pub fn add_arrivals(&mut self, arrived: &BTreeMap<BackupId, UtcTime>) {
        for (backup, time) in arrived {
            let first = self.arrived.entry(backup.clone()).or_insert(*time);
            *first = (*first).min(*time);
        }
    }
}

impl SweepSettings {
    pub(crate) fn check(&self, store: &dyn Store) -> Result<(), SweepError> {
        match (self.mode, store.capabilities().conditional_put) {
            (DeleteMode::LogOrdered, Support::No) => Err(SweepError::NotExact),
            (DeleteMode::SingleWriter, _) if self.grace < SINGLE_WRITER_GRACE => {
                Err(SweepError::GraceTooShort { grace: self.grace, least: SINGLE_WRITER_GRACE })
            }
            _ => Ok(()),
        }
    }

    /// What stands in the region, with the holds of all regions. A log that says something unknown may name what a newer
    /// version needs, so nothing is deleted by it.
    pub(crate) fn state(&self, log: &RegionLog, now: UtcTime) -> Result<RegionState, SweepError> {
        let unknown = |entry: &Arc<LogEntry>| match &entry.record.body {
            RecordBody::Unknown { kind } => Some((entry.record.link.seq, kind.clone())),
            _ => None,
        };
        if let Some((seq, kind)) = log.entries().iter().find_map(unknown) {
            return Err(SweepError::UnknownRecord { seq, kind });
        }
        let mut state = log.state(now);
        state.adopt_holds(self.holds.clone());
        Ok(state)
    }

    pub(crate) fn plan(
        &self,
        state: &RegionState,
        facts: &StoreFacts,
        now: UtcTime,
    ) -> Result<RetentionPlan, SweepError> {
        let plan = plan_region(state, facts, &self.policy, now);
        match self.force {
            Force::No if !plan.unusual.is_empty() => Err(SweepError::Unusual { guards: plan.unusual }),
            _ => Ok(plan),
        }
    }
}
