//! Counters that a running backup or restore moves, and that progress bars, logs and watchdogs read.

use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_vocabulary::ByteCount;

/// How far a run has come. All counters only grow.
#[derive(Debug, Default)]
pub struct Progress {
    raw: AtomicU64,
    submitted: AtomicU64,
    given_up: AtomicU64,
    stored: AtomicU64,
    files: AtomicU64,
    objects: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgressSnapshot {
    /// Plain bytes read from the server, or written to the target.
    pub raw: ByteCount,
    /// Sealed bytes that regions are still to confirm (each region counts); 0 for a restore.
    pub on_their_way: ByteCount,
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

    /// So many sealed bytes are to go to one region.
    pub(crate) fn add_submitted(&self, bytes: u64) {
        self.submitted.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many of them will not be stored there.
    pub(crate) fn add_given_up(&self, bytes: u64) {
        self.given_up.fetch_add(bytes, Ordering::Relaxed);
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
        let stored = self.stored.load(Ordering::Relaxed);
        let gone = stored.saturating_add(self.given_up.load(Ordering::Relaxed));
        let on_their_way = self.submitted.load(Ordering::Relaxed).saturating_sub(gone);
        ProgressSnapshot {
            on_their_way: ByteCount::from_bytes(on_their_way),
            raw: ByteCount::from_bytes(self.raw.load(Ordering::Relaxed)),
            stored: ByteCount::from_bytes(stored),
            files: self.files.load(Ordering::Relaxed),
            objects: self.objects.load(Ordering::Relaxed),
        }
    }
}

impl ProgressSnapshot {
    /// Plain bytes that are done in the end: of those that were read, as large a part as regions have confirmed of what was sealed.
    /// What only lies in our buffers is not done, however much it is.
    #[must_use]
    pub fn done(&self) -> ByteCount {
        let (raw, stored, waits) = (self.raw.as_bytes(), self.stored.as_bytes(), self.on_their_way.as_bytes());
        if waits == 0 {
            return self.raw;
        }
        let part = u128::from(raw) * u128::from(stored) / u128::from(stored.saturating_add(waits)).max(1);
        ByteCount::from_bytes(u64::try_from(part).unwrap_or(raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_region_has_yet_is_not_done() {
        let progress = Progress::default();
        progress.add_raw(1000);
        assert_eq!(progress.snapshot().done(), ByteCount::from_bytes(1000), "a restore has nothing on its way");
        progress.add_submitted(200);
        progress.add_submitted(200);
        assert_eq!(progress.snapshot().done(), ByteCount::ZERO);
        progress.add_stored(100);
        assert_eq!(progress.snapshot().done(), ByteCount::from_bytes(250));
        progress.add_given_up(200);
        assert_eq!(
            progress.snapshot().done(),
            ByteCount::from_bytes(500),
            "a region that is excluded is not waited for"
        );
        progress.add_stored(100);
        assert_eq!(progress.snapshot().done(), ByteCount::from_bytes(1000));
    }
}
