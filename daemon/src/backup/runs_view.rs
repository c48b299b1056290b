//! Runs in the words of the status. Pure.

use std::collections::BTreeMap;

use crate::backup::history::{Run, RunKind, Runs};
use crate::model::facts::RunsView;
use crate::model::snapshot::{ClusterCounters, DurationCounts, RunStatus};

/// Runs that are shown.
const SHOWN: usize = 5;
/// Upper bounds in **seconds** of how long backups take, for the histogram.
const BOUNDS: [f64; 9] = [10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 3.0 * 3600.0, 6.0 * 3600.0, 12.0 * 3600.0];

/// What the history says. Runs that ended before this process began (up to number `first`) are shown, not counted.
pub(crate) fn runs_view(runs: &Runs, first: Option<u64>) -> RunsView {
    RunsView {
        last: runs.iter().rev().filter(|run| run.ended.is_some()).take(SHOWN).map(shown).collect(),
        counters: counters(runs, first),
    }
}

/// A kind of run, in words.
pub(crate) fn what(kind: RunKind) -> String {
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
