//! Why an index cannot be written or read.
use lifeboat_vocabulary::counted;

use crate::format::compression::{CompressError, DecompressError};
use crate::format::frame::FRAME_BYTES_MAX;
use crate::format::ids::RandomError;
use crate::format::index::extents::ExtentError;
use crate::format::index::item::{EncodeError, ItemError};
use crate::format::seal::SealError;
use crate::format::unseal::OpenError;

/// Why an index cannot be written or read. Whatever it is, the index is then of no further use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// A single item is larger than a frame may be.
    #[error("an index item of {bytes} bytes is larger than {FRAME_BYTES_MAX}")]
    ItemTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Items came in an order that no reader accepts.
    #[error("{what} must not come here")]
    Order {
        /// The item.
        what: &'static str,
    },
    /// The frames of a file do not make it up.
    #[error("list the frames of a file")]
    Extents(#[from] ExtentError),
    /// An item could not be encoded.
    #[error("encode an index item")]
    Encode(#[from] EncodeError),
    /// A frame could not be compressed.
    #[error("compress the index")]
    Compress(#[from] CompressError),
    /// A shard could not be sealed.
    #[error("seal an index shard")]
    Seal(#[from] SealError),
    /// A shard is not genuine or not whole.
    #[error("open index shard {shard}")]
    Open {
        /// Its number, from 0.
        shard: u32,
        /// What is wrong with it.
        source: OpenError,
    },
    /// An item makes no sense.
    #[error("read an item of index shard {shard}")]
    Item {
        /// The shard's number, from 0.
        shard: u32,
        /// What is wrong with it.
        source: ItemError,
    },
    /// A shard is missing, or they were given in another order.
    #[error("index shard {found} came where shard {expected} belongs")]
    ShardOrder {
        /// Which was due.
        expected: u32,
        /// Which came.
        found: u32,
    },
    /// A shard after the one that says it is the last.
    #[error("index shard {shard} follows the last one")]
    AfterLast {
        /// Its number in order of arrival.
        shard: u32,
    },
    /// A shard was not read to its end.
    #[error("index shard {shard} was not read to its end")]
    Unread {
        /// Its number.
        shard: u32,
    },
    /// There were fewer shards than the index has.
    #[error("the index ends after {}, without its last one", counted(u64::from(*.shards), "shard", "shards"))]
    MissingLast {
        /// How many there were.
        shards: u32,
    },
    /// There is no memory to decompress.
    #[error("begin to read the index")]
    Decompressor(#[from] DecompressError),
}

impl From<RandomError> for IndexError {
    fn from(error: RandomError) -> Self {
        Self::Seal(error.into())
    }
}
