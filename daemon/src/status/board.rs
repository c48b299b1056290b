//! Gathers what is known into one snapshot, every second: for the file, the page, the metrics and the API.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lifeboat_config::{ClusterSettings, Config};
use lifeboat_repository::format::layout::WalRange;
use lifeboat_stores::{BreakerState, DURATION_BOUNDS, MetricsSnapshot, Operation};
use lifeboat_vocabulary::{Clock, ClusterName, UtcTime};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::base::alarms::board::{Alarm, AlarmBoard, RaisedAlarm};
use crate::base::progress::Doing;
use crate::base::supervisor::{Supervisor, TaskContext};
use crate::deletion::freeze::Freezer;
use crate::deletion::standstill::Stopped;
use crate::model::capabilities::Writers;
use crate::model::facts::{ClusterFacts, Facts};
use crate::model::region_health::Health;
use crate::model::snapshot::{
    AlarmLine, ClusterCounters, ClusterStatus, DaemonStatus, DurationCounts, OverrideStatus, Point, Protection,
    RegionStatus, RequestCounts, RpoStatus, StatusSnapshot, StopStatus, TaskStatus, VERSION, Verdict, WindowStatus,
};
use crate::model::verdict::{WalReceiver, judge};
use crate::model::wal_status::WalStatus;
use crate::regions::memory::RegionBook;
use crate::regions::open::{OpenRegion, OpenRegions};
use crate::status::file;
use crate::wal::backup_need::lies_behind;

/// How often a snapshot is taken.
const PERIOD: Duration = Duration::from_secs(1);
/// Continuous WAL that has reported nothing for so long does not run.
const WAL_STALE: Duration = Duration::from_secs(10);

/// One cluster, as the board sees it.
pub(crate) struct ClusterView {
    pub(crate) cluster: ClusterName,
    /// The objective in **seconds** for the age of the oldest commit that the quorum lacks.
    pub(crate) rpo_seconds: f64,
    /// Regions that must hold a backup before it counts.
    pub(crate) backup_quorum: usize,
    /// Whether this daemon receives its WAL.
    pub(crate) receiver: WalReceiver,
    pub(crate) regions: Arc<OpenRegions>,
    /// What is known of them.
    pub(crate) book: Arc<RegionBook>,
    /// What its tasks report.
    pub(crate) facts: Arc<ClusterFacts>,
}

/// What is known of a cluster before anything was begun for it.
#[derive(Clone)]
struct Expected {
    cluster: ClusterName,
    rpo_seconds: f64,
    backup_quorum: usize,
}

impl Expected {
    fn of(cluster: &ClusterSettings, config: &Config) -> Self {
        let rpo_seconds = cluster.objectives.rpo.as_secs_f64();
        Self { cluster: cluster.name.clone(), rpo_seconds, backup_quorum: config.durability.backup_quorum }
    }
}

/// Gathers snapshots from what the parts of the daemon know.
pub(crate) struct StatusBoard {
    started: UtcTime,
    clock: Arc<dyn Clock>,
    alarms: Arc<AlarmBoard>,
    freezer: Arc<Freezer>,
    supervisor: Arc<Supervisor>,
    expected: Mutex<Vec<Expected>>,
    clusters: Mutex<Vec<Arc<ClusterView>>>,
    overrides: Mutex<Vec<OverrideStatus>>,
    http: Mutex<Option<String>>,
    latest: watch::Sender<Arc<StatusSnapshot>>,
}

impl StatusBoard {
    /// Without clusters.
    #[must_use]
    pub(crate) fn new(
        alarms: Arc<AlarmBoard>,
        freezer: Arc<Freezer>,
        supervisor: Arc<Supervisor>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let started = clock.now();
        Self {
            started,
            clock,
            alarms,
            freezer,
            supervisor,
            expected: Mutex::default(),
            clusters: Mutex::default(),
            overrides: Mutex::default(),
            http: Mutex::default(),
            latest: watch::channel(Arc::new(empty(started))).0,
        }
    }

    /// Shows a cluster that is expected; replaces its earlier view.
    pub(crate) fn show(&self, view: ClusterView) {
        let mut clusters = self.clusters.lock();
        let view = Arc::new(view);
        match clusters.iter_mut().find(|known| known.cluster == view.cluster) {
            Some(known) => *known = view,
            None => clusters.push(view),
        }
    }

    /// Shows the clusters of this configuration and no others, in its order; also those that could not be begun with yet.
    pub(crate) fn expect(&self, config: &Config) {
        let expected: Vec<_> = config.clusters.iter().map(|cluster| Expected::of(cluster, config)).collect();
        self.clusters.lock().retain(|view| expected.iter().any(|known| known.cluster == view.cluster));
        *self.expected.lock() = expected;
    }

    /// Shows which settings are overridden.
    pub(crate) fn overridden(&self, overrides: Vec<OverrideStatus>) {
        *self.overrides.lock() = overrides;
    }

    /// Shows where the daemon answers over HTTP.
    pub(crate) fn serves(&self, address: Option<String>) {
        *self.http.lock() = address;
    }

    /// The latest snapshot, and those that follow.
    #[must_use]
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<StatusSnapshot>> {
        self.latest.subscribe()
    }

    /// Takes a snapshot.
    #[must_use]
    pub(crate) fn gather(&self, now: UtcTime) -> StatusSnapshot {
        let views = self.clusters.lock().clone();
        let tasks = self.supervisor.tasks();
        let stuck = self.supervisor.judge();
        let wedged = |cluster: &Option<ClusterName>, task: &str| {
            stuck.wrong.get(cluster).is_some_and(|wrong| wrong.contains(&Alarm::TaskWedged.about(task)))
        };
        let tasks = tasks.into_iter().map(|task| TaskStatus {
            wedged: wedged(&task.cluster, task.name),
            name: task.cluster.map_or_else(|| task.name.to_owned(), |cluster| format!("{cluster}/{}", task.name)),
            doing: match task.doing {
                Doing::Working(on) => on,
                Doing::Waiting(reason) => format!("waits for {reason}"),
            },
        });
        StatusSnapshot {
            version: VERSION,
            time: now,
            daemon: DaemonStatus {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                started: self.started,
                http: self.http.lock().clone(),
                core_stuck: stuck.stuck,
                tasks: tasks.collect(),
            },
            clusters: self.clusters(&views, now),
            overrides: self.overrides.lock().clone(),
            alarms: self.alarms.raised(None).iter().map(alarm_line).collect(),
        }
    }

    /// In the order of the configuration.
    fn clusters(&self, views: &[Arc<ClusterView>], now: UtcTime) -> Vec<ClusterStatus> {
        let expected = self.expected.lock().clone();
        let shown = expected.iter().map(|known| match views.iter().find(|view| view.cluster == known.cluster) {
            Some(view) => self.cluster(view, now),
            None => self.not_begun(known),
        });
        shown.collect()
    }

    fn not_begun(&self, known: &Expected) -> ClusterStatus {
        let alarms: Vec<AlarmLine> = self.alarms.raised(Some(&known.cluster)).iter().map(alarm_line).collect();
        let mut reasons = vec!["nothing could be begun for it yet".to_owned()];
        reasons.extend(alarms.iter().map(|alarm| alarm.text.clone()));
        ClusterStatus {
            cluster: known.cluster.to_string(),
            verdict: Verdict { protection: Protection::NotProtected, not_ready: reasons.clone(), reasons },
            wal: None,
            window: None,
            rpo: RpoStatus { seconds: None, bytes: None, objective_seconds: known.rpo_seconds },
            last_backup: None,
            next_run: None,
            running: None,
            forecast: None,
            regions: Vec::new(),
            freezes: Vec::new(),
            pauses: Vec::new(),
            alarms,
            runs: Vec::new(),
            counters: ClusterCounters::default(),
            backup_quorum: known.backup_quorum,
        }
    }

    fn cluster(&self, view: &ClusterView, now: UtcTime) -> ClusterStatus {
        let facts = view.facts.read();
        let alarms: Vec<AlarmLine> = self.alarms.raised(Some(&view.cluster)).iter().map(alarm_line).collect();
        let wal = facts.wal.clone().filter(|wal| wal.age(now).is_some_and(|age| age < WAL_STALE));
        let standstill = self.freezer.standstill(&view.cluster);
        let pauses = standstill.pauses.iter().filter(|pause| pause.in_force(now));
        let mut status = ClusterStatus {
            cluster: view.cluster.to_string(),
            verdict: Verdict { protection: Protection::Ok, reasons: Vec::new(), not_ready: Vec::new() },
            window: window(&facts, wal.as_ref()),
            rpo: rpo(wal.as_ref(), view.rpo_seconds),
            last_backup: facts.survey.as_ref().and_then(|survey| survey.last.clone()),
            next_run: facts.next_run.clone(),
            running: facts.running.clone(),
            forecast: None,
            regions: regions(view, &facts, now),
            freezes: standstill.frozen.iter().map(|frozen| stop(frozen.stops(&view.cluster))).collect(),
            pauses: pauses.map(|pause| stop(pause.stops(&view.cluster))).collect(),
            alarms,
            runs: facts.runs.last.clone(),
            counters: facts.runs.counters.clone(),
            backup_quorum: view.backup_quorum,
            wal,
        };
        status.verdict = judge(&status, view.receiver);
        status
    }
}

/// Takes a snapshot every second, writes it to the state directory and hands it to whoever waits, until it is told to stop.
///
/// # Errors
/// None so far; the supervisor wants to know.
pub(crate) async fn keep(
    context: TaskContext,
    board: Arc<StatusBoard>,
    state_directory: PathBuf,
) -> anyhow::Result<()> {
    let mut second = tokio::time::interval(PERIOD);
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut complained = false;
    loop {
        context.progress.waiting("the next second");
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            _ = second.tick() => {}
        }
        context.progress.working("a status");
        let status = Arc::new(board.gather(board.clock.now()));
        let written = write(Arc::clone(&status), &state_directory).await;
        if let Err(error) = &written
            && !complained
        {
            let directory = state_directory.display();
            tracing::warn!(%error, %directory, "the status cannot be written; it can still be asked for over HTTP");
        }
        complained = written.is_err();
        board.latest.send_replace(status);
    }
}

async fn write(status: Arc<StatusSnapshot>, state_directory: &Path) -> std::io::Result<()> {
    let directory = state_directory.to_owned();
    let written = tokio::task::spawn_blocking(move || file::write(&status, &directory)).await;
    written.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

fn empty(now: UtcTime) -> StatusSnapshot {
    let daemon = DaemonStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started: now,
        http: None,
        core_stuck: None,
        tasks: Vec::new(),
    };
    StatusSnapshot {
        version: VERSION,
        time: now,
        daemon,
        clusters: Vec::new(),
        overrides: Vec::new(),
        alarms: Vec::new(),
    }
}

fn alarm_line(alarm: &RaisedAlarm) -> AlarmLine {
    AlarmLine {
        name: alarm.id.to_string(),
        severity: alarm.severity.to_string(),
        since: alarm.since,
        text: alarm.text.clone(),
        runbook: alarm.id.kind.runbook().to_owned(),
    }
}

/// From the end of the oldest backup to what the quorum holds, or to where WAL was lost; without WAL, to the end of the newest backup.
fn window(facts: &Facts, wal: Option<&WalStatus>) -> Option<WindowStatus> {
    let survey = facts.survey.as_ref()?;
    let (backup, from) = survey.oldest.clone()?;
    let streamed = wal.and_then(|wal| {
        let (lsn, timeline) = (wal.quorum.durable.clone()?, wal.quorum.timeline?);
        let time = wal.quorum.complete_until.as_ref().and_then(|time| time.parse().ok());
        Some(Point { time, lsn, timeline })
    });
    let stored = || streamed.unwrap_or_else(|| survey.newest.clone().unwrap_or_else(|| from.clone()));
    // The first loss that no backup was begun behind: nothing leads across it.
    let is_uncrossed = |lost: &&WalRange| survey.newest_start.is_none_or(|newest| lies_behind(newest, lost));
    let end = facts.lost_wal.iter().find(is_uncrossed);
    let to = match end {
        Some(lost) => Point { time: None, lsn: lost.start.to_string(), timeline: lost.timeline.get() },
        None => stored(),
    };
    let lost = facts.lost_wal.iter().map(|lost| {
        format!("WAL from {} to {} on timeline {}: no region has it any more", lost.start, lost.end, lost.timeline)
    });
    Some(WindowStatus {
        oldest_backup: backup.to_string(),
        from,
        to,
        gaps: survey.gaps.iter().cloned().chain(lost).collect(),
        ends_at_lost_wal: end.is_some(),
        older_backups: survey.islands,
        older_from: survey.oldest_island.clone(),
    })
}

fn rpo(wal: Option<&WalStatus>, objective_seconds: f64) -> RpoStatus {
    // While nothing streams, commits that nobody has seen may be on the host: what is known is only a lower bound.
    let seen = wal.filter(|wal| wal.host.is_some() || wal.quorum.exposure_seconds > objective_seconds);
    RpoStatus {
        seconds: seen.map(|wal| wal.quorum.exposure_seconds),
        bytes: seen.map(|wal| wal.quorum.lag_bytes),
        objective_seconds,
    }
}

/// A log that cannot be read for as long is told: the region may answer everything else.
const UNREAD_PATIENCE: Duration = Duration::from_secs(600);

fn regions(view: &ClusterView, facts: &Facts, now: UtcTime) -> Vec<RegionStatus> {
    let current = view.regions.logs().current();
    let of_region = |region: &OpenRegion| {
        let status = region_status(region, &view.book, facts);
        // One that was read just now is not old, whatever the clock of this host was set to.
        let read = status.log.as_ref().map(|log| log.read).filter(|_| !current.contains_key(&region.name));
        let unread = read.map(|read| now.since(read)).filter(|unread| *unread > UNREAD_PATIENCE);
        RegionStatus { unread_seconds: unread.map(|unread| unread.as_secs_f64()), ..status }
    };
    view.regions.iter().map(of_region).collect()
}

fn region_status(region: &OpenRegion, book: &RegionBook, facts: &Facts) -> RegionStatus {
    let seen = region.metrics.snapshot();
    let memory = book.of(&region.name);
    let health = memory.as_ref().map(|memory| &memory.health);
    let log = facts.survey.as_ref().and_then(|survey| survey.regions.get(&region.name));
    RegionStatus {
        name: region.name.to_string(),
        health: health.map_or(Health::Healthy, |health| health.state()),
        health_since: health.map_or_else(|| region.clock().now(), |health| health.since()),
        breaker: breaker_word(region.breaker.state()).to_owned(),
        writers: if region.writers() == Writers::One { "one" } else { "many" }.to_owned(),
        latency_seconds: seen.latency.map(|latency| latency.as_secs_f64()),
        error_share: health.map_or(0.0, |health| health.error_share()),
        clock_skew_seconds: seen.clock_skew_micros.map(seconds_of),
        requests: requests(&seen),
        durations: durations(&seen),
        uploaded_bytes: seen.bytes_written.as_bytes(),
        downloaded_bytes: seen.bytes_read.as_bytes(),
        log: log.cloned(),
        unread_seconds: None,
        heal: facts.heal.get(&region.name).cloned(),
        scrub: facts.scrub.get(&region.name).cloned(),
    }
}

fn stop(Stopped { cluster: _, what, since, who, why, expires }: Stopped) -> StopStatus {
    StopStatus { what: what.to_string(), since, who, why, expires }
}

fn breaker_word(state: BreakerState) -> &'static str {
    match state {
        BreakerState::Closed => "closed",
        BreakerState::HalfOpen => "half-open",
        BreakerState::Open => "open",
    }
}

fn seconds_of(micros: i64) -> f64 {
    let seconds = Duration::from_micros(micros.unsigned_abs()).as_secs_f64();
    if micros < 0 { -seconds } else { seconds }
}

fn requests(seen: &MetricsSnapshot) -> std::collections::BTreeMap<String, RequestCounts> {
    let counts = |operation: Operation| {
        let counted = seen.of(operation);
        RequestCounts { ok: counted.requests.saturating_sub(counted.errors), failed: counted.errors }
    };
    Operation::ALL.iter().map(|operation| (operation.as_str().to_owned(), counts(*operation))).collect()
}

fn durations(seen: &MetricsSnapshot) -> DurationCounts {
    let counts = &seen.durations.counts;
    DurationCounts {
        buckets: DURATION_BOUNDS.iter().copied().zip(counts.iter().copied()).collect(),
        longer: counts.last().copied().unwrap_or(0),
        sum_seconds: seen.durations.sum_seconds,
    }
}

#[cfg(test)]
mod tests;
