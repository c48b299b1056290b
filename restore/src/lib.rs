//! Everything that restores a cluster: the commands of `lifeboat-restore`. Works on a bare machine, without the daemon.
//!
//! Imports point in one direction: `target` < `command_line` < `fetch` < `wal_fetch` < `recover` < `commands`.

pub mod command_line;
pub mod commands;
mod fetch;
mod recover;
mod target;
pub mod wal_fetch;
