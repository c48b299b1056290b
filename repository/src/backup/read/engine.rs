//! Reads a whole backup: index, packs, frames, files. Restore and verify are this same walk with different sinks.
//!
//! ```text
//! index shards -> planner thread -> runs -> fetch tasks (best region) -> worker threads (open, unzip) -> sink
//! ```
//! Memory is bounded by the number of runs on their way, whatever the size of the backup. A frame that does not open is
//! fetched again from the next region; a file whose CRC-32C is wrong in the end is an error, never a warning.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use async_channel::{Receiver, Sender};
use bytes::{Bytes, BytesMut};
use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::{EntryKind, FileEntry, RegionName};
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use crate::backup::progress::Progress;
use crate::backup::read::aligned_buffer::AlignedBuffer;
use crate::backup::read::error::ReadBackupError;
use crate::backup::read::file_job::{FileJob, SinkFile};
use crate::backup::read::plan::{FramePart, Planner, Ranges, Run};
use crate::backup::read::reader::{BackupReader, SharedReader};
use crate::format::compression::Decompressor;
use crate::format::crc;
use crate::format::index::item::{IndexItem, PackItem};
use crate::format::index::reader::IndexReader;
use crate::format::pack::PackReader;

/// Neighbouring frames of one file that are handed to the sink in one piece, at most: 1 MiB.
const WRITE_BYTES: usize = 1 << 20;

/// Where files go. Called on worker threads and on the planner's thread.
pub trait FileSink: Send + Sync {
    /// A directory or a link.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn make(&self, entry: &FileEntry) -> std::io::Result<()>;

    /// A file begins; its size is that of `entry`.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn open(&self, entry: &FileEntry) -> std::io::Result<Box<dyn SinkFile>>;

    /// A file is complete and its CRC-32C is right.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn complete(&self, entry: &FileEntry, crc32c: u32, file: Box<dyn SinkFile>) -> std::io::Result<()>;

    /// What was said about the cluster at the head of the index (JSON). Comes before any file.
    ///
    /// # Errors
    /// Whatever makes it unusable.
    fn facts(&self, json: &[u8]) -> std::io::Result<()>;
}

/// How to read.
#[derive(Clone, Copy, Debug)]
pub struct ReadSettings {
    /// How much one request reads.
    pub ranges: Ranges,
    /// Requests at the same time.
    pub connections: usize,
    /// Threads that decrypt, decompress and write.
    pub workers: usize,
}

/// Who watches a read, and who may end it.
#[derive(Clone, Debug)]
pub struct ReadControl<'a> {
    /// Counts bytes and files.
    pub progress: Arc<Progress>,
    /// Ends the read early.
    pub stop: &'a CancellationToken,
}

struct Pack {
    key: ObjectKey,
    opener: PackReader,
}

struct Fetched {
    run: Run,
    pack: Arc<Pack>,
    region: RegionName,
    bytes: Bytes,
}

struct Engine {
    reader: SharedReader,
    sink: Arc<dyn FileSink>,
    settings: ReadSettings,
    progress: Arc<Progress>,
    packs: RwLock<HashMap<u32, Arc<Pack>>>,
    failure: Mutex<Option<ReadBackupError>>,
    /// Files whose frames were not all written yet.
    unfinished: AtomicU64,
    stop: CancellationToken,
    runtime: tokio::runtime::Handle,
}

/// Reads all files of a backup into `sink`. `shards` are the keys of the index shards in order. Returns when every file
/// is complete; the sink still has to make them durable.
///
/// # Errors
/// [`ReadBackupError`]; the first fault that no other region could make up for.
pub async fn read_backup(
    reader: SharedReader,
    shards: Vec<ObjectKey>,
    sink: Arc<dyn FileSink>,
    settings: ReadSettings,
    control: ReadControl<'_>,
) -> Result<(), ReadBackupError> {
    let ReadControl { progress, stop } = control;
    let engine = Arc::new(Engine {
        reader,
        sink,
        settings,
        progress,
        packs: RwLock::default(),
        failure: Mutex::default(),
        unfinished: AtomicU64::new(0),
        stop: stop.child_token(),
        runtime: tokio::runtime::Handle::current(),
    });
    let (runs_in, runs) = async_channel::bounded::<Run>(1);
    let (fetched_in, fetched) = async_channel::bounded::<Fetched>(1);
    let mut threads = vec![spawn("planner", &engine, move |engine| engine.plan(&shards, &runs_in))?];
    for _ in 0..settings.workers.max(1) {
        let fetched = fetched.clone();
        threads.push(spawn("restore", &engine, move |engine| engine.work(&fetched))?);
    }
    drop(fetched);
    let mut fetchers = tokio::task::JoinSet::new();
    for _ in 0..settings.connections.max(1) {
        fetchers.spawn(Arc::clone(&engine).fetch(runs.clone(), fetched_in.clone()));
    }
    drop((runs, fetched_in));
    while let Some(ended) = fetchers.join_next().await {
        if let Err(error) = ended {
            // What it had in hand is lost, and nobody else would miss it.
            engine.fail(ReadBackupError::Thread(std::io::Error::other(error)));
        }
    }
    let joined = tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()));
    let all_well = joined.await.unwrap_or(false);
    if let Some(failure) = engine.failure.lock().take() {
        return Err(failure);
    }
    if stop.is_cancelled() {
        return Err(ReadBackupError::Stopped);
    }
    match (all_well, engine.unfinished.load(Ordering::Acquire)) {
        (true, 0) => Ok(()),
        (true, files) => Err(ReadBackupError::Unfinished { files }),
        (false, _) => Err(ReadBackupError::Thread(std::io::Error::other("a thread panicked"))),
    }
}

/// What was recorded of the server at the head of the index (JSON), if anything was. `shard` is the first one.
///
/// # Errors
/// [`ReadBackupError`] if no region has the shard as it was written.
pub async fn read_facts(reader: &BackupReader, shard: &ObjectKey) -> Result<Option<Vec<u8>>, ReadBackupError> {
    let bytes = reader.whole(shard).await?;
    let mut index = IndexReader::new(&reader.key, reader.repository, reader.epoch)?;
    index.open_shard(bytes)?;
    Ok(match index.next_item()? {
        Some(IndexItem::Facts(json)) => Some(json),
        _ => None,
    })
}

fn spawn(
    name: &str,
    engine: &Arc<Engine>,
    run: impl FnOnce(&Engine) -> Result<(), ReadBackupError> + Send + 'static,
) -> Result<std::thread::JoinHandle<()>, ReadBackupError> {
    let engine = Arc::clone(engine);
    let body = move || {
        if let Err(error) = run(&engine) {
            engine.fail(error);
        }
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(ReadBackupError::Thread)
}

impl Engine {
    fn fail(&self, error: ReadBackupError) {
        self.failure.lock().get_or_insert(error);
        self.stop.cancel();
    }

    fn block_on<T>(&self, work: impl Future<Output = T>) -> Result<T, ReadBackupError> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => Err(ReadBackupError::Stopped),
                done = work => Ok(done),
            }
        })
    }

    fn plan(&self, shards: &[ObjectKey], runs: &Sender<Run>) -> Result<(), ReadBackupError> {
        let mut planner = Planner::new(self.settings.ranges);
        let mut index = IndexReader::new(&self.reader.key, self.reader.repository, self.reader.epoch)?;
        for key in shards {
            let bytes = self.block_on(self.reader.whole(key))??;
            self.progress.add_stored(bytes.len());
            index.open_shard(bytes)?;
            while let Some(item) = index.next_item()? {
                match item {
                    IndexItem::Facts(json) => {
                        self.sink.facts(&json).map_err(ReadBackupError::Facts)?;
                    }
                    IndexItem::Pack(pack) => self.add_pack(&pack)?,
                    IndexItem::Entry { entry, crc32c, frames } => {
                        for run in self.file(entry, crc32c, &frames, &mut planner)? {
                            self.block_on(runs.send(run))?.map_err(|_| ReadBackupError::Stopped)?;
                        }
                    }
                }
            }
        }
        index.finish()?;
        match planner.finish() {
            Some(run) => self.block_on(runs.send(run))?.map_err(|_| ReadBackupError::Stopped),
            None => Ok(()),
        }
    }

    fn add_pack(&self, item: &PackItem) -> Result<(), ReadBackupError> {
        let unknown = || ReadBackupError::UnknownPack { pack: item.number };
        let key = match &item.elsewhere {
            // Only the key of this backup's own epoch was unwrapped.
            Some(elsewhere) if elsewhere.epoch != self.reader.epoch => {
                return Err(ReadBackupError::OtherEpoch { pack: item.number, epoch: elsewhere.epoch });
            }
            Some(elsewhere) => elsewhere.key.clone(),
            None => self.reader.own_pack(item.number, item.object),
        };
        if self.reader.expected(&key).is_none() {
            return Err(unknown());
        }
        let BackupReader { key: epoch_key, repository, epoch, .. } = &*self.reader;
        let opener = PackReader::from_index(epoch_key, *repository, *epoch, item.object, item.salt)
            .map_err(|source| ReadBackupError::Open { pack: item.number, source })?;
        self.packs.write().insert(item.number, Arc::new(Pack { key, opener }));
        Ok(())
    }

    fn file(
        &self,
        entry: FileEntry,
        crc32c: u32,
        frames: &[crate::format::index::extents::FrameRef],
        planner: &mut Planner,
    ) -> Result<Vec<Run>, ReadBackupError> {
        if entry.kind != EntryKind::File {
            return self.sink.make(&entry).map(|()| Vec::new()).map_err(|source| write_error(&entry.path, source));
        }
        let count = u32::try_from(frames.len()).map_err(|_| ReadBackupError::Stopped)?;
        self.unfinished.fetch_add(1, Ordering::AcqRel);
        let job = Arc::new(FileJob {
            entry,
            expected: crc32c,
            remaining: AtomicU32::new(count),
            parts: Mutex::new(vec![(0, 0); frames.len()]),
            open: RwLock::new(None),
        });
        if frames.is_empty() {
            self.open_file(&job)?;
            self.complete(&job)?;
            return Ok(Vec::new());
        }
        let mut offset = 0;
        let mut runs = Vec::new();
        for (index, frame) in (0..count).zip(frames) {
            let part = FramePart { file: Arc::clone(&job), index, offset, frame: *frame };
            runs.extend(planner.push(part));
            offset += u64::from(frame.raw_len);
        }
        Ok(runs)
    }

    async fn fetch(self: Arc<Self>, runs: Receiver<Run>, fetched: Sender<Fetched>) {
        let work = async {
            while let Ok(run) = runs.recv().await {
                let pack = self.packs.read().get(&run.pack).cloned();
                let pack = pack.ok_or(ReadBackupError::UnknownPack { pack: run.pack })?;
                let (region, bytes) = match self.settings.ranges {
                    Ranges::Parts(_) => self.reader.part(&pack.key, run.start, run.length, &[]).await?,
                    Ranges::WholeObjects => self.reader.whole_from(&pack.key).await?,
                };
                self.progress.add_stored(bytes.len());
                if fetched.send(Fetched { run, pack, region, bytes }).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            outcome = work => if let Err(error) = outcome { self.fail(error) },
        }
    }

    fn work(&self, fetched: &Receiver<Fetched>) -> Result<(), ReadBackupError> {
        let mut decompressor = Decompressor::new()?;
        let mut buffer = AlignedBuffer::new(WRITE_BYTES);
        while let Ok(fetched) = fetched.recv_blocking() {
            if self.stop.is_cancelled() {
                return Ok(());
            }
            self.run(fetched, &mut decompressor, &mut buffer)?;
        }
        Ok(())
    }

    fn run(
        &self,
        fetched: Fetched,
        decompressor: &mut Decompressor,
        buffer: &mut AlignedBuffer,
    ) -> Result<(), ReadBackupError> {
        let Fetched { run, pack, region, bytes } = fetched;
        let start = if self.settings.ranges == Ranges::WholeObjects { 0 } else { run.start };
        let mut bytes = bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        let mut at = 0;
        while let Some(first) = run.frames.get(at) {
            buffer.clear();
            let mut next = at;
            // Neighbours of the same file go out in one write.
            while let Some(part) = run.frames.get(next) {
                let raw_len = usize::try_from(part.frame.raw_len).unwrap_or(usize::MAX);
                let same_file = Arc::ptr_eq(&part.file, &first.file);
                if next > at && (!same_file || buffer.len() + raw_len > WRITE_BYTES) {
                    break;
                }
                let from = usize::try_from(u64::from(part.frame.place.offset) - start).unwrap_or(usize::MAX);
                let to = from.saturating_add(usize::try_from(part.frame.place.stored_len).unwrap_or(usize::MAX));
                let mut target = FrameTarget { decompressor: &mut *decompressor, bytes: buffer.grow(raw_len) };
                let opened = match bytes.get_mut(from..to) {
                    Some(sealed) => open_frame(&pack.opener, part, sealed, &mut target),
                    None => Err("the object ends before it".to_owned()),
                };
                if let Err(what) = opened {
                    self.frame_from_elsewhere(part, &pack, WrongFrame { region: &region, what }, target)?;
                }
                let crc = crc::crc32c(buffer.tail(raw_len));
                if let Some(slot) = part.file.parts.lock().get_mut(usize::try_from(part.index).unwrap_or(usize::MAX)) {
                    *slot = (crc, part.frame.raw_len);
                }
                next += 1;
            }
            self.write(&first.file, buffer.filled(), first.offset, u32::try_from(next - at).unwrap_or(u32::MAX))?;
            at = next;
        }
        Ok(())
    }

    /// A frame that one region gave back wrong: reported, and taken from the next region that has it right.
    fn frame_from_elsewhere(
        &self,
        part: &FramePart,
        pack: &Pack,
        wrong: WrongFrame<'_>,
        mut target: FrameTarget<'_>,
    ) -> Result<(), ReadBackupError> {
        let WrongFrame { region, what } = wrong;
        let place = part.frame.place;
        let (start, length) = (u64::from(place.offset), u64::from(place.stored_len));
        let mut bad = vec![(region.clone(), format!("frame {}: {what}", place.frame))];
        self.reader.report(region, &pack.key, format!("frame {} does not open: {what}", place.frame));
        loop {
            let except: Vec<_> = bad.iter().map(|(region, _)| region.clone()).collect();
            let read = self.block_on(self.reader.part(&pack.key, start, length, &except))?;
            let (region, bytes) = read.map_err(|mut error| {
                error.tried.splice(0..0, bad.iter().cloned());
                error
            })?;
            let mut bytes = BytesMut::from(&bytes[..]);
            match open_frame(&pack.opener, part, &mut bytes, &mut target) {
                Ok(()) => return Ok(()),
                Err(what) => {
                    self.reader.report(&region, &pack.key, format!("frame {} does not open: {what}", place.frame));
                    bad.push((region, what));
                }
            }
        }
    }

    fn open_file(&self, job: &FileJob) -> Result<(), ReadBackupError> {
        let mut open = job.open.write();
        if open.is_none() {
            *open = Some(self.sink.open(&job.entry).map_err(|source| write_error(&job.entry.path, source))?);
        }
        Ok(())
    }

    fn write(&self, job: &FileJob, bytes: &[u8], offset: u64, frames: u32) -> Result<(), ReadBackupError> {
        if job.open.read().is_none() {
            self.open_file(job)?;
        }
        if let Some(file) = &*job.open.read() {
            file.write_at(bytes, offset).map_err(|source| write_error(&job.entry.path, source))?;
        }
        self.progress.add_raw(bytes.len());
        if job.remaining.fetch_sub(frames, Ordering::AcqRel) == frames {
            self.complete(job)?;
        }
        Ok(())
    }

    fn complete(&self, job: &FileJob) -> Result<(), ReadBackupError> {
        let parts = std::mem::take(&mut *job.parts.lock());
        let found = parts.into_iter().fold(0, |crc, (part, length)| crc::combine(crc, part, u64::from(length)));
        if found != job.expected {
            let path = job.entry.path.clone();
            return Err(ReadBackupError::FileChecksum { path, found, expected: job.expected });
        }
        let file = job.open.write().take();
        if let Some(file) = file {
            let done = self.sink.complete(&job.entry, found, file);
            done.map_err(|source| write_error(&job.entry.path, source))?;
        }
        self.unfinished.fetch_sub(1, Ordering::AcqRel);
        self.progress.add_file();
        Ok(())
    }
}

fn write_error(path: &lifeboat_vocabulary::RelativePath, source: std::io::Error) -> ReadBackupError {
    ReadBackupError::Write { path: path.clone(), source }
}

/// A frame that one region gave back wrong.
struct WrongFrame<'a> {
    region: &'a RegionName,
    what: String,
}

/// Where the content of a frame goes.
struct FrameTarget<'a> {
    decompressor: &'a mut Decompressor,
    bytes: &'a mut [u8],
}

/// Decrypts and decompresses one frame into `target`, which has exactly the frame's plain length.
fn open_frame(
    opener: &PackReader,
    part: &FramePart,
    sealed: &mut [u8],
    target: &mut FrameTarget<'_>,
) -> Result<(), String> {
    let opened = opener.open(part.frame.place, sealed).map_err(|error| lifeboat_vocabulary::error_chain(&error))?;
    target
        .decompressor
        .decompress(opened.codec, opened.payload, target.bytes)
        .map_err(|error| lifeboat_vocabulary::error_chain(&error))
}
