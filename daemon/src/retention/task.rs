//! Carries out the retention of one cluster, region by region: after each good backup, and once a day in any case.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_repository::catalog::Catalog;
use lifeboat_repository::retention::sweep::{Force, SweepAuthor, SweepError, SweepReport};
use lifeboat_vocabulary::{BackupId, RegionName, UtcTime, counted, error_chain};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::base::alarms::board::{Alarm, Source, SourceKind, Wrongs};
use crate::base::supervisor::TaskContext;
use crate::care::tamper_watch::{self, Seen};
use crate::deletion::audit::{AuditEntry, Responsible};
use crate::deletion::standstill::Action;
use crate::regions::context::ClusterContext;
use crate::retention::preconditions::{Deleter, Doubt};
use crate::retention::round::{FreezeGate, RegionOutcome, RetentionRound, arrivals, disagreements, first_arrivals};
use crate::settings::retention_policy::policy;
use crate::settings::wiring;

/// How often it runs without a good backup.
const DAILY: Duration = Duration::from_secs(24 * 3600);
/// How soon after something went wrong.
const AGAIN: Duration = Duration::from_secs(15 * 60);
/// A region whose retention could not be carried out for so long, for reasons that may pass by themselves.
const PATIENCE: Duration = Duration::from_secs(2 * 24 * 3600);
/// Objects that were to go and are still locked after so long: their locks last longer than their class.
const LOCKED_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// So many of one kind are named in an alarm.
const NAMED: usize = 3;

/// What retention works with.
#[derive(Clone)]
pub struct RetentionParts {
    /// The cluster.
    pub context: ClusterContext,
    /// Counts good backups.
    pub good: watch::Receiver<u64>,
}

/// How a round ended.
#[derive(Debug)]
pub enum RoundOutcome {
    /// Region by region.
    Regions(BTreeMap<RegionName, RegionOutcome>),
    /// Somebody or something has stopped deletion.
    Stopped(String),
    /// The logs of the regions contradict each other: nobody knows which copy is the good one.
    Disagree(Vec<String>),
}

/// Carries out retention until it is told to stop. Being cut short is harmless: the next run goes on.
///
/// # Errors
/// If the signing key cannot be read.
pub(crate) async fn run(context: TaskContext, parts: RetentionParts) -> anyhow::Result<()> {
    let mut good = parts.good.clone();
    // Without a scheduler nobody counts backups.
    let mut counts = true;
    let mut task = RetentionTask::new(parts);
    while !context.stop.is_cancelled() {
        // Regions have deadlines of their own, and deleting a large backup takes its time.
        context.progress.waiting("the regions, to carry out retention");
        // From here on: a backup that ends while this runs calls for the next run.
        good.mark_unchanged();
        let round = tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            round = task.round() => round?,
        };
        let pause = if task.report(&round).await { DAILY } else { AGAIN };
        context.progress.waiting("the next good backup, or the next day");
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
            changed = good.changed(), if counts => counts = changed.is_ok(),
        }
    }
    Ok(())
}

/// The retention of one cluster, with what it remembers from run to run.
pub struct RetentionTask {
    context: ClusterContext,
    /// Since when, as it is told and as it is measured.
    failing_since: BTreeMap<RegionName, (UtcTime, Instant)>,
}

impl RetentionTask {
    /// Nothing is remembered yet.
    #[must_use]
    pub fn new(parts: RetentionParts) -> Self {
        Self { context: parts.context, failing_since: BTreeMap::new() }
    }

    /// Carries out retention once, in every region.
    ///
    /// # Errors
    /// If the signing key or the cluster's settings cannot be read.
    pub async fn round(&mut self) -> anyhow::Result<RoundOutcome> {
        let ClusterContext { cluster, freezer, regions, directory, clock, .. } = &self.context;
        let config = self.context.config();
        let settings = wiring::cluster(&config, Some(cluster))?;
        let signer = wiring::signer(&config, cluster)?;
        let deleter = Deleter { cluster, state: directory, freezer, signer: &signer, clock: &**clock };
        let read = match deleter.read_logs(regions).await {
            Ok(read) => read,
            Err(Doubt::Stopped(why)) => return Ok(RoundOutcome::Stopped(why)),
            Err(Doubt::Disagree(what) | Doubt::Foreign(what)) => return Ok(RoundOutcome::Disagree(what)),
            Err(Doubt::Away(why)) => {
                let unreadable = regions.iter().map(|region| (region.name.clone(), why.clone()));
                return Ok(RoundOutcome::Regions(as_outcomes(unreadable).collect()));
            }
        };
        let disagreements = disagreements(Catalog::merge(&read.views()).findings());
        if !disagreements.is_empty() {
            return Ok(RoundOutcome::Disagree(disagreements));
        }
        let (logs, now) = (read.logs(), clock.now());
        // What looks like tampering is found before anything is deleted, and not some minutes later.
        let arrivals = arrivals(regions, &logs, now).await;
        let first = first_arrivals(arrivals.values());
        let seen = Seen { logs: &logs, regions: regions.len(), arrivals: Some(&first) };
        tamper_watch::look(freezer, settings, seen, now).await?;
        if freezer.may_have_forgotten(cluster) {
            let why = "what was frozen and paused before is not known here; all regions have to be read first";
            return Ok(RoundOutcome::Stopped(why.to_owned()));
        }
        if let Err(stopped) = freezer.check(cluster, Action::Delete) {
            return Ok(RoundOutcome::Stopped(stopped.to_string()));
        }
        let gate = FreezeGate { freezer: Arc::clone(freezer), cluster: cluster.clone() };
        let round = RetentionRound {
            regions,
            author: &SweepAuthor::new(signer, wiring::TOOL.to_owned(), Arc::new(gate)),
            policy: policy(settings, now),
            grace: settings.retention.grace,
            force: Force::No,
            arrivals,
            now,
        };
        let done = round.carry_out(&logs, async |region| region.judge_writers().await).await;
        let mut outcomes: BTreeMap<_, _> = done.into_iter().collect();
        outcomes.extend(as_outcomes(read.unreadable().into_iter()));
        Ok(RoundOutcome::Regions(outcomes))
    }

    /// Raises and clears alarms, writes down what was deleted, and says whether everything went well.
    pub async fn report(&mut self, round: &RoundOutcome) -> bool {
        let now = self.context.clock.now();
        let mut wrong = Wrongs::default();
        let mut all_well = true;
        match round {
            // What stopped it raises an alarm of its own.
            RoundOutcome::Stopped(why) => tracing::info!(cluster = %self.context.cluster, why, "nothing is deleted"),
            RoundOutcome::Disagree(what) => {
                all_well = false;
                let text = format!("nothing is deleted while the regions disagree: {}", what.join("; "));
                wrong.add(Alarm::PruneRefused, text);
            }
            RoundOutcome::Regions(regions) => {
                for (region, outcome) in regions {
                    all_well &= matches!(outcome, RegionOutcome::Done(_));
                    self.judge(region, outcome, &mut wrong, now);
                    self.write_down(region, outcome, now).await;
                }
            }
        }
        self.context.alarms.report(&Source::of(&self.context.cluster, SourceKind::Prune), wrong);
        all_well
    }

    fn judge(&mut self, region: &RegionName, outcome: &RegionOutcome, wrong: &mut Wrongs, now: UtcTime) {
        let error = match outcome {
            RegionOutcome::Done(done) => {
                self.failing_since.remove(region);
                if !done.swept.refused.is_empty() {
                    wrong.add(Alarm::PruneDisputed.of_region(region), named(&done.swept.refused));
                }
                if !done.retained.failed.is_empty() {
                    let why = done.retained.failed.iter().map(|(backup, why)| format!("{backup} is not locked: {why}"));
                    wrong.add(Alarm::PruneRefused.of_region(region), named(&why.collect::<Vec<_>>()));
                }
                if !done.swept.undecided.is_empty() {
                    let why = done.swept.undecided.iter().map(|(backup, why)| format!("{backup} stays: {why}"));
                    wrong.add(Alarm::PruneIncomplete.of_region(region), named(&why.collect::<Vec<_>>()));
                }
                if let Some(since) = done.locked_since.filter(|since| now.since(*since) > LOCKED_FOR) {
                    let locked = counted(done.swept.locked, "object that was to go is", "objects that were to go are");
                    let text = format!("{locked} locked since {since}");
                    wrong.add(Alarm::PruneLocked.of_region(region), text);
                }
                return;
            }
            RegionOutcome::Unreadable(why) => {
                self.passing(region, why, wrong, now);
                return;
            }
            RegionOutcome::Failed(error) => error,
        };
        let text = error_chain(error);
        tracing::warn!(cluster = %self.context.cluster, %region, error = text, "retention was not carried out");
        let alarm = match error {
            SweepError::Stopped { .. } => return,
            SweepError::Unusual { .. } => Alarm::PruneUnusual,
            SweepError::Forbidden { .. } => Alarm::PruneForbidden,
            error if error.may_pass() => {
                self.passing(region, &text, wrong, now);
                return;
            }
            _ => Alarm::PruneRefused,
        };
        wrong.add(alarm.of_region(region), text);
    }

    /// A region that does not answer has an alarm of its own; that nothing is tidied there matters only after a while.
    fn passing(&mut self, region: &RegionName, why: &str, wrong: &mut Wrongs, now: UtcTime) {
        let (since, begun) = *self.failing_since.entry(region.clone()).or_insert((now, Instant::now()));
        if begun.elapsed() > PATIENCE {
            let text = format!("nothing was deleted since {since}: {why}");
            wrong.add(Alarm::PruneRefused.of_region(region), text);
        }
    }

    /// The region's own log says what was deleted; this says it beside the daemon, too.
    async fn write_down(&self, region: &RegionName, outcome: &RegionOutcome, now: UtcTime) {
        let RegionOutcome::Done(done) = outcome else { return };
        let SweepReport { swept, leftovers, objects, bytes, .. } = &done.swept;
        let names = |ids: &[BackupId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
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
            let objects = counted(*objects, "object", "objects");
            said.push(("delete", format!("{region}: {objects} ({bytes}) {}", names(&backups))));
        }
        let who = Responsible::new("retention", "lifeboatd");
        for (action, subject) in said {
            tracing::info!(cluster = %self.context.cluster, action, subject, "retention");
            let entry = AuditEntry::new(now, Some(&self.context.cluster), action, subject, &who);
            let freezer = Arc::clone(&self.context.freezer);
            // The disk may take its time.
            let written = tokio::task::spawn_blocking(move || freezer.audit().write_down(&entry)).await;
            if let Err(error) = written {
                tracing::error!(%error, "what was deleted was not written down");
            }
        }
    }
}

/// The first few of what is to be told.
fn named(what: &[String]) -> String {
    let more = match what.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!("{}{more}", what.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; "))
}

fn as_outcomes(
    unreadable: impl Iterator<Item = (RegionName, String)>,
) -> impl Iterator<Item = (RegionName, RegionOutcome)> {
    unreadable.map(|(region, why)| (region, RegionOutcome::Unreadable(why)))
}
