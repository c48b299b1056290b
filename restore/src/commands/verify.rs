//! `verify`: is what is stored what was written, in every region?

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Context;
use futures_util::StreamExt;
use lifeboat_cli::access::{Keys, Repository};
use lifeboat_cli::exit_code::Ending;
use lifeboat_cli::omissions::print_omissions;
use lifeboat_cli::outln;
use lifeboat_cli::place::PlaceArgs;
use lifeboat_cli::terminal::{Output, ProgressLine, Tone, toned};
use lifeboat_repository::backup::Progress;
use lifeboat_repository::backup::read::{
    self, BackupReader, Damage, FileSink, Ranges, ReadControl, ReadSettings, SinkFile,
};
use lifeboat_repository::catalog::CatalogRow;
use lifeboat_repository::log::RegionStore;
use lifeboat_stores::{ByteRange, OBJECT_BYTES_MAX, ObjectKey};
use lifeboat_vocabulary::{FileEntry, Sha256Digest, counted, error_chain};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::fetch::target_dir::refuse_foreign;

/// Objects that are read at the same time.
const CONNECTIONS: usize = 4;

struct Verdict {
    region: String,
    objects: usize,
    damage: Vec<Damage>,
    failure: Option<String>,
}

impl Verdict {
    /// Of a region where nothing could be read.
    fn unread(region: String, error: &anyhow::Error) -> Self {
        Self { region, objects: 0, damage: Vec::new(), failure: Some(format!("{error:#}")) }
    }
}

/// Verifies one backup in every region that has it: with a key everything is decrypted, decompressed and compared with
/// the CRC-32C of its file; without, every object is compared with its signed SHA-256.
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
    let depth = if keys.is_some() { Depth::Decrypted } else { Depth::Hashed };
    match output {
        Output::Json => print_json(row, &verdicts, depth),
        Output::Text => print_text(row, &verdicts, depth),
    }
    let intact = verdicts.iter().all(|verdict| verdict.damage.is_empty() && verdict.failure.is_none());
    // What is stored is what was written, and what was written is not the whole cluster.
    let intact = intact && row.record.is_complete();
    Ok(if intact { Ending::Done } else { Ending::Damaged })
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
        let name = region.name.to_string();
        let reader = repository.open_backup(&row.record, vec![region.clone()], keys).await;
        let reader: Arc<BackupReader> = match reader {
            Ok(reader) => reader,
            Err(error) if error.downcast_ref::<lifeboat_cli::exit_code::Exit>().is_some() => return Err(error),
            Err(error) => return Ok(Verdict::unread(name, &error)),
        };
        let progress = Arc::new(Progress::default());
        let line = ProgressLine::start("verify", Arc::clone(&progress), Some(row.record.files.raw_bytes), output);
        let shards = row.record.index.iter().map(|shard| shard.key.clone()).collect();
        let settings = ReadSettings { ranges: Ranges::WholeObjects, connections: 3, workers: workers() };
        let read =
            read::read_backup(Arc::clone(&reader), shards, Arc::new(Nowhere), settings, ReadControl { progress, stop })
                .await;
        drop(line);
        anyhow::ensure!(!stop.is_cancelled(), "stopped on request");
        let failure = read.err().map(|error| error_chain(&error));
        let mut damage = reader.damage();
        let objects = reader.objects().count();
        if failure.is_some() {
            // One bad object ends the walk: name all of them, so that they can be healed in one go.
            let known: BTreeSet<ObjectKey> = damage.iter().map(|damage| damage.key.clone()).collect();
            let rest =
                hash_all(region, reader.objects().map(|(key, sha256)| (key.clone(), sha256)).collect(), stop).await;
            damage.extend(rest.into_iter().filter(|damage| !known.contains(&damage.key)));
        }
        Ok(Verdict { region: name, objects, damage, failure })
    }

    async fn blind(&self, region: &RegionStore) -> anyhow::Result<Verdict> {
        let Self { repository, row, stop, .. } = *self;
        let name = region.name.to_string();
        let list = repository.objects(&row.record, std::slice::from_ref(region)).await;
        let objects = match list {
            Ok(objects) => objects,
            Err(error) => return Ok(Verdict::unread(name, &error)),
        };
        let count = objects.len();
        let damage = hash_all(region, objects.into_iter().collect(), stop).await;
        anyhow::ensure!(!stop.is_cancelled(), "stopped on request");
        Ok(Verdict { region: name, objects: count, damage, failure: None })
    }
}

/// Reads every object whole and compares it with its signed SHA-256. The walk goes on over damage: a report is complete.
async fn hash_all(
    region: &RegionStore,
    mut objects: Vec<(ObjectKey, Sha256Digest)>,
    stop: &CancellationToken,
) -> Vec<Damage> {
    objects.sort();
    let check = |(key, expected): (ObjectKey, Sha256Digest)| async move {
        if stop.is_cancelled() {
            return None;
        }
        let what = match region.store.get(&key, ByteRange::WholeUpTo(OBJECT_BYTES_MAX)).await {
            Ok(bytes) => match lifeboat_repository::format::aead::sha256(&bytes) {
                found if found == expected => return None,
                found => format!("SHA-256 is {found}, the record says {expected}"),
            },
            Err(error) => error_chain(&error),
        };
        Some(Damage { region: region.name.clone(), key, what })
    };
    let found = futures_util::stream::iter(objects).map(check).buffered(CONNECTIONS);
    found.filter_map(|damage| async move { damage }).collect().await
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
            let damage: Vec<_> =
                verdict.damage.iter().map(|d| json!({ "key": d.key.as_str(), "what": d.what })).collect();
            json!({ "region": verdict.region, "objects": verdict.objects, "damage": damage, "failure": verdict.failure })
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
        let intact = verdict.damage.is_empty() && verdict.failure.is_none();
        let word = if intact { toned("intact", Tone::Good) } else { toned("DAMAGED", Tone::Bad) };
        let how = match depth {
            _ if !intact => "see below",
            Depth::Decrypted => "everything was decrypted and compared",
            Depth::Hashed => "every object has its signed SHA-256",
        };
        let objects = counted(verdict.objects as u64, "object", "objects");
        outln!("{}: backup {} is {word}: {objects}, {how}", verdict.region, row.record.backup);
        for damage in &verdict.damage {
            outln!("  {}: {}", damage.key, damage.what);
        }
        if let Some(failure) = &verdict.failure {
            outln!("  {failure}");
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
