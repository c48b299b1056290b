//! WAL to the regions.

pub(crate) mod children;
pub(crate) mod context;
pub(crate) mod entry;
pub(crate) mod launch;
pub(crate) mod lease_keeper;
pub(crate) mod marks;
pub(crate) mod memory;
pub(crate) mod notice;
pub(crate) mod pending;
pub(crate) mod piece;
pub mod positions;
pub(crate) mod put;
pub(crate) mod ranges;
pub(crate) mod sealing;
pub mod settings;
pub mod shipper;
pub(crate) mod spool;
pub(crate) mod spool_task;
pub mod state;
mod unkept_keys;
pub(crate) mod uploader;
pub(crate) mod uploader_state;
pub(crate) mod verify;
