//! When nothing may be deleted, who said so, and the audit of it.

pub mod audit;
pub mod audit_delivery;
pub mod freeze;
pub mod tamper_watch;
pub mod triggers;
