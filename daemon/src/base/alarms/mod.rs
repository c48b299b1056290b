//! Alarms: what can be wrong, and what is wrong now.

pub mod board;
pub mod rules;
pub(crate) mod source;
