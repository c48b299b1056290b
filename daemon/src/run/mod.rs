//! `lifeboatd run`: the daemon, and the tasks of each cluster.

pub mod cluster;
pub mod daemon;
pub mod housekeeping;
pub mod overrides;
