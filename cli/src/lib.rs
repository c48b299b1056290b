//! What both programs show and take: access to repositories, tables, progress, output that may be closed, exit codes,
//! manual pages, signals.

pub mod access;
mod asked;
pub mod backups;
pub mod exit_code;
pub mod manual;
pub mod omissions;
pub mod output;
mod passphrase;
pub mod place;
pub mod signals;
pub mod statements;
pub mod terminal;
