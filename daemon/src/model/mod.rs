//! What is known, as plain values: nothing here reads, writes or waits.

pub mod capabilities;
pub(crate) mod facts;
pub(crate) mod region_health;
mod schema_parts;
pub(crate) mod snapshot;
pub(crate) mod survey;
pub(crate) mod verdict;
pub(crate) mod wal_status;
