//! A file that is being read back, and where its bytes go.

use std::sync::atomic::AtomicU32;

use lifeboat_vocabulary::FileEntry;
use parking_lot::{Mutex, RwLock};

/// A file that is being written, by any thread, in any order, each byte once.
pub trait SinkFile: Send + Sync {
    /// Writes `bytes` at `offset`. `bytes` lie in memory at a multiple of 4096 if `offset` is one.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn write_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<()>;
}

/// A file on its way back.
pub(crate) struct FileJob {
    pub(crate) entry: FileEntry,
    pub(crate) expected: u32,
    pub(crate) remaining: AtomicU32,
    pub(crate) parts: Mutex<Vec<(u32, u32)>>,
    pub(crate) open: RwLock<Option<Box<dyn SinkFile>>>,
}

impl std::fmt::Debug for FileJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileJob({})", self.entry.path)
    }
}
