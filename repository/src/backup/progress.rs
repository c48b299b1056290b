//! Counters that a running backup or restore moves, and that progress bars, logs and watchdogs read.

use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_vocabulary::ByteCount;

/// How far a run has come. All counters only grow.
#[derive(Debug, Default)]
pub struct Progress {
    raw: AtomicU64,
    stored: AtomicU64,
    files: AtomicU64,
    objects: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgressSnapshot {
    /// Plain bytes read from the server, or written to the target.
    pub raw: ByteCount,
    /// Sealed bytes that regions have confirmed (each region counts), or that were fetched.
    pub stored: ByteCount,
    /// Files that are complete.
    pub files: u64,
    /// Objects that regions have confirmed, or that were fetched.
    pub objects: u64,
}

impl Progress {
    /// Adds plain bytes.
    pub fn add_raw(&self, bytes: usize) {
        self.raw.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Adds sealed bytes of one object or range.
    pub(crate) fn add_stored(&self, bytes: usize) {
        self.stored.fetch_add(bytes as u64, Ordering::Relaxed);
        self.objects.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a complete file.
    pub(crate) fn add_file(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> ProgressSnapshot {
        ProgressSnapshot {
            raw: ByteCount::from_bytes(self.raw.load(Ordering::Relaxed)),
            stored: ByteCount::from_bytes(self.stored.load(Ordering::Relaxed)),
            files: self.files.load(Ordering::Relaxed),
            objects: self.objects.load(Ordering::Relaxed),
        }
    }
}
