//! Everything that restores a cluster: the commands of `lifeboat-restore`. Works on a bare machine, without the daemon.

pub mod commands;
mod fetch;
mod recover;
mod target;
pub mod wal_fetch;
