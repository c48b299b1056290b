//! The sync middle of a backup: worker threads that touch every plain byte once while it is hot in the cache (check
//! pages, CRC-32C, compress), and that seal whole packs.

use std::sync::Arc;

use async_channel::{Receiver, Sender};
use lifeboat_stores::SealedBody;
use lifeboat_vocabulary::{FileNumber, RelativePath};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use crate::backup::write::cpu_share::CpuShare;
use crate::backup::write::error::BackupError;
use crate::backup::write::upload::BufferPermit;
use crate::format::compression::Compressor;
use crate::format::crc;
use crate::format::frame::Codec;
use crate::format::pack::PackBuilder;

/// A page whose checksum does not fit its content, and that was not written during the backup either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuspectPage {
    /// The file.
    pub path: RelativePath,
    /// Byte offset of the page in the file.
    pub offset: u64,
    /// The page as it was read, to compare with a second reading.
    pub page: Vec<u8>,
}

/// Judges plain bytes on their way: implemented where PostgreSQL's page format is known. Called on worker threads.
pub trait FrameCheck: Send + Sync {
    /// Judges the pages in `bytes`, which stand at `offset` (a multiple of the frame size) of the file at `path`.
    fn check(&self, path: &RelativePath, offset: u64, bytes: &[u8]) -> Checked;
}

/// What a check has found in a stretch of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Pages that were judged.
    pub pages: u64,
    /// Where in the stretch the pages stand that look damaged.
    pub suspects: Vec<std::ops::Range<usize>>,
}

/// Buffers that go round: frames are as large as an allocation that the system would map and unmap each time.
#[derive(Debug)]
pub(crate) struct BufferPool {
    free: Mutex<Vec<Vec<u8>>>,
    capacity: usize,
    keep: usize,
}

impl BufferPool {
    pub(crate) fn new(capacity: usize, keep: usize) -> Self {
        Self { free: Mutex::default(), capacity, keep }
    }

    pub(crate) fn take(&self) -> Vec<u8> {
        self.free.lock().pop().unwrap_or_else(|| Vec::with_capacity(self.capacity))
    }

    pub(crate) fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut free = self.free.lock();
        if free.len() < self.keep {
            free.push(buffer);
        }
    }
}

/// What all frames of one file share.
#[derive(Debug)]
pub(crate) struct FileContext {
    pub(crate) number: FileNumber,
    pub(crate) path: RelativePath,
}

/// Work for the worker threads.
pub(crate) enum Work {
    Frame(FrameJob),
    Pack(Box<PackJob>),
}

pub(crate) struct FrameJob {
    pub(crate) sequence: u64,
    pub(crate) file: Arc<FileContext>,
    pub(crate) offset: u64,
    pub(crate) plain: Vec<u8>,
    pub(crate) permit: OwnedSemaphorePermit,
}

pub(crate) struct PackJob {
    pub(crate) number: u32,
    pub(crate) builder: PackBuilder,
    pub(crate) permit: BufferPermit,
}

/// A frame that is ready to be placed in a pack.
pub(crate) struct FrameDone {
    pub(crate) file: FileNumber,
    pub(crate) raw_len: u32,
    pub(crate) crc32c: u32,
    pub(crate) codec: Codec,
    pub(crate) payload: Vec<u8>,
    pub(crate) pages: u64,
    pub(crate) suspects: Vec<SuspectPage>,
    /// Held until the frame is in its pack.
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// Where finished work goes.
pub(crate) trait WorkSink: Send + Sync + 'static {
    fn frame_done(&self, sequence: u64, frame: FrameDone) -> Result<(), BackupError>;
    fn pack_sealed(&self, number: u32, body: SealedBody, permit: BufferPermit);
    fn failed(&self, error: BackupError);
}

/// What a worker thread needs.
pub(crate) struct Worker {
    pub(crate) work: Receiver<Work>,
    pub(crate) sink: Arc<dyn WorkSink>,
    pub(crate) pool: Arc<BufferPool>,
    pub(crate) check: Option<Arc<dyn FrameCheck>>,
    pub(crate) level: i32,
    /// Where other backups take turns with this one.
    pub(crate) cpu_share: Option<CpuShare>,
}

impl Worker {
    /// Works until the work channel is closed and empty, or something fails.
    pub(crate) fn run(self) {
        let (sink, work) = (Arc::clone(&self.sink), self.work.clone());
        let _fails = FailsOnPanic(move || {
            sink.failed(panicked());
            work.close();
        });
        if let Err(error) = self.try_run() {
            self.sink.failed(error);
            self.work.close();
        }
    }

    fn try_run(&self) -> Result<(), BackupError> {
        let mut compressor = Compressor::new(self.level)?;
        while let Ok(work) = self.work.recv_blocking() {
            match work {
                Work::Frame(job) => {
                    let sequence = job.sequence;
                    let done = self.in_turn(|| self.frame(job, &mut compressor))?;
                    self.sink.frame_done(sequence, done)?;
                }
                Work::Pack(job) => {
                    let PackJob { number, builder, permit } = *job;
                    let sealed = self.in_turn(|| builder.seal())?;
                    self.sink.pack_sealed(number, sealed, permit);
                }
            }
        }
        Ok(())
    }

    /// Works when it is our turn. Nothing may be waited for in `work`: a turn is a core that others want.
    fn in_turn<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.cpu_share {
            Some(share) => share.work(work),
            None => work(),
        }
    }

    fn frame(&self, job: FrameJob, compressor: &mut Compressor) -> Result<FrameDone, BackupError> {
        let FrameJob { file, offset, plain, permit, .. } = job;
        let checked = self.check.as_ref().map(|check| check.check(&file.path, offset, &plain)).unwrap_or_default();
        let pages = checked.pages;
        let suspects = checked
            .suspects
            .into_iter()
            .map(|range| SuspectPage {
                path: file.path.clone(),
                offset: offset + range.start as u64,
                page: plain.get(range).unwrap_or_default().to_vec(),
            })
            .collect();
        let crc32c = crc::crc32c(&plain);
        let raw_len = u32::try_from(plain.len()).map_err(|_| BackupError::FrameTooLarge { bytes: plain.len() })?;
        let mut payload = self.pool.take();
        let codec = compressor.compress(&plain, &mut payload)?;
        self.pool.give_back(plain);
        Ok(FrameDone { file: file.number, raw_len, crc32c, codec, payload, pages, suspects, _permit: permit })
    }
}

/// The failure of a run in which a thread has panicked.
pub(crate) fn panicked() -> BackupError {
    BackupError::Thread(std::io::Error::other("a thread has panicked; its log says where"))
}

/// Fails the run if the thread that holds this panics. What it had in hand is lost then, and all others would wait for that
/// for ever.
pub(crate) struct FailsOnPanic<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for FailsOnPanic<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0)();
        }
    }
}

/// Starts `count` worker threads. They end when every sender of the work channel is gone or the channel is closed.
pub(crate) fn start_workers(
    count: usize,
    make: impl Fn() -> Worker,
) -> std::io::Result<Vec<std::thread::JoinHandle<()>>> {
    (0..count)
        .map(|index| {
            let worker = make();
            std::thread::Builder::new().name(format!("frames-{index}")).spawn(move || worker.run())
        })
        .collect()
}

/// The sending half of the work queue, bounded so that it can never be full: every job holds a permit.
pub(crate) fn work_lane(frames_in_flight: usize, packs_in_flight: usize) -> (Sender<Work>, Receiver<Work>) {
    async_channel::bounded(frames_in_flight + packs_in_flight + 4)
}
