//! What the scheduler knows, in the words of the status: what comes next, what runs, and what the last runs were.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_repository::backup::write::Seat;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::backup::history::{Run, RunHistory, RunKind, Runs};
use crate::backup::task::RunOutlook;
use crate::base::supervisor::TaskContext;
use crate::model::facts::ClusterFacts;
use crate::model::facts::RunsView;
use crate::model::snapshot::{ClusterCounters, DurationCounts, NextRun, RunStatus, RunningStatus};

/// Runs that are shown.
const SHOWN: usize = 5;
/// Commands change the history too.
const LOOK: Duration = Duration::from_secs(15);
/// Upper bounds in **seconds** of how long backups take, for the histogram.
const BOUNDS: [f64; 9] = [10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 3.0 * 3600.0, 6.0 * 3600.0, 12.0 * 3600.0];

/// What is told.
#[derive(Clone)]
pub struct SeenRuns {
    /// What comes next.
    pub outlook: watch::Receiver<RunOutlook>,
    /// What was run.
    pub history: RunHistory,
    /// How long the threads of the cluster waited and worked.
    pub seat: Seat,
    /// Where what comes next is told.
    pub facts: Arc<ClusterFacts>,
    /// Where what was run is told.
    pub view: Arc<Mutex<RunsView>>,
}

/// Tells until it is told to stop.
///
/// # Errors
/// If the history was given up.
pub async fn tell(context: TaskContext, seen: SeenRuns) -> anyhow::Result<()> {
    let mut outlook = seen.outlook.clone();
    // What ended before this process began is not counted by it.
    let first = read(&seen.history).await?.iter().map(|run| run.number).max();
    while !context.stop.is_cancelled() {
        context.progress.working("what the scheduler knows");
        let now = outlook.borrow_and_update().clone();
        let runs = read(&seen.history).await?;
        let waited = seen.seat.times();
        *seen.view.lock() = RunsView {
            last: runs.iter().rev().filter(|run| run.ended.is_some()).take(SHOWN).map(shown).collect(),
            counters: ClusterCounters {
                waiting_seconds: waited.waiting.as_secs_f64(),
                running_seconds: waited.running.as_secs_f64(),
                ..counters(&runs, first)
            },
        };
        tell_outlook(&seen.facts, &now);
        context.progress.waiting("news");
        tokio::select! {
            () = context.stop.cancelled() => {}
            changed = outlook.changed() => if changed.is_err() {
                // The scheduler has ended, because everything does.
                context.stop.cancelled().await;
            },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    Ok(())
}

async fn read(history: &RunHistory) -> anyhow::Result<Runs> {
    let history = history.clone();
    Ok(tokio::task::spawn_blocking(move || history.read()).await?)
}

fn tell_outlook(facts: &ClusterFacts, now: &RunOutlook) {
    let running = now.running.as_ref().map(|running| RunningStatus { what: what(running.kind), since: running.since });
    let planned = now.next.is_some() || now.why.is_some();
    let next = NextRun { what: "full backup".to_owned(), time: now.next, why: now.why.clone() };
    facts.next_run((planned && running.is_none()).then_some(next));
    facts.running(running);
}

fn what(kind: RunKind) -> String {
    match kind {
        RunKind::Scheduled => "full backup",
        RunKind::Ordered => "full backup that WAL needs",
        RunKind::ByHand => "full backup by hand",
        RunKind::Found => "full backup found in a region",
    }
    .to_owned()
}

fn shown(run: &Run) -> RunStatus {
    let result = run.result.as_ref();
    RunStatus {
        what: what(run.kind),
        planned: run.planned,
        started: run.started,
        ended: run.ended,
        ending: result.map_or("running", |result| result.ending.as_str()).to_owned(),
        good: result.is_some_and(|result| result.ending.is_good()),
        backup: result.and_then(|result| result.backup.clone()),
        bytes: result.and_then(|result| result.bytes),
    }
}

fn counters(runs: &Runs, first: Option<u64>) -> ClusterCounters {
    let mut counted = BTreeMap::new();
    let mut took = Vec::new();
    for run in runs.iter().filter(|run| first.is_none_or(|first| run.number > first)) {
        let (Some(ended), Some(result)) = (run.ended, &run.result) else { continue };
        *counted.entry(result.ending.as_str().to_owned()).or_default() += 1;
        if result.ending.is_good() {
            took.push(ended.since(run.started).as_secs_f64());
        }
    }
    let mut from = 0.0;
    let buckets = BOUNDS.iter().map(|bound| {
        let within =
            took.iter().filter(|took| **took > from && **took <= *bound || from == 0.0 && **took == 0.0).count();
        from = *bound;
        (*bound, within as u64)
    });
    let buckets: Vec<_> = buckets.collect();
    let longer = took.iter().filter(|took| **took > from).count() as u64;
    let backup_durations = DurationCounts { buckets, longer, sum_seconds: took.iter().sum() };
    ClusterCounters { runs: counted, backup_durations, ..ClusterCounters::default() }
}
