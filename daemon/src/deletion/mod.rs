//! When nothing may be deleted, who said so, and the audit of it.

pub mod audit;
pub mod freeze;
pub mod standstill;
pub(crate) mod triggers;
