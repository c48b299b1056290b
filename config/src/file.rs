//! The shape of the file: sections, keys, ranges and defaults.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_postgres::{BackupCheckpoint, ConnectionSettings};
use lifeboat_repository::format::KeyName;
use lifeboat_repository::keys::{COMMAND_TIMEOUT, KeyCommand, Recipient, VerifyKey};
use lifeboat_stores::RegionSettings;
use lifeboat_vocabulary::{ByteCount, ClusterName};

use crate::kind::{self, Fit, Wrong};
use crate::reader::{Reader, Section, preset};
use crate::schedule::{RetentionSettings, ScheduleSettings};
use crate::service::{DaemonSettings, HealSettings, HttpSettings, ScrubSettings};
use crate::tree::Node;
use crate::wal::{ObjectiveSettings, WalOptions};
use crate::{SecretRef, region};

/// The most recipients of one repository: each costs a slot in every key object.
const RECIPIENTS_MAX: usize = 32;
/// The most words of one command.
const WORDS_MAX: usize = 64;
/// What hosts are called if nothing else is said.
const SIGNER_NAME_DEFAULT: &str = "lifeboat";
const SIGNER_NAME_MAX: usize = 30;
const COMPRESSION_LEVELS: std::ops::RangeInclusive<i64> = 1..=4;
const COMPRESSION_LEVEL_DEFAULT: i32 = 3;
const WORKERS_MAX: i64 = 256;
const BACKUPS_MAX: i64 = 64;
const BACKUPS_DEFAULT: usize = 2;
const MEMORY_DEFAULT: ByteCount = ByteCount::from_mib(128);
const LAG_DEFAULT: Duration = Duration::from_secs(60);
const FLUSH_INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
const SPOOL_DEFAULT: ByteCount = ByteCount::from_mib(10 << 10);
pub(crate) const STATE_DIRECTORY_DEFAULT: &str = "/var/lib/lifeboat";

/// Everything that an operator has decided.
#[derive(Clone, Debug)]
pub struct Config {
    /// The clusters to protect; at least one.
    pub clusters: Vec<ClusterSettings>,
    /// The regions that keep copies; at least one.
    pub regions: Vec<RegionSettings>,
    /// When something counts as kept.
    pub durability: DurabilitySettings,
    /// Who can read backups, and who vouches for them.
    pub keys: KeySettings,
    /// What the program may use of the machine.
    pub limits: LimitSettings,
    /// What the daemon does.
    pub daemon: DaemonSettings,
    /// How regions are brought up to date.
    pub heal: HealSettings,
    /// How what is stored is verified.
    pub scrub: ScrubSettings,
    /// Where the daemon is seen.
    pub http: HttpSettings,
    /// Where the program keeps what must outlive a restart: an absolute path, one folder per cluster below it.
    pub state_directory: PathBuf,
}

/// One cluster: `[[cluster]]`.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    /// Its name, also the name of its folder in every region.
    pub name: ClusterName,
    /// How to reach its server.
    pub connection: ConnectionSettings,
    /// How to back it up.
    pub backup: BackupOptions,
    /// How to receive its WAL.
    pub wal: WalOptions,
    /// What is to be kept.
    pub objectives: ObjectiveSettings,
    /// When backups are made.
    pub schedule: ScheduleSettings,
    /// How long they are kept.
    pub retention: RetentionSettings,
}

/// How a cluster is backed up: `[cluster.backup]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupOptions {
    /// How the checkpoint at the start is made.
    pub checkpoint: BackupCheckpoint,
    /// The most **bytes per second** that the server may send; `None`: as fast as it goes.
    pub max_rate: Option<ByteCount>,
    /// Level of zstd, 1 to 4.
    pub compression_level: i32,
}

/// When something counts as kept: `[durability]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurabilitySettings {
    /// Regions that must hold a backup before it counts; 1 to the number of regions.
    pub backup_quorum: usize,
    /// How long a backup waits for a region that falls behind, before it goes on without it.
    pub region_lag_limit: Duration,
    /// Regions that must hold WAL before the server hears that it is flushed; 1 to the number of regions.
    pub wal_quorum: usize,
    /// The age at which WAL leaves for the regions, 50 ms to 60 s.
    pub flush_interval: Duration,
}

/// Who can read backups, and who vouches for them: `[keys]`.
#[derive(Clone, Debug)]
pub struct KeySettings {
    /// Public keys that everything is sealed to; at least one. Each of them alone opens every backup.
    pub recipients: Vec<Recipient>,
    /// Commands that wrap keys beside the recipients, such as a key management service.
    pub wrap_commands: Vec<KeyCommand>,
    /// Where the key is that signs records.
    pub signing_key: SecretRef,
    /// The root key of the repository, where the signing key is another one that it has named; `None`: they are one.
    pub root: Option<VerifyKey>,
    /// Records are signed as `<name>.<cluster>`.
    pub name: KeyName,
}

/// What the program may use of the machine: `[limits]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Memory for the data of one backup on its way, at least 64 MiB.
    pub memory: ByteCount,
    /// Threads that compress and seal, 1 to 256; those of several clusters take turns.
    pub workers: usize,
    /// Backups of different clusters that may run at the same time, 1 to 64. Each takes `memory`; others wait their turn.
    pub backups: usize,
    /// Disk space per cluster for WAL that a region has not taken yet, at least 64 MiB.
    pub spool: ByteCount,
}

impl Config {
    /// Reads every section, noting every fault. `None` only where a fault has been noted.
    pub(crate) fn read(reader: &mut Reader<'_>, mut root: Section<'_>) -> Option<Self> {
        let clusters = root.each(reader, "cluster");
        let given_clusters = clusters.len();
        let clusters: Vec<_> =
            clusters.into_iter().filter_map(|section| ClusterSettings::read(reader, section)).collect();
        let regions = root.each(reader, "region");
        let given_regions = regions.len();
        let regions: Vec<_> = regions.iter().filter_map(|section| region::read(reader, section)).collect();
        if given_clusters == 0 {
            let fix = "add a [[cluster]] section with name and connection";
            reader.fault(None, Wrong::new("there is no cluster to protect", fix));
        }
        if given_regions == 0 {
            let fix = "add a [[region]] section with name and url; two are better";
            reader.fault(None, Wrong::new("there is no region to keep backups in", fix));
        }
        let durability = root.below(reader, "durability");
        let durability = DurabilitySettings::read(reader, durability, given_regions.max(1));
        let keys = root.below(reader, "keys");
        let keys = KeySettings::read(reader, keys);
        let limits = root.below(reader, "limits");
        let limits = LimitSettings::read(reader, limits);
        let daemon = root.below(reader, "daemon");
        let daemon = DaemonSettings::read(reader, daemon);
        let heal = root.below(reader, "heal");
        let heal = HealSettings::read(reader, heal);
        let scrub = root.below(reader, "scrub");
        let scrub = ScrubSettings::read(reader, scrub);
        let http = root.below(reader, "http");
        let http = HttpSettings::read(reader, http);
        let state = root.below(reader, "state");
        let state_directory = state_directory(reader, state);
        root.finish(reader);
        Some(Self { clusters, regions, durability, keys: keys?, limits, daemon, heal, scrub, http, state_directory })
    }
}

impl ClusterSettings {
    fn read(reader: &mut Reader<'_>, mut section: Section<'_>) -> Option<Self> {
        let fix = "name the cluster with 1 to 40 of a-z, 0-9 and -; never change the name later";
        let name = section.required(reader, "name", kind::parsed, fix);
        let path = section.path_of("connection");
        let fix = "say how to reach the server, such as connection = \"host=/var/run/postgresql user=lifeboat\"";
        let connection = section.required(reader, "connection", connection, fix);
        if let (Some(connection), Some(explained)) = (&connection, reader.explained.last_mut())
            && explained.path == path
        {
            explained.value = format!("{:?}", connection.to_string());
        }
        let mut backup = section.below(reader, "backup");
        let words = [("fast", BackupCheckpoint::Fast), ("spread", BackupCheckpoint::Spread)];
        let checkpoint = backup.or_default(
            reader,
            "checkpoint",
            |n| kind::word(n, &words),
            preset(BackupCheckpoint::Fast, "\"fast\""),
        );
        let rates = ByteCount::from_bytes(32 << 10)..=ByteCount::from_mib(1024);
        let rate = |node| kind::amount(node, &rates).map(Some);
        let max_rate = backup.or_default(reader, "max_rate", rate, preset(None, "(not set)"));
        let level = |node| compression_level(node);
        let shown = COMPRESSION_LEVEL_DEFAULT.to_string();
        let default = preset(COMPRESSION_LEVEL_DEFAULT, shown.as_str());
        let compression_level = backup.or_default(reader, "compression_level", level, default);
        backup.finish(reader);
        let wal = section.below(reader, "wal");
        let wal = WalOptions::read(reader, wal, name.as_ref());
        let objectives = section.below(reader, "objectives");
        let objectives = ObjectiveSettings::read(reader, objectives);
        let schedule = section.below(reader, "schedule");
        let schedule = ScheduleSettings::read(reader, schedule);
        let retention = section.below(reader, "retention");
        let retention = RetentionSettings::read(reader, retention);
        section.finish(reader);
        let backup = BackupOptions { checkpoint, max_rate, compression_level };
        let (name, connection, schedule) = (name?, connection?, schedule?);
        Some(Self { name, connection, backup, wal, objectives, schedule, retention })
    }
}

/// Reads `[state]`.
fn state_directory(reader: &mut Reader<'_>, mut section: Section<'_>) -> PathBuf {
    let default = preset(PathBuf::from(STATE_DIRECTORY_DEFAULT), "\"/var/lib/lifeboat\"");
    let directory = section.or_default(reader, "directory", kind::absolute_path, default);
    section.finish(reader);
    directory
}

fn compression_level(node: &Node) -> Fit<i32> {
    let level = kind::integer(node, &COMPRESSION_LEVELS)?;
    i32::try_from(level).map_err(|_| Wrong::new("out of range", "give a level from 1 to 4"))
}

/// Passwords have places of their own; in this file everybody who may change a schedule would read them.
fn connection(node: &Node) -> Fit<ConnectionSettings> {
    let text = kind::text(node)?;
    if holds_password(text) {
        let fix = "take it out, and put the password into a file of mode 600 named by passfile=/path (or ~/.pgpass)";
        return Err(Wrong::new("the connection holds a password", fix));
    }
    let wrong = |error| Wrong::from_message(&error, "correct it, see the PostgreSQL manual, \"Parameter Key Words\"");
    ConnectionSettings::parse(text).map_err(wrong)
}

/// Whether a connection string sets `password` or `sslpassword`, as a keyword, as a parameter or before the host.
fn holds_password(text: &str) -> bool {
    let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
    let before_host = text.split_once("://").is_some_and(|(_, rest)| {
        let authority = rest.split(['/', '?']).next().unwrap_or("");
        authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    });
    before_host || compact.contains("password=")
}

impl DurabilitySettings {
    fn read(reader: &mut Reader<'_>, mut section: Section<'_>, regions: usize) -> Self {
        let quorum = |node| kind::integer(node, &(1..=i64::MAX)).and_then(size);
        let shown = format!("{regions} (all regions)");
        let backup_quorum = section.or_default(reader, "backup_quorum", quorum, preset(regions, &shown));
        let limits = Duration::from_secs(1)..=Duration::from_secs(86_400);
        let limit = |node| kind::duration(node, &limits);
        let region_lag_limit = section.or_default(reader, "region_lag_limit", limit, preset(LAG_DEFAULT, "\"60s\""));
        let wal_quorum = |node| kind::integer(node, &(1..=i64::MAX)).and_then(size);
        let wal_quorum = section.or_default(reader, "wal_quorum", wal_quorum, preset(1, "1"));
        let intervals = Duration::from_millis(50)..=Duration::from_secs(60);
        let interval = |node| kind::duration(node, &intervals);
        let flush_interval =
            section.or_default(reader, "flush_interval", interval, preset(FLUSH_INTERVAL_DEFAULT, "\"1s\""));
        section.finish(reader);
        Self { backup_quorum, region_lag_limit, wal_quorum, flush_interval }
    }
}

fn size(number: i64) -> Fit<usize> {
    usize::try_from(number).map_err(|_| Wrong::new("out of range", "give a smaller number"))
}

impl KeySettings {
    fn read(reader: &mut Reader<'_>, mut section: Section<'_>) -> Option<Self> {
        let fix = "give the public keys that `lifeboat-restore keygen` prints, such as [\"lifeboat-pk-...\"]";
        let nodes = section.required(reader, "recipients", kind::list, fix);
        let recipients = nodes.as_ref().map(|nodes| recipients(reader, nodes));
        let mut wrap_commands = Vec::new();
        for each in section.each(reader, "wrap_commands") {
            wrap_commands.extend(wrap_command(reader, each));
        }
        let fix = "say where the signing key is: file:/path, env:NAME or credential:NAME";
        let signing_key = section.required(reader, "signing_key", secret_ref, fix);
        let root = section.optional(reader, "root", kind::parsed);
        let name = section.optional(reader, "name", signer_name);
        if name.is_none() {
            reader.note_default(section.path_of("name"), format!("{SIGNER_NAME_DEFAULT:?}"));
        }
        section.finish(reader);
        let name = name.or_else(|| SIGNER_NAME_DEFAULT.parse().ok())?;
        Some(Self { recipients: recipients?, wrap_commands, signing_key: signing_key?, root, name })
    }
}

fn signer_name(node: &Node) -> Fit<KeyName> {
    let name: KeyName = kind::parsed(node)?;
    if name.as_str().len() > SIGNER_NAME_MAX {
        let fix = "give a short word for what this host does, such as \"pruner\"";
        return Err(Wrong::new(format!("a name has at most {SIGNER_NAME_MAX} characters"), fix));
    }
    Ok(name)
}

fn recipients(reader: &mut Reader<'_>, nodes: &[Node]) -> Vec<Recipient> {
    if nodes.is_empty() || nodes.len() > RECIPIENTS_MAX {
        let fix = format!("give 1 to {RECIPIENTS_MAX} public keys; what is sealed to nobody can never be read");
        reader.fault_at("keys.recipients", Wrong::new(format!("there are {} recipients", nodes.len()), fix));
    }
    let mut found = Vec::new();
    for node in nodes {
        match kind::parsed::<Recipient>(node) {
            Ok(recipient) => found.push(recipient),
            Err(wrong) => {
                let problem = format!("`keys.recipients`: {}", wrong.problem);
                let fix = "give a public key as `lifeboat-restore keygen` prints it, lifeboat-pk-...";
                reader.fault(Some(&node.origin), Wrong::new(problem, fix));
            }
        }
    }
    found
}

fn secret_ref(node: &Node) -> Fit<SecretRef> {
    kind::parsed(node)
}

/// Reads `[[keys.wrap_commands]]`.
fn wrap_command(reader: &mut Reader<'_>, mut section: Section<'_>) -> Option<KeyCommand> {
    let fix = "name the command with 1 to 40 of a-z, 0-9 and -; the name is stored with what it wraps";
    let name = section.required(reader, "name", kind::text, fix);
    let fix = "give the program and its arguments, such as [\"/usr/bin/age\", \"-r\", \"age1...\"]";
    let words = section.required(reader, "wrap", command, fix);
    let path = section.path_of("name");
    section.finish(reader);
    match KeyCommand::new(name?, &words?, COMMAND_TIMEOUT) {
        Ok(command) => Some(command),
        Err(error) => {
            reader.fault_at(&path, Wrong::new(error.to_string(), "give 1 to 40 of a-z, 0-9 and -"));
            None
        }
    }
}

fn command(node: &Node) -> Fit<Vec<String>> {
    let nodes = kind::list(node)?;
    let words: Vec<String> = nodes.iter().map(|node| kind::text(node).map(str::to_owned)).collect::<Fit<_>>()?;
    match words.first() {
        Some(program) if words.len() <= WORDS_MAX && Path::new(program).is_absolute() => Ok(words),
        Some(_) if words.len() > WORDS_MAX => Err(Wrong::new("too many words", format!("give at most {WORDS_MAX}"))),
        _ => Err(Wrong::new("the program is not named by an absolute path", "begin with a path such as /usr/bin/age")),
    }
}

impl LimitSettings {
    fn read(reader: &mut Reader<'_>, mut section: Section<'_>) -> Self {
        let range = ByteCount::from_mib(64)..=ByteCount::from_mib(1 << 20);
        let memory = |node| kind::amount(node, &range);
        let memory = section.or_default(reader, "memory", memory, preset(MEMORY_DEFAULT, "\"128MiB\""));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let count = |node| kind::integer(node, &(1..=WORKERS_MAX)).and_then(size);
        let workers = section.or_default(reader, "workers", count, preset(cores, &format!("{cores} (all cores)")));
        let count = |node| kind::integer(node, &(1..=BACKUPS_MAX)).and_then(size);
        let backups = section.or_default(reader, "backups", count, preset(BACKUPS_DEFAULT, "2"));
        let range = ByteCount::from_mib(64)..=ByteCount::from_mib(1 << 30);
        let spool = |node| kind::amount(node, &range);
        let spool = section.or_default(reader, "spool", spool, preset(SPOOL_DEFAULT, "\"10GiB\""));
        section.finish(reader);
        Self { memory, workers, backups, spool }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_connections_are_found_in_every_notation() {
        for text in [
            "password=x",
            "host=a password = 'x'",
            "host=a PASSWORD=x",
            "host=a sslpassword=x",
            "postgresql://me:x@host/db",
            "postgresql://me@host/db?password=x",
        ] {
            assert!(holds_password(text), "{text}");
        }
        for text in
            ["host=a passfile=/x", "postgresql://me@host:5432/db", "postgresql:///db?host=/run", "user=password"]
        {
            assert!(!holds_password(text), "{text}");
        }
    }
}
