//! One backup on its way out: plain bytes in, sealed objects in every region out.
//!
//! ```text
//! source -> frames -> workers (check, CRC-32C, zstd) -> packer (order, index) -> workers (seal, SHA-256) -> regions
//! ```
//! Every arrow is bounded by permits counted against the memory plan: a slow stage makes the one before it wait, up to
//! the socket of the database. Nothing that is written here looks like a backup until [`crate::backup::write::commit`] has put a
//! record into a region's log.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::thread::JoinHandle;

use async_channel::Sender;
use lifeboat_vocabulary::{BackupId, EntryKind, FileEntry, FileNumber, RelativePath};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::backup::progress::Progress;
use crate::backup::write::cpu_share::CpuShare;
use crate::backup::write::error::BackupError;
use crate::backup::write::memory_plan::MemoryPlan;
use crate::backup::write::packer::{Numbered, PackSizes, Packed, Packer, SealingIdentity, Shared, Step, StoredObject};
use crate::backup::write::upload::{ExclusionReason, UploadHub, UploadSettings};
use crate::backup::write::worker::{
    BufferPool, FileContext, FrameCheck, FrameJob, Work, Worker, start_workers, work_lane,
};
use crate::format::ids::{EpochId, RepositoryId};
use crate::format::index::writer::IndexWriter;
use crate::format::seal::EpochKey;
use crate::log::region_store::RegionStore;

/// Steps that are not frames (begins, ends, manifest lines) and may be on their way at the same time.
const CONTROLS_IN_FLIGHT: usize = 1024;
/// Index shards that may be on their way at the same time.
const SHARDS_IN_FLIGHT: usize = 1;

/// What a backup is written with.
pub struct BackupSettings {
    /// Its name.
    pub backup: BackupId,
    /// The repository that it belongs to.
    pub repository: RepositoryId,
    /// Its share of memory.
    pub plan: MemoryPlan,
    /// zstd level, 1 to 4.
    pub compression_level: i32,
    /// Who looks at pages, if anybody.
    pub check: Option<Arc<dyn FrameCheck>>,
    /// Uploads at the same time per region.
    pub upload_concurrency: usize,
    /// How long one region may hold up the others.
    pub lag_limit: std::time::Duration,
    /// Where other backups take turns with this one at the processor; `None`: it is alone.
    pub cpu_share: Option<CpuShare>,
}

/// A backup that is being written. Dropping it abandons the backup: uploads stop, threads end, nothing is committed.
pub struct BackupWriter {
    next: u64,
    open: HashMap<FileNumber, Filling>,
    frames: Arc<Semaphore>,
    controls: Arc<Semaphore>,
    work: Sender<Work>,
    shared: Arc<Shared>,
    pool: Arc<BufferPool>,
    identity: Arc<SealingIdentity>,
    frame_bytes: usize,
    threads: Vec<JoinHandle<()>>,
    packed: Option<oneshot::Receiver<Option<Packed>>>,
}

struct Filling {
    context: Arc<FileContext>,
    offset: u64,
    buffer: Option<(Vec<u8>, OwnedSemaphorePermit)>,
}

/// Everything is sealed and on its way to the regions; nothing is committed yet.
pub struct SealedBackup {
    pub(crate) hub: Arc<UploadHub>,
    pub(crate) identity: Arc<SealingIdentity>,
    pub(crate) backup: BackupId,
    /// The packs, in order.
    pub packs: Vec<StoredObject>,
    /// What else is known.
    pub packed: Packed,
}

impl BackupWriter {
    /// Starts threads and upload tasks. Call it inside a tokio runtime; `stop` ends everything.
    ///
    /// # Errors
    /// [`BackupError::Thread`] if a thread cannot be started, [`BackupError::Index`] if the index cannot be begun.
    pub fn start(
        settings: BackupSettings,
        regions: Vec<RegionStore>,
        stop: &CancellationToken,
    ) -> Result<Self, BackupError> {
        let plan = settings.plan;
        let stop = stop.child_token();
        let hub = UploadHub::start(
            regions,
            UploadSettings {
                concurrency: settings.upload_concurrency,
                lag_limit: settings.lag_limit,
                objects_in_flight: plan.packs_in_flight + SHARDS_IN_FLIGHT,
            },
            Arc::new(Progress::default()),
            stop.clone(),
        );
        let identity = Arc::new(SealingIdentity {
            key: EpochKey::random()?,
            repository: settings.repository,
            epoch: EpochId::random()?,
        });
        let (steps, steps_out) = async_channel::bounded(plan.frames_in_flight + CONTROLS_IN_FLIGHT + 4);
        let (work, work_out) = work_lane(plan.frames_in_flight, plan.packs_in_flight);
        let pool = Arc::new(BufferPool::new(plan.frame_bytes + 1024, 2 * plan.frames_in_flight));
        let (pack_permits, shard_permits) = (permits(plan.packs_in_flight), permits(SHARDS_IN_FLIGHT));
        let shared = Arc::new(Shared {
            permits: [pack_permits.0.clone(), shard_permits.0.clone()],
            steps,
            hub,
            backup: settings.backup,
            sealed: Mutex::new(BTreeMap::new()),
            pack_keys: Mutex::default(),
            failure: Mutex::default(),
            stop,
        });
        let mut threads = start_workers(plan.workers, || Worker {
            work: work_out.clone(),
            sink: Arc::clone(&shared) as Arc<dyn crate::backup::write::worker::WorkSink>,
            pool: Arc::clone(&pool),
            check: settings.check.clone(),
            level: settings.compression_level,
            cpu_share: settings.cpu_share.clone(),
        })
        .map_err(BackupError::Thread)?;
        let index = IndexWriter::new(&identity.key, identity.repository, identity.epoch)?;
        let packer = Packer {
            steps: steps_out,
            work: work.clone(),
            pack_permits,
            shard_permits,
            pool: Arc::clone(&pool),
            shared: Arc::clone(&shared),
            identity: Arc::clone(&identity),
            index,
            pack_sizes: PackSizes::of(&plan),
        };
        let (packed_in, packed) = oneshot::channel();
        let run = move || {
            if packed_in.send(packer.run()).is_err() {
                tracing::debug!("the backup was abandoned");
            }
        };
        threads.push(std::thread::Builder::new().name("packer".to_owned()).spawn(run).map_err(BackupError::Thread)?);
        Ok(Self {
            next: 0,
            open: HashMap::new(),
            frames: Arc::new(Semaphore::new(plan.frames_in_flight)),
            controls: Arc::new(Semaphore::new(CONTROLS_IN_FLIGHT)),
            work,
            shared,
            pool,
            identity,
            frame_bytes: plan.frame_bytes,
            threads,
            packed: Some(packed),
        })
    }

    /// Counters that grow while the backup runs.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(self.shared.hub.progress())
    }

    /// A region that cannot be used from the start, and why.
    pub fn exclude(&self, region: &lifeboat_vocabulary::RegionName, reason: ExclusionReason) {
        self.shared.hub.exclude(region, reason);
    }

    /// Puts facts about the cluster (JSON, encrypted like everything else) at the head of the index.
    ///
    /// # Errors
    /// The run's failure, if there is one.
    pub async fn facts(&mut self, json: Vec<u8>) -> Result<(), BackupError> {
        self.control(Step::Facts(json)).await
    }

    /// A file, directory or link begins.
    ///
    /// # Errors
    /// The run's failure, if there is one.
    pub async fn begin(&mut self, number: FileNumber, entry: FileEntry) -> Result<(), BackupError> {
        if entry.kind == EntryKind::File {
            let context = Arc::new(FileContext { number, path: entry.path.clone() });
            self.open.insert(number, Filling { context, offset: 0, buffer: None });
            return self.control(Step::Begin(number, entry)).await;
        }
        self.control(Step::Begin(number, entry)).await?;
        self.control(Step::End(number, 0)).await
    }

    /// The next bytes of a file.
    ///
    /// # Errors
    /// [`BackupError::Source`] if they do not continue the file; else the run's failure, if there is one.
    pub async fn data(&mut self, number: FileNumber, mut offset: u64, mut bytes: &[u8]) -> Result<(), BackupError> {
        self.shared.hub.progress().add_raw(bytes.len());
        while !bytes.is_empty() {
            let permit = match self.open.get(&number) {
                Some(Filling { buffer: None, .. }) => {
                    let permit = Arc::clone(&self.frames).acquire_owned();
                    Some(self.or_failure(permit).await?.map_err(|_| BackupError::Stopped)?)
                }
                _ => None,
            };
            let file = self.open.get_mut(&number);
            let file = file.ok_or_else(|| BackupError::Source { what: format!("bytes of file {}", number.0) })?;
            if let Some(permit) = permit {
                file.buffer = Some((self.pool.take(), permit));
            }
            let Some((buffer, _)) = &mut file.buffer else { return Err(BackupError::Stopped) };
            if file.offset + buffer.len() as u64 != offset {
                return Err(BackupError::Source { what: format!("a hole in {} at {offset}", file.context.path) });
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.frame_bytes - buffer.len()));
            buffer.extend_from_slice(now);
            bytes = later;
            offset += now.len() as u64;
            if buffer.len() == self.frame_bytes {
                self.submit(number).await?;
            }
        }
        Ok(())
    }

    /// A file has ended, with `size` bytes.
    ///
    /// # Errors
    /// The run's failure, if there is one.
    pub async fn end(&mut self, number: FileNumber, size: u64) -> Result<(), BackupError> {
        self.submit(number).await?;
        self.open.remove(&number);
        self.control(Step::End(number, size)).await
    }

    /// A line of the server's own manifest, to compare with what arrived.
    ///
    /// # Errors
    /// The run's failure, if there is one.
    pub async fn listed(&mut self, path: RelativePath, size: u64, crc32c: Option<u32>) -> Result<(), BackupError> {
        self.control(Step::Listed { path, size, crc32c }).await
    }

    /// All data has come: waits until everything is sealed. Uploads may still be running.
    ///
    /// # Errors
    /// The run's failure, if there is one; [`BackupError::NoRegionLeft`] if no region takes part any more.
    pub async fn finish(mut self) -> Result<SealedBackup, BackupError> {
        self.control(Step::Finish).await?;
        let packed = match self.packed.take() {
            Some(packed) => self.or_failure(packed).await?.unwrap_or(None),
            None => None,
        };
        self.work.close();
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()));
        let all_well = joined.await.unwrap_or(false);
        self.shared.hub.close();
        match packed {
            Some(packed) if all_well && self.shared.failure.lock().is_none() => Ok(SealedBackup {
                hub: Arc::clone(&self.shared.hub),
                identity: Arc::clone(&self.identity),
                backup: self.shared.backup.clone(),
                packs: std::mem::take(&mut *self.shared.sealed.lock()).into_values().collect(),
                packed,
            }),
            _ => Err(self.failure()),
        }
    }

    async fn submit(&mut self, number: FileNumber) -> Result<(), BackupError> {
        let Some(file) = self.open.get_mut(&number) else { return Ok(()) };
        let Some((plain, permit)) = file.buffer.take() else { return Ok(()) };
        let offset = file.offset;
        file.offset += plain.len() as u64;
        let job = FrameJob { sequence: self.next, file: Arc::clone(&file.context), offset, plain, permit };
        self.next += 1;
        let sent = self.work.send(Work::Frame(job));
        self.or_failure(sent).await?.map_err(|_| self.failure())
    }

    async fn control(&mut self, step: Step) -> Result<(), BackupError> {
        let permit = Arc::clone(&self.controls).acquire_owned();
        let permit = self.or_failure(permit).await?.map_err(|_| BackupError::Stopped)?;
        let numbered = Numbered { sequence: self.next, step, _permit: Some(permit) };
        self.next += 1;
        let sent = self.shared.steps.send(numbered);
        self.or_failure(sent).await?.map_err(|_| self.failure())
    }

    /// Waits for `work`, but no longer than the run has not failed and a region takes part.
    async fn or_failure<T>(&self, work: impl Future<Output = T>) -> Result<T, BackupError> {
        if self.shared.hub.taking_part() == 0 {
            return Err(self.failure());
        }
        let mut work = std::pin::pin!(work);
        loop {
            let look_again = tokio::time::sleep(std::time::Duration::from_millis(500));
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => return Err(self.failure()),
                done = &mut work => return Ok(done),
                () = look_again => if self.shared.hub.taking_part() == 0 { return Err(self.failure()) },
            }
        }
    }

    fn failure(&self) -> BackupError {
        if let Some(failure) = self.shared.failure.lock().take() {
            return failure;
        }
        if self.shared.hub.taking_part() == 0 {
            return BackupError::NoRegionLeft { reasons: self.shared.hub.take_reasons() };
        }
        BackupError::Stopped
    }
}

impl Drop for BackupWriter {
    fn drop(&mut self) {
        // After `finish` the threads have ended, and the uploads go on until they are drained.
        if !self.threads.is_empty() {
            self.shared.shut();
            self.work.close();
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }
}

fn permits(count: usize) -> (Sender<()>, async_channel::Receiver<()>) {
    let (back, permits) = async_channel::bounded(count);
    for _ in 0..count {
        if back.try_send(()).is_err() {
            tracing::error!("a channel for {count} permits has no room for them");
        }
    }
    (back, permits)
}
