//! `lifeboatd doctor`: tries everything that backups and continuous WAL need.

pub(crate) mod lines;
pub mod run;
pub(crate) mod wal;
