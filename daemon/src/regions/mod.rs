//! The regions of a cluster: opened, watched, remembered.

pub(crate) mod behind;
pub mod broadcast;
pub mod context;
pub mod follow;
pub(crate) mod judged_store;
pub mod late_store;
pub mod log_follower;
pub mod memory;
pub mod open;
pub mod readings;
pub mod survey;
pub mod watch;
