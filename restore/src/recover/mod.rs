//! A restored directory becomes a server that has arrived.

pub(crate) mod decided;
pub mod files;
pub(crate) mod report;
pub mod watch;
