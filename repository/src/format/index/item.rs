//! What a backup's index consists of: items, each a CBOR map with integer keys (RFC 8949, deterministic encoding),
//! one after the other (RFC 8742). Key 0 is the item's type.
//!
//! A reader skips keys that it does not know and refuses types that it does not know: what may be ignored comes as a
//! key, what must not be ignored comes as a type.

use std::convert::Infallible;

use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::{EntryKind, FileEntry, RelativePath};
use minicbor::{Decoder, Encoder};

use crate::format::ids::{EpochId, ObjectId, Salt};
use crate::format::index::extents::{self, ExtentError, Extents, FrameRef};

/// The version of the index within format version 1.
const INDEX_VERSION: u64 = 1;
const SHARD: u64 = 0;
const FACTS: u64 = 1;
const PACK: u64 = 2;
const ENTRY: u64 = 3;

/// A pack that is not this backup's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Its key below the cluster's folder.
    pub key: ObjectKey,
    /// The epoch under which it is sealed.
    pub epoch: EpochId,
}

/// A pack that later entries refer to by its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackItem {
    /// From 0, without gaps, in the order of the index.
    pub number: u32,
    /// The object.
    pub object: ObjectId,
    /// Its salt, so that frames can be opened without its head.
    pub salt: Salt,
    /// Where it is, if not among this backup's own objects.
    pub elsewhere: Option<Elsewhere>,
}

/// One item of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexItem {
    /// What was recorded of the server, as JSON; the first item if present.
    Facts(Vec<u8>),
    /// A pack.
    Pack(PackItem),
    /// A member of the data directory.
    Entry {
        /// What it is.
        entry: FileEntry,
        /// CRC-32C of the whole content; 0 for what is not a regular file.
        crc32c: u32,
        /// Where the content is, in the order of the file.
        frames: Vec<FrameRef>,
    },
}

/// The first item of every shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShardHead {
    pub(crate) number: u32,
    pub(crate) position: ShardPosition,
}

/// Whether more shards follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShardPosition {
    MoreFollow,
    Last,
}

/// Why an item cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ItemError {
    /// Not CBOR, or a value of another type than expected.
    #[error("read a value")]
    Cbor(#[from] minicbor::decode::Error),
    /// Not encoded in the one way that is allowed.
    #[error("the encoding is not the deterministic one")]
    Encoding,
    /// A later release wrote something that must not be ignored.
    #[error("items of type {found} are not known; a newer release reads them")]
    UnknownType {
        /// The type.
        found: u64,
    },
    /// A later release wrote the index.
    #[error("index version {found} is not known; a newer release reads it")]
    UnknownVersion {
        /// The version.
        found: u64,
    },
    /// A key that the item must have is missing.
    #[error("key {key} of an item of type {kind} is missing")]
    Missing {
        /// The item's type.
        kind: u64,
        /// The key.
        key: u64,
    },
    /// A value that makes no sense.
    #[error("key {key} of an item of type {kind} makes no sense")]
    Value {
        /// The item's type.
        kind: u64,
        /// The key.
        key: u64,
    },
    /// The frames of a file do not make it up.
    #[error("read the frames of a file")]
    Extents(#[from] ExtentError),
    /// An item where it must not stand.
    #[error("an item of type {kind} must not stand there")]
    Misplaced {
        /// The item's type.
        kind: u64,
    },
}

type Out<'a> = Encoder<&'a mut Vec<u8>>;
/// Writing to memory cannot fail; the type says so, the signature does not.
pub(crate) type EncodeError = minicbor::encode::Error<Infallible>;

/// Writes a shard's first item. Its last byte is the position, so that it can be changed in place.
pub(crate) fn encode_head(head: ShardHead, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let mut cbor = Encoder::new(out);
    cbor.map(4)?.u64(0)?.u64(SHARD)?.u64(1)?.u64(INDEX_VERSION)?.u64(2)?.u32(head.number)?;
    cbor.u64(3)?.bool(head.position == ShardPosition::Last)?.ok()
}

pub(crate) fn encode_facts(json: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    Encoder::new(out).map(2)?.u64(0)?.u64(FACTS)?.u64(1)?.bytes(json)?.ok()
}

pub(crate) fn encode_pack(pack: &PackItem, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let mut cbor = Encoder::new(out);
    cbor.map(if pack.elsewhere.is_some() { 6 } else { 4 })?.u64(0)?.u64(PACK)?.u64(1)?.u32(pack.number)?;
    cbor.u64(2)?.bytes(pack.object.as_bytes())?.u64(3)?.bytes(pack.salt.as_bytes())?;
    if let Some(Elsewhere { key, epoch }) = &pack.elsewhere {
        cbor.u64(4)?.str(key.as_str())?.u64(5)?.bytes(epoch.as_bytes())?;
    }
    Ok(())
}

/// Writes an entry; `extents` are those of its content.
pub(crate) fn encode_entry(
    entry: &FileEntry,
    crc32c: u32,
    extents: &Extents,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let crc32c = (entry.kind == EntryKind::File).then_some(crc32c);
    let (kind, target) = match &entry.kind {
        EntryKind::File => (0, None),
        EntryKind::Directory => (1, None),
        EntryKind::Symlink { target } => (2, Some(target)),
    };
    // The length of frames is needed only where there is more than one.
    let frame_bytes = Some(extents.frame_bytes).filter(|bytes| *bytes != entry.size);
    let has_content = entry.size > 0;
    let optional = [has_content, crc32c.is_some(), frame_bytes.is_some(), has_content, target.is_some()];
    let keys = 5 + optional.into_iter().filter(|present| *present).count() as u64;
    let mut cbor = Encoder::new(out);
    cbor.map(keys)?.u64(0)?.u64(ENTRY)?.u64(1)?.bytes(entry.path.as_bytes())?;
    cbor.u64(2)?.u64(kind)?.u64(3)?.u32(entry.mode)?;
    when(&mut cbor, has_content.then_some(entry.size), |cbor, size| cbor.u64(4)?.u64(size)?.ok())?;
    cbor.u64(5)?.i64(entry.modified)?;
    when(&mut cbor, crc32c, |cbor, crc| cbor.u64(6)?.u32(crc)?.ok())?;
    when(&mut cbor, frame_bytes, |cbor, bytes| cbor.u64(7)?.u64(bytes)?.ok())?;
    when(&mut cbor, has_content.then_some(&extents.encoded), |cbor, runs| cbor.u64(8)?.bytes(runs)?.ok())?;
    when(&mut cbor, target, |cbor, target| cbor.u64(9)?.bytes(target)?.ok())
}

fn when<T>(
    cbor: &mut Out<'_>,
    value: Option<T>,
    write: impl FnOnce(&mut Out<'_>, T) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    value.map_or(Ok(()), |value| write(cbor, value))
}

/// What any item may hold, by key; which of it has to be there depends on the type.
struct Fields<'b> {
    kind: u64,
    numbers: [Option<u64>; 10],
    bytes: [Option<&'b [u8]>; 10],
    modified: Option<i64>,
    text: Option<&'b str>,
    last: Option<bool>,
}

impl<'b> Fields<'b> {
    fn read(cbor: &mut Decoder<'b>) -> Result<Self, ItemError> {
        let keys = cbor.map()?.ok_or(ItemError::Encoding)?;
        if keys == 0 || cbor.u64()? != 0 {
            return Err(ItemError::Encoding);
        }
        let kind = cbor.u64()?;
        if kind > ENTRY {
            return Err(ItemError::UnknownType { found: kind });
        }
        let mut fields = Self { kind, numbers: [None; 10], bytes: [None; 10], modified: None, text: None, last: None };
        let mut previous = 0;
        for _ in 1..keys {
            let key = cbor.u64()?;
            if key <= previous {
                return Err(ItemError::Encoding);
            }
            previous = key;
            fields.value(key, cbor)?;
        }
        Ok(fields)
    }

    fn value(&mut self, key: u64, cbor: &mut Decoder<'b>) -> Result<(), ItemError> {
        let slot = usize::try_from(key).unwrap_or(usize::MAX);
        match (self.kind, key) {
            (SHARD, 1 | 2) | (PACK, 1) | (ENTRY, 2 | 3 | 4 | 6 | 7) => {
                self.numbers.get_mut(slot).map_or(Ok(()), |place| cbor.u64().map(|number| *place = Some(number)))?;
            }
            (FACTS, 1) | (PACK, 2 | 3 | 5) | (ENTRY, 1 | 8 | 9) => {
                self.bytes.get_mut(slot).map_or(Ok(()), |place| cbor.bytes().map(|bytes| *place = Some(bytes)))?;
            }
            (SHARD, 3) => self.last = Some(cbor.bool()?),
            (PACK, 4) => self.text = Some(cbor.str()?),
            (ENTRY, 5) => self.modified = Some(cbor.i64()?),
            _ => cbor.skip()?,
        }
        Ok(())
    }

    fn missing(&self, key: u64) -> ItemError {
        ItemError::Missing { kind: self.kind, key }
    }

    fn wrong(&self, key: u64) -> ItemError {
        ItemError::Value { kind: self.kind, key }
    }

    fn number(&self, key: u64) -> Result<u64, ItemError> {
        self.optional_number(key).ok_or_else(|| self.missing(key))
    }

    fn optional_number(&self, key: u64) -> Option<u64> {
        usize::try_from(key).ok().and_then(|slot| self.numbers.get(slot).copied().flatten())
    }

    fn narrow(&self, key: u64) -> Result<u32, ItemError> {
        u32::try_from(self.number(key)?).map_err(|_| self.wrong(key))
    }

    fn optional_bytes(&self, key: u64) -> Option<&'b [u8]> {
        usize::try_from(key).ok().and_then(|slot| self.bytes.get(slot).copied().flatten())
    }

    fn all_bytes(&self, key: u64) -> Result<&'b [u8], ItemError> {
        self.optional_bytes(key).ok_or_else(|| self.missing(key))
    }

    fn array<const N: usize>(&self, key: u64) -> Result<[u8; N], ItemError> {
        self.all_bytes(key)?.try_into().map_err(|_| self.wrong(key))
    }

    fn head(&self) -> Result<ShardHead, ItemError> {
        if self.kind != SHARD {
            return Err(ItemError::Misplaced { kind: self.kind });
        }
        match self.number(1)? {
            INDEX_VERSION => {}
            found => return Err(ItemError::UnknownVersion { found }),
        }
        let position = match self.last.ok_or_else(|| self.missing(3))? {
            true => ShardPosition::Last,
            false => ShardPosition::MoreFollow,
        };
        Ok(ShardHead { number: self.narrow(2)?, position })
    }

    fn item(&self, packs: u32) -> Result<IndexItem, ItemError> {
        match self.kind {
            FACTS => Ok(IndexItem::Facts(self.all_bytes(1)?.to_vec())),
            PACK => self.pack(packs).map(IndexItem::Pack),
            ENTRY => self.entry(packs),
            kind => Err(ItemError::Misplaced { kind }),
        }
    }

    fn pack(&self, packs: u32) -> Result<PackItem, ItemError> {
        let elsewhere = match (self.text, self.optional_bytes(5)) {
            (None, None) => None,
            (None, Some(_)) => return Err(self.missing(4)),
            (Some(key), _) => {
                let key = key.parse().map_err(|_| self.wrong(4))?;
                Some(Elsewhere { key, epoch: EpochId::from_bytes(self.array(5)?) })
            }
        };
        let (object, salt) = (ObjectId::from_bytes(self.array(2)?), Salt::from_bytes(self.array(3)?));
        let number = self.narrow(1)?;
        if number == packs { Ok(PackItem { number, object, salt, elsewhere }) } else { Err(self.wrong(1)) }
    }

    fn entry(&self, packs: u32) -> Result<IndexItem, ItemError> {
        let path = RelativePath::new(self.all_bytes(1)?).map_err(|_| self.wrong(1))?;
        let kind = match (self.number(2)?, self.optional_bytes(9)) {
            (0, None) => EntryKind::File,
            (1, None) => EntryKind::Directory,
            (2, Some(target)) => EntryKind::Symlink { target: target.to_vec() },
            (2, None) => return Err(self.missing(9)),
            (0 | 1, Some(_)) => return Err(self.wrong(9)),
            _ => return Err(self.wrong(2)),
        };
        let size = self.optional_number(4).unwrap_or(0);
        let crc32c = self.optional_number(6).map(u32::try_from).transpose().map_err(|_| self.wrong(6))?;
        let crc32c = match (&kind, crc32c) {
            (EntryKind::File, None) => return Err(self.missing(6)),
            (EntryKind::File, Some(crc32c)) => crc32c,
            _ if size != 0 => return Err(self.wrong(4)),
            (_, Some(_)) => return Err(self.wrong(6)),
            (_, None) => 0,
        };
        let frame_bytes = self.optional_number(7).unwrap_or(size);
        let frames = extents::decode(self.optional_bytes(8).unwrap_or_default(), size, frame_bytes, packs)?;
        let modified = self.modified.ok_or_else(|| self.missing(5))?;
        let entry = FileEntry { path, kind, mode: self.narrow(3)?, size, modified };
        Ok(IndexItem::Entry { entry, crc32c, frames })
    }
}

/// Takes the first item of a shard off the front of `bytes`, which must hold nothing else.
pub(crate) fn decode_head(bytes: &[u8]) -> Result<ShardHead, ItemError> {
    let mut cbor = Decoder::new(bytes);
    let head = Fields::read(&mut cbor)?.head()?;
    if cbor.position() == bytes.len() { Ok(head) } else { Err(ItemError::Encoding) }
}

/// Takes an item off the front of `bytes`, and says how many bytes it took. Entries may use only the first `packs`
/// packs.
///
/// # Errors
/// [`ItemError`], by meaning. Never allocates more than a few times the length of `bytes`.
pub fn decode_item(bytes: &[u8], packs: u32) -> Result<(IndexItem, usize), ItemError> {
    let mut cbor = Decoder::new(bytes);
    let item = Fields::read(&mut cbor)?.item(packs)?;
    Ok((item, cbor.position()))
}
