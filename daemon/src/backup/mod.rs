//! Base backups: when, how, and how they ended.

pub mod history;
pub mod maker;
pub mod page_check;
pub mod report;
pub mod run;
pub(crate) mod runs_view;
pub mod schedule;
pub mod task;
