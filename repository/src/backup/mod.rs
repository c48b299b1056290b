//! A backup on its way into the regions, and back out of them.

pub(crate) mod progress;
pub mod read;
pub mod write;

pub use self::progress::{Progress, ProgressSnapshot};
