//! Which tasks protect a cluster, and what each of them is given.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lifeboat_config::{ClusterSettings, Config, Role};
use lifeboat_vocabulary::{Clock, ClusterName};
use tokio::sync::watch;

use crate::backup::history::RunHistory;
use crate::backup::maker::Maker;
use crate::backup::task::SchedulerParts;
use crate::base::alarms::board::{AlarmBoard, Source, SourceKind};
use crate::base::capacity::Capacity;
use crate::base::readiness::{Looked, Readiness};
use crate::base::renewed::renewed;
use crate::base::supervisor::{Supervisor, TaskContext, TaskSettings, Watchdog};
use crate::care::board::CareBoard;
use crate::care::parts::CareParts;
use crate::care::{audit_delivery, tamper_watch};
use crate::deletion::freeze::Freezer;
use crate::model::verdict::WalReceiver;
use crate::regions::context::ClusterContext;
use crate::regions::follow;
use crate::regions::memory::RegionBook;
use crate::regions::open::OpenRegions;
use crate::regions::survey::{self, SurveyParts};
use crate::regions::watch::{Probing, WatchParts};
use crate::retention::task::RetentionParts;
use crate::settings::wiring::{self, ClusterConfig};
use crate::status::board::{ClusterView, StatusBoard};
use crate::wal::shared::Shared;
use crate::wal::task::{self as wal, WalParts};
use crate::{backup, care, regions, retention};

/// How long WAL that has arrived may lie before it is taken care of.
const WAL_CEILING: Duration = Duration::from_secs(120);
/// How long a backup may go without a byte, and the scheduler without a decision.
const SCHEDULE_CEILING: Duration = Duration::from_secs(900);
const ORDINARY_CEILING: Duration = Duration::from_secs(900);
/// How long the keeper of the alarms may take for one of them.
const ALARMS_CEILING: Duration = Duration::from_secs(60);

/// Who raises alarms, by the role that it belongs to.
const ALARMS_BY_ROLE: [(Role, &[SourceKind]); 6] = [
    (Role::Wal, &[SourceKind::Wal]),
    (Role::Backup, &[SourceKind::Schedule]),
    (Role::Watch, &[SourceKind::Regions, SourceKind::Agreement, SourceKind::LostWal]),
    (Role::Prune, &[SourceKind::Prune]),
    (Role::Heal, &[SourceKind::Heal]),
    (Role::Scrub, &[SourceKind::Scrub]),
];

/// What the tasks of all clusters share.
#[derive(Clone)]
pub(crate) struct Common {
    /// The configuration in force.
    pub(crate) config: watch::Receiver<Arc<Config>>,
    /// Owns all tasks.
    pub(crate) supervisor: Arc<Supervisor>,
    pub(crate) board: Arc<AlarmBoard>,
    /// What is frozen and paused.
    pub(crate) freezer: Arc<Freezer>,
    /// Who waits for the first look at each cluster.
    pub(crate) readiness: Arc<Readiness>,
    /// The processor and the memory.
    pub(crate) capacity: Capacity,
    /// Where it is seen how everything stands.
    pub(crate) status: Arc<StatusBoard>,
    /// This host's clock.
    pub(crate) clock: Arc<dyn Clock>,
    /// Regions that are open already, instead of those that the configuration leads to.
    pub(crate) regions: Option<Arc<OpenRegions>>,
}

impl Common {
    /// Of a daemon with this state directory; nothing is begun yet.
    pub(crate) fn new(
        config: watch::Receiver<Arc<Config>>,
        watchdog: Watchdog,
        clock: &Arc<dyn Clock>,
        regions: Option<Arc<OpenRegions>>,
    ) -> Self {
        let now = Arc::clone(&config.borrow());
        let directory = &now.state_directory;
        // One that was damaged is reported for as long as it lies aside.
        let (board, _) = AlarmBoard::open(directory, Arc::clone(clock));
        board.forget(&Source::daemon(SourceKind::Config));
        let (board, supervisor) = (Arc::new(board), Arc::new(Supervisor::new(watchdog)));
        let freezer = Arc::new(Freezer::new(directory, Arc::clone(clock)));
        let status =
            StatusBoard::new(Arc::clone(&board), Arc::clone(&freezer), Arc::clone(&supervisor), Arc::clone(clock));
        status.expect(&now);
        let names: Vec<ClusterName> = now.clusters.iter().map(|cluster| cluster.name.clone()).collect();
        Self {
            config,
            supervisor,
            board,
            freezer,
            status: Arc::new(status),
            readiness: Arc::new(Readiness::of(&names)),
            capacity: Capacity::new(&now.limits),
            clock: Arc::clone(clock),
            regions,
        }
    }

    /// Begins the task that keeps the alarms.
    pub(crate) fn begin_alarms(&self) {
        let keeper = Arc::clone(&self.board);
        self.supervisor.spawn(None, TaskSettings::new("alarms", ALARMS_CEILING).last(), move |context| {
            let board = Arc::clone(&keeper);
            async move {
                context.progress.waiting("a change");
                board.keep(&context.stop).await;
                Ok(())
            }
        });
    }
}

/// Protects a cluster from now on: as one task that opens everything, begins the others and holds what is theirs together.
pub(crate) fn begin(common: &Common, cluster: &ClusterName) {
    let (common, name) = (common.clone(), cluster.clone());
    let settings = TaskSettings::new("cluster", ORDINARY_CEILING).core().last();
    let supervisor = Arc::clone(&common.supervisor);
    supervisor.spawn(Some(cluster), settings, move |context| protect(context, common.clone(), name.clone()));
}

async fn protect(context: TaskContext, common: Common, cluster: ClusterName) -> anyhow::Result<()> {
    let begun = attempt(&context, &common, &cluster).await;
    if let Err(error) = &begun {
        common.readiness.looked(&cluster, Looked::Failed(format!("{error:#}")));
    }
    begun?;
    context.progress.waiting("the end");
    context.stop.cancelled().await;
    Ok(())
}

async fn attempt(context: &TaskContext, common: &Common, cluster: &ClusterName) -> anyhow::Result<()> {
    let config = Arc::clone(&common.config.borrow());
    let settings = wiring::cluster(&config, Some(cluster))?.clone();
    let directory = ClusterConfig { config: &config, cluster: &settings }.state_directory();
    crate::base::state::make_directory(&directory).with_context(|| format!("make {}", directory.display()))?;
    context.progress.waiting("the regions");
    let regions = match &common.regions {
        Some(regions) => Arc::clone(regions),
        None => Arc::new(OpenRegions::open(&config, cluster).await?),
    };
    regions.logs().keep_in(&directory);
    let clock = Arc::clone(&common.clock);
    let (book, _) = RegionBook::open(&directory, &regions, clock.now());
    let count = regions.len();
    let shared = ClusterContext {
        cluster: cluster.clone(),
        directory,
        config: common.config.clone(),
        regions,
        facts: Arc::default(),
        alarms: Arc::clone(&common.board),
        freezer: Arc::clone(&common.freezer),
        // First of all, so that nothing is begun without it.
        signer: wiring::signer(&config, cluster)?,
        clock: Arc::clone(&clock),
    };
    let tasks = Tasks {
        common: common.clone(),
        context: shared,
        cluster: settings,
        shared: Arc::new(Shared::new(cluster.clone(), count, clock)),
        book: Arc::new(book),
        care: Arc::default(),
        good: watch::Sender::default(),
        config,
    };
    if !context.stop.is_cancelled() {
        tasks.begin()?;
    }
    Ok(())
}

/// Begins the tasks of one cluster, as its roles say.
struct Tasks {
    common: Common,
    /// As it is now; tasks that follow changes take `common.config`.
    config: Arc<Config>,
    cluster: ClusterSettings,
    context: ClusterContext,
    shared: Arc<Shared>,
    book: Arc<RegionBook>,
    care: Arc<CareBoard>,
    /// Counts good backups, for the tasks that wait for the next one.
    good: watch::Sender<u64>,
}

impl Tasks {
    fn begin(&self) -> anyhow::Result<()> {
        let has = |role| self.config.daemon.does(role);
        self.show();
        for (role, sources) in ALARMS_BY_ROLE {
            if !has(role) {
                // Nobody would ever clear it.
                sources.iter().for_each(|source| self.common.board.forget(&Source::of(&self.cluster.name, *source)));
            }
        }
        if has(Role::Wal) {
            self.begin_wal();
        } else {
            self.common.readiness.looked(&self.cluster.name, Looked::Regions { read: 0, quorum: 0 });
        }
        if has(Role::Backup) {
            self.begin_schedule();
        }
        if has(Role::Watch) {
            self.begin_watch();
        }
        if has(Role::Prune) {
            self.begin_retention();
        }
        if has(Role::Heal) {
            self.begin_care("heal", care::heal::heal_task);
        }
        if has(Role::Scrub) {
            self.begin_care("scrub", care::scrub::scrub_task);
        }
        // Whoever deletes or heals may say that it has read a log; a key that may not writes none.
        if has(Role::Prune) || has(Role::Heal) {
            self.begin_care("bundles", care::bundles::bundles_task);
        }
        self.begin_survey();
        self.begin_tamper_watch();
        Ok(())
    }

    fn spawn<F, W>(&self, settings: TaskSettings, begin: F)
    where
        F: Fn(TaskContext) -> W + Send + Sync + 'static,
        W: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.common.supervisor.spawn(Some(&self.cluster.name), settings, begin);
    }

    fn show(&self) {
        let here = self.config.daemon.does(Role::Wal);
        self.common.status.show(ClusterView {
            cluster: self.cluster.name.clone(),
            rpo_seconds: self.cluster.objectives.rpo.as_secs_f64(),
            backup_quorum: self.config.durability.backup_quorum,
            receiver: if here { WalReceiver::Here } else { WalReceiver::Elsewhere },
            regions: Arc::clone(&self.context.regions),
            book: Arc::clone(&self.book),
            facts: Arc::clone(&self.context.facts),
        });
    }

    fn begin_wal(&self) {
        let parts = WalParts {
            context: self.context.clone(),
            config: Arc::clone(&self.config),
            cluster: self.cluster.clone(),
            shared: Arc::clone(&self.shared),
            readiness: Arc::clone(&self.common.readiness),
        };
        let settings = TaskSettings::new("wal", WAL_CEILING).core().last();
        self.spawn(settings, move |context| wal::run(context, parts.clone()));
    }

    fn begin_schedule(&self) {
        let cpu_share = self.common.capacity.cpu_share(&self.cluster.name);
        let maker =
            Maker { context: self.context.clone(), cpu_share: cpu_share.clone(), shared: Arc::clone(&self.shared) };
        let history = RunHistory::open(&self.context.directory).0;
        let parts = SchedulerParts {
            context: self.context.clone(),
            counted_after: history.read().iter().map(|run| run.number).max(),
            history,
            maker: Arc::new(maker),
            requests: self.shared.backup_requests(),
            capacity: self.common.capacity.clone(),
            good: self.good.clone(),
        };
        let settings = TaskSettings::new("schedule", SCHEDULE_CEILING).core();
        self.spawn(settings, move |context| backup::task::run(context, parts.clone()));
    }

    /// The health of the regions, whether they agree, and whether they have the WAL that they must have.
    fn begin_watch(&self) {
        let writes = self.config.daemon.does(Role::Wal) || self.config.daemon.does(Role::Backup);
        let parts = WatchParts {
            context: self.context.clone(),
            book: Arc::clone(&self.book),
            quorum: self.config.durability.wal_quorum.max(self.config.durability.backup_quorum),
            probing: if writes { Probing::Allowed } else { Probing::ReadOnly },
        };
        let settings = TaskSettings::new("regions", ORDINARY_CEILING);
        self.spawn(settings, move |context| regions::watch::watch(context, parts.clone()));
        self.begin_care("agreement", care::agreement::agreement_task);
        self.begin_care("lost-wal", care::lost_wal::lost_wal_task);
    }

    /// Begins a part of the care for what is stored; it begins again when settings become others that it works with.
    fn begin_care<W>(&self, name: &'static str, task: fn(TaskContext, CareParts) -> W)
    where
        W: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (parts, config) = (self.care(), self.common.config.clone());
        let settings_of = |config: &Config, cluster: &ClusterName| {
            config.clusters.iter().find(|settings| settings.name == *cluster).cloned()
        };
        self.spawn(TaskSettings::new(name, ORDINARY_CEILING), move |context| {
            let (parts, cluster) = (parts.clone(), parts.cluster.name.clone());
            let part = move |config: &Config| {
                let kept = settings_of(config, &cluster).map(|settings| (settings.retention, settings.schedule));
                (config.heal, config.scrub, kept)
            };
            renewed(context, config.clone(), part, move |context, config| {
                let cluster = settings_of(&config, &parts.cluster.name).unwrap_or_else(|| parts.cluster.clone());
                task(context, CareParts { config, cluster, ..parts.clone() })
            })
        });
    }

    fn care(&self) -> CareParts {
        CareParts {
            context: self.context.clone(),
            config: Arc::clone(&self.config),
            cluster: self.cluster.clone(),
            board: Arc::clone(&self.care),
            requests: self.shared.backup_requests(),
        }
    }

    fn begin_survey(&self) {
        let (cluster, good) = (self.context.clone(), self.good.subscribe());
        self.spawn(TaskSettings::new("logs", ORDINARY_CEILING), move |context| {
            follow::follow(context, cluster.clone(), good.clone())
        });
        let parts = SurveyParts { context: self.context.clone(), backup_quorum: self.config.durability.backup_quorum };
        let settings = TaskSettings::new("survey", ORDINARY_CEILING);
        self.spawn(settings, move |context| survey::survey(context, parts.clone()));
    }

    fn begin_retention(&self) {
        let parts = RetentionParts { context: self.context.clone(), good: self.good.subscribe() };
        self.spawn(TaskSettings::new("prune", ORDINARY_CEILING), move |context| {
            retention::task::run(context, parts.clone())
        });
    }

    fn begin_tamper_watch(&self) {
        let parts = self.context.clone();
        self.spawn(TaskSettings::new("tamper-watch", ORDINARY_CEILING), move |context| {
            tamper_watch::run(context, parts.clone())
        });
        let parts = self.context.clone();
        self.spawn(TaskSettings::new("audit-delivery", ORDINARY_CEILING), move |context| {
            audit_delivery::run(context, parts.clone())
        });
    }
}
