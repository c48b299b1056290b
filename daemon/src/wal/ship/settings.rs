//! What the shipper is told at its start.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_config::CommitMode;
use lifeboat_repository::format::Incarnation;
use lifeboat_repository::format::ids::RepositoryId;
use lifeboat_repository::keys::{KeyCommand, Recipient};
use lifeboat_repository::log::NoteSigner;
use lifeboat_vocabulary::{ByteCount, ClusterName};

use crate::regions::log_follower::LogFollower;
use crate::wal::server_memory::ServerMemory;

/// How long the start waits for a region.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(20);

/// Who can open what is sealed.
#[derive(Clone, Debug)]
pub struct WalKeyRecipients {
    /// Owners of identities.
    pub recipients: Vec<Recipient>,
    /// Programs that wrap.
    pub commands: Vec<KeyCommand>,
}

/// How the shipper works.
#[derive(Clone, Debug)]
pub struct ShipSettings {
    /// The age at which bytes that were not cut yet are cut. Exact to the **millisecond**.
    pub flush_interval: Duration,
    /// Whether commits wait.
    pub mode: CommitMode,
    /// Regions that must hold WAL before it is confirmed; at least 1.
    pub wal_quorum: usize,
    /// Where sealed objects wait for regions that are away. Used by one process only; made if it is missing.
    pub spool_directory: PathBuf,
    /// What the spool may hold, at least 64 MiB.
    pub spool_limit: ByteCount,
    /// What may be held in memory, raw and sealed, at least 64 MiB.
    pub memory: ByteCount,
    /// The cluster, for the lease.
    pub cluster: ClusterName,
    /// The repository that the objects belong to.
    pub repository: RepositoryId,
    /// Signs objects, records and heads.
    pub signer: Arc<NoteSigner>,
    /// Who can open the objects.
    pub recipients: WalKeyRecipients,
    /// How records name this program.
    pub tool: String,
    /// The incarnation of the server, where it is a copy that was adopted.
    pub incarnation: Option<Incarnation>,
    /// What is remembered of the server.
    pub server: ServerMemory,
    /// Reads the logs of the regions.
    pub logs: Arc<LogFollower>,
}
