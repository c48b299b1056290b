//! Continuous WAL: from checked bytes to objects in every region.

pub mod backup_need;
pub mod backup_requests;
pub mod commit_clock;
pub mod latency;
pub(crate) mod learn;
pub mod receive;
pub mod reporter;
pub mod shared;
pub mod ship;
pub mod slot_watch;
pub mod task;

pub use lifeboat_config::CommitMode;
