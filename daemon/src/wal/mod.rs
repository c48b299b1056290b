//! Continuous WAL: from checked bytes to objects in every region.

pub mod commit_clock;
pub mod continuity;
mod desk;
pub mod keeper;
mod lane;
mod lane_entry;
mod lane_keeper;
mod lane_put;
pub mod latency;
mod launch;
mod learn;
mod ledger;
mod marks;
mod memory;
mod notice;
mod piece;
pub mod positions;
mod ranges;
pub mod receive;
pub mod reporter;
mod sealing;
pub mod shared;
pub mod shipper;
pub mod slot_watch;
mod spool;
mod spooling;
mod standing;
pub mod status;
pub mod task;
pub mod upstream;
mod works;

pub use lifeboat_config::CommitMode;

pub(crate) use lane_keeper::holder_text;
pub use positions::{LaneState, Offer, Positions, RegionPosition, ResumePoint, ShipError};
pub use shipper::{KeyHolders, ShipRegion, ShipSettings, Shipper};
pub(crate) use spool::installation;
