//! How far a restore goes, and the proof that it can.

pub(crate) mod behind;
pub(crate) mod commit_clock;
pub(crate) mod coverage;
pub(crate) mod prove;
pub(crate) mod recovery_target;
pub(crate) mod survey;
pub(crate) mod timeline_tree;
pub(crate) mod wal_plan;
pub(crate) mod wal_source;
pub(crate) mod window;
