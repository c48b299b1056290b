//! `lifeboatd run`: the daemon, and the tasks of each cluster.

pub(crate) mod cluster;
pub mod cluster_daemon;
pub mod daemon;
pub(crate) mod housekeeping;
pub(crate) mod overrides;
