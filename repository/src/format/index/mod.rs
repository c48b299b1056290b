//! A backup's index: which file lies in which frames.

pub(crate) mod error;
pub(crate) mod extents;
pub(crate) mod item;
pub(crate) mod reader;
pub(crate) mod writer;

pub use self::error::IndexError;
pub use self::extents::{ExtentError, FrameRef};
pub use self::item::{Elsewhere, IndexItem, ItemError, PackItem, decode_item};
pub use self::reader::{IndexReader, IndexTotals};
pub use self::writer::{IndexWriter, SealedShard};
