//! What is known, as plain values: nothing here reads, writes or waits.

pub mod capabilities;
pub mod facts;
pub mod region_health;
pub mod snapshot;
pub mod survey;
pub mod verdict;
pub mod wal_status;
