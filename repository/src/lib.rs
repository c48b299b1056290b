//! What a backup is on storage: sealed objects, keys, signed records, the index, and the way in and out.
//!
//! `docs/FORMAT.md` describes every stored byte, for readers without this code.

pub mod backup;
pub mod catalog;
pub mod format;
pub mod heal;
pub mod keys;
pub mod log;
pub mod retention;
#[cfg(test)]
pub(crate) mod samples;
pub mod scrub;
pub mod wal;
