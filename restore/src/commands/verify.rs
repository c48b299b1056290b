//! `verify`: is what is stored what was written, in every region?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context;
use futures_util::StreamExt;
use lifeboat_cli::access::{Keys, NotAsWritten, Repository};
use lifeboat_cli::exit_code::Ending;
use lifeboat_cli::omissions::print_omissions;
use lifeboat_cli::outln;
use lifeboat_cli::place::PlaceArgs;
use lifeboat_cli::terminal::{Output, ProgressLine, Tone, toned};
use lifeboat_repository::backup::Progress;
use lifeboat_repository::backup::read::{
    self, BackupReader, Damage, FileSink, Ranges, ReadBackupError, ReadControl, ReadSettings, SinkFile,
};
use lifeboat_repository::catalog::{CatalogRow, RegionAnswer};
use lifeboat_repository::format::layout;
use lifeboat_repository::keys::SlotsError;
use lifeboat_repository::log::RegionStore;
use lifeboat_repository::log::records::{BackupRecord, EpochRef};
use lifeboat_stores::{ByteRange, OBJECT_BYTES_MAX, ObjectKey, StoreError};
use lifeboat_vocabulary::{FileEntry, Sha256Digest, counted, error_chain};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::fetch::target_dir::refuse_foreign;

/// Objects that are read at the same time.
const CONNECTIONS: usize = 4;

/// What is known about a backup in one region.
struct Verdict {
    region: String,
    /// Objects that were asked for.
    objects: usize,
    findings: Findings,
    failure: Option<Failure>,
}

/// Objects that were not found as they should be.
#[derive(Default)]
struct Findings {
    /// The region has something else, or nothing.
    damaged: Vec<Damage>,
    /// The region did not say.
    unread: Vec<Damage>,
}

/// Why a backup was not read to its end.
struct Failure {
    what: String,
    blame: Blame,
}

/// What a failure says about the backup.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blame {
    /// What was read is not what was written.
    Backup,
    /// Nothing: a region, a command or this machine did not do its part.
    Elsewhere,
}

/// How a backup stands in a region.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Intact,
    NotVerified,
    Damaged,
}

impl Standing {
    fn as_str(self) -> &'static str {
        match self {
            Self::Intact => "intact",
            Self::NotVerified => "not-verified",
            Self::Damaged => "damaged",
        }
    }
}

impl Verdict {
    /// Of a region that does not give its log.
    fn away(region: String, why: &str) -> Self {
        let failure = Failure { what: why.to_owned(), blame: Blame::Elsewhere };
        Self { region, objects: 0, findings: Findings::default(), failure: Some(failure) }
    }

    fn standing(&self) -> Standing {
        let blames_backup = self.failure.as_ref().is_some_and(|failure| failure.blame == Blame::Backup);
        if blames_backup || !self.findings.damaged.is_empty() {
            Standing::Damaged
        } else if self.failure.is_some() || !self.findings.unread.is_empty() {
            Standing::NotVerified
        } else {
            Standing::Intact
        }
    }
}

impl Failure {
    /// Of a read that has ended early. An object that was not given is judged by itself.
    fn of_read(error: &ReadBackupError) -> Self {
        let blame = match error {
            ReadBackupError::Read(_)
            | ReadBackupError::Decompressor(_)
            | ReadBackupError::Thread(_)
            | ReadBackupError::Stopped => Blame::Elsewhere,
            _ => Blame::Backup,
        };
        Self { what: error_chain(error), blame }
    }

    /// Of a backup that could not be opened.
    fn of_opening(error: &anyhow::Error) -> Self {
        let is_elsewhere = error
            .chain()
            .any(|cause| cause.is::<NotAsWritten>() || matches!(cause.downcast_ref(), Some(SlotsError::Command(_))));
        let blame = if is_elsewhere { Blame::Elsewhere } else { Blame::Backup };
        Self { what: format!("{error:#}"), blame }
    }
}

/// Verifies one backup in every region that has it: with a key everything is decrypted, decompressed and compared with
/// the CRC-32C of its file; without, every object and wrapped key is compared with its signed SHA-256. A region that does not
/// answer is no damaged one: it was not verified.
///
/// # Errors
/// If the key does not fit, or the run was stopped. Damage is not an error but an ending of its own.
pub async fn run(
    place: &PlaceArgs,
    repository: &Repository,
    row: &CatalogRow,
    output: Output,
    stop: &CancellationToken,
) -> anyhow::Result<Ending> {
    let keys = if Keys::are_given(place) { Some(Keys::load(place)?) } else { None };
    let verification = Verification { repository, row, output, stop };
    let mut verdicts = Vec::new();
    for region in repository.holders(row) {
        let verdict = match &keys {
            Some(keys) => verification.deep(&region, keys).await?,
            None => verification.blind(&region).await?,
        };
        verdicts.push(verdict);
    }
    for view in &repository.views {
        if let RegionAnswer::Unreadable { why } = &view.answer {
            verdicts.push(Verdict::away(view.name.to_string(), why));
        }
    }
    let depth = if keys.is_some() { Depth::Decrypted } else { Depth::Hashed };
    match output {
        Output::Json => print_json(row, &verdicts, depth),
        Output::Text => print_text(row, &verdicts, depth),
    }
    let worst = verdicts.iter().map(Verdict::standing).max().unwrap_or(Standing::NotVerified);
    // What is stored may be what was written, and what was written is not the whole cluster.
    Ok(match worst {
        _ if !row.record.is_complete() => Ending::Damaged,
        Standing::Intact => Ending::Done,
        Standing::NotVerified => Ending::Failed,
        Standing::Damaged => Ending::Damaged,
    })
}

/// What is verified, and where progress is shown.
struct Verification<'a> {
    repository: &'a Repository,
    row: &'a CatalogRow,
    output: Output,
    stop: &'a CancellationToken,
}

impl Verification<'_> {
    async fn deep(&self, region: &RegionStore, keys: &Keys) -> anyhow::Result<Verdict> {
        let Self { repository, row, output, stop } = *self;
        let reader = repository.open_backup(&row.record, vec![region.clone()], keys).await;
        let reader: Arc<BackupReader> = match reader {
            Ok(reader) => reader,
            Err(error) if error.downcast_ref::<lifeboat_cli::exit_code::Exit>().is_some() => return Err(error),
            Err(error) => {
                // It does not open: name all that is damaged, so that it can be healed in one go.
                let verdict = self.blind(region).await?;
                return Ok(Verdict { failure: Some(Failure::of_opening(&error)), ..verdict });
            }
        };
        let progress = Arc::new(Progress::default());
        let line = ProgressLine::start("verify", Arc::clone(&progress), Some(row.record.files.raw_bytes), output);
        let shards = row.record.index.iter().map(|shard| shard.key.clone()).collect();
        let settings = ReadSettings { ranges: Ranges::WholeObjects, connections: 3, workers: workers() };
        let read =
            read::read_backup(Arc::clone(&reader), shards, Arc::new(Nowhere), settings, ReadControl { progress, stop })
                .await;
        drop(line);
        self.ensure_not_stopped()?;
        let failure = read.err().map(|error| Failure::of_read(&error));
        let mut findings = Findings { damaged: reader.damage(), unread: Vec::new() };
        let mut objects = named_by(&row.record);
        objects.extend(reader.objects().map(|(key, sha256)| (key.clone(), sha256)));
        let mut rest = if failure.is_some() {
            // One bad object ends the walk: all of them are named.
            objects.clone()
        } else {
            // The key of the first epoch was opened; the list, the index and all packs were read.
            wrapped_keys(row.record.epochs.get(1..).unwrap_or_default()).collect()
        };
        let known: BTreeSet<ObjectKey> = findings.damaged.iter().map(|damage| damage.key.clone()).collect();
        rest.retain(|key, _| !known.contains(key));
        let more = hash_all(region, rest, stop).await;
        self.ensure_not_stopped()?;
        findings.damaged.extend(more.damaged);
        findings.unread.extend(more.unread);
        Ok(Verdict { region: region.name.to_string(), objects: objects.len(), findings, failure })
    }

    async fn blind(&self, region: &RegionStore) -> anyhow::Result<Verdict> {
        let Self { repository, row, stop, .. } = *self;
        let mut objects = named_by(&row.record);
        let failure = match repository.objects(&row.record, std::slice::from_ref(region)).await {
            Ok(listed) => {
                objects.extend(listed);
                None
            }
            // What the record itself names is looked at nevertheless, and the list once more.
            Err(error) => Some(Failure::of_opening(&error)),
        };
        let count = objects.len();
        let findings = hash_all(region, objects, stop).await;
        self.ensure_not_stopped()?;
        Ok(Verdict { region: region.name.to_string(), objects: count, findings, failure })
    }

    fn ensure_not_stopped(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.stop.is_cancelled(), "stopped on request");
        Ok(())
    }
}

/// The objects that a record itself names: the wrapped keys, the list of objects, and the parts of the index.
fn named_by(record: &BackupRecord) -> BTreeMap<ObjectKey, Sha256Digest> {
    let index = record.index.iter().map(|shard| (shard.key.clone(), shard.sha256));
    let list = (layout::packs_list(&record.backup), record.packs.sha256);
    wrapped_keys(&record.epochs).chain([list]).chain(index).collect()
}

fn wrapped_keys(epochs: &[EpochRef]) -> impl Iterator<Item = (ObjectKey, Sha256Digest)> {
    epochs.iter().map(|epoch| (layout::slots(epoch.id, epoch.slots), epoch.keys_sha256))
}

/// Reads every object whole and compares it with its signed SHA-256. The walk goes on over damage: a report is complete.
async fn hash_all(
    region: &RegionStore,
    objects: BTreeMap<ObjectKey, Sha256Digest>,
    stop: &CancellationToken,
) -> Findings {
    let check = |(key, expected): (ObjectKey, Sha256Digest)| async move {
        if stop.is_cancelled() {
            return None;
        }
        let (standing, what) = match region.store.get(&key, ByteRange::WholeUpTo(OBJECT_BYTES_MAX)).await {
            Ok(bytes) => match lifeboat_repository::format::aead::sha256(&bytes) {
                found if found == expected => return None,
                found => (Standing::Damaged, format!("SHA-256 is {found}, the record says {expected}")),
            },
            Err(error @ (StoreError::NotFound { .. } | StoreError::Unsupported { .. })) => {
                (Standing::Damaged, error_chain(&error))
            }
            Err(error) => (Standing::NotVerified, error_chain(&error)),
        };
        Some((standing, Damage { region: region.name.clone(), key, what }))
    };
    let mut found = futures_util::stream::iter(objects).map(check).buffered(CONNECTIONS);
    let mut findings = Findings::default();
    while let Some(object) = found.next().await {
        match object {
            Some((Standing::Damaged, damage)) => findings.damaged.push(damage),
            Some((_, unread)) => findings.unread.push(unread),
            None => {}
        }
    }
    findings
}

/// How closely objects were looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Decrypted,
    Hashed,
}

fn print_json(row: &CatalogRow, verdicts: &[Verdict], depth: Depth) {
    let regions: Vec<_> = verdicts
        .iter()
        .map(|verdict| {
            let list = |found: &[Damage]| -> Vec<_> {
                found.iter().map(|object| json!({ "key": object.key.as_str(), "what": object.what })).collect()
            };
            let Findings { damaged, unread } = &verdict.findings;
            json!({
                "region": verdict.region, "verdict": verdict.standing().as_str(), "objects": verdict.objects,
                "damage": list(damaged), "unread": list(unread),
                "failure": verdict.failure.as_ref().map(|failure| &failure.what),
            })
        })
        .collect();
    let depth = match depth {
        Depth::Decrypted => "decrypted",
        Depth::Hashed => "hashed",
    };
    outln!(
        "{}",
        json!({ "backup": row.record.backup.as_str(), "depth": depth, "regions": regions, "omissions": row.record.omissions })
    );
}

fn print_text(row: &CatalogRow, verdicts: &[Verdict], depth: Depth) {
    for verdict in verdicts {
        let (region, backup, objects) = (&verdict.region, &row.record.backup, verdict.objects as u64);
        let Findings { damaged, unread } = &verdict.findings;
        let objects = counted(objects, "object", "objects");
        match (verdict.standing(), depth) {
            (Standing::Intact, Depth::Decrypted) => {
                let word = toned("intact", Tone::Good);
                outln!("{region}: backup {backup} is {word}: {objects}, everything was decrypted and compared");
            }
            (Standing::Intact, Depth::Hashed) => {
                let word = toned("intact", Tone::Good);
                outln!(
                    "{region}: backup {backup} is {word}: {objects}, every object and wrapped key has its signed SHA-256"
                );
            }
            (Standing::Damaged, _) => {
                let word = toned("DAMAGED", Tone::Bad);
                outln!("{region}: backup {backup} is {word}: {objects}, see below");
            }
            (Standing::NotVerified, _) => {
                let word = toned("NOT VERIFIED", Tone::Bad);
                let what = match unread.len() as u64 {
                    0 => "it could not be read, see below".to_owned(),
                    count => format!("{} could not be read, see below", counted(count, "object", "objects")),
                };
                outln!("{region}: backup {backup} was {word}: {what}");
            }
        }
        for Damage { key, what, .. } in damaged {
            outln!("  {key}: {what}");
        }
        for Damage { key, what, .. } in unread {
            outln!("  {key} was not read: {what}");
        }
        if let Some(failure) = &verdict.failure {
            outln!("  {}", failure.what);
        }
    }
    print_omissions(&row.record.omissions);
}

/// As many worker threads as the machine has cores.
#[must_use]
pub(crate) fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

/// Takes files and keeps nothing.
struct Nowhere;

impl FileSink for Nowhere {
    fn make(&self, entry: &FileEntry) -> std::io::Result<()> {
        refuse_foreign(&entry.path)
    }

    fn open(&self, entry: &FileEntry) -> std::io::Result<Box<dyn SinkFile>> {
        refuse_foreign(&entry.path)?;
        Ok(Box::new(Nowhere))
    }

    fn complete(&self, _: &FileEntry, _: u32, _: Box<dyn SinkFile>) -> std::io::Result<()> {
        Ok(())
    }

    fn facts(&self, _: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

impl SinkFile for Nowhere {
    fn write_at(&self, _: &[u8], _: u64) -> std::io::Result<()> {
        Ok(())
    }
}

/// For the caller's error message when there is nothing to verify.
///
/// # Errors
/// If no region that can be read holds the backup.
pub fn ensure_held(repository: &Repository, row: &CatalogRow) -> anyhow::Result<()> {
    let held = !repository.holders(row).is_empty();
    held.then_some(()).context("no region that can be read holds this backup")
}
