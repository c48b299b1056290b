//! `lifeboatd doctor`: tries everything that backups and continuous WAL need.

pub(crate) mod bounded_store;
pub(crate) mod lines;
pub(crate) mod roles;
pub mod run;
pub(crate) mod wal;
