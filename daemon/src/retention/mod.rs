//! Retention of a cluster, region by region.

pub(crate) mod page;
pub(crate) mod page_json;
pub(crate) mod plan;
pub(crate) mod preconditions;
pub mod round;
pub mod task;
