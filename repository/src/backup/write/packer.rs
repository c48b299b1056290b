//! Puts frames into packs, strictly in the order in which the source sent them, and writes the index on the way.
//!
//! Workers finish in any order; here the order is restored, so that a pack holds neighbours and a restore reads
//! neighbours with one request. One thread, no encryption, no hashing: it only copies compressed bytes to their place.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_channel::{Receiver, Sender};
use lifeboat_stores::SealedBody;
use lifeboat_vocabulary::{BackupId, ByteCount, FileEntry, FileNumber, RelativePath, Sha256Digest};
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use crate::backup::write::error::BackupError;
use crate::backup::write::manifest_check::ManifestCheck;
use crate::backup::write::memory_plan::MemoryPlan;
use crate::backup::write::upload::{BufferPermit, UploadHub};
use crate::backup::write::worker::{
    BufferPool, FailsOnPanic, FrameDone, PackJob, SuspectPage, Work, WorkSink, panicked,
};
use crate::format::crc;
use crate::format::ids::{EpochId, ObjectId, RepositoryId};
use crate::format::index::extents::FrameRef;
use crate::format::index::item::PackItem;
use crate::format::index::writer::{IndexWriter, SealedShard};
use crate::format::layout;
use crate::format::pack::{Fits, PACK_BYTES_MIN, PackBuilder};
use crate::format::seal::EpochKey;

/// Suspect pages that are kept for a second look; more than that are only counted.
const SUSPECTS_KEPT: usize = 1024;

/// An object as it will stand in the list that a record signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredObject {
    /// Its key.
    pub key: lifeboat_stores::ObjectKey,
    /// SHA-256 of its bytes.
    pub sha256: Sha256Digest,
    /// Its size.
    pub size: ByteCount,
}

/// One step in the life of a backup, in the order of the source.
pub(crate) enum Step {
    Facts(Vec<u8>),
    Begin(FileNumber, FileEntry),
    Frame(FrameDone),
    End(FileNumber, u64),
    Listed { path: RelativePath, size: u64, crc32c: Option<u32> },
    Finish,
}

/// A step with its place in the order, and the permit of steps that are not frames.
pub(crate) struct Numbered {
    pub(crate) sequence: u64,
    pub(crate) step: Step,
    pub(crate) _permit: Option<OwnedSemaphorePermit>,
}

/// What all threads of one backup share.
pub(crate) struct Shared {
    pub(crate) steps: Sender<Numbered>,
    pub(crate) hub: Arc<UploadHub>,
    pub(crate) backup: BackupId,
    pub(crate) sealed: Mutex<BTreeMap<u32, StoredObject>>,
    pub(crate) pack_keys: Mutex<HashMap<u32, ObjectId>>,
    pub(crate) failure: Mutex<Option<BackupError>>,
    pub(crate) permits: [Sender<()>; 2],
    pub(crate) stop: tokio_util::sync::CancellationToken,
}

impl Shared {
    /// Keeps the first failure and stops everything else.
    pub(crate) fn fail(&self, error: BackupError) {
        self.failure.lock().get_or_insert(error);
        self.shut();
    }

    /// Ends everything: all that wait for a step or a permit wake up, uploads are dropped.
    pub(crate) fn shut(&self) {
        self.steps.close();
        for permits in &self.permits {
            permits.close();
        }
        self.stop.cancel();
    }
}

impl WorkSink for Shared {
    fn frame_done(&self, sequence: u64, frame: FrameDone) -> Result<(), BackupError> {
        let step = Numbered { sequence, step: Step::Frame(frame), _permit: None };
        self.steps.send_blocking(step).map_err(|_| BackupError::Stopped)
    }

    fn pack_sealed(&self, number: u32, body: SealedBody, permit: BufferPermit) {
        let object = self.pack_keys.lock().remove(&number);
        let Some(object) = object else {
            self.fail(BackupError::Source { what: format!("pack {number} twice") });
            return;
        };
        let key = layout::pack(&self.backup, number, object);
        let size = ByteCount::of(&body.bytes);
        self.sealed.lock().insert(number, StoredObject { key: key.clone(), sha256: body.sha256, size });
        self.hub.submit(&key, body, permit);
    }

    fn failed(&self, error: BackupError) {
        self.fail(error);
    }
}

/// Identity of everything that one backup seals.
pub(crate) struct SealingIdentity {
    pub(crate) key: EpochKey,
    pub(crate) repository: RepositoryId,
    pub(crate) epoch: EpochId,
}

/// What the packer found out, when all is packed.
#[derive(Debug, Default)]
pub struct Packed {
    /// Index shards, in order.
    pub shards: Vec<StoredObject>,
    /// Regular files.
    pub files: u64,
    /// Plain bytes of all files.
    pub raw: ByteCount,
    /// Pages whose checksum was computed.
    pub pages_checked: u64,
    /// Pages to look at again, the first thousand.
    pub suspects: Vec<SuspectPage>,
    /// How many there were in all.
    pub suspect_count: u64,
}

struct OpenFile {
    entry: FileEntry,
    size: u64,
    crc32c: u32,
    frames: Vec<FrameRef>,
}

struct OpenPack {
    number: u32,
    builder: PackBuilder,
    permit: BufferPermit,
}

pub(crate) struct Packer {
    pub(crate) steps: Receiver<Numbered>,
    pub(crate) work: Sender<Work>,
    pub(crate) pack_permits: (Sender<()>, Receiver<()>),
    pub(crate) shard_permits: (Sender<()>, Receiver<()>),
    pub(crate) pool: Arc<BufferPool>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) identity: Arc<SealingIdentity>,
    pub(crate) index: IndexWriter,
    pub(crate) pack_sizes: PackSizes,
}

/// How large a pack may be, in **bytes**.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackSizes {
    /// It has room for any frame.
    pub(crate) least: usize,
    /// There is memory for it.
    pub(crate) most: usize,
}

impl PackSizes {
    pub(crate) fn of(plan: &MemoryPlan) -> Self {
        // What cannot be compressed is a little larger in a pack.
        let least = 2 * plan.frame_bytes + PACK_BYTES_MIN;
        Self { least: least.min(plan.pack_bytes), most: plan.pack_bytes }
    }

    /// How small the pack of this number may be at the least. One object lists them all, and has room for some 450,000: a backup that takes
    /// weeks on a slow line must not find out at its end that it has too many.
    fn least_of(self, number: u32) -> usize {
        let enough = match number {
            0..100_000 => 0,
            100_000..200_000 => 4 << 20,
            200_000.. => self.most,
        };
        self.least.max(enough).min(self.most)
    }
}

struct State {
    open: HashMap<FileNumber, OpenFile>,
    pack: Option<OpenPack>,
    next_pack: u32,
    check: ManifestCheck,
    result: Packed,
}

impl Packer {
    /// Runs until `Finish`, or until a failure closes the channel. Called on a thread of its own.
    pub(crate) fn run(mut self) -> Option<Packed> {
        let (shared, work) = (Arc::clone(&self.shared), self.work.clone());
        let _fails = FailsOnPanic(move || {
            work.close();
            shared.fail(panicked());
        });
        match self.try_run() {
            Ok(packed) => Some(packed),
            Err(error) => {
                self.work.close();
                self.shared.fail(error);
                None
            }
        }
    }

    fn try_run(&mut self) -> Result<Packed, BackupError> {
        let mut state = State {
            open: HashMap::new(),
            pack: None,
            next_pack: 0,
            check: ManifestCheck::default(),
            result: Packed::default(),
        };
        // Bounded by the permits that every step carries.
        let mut early: BTreeMap<u64, Numbered> = BTreeMap::new();
        let mut next = 0;
        while let Ok(numbered) = self.steps.recv_blocking() {
            early.insert(numbered.sequence, numbered);
            while let Some(numbered) = early.remove(&next) {
                next += 1;
                if matches!(numbered.step, Step::Finish) {
                    return self.finish(state);
                }
                self.step(&mut state, numbered.step)?;
            }
        }
        Err(BackupError::Stopped)
    }

    fn step(&mut self, state: &mut State, step: Step) -> Result<(), BackupError> {
        match step {
            Step::Facts(json) => self.index_pushed(state, |index| index.push_facts(&json)),
            Step::Begin(number, entry) => {
                let file = OpenFile { entry, size: 0, crc32c: 0, frames: Vec::new() };
                match state.open.insert(number, file) {
                    None => Ok(()),
                    Some(_) => Err(BackupError::Source { what: format!("file {} twice", number.0) }),
                }
            }
            Step::Frame(frame) => self.place(state, frame),
            Step::End(number, size) => self.end_file(state, number, size),
            Step::Listed { path, size, crc32c } => Ok(state.check.listed(&path, size, crc32c)?),
            Step::Finish => Ok(()),
        }
    }

    fn place(&mut self, state: &mut State, frame: FrameDone) -> Result<(), BackupError> {
        if let Some(full) = state.pack.take_if(|pack| pack.builder.fits(frame.payload.len()) == Fits::No) {
            self.close_pack(full)?;
        }
        if state.pack.is_none() {
            let opened = self.open_pack(state)?;
            state.pack = Some(opened);
        }
        let unknown = || BackupError::Source { what: format!("bytes of file {} outside of it", frame.file.0) };
        let pack = state.pack.as_mut().ok_or_else(unknown)?;
        let place = pack.builder.push(frame.codec, &frame.payload, frame.raw_len)?;
        let file = state.open.get_mut(&frame.file).ok_or_else(unknown)?;
        file.frames.push(FrameRef { pack: pack.number, place, raw_len: frame.raw_len });
        file.crc32c = crc::combine(file.crc32c, frame.crc32c, u64::from(frame.raw_len));
        file.size += u64::from(frame.raw_len);
        let room = SUSPECTS_KEPT.saturating_sub(state.result.suspects.len());
        state.result.pages_checked += frame.pages;
        state.result.suspect_count += frame.suspects.len() as u64;
        state.result.suspects.extend(frame.suspects.into_iter().take(room));
        self.pool.give_back(frame.payload);
        Ok(())
    }

    fn end_file(&mut self, state: &mut State, number: FileNumber, size: u64) -> Result<(), BackupError> {
        let file = state.open.remove(&number);
        let file = file.ok_or_else(|| BackupError::Source { what: format!("the end of unknown file {}", number.0) })?;
        if file.size != size {
            let what = format!("{} bytes of {}, which ends at {size}", file.size, file.entry.path);
            return Err(BackupError::Source { what });
        }
        let entry = FileEntry { size, ..file.entry };
        if entry.kind == lifeboat_vocabulary::EntryKind::File {
            state.check.received(&entry.path, size, file.crc32c);
            state.result.files += 1;
            state.result.raw = state.result.raw.plus(ByteCount::from_bytes(size));
            self.shared.hub.progress().add_file();
        }
        self.index_pushed(state, |index| index.push_entry(&entry, file.crc32c, &file.frames))
    }

    fn open_pack(&mut self, state: &mut State) -> Result<OpenPack, BackupError> {
        self.pack_permits.1.recv_blocking().map_err(|_| BackupError::Stopped)?;
        let permit = BufferPermit::new(self.pack_permits.0.clone());
        let number = state.next_pack;
        state.next_pack += 1;
        let object = ObjectId::random()?;
        let sizes = self.pack_sizes;
        let capacity = self.shared.hub.pack_bytes(sizes.least_of(number), sizes.most);
        let SealingIdentity { key, repository, epoch } = &*self.identity;
        let builder = PackBuilder::new(key, *repository, *epoch, object, capacity)?;
        self.shared.pack_keys.lock().insert(number, object);
        let item = PackItem { number, object, salt: builder.salt(), elsewhere: None };
        self.index_pushed(state, |index| index.push_pack(&item))?;
        Ok(OpenPack { number, builder, permit })
    }

    fn close_pack(&self, pack: OpenPack) -> Result<(), BackupError> {
        let job = PackJob { number: pack.number, builder: pack.builder, permit: pack.permit };
        self.work.send_blocking(Work::Pack(Box::new(job))).map_err(|_| BackupError::Stopped)
    }

    fn index_pushed(
        &mut self,
        state: &mut State,
        push: impl FnOnce(&mut IndexWriter) -> Result<Option<SealedShard>, crate::format::index::error::IndexError>,
    ) -> Result<(), BackupError> {
        match push(&mut self.index)? {
            Some(shard) => self.send_shard(&mut state.result, shard),
            None => Ok(()),
        }
    }

    fn send_shard(&self, result: &mut Packed, shard: SealedShard) -> Result<(), BackupError> {
        self.shard_permits.1.recv_blocking().map_err(|_| BackupError::Stopped)?;
        let key = layout::index_shard(&self.shared.backup, shard.number);
        let size = ByteCount::of(&shard.body.bytes);
        result.shards.push(StoredObject { key: key.clone(), sha256: shard.body.sha256, size });
        self.shared.hub.submit(&key, shard.body, BufferPermit::new(self.shard_permits.0.clone()));
        Ok(())
    }

    fn finish(&mut self, mut state: State) -> Result<Packed, BackupError> {
        if let Some(open) = state.open.values().next() {
            return Err(BackupError::Source { what: format!("no end of {}", open.entry.path) });
        }
        state.check.finish()?;
        if let Some(last) = state.pack.take() {
            self.close_pack(last)?;
        }
        let last_shard = self.index.finish()?;
        self.send_shard(&mut state.result, last_shard)?;
        Ok(state.result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_become_larger_the_more_there_are_and_a_large_cluster_has_room_in_one_list() {
        let sizes = PackSizes { least: 320 << 10, most: 16 << 20 };
        assert_eq!(sizes.least_of(0), 320 << 10);
        let room = |number| sizes.least_of(number).max(1 << 20) as u64;
        let all: u64 = (0..440_000).map(room).sum();
        assert!(all >= 4 << 40, "{all} bytes in the smallest packs");
        let small = PackSizes { least: 320 << 10, most: 2 << 20 };
        assert_eq!([0, 150_000, u32::MAX].map(|number| small.least_of(number)), [320 << 10, 2 << 20, 2 << 20]);
    }
}
