//! One round of retention, whoever carries it out: the same steps in every region, each region by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_repository::catalog::Finding;
use lifeboat_repository::log::{self, RegionLog};
use lifeboat_repository::retention::RetentionPolicy;
use lifeboat_repository::retention::sweep::{
    self, DeleteGate, DeleteMode, Elsewhere, Evidence, Force, ForgetReport, Others, RetainReport, SweepAuthor,
    SweepError, SweepRegion, SweepReport, SweepSettings,
};
use lifeboat_stores::ObjectLock;
use lifeboat_vocabulary::{BackupId, ClusterName, RegionName, UtcTime, error_chain};

use crate::deletion::freeze::Freezer;
use crate::deletion::standstill::Action;
use crate::model::capabilities::Writers;
use crate::regions::open::{OpenRegion, OpenRegions};

/// What became of one region.
#[derive(Debug)]
pub enum RegionOutcome {
    /// Retention was carried out.
    Done(Box<RegionDone>),
    /// It was not.
    Failed(SweepError),
    /// Its log, or how many may write there, could not be read.
    Unreadable(String),
}

/// See [`RegionOutcome::Done`].
#[derive(Debug)]
pub struct RegionDone {
    /// What was forgotten.
    pub forgot: ForgetReport,
    /// What was deleted.
    pub swept: SweepReport,
    /// What was locked, where the region can.
    pub retained: RetainReport,
    /// Since when the oldest sweep waits for locks to end.
    pub locked_since: Option<UtcTime>,
}

/// Deletion stops in the middle when it is frozen or paused.
pub(crate) struct FreezeGate {
    pub(crate) freezer: Arc<Freezer>,
    pub(crate) cluster: ClusterName,
}

impl DeleteGate for FreezeGate {
    fn check(&self) -> Result<(), String> {
        self.freezer.check(&self.cluster, Action::Delete).map_err(|stopped| stopped.to_string())
    }
}

/// How retention is carried out once.
pub(crate) struct RetentionRound<'a> {
    pub(crate) regions: &'a OpenRegions,
    pub(crate) author: &'a SweepAuthor,
    pub(crate) policy: RetentionPolicy,
    /// How long what was forgotten can still be restored.
    pub(crate) grace: Duration,
    pub(crate) force: Force,
    /// When records of backups arrived in each region, by its store's clock.
    pub(crate) arrivals: BTreeMap<RegionName, BTreeMap<BackupId, UtcTime>>,
    pub(crate) now: UtcTime,
}

/// When records of backups arrived in each region, by its store's clock. A region that cannot be asked now says nothing.
pub(crate) async fn arrivals(
    regions: &OpenRegions,
    logs: &BTreeMap<RegionName, RegionLog>,
    now: UtcTime,
) -> BTreeMap<RegionName, BTreeMap<BackupId, UtcTime>> {
    let mut all = BTreeMap::new();
    for region in regions {
        let Some(log) = logs.get(&region.name) else { continue };
        match sweep::arrivals(&*region.store, log, now).await {
            Ok(arrived) => drop(all.insert(region.name.clone(), arrived)),
            Err(error) => {
                let (region, error) = (&region.name, error_chain(&error));
                tracing::warn!(%region, error, "when records arrived there is not known");
            }
        }
    }
    all
}

/// When each backup arrived in the first of some regions.
pub(crate) fn first_arrivals<'a>(
    regions: impl Iterator<Item = &'a BTreeMap<BackupId, UtcTime>>,
) -> BTreeMap<BackupId, UtcTime> {
    let mut others = Others::default();
    regions.for_each(|arrived| others.add_arrivals(arrived));
    others.arrived
}

impl RetentionRound<'_> {
    /// Carries it out in every region whose log could be read, and where it is known how many may write.
    ///
    /// CRASH SAFETY. Each region is worked on by itself, in the order that [`sweep`] describes: a crash, a stop or a failure
    /// anywhere leaves what the next round goes on with.
    ///
    /// `writers` is asked directly before each region; the outcomes are in the order of the configuration.
    pub(crate) async fn carry_out(
        &self,
        logs: &BTreeMap<RegionName, RegionLog>,
        writers: impl AsyncFn(&OpenRegion) -> Result<Writers, String>,
    ) -> Vec<(RegionName, RegionOutcome)> {
        // What the others have counts only if all of them could be asked.
        let is_complete = logs.len() == self.regions.len();
        let holds = log::holds_in_force(logs.values(), self.now);
        let mut outcomes = Vec::new();
        for region in self.regions {
            let name = &region.name;
            let Some(log) = logs.get(name) else { continue };
            let outcome = match writers(region).await {
                Err(why) => RegionOutcome::Unreadable(why),
                Ok(writers) => {
                    let others = logs.iter().filter(|(other, _)| *other != name).map(|(_, log)| log);
                    let mut others = Others::of(others, self.now);
                    let arrived = self.arrivals.iter().filter(|(other, _)| *other != name);
                    arrived.for_each(|(_, arrived)| others.add_arrivals(arrived));
                    let elsewhere = if is_complete { Elsewhere::Known(others) } else { Elsewhere::Unknown };
                    let settings = SweepSettings {
                        policy: self.policy.clone(),
                        grace: self.grace,
                        mode: mode_of(writers),
                        force: self.force,
                        elsewhere,
                        holds: holds.clone(),
                    };
                    let mut log = log.clone();
                    let done = self.one_region(region, &mut log, &settings).await;
                    done.map_or_else(RegionOutcome::Failed, |done| RegionOutcome::Done(Box::new(done)))
                }
            };
            outcomes.push((name.clone(), outcome));
        }
        outcomes
    }

    async fn one_region(
        &self,
        region: &OpenRegion,
        log: &mut RegionLog,
        settings: &SweepSettings,
    ) -> Result<RegionDone, SweepError> {
        let evidence = Evidence::default();
        let mut target = SweepRegion { store: &*region.store, log, author: self.author, evidence };
        let forgot = sweep::forget(&mut target, settings, self.now).await?;
        let swept = sweep::sweep_region(&mut target, settings, self.now).await?;
        let mut state = log.state(self.now);
        let waiting = state.open_intents.iter();
        let locked_since = waiting.filter_map(|open| Some(log.at(open.seq)?.record.origin.time)).min();
        state.adopt_holds(settings.holds.clone());
        let retained = match region.settings.object_lock {
            ObjectLock::Off => RetainReport::default(),
            _ => sweep::extend_locks(&*region.store, &state, &swept.plan, &settings.policy, self.now).await?,
        };
        Ok(RegionDone { forgot, swept, retained, locked_since })
    }
}

/// How writers are kept apart where so many may write.
fn mode_of(writers: Writers) -> DeleteMode {
    match writers {
        Writers::Many => DeleteMode::LogOrdered,
        Writers::One => DeleteMode::SingleWriter,
    }
}

/// Findings for which no region's log says what may be deleted in it: the regions do not belong together. What disagrees between
/// logs that do freezes deletion until a person has looked, see [`crate::care::agreement`].
pub(crate) fn disagreements(findings: &[Finding]) -> Vec<String> {
    let is_harmless = |finding: &&Finding| {
        matches!(
            finding,
            Finding::Unreadable { .. }
                | Finding::SameName { .. }
                | Finding::Stray { .. }
                | Finding::Disagreement { .. }
                | Finding::Twice { .. }
                // They count for nothing; that they are there freezes deletion until a person has looked.
                | Finding::Outside { .. }
                | Finding::Refused { .. }
                | Finding::MoreOutside { .. }
        )
    };
    findings.iter().filter(|finding| !is_harmless(finding)).map(ToString::to_string).collect()
}
