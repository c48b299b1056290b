//! How far a restore goes, and the proof that it can.

pub mod coverage;
pub mod decide;
pub mod prove;
pub mod recovery_target;
pub mod survey;
pub mod timeline_tree;
pub mod wal_plan;
pub mod window;
