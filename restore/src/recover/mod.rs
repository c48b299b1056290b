//! A restored directory becomes a server that has arrived.

pub(crate) mod decided;
pub(crate) mod files;
pub(crate) mod report;
pub(crate) mod watch;
