//! Carries out the retention of one cluster, region by region: after each good backup, and once a day in any case.
//!
//! The logs stay in memory and only what is new is read, so that a day costs the same after years.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_repository::catalog::{Catalog, Finding, RegionAnswer, RegionView};
use lifeboat_repository::log::{self, LogMemory, NoteSigner, RegionLog};
use lifeboat_repository::retention::sweep::{
    self, DeleteGate, DeleteMode, Elsewhere, Force, ForgetReport, Others, RetainReport, SweepAuthor, SweepError,
    SweepRegion, SweepReport, SweepSettings,
};
use lifeboat_stores::ObjectLock;
use lifeboat_vocabulary::{ClusterName, RegionName, UtcTime, error_chain};
use tokio::sync::Notify;

use crate::base::alarms::board::{Alarm, Source, SourceKind, Wrongs};
use crate::base::supervisor::TaskContext;
use crate::care::tamper_watch;
use crate::deletion::audit::AuditEntry;
use crate::deletion::freeze::{Action, Freezer};
use crate::model::capabilities::Writers;
use crate::regions::context::ClusterContext;
use crate::regions::open::OpenRegion;
use crate::retention::preconditions::{Deleter, Doubt};
use crate::settings::retention_policy::policy;
use crate::settings::wiring;
use crate::settings::wiring::state_directory;

/// How often it runs without a good backup.
const DAILY: Duration = Duration::from_secs(24 * 3600);
/// How soon after something went wrong.
const AGAIN: Duration = Duration::from_secs(15 * 60);
/// A region whose retention could not be carried out for so long, for reasons that may pass by themselves.
const PATIENCE: Duration = Duration::from_secs(2 * 24 * 3600);
/// Objects that were to go and are still locked after so long: their locks last longer than their class.
const LOCKED_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// What retention works with.
#[derive(Clone)]
pub struct ExpireParts {
    /// The cluster.
    pub context: ClusterContext,
    /// Rung at each good backup.
    pub news: Arc<Notify>,
}

/// What became of one region.
#[derive(Debug)]
pub enum Expired {
    /// Retention was carried out.
    Done(Box<Done>),
    /// It was not.
    Not(SweepError),
    /// Its log could not be read.
    Away(String),
}

/// See [`Expired::Done`].
#[derive(Debug)]
pub struct Done {
    /// What was forgotten.
    pub forgot: ForgetReport,
    /// What was deleted.
    pub swept: SweepReport,
    /// What was locked, where the region can.
    pub retained: RetainReport,
    /// Since when the oldest sweep waits for locks to end.
    pub locked_since: Option<UtcTime>,
}

/// What became of all regions, or why none was touched.
#[derive(Debug)]
pub enum Round {
    /// Region by region.
    Regions(BTreeMap<RegionName, Expired>),
    /// Somebody or something has stopped deletion.
    Stopped(String),
    /// The regions tell different stories: nobody knows which copy is the good one.
    Disagree(Vec<String>),
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

/// Carries out retention until it is told to stop. Being cut short is harmless: the next run goes on.
///
/// # Errors
/// If the signing key cannot be read.
pub async fn run(context: TaskContext, parts: ExpireParts) -> anyhow::Result<()> {
    let news = Arc::clone(&parts.news);
    let mut expiry = Expiry::new(parts);
    while !context.stop.is_cancelled() {
        // Regions have deadlines of their own, and deleting a large backup takes its time.
        context.progress.waiting("the regions, to carry out retention");
        // From here on: a backup that ends while this runs calls for the next run.
        let mut rung = std::pin::pin!(news.notified());
        rung.as_mut().enable();
        let round = tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            round = expiry.round() => round?,
        };
        let pause = if expiry.tell(&round).await { DAILY } else { AGAIN };
        context.progress.waiting("the next good backup, or the next day");
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
            () = rung => {}
        }
    }
    Ok(())
}

/// The retention of one cluster, with what it remembers from run to run.
pub struct Expiry {
    parts: ExpireParts,
    failing_since: BTreeMap<RegionName, UtcTime>,
    /// The logs as the last run saw them.
    memory: LogMemory,
}

impl Expiry {
    /// Nothing is remembered yet.
    #[must_use]
    pub fn new(parts: ExpireParts) -> Self {
        Self { parts, failing_since: BTreeMap::new(), memory: LogMemory::default() }
    }

    /// Carries out retention once, in every region.
    ///
    /// # Errors
    /// If the signing key or the cluster's settings cannot be read.
    pub async fn round(&mut self) -> anyhow::Result<Round> {
        let (cluster, freezer) = (self.parts.context.cluster.clone(), Arc::clone(&self.parts.context.freezer));
        let config = Arc::clone(&self.parts.context.config.borrow());
        let settings = wiring::cluster(&config, Some(&cluster))?;
        let signer = wiring::signer(&config, &cluster)?;
        if let Some(doubt) = self.doubt(&state_directory(&config, settings), &signer).await {
            return Ok(doubt);
        }
        let now = self.parts.context.clock.now();
        let views = self.read_logs(&signer).await;
        let disagreements = disagreements(Catalog::merge(&views).findings());
        if !disagreements.is_empty() {
            return Ok(Round::Disagree(disagreements));
        }
        let logs: BTreeMap<RegionName, RegionLog> = views.iter().filter_map(readable).collect();
        let holds = log::holds_in_force(logs.values(), now);
        let is_complete = logs.len() == self.parts.context.regions.len();
        // Whatever smells is found before anything is deleted, and not some minutes later.
        tamper_watch::look(&freezer, (&config, settings), (&logs, self.parts.context.regions.len()), now).await?;
        if freezer.may_have_forgotten(&cluster) {
            let why = "what was frozen and paused before is not known here; all regions have to be read first";
            return Ok(Round::Stopped(why.to_owned()));
        }
        if let Err(stopped) = freezer.check(&cluster, Action::Delete) {
            return Ok(Round::Stopped(stopped.to_string()));
        }
        let author = SweepAuthor::new(signer, wiring::TOOL.to_owned(), Arc::new(FreezeGate { freezer, cluster }));
        let mut outcomes = BTreeMap::new();
        for view in views {
            let (name, mut log) = match (view.name, view.answer) {
                (name, RegionAnswer::Read { log, .. }) => (name, log),
                (name, RegionAnswer::Unreadable { why }) => {
                    outcomes.insert(name, Expired::Away(why));
                    continue;
                }
            };
            let Some(region) = self.parts.context.regions.get(&name) else { continue };
            let writers = match region.judge_writers().await {
                Ok(writers) => writers,
                Err(why) => {
                    outcomes.insert(name, Expired::Away(why));
                    continue;
                }
            };
            let others = logs.iter().filter(|(other, _)| **other != name).map(|(_, log)| log);
            let sweep_settings = SweepSettings {
                policy: policy(settings, now),
                grace: settings.retention.grace,
                mode: mode_of(writers),
                force: Force::No,
                elsewhere: if is_complete { Elsewhere::Known(Others::of(others, now)) } else { Elsewhere::Unknown },
                holds: holds.clone(),
            };
            let expired = one_region((region, &author), &mut log, &sweep_settings, now).await;
            self.parts.context.regions.logs().keep(&name, &log);
            outcomes.insert(name, expired.map_or_else(Expired::Not, |done| Expired::Done(Box::new(done))));
        }
        Ok(Round::Regions(outcomes))
    }

    /// Why nothing may be deleted now.
    async fn doubt(&self, state: &Path, signer: &NoteSigner) -> Option<Round> {
        let ClusterContext { cluster, freezer, clock, regions, .. } = &self.parts.context;
        let deleter = Deleter { cluster, state, freezer, signer, clock: &**clock };
        Some(match deleter.doubt(regions, &self.memory).await? {
            Doubt::Stopped(why) => Round::Stopped(why),
            Doubt::Disagree(what) => Round::Disagree(what),
            Doubt::Away(why) => {
                let away = |region: &OpenRegion| (region.name.clone(), Expired::Away(why.clone()));
                Round::Regions(regions.iter().map(away).collect())
            }
        })
    }

    /// The regions' logs: what is new in them, once they were read.
    async fn read_logs(&self, signer: &NoteSigner) -> Vec<RegionView> {
        let mut views = Vec::new();
        for region in self.parts.context.regions.iter() {
            let (store, key) = (region.region_store(), signer.verify_key());
            let answer = match self.parts.context.regions.logs().read(&store, &key).await {
                Ok((descriptor, log)) => RegionAnswer::Read { descriptor: Box::new(descriptor), log },
                Err(error) => RegionAnswer::Unreadable { why: format!("{error:#}") },
            };
            views.push(RegionView { name: region.name.clone(), answer });
        }
        views
    }

    /// Raises and clears alarms, writes down what was deleted, and says whether everything went well.
    pub async fn tell(&mut self, round: &Round) -> bool {
        let now = self.parts.context.clock.now();
        let mut wrong = Wrongs::default();
        let mut all_well = true;
        match round {
            // What stopped it raises an alarm of its own.
            Round::Stopped(why) => tracing::info!(cluster = %self.parts.context.cluster, why, "nothing is deleted"),
            Round::Disagree(what) => {
                all_well = false;
                let text = format!("nothing is deleted while the regions disagree: {}", what.join("; "));
                wrong.add(Alarm::PruneRefused, text);
            }
            Round::Regions(regions) => {
                for (region, expired) in regions {
                    all_well &= matches!(expired, Expired::Done(_));
                    self.judge(region, expired, (&mut wrong, now));
                    self.write_down(region, expired, now).await;
                }
            }
        }
        self.parts.context.alarms.report(&Source::of(&self.parts.context.cluster, SourceKind::Prune), wrong);
        all_well
    }

    fn judge(&mut self, region: &RegionName, expired: &Expired, (wrong, now): (&mut Wrongs, UtcTime)) {
        let error = match expired {
            Expired::Done(done) => {
                self.failing_since.remove(region);
                if let Some(since) = done.locked_since.filter(|since| now.since(*since) > LOCKED_FOR) {
                    let text = format!("{} objects that were to go are locked since {since}", done.swept.locked);
                    wrong.add(Alarm::PruneLocked.of_region(region), text);
                }
                return;
            }
            Expired::Away(why) => {
                self.passing(region, why, (wrong, now));
                return;
            }
            Expired::Not(error) => error,
        };
        let text = error_chain(error);
        tracing::warn!(cluster = %self.parts.context.cluster, %region, error = text, "retention was not carried out");
        let alarm = match error {
            SweepError::Stopped { .. } => return,
            SweepError::Unusual { .. } => Alarm::PruneUnusual,
            SweepError::Forbidden { .. } => Alarm::PruneForbidden,
            error if error.may_pass() => {
                self.passing(region, &text, (wrong, now));
                return;
            }
            _ => Alarm::PruneRefused,
        };
        wrong.add(alarm.of_region(region), text);
    }

    /// A region that does not answer has an alarm of its own; that nothing is tidied there matters only after a while.
    fn passing(&mut self, region: &RegionName, why: &str, (wrong, now): (&mut Wrongs, UtcTime)) {
        let since = *self.failing_since.entry(region.clone()).or_insert(now);
        if now.since(since) > PATIENCE {
            let text = format!("nothing was deleted since {since}: {why}");
            wrong.add(Alarm::PruneRefused.of_region(region), text);
        }
    }

    /// The region's own log says what was deleted; this says it beside the daemon, too.
    async fn write_down(&self, region: &RegionName, expired: &Expired, now: UtcTime) {
        let Expired::Done(done) = expired else { return };
        let SweepReport { swept, leftovers, objects, bytes, .. } = &done.swept;
        let names =
            |ids: &[lifeboat_vocabulary::BackupId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let mut said = Vec::new();
        if !done.forgot.forgotten.is_empty() {
            let forgotten: Vec<_> = done.forgot.forgotten.iter().map(|(backup, _)| backup.clone()).collect();
            said.push(("forget", format!("{region}: {}", names(&forgotten))));
        }
        if !done.forgot.kept_again.is_empty() {
            said.push(("keep", format!("{region}: {}", names(&done.forgot.kept_again))));
        }
        if *objects > 0 {
            let backups: Vec<_> = swept.iter().chain(leftovers).cloned().collect();
            said.push(("delete", format!("{region}: {objects} objects ({bytes}) {}", names(&backups))));
        }
        for (action, subject) in said {
            tracing::info!(cluster = %self.parts.context.cluster, action, subject, "retention");
            let entry =
                AuditEntry::new(now, Some(&self.parts.context.cluster), (action, subject), ("retention", "lifeboatd"));
            let freezer = Arc::clone(&self.parts.context.freezer);
            // The disk may take its time.
            let written = tokio::task::spawn_blocking(move || freezer.audit().write_down(&entry)).await;
            if let Err(error) = written {
                tracing::error!(%error, "what was deleted was not written down");
            }
        }
    }
}

pub(crate) fn readable(view: &RegionView) -> Option<(RegionName, RegionLog)> {
    match &view.answer {
        RegionAnswer::Read { log, .. } => Some((view.name.clone(), log.clone())),
        RegionAnswer::Unreadable { .. } => None,
    }
}

/// While regions tell different stories of the same backup, nobody knows which copy is the good one.
pub(crate) fn disagreements(findings: &[Finding]) -> Vec<String> {
    let is_harmless = |finding: &&Finding| {
        matches!(finding, Finding::Unreadable { .. } | Finding::SameName { .. } | Finding::Stray { .. })
    };
    findings.iter().filter(|finding| !is_harmless(finding)).map(ToString::to_string).collect()
}

/// How writers are kept apart where so many may write.
pub(crate) fn mode_of(writers: Writers) -> DeleteMode {
    match writers {
        Writers::Many => DeleteMode::LogOrdered,
        Writers::One => DeleteMode::SingleWriter,
    }
}

pub(crate) async fn one_region(
    (region, author): (&OpenRegion, &SweepAuthor),
    log: &mut RegionLog,
    settings: &SweepSettings,
    now: UtcTime,
) -> Result<Done, SweepError> {
    let mut target = SweepRegion { store: &*region.store, log, author };
    let forgot = sweep::forget(&mut target, settings, now).await?;
    let swept = sweep::sweep_region(&mut target, settings, now).await?;
    let mut standing = log.state(now);
    let waiting = standing.open_intents.iter().filter_map(|open| usize::try_from(open.seq).ok());
    let locked_since = waiting.filter_map(|seq| Some(log.entries().get(seq)?.record.origin.time)).min();
    standing.adopt_holds(settings.holds.clone());
    let retained = match region.settings.object_lock {
        ObjectLock::Off => RetainReport::default(),
        _ => sweep::extend_locks(&*region.store, &standing, &swept.plan, &settings.policy, now).await?,
    };
    Ok(Done { forgot, swept, retained, locked_since })
}
