//! From the configuration to concrete parts.

pub mod reload;
pub(crate) mod retention_policy;
pub(crate) mod timetable;
pub mod wiring;
