//! Reading a backup's index, shard by shard, item by item.

use bytes::Bytes;

use crate::format::compression::Decompressor;
use crate::format::ids::{EpochId, ObjectKind, RepositoryId};
use crate::format::index::error::IndexError;
use crate::format::index::extents::ExtentError;
use crate::format::index::item::{IndexItem, ItemError, ShardPosition, decode_head, decode_item};
use crate::format::seal::EpochKey;
use crate::format::unseal::{ExpectedObject, ObjectReader};

/// What a whole index holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexTotals {
    /// Shards.
    pub shards: u32,
    /// Packs, of this backup and others.
    pub packs: u32,
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of all files together.
    pub raw_bytes: u64,
}

/// Reads the index of one backup. Holds one shard and one frame (about 1 MiB, 16 MiB at the very most).
pub struct IndexReader {
    key: EpochKey,
    expected: ExpectedObject,
    decompressor: Decompressor,
    shard: Option<OpenShard>,
    /// The frame that is being read, and how much of it was.
    frame: (Vec<u8>, usize),
    totals: IndexTotals,
    next: Next,
}

struct OpenShard {
    object: ObjectReader,
    position: ShardPosition,
}

/// What may come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Anything: nothing has come yet.
    Facts,
    /// Anything but facts.
    Items,
    Nothing,
}

impl IndexReader {
    /// A reader for the index of a backup.
    ///
    /// # Errors
    /// [`IndexError::Decompressor`] if there is no memory.
    pub fn new(key: &EpochKey, repository: RepositoryId, epoch: EpochId) -> Result<Self, IndexError> {
        Ok(Self {
            key: EpochKey::from_bytes(*key.expose()),
            expected: ExpectedObject { kind: ObjectKind::IndexShard, repository, epoch, object: None, place: None },
            decompressor: Decompressor::new()?,
            shard: None,
            frame: (Vec::new(), 0),
            totals: IndexTotals::default(),
            next: Next::Facts,
        })
    }

    /// Begins the next shard, whose SHA-256 the signed record lists. The one before must have been read to its end.
    ///
    /// # Errors
    /// [`IndexError`] if it is not genuine, or not the one that is due.
    pub fn open_shard(&mut self, bytes: Bytes) -> Result<(), IndexError> {
        let shard = self.totals.shards;
        if self.shard.is_some() {
            return Err(IndexError::Unread { shard });
        }
        if self.next == Next::Nothing {
            return Err(IndexError::AfterLast { shard });
        }
        let open = |source| IndexError::Open { shard, source };
        let mut object = ObjectReader::new(&self.key, &self.expected, &[], bytes).map_err(open)?;
        // A shard without any frame has no head either, as decoding the empty slice says.
        let first = object.next_frame(&mut self.decompressor).map_err(open)?.unwrap_or_default();
        let head = decode_head(first).map_err(|source| IndexError::Item { shard, source })?;
        if head.number != shard {
            return Err(IndexError::ShardOrder { expected: shard, found: head.number });
        }
        self.frame.0.clear();
        self.frame.1 = 0;
        self.shard = Some(OpenShard { object, position: head.position });
        Ok(())
    }

    /// The next item, or `None` at the end of the shard, which is then known to be whole. An entry's frames were
    /// checked: they make up the file, and lie in packs that were named before.
    ///
    /// # Errors
    /// [`IndexError`]; the index must not be read further then.
    pub fn next_item(&mut self) -> Result<Option<IndexItem>, IndexError> {
        let shard = self.totals.shards;
        let Some(open) = &mut self.shard else { return Ok(None) };
        let (frame, read) = &mut self.frame;
        while *read >= frame.len() {
            let next = open.object.next_frame(&mut self.decompressor);
            let Some(raw) = next.map_err(|source| IndexError::Open { shard, source })? else {
                if open.position == ShardPosition::Last {
                    self.next = Next::Nothing;
                }
                self.totals.shards += 1;
                self.shard = None;
                return Ok(None);
            };
            frame.clear();
            frame.extend_from_slice(raw);
            *read = 0;
        }
        self.decode().map(Some).map_err(|source| IndexError::Item { shard, source })
    }

    /// Makes sure that all shards were read.
    ///
    /// # Errors
    /// [`IndexError::Unread`] or [`IndexError::MissingLast`].
    pub fn finish(self) -> Result<IndexTotals, IndexError> {
        let shards = self.totals.shards;
        match (self.shard, self.next) {
            (Some(_), _) => Err(IndexError::Unread { shard: shards }),
            (None, Next::Nothing) => Ok(self.totals),
            (None, _) => Err(IndexError::MissingLast { shards }),
        }
    }

    fn decode(&mut self) -> Result<IndexItem, ItemError> {
        let (frame, read) = &mut self.frame;
        let (item, length) = decode_item(frame.get(*read..).unwrap_or_default(), self.totals.packs)?;
        *read += length;
        match &item {
            IndexItem::Facts(_) if self.next != Next::Facts => return Err(ItemError::Misplaced { kind: 1 }),
            IndexItem::Facts(_) => {}
            IndexItem::Pack(_) => self.totals.packs += 1,
            IndexItem::Entry { entry, .. } => {
                let found = self.totals.raw_bytes;
                let sum = found.checked_add(entry.size);
                self.totals.raw_bytes = sum.ok_or(ExtentError::Size { size: entry.size, found })?;
                self.totals.entries += 1;
            }
        }
        self.next = Next::Items;
        Ok(item)
    }
}
