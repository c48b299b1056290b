//! Long logs: many records in one object, so that reading them takes few requests.

pub(crate) mod codec;
pub(crate) mod compare;
pub(crate) mod kept;
pub(crate) mod listed;
pub(crate) mod reading;
pub(crate) mod unkept;
pub(crate) mod writing;

#[cfg(test)]
mod long_log_tests;
