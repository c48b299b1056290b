//! From the configuration to concrete parts.

pub mod reload;
pub mod wiring;
