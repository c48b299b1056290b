//! Everything that knows PostgreSQL: its protocol and its files.

mod source;

pub use source::{BackupEnd, BackupSource, BackupStart, FileNumber, ManifestFile, PageChecks, SourceEvent};

/// Why a source could not go on.
#[derive(Debug, thiserror::Error)]
#[error("placeholder")]
pub struct SourceError;
