//! Everything that knows PostgreSQL: its protocol and its files.

mod source;

pub use lifeboat_vocabulary::FileNumber;
pub use source::{BackupEnd, BackupSource, BackupStart, ManifestFile, PageChecks, SourceEvent};

/// Why a source could not go on.
#[derive(Debug, thiserror::Error)]
#[error("placeholder")]
pub struct SourceError;
