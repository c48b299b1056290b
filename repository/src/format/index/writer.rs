//! Writing a backup's index: items become frames of about a mebibyte, frames become shards of a few mebibytes.
//!
//! Items stand in the order in which files arrived, so that memory stays the same however many there are.

use lifeboat_stores::SealedBody;
use lifeboat_vocabulary::FileEntry;

use crate::format::compression::{Compressor, LEVEL_DEFAULT};
use crate::format::frame::{FRAME_BYTES_MAX, FramePlace};
use crate::format::header::ObjectHeader;
use crate::format::ids::{EpochId, ObjectId, ObjectKind, RepositoryId};
use crate::format::index::error::IndexError;
use crate::format::index::extents;
use crate::format::index::extents::{ExtentError, FrameRef};
use crate::format::index::item::{
    PackItem, ShardHead, ShardPosition, encode_entry, encode_facts, encode_head, encode_pack,
};
use crate::format::seal::{EpochKey, FrameContent, ObjectLayout};

/// Items are collected up to this many **bytes** before they are compressed; a larger item is a frame of its own.
const FRAME_RAW_TARGET: usize = 1 << 20;
/// A shard of this many **bytes** gets no further frame.
const SHARD_TARGET: usize = 4 << 20;

/// A shard that is ready to be stored.
#[derive(Clone, Debug)]
pub struct SealedShard {
    /// From 0, without gaps.
    pub number: u32,
    /// The object.
    pub body: SealedBody,
}

struct OpenShard {
    head: ShardHead,
    layout: ObjectLayout,
    head_place: FramePlace,
}

/// Writes the index of one backup. Holds at most one shard (about 5 MiB) and one frame.
pub struct IndexWriter {
    key: EpochKey,
    repository: RepositoryId,
    epoch: EpochId,
    compressor: Compressor,
    /// `None` once the index is finished.
    shard: Option<OpenShard>,
    raw: Vec<u8>,
    item: Vec<u8>,
    payload: Vec<u8>,
    items: u64,
    packs: u32,
}

impl IndexWriter {
    /// Begins an index.
    ///
    /// # Errors
    /// [`IndexError::Seal`] without random bytes, [`IndexError::Compress`] without memory.
    pub fn new(key: &EpochKey, repository: RepositoryId, epoch: EpochId) -> Result<Self, IndexError> {
        let mut writer = Self {
            key: EpochKey::from_bytes(*key.expose()),
            repository,
            epoch,
            compressor: Compressor::new(LEVEL_DEFAULT)?,
            shard: None,
            raw: Vec::new(),
            item: Vec::new(),
            payload: Vec::new(),
            items: 0,
            packs: 0,
        };
        writer.shard = Some(writer.open_shard(0)?);
        Ok(writer)
    }

    /// What was recorded of the server, as JSON; only as the first item. A shard is returned when one is full.
    ///
    /// # Errors
    /// [`IndexError`], by meaning; the index is then of no further use.
    pub fn push_facts(&mut self, json: &[u8]) -> Result<Option<SealedShard>, IndexError> {
        if self.items > 0 {
            return Err(IndexError::Order { what: "facts after other items" });
        }
        self.push(|item| Ok(encode_facts(json, item)?))
    }

    /// A pack, before the first entry that uses it. Packs are numbered from 0 without gaps.
    ///
    /// # Errors
    /// As [`Self::push_facts`].
    pub fn push_pack(&mut self, pack: &PackItem) -> Result<Option<SealedShard>, IndexError> {
        if pack.number != self.packs {
            return Err(IndexError::Order { what: "a pack out of its order" });
        }
        self.packs += 1;
        self.push(|item| Ok(encode_pack(pack, item)?))
    }

    /// A file, directory or link, with the CRC-32C of its content (regular files only) and its frames in order.
    ///
    /// # Errors
    /// As [`Self::push_facts`].
    pub fn push_entry(
        &mut self,
        entry: &FileEntry,
        crc32c: u32,
        frames: &[FrameRef],
    ) -> Result<Option<SealedShard>, IndexError> {
        let extents = extents::encode(frames, entry.size)?;
        if let Some(frame) = frames.iter().find(|frame| frame.pack >= self.packs) {
            return Err(ExtentError::UnknownPack { pack: frame.pack }.into());
        }
        self.push(|item| Ok(encode_entry(entry, crc32c, &extents, item)?))
    }

    /// Ends the index and gives out its last shard.
    ///
    /// # Errors
    /// As [`Self::push_facts`].
    pub fn finish(&mut self) -> Result<SealedShard, IndexError> {
        let mut shard = self.shard.take().ok_or(IndexError::Order { what: "the end after the end" })?;
        if !self.raw.is_empty() {
            self.lay_frame(&mut shard)?;
        }
        shard.close(ShardPosition::Last)
    }

    fn push(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), IndexError>,
    ) -> Result<Option<SealedShard>, IndexError> {
        if self.shard.is_none() {
            return Err(IndexError::Order { what: "an item after the end" });
        }
        self.item.clear();
        encode(&mut self.item)?;
        let bytes = self.item.len();
        if bytes > FRAME_BYTES_MAX {
            return Err(IndexError::ItemTooLarge { bytes });
        }
        let full = !self.raw.is_empty() && self.raw.len() + bytes > FRAME_RAW_TARGET;
        let closed = if full { self.flush()? } else { None };
        self.raw.extend_from_slice(&self.item);
        self.items += 1;
        Ok(closed)
    }

    /// Lays the collected items as a frame; if the shard was full already, it is closed before, and is certainly not
    /// the last.
    fn flush(&mut self) -> Result<Option<SealedShard>, IndexError> {
        let mut shard = self.shard.take().ok_or(IndexError::Order { what: "an item after the end" })?;
        let mut closed = None;
        if shard.layout.len() >= SHARD_TARGET {
            let number = shard.head.number.checked_add(1).ok_or(IndexError::Order { what: "so many shards" })?;
            let next = self.open_shard(number)?;
            closed = Some(std::mem::replace(&mut shard, next).close(ShardPosition::MoreFollow)?);
        }
        self.lay_frame(&mut shard)?;
        self.shard = Some(shard);
        Ok(closed)
    }

    fn lay_frame(&mut self, shard: &mut OpenShard) -> Result<(), IndexError> {
        let codec = self.compressor.compress(&self.raw, &mut self.payload)?;
        let too_large = |_| IndexError::ItemTooLarge { bytes: self.raw.len() };
        let raw_len = u32::try_from(self.raw.len()).map_err(too_large)?;
        shard.layout.push(FrameContent { codec, payload: &self.payload, raw_len })?;
        self.raw.clear();
        Ok(())
    }

    fn open_shard(&self, number: u32) -> Result<OpenShard, IndexError> {
        let object = ObjectId::random()?;
        let header = ObjectHeader::new(ObjectKind::IndexShard, self.repository, self.epoch, object)?;
        let mut layout = ObjectLayout::new(&self.key, header, 0)?;
        let head = ShardHead { number, position: ShardPosition::MoreFollow };
        let mut encoded = Vec::new();
        encode_head(head, &mut encoded)?;
        let head_place = layout.push(FrameContent::stored(&encoded)?)?;
        Ok(OpenShard { head, layout, head_place })
    }
}

impl OpenShard {
    fn close(mut self, position: ShardPosition) -> Result<SealedShard, IndexError> {
        let mut encoded = Vec::new();
        encode_head(ShardHead { position, ..self.head }, &mut encoded)?;
        let written = self.layout.payload_mut(self.head_place).filter(|written| written.len() == encoded.len());
        written.ok_or(IndexError::Order { what: "a shard's head" })?.copy_from_slice(&encoded);
        Ok(SealedShard { number: self.head.number, body: self.layout.seal(None)? })
    }
}
