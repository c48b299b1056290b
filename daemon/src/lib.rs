//! The daemon: everything that `lifeboatd` does.

pub mod adopt;
pub mod backup;
pub mod backup_report;
pub mod check_config;
pub mod cli;
pub mod doctor;
mod doctor_wal;
pub mod init;
pub mod page_check;
pub mod run;
pub mod status;
pub mod wal;
pub mod wiring;
