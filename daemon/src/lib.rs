//! The daemon: everything that `lifeboatd` does.

pub(crate) mod backup;
pub mod base;
pub(crate) mod care;
pub mod commands;
pub mod deletion;
#[cfg(test)]
pub(crate) mod log_samples;
pub mod model;
pub mod regions;
pub mod retention;
pub mod run;
pub mod settings;
pub(crate) mod status;
pub mod wal;
pub(crate) mod web;
