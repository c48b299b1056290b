//! What has to be looked at again and again about the daemon itself: whether its state can be written, what is frozen,
//! paused and overridden, and whether its tasks get on.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lifeboat_vocabulary::{Clock, ClusterName, SystemClock};
use rustix::fs::OFlags;
use tokio::time::{Instant, MissedTickBehavior};

use crate::base::alarms::board::{Alarm, AlarmBoard, Source, SourceKind, Wrongs};
use crate::base::readiness::Readiness;
use crate::base::state;
use crate::base::supervisor::{Supervisor, TaskContext};
use crate::base::systemd::ServiceManager;
use crate::deletion::freeze::Freezer;
use crate::run::overrides::Overrides;

/// How often everything is looked at.
const LOOK: Duration = Duration::from_secs(15);
/// How long the disk may take for one small file.
const PROBE_PATIENCE: Duration = Duration::from_secs(10);
/// How many bytes are written to check that the disk takes some.
const PROBE_BYTES: usize = 8192;
/// How often the tasks are judged, at most.
const JUDGE: Duration = Duration::from_secs(5);
/// How often the service manager is told how it stands.
const STATUS_EVERY: Duration = Duration::from_secs(30);

/// What housekeeping works with.
#[derive(Clone)]
pub(crate) struct House {
    /// The state directory of the daemon.
    pub(crate) state_directory: PathBuf,
    /// The clusters, which may become more.
    pub(crate) clusters: tokio::sync::watch::Receiver<Vec<ClusterName>>,
    /// What is frozen and paused.
    pub(crate) freezer: Arc<Freezer>,
    /// What the environment overrides.
    pub(crate) overrides: Overrides,
    pub(crate) board: Arc<AlarmBoard>,
}

/// Looks at everything until it is told to stop.
///
/// # Errors
/// If a look failed altogether.
pub(crate) async fn keep(context: TaskContext, house: House) -> anyhow::Result<()> {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !context.stop.is_cancelled() {
        context.progress.waiting("the next look");
        tokio::select! {
            () = context.stop.cancelled() => break,
            _ = look.tick() => {}
        }
        context.progress.working("the state of the daemon");
        let clusters = house.clusters.borrow().clone();
        let asked = house.clone();
        let mut asking = tokio::task::spawn_blocking(move || asked.look(&clusters));
        let answered = tokio::time::timeout(PROBE_PATIENCE, &mut asking).await;
        if answered.is_err() {
            house.board.report(&Source::daemon(SourceKind::State), hanging(&house.state_directory));
            // Nothing is asked twice at the same time of a disk that does not answer.
            context.progress.waiting("the disk of the state directory");
            tokio::select! {
                () = context.stop.cancelled() => break,
                looked = &mut asking => looked.context("look at the state of the daemon")?,
            }
        } else if let Ok(looked) = answered {
            looked.context("look at the state of the daemon")?;
        }
    }
    Ok(())
}

fn hanging(directory: &Path) -> Wrongs {
    let mut wrong = Wrongs::default();
    let text = format!("the disk with {} has not answered for {} s", directory.display(), PROBE_PATIENCE.as_secs());
    wrong.add(Alarm::StateNotWritable, text);
    wrong
}

impl House {
    fn look(&self, clusters: &[ClusterName]) {
        let mut wrong = Wrongs::default();
        if let Err(error) = probe(&self.state_directory).and_then(|()| self.freezer.audit().write_again()) {
            let text = format!(
                "{} takes no writes ({error}): work goes on, but what is learned now would not survive a restart. Make \
                 room, or give the directory back to this account",
                self.state_directory.display()
            );
            wrong.add(Alarm::StateNotWritable, text);
        }
        self.board.report(&Source::daemon(SourceKind::State), wrong);
        self.board.report(&Source::daemon(SourceKind::Damage), damaged(&self.state_directory, clusters));
        self.board.report(&Source::daemon(SourceKind::Overrides), self.overrides.look(SystemClock.now()));
        for cluster in clusters {
            self.board.report(&Source::of(cluster, SourceKind::Freeze), self.freezer.look(cluster));
        }
    }
}

/// What was damaged and lies aside, until a person has removed it.
fn damaged(state_directory: &Path, clusters: &[ClusterName]) -> Wrongs {
    let mut wrong = Wrongs::default();
    let folders = clusters.iter().map(|cluster| state_directory.join(cluster.as_str()));
    for directory in std::iter::once(state_directory.to_owned()).chain(folders) {
        // One that cannot be read is reported as one that takes no writes.
        for name in state::damaged_files(&directory).unwrap_or_default() {
            let file = directory.join(&name);
            let about = file.strip_prefix(state_directory).unwrap_or(&file).display().to_string();
            let text = format!(
                "{} could not be understood and was put aside; work goes on without what it held. Find out why, then \
                 remove it",
                file.display()
            );
            wrong.add(Alarm::StateDamaged.about(about), text);
        }
    }
    wrong
}

/// Checks that a file can be made, filled and flushed.
fn probe(directory: &Path) -> io::Result<()> {
    let path = directory.join(".probe");
    let file = File::from(state::open_own(&path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?);
    let written = (&file).write_all(&[0x5a; PROBE_BYTES]).and_then(|()| file.sync_all());
    rustix::fs::unlink(&path)?;
    written
}

/// Judges all tasks for as long as the process lives and the supervisor is intact, and tells the service manager that we are alive as long as the core
/// gets on. Runs beside the supervisor, because it has to see it end.
pub(crate) async fn watch_tasks(
    supervisor: Arc<Supervisor>,
    board: Arc<AlarmBoard>,
    readiness: Arc<Readiness>,
    manager: Arc<ServiceManager>,
) {
    // Half the time that the manager waits, as its manual advises.
    let every = manager.watchdog.map_or(JUDGE, |limit| (limit / 2).min(JUDGE)).max(Duration::from_millis(10));
    let mut look = tokio::time::interval(every);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told: Option<(Instant, String)> = None;
    let mut complained = false;
    loop {
        look.tick().await;
        if let Some(task) = supervisor.abandoned() {
            tracing::error!(task, "nobody keeps this task any more; the daemon ends");
            return;
        }
        let judgement = supervisor.judge();
        for (cluster, wrong) in judgement.wrong {
            board.report(&Source { cluster, kind: SourceKind::Supervisor }, wrong);
        }
        if let Some(stuck) = &judgement.stuck {
            if !complained {
                tracing::error!(stuck, "the core does not get on; the service manager hears nothing more from us");
            }
        } else {
            manager.alive();
        }
        complained = judgement.stuck.is_some();
        let status = status_line(&board, &readiness, judgement.stuck.as_deref());
        if told.as_ref().is_none_or(|(when, before)| *before != status || when.elapsed() >= STATUS_EVERY) {
            manager.status(&status);
            told = Some((Instant::now(), status));
        }
    }
}

fn status_line(board: &AlarmBoard, readiness: &Readiness, stuck: Option<&str>) -> String {
    let alarms = board.all();
    let worst = alarms.first().map(|alarm| match &alarm.cluster {
        Some(cluster) => format!("{cluster}: {}", alarm.id),
        None => alarm.id.to_string(),
    });
    let alarms = match (alarms.len(), worst) {
        (0, _) | (_, None) => "no alarms".to_owned(),
        (1, Some(worst)) => format!("ALARM {worst}"),
        (count, Some(worst)) => format!("{count} ALARMS, the gravest {worst}"),
    };
    let stuck = stuck.map_or_else(String::new, |stuck| format!("; STUCK: {stuck}"));
    format!("{}; {alarms}{stuck}", readiness.in_words())
}
