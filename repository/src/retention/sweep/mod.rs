//! Deletion in two phases against the log of a region: the only place that deletes.

pub(crate) mod author;
pub(crate) mod delete;
pub(crate) mod epochs;
pub(crate) mod error;
pub(crate) mod evidence;
pub(crate) mod floor;
pub(crate) mod intent;
pub(crate) mod listing;
#[cfg(test)]
pub(crate) mod model_tests;
pub(crate) mod retain;
pub(crate) mod run;
pub(crate) mod settings;
pub(crate) mod slices;
pub(crate) mod unfinished;
#[cfg(test)]
pub(crate) mod wal_tests;

pub use self::author::{DeleteGate, OpenGate, SweepAuthor, SweepRegion};
pub use self::error::SweepError;
pub use self::evidence::{Evidence, arrivals, store_facts};
pub use self::retain::{RetainReport, extend_locks};
pub use self::run::{ForgetReport, SweepReport, forget, sweep_region};
pub use self::settings::{DeleteMode, Elsewhere, Force, Others, SweepSettings};
