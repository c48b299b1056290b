//! From addresses and key files to a repository that can be read: the same for every command, here and in the daemon.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, bail, ensure};
use lifeboat_repository::backup::read::{BackupReader, StoredBackup};
use lifeboat_repository::catalog::{Catalog, CatalogRow, RegionAnswer, RegionView};
use lifeboat_repository::format::{PacksList, layout};
use lifeboat_repository::keys::{
    self, COMMAND_TIMEOUT, EpochPlace, KeyCommand, Openers, SlotsError, VerifyKey, parse_identity_file,
    read_private_file,
};
use lifeboat_repository::log::records::BackupRecord;
use lifeboat_repository::log::{Descriptor, LogTrust, RegionLog, RegionStore, Signers};
use lifeboat_repository::wal::read::WalOpeners;
use lifeboat_stores::{
    ByteRange, OBJECT_BYTES_MAX, ObjectKey, RegionSettings, StackOptions, Store, list_folders, open_below,
    standard_stack,
};
use lifeboat_vocabulary::{BackupId, ClusterName, RegionName, Sha256Digest, error_chain};
use tokio::task::JoinSet;

use crate::asked::{Asked, asked_at_once};
use crate::errln;
use crate::exit_code::{Ending, Exit};
use crate::omissions::incomplete_text;
use crate::passphrase::ask_passphrase;
use crate::place::PlaceArgs;

/// Why a region that was given up is not read.
const LEFT_OUT: &str = "it is left out, as it was asked";

/// A repository in all its regions, as far as they could be read.
pub struct Repository {
    /// The cluster.
    pub cluster: ClusterName,
    /// Regions that could be opened, in the order they were given.
    pub regions: Vec<RegionStore>,
    /// What every region answered.
    pub views: Vec<RegionView>,
    /// All backups.
    pub catalog: Catalog,
}

/// The regions of the command line, else of the configuration file.
///
/// # Errors
/// If there are none, or one cannot be understood.
pub fn region_settings(place: &PlaceArgs) -> anyhow::Result<Vec<RegionSettings>> {
    if place.regions.is_empty() {
        let default = std::path::PathBuf::from("/etc/lifeboat/lifeboat.toml");
        let path = place.config.clone().unwrap_or(default);
        if place.config.is_none() && !path.exists() {
            let message = "no region was given: name one with --region s3://bucket/prefix (or file:///dir), or a configuration with --config";
            return Err(Exit::error(Ending::BadConfig, message));
        }
        let loaded = lifeboat_config::Config::load(&path, &lifeboat_config::Environment::of_process());
        return match loaded {
            Ok(loaded) => Ok(loaded.config.regions),
            Err(faults) => {
                errln!("{faults}");
                Err(Exit::error(Ending::BadConfig, format!("{} cannot be used as it is", path.display())))
            }
        };
    }
    let parse = |(index, address): (usize, &String)| {
        let name: RegionName = format!("region-{}", index + 1).parse()?;
        RegionSettings::from_url(name, address).with_context(|| format!("read the address {address}"))
    };
    place.regions.iter().enumerate().map(parse).collect()
}

/// Opens a region with retries, breaker and limits around it.
///
/// # Errors
/// If its settings cannot work.
pub async fn open_region(settings: &RegionSettings, cluster: &ClusterName) -> anyhow::Result<RegionStore> {
    let bare = open_below(settings, Some(cluster)).await?;
    let stack = standard_stack(bare, StackOptions { lane: layout::readers_lane, ..StackOptions::of(settings) });
    Ok(RegionStore { name: settings.name.clone(), store: stack.store })
}

/// Reads and checks a region's descriptor and log.
///
/// # Errors
/// If one of them is missing or not what it should be.
pub async fn read_region(
    store: &dyn Store,
    pinned: Option<&VerifyKey>,
    name: Option<RegionName>,
) -> anyhow::Result<(Descriptor, RegionLog)> {
    read_counted(store, pinned, name, Arc::default()).await
}

async fn read_counted(
    store: &dyn Store,
    pinned: Option<&VerifyKey>,
    name: Option<RegionName>,
    looked_at: Arc<AtomicU64>,
) -> anyhow::Result<(Descriptor, RegionLog)> {
    let (descriptor, _) = Descriptor::read(store, pinned).await.context("read the repository's descriptor")?;
    let signers = Signers::root_only(descriptor.root);
    let trust = LogTrust { repository: descriptor.repo, signers, region: name, remembered: None };
    let log = RegionLog::read_counted(store, trust, looked_at).await.context("read the log")?;
    Ok((descriptor, log))
}

/// Where the names of regions come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RegionNames {
    /// From the configuration; the logs must have the same.
    OfSettings,
    /// From the logs: on the command line regions are addresses.
    OfLogs,
}

async fn read_as_named(
    settings: &RegionSettings,
    cluster: &ClusterName,
    pinned: Option<&VerifyKey>,
    names: RegionNames,
    looked_at: Arc<AtomicU64>,
) -> anyhow::Result<(RegionStore, Descriptor, RegionLog)> {
    let region = open_region(settings, cluster).await?;
    let expected = (names == RegionNames::OfSettings).then(|| settings.name.clone());
    let (descriptor, log) = read_counted(&*region.store, pinned, expected, looked_at).await?;
    Ok((region, descriptor, log))
}

impl Repository {
    /// Opens all regions and reads their histories. A region that cannot be read is a finding, not a failure.
    ///
    /// # Errors
    /// If no region can be used, or the cluster is not clear.
    pub async fn open(place: &PlaceArgs) -> anyhow::Result<Self> {
        Self::open_without(place, &[]).await
    }

    /// As [`Self::open`], and asks nothing of regions that were given up.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_without(place: &PlaceArgs, without: &[RegionName]) -> anyhow::Result<Self> {
        let settings = region_settings(place)?;
        let cluster = match &place.cluster {
            Some(cluster) => cluster.clone(),
            None => the_only_cluster(&settings, without).await?,
        };
        let names = if place.regions.is_empty() { RegionNames::OfSettings } else { RegionNames::OfLogs };
        Self::read_as(&settings, without, cluster, place.signer.as_ref(), names).await
    }

    /// Reads the repository of a configured cluster, whose signing key is known. The names of the settings must be those of
    /// the logs.
    ///
    /// # Errors
    /// If no region can be used.
    pub async fn read(settings: &[RegionSettings], cluster: ClusterName, pinned: &VerifyKey) -> anyhow::Result<Self> {
        Self::read_as(settings, &[], cluster, Some(pinned), RegionNames::OfSettings).await
    }

    async fn read_as(
        settings: &[RegionSettings],
        without: &[RegionName],
        cluster: ClusterName,
        pinned: Option<&VerifyKey>,
        names: RegionNames,
    ) -> anyhow::Result<Self> {
        let asked = Asked::all(settings);
        // Each on a thread of its own: a log of years has a hundred thousand signatures to verify.
        let answers = asked.iter().map(async |Asked { settings, looked_at }| {
            ensure!(!without.contains(&settings.name), LEFT_OUT);
            let (settings, cluster, pinned) = (RegionSettings::clone(settings), cluster.clone(), pinned.copied());
            let (mut read, looked_at) = (JoinSet::new(), Arc::clone(looked_at));
            read.spawn(async move { read_as_named(&settings, &cluster, pinned.as_ref(), names, looked_at).await });
            read.join_next().await.context("read the region")?.context("read the region")?
        });
        let answers = asked_at_once(&asked, answers, &|text| errln!("{text}"));
        let mut regions = Vec::new();
        let mut views = Vec::new();
        for (settings, answer) in settings.iter().zip(answers.await) {
            let mut name = settings.name.clone();
            let answer = match answer {
                Ok((region, descriptor, log)) => {
                    // On the command line a region need not be named: it knows its own name.
                    name = log.region().filter(|_| names == RegionNames::OfLogs).cloned().unwrap_or(name);
                    regions.push(RegionStore { name: name.clone(), ..region });
                    RegionAnswer::Read { descriptor: Box::new(descriptor), log: Box::new(log) }
                }
                Err(error) => RegionAnswer::Unreadable { why: format!("{error:#}") },
            };
            views.push(RegionView { name, answer });
        }
        let catalog = Catalog::merge(&views);
        if regions.is_empty() {
            let why: Vec<String> = catalog.findings().iter().map(ToString::to_string).collect();
            bail!("no region can be read: {}", why.join("; "));
        }
        Ok(Self { cluster, regions, views, catalog })
    }

    /// The regions that gave no log, and why not: what they hold is not known.
    pub fn unread(&self) -> impl Iterator<Item = (&RegionName, &str)> {
        self.views.iter().filter_map(|view| match &view.answer {
            RegionAnswer::Unreadable { why } => Some((&view.name, why.as_str())),
            RegionAnswer::Read { .. } => None,
        })
    }

    /// How a command ends that shows what the regions hold: whoever asks has not seen what lies in a region that gave no log.
    #[must_use]
    pub fn ending(&self) -> Ending {
        if self.unread().next().is_some() { Ending::Degraded } else { Ending::Done }
    }

    /// The backup of this name, or the newest that counts as good.
    ///
    /// # Errors
    /// If there is none, or two signed records of it disagree.
    pub fn choose(&self, backup: Option<&BackupId>) -> anyhow::Result<&CatalogRow> {
        let row = match backup {
            Some(backup) => self.catalog.find(backup).ok_or_else(|| {
                let message = format!("there is no backup {backup} in cluster {}; see `list`", self.cluster);
                Exit::error(Ending::NoSuchBackup, message)
            })?,
            None => self.catalog.newest_intact_as_dated().ok_or_else(|| {
                let message = format!("there is no good backup of cluster {}; see `list`", self.cluster);
                let incomplete = self.catalog.rows().iter().find(|row| !row.record.is_complete());
                let message = match incomplete.map(|row| incomplete_text(&row.record)) {
                    Some(what) => format!("{message}. {what}. Name it to use it nevertheless"),
                    None => message,
                };
                Exit::error(Ending::NoSuchBackup, message)
            })?,
        };
        if row.is_disputed() {
            bail!("two signed records of backup {} disagree; nothing decides which one is right", row.record.backup);
        }
        Ok(row)
    }

    /// The regions that hold a backup, in the order they were given.
    #[must_use]
    pub fn holders(&self, row: &CatalogRow) -> Vec<RegionStore> {
        let holders: BTreeSet<&RegionName> = row.holders().collect();
        self.regions.iter().filter(|region| holders.contains(&region.name)).cloned().collect()
    }

    /// The descriptor.
    ///
    /// # Errors
    /// If no region could be read.
    pub fn descriptor(&self) -> anyhow::Result<&Descriptor> {
        self.catalog.descriptor().context("no region could be read")
    }

    /// Opens a backup with whatever fits, reading from `regions` only.
    ///
    /// # Errors
    /// If no key fits; [`NotAsWritten`] if no region gives the key object or the list of objects as it was written.
    pub async fn open_backup(
        &self,
        record: &BackupRecord,
        regions: Vec<RegionStore>,
        keys: &Keys,
    ) -> anyhow::Result<Arc<BackupReader>> {
        let repository = self.descriptor()?.repo;
        let epoch = record.epochs.first().context("the record names no key")?;
        let slots_key = layout::slots(epoch.id, epoch.slots);
        let slots =
            read_checked(&regions, &slots_key, epoch.keys_sha256).await.context("read the backup's wrapped key")?;
        let openers = Openers { identities: &keys.openers.identities, commands: &keys.openers.commands };
        let opened = keys::open_slots(&slots, EpochPlace { repository, epoch: epoch.id }, openers).await;
        let key = opened.map_err(|error| match error {
            error @ SlotsError::NoMatchingSlot { .. } => {
                let fix = "name the private key of one of these with --identity";
                Exit::error(Ending::WrongKey, format!("{error}; {fix}"))
            }
            error => anyhow::Error::new(error).context("open the backup's key"),
        })?;
        let objects = self.objects(record, &regions).await?;
        let stored = StoredBackup { backup: record.backup.clone(), repository, epoch: epoch.id, objects };
        Ok(Arc::new(BackupReader::new(regions, stored, key)))
    }

    /// The list of a backup's objects, compared with the record.
    ///
    /// # Errors
    /// [`NotAsWritten`] if no region gives it as it was written; another one if it was not written as a list.
    pub async fn objects(
        &self,
        record: &BackupRecord,
        regions: &[RegionStore],
    ) -> anyhow::Result<HashMap<ObjectKey, Sha256Digest>> {
        let key = layout::packs_list(&record.backup);
        let bytes =
            read_checked(regions, &key, record.packs.sha256).await.context("read the backup's list of objects")?;
        let list = PacksList::parse(&bytes).context("read the backup's list of objects")?;
        Ok(list.iter().map(|(key, digest)| (key.clone(), digest)).collect())
    }
}

/// No region gave an object as its signed record says. It may lie in one that did not answer.
#[derive(Debug, thiserror::Error)]
#[error("no region gave {key} as it was written ({})", .tried.join("; "))]
pub struct NotAsWritten {
    key: ObjectKey,
    tried: Vec<String>,
}

async fn read_checked(
    regions: &[RegionStore],
    key: &ObjectKey,
    expected: Sha256Digest,
) -> Result<bytes::Bytes, NotAsWritten> {
    let mut tried = Vec::new();
    for region in regions {
        let what = match region.store.get(key, ByteRange::WholeUpTo(OBJECT_BYTES_MAX)).await {
            Ok(bytes) if lifeboat_repository::format::aead::sha256(&bytes) == expected => return Ok(bytes),
            Ok(_) => "it is not what the record says".to_owned(),
            Err(error) => error_chain(&error),
        };
        tracing::warn!(region = %region.name, %key, %what, "a region does not give an object as it was written");
        tried.push(format!("{}: {what}", region.name));
    }
    Err(NotAsWritten { key: key.clone(), tried })
}

async fn the_only_cluster(settings: &[RegionSettings], without: &[RegionName]) -> anyhow::Result<ClusterName> {
    let mut clusters = BTreeSet::new();
    let mut failures = Vec::new();
    let asked = Asked::all(settings);
    let answers = asked.iter().map(async |Asked { settings, .. }| {
        ensure!(!without.contains(&settings.name), LEFT_OUT);
        Ok(list_folders(settings).await?)
    });
    let answers = asked_at_once(&asked, answers, &|text| errln!("{text}")).await;
    for (settings, answer) in settings.iter().zip(answers) {
        match answer {
            Ok(found) => clusters.extend(found),
            Err(error) => failures.push(format!("{}: {error:#}", settings.name)),
        }
    }
    let names: Vec<&str> = clusters.iter().map(ClusterName::as_str).collect();
    match (clusters.first(), clusters.len()) {
        (Some(only), 1) => Ok(only.clone()),
        (Some(_), _) => bail!("there are several clusters ({}); choose one with --cluster", names.join(", ")),
        (None, _) if failures.is_empty() => bail!("there is no repository in these regions; check the addresses"),
        (None, _) => bail!("no region can be read: {}", failures.join("; ")),
    }
}

/// What opens backups and WAL.
#[derive(Clone)]
pub struct Keys {
    openers: Arc<WalOpeners>,
}

impl Keys {
    /// Reads all identity files, asking for passphrases where needed.
    ///
    /// # Errors
    /// If one cannot be read, or there is nothing to open a backup with.
    pub fn load(place: &PlaceArgs) -> anyhow::Result<Self> {
        let mut identities = Vec::new();
        for path in &place.identities {
            let name = path.display().to_string();
            let text = read_private_file(path)?;
            let found = parse_identity_file(text.expose(), &mut |_| ask_passphrase(&name));
            let wrong = |error| Exit::error(Ending::WrongKey, format!("read identity {name}: {}", error_chain(&error)));
            identities.extend(found.map_err(wrong)?);
        }
        let mut commands = Vec::new();
        if !place.unwrap_command.is_empty() {
            commands.push(KeyCommand::new("unwrap", &place.unwrap_command, COMMAND_TIMEOUT)?);
        }
        if identities.is_empty() && commands.is_empty() {
            let message = "no key was given: name the identity file with --identity FILE";
            return Err(Exit::error(Ending::WrongKey, message));
        }
        Ok(Self { openers: Arc::new(WalOpeners { identities, commands }) })
    }

    /// Nothing that opens anything: enough to see what there is.
    #[must_use]
    pub fn none() -> Self {
        Self { openers: Arc::default() }
    }

    /// The same, for whoever reads WAL.
    #[must_use]
    pub fn openers(&self) -> Arc<WalOpeners> {
        Arc::clone(&self.openers)
    }

    /// Whether the command line names a key at all.
    #[must_use]
    pub fn are_given(place: &PlaceArgs) -> bool {
        !place.identities.is_empty() || !place.unwrap_command.is_empty()
    }
}
