//! From the regions to a data directory.

pub(crate) mod archive;
pub(crate) mod beneath;
pub(crate) mod plan;
pub(crate) mod target_dir;
