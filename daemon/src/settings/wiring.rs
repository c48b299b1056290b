//! From the configuration to concrete parts: stores, keys, options.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::{Context, bail};
use lifeboat_config::{ClusterSettings, Config, Environment, SecretRef};
use lifeboat_postgres::BaseBackupOptions;
use lifeboat_repository::format::layout::{self, StoredName};
use lifeboat_repository::keys::SigningKey;
use lifeboat_repository::log::NoteSigner;
use lifeboat_stores::{
    KeyNature, ObjectKey, Precedence, RegionSettings, RetryPolicy, Stack, StackOptions, Store, StoreUrl,
    standard_stack_with,
};
use lifeboat_vocabulary::{Clock, ClusterName};

/// How records name the program that wrote them.
pub const TOOL: &str = concat!("lifeboat ", env!("CARGO_PKG_VERSION"));

/// The configuration, and the cluster of it that something is about.
#[derive(Clone, Copy, Debug)]
pub struct ClusterConfig<'a> {
    /// The whole configuration.
    pub config: &'a Config,
    /// What it says of the cluster.
    pub cluster: &'a ClusterSettings,
}

impl ClusterConfig<'_> {
    /// The folder of the cluster below the state directory.
    #[must_use]
    pub fn state_directory(self) -> PathBuf {
        self.config.state_directory.join(self.cluster.name.as_str())
    }

    /// The key that signs records of the cluster.
    ///
    /// # Errors
    /// If it cannot be read, with what to do.
    pub fn signer(self) -> anyhow::Result<Arc<NoteSigner>> {
        signer(self.config, &self.cluster.name)
    }
}

/// The cluster that the command is about.
///
/// # Errors
/// If it is not clear which one.
pub fn cluster<'a>(config: &'a Config, name: Option<&ClusterName>) -> anyhow::Result<&'a ClusterSettings> {
    let names: Vec<&str> = config.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    match (name, config.clusters.as_slice()) {
        (Some(name), clusters) => clusters
            .iter()
            .find(|cluster| cluster.name == *name)
            .with_context(|| format!("the configuration has no cluster {name}; it has {}", names.join(", "))),
        (None, [only]) => Ok(only),
        (None, _) => bail!("there are several clusters ({}); choose one with --cluster", names.join(", ")),
    }
}

/// Packs have names with random bits: one that is there after the answer to our own write was lost is ours, because nobody
/// could know the name before. The names of the other objects of a backup follow from its own, which everybody sees who can
/// list.
fn key_nature(key: &ObjectKey) -> KeyNature {
    match layout::parse(key) {
        Some(StoredName::Pack { .. }) => KeyNature::Unguessable,
        _ => KeyNature::Predictable,
    }
}

/// What goes first on the line of this process, to whichever region of whichever cluster.
static PRECEDENCE: LazyLock<Arc<Precedence>> = LazyLock::new(Arc::default);

/// What goes first on the line of this process.
#[must_use]
pub fn precedence() -> Arc<Precedence> {
    Arc::clone(&PRECEDENCE)
}

/// Puts retries, breaker and limits around a region's bare store; WAL and records do not wait for the data of backups, to this region or
/// to another one on the same line.
#[must_use]
pub fn stacked(
    settings: &RegionSettings,
    bare: Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
    precedence: &Arc<Precedence>,
) -> Stack {
    let options = StackOptions::of(settings);
    let retry = RetryPolicy { key_nature, ..options.retry };
    // A directory has no part in the line: a slow disk must not hold back the bodies that go to the other regions.
    let precedence = match settings.url {
        StoreUrl::Directory(_) => Arc::default(),
        StoreUrl::S3 { .. } => Arc::clone(precedence),
    };
    let options = StackOptions { retry, lane: layout::writers_lane, precedence, ..options };
    standard_stack_with(bare, options, Arc::clone(clock))
}

/// The key that signs records.
///
/// # Errors
/// If it cannot be read, with what to do.
pub fn signer(config: &Config, cluster: &ClusterName) -> anyhow::Result<Arc<NoteSigner>> {
    let text = config.keys.signing_key.load(&Environment::of_process()).context("read the signing key");
    let text = text.context("`lifeboatd init` makes it where its file does not exist yet")?;
    let key = SigningKey::parse_file(text.expose()).context("read the signing key")?;
    let name = format!("{}.{cluster}", config.keys.name).parse()?;
    let signer = match config.keys.root {
        Some(root) => NoteSigner::under(name, key, root),
        None => NoteSigner::new(name, key),
    };
    Ok(Arc::new(signer))
}

/// Signs as `lifeboat.<cluster>`, with the root key itself.
///
/// # Errors
/// If the name cannot stand in a note.
pub fn named(key: SigningKey, cluster: &ClusterName) -> anyhow::Result<Arc<NoteSigner>> {
    Ok(Arc::new(NoteSigner::new(format!("lifeboat.{cluster}").parse()?, key)))
}

/// The file of the signing key, where it is one.
#[must_use]
pub fn signing_key_file(config: &Config) -> Option<PathBuf> {
    match &config.keys.signing_key {
        SecretRef::File(path) => Some(path.clone()),
        _ => None,
    }
}

/// What to ask the server for.
#[must_use]
pub fn base_backup_options(cluster: &ClusterSettings, label: String) -> BaseBackupOptions {
    let kilobytes = |rate: lifeboat_vocabulary::ByteCount| u32::try_from(rate.as_bytes() / 1024).unwrap_or(1 << 20);
    // What the server takes: 32 kB/s to 1 GB/s.
    let max_rate = cluster.backup.max_rate.map(|rate| kilobytes(rate).clamp(32, 1 << 20));
    BaseBackupOptions { label, checkpoint: cluster.backup.checkpoint, max_rate }
}

/// How long one operation may take in `doctor`.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(20);
