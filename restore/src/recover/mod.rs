//! A restored directory becomes a server that has arrived.

pub mod files;
pub(crate) mod report;
pub mod watch;
