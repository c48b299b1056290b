//! Continuous WAL: from checked bytes to objects in every region.

pub(crate) mod backup_need;
pub(crate) mod backup_requests;
pub(crate) mod commit_clock;
pub(crate) mod complete_times;
pub(crate) mod latency;
pub(crate) mod learn;
pub(crate) mod receive;
pub(crate) mod reporter;
pub mod server_memory;
pub(crate) mod shared;
pub mod ship;
pub(crate) mod slot_watch;
pub(crate) mod task;

pub use lifeboat_config::CommitMode;
