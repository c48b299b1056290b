//! A region that was away, is new, or is damaged gets from healthy regions what it lacks: sealed objects as they are, each
//! proved on the way, and the records once everything that they speak of is there.
//!
//! CRASH SAFETY. Every step is one create-only (or conditional) write, and what a step relies on is there before it: slots,
//! then the record of an epoch, then WAL under it; objects, list and slots of a backup, then its record. A crash at any
//! point leaves at most objects that no record names; the next run lists what is there, and goes on behind it.

use std::collections::BTreeSet;
use std::time::Duration;

use lifeboat_stores::StoreError;
use lifeboat_vocabulary::{BackupId, ByteCount, Clock, RegionName};
use tokio_util::sync::CancellationToken;

use crate::heal::copy::Copier;
use crate::heal::plan::{Lack, RecordPlan, plan_records};
use crate::heal::progress::HealProgress;
use crate::heal::run::Run;
use crate::heal::scope::HealScope;
use crate::heal::wal::{Until, WalBounds, WalLack, lacking_wal};
use crate::heal::writer_guard::WriterGuard;
use crate::log::error::LogError;
use crate::log::note::NoteSigner;
use crate::log::region_log::{LogTrust, RegionLog};
use crate::log::region_store::RegionStore;
use crate::scrub::damage::FoundDamage;
use crate::scrub::pace::Pace;
use crate::wal::name::WalObject;
use crate::wal::object::WalTrust;

/// WAL that was written later than this is on its way to all regions by itself.
pub const SETTLED_AFTER: Duration = Duration::from_secs(120);
/// What could not be healed is named up to this many times; the rest is counted.
const LEFT_NAMED: usize = 100;

/// A region with its log, read and checked.
#[derive(Clone, Debug)]
pub struct HealRegion {
    /// The region.
    pub store: RegionStore,
    /// Its log.
    pub log: RegionLog,
}

/// What healing works with.
#[derive(Clone, Copy)]
pub struct HealTools<'a> {
    /// Signs the records that are written into the region's log.
    pub signer: &'a NoteSigner,
    /// What logs and WAL are measured against.
    pub trust: &'a LogTrust,
    /// The bound for bytes that are copied.
    pub pace: &'a Pace,
    /// Where it tells how far it is.
    pub progress: &'a HealProgress,
    /// Ends it between two objects, or within one.
    pub stop: &'a CancellationToken,
    /// The machine's clock.
    pub clock: &'a dyn Clock,
    /// How records name the program.
    pub tool: &'a str,
    /// How old WAL must be, see [`SETTLED_AFTER`].
    pub settled: Duration,
}

/// What one region lacks.
#[derive(Debug, Default)]
pub struct HealSurvey {
    /// What the logs say.
    pub records: RecordPlan,
    /// Objects of WAL.
    pub wal_objects: u64,
    /// Their bytes.
    pub wal_bytes: ByteCount,
    /// Why the WAL could not be compared, if it could not.
    pub wal_unseen: Option<String>,
}

impl HealSurvey {
    /// Whether the region has everything that it should have.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let records = &self.records;
        records.backups.is_empty()
            && records.common.is_empty()
            && records.wal_damage.is_empty()
            && records.disputed.is_empty()
            && self.wal_objects == 0
    }

    /// Bytes that would be copied, as far as is known without looking into the region.
    #[must_use]
    pub fn bytes(&self) -> ByteCount {
        let whole = self.records.backups.iter().filter(|task| task.lack == Lack::Record);
        whole.map(|task| task.record.packs.bytes).sum::<ByteCount>().plus(self.wal_bytes)
    }
}

/// Something that stays as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftUnhealed {
    /// A backup, an object, a record.
    pub what: String,
    /// Why.
    pub why: String,
}

/// What was done for one region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealReport {
    /// Backups that are whole now.
    pub backups: Vec<BackupId>,
    /// Objects of WAL, and histories, that were copied.
    pub wal_objects: u64,
    /// All objects that were copied.
    pub objects: u64,
    /// Their bytes.
    pub bytes: ByteCount,
    /// Records of other logs that the region missed.
    pub records: u64,
    /// What stays (the first hundred).
    pub left: Vec<LeftUnhealed>,
    /// How much stays.
    pub left_count: u64,
    /// Damage in the regions that were read from.
    pub damage: Vec<FoundDamage>,
    /// Why it ended early, if it did.
    pub ended: Option<HealEnd>,
    /// The region that gave most.
    pub from: Option<RegionName>,
}

/// Why healing ended before everything was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealEnd {
    /// It was told to stop.
    Stopped,
    /// The region does not take more.
    Region(String),
}

impl HealReport {
    /// Whether nothing is left.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.left_count == 0 && self.ended.is_none()
    }

    pub(crate) fn leave(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.left_count += 1;
        if self.left.len() < LEFT_NAMED {
            self.left.push(LeftUnhealed { what: what.into(), why: why.into() });
        }
    }
}

/// Why a region could not be healed at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HealError {
    /// Its log cannot be read or written.
    #[error("use the log of {region}")]
    Log {
        /// The region.
        region: RegionName,
        /// What is wrong.
        source: LogError,
    },
    /// Its WAL cannot be listed.
    #[error("list the WAL of {region}")]
    List {
        /// The region.
        region: RegionName,
        /// What the store said.
        source: StoreError,
    },
}

/// Finds out what `target` lacks, and changes nothing.
///
/// # Errors
/// [`HealError::List`] if the region does not answer.
pub async fn survey(
    target: &HealRegion,
    sources: &[HealRegion],
    scope: &HealScope,
    tools: &HealTools<'_>,
) -> Result<HealSurvey, HealError> {
    let logs: Vec<&RegionLog> = sources.iter().map(|source| &source.log).collect();
    let records = plan_records(&target.log, &logs, scope, tools.clock.now());
    let mut survey = HealSurvey { records, ..HealSurvey::default() };
    match guard(&target.store, tools).until().await {
        Ok(until) => {
            let lack = compare(target, sources, (scope, until, tools), &BTreeSet::new()).await?;
            survey.wal_objects = lack.count();
            survey.wal_bytes = lack.bytes();
        }
        Err(why) => survey.wal_unseen = Some(why),
    }
    Ok(survey)
}

fn guard<'a>(target: &'a RegionStore, tools: &HealTools<'a>) -> WriterGuard<'a> {
    let trust = LogTrust { region: Some(target.name.clone()), remembered: None, ..tools.trust.clone() };
    WriterGuard::new(target, trust, tools.signer.name(), tools.clock)
}

pub(crate) async fn compare(
    target: &HealRegion,
    sources: &[HealRegion],
    (scope, until, tools): (&HealScope, Until, &HealTools<'_>),
    refused: &BTreeSet<WalObject>,
) -> Result<WalLack, HealError> {
    let floors = target.log.standing(tools.clock.now()).wal_floors;
    let bounds = WalBounds { from: scope.wal_from, floors, until, settled: tools.settled };
    let sources: Vec<RegionStore> = sources.iter().map(|source| source.store.clone()).collect();
    let lack = lacking_wal(&target.store, &sources, &bounds, refused).await;
    lack.map_err(|source| HealError::List { region: target.store.name.clone(), source })
}

/// Brings `target` what it lacks, in the order that `heal_plan` gives reasons for. Works beside backups, WAL and sweeps.
///
/// What cannot be healed is in the report, and does not keep the rest from being healed.
///
/// # Errors
/// [`HealError`] if nothing could be begun. What was done before stays, and is found by the next run.
pub async fn heal(
    target: &mut HealRegion,
    sources: &[HealRegion],
    scope: &HealScope,
    tools: &HealTools<'_>,
) -> Result<HealReport, HealError> {
    let region = target.store.name.clone();
    let refreshed = target.log.refresh(&*target.store.store).await;
    refreshed.map_err(|source| HealError::Log { region, source })?;
    let logs: Vec<&RegionLog> = sources.iter().map(|source| &source.log).collect();
    let plan = plan_records(&target.log, &logs, scope, tools.clock.now());
    let store = target.store.clone();
    let stores: Vec<RegionStore> = sources.iter().map(|source| source.store.clone()).collect();
    let trust = WalTrust::of(tools.trust);
    let copier = Copier::new(&store, stores, &trust, (tools.pace, tools.progress, tools.stop));
    let writer = guard(&store, tools);
    Run::new((target, sources), (scope, plan), tools, (&copier, &writer)).run().await
}

#[cfg(test)]
mod tests;
