//! Regions in directories.

pub(crate) mod content;
pub(crate) mod dir;
pub(crate) mod files;
pub(crate) mod list;
pub(crate) mod pool;
