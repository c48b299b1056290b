//! The commands of `lifeboatd`, one file each.

pub mod adopt;
pub mod adopt_lost_wal;
pub(crate) mod ask_server;
pub mod backup;
pub mod check_config;
pub mod command_line;
pub mod delegate;
pub mod doctor;
pub mod heal;
pub mod hold;
pub mod init;
pub mod pause;
pub mod retention_apply;
pub mod retention_plan;
pub mod scrub;
pub mod selection;
pub mod status;
