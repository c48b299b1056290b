//! The world of one simulation: regions, a server, hosts, and what has really happened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lifeboat_repository::format::ids::RepositoryId;
use lifeboat_repository::keys::{Identity, Recipient, SigningKey, VerifyKey};
use lifeboat_repository::log::records::{InitRecord, Origin, RecordBody, SignerRecord};
use lifeboat_repository::log::{
    Delegation, Descriptor, Draft, LogTrust, NoteSigner, RegionLog, Revocation, Role, Signers, Statement,
};
use lifeboat_stores::{MemoryStore, Store};
use lifeboat_vocabulary::{Clock, UtcTime};
use tempfile::TempDir;

use crate::clock::HostClock;
use crate::host::{Duty, Host, Surroundings};
use crate::network::{Network, Rights};
use crate::reader::Reader;
use crate::schedule::Schedule;
use crate::server::{SYSTEM_IDENTIFIER, Server};

/// How many regions there are.
pub const REGIONS: usize = 3;
/// How many must hold a backup before it counts.
pub const QUORUM: usize = 2;

/// Everything.
pub struct World {
    /// The regions themselves, without a network before them.
    pub regions: Vec<Arc<dyn Store>>,
    /// The server.
    pub server: Arc<Server>,
    /// The host of the server.
    pub writer: Host,
    /// The host that deletes and heals.
    pub pruner: Host,
    /// The time that is right.
    pub clock: HostClock,
    root: NoteSigner,
    identity: Identity,
    repository: RepositoryId,
    directory: TempDir,
    schedule: Schedule,
    wal_quorum: usize,
}

impl World {
    /// Begins a repository in all regions, and names the keys of both hosts.
    ///
    /// # Errors
    /// If the world cannot be set up.
    pub async fn new(seed: u64, schedule: Schedule, wal_quorum: usize) -> anyhow::Result<Self> {
        let directory = in_memory_directory()?;
        let clock = HostClock::begin();
        let stores = (0..REGIONS).map(|_| MemoryStore::with_clock(Arc::new(clock.beside())));
        let regions: Vec<Arc<dyn Store>> = stores.map(|store| Arc::new(store) as Arc<dyn Store>).collect();
        let root = NoteSigner::new("root.main".parse()?, SigningKey::generate()?);
        let identity = Identity::generate()?;
        let socket = directory.path().join("server");
        let (key, recipient) = (root.verify_key(), identity.recipient());
        let surroundings = Surroundings {
            regions: &regions,
            clock: &clock,
            server: &socket,
            root: &key,
            recipient: &recipient,
            wal_quorum,
            schedule,
        };
        let writer = Host::new(directory.path(), Duty::Writes, &surroundings, seed ^ 0x11)?;
        let pruner = Host::new(directory.path(), Duty::Prunes, &surroundings, seed ^ 0x2222)?;
        let server = Arc::new(Server::start(&socket, Arc::new(clock.beside())));
        let repository = RepositoryId::random()?;
        let world = Self {
            regions,
            server,
            writer,
            pruner,
            clock,
            root,
            identity,
            repository,
            directory,
            schedule,
            wal_quorum,
        };
        world.initialise().await?;
        Ok(world)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("server")
    }

    async fn initialise(&self) -> anyhow::Result<()> {
        let descriptor = Descriptor::new(self.repository, SYSTEM_IDENTIFIER, self.clock.now(), self.root.verify_key());
        for index in 0..self.regions.len() {
            let store = &**self.regions.get(index).context("there is such a region")?;
            let descriptor_sha256 = descriptor.create(store, &self.root).await?;
            let mut log = self.log(index).await?;
            let body =
                RecordBody::Init(InitRecord { repo: self.repository, sysid: SYSTEM_IDENTIFIER, descriptor_sha256 });
            log.append(store, &self.root, &Draft { origin: self.origin(&log), body }).await?;
        }
        self.delegate(&self.writer, &[Role::Writer]).await?;
        self.delegate(&self.pruner, &[Role::Pruner, Role::Operator]).await
    }

    /// The root key names the key of a host, in every region.
    ///
    /// # Errors
    /// If a log cannot be written.
    pub async fn delegate(&self, host: &Host, roles: &[Role]) -> anyhow::Result<()> {
        self.state(&Statement::Delegation(Delegation {
            repo: self.repository,
            key: host.key().verify_key(),
            name: host.key().name().clone(),
            roles: roles.to_vec(),
            from: self.clock_before(Duration::from_secs(3600)),
            until: None,
        }))
        .await
    }

    /// The root key takes a key's rights, in every region.
    ///
    /// # Errors
    /// If a log cannot be written.
    pub async fn revoke(&self, key: VerifyKey) -> anyhow::Result<()> {
        let (repo, time, reason) = (self.repository, self.clock.now(), "the host was taken over".to_owned());
        self.state(&Statement::Revocation(Revocation { repo, key, time, reason })).await
    }

    async fn state(&self, statement: &Statement) -> anyhow::Result<()> {
        let body = RecordBody::Signer(SignerRecord { statement: statement.sign(&self.root)? });
        for index in 0..self.regions.len() {
            let store = &**self.regions.get(index).context("there is such a region")?;
            let mut log = self.log(index).await?;
            log.append(store, &self.root, &Draft { origin: self.origin(&log), body: body.clone() }).await?;
        }
        Ok(())
    }

    fn origin(&self, log: &RegionLog) -> Origin {
        let (writer, time) = (self.root.name().clone(), self.clock.now());
        let wseq = Origin::next_count(log.last_count(&writer), time);
        Origin { writer, wseq, time, tool: "simulation".to_owned() }
    }

    /// A region's log as it is.
    ///
    /// # Errors
    /// If it cannot be read.
    pub async fn log(&self, index: usize) -> anyhow::Result<RegionLog> {
        let trust = LogTrust {
            repository: self.repository,
            signers: Signers::root_only(self.root.verify_key()),
            region: Some(format!("r{index}").parse()?),
            remembered: None,
        };
        let store = &**self.regions.get(index).context("there is such a region")?;
        Ok(RegionLog::read(store, trust).await?)
    }

    /// For whom backups are sealed.
    #[must_use]
    pub fn recipient(&self) -> Recipient {
        self.identity.recipient()
    }

    /// The time, so long ago.
    #[must_use]
    pub fn clock_before(&self, ago: Duration) -> UtcTime {
        before(self.clock.now(), ago)
    }

    /// The repository's name.
    #[must_use]
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// Gives the writer another key and lets the root key name it.
    ///
    /// # Errors
    /// If its files or a log cannot be written.
    pub async fn change_writers_key(&mut self) -> anyhow::Result<()> {
        let (key, recipient, socket) = (self.root.verify_key(), self.identity.recipient(), self.socket());
        let surroundings = Surroundings {
            regions: &self.regions,
            clock: &self.clock,
            server: &socket,
            root: &key,
            recipient: &recipient,
            wal_quorum: self.wal_quorum,
            schedule: self.schedule,
        };
        self.writer.change_key(&surroundings)?;
        self.delegate(&self.writer, &[Role::Writer]).await
    }

    /// A restore host that sees all regions.
    ///
    /// # Errors
    /// If the identity cannot be copied.
    pub fn reader(&self) -> anyhow::Result<Reader> {
        let identity = Identity::from_text(self.identity.to_text().expose())?;
        let network = |region: &Arc<dyn Store>| Network::new(Rights::Reader, 0).to(Arc::clone(region));
        let regions: Vec<Arc<dyn Store>> = self.regions.iter().map(network).collect();
        Ok(Reader::new(self.root.verify_key(), identity, &regions))
    }

    /// Somebody who sees all regions at once, without a network.
    ///
    /// # Errors
    /// If the identity cannot be copied.
    pub fn onlooker(&self) -> anyhow::Result<Reader> {
        let identity = Identity::from_text(self.identity.to_text().expose())?;
        Ok(Reader::new(self.root.verify_key(), identity, &self.regions))
    }

    /// How many regions must hold WAL before the server hears of it.
    #[must_use]
    pub fn wal_quorum(&self) -> usize {
        self.wal_quorum
    }

    /// How often backups are made.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        self.schedule
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> UtcTime {
        self.clock.now()
    }
}

/// A directory whose files need no disk, where the machine has one: a disk would be waited for thousands of times.
fn in_memory_directory() -> anyhow::Result<TempDir> {
    let builder = tempfile::Builder::new().prefix("lifeboat-simulation-").to_owned();
    builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir()).context("make a directory")
}

fn before(time: UtcTime, ago: Duration) -> UtcTime {
    let micros = time.as_unix_micros().saturating_sub(i64::try_from(ago.as_micros()).unwrap_or(i64::MAX));
    UtcTime::from_unix_micros(micros).unwrap_or(time)
}
