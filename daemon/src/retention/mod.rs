//! Retention of a cluster, region by region.

pub mod page;
pub(crate) mod page_json;
pub mod plan;
pub(crate) mod preconditions;
pub mod round;
pub mod task;
