//! Everything that brings a cluster back: the commands of `lifeboat-restore`. Works on a bare machine, without the daemon.

pub mod commands;
pub mod fetch;
pub mod recover;
pub mod target;
pub mod wal_fetch;
