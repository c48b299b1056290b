//! Continuous WAL: from checked bytes to objects in every region.

mod desk;
mod lane;
mod lane_entry;
mod lane_keeper;
mod lane_put;
mod launch;
mod ledger;
mod marks;
mod memory;
mod notice;
mod piece;
pub mod positions;
mod ranges;
mod sealing;
pub mod shipper;
mod spool;
mod spooling;
mod standing;
mod works;

pub use positions::{LaneState, Offer, Positions, RegionPosition, ResumePoint, ShipError};
pub use shipper::{CommitMode, KeyHolders, ShipRegion, ShipSettings, Shipper};
