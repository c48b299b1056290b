//! Scratch clusters, regions and the real programs, for the demo and for torture.

pub(crate) mod daemon;
pub(crate) mod scenario;
