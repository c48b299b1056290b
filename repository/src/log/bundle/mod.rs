//! Long logs: many records in one object, so that reading them takes few requests.

pub(crate) mod codec;
pub(crate) mod listed;
pub(crate) mod reading;
pub(crate) mod writing;
