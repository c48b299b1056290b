//! Continuous WAL: from checked bytes to objects in every region.

mod ledger;
mod marks;
mod memory;
mod notice;
mod piece;
pub mod positions;
mod ranges;
pub mod shipper;
mod spool;

pub use positions::{LaneState, Offer, Positions, RegionPosition, ResumePoint, ShipError};
pub use shipper::{CommitMode, KeyHolders, ShipRegion, ShipSettings, Shipper};
