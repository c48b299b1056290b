//! Base backups: when, how, and how they ended.

pub(crate) mod config_watch;
pub(crate) mod content_check;
pub(crate) mod history;
pub(crate) mod maker;
pub(crate) mod omissions;
pub(crate) mod page_check;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod runs_view;
pub(crate) mod schedule;
pub(crate) mod task;
