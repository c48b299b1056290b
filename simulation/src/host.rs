//! A host with its state, its key and its clock, on which the daemon runs, is killed and begins again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lifeboat_config::{Config, Environment};
use lifeboat_daemon::base::alarms::board::RaisedAlarm;
use lifeboat_daemon::regions::open::OpenRegions;
use lifeboat_daemon::run::cluster_daemon::ClusterDaemon;
use lifeboat_repository::keys::{Recipient, SigningKey, VerifyKey, write_private_file};
use lifeboat_repository::log::NoteSigner;
use lifeboat_stores::Store;
use lifeboat_vocabulary::{Clock, ClusterName};

use crate::clock::HostClock;
use crate::network::{Network, Rights};
use crate::schedule::Schedule;
use crate::server::Server;

/// The name of the simulated cluster.
#[must_use]
pub fn cluster() -> ClusterName {
    "main".parse().expect("it is a name")
}

/// What a host is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// It backs up and receives WAL.
    Writes,
    /// It deletes, heals and scrubs.
    Prunes,
}

impl Duty {
    fn roles(self) -> &'static str {
        match self {
            Self::Writes => r#"["backup", "wal", "watch"]"#,
            Self::Prunes => r#"["prune", "heal", "scrub", "watch"]"#,
        }
    }

    /// What it signs as.
    fn name(self) -> &'static str {
        match self {
            Self::Writes => "lifeboat",
            Self::Prunes => "pruner",
        }
    }

    fn rights(self) -> Rights {
        match self {
            Self::Writes => Rights::Writer,
            Self::Prunes => Rights::Pruner,
        }
    }
}

/// A host.
pub struct Host {
    duty: Duty,
    directory: PathBuf,
    key: Arc<NoteSigner>,
    clock: HostClock,
    networks: Vec<Arc<Network>>,
    regions: Vec<Arc<dyn Store>>,
    daemon: Option<ClusterDaemon>,
    /// What its last daemon had raised when it ended.
    raised: Vec<RaisedAlarm>,
}

impl Host {
    /// A host without a daemon.
    ///
    /// # Errors
    /// If its files cannot be written.
    pub fn new(directory: &Path, duty: Duty, world: &Surroundings<'_>, seed: u64) -> anyhow::Result<Self> {
        let directory = directory.join(duty.name());
        std::fs::create_dir_all(&directory)?;
        let networks: Vec<_> =
            (0..).zip(world.regions).map(|(index, _)| Network::new(duty.rights(), seed.wrapping_add(index))).collect();
        let regions =
            networks.iter().zip(world.regions).map(|(network, region)| network.to(Arc::clone(region))).collect();
        let key = SigningKey::generate()?;
        let signer = signer(duty, key, world.root)?;
        let host = Self {
            duty,
            directory,
            key: Arc::new(signer),
            clock: world.clock.beside(),
            networks,
            regions,
            daemon: None,
            raised: Vec::new(),
        };
        host.configure(world)?;
        Ok(host)
    }

    /// Gives it another signing key; for its next start.
    ///
    /// # Errors
    /// If its files cannot be written.
    pub fn change_key(&mut self, world: &Surroundings<'_>) -> anyhow::Result<()> {
        self.key = Arc::new(signer(self.duty, SigningKey::generate()?, world.root)?);
        self.configure(world)
    }

    #[expect(clippy::disallowed_methods, reason = "a file of the simulation, before its daemon begins")]
    fn configure(&self, world: &Surroundings<'_>) -> anyhow::Result<()> {
        let key_file = self.directory.join("signing.key");
        drop(std::fs::remove_file(&key_file));
        write_private_file(&key_file, &self.key.key().to_file_text(world.clock.now()))?;
        std::fs::write(self.directory.join("lifeboat.toml"), self.text(world, &key_file))?;
        Ok(())
    }

    fn text(&self, world: &Surroundings<'_>, key_file: &Path) -> String {
        let regions: String = (0..world.regions.len())
            .map(|index| format!("[[region]]\nname = \"r{index}\"\nurl = \"file:///simulated/r{index}\"\n"))
            .collect();
        format!(
            r#"[[cluster]]
name = "main"
connection = "{connection}"
[cluster.backup]
checkpoint = "fast"
[cluster.schedule]
full = "*/{minutes} 6 * * *"
[cluster.retention]
daily = 1
weekly = 1
monthly = 1
pitr_window = "{window}m"
min_keep = {min_keep}
grace = "{grace}m"
extra_backups_per_day = {by_hand}
[cluster.objectives]
rpo = "30s"
{regions}
[durability]
backup_quorum = 2
wal_quorum = {quorum}
flush_interval = "2s"
region_lag_limit = "30s"
[keys]
recipients = ["{recipient}"]
signing_key = "file:{key}"
root = "{root}"
name = "{name}"
[limits]
memory = "64MiB"
workers = 1
spool = "64MiB"
[daemon]
roles = {roles}
[http]
listen = "off"
[state]
directory = "{state}"
"#,
            connection = Server::connection(world.server),
            minutes = world.schedule.minutes,
            window = world.schedule.window,
            grace = world.schedule.grace,
            by_hand = Schedule::BY_HAND,
            min_keep = world.schedule.min_keep,
            quorum = world.wal_quorum,
            recipient = world.recipient,
            key = key_file.display(),
            root = world.root,
            name = self.duty.name(),
            roles = self.duty.roles(),
            state = self.directory.join("state").display(),
        )
    }

    /// Begins the daemon.
    ///
    /// # Errors
    /// If its configuration is refused, or its state directory cannot be used.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let path = self.directory.join("lifeboat.toml");
        let loaded = Config::load(&path, &Environment::of_process()).map_err(|faults| anyhow::anyhow!("{faults}"))?;
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let stores = self.regions.iter().map(Arc::clone);
        let regions = Arc::new(OpenRegions::given(&loaded.config, &cluster(), stores, &clock));
        self.daemon = Some(ClusterDaemon::begin(loaded.config, &cluster(), regions, &clock)?);
        Ok(())
    }

    /// Ends the daemon: in order, or as a power failure does.
    pub async fn stop(&mut self, patience: Duration) {
        if let Some(daemon) = self.daemon.take() {
            self.raised = daemon.alarms();
            daemon.stop(patience).await;
        }
    }

    /// Whether the daemon runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.daemon.is_some()
    }

    /// The alarms that its daemon has raised, or had when it ended.
    #[must_use]
    pub fn alarms(&self) -> Vec<RaisedAlarm> {
        self.daemon.as_ref().map_or_else(|| self.raised.clone(), ClusterDaemon::alarms)
    }

    /// The networks to the regions, in their order.
    #[must_use]
    pub fn networks(&self) -> &[Arc<Network>] {
        &self.networks
    }

    /// Its clock.
    #[must_use]
    pub fn clock(&self) -> &HostClock {
        &self.clock
    }

    /// The key that it signs with.
    #[must_use]
    pub fn key(&self) -> &Arc<NoteSigner> {
        &self.key
    }

    /// Where the files of its spool lie.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.directory.join("state/main/spool")
    }
}

fn signer(duty: Duty, key: SigningKey, root: &VerifyKey) -> anyhow::Result<NoteSigner> {
    Ok(NoteSigner::under(format!("{}.{}", duty.name(), cluster()).parse()?, key, *root))
}

/// What all hosts share.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The regions themselves.
    pub regions: &'a [Arc<dyn Store>],
    /// The time.
    pub clock: &'a HostClock,
    /// The directory of the server's socket.
    pub server: &'a Path,
    /// The root key.
    pub root: &'a VerifyKey,
    /// For whom backups are sealed.
    pub recipient: &'a Recipient,
    /// Regions that must hold WAL before the server hears of it.
    pub wal_quorum: usize,
    /// How often backups are made.
    pub schedule: Schedule,
}
