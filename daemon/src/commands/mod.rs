//! The commands of `lifeboatd`, one file each.

pub mod adopt;
pub mod check_config;
pub mod command_line;
pub mod doctor;
pub(crate) mod doctor_wal;
pub mod heal;
pub mod hold;
pub mod init;
pub mod pause;
pub mod retention_apply;
pub mod scrub;
pub mod status;
