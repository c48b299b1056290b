//! What was run: the last backups of a cluster with how they ended, kept over restarts, and what is wrong with them.
//!
//! The history is a memory, not the truth: that a backup exists says the log of a region. If the history is lost, the
//! newest good backup of the logs takes the place of the last good run.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use lifeboat_repository::log::records::BackupRecord;
use lifeboat_vocabulary::{UtcTime, counted};
use serde::{Deserialize, Serialize};

use crate::backup::schedule::{Attempt, Outcome, Past, overdue_after};
use crate::base::alarms::board::{Alarm, Wrongs};
use crate::base::state::{Durable, Loaded, StateError, optional_time_text, time_text};
use crate::settings::timetable::Timetable;

/// Runs that are remembered.
pub(crate) const RUNS_MAX: usize = 400;
/// How long a backup may lack a region before it is reported: a region that was away for a moment is healed by then.
const DEGRADED_PATIENCE: Duration = Duration::from_secs(3600);
/// What is dated later than now by more than this is reported.
const CLOCK_PATIENCE: Duration = Duration::from_secs(300);

/// Why a run was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RunKind {
    /// The schedule said so, or it made up for one that was missed or failed.
    Scheduled,
    /// Continuous WAL needs it: the first backup, or one behind a gap.
    Ordered,
    /// Somebody gave the command.
    ByHand,
    /// It was found in a region's log and not remembered here.
    Found,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RunEnding {
    /// In every region.
    Done,
    /// In as many regions as the quorum asks for, but not in all.
    Degraded,
    /// Stored, and data of the cluster is missing in it: it does not count.
    Incomplete,
    /// In fewer regions than the quorum asks for.
    BelowQuorum,
    /// Nothing came of it.
    Failed,
    /// It was told to stop.
    Stopped,
    /// The process ended in the middle.
    Interrupted,
}

impl RunEnding {
    /// As it is shown.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Degraded => "degraded",
            Self::Incomplete => "incomplete",
            Self::BelowQuorum => "below-quorum",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Interrupted => "interrupted",
        }
    }

    /// Whether there is a backup that counts.
    #[must_use]
    pub(crate) fn is_good(self) -> bool {
        matches!(self, Self::Done | Self::Degraded)
    }

    /// Whether there is a backup in enough regions, good or not.
    fn is_backup(self) -> bool {
        self.is_good() || self == Self::Incomplete
    }

    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::Done | Self::Degraded => Outcome::Good,
            Self::Incomplete => Outcome::Incomplete,
            Self::BelowQuorum | Self::Failed | Self::Interrupted => Outcome::Failed,
            Self::Stopped => Outcome::Stopped,
        }
    }
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunResult {
    pub(crate) ending: RunEnding,
    /// The backup that was made.
    pub(crate) backup: Option<String>,
    /// Its data in **bytes**.
    pub(crate) bytes: Option<u64>,
    /// What went wrong, in words.
    pub(crate) why: Option<String>,
    /// Pages that are damaged in the database.
    #[serde(default)]
    pub(crate) damaged_pages: u64,
}

impl RunResult {
    /// One without a backup.
    #[must_use]
    pub(crate) fn without_backup(ending: RunEnding, why: impl Into<String>) -> Self {
        Self { ending, backup: None, bytes: None, why: Some(why.into()), damaged_pages: 0 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Counts the runs of the cluster.
    pub(crate) number: u64,
    /// Why it was made.
    pub(crate) kind: RunKind,
    /// The time that it was planned for; `None` if it was not.
    #[serde(default, with = "optional_time_text")]
    pub(crate) planned: Option<UtcTime>,
    #[serde(with = "time_text")]
    pub(crate) started: UtcTime,
    /// When it was over; `None` while it runs.
    #[serde(default, with = "optional_time_text")]
    pub(crate) ended: Option<UtcTime>,
    /// What became of it; `None` while it runs.
    pub(crate) result: Option<RunResult>,
}

impl Run {
    fn attempt(&self) -> Option<Attempt> {
        let (ended, result) = (self.ended?, self.result.as_ref()?);
        Some(Attempt { planned: self.planned, started: self.started, ended, outcome: result.ending.outcome() })
    }

    fn is_good(&self) -> bool {
        self.result.as_ref().is_some_and(|result| result.ending.is_good())
    }
}

/// A timetable, and since when it is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct InForce {
    text: String,
    #[serde(default, with = "optional_time_text")]
    since: Option<UtcTime>,
}

/// All that is remembered of a cluster's runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Runs {
    runs: VecDeque<Run>,
    last_number: u64,
    timetable: Option<InForce>,
    /// When the cluster was seen first, as far as it is remembered.
    #[serde(default, with = "optional_time_text")]
    first_seen: Option<UtcTime>,
}

impl Runs {
    /// The runs, oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Run> {
        self.runs.iter()
    }

    /// The newest run that made a backup that counts. One that began later than `now` was made while the clock was ahead: it is the
    /// newest only if there is no other.
    #[must_use]
    pub(crate) fn newest_good(&self, now: UtcTime) -> Option<&Run> {
        self.runs.iter().filter(|run| run.is_good()).max_by_key(|run| (run.started <= now, run.started))
    }

    /// What the schedule needs to know.
    #[must_use]
    pub(crate) fn past(&self) -> Past {
        Past {
            attempts: self.runs.iter().filter_map(Run::attempt).collect(),
            in_force_since: self.timetable.as_ref().and_then(|timetable| timetable.since),
        }
    }

    fn push(&mut self, run: Run) {
        self.runs.push_back(run);
        while self.runs.len() > RUNS_MAX {
            // The newest good run is what everything is judged by, however many have failed since.
            let Some(now) = self.runs.back().map(|run| run.started) else { return };
            let newest = self.newest_good(now).map(|run| run.number);
            let oldest = self.runs.iter().position(|run| Some(run.number) != newest).unwrap_or(0);
            self.runs.remove(oldest);
        }
    }

    fn begin(&mut self, kind: RunKind, planned: Option<UtcTime>, now: UtcTime) -> u64 {
        self.interrupt(now);
        self.last_number += 1;
        let number = self.last_number;
        self.push(Run { number, kind, planned, started: now, ended: None, result: None });
        number
    }

    fn end(&mut self, number: u64, now: UtcTime, result: RunResult) {
        if let Some(run) = self.runs.iter_mut().find(|run| run.number == number && run.result.is_none()) {
            run.ended = Some(now);
            run.result = Some(result);
        }
    }

    fn interrupt(&mut self, now: UtcTime) {
        for run in self.runs.iter_mut().filter(|run| run.result.is_none()) {
            run.ended = Some(now.max(run.started));
            let why = "the process that made it ended in the middle";
            run.result = Some(RunResult::without_backup(RunEnding::Interrupted, why));
        }
    }

    /// What an earlier call has written down while the clock was ahead begins now.
    fn plan_by(&mut self, timetable: &Timetable, now: UtcTime) {
        self.first_seen = Some(self.first_seen.map_or(now, |seen| seen.min(now)));
        let text = timetable.text();
        match &mut self.timetable {
            // Lost or new: whatever was missed before is made up for.
            None => self.timetable = Some(InForce { text, since: None }),
            Some(known) if known.text == text => known.since = known.since.map(|since| since.min(now)),
            Some(known) => *known = InForce { text, since: Some(now) },
        }
    }

    /// The newest run that is dated later than now, as long as no good run that was made after it has taken its place.
    fn ahead(&self, now: UtcTime) -> Option<&Run> {
        let is_good = |run: &&Run| run.is_good() && run.started <= now;
        let good = self.runs.iter().filter(is_good).map(|run| run.number).max();
        let latest = now.plus(CLOCK_PATIENCE);
        self.runs.iter().rev().find(|run| run.started > latest && good.is_none_or(|good| good < run.number))
    }

    fn learn(&mut self, record: &BackupRecord) {
        let backup = record.backup.to_string();
        let is_known = |run: &Run| run.result.as_ref().and_then(|result| result.backup.as_ref()) == Some(&backup);
        if self.runs.iter().any(is_known) {
            return;
        }
        self.last_number += 1;
        let result = RunResult {
            ending: RunEnding::Done,
            backup: Some(backup),
            bytes: Some(record.files.raw_bytes.as_bytes()),
            why: None,
            damaged_pages: record.pages.map_or(0, |pages| pages.damaged),
        };
        self.push(Run {
            number: self.last_number,
            kind: RunKind::Found,
            planned: None,
            started: record.start_time,
            ended: Some(record.stop_time),
            result: Some(result),
        });
    }

    /// What is wrong with the backups of a cluster, complete. `is_everywhere` says of a backup whether every region has it by
    /// now: a run ends degraded once, and is healed later.
    #[must_use]
    pub(crate) fn wrong(&self, timetable: &Timetable, is_everywhere: impl Fn(&str) -> bool, now: UtcTime) -> Wrongs {
        let mut wrongs = Wrongs::default();
        let over: Vec<(&Run, &RunResult)> = self
            .runs
            .iter()
            .filter_map(|run| Some((run, run.result.as_ref()?)))
            .filter(|(_, result)| result.ending != RunEnding::Stopped)
            .collect();
        let made = over.iter().rev().find(|(_, result)| result.ending.is_backup());
        if let Some((_, result)) = made
            && result.ending == RunEnding::Incomplete
        {
            let why = result.why.as_deref().unwrap_or("data is missing in the newest backup");
            wrongs.add(Alarm::BackupIncomplete, format!("{why}. It does not count as a good backup"));
        }
        if let Some((run, result)) = over.last()
            && !result.ending.is_backup()
        {
            let in_a_row = over.iter().rev().take_while(|(_, result)| !result.ending.is_backup()).count();
            let why = result.why.as_deref().unwrap_or("the reason is not known");
            let again = if in_a_row > 1 { format!("; the last {in_a_row} failed") } else { String::new() };
            let text = format!("the backup that began at {} is {}: {why}{again}", run.started, result.ending.as_str());
            wrongs.add(Alarm::BackupFailed, text);
        }
        let newest = self.newest_good(now);
        if let Some((run, result)) = newest.and_then(|run| Some((run, run.result.as_ref()?))) {
            // What is dated ahead was made while the clock was: nobody knows how old it is.
            let lasts = match run.ended.unwrap_or(run.started) {
                ended if ended <= now => now.since(ended),
                _ if run.started <= now => now.since(run.started),
                _ => Duration::MAX,
            };
            let healed = || result.backup.as_deref().is_some_and(&is_everywhere);
            if result.ending == RunEnding::Degraded && lasts > DEGRADED_PATIENCE && !healed() {
                let why = result.why.as_deref().unwrap_or("some regions do not have it");
                let backup = result.backup.as_deref().unwrap_or("the newest backup");
                wrongs.add(Alarm::BackupDegraded, format!("{backup} is not in every region: {why}"));
            }
            if result.damaged_pages > 0 {
                let backup = result.backup.as_deref().unwrap_or("the newest backup");
                let pages = counted(result.damaged_pages, "page is", "pages are");
                let text = format!("{pages} damaged in the database, as {backup} read it");
                wrongs.add(Alarm::DatabaseDamaged, text);
            }
        }
        let dated = newest.filter(|run| run.started <= now);
        let since = dated.map(|run| run.started).or(self.first_seen.filter(|seen| *seen <= now));
        if let Some(since) = since
            && overdue_after(timetable, since).is_some_and(|latest| now > latest)
        {
            let text = match (dated, newest) {
                (Some(_), _) => {
                    format!("the newest good backup began at {since}; the schedule is `{}`", timetable.text())
                }
                (None, Some(_)) => {
                    format!("there is no good backup that is not dated later than now, and none was made since {since}")
                }
                (None, None) => format!("there is no good backup, and none was made since {since}"),
            };
            wrongs.add(Alarm::BackupOverdue, text);
        }
        if let Some(text) = self.clock_wrong(now) {
            wrongs.add(Alarm::ClockWrong, text);
        }
        wrongs
    }

    fn clock_wrong(&self, now: UtcTime) -> Option<String> {
        let fix = "this host's clock was wrong then, or is wrong now";
        if let Some(run) = self.ahead(now) {
            let backup = run.result.as_ref().and_then(|result| result.backup.as_deref());
            let backup = backup.map_or_else(String::new, |backup| format!(" (backup {backup})"));
            let began = run.started;
            return Some(format!(
                "a run{backup} is dated {began}, later than now ({now}): {fix}. It counts for nothing"
            ));
        }
        let seen = self.first_seen.filter(|seen| *seen > now.plus(CLOCK_PATIENCE))?;
        Some(format!("this cluster was seen first at {seen}, later than now ({now}): {fix}. That counts for nothing"))
    }
}

/// The history of one cluster, in its folder of the state directory.
#[derive(Clone, Debug)]
pub(crate) struct RunHistory {
    runs: Durable<Runs>,
}

impl RunHistory {
    /// Opens `<cluster directory>/runs.json`.
    #[must_use]
    pub(crate) fn open(cluster_directory: &Path) -> (Self, Loaded) {
        let (runs, loaded) = Durable::open(cluster_directory.join("runs.json"));
        (Self { runs }, loaded)
    }

    /// What is remembered now.
    #[must_use]
    pub(crate) fn read(&self) -> Runs {
        self.runs.read()
    }

    /// A run begins, under the guard: whatever else seems to run was interrupted. Returns its number, and whether it could
    /// be saved: what could not is in force in this process nevertheless.
    pub(crate) async fn begin(
        &self,
        kind: RunKind,
        planned: Option<UtcTime>,
        now: UtcTime,
    ) -> (u64, Result<(), StateError>) {
        match self.runs.change_in_background(move |runs| runs.begin(kind, planned, now)).await {
            Ok(number) => (number, Ok(())),
            Err(error) => (self.read().last_number, Err(error)),
        }
    }

    /// A run is over.
    ///
    /// # Errors
    /// [`StateError`]; it is in force in this process nevertheless if the error is that it was not saved.
    pub(crate) async fn end(&self, number: u64, now: UtcTime, result: RunResult) -> Result<(), StateError> {
        self.runs.change_in_background(move |runs| runs.end(number, now, result)).await
    }

    /// Whatever seems to run was interrupted. To be called under the guard.
    ///
    /// # Errors
    /// As [`Self::end`].
    pub(crate) async fn interrupt(&self, now: UtcTime) -> Result<(), StateError> {
        self.runs.change_in_background(move |runs| runs.interrupt(now)).await
    }

    /// Runs are planned by this timetable from now on.
    ///
    /// # Errors
    /// As [`Self::end`].
    pub(crate) async fn plan_by(&self, timetable: Timetable, now: UtcTime) -> Result<(), StateError> {
        self.runs.change_in_background(move |runs| runs.plan_by(&timetable, now)).await
    }

    /// A region's log has this good backup: it is remembered as a run, if it is not yet.
    ///
    /// # Errors
    /// As [`Self::end`].
    pub(crate) async fn learn(&self, record: BackupRecord) -> Result<(), StateError> {
        self.runs.change_in_background(move |runs| runs.learn(&record)).await
    }
}

#[cfg(test)]
mod tests;
