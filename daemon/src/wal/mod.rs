//! Continuous WAL: from checked bytes to objects in every region.

pub mod alarms;
pub mod commit_clock;
pub mod continuity;
pub mod keeper;
pub mod latency;
pub mod positions;
pub mod receive;
pub mod reporter;
pub mod shared;
pub mod shipper;
pub mod slot_watch;
pub mod status;
pub mod upstream;

pub use positions::{LaneState, Offer, Positions, RegionPosition, ResumePoint, ShipError};
pub use shipper::{CommitMode, KeyHolders, ShipRegion, ShipSettings, Shipper};
