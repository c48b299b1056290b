//! The scheduler of one cluster: waits for what is due, whoever asked for it, and makes one backup at a time.
//!
//! Scheduled runs, those that make up for missed or failed ones, and those that continuous WAL orders all go this way,
//! so that there is one guard and one history. It looks again at least every half minute, because the machine's clock
//! may be set, and because commands change the history and the pauses from outside.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_config::Role;
use lifeboat_repository::backup::write::CpuShare;
use lifeboat_repository::log::RegionLog;
use lifeboat_vocabulary::{BackupId, UtcTime, error_chain};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::backup::history::{RunEnding, RunHistory, RunKind, RunResult, Runs};
use crate::backup::maker::BackupMaker;
use crate::backup::runs_view::{runs_view, what};
use crate::backup::schedule::{Attempt, Decision, Outcome, Past, Why, decide};
use crate::base::alarms::board::{Alarm, Source, SourceKind};
use crate::base::capacity::{Capacity, Place};
use crate::base::guard::{GuardError, RunGuard};
use crate::base::state::StateError;
use crate::base::supervisor::TaskContext;
use crate::deletion::standstill::Action;
use crate::model::snapshot::{NextRun, RunningStatus};
use crate::regions::context::ClusterContext;
use crate::settings::timetable::Timetable;
use crate::settings::wiring;
use crate::wal::backup_requests::{BackupRequest, BackupRequests};

/// It looks again after at most so long.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How soon it looks again when another process makes a backup.
const BUSY_PAUSE: Duration = Duration::from_secs(2);
/// How soon it asks again whether another installation protects the cluster.
const WRITER_PAUSE: Duration = Duration::from_secs(10);
/// How long asking for others may take.
const REGIONS_PATIENCE: Duration = Duration::from_secs(30);
/// The lease of an installation that has died lasts for a minute: whoever is refused for longer is refused by a living
/// one.
const WRITER_ALARM: Duration = Duration::from_secs(75);
/// Where WAL is received, it orders the first backup once it has begun, so that nothing is missing behind it. If it
/// does not begin, the first backup is made all the same.
const FIRST_PATIENCE: Duration = Duration::from_secs(60);
/// Pauses between failures of what WAL has ordered.
const ORDER_PAUSE_MIN: Duration = Duration::from_secs(10);
const ORDER_PAUSE_MAX: Duration = Duration::from_secs(600);
/// How long what WAL has ordered waits after a backup that is incomplete: the next is like it until somebody acts.
const ORDER_PAUSE_INCOMPLETE: Duration = Duration::from_secs(4 * 3600);
/// Runs that the process itself remembers: all that matter for what is due next.
const OWN_MAX: usize = 32;

/// What a scheduler works with.
#[derive(Clone)]
pub(crate) struct SchedulerParts {
    /// The cluster; a change of its configuration takes effect at once.
    pub(crate) context: ClusterContext,
    pub(crate) history: RunHistory,
    /// The newest run from before this process: later ones are counted.
    pub(crate) counted_after: Option<u64>,
    pub(crate) maker: Arc<dyn BackupMaker>,
    /// What continuous WAL asks for.
    pub(crate) requests: Arc<BackupRequests>,
    /// What all clusters share.
    pub(crate) capacity: Capacity,
    /// Where it says that there is another good backup: the number of its run.
    pub(crate) good: watch::Sender<u64>,
}

/// Schedules until it is told to stop. A run that is under way then goes on until it is told to hurry; it is made up for
/// at the next start.
///
/// # Errors
/// If the cluster is not in the configuration.
pub(crate) async fn run(context: TaskContext, parts: SchedulerParts) -> anyhow::Result<()> {
    let mut scheduler = Scheduler::begin(context, parts)?;
    scheduler.settle().await;
    while !scheduler.context.stop.is_cancelled() {
        match scheduler.look().await? {
            Step::Rest(pause) => scheduler.rest(pause).await,
            Step::Run(intent) => {
                if let Some(pause) = scheduler.attempt(intent).await {
                    scheduler.rest(pause).await;
                }
            }
        }
    }
    Ok(())
}

enum Step {
    Rest(Duration),
    Run(Intent),
}

/// A run that is due.
#[derive(Clone, Debug)]
struct Intent {
    kind: RunKind,
    planned: Option<UtcTime>,
    why: String,
}

struct Scheduler {
    context: TaskContext,
    parts: SchedulerParts,
    cpu_share: CpuShare,
    timetable: Timetable,
    begun: Instant,
    /// Whether the regions have been asked what they know.
    asked: bool,
    /// A place that was waited for.
    place: Option<Place>,
    order_failures: u32,
    request_pause: Option<Instant>,
    /// Another installation, and since when.
    other_writer: Option<(Instant, String)>,
    /// Why the history cannot be saved.
    unsaved: Option<String>,
    /// Why the guard cannot be asked for.
    unguarded: Option<String>,
    /// What was run, as far as this process knows by itself.
    own: VecDeque<Attempt>,
}

fn timetable(parts: &SchedulerParts) -> anyhow::Result<Timetable> {
    let config = Arc::clone(&parts.context.config.borrow());
    let settings = wiring::cluster(&config, Some(&parts.context.cluster))?.schedule.clone();
    Ok(Timetable::new(parts.context.cluster.clone(), settings))
}

impl Scheduler {
    fn begin(context: TaskContext, parts: SchedulerParts) -> anyhow::Result<Self> {
        let cpu_share = parts.capacity.cpu_share(&parts.context.cluster);
        parts.context.facts.cpu_share(cpu_share.clone());
        let timetable = timetable(&parts)?;
        Ok(Self {
            context,
            parts,
            cpu_share,
            timetable,
            begun: Instant::now(),
            asked: false,
            place: None,
            order_failures: 0,
            request_pause: None,
            other_writer: None,
            unsaved: None,
            unguarded: None,
            own: VecDeque::new(),
        })
    }

    fn now(&self) -> UtcTime {
        self.parts.context.clock.now()
    }

    /// A run that an earlier process left unfinished was interrupted, unless another process is still at it.
    async fn settle(&mut self) {
        if RunGuard::try_acquire(&self.parts.context.directory, "a look at earlier runs", &*self.parts.context.clock)
            .is_ok()
        {
            let saved = self.parts.history.interrupt(self.now()).await;
            self.saved(saved);
        }
    }

    fn saved(&mut self, saved: Result<(), StateError>) {
        self.unsaved = saved.err().map(|error| error_chain(&error));
    }

    /// What is wrong, what comes next, and whether it is due.
    async fn look(&mut self) -> anyhow::Result<Step> {
        self.timetable = timetable(&self.parts)?;
        let planned = self.parts.history.plan_by(self.timetable.clone(), self.now()).await;
        self.saved(planned);
        let runs = self.runs().await;
        self.show(&runs);
        let unknown = self.ask_regions(&runs).await;
        let runs = if unknown.is_none() { self.runs().await } else { runs };
        self.report(&runs);
        if let Some(why) = unknown {
            self.tell(Some(self.now()), Some(why));
            return Ok(Step::Rest(WRITER_PAUSE));
        }
        Ok(self.due(&runs))
    }

    async fn runs(&self) -> Runs {
        let history = self.parts.history.clone();
        match tokio::task::spawn_blocking(move || history.read()).await {
            Ok(runs) => runs,
            // Without a history everything would be due at once, again and again: the supervisor has to see this.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Runs::default(),
        }
    }

    /// Learns once of backups that are not remembered here. Without a good one that is known it must have been asked:
    /// the history may have been lost.
    async fn ask_regions(&mut self, runs: &Runs) -> Option<String> {
        if self.asked {
            return None;
        }
        self.context.progress.waiting("the regions");
        let answer = tokio::select! {
            () = self.context.stop.cancelled() => return Some("it stops".to_owned()),
            // It waits for no region that does not answer.
            answer = self.parts.maker.newest_backup() => answer,
        };
        match answer {
            Ok(Some(record)) => {
                let (started, ended) = (record.start_time, record.stop_time);
                let saved = self.parts.history.learn(record).await;
                if saved.is_err() {
                    self.remember(Attempt { planned: None, started, ended, outcome: Outcome::Good });
                }
                self.saved(saved);
            }
            Ok(None) => {}
            Err(error) if runs.newest_good(self.now()).is_none() => return Some(format!("{error:#}")),
            Err(error) => {
                tracing::debug!(cluster = %self.parts.context.cluster, error = format!("{error:#}"), "regions cannot be read")
            }
        }
        self.asked = true;
        None
    }

    fn report(&self, runs: &Runs) {
        let mut wrongs = runs.wrong(&self.timetable, |backup| self.is_everywhere(backup), self.now());
        if let Some((since, who)) = &self.other_writer
            && since.elapsed() >= WRITER_ALARM
        {
            let text = format!("{who}. No scheduled backups are made here; stop one of the two daemons");
            wrongs.add(Alarm::BackupSecondWriter, text);
        }
        if let Some(why) = self.unguarded.as_ref().or(self.unsaved.as_ref()) {
            wrongs.add(Alarm::StateNotWritable, why.clone());
        }
        self.parts.context.alarms.report(&Source::of(&self.parts.context.cluster, SourceKind::Schedule), wrongs);
        let newest = runs.newest_good(self.now()).map_or(0, |run| run.number);
        self.parts.good.send_if_modified(|known| std::mem::replace(known, newest) != newest);
        self.show(runs);
    }

    /// Whether every region has the backup by now, whole by its log. One that cannot be read may lack it.
    fn is_everywhere(&self, backup: &str) -> bool {
        let Ok(id) = backup.parse::<BackupId>() else { return false };
        let (regions, now) = (&self.parts.context.regions, self.now());
        let logs = regions.logs().current();
        let has = |log: &RegionLog| log.state(now).backups.get(&id).is_some_and(|there| there.damaged.is_none());
        logs.len() == regions.len() && logs.values().all(has)
    }

    fn show(&self, runs: &Runs) {
        self.parts.context.facts.runs(runs_view(runs, self.parts.counted_after));
    }

    fn tell(&self, time: Option<UtcTime>, why: Option<String>) {
        let planned = time.is_some() || why.is_some();
        let next = NextRun { what: "full backup".to_owned(), time, why };
        self.parts.context.facts.next_run(planned.then_some(next));
        self.parts.context.facts.running(None);
    }

    fn due(&mut self, runs: &Runs) -> Step {
        let now = self.now();
        if let Some(why) = self.parts.requests.reason()
            && self.request_pause.is_none_or(|until| until <= Instant::now())
        {
            return Step::Run(Intent { kind: RunKind::Ordered, planned: None, why });
        }
        let decision = decide(&self.timetable, &self.past(runs), now);
        let (planned, why) = match decision {
            Decision::Run { planned, why } => (planned, why),
            Decision::Wait { until } => {
                self.place = None;
                self.tell(Some(until), None);
                return Step::Rest(until.since(now));
            }
            Decision::Never => {
                self.place = None;
                self.tell(None, Some("the schedule has no more dates".to_owned()));
                return Step::Rest(LOOK_EVERY);
            }
        };
        let receives_wal = self.parts.context.config.borrow().daemon.does(Role::Wal);
        if why == Why::First && receives_wal && self.begun.elapsed() < FIRST_PATIENCE {
            self.tell(Some(now), Some("the first backup begins once WAL is received".to_owned()));
            return Step::Rest(FIRST_PATIENCE.saturating_sub(self.begun.elapsed()));
        }
        let why = match why {
            Why::Scheduled => "it is its time".to_owned(),
            Why::Missed => format!("the run of {planned} was missed"),
            Why::First => "there is no backup yet".to_owned(),
            Why::Retry(failures) => format!("{failures} in a row have failed"),
        };
        Step::Run(Intent { kind: RunKind::Scheduled, planned: Some(planned), why })
    }

    /// Makes the backup, if everything allows it; otherwise returns how soon to look again.
    async fn attempt(&mut self, intent: Intent) -> Option<Duration> {
        if let Err(stopped) = self.parts.context.freezer.check(&self.parts.context.cluster, Action::Backup) {
            return self.hold(&intent, stopped.to_string(), LOOK_EVERY);
        }
        if let Some(who) = self.other_writer().await {
            let since = self.other_writer.take().map_or_else(Instant::now, |(since, _)| since);
            if since.elapsed() < Duration::from_secs(1) {
                tracing::warn!(cluster = %self.parts.context.cluster, who, "no backup: another installation protects the cluster");
            }
            self.other_writer = Some((since, who.clone()));
            return self.hold(&intent, format!("another installation protects the cluster: {who}"), WRITER_PAUSE);
        }
        self.other_writer = None;
        if let Some(why) = self.parts.maker.foreign() {
            // WAL tells of it as an alarm: a former primary, a copy, another cluster.
            return self.hold(
                &intent,
                format!("another server than the one to be protected was found: {why}"),
                WRITER_PAUSE,
            );
        }
        if self.context.stop.is_cancelled() {
            return Some(Duration::ZERO);
        }
        let Some(place) = self.place.take().or_else(|| self.parts.capacity.try_place()) else {
            self.wait_for_place(&intent).await;
            return Some(Duration::ZERO);
        };
        let what = match intent.kind {
            RunKind::Ordered => "a backup that WAL needs",
            _ => "a scheduled backup",
        };
        let guard = match RunGuard::try_acquire(&self.parts.context.directory, what, &*self.parts.context.clock) {
            Ok(guard) => guard,
            Err(busy @ GuardError::Busy(_)) => return self.hold(&intent, busy.to_string(), BUSY_PAUSE),
            Err(error) => {
                let why = error_chain(&error);
                self.unguarded = Some(why.clone());
                return self.hold(&intent, why, LOOK_EVERY);
            }
        };
        self.unguarded = None;
        self.make(&intent).await;
        drop((guard, place));
        None
    }

    fn hold(&mut self, intent: &Intent, why: String, pause: Duration) -> Option<Duration> {
        self.place = None;
        self.tell(Some(intent.planned.unwrap_or_else(|| self.now())), Some(why));
        Some(pause)
    }

    async fn other_writer(&self) -> Option<String> {
        self.context.progress.waiting("the regions");
        tokio::select! {
            () = self.context.stop.cancelled() => None,
            answer = tokio::time::timeout(REGIONS_PATIENCE, self.parts.maker.other_writer()) => answer.unwrap_or(None),
        }
    }

    /// In the order in which clusters came. What is due is looked at anew afterwards: it may have taken hours.
    async fn wait_for_place(&mut self, intent: &Intent) {
        self.tell(Some(intent.planned.unwrap_or_else(|| self.now())), Some("other clusters back up first".to_owned()));
        self.context.progress.waiting("its turn");
        let begun = Instant::now();
        let mut turn = std::pin::pin!(self.parts.capacity.place());
        let place = loop {
            tokio::select! {
                () = self.context.stop.cancelled() => break None,
                place = &mut turn => break place,
                () = tokio::time::sleep(LOOK_EVERY) => {
                    let runs = self.runs().await;
                    self.report(&runs);
                }
            }
        };
        self.cpu_share.waited(begun.elapsed());
        self.place = place;
    }

    async fn make(&mut self, intent: &Intent) {
        let Intent { kind, planned, why } = intent;
        let cluster = self.parts.context.cluster.clone();
        let request = self.parts.requests.pending();
        let since = self.now();
        tracing::info!(%cluster, why, "a backup begins");
        let (number, saved) = self.parts.history.begin(*kind, *planned, since).await;
        self.saved(saved);
        self.parts.context.facts.next_run(None);
        self.parts.context.facts.running(Some(RunningStatus { what: what(*kind), since }));
        let result = self.made_and_judged().await;
        self.context.progress.waiting("the next run");
        let (ending, detail) = (result.ending, result.why.clone().unwrap_or_default());
        let backup = result.backup.clone().unwrap_or_default();
        match ending {
            RunEnding::Done => tracing::info!(%cluster, backup, "the backup is done"),
            RunEnding::Degraded => tracing::warn!(%cluster, backup, detail, "the backup is not in every region"),
            RunEnding::Incomplete => {
                tracing::warn!(%cluster, backup, detail, "the backup is incomplete and does not count")
            }
            RunEnding::Stopped => tracing::info!(%cluster, "the backup was stopped; it is made up for"),
            // Told as an alarm: here is what led to it.
            _ => tracing::warn!(%cluster, backup, detail, ending = ending.as_str(), "there is no backup that counts"),
        }
        let ended = self.now();
        let saved = self.parts.history.end(number, ended, result).await;
        self.saved(saved);
        self.remember(Attempt { planned: *planned, started: since, ended, outcome: ending.outcome() });
        self.after(ending, request);
    }

    /// A run may take days, or hang: what is wrong is told meanwhile, too.
    async fn made_and_judged(&self) -> RunResult {
        let (progress, hurry) = (self.context.progress.clone(), self.context.hurry.clone());
        let mut made = self.parts.maker.make(&progress, &hurry);
        loop {
            tokio::select! {
                result = &mut made => return result,
                () = tokio::time::sleep(LOOK_EVERY) => {
                    let runs = self.runs().await;
                    self.report(&runs);
                }
            }
        }
    }

    /// What this process has run it knows, whether or not the history can be kept: otherwise a good backup that is not
    /// remembered would be made again at once, without end.
    fn remember(&mut self, attempt: Attempt) {
        self.own.push_back(attempt);
        let old = self.own.len().saturating_sub(OWN_MAX);
        self.own.drain(..old);
    }

    fn past(&self, runs: &Runs) -> Past {
        let mut past = runs.past();
        for own in &self.own {
            let is_known = |known: &Attempt| known.started == own.started && known.planned == own.planned;
            if !past.attempts.iter().any(is_known) {
                past.attempts.push(*own);
            }
        }
        past
    }

    /// Whatever was requested before a good run began is fulfilled by it.
    fn after(&mut self, ending: RunEnding, request: Option<BackupRequest>) {
        if ending.is_good() {
            (self.order_failures, self.request_pause) = (0, None);
            if let Some(request) = request {
                self.parts.requests.fulfilled(&request);
            }
        } else if request.is_some() && ending == RunEnding::Incomplete {
            self.request_pause = Some(Instant::now() + ORDER_PAUSE_INCOMPLETE);
        } else if request.is_some() {
            let pause = ORDER_PAUSE_MIN.saturating_mul(1 << self.order_failures.min(8)).min(ORDER_PAUSE_MAX);
            self.order_failures = self.order_failures.saturating_add(1);
            self.request_pause = Some(Instant::now() + pause);
        }
    }

    /// Waits, but not for longer than nothing changes.
    async fn rest(&mut self, pause: Duration) {
        if pause.is_zero() {
            return;
        }
        self.context.progress.waiting("the next run");
        let mut pause = pause.min(LOOK_EVERY);
        if let (Some(_), Some(until)) = (self.parts.requests.reason(), self.request_pause) {
            pause = pause.min(until.saturating_duration_since(Instant::now()));
        }
        let stands = self.parts.requests.reason().is_some();
        let requested = async {
            match stands {
                true => std::future::pending().await,
                false => self.parts.requests.wait().await,
            }
        };
        tokio::select! {
            () = self.context.stop.cancelled() => {}
            () = tokio::time::sleep(pause.max(Duration::from_millis(10))) => {}
            _ = requested => {}
            changed = self.parts.context.config.changed() => {
                if changed.is_err() {
                    // Nobody can change it any more; that is no reason to look all the time.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
