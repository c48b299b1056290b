//! Everything that brings a cluster back: the commands of `lifeboat-restore`, and the rooms that `lifeboatd` shares with
//! it (access to repositories, tables, exit codes). Works on a bare machine, without the daemon.

pub mod access;
pub mod commands;
pub mod exit_code;
pub mod facts;
pub mod fetch;
pub mod manual;
pub mod recover;
pub mod signals;
pub mod target;
pub mod terminal;
pub mod wal_fetch;
