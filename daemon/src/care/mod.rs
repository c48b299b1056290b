//! The care for what is stored: regions that lack something are healed from others, everything is read back and verified in
//! turn, and the logs of the regions are compared with each other and with what was seen before.

pub(crate) mod agreement;
pub(crate) mod audit_delivery;
pub(crate) mod board;
pub(crate) mod bundles;
pub(crate) mod heal;
pub(crate) mod lost_wal;
pub(crate) mod parts;
#[cfg(test)]
pub(crate) mod samples;
pub(crate) mod scrub;
pub(crate) mod steps;
pub(crate) mod tamper_watch;
pub(crate) mod trouble;
pub(crate) mod unrecorded;
