//! The regions of a cluster: opened, watched, remembered.

pub(crate) mod behind;
pub(crate) mod broadcast;
pub mod context;
pub(crate) mod follow;
pub(crate) mod judged_store;
pub(crate) mod kept_logs;
pub(crate) mod late_store;
pub(crate) mod log_follower;
pub(crate) mod memory;
pub mod open;
pub(crate) mod readings;
pub(crate) mod survey;
pub(crate) mod watch;
