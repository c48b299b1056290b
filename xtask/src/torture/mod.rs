//! `cargo xtask torture`: things break at random moments, and each time nothing may be lost and nothing claimed too much.

pub(crate) mod backups;
mod clients;
pub(crate) mod regions;
pub(crate) mod wal;
