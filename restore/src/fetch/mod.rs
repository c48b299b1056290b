//! From the regions to a data directory.

pub mod archive;
pub mod plan;
pub mod target_dir;
pub mod wal_source;
