//! `lifeboatd run`: protects every cluster of the configuration until it is told to stop.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lifeboat_cli::exit_code::{Ending, Exit};
use lifeboat_config::{Config, Environment, Loaded};
use lifeboat_vocabulary::{Clock, ClusterName, SystemClock, error_chain};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::base::alarms::board::{Alarm, Source, SourceKind, Wrongs};
use crate::base::guard::{DaemonGuard, GuardError};
use crate::base::renewed::renewed;
use crate::base::state;
use crate::base::supervisor::{TaskSettings, Watchdog};
use crate::base::systemd::ServiceManager;
use crate::model::snapshot::OverrideStatus;
use crate::run::cluster::{self, Common};
use crate::run::housekeeping::{self, House};
use crate::run::overrides::{ActiveOverride, Overrides};
use crate::settings::reload::{ConfigSource, Plan, Refused, plan};
use crate::status::board as status_board;
use crate::web::{self, WebParts};

/// How long housekeeping may take for one look.
const HOUSEKEEPING_CEILING: Duration = Duration::from_secs(60);
/// What an orderly stop may take beyond the time that its tasks have.
const STOP_MARGIN: Duration = Duration::from_secs(15);

/// Protects every cluster of the configuration; reads it again at SIGHUP.
///
/// # Errors
/// If nothing could be begun at all.
pub async fn run(source: ConfigSource, loaded: Loaded, stop: &CancellationToken) -> anyhow::Result<Ending> {
    let hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let manager = Arc::new(ServiceManager::of(&Environment::of_process()));
    let mut daemon = Daemon::begin(source, loaded, Arc::clone(&manager))?;
    let common = daemon.common.clone();
    let (board, readiness) = (Arc::clone(&common.board), Arc::clone(&common.readiness));
    let watch = housekeeping::watch_tasks(Arc::clone(&common.supervisor), board, readiness, Arc::clone(&manager));
    let mut watch = AbortOnDropHandle::new(tokio::spawn(watch));
    let watched = tokio::select! {
        () = daemon.work(hangup, stop) => Ok(Ending::Done),
        // Nobody would see any more how the tasks are.
        ended = &mut watch => Err(anyhow::anyhow!("the watch over all tasks has ended: {}", watch_ended(ended))),
    };
    let patience = daemon.loaded.config.daemon.stop_timeout;
    manager.stopping(patience + STOP_MARGIN);
    let cut_off = common.supervisor.stop_all(patience).await;
    if !cut_off.is_empty() {
        let tasks = cut_off.join(", ");
        tracing::warn!(tasks, "tasks did not end in time and were cut off; the next start makes up for what they lost");
    }
    common.board.save().await;
    tracing::info!("stopped");
    watched
}

/// Why the watch has ended, which goes on for as long as the process lives.
fn watch_ended(ended: Result<(), tokio::task::JoinError>) -> String {
    match ended {
        Ok(()) => "a part of the supervisor itself has panicked; restart the daemon, and report this".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// The running daemon.
struct Daemon {
    source: ConfigSource,
    loaded: Loaded,
    manager: Arc<ServiceManager>,
    config: watch::Sender<Arc<Config>>,
    clusters: watch::Sender<Vec<ClusterName>>,
    overrides: Overrides,
    /// Of every cluster and of the state directory, for as long as this process lives.
    guards: Vec<DaemonGuard>,
    common: Common,
}

/// Of two daemons with one state directory, the second ends at once.
fn guard(config: &Config, cluster: &ClusterName) -> anyhow::Result<DaemonGuard> {
    let directory = config.state_directory.join(cluster.as_str());
    DaemonGuard::try_acquire(&directory, &SystemClock).map_err(|error| match error {
        GuardError::Busy(_) => {
            let text = format!("cluster {cluster} is protected already: {error}; stop that one first");
            Exit::error(Ending::Busy, text)
        }
        _ => anyhow::Error::new(error).context(format!("begin to protect cluster {cluster}")),
    })
}

/// Alarms and what `lifeboatd status` shows are those of one daemon, also where two protect different clusters.
fn whole_directory(directory: &Path) -> anyhow::Result<DaemonGuard> {
    DaemonGuard::try_acquire(directory, &SystemClock).map_err(|error| match error {
        GuardError::Busy(_) => {
            let text = format!(
                "the state directory {} is in use: {error}; let that daemon protect this cluster too, or give this one a \
                 directory of its own (state.directory)",
                directory.display()
            );
            Exit::error(Ending::Busy, text)
        }
        _ => anyhow::Error::new(error).context(format!("begin to use the state directory {}", directory.display())),
    })
}

fn names(config: &Config) -> Vec<ClusterName> {
    config.clusters.iter().map(|cluster| cluster.name.clone()).collect()
}

impl Daemon {
    fn begin(source: ConfigSource, loaded: Loaded, manager: Arc<ServiceManager>) -> anyhow::Result<Self> {
        let directory = &loaded.config.state_directory;
        // A disk that is full does not keep anybody from protecting; one that is not there at all does.
        state::make_directory(directory)
            .with_context(|| format!("make the state directory {}", directory.display()))?;
        let names = names(&loaded.config);
        let mut guards = names.iter().map(|name| guard(&loaded.config, name)).collect::<anyhow::Result<Vec<_>>>()?;
        guards.push(whole_directory(directory)?);
        let watchdog = if manager.watchdog.is_some() { Watchdog::Outside } else { Watchdog::Nobody };
        let config = watch::Sender::new(Arc::new(loaded.config.clone()));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let common = Common::new(config.subscribe(), watchdog, &clock, None);
        let overrides = Overrides::open(directory);
        let daemon =
            Self { source, manager, config, clusters: watch::Sender::new(names), overrides, guards, common, loaded };
        daemon.note_overrides();
        daemon.begin_tasks();
        Ok(daemon)
    }

    fn begin_tasks(&self) {
        let Common { supervisor, board, freezer, .. } = &self.common;
        self.common.begin_alarms();
        let house = House {
            state_directory: self.loaded.config.state_directory.clone(),
            clusters: self.clusters.subscribe(),
            freezer: Arc::clone(freezer),
            overrides: self.overrides.clone(),
            board: Arc::clone(board),
        };
        supervisor.spawn(None, TaskSettings::new("housekeeping", HOUSEKEEPING_CEILING), move |context| {
            housekeeping::keep(context, house.clone())
        });
        self.begin_status();
        for cluster in self.clusters.borrow().iter() {
            cluster::begin(&self.common, cluster);
        }
    }

    /// What others see: the status, and the web server, which begins again when its settings change.
    fn begin_status(&self) {
        let Common { supervisor, board, status, config, .. } = &self.common;
        let (shown, directory) = (Arc::clone(status), self.loaded.config.state_directory.clone());
        supervisor.spawn(None, TaskSettings::new("status", HOUSEKEEPING_CEILING).last(), move |context| {
            status_board::keep(context, Arc::clone(&shown), directory.clone())
        });
        let (status, alarms, config) = (Arc::clone(status), Arc::clone(board), config.clone());
        supervisor.spawn(None, TaskSettings::new("web", HOUSEKEEPING_CEILING).last(), move |context| {
            let (status, alarms) = (Arc::clone(&status), Arc::clone(&alarms));
            renewed(
                context,
                config.clone(),
                |config| config.http.clone(),
                move |context, config| {
                    let parts = WebParts {
                        settings: config.http.clone(),
                        environment: Environment::of_process(),
                        board: Arc::clone(&status),
                        alarms: Arc::clone(&alarms),
                    };
                    web::serve(context, parts)
                },
            )
        });
    }

    fn note_overrides(&self) {
        let (now, names) = (SystemClock.now(), self.clusters.borrow().clone());
        let seen = self.overrides.seen(&self.loaded.overrides, now, self.common.freezer.audit(), &names);
        if let Err(error) = seen {
            tracing::warn!(error = %error_chain(&error), "since when overrides are in force may be forgotten");
        }
        let shown = |active: ActiveOverride| OverrideStatus {
            variable: active.variable,
            setting: active.setting,
            since: active.since,
        };
        self.common.status.overridden(self.overrides.active().into_iter().map(shown).collect());
    }

    /// Says when it is ready, and reads the configuration again when it is told to, until it is told to stop.
    async fn work(&mut self, mut hangup: Signal, stop: &CancellationToken) {
        let readiness = Arc::clone(&self.common.readiness);
        let mut ready = std::pin::pin!(readiness.wait());
        let mut said = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                status = &mut ready, if !said => {
                    tracing::info!(status, "ready");
                    self.manager.ready(&status);
                    said = true;
                }
                told = hangup.recv() => {
                    if told.is_none() {
                        stop.cancelled().await;
                        return;
                    }
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = self.reload() => {}
                    }
                }
            }
        }
    }

    /// Reads the configuration again. A bad one changes nothing.
    ///
    /// CRASH SAFETY: nothing is written for it. The next start reads the file as it is then, and begins or refuses as at any
    /// start; what was running is begun again by what the regions and the state say.
    async fn reload(&mut self) {
        self.manager.reloading();
        let source = Source::daemon(SourceKind::Config);
        match self.take_over().await {
            Ok(plan) => {
                tracing::info!(changes = %plan, "the configuration was read again");
                self.common.board.forget(&source);
            }
            Err(refused) => {
                let mut wrong = Wrongs::default();
                let path = self.source.path.display();
                let text = format!("the configuration in {path} was refused, the one before stays in force: {refused}");
                wrong.add(Alarm::ConfigRefused, text);
                self.common.board.report(&source, wrong);
            }
        }
        self.manager.ready(&self.common.readiness.in_words());
    }

    async fn take_over(&mut self) -> Result<Plan, Refused> {
        let new = self.source.load()?;
        let plan = plan(&self.loaded, &new)?;
        // All or none: a lock that is kept for nothing would refuse ourselves at the next attempt.
        let guards = plan.added.iter().map(|cluster| guard(&new.config, cluster)).collect::<anyhow::Result<Vec<_>>>();
        self.guards.extend(guards.map_err(|error| Refused::NewCluster(format!("{error:#}")))?);
        self.loaded = new;
        for active in &self.loaded.overrides {
            tracing::info!(
                variable = active.variable,
                setting = active.path,
                value = active.shown,
                "override in force"
            );
        }
        self.common.status.expect(&self.loaded.config);
        self.config.send_replace(Arc::new(self.loaded.config.clone()));
        self.clusters.send_replace(names(&self.loaded.config));
        self.note_overrides();
        let patience = self.loaded.config.daemon.stop_timeout;
        for (cluster, why) in &plan.again {
            let why = why.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            tracing::info!(%cluster, why, "the tasks of the cluster end in order and begin again");
            let cut_off = self.common.supervisor.stop_cluster(cluster, patience).await;
            if !cut_off.is_empty() {
                let tasks = cut_off.join(", ");
                tracing::warn!(%cluster, tasks, "tasks did not end in time and were cut off; they make up for what they lost");
            }
            cluster::begin(&self.common, cluster);
        }
        for cluster in &plan.added {
            cluster::begin(&self.common, cluster);
        }
        Ok(plan)
    }
}
