//! From packs back to files, each frame from the best region that has it.

pub(crate) mod aligned_buffer;
pub(crate) mod engine;
pub(crate) mod error;
pub(crate) mod file_job;
pub(crate) mod plan;
pub(crate) mod reader;

pub use self::engine::{FileSink, ReadControl, ReadSettings, read_backup, read_facts};
pub use self::error::ReadBackupError;
pub use self::file_job::SinkFile;
pub use self::plan::Ranges;
pub use self::reader::{BackupReader, Damage, ReadError, StoredBackup};
