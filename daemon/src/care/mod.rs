//! The care for what is stored: regions that lack something are healed from others, everything is read back and verified in
//! turn, and the logs of the regions are compared with each other and with what was seen before.

pub mod agree;
pub mod audit_delivery;
pub mod board;
pub mod heal;
pub mod parts;
pub mod scrub;
pub mod tamper_watch;
pub(crate) mod trouble;
pub(crate) mod watch;
