//! Everything that brings a cluster back: the commands of `lifeboat-restore`, and the rooms that `lifeboatd` shares with
//! it (access to repositories, tables, exit codes). Works on a bare machine, without the daemon.

pub mod access;
pub mod archive;
pub mod cli;
pub mod coverage;
pub mod decide;
pub mod exit_code;
pub mod facts;
pub mod keygen;
pub mod list;
pub mod manual;
pub mod plan;
pub mod prove;
pub mod recovery_files;
pub mod recovery_watch;
mod report;
pub mod run;
pub mod show_window;
pub mod signals;
pub mod survey;
pub mod target;
pub mod target_dir;
pub mod terminal;
pub mod timeline_tree;
pub mod verify;
pub mod wal_fetch;
pub mod wal_plan;
pub mod wal_source;
pub mod window;
