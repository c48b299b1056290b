//! From the configuration to concrete parts.

pub mod reload;
pub mod retention_policy;
pub mod timetable;
pub mod wiring;
