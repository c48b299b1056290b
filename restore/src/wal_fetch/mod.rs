//! `wal-fetch`: PostgreSQL's `restore_command`. A tiny client per file, and one prefetcher behind it that runs ahead.

pub mod client;
pub(crate) mod fetch;
pub(crate) mod plan;
pub(crate) mod prefetch;
pub(crate) mod prepare;
pub(crate) mod protocol;
pub(crate) mod seam;
pub(crate) mod segment;
pub(crate) mod segment_files;
pub mod serve;
pub(crate) mod settings;
pub(crate) mod tablespaces;
