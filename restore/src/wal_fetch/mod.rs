//! `wal-fetch`: PostgreSQL's `restore_command`. A tiny client per file, and one prefetcher behind it that runs ahead.

pub mod client;
pub mod fetch;
pub mod plan;
pub mod prefetch;
pub mod prepare;
pub mod protocol;
pub mod segment_files;
pub mod serve;
pub mod settings;
pub mod tablespaces;
