//! Segments that were fetched, as values.

use std::path::PathBuf;

use lifeboat_postgres::WalScanner;
use lifeboat_vocabulary::{Lsn, SegmentName};

use crate::wal_fetch::tablespaces::CreatedTablespace;

/// Which part of the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The segment.
    pub(crate) name: SegmentName,
    /// Its first byte.
    pub(crate) start: Lsn,
    /// Up to where it holds WAL.
    pub(crate) end: Lsn,
}

/// A complete file.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    /// Where it lies.
    pub(crate) path: PathBuf,
    pub(crate) name: SegmentName,
    /// Its first byte.
    pub(crate) start: Lsn,
    /// Up to where it holds WAL.
    pub(crate) end: Lsn,
    /// The tablespaces that its replay creates.
    pub(crate) tablespaces: Vec<CreatedTablespace>,
    /// The check behind its last byte. It knows nothing of a record that began before the segment.
    pub(crate) scanner: WalScanner,
}
