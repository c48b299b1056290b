//! What a restore decides, and how the restored directory becomes a server that has reached its target.

pub(crate) mod arrival;
pub(crate) mod carried_wal;
pub(crate) mod configuration;
pub(crate) mod decide;
pub(crate) mod decided;
pub(crate) mod files;
pub(crate) mod report;
pub(crate) mod watch;
