//! Everything that brings a cluster back: the commands of `lifeboat-restore`, and the rooms that `lifeboatd` shares with
//! it (access to repositories, tables, exit codes). Works on a bare machine, without the daemon.

pub mod access;
pub mod cli;
pub mod exit_code;
pub mod facts;
pub mod keygen;
pub mod list;
pub mod plan;
pub mod run;
pub mod signals;
mod start;
pub mod target_dir;
pub mod terminal;
pub mod verify;
