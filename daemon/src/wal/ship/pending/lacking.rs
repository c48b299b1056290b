//! Who lacks an entry.

use crate::wal::ship::pending::{PendingObjects, Way};

impl PendingObjects {
    /// Whether a region still lacks an entry.
    pub(crate) fn lacks(&self, region: usize, sequence: u64) -> bool {
        self.entries.get(&sequence).is_some_and(|entry| entry.lacks(region))
    }

    /// Whether another region still lacks it, as far as is known.
    pub(crate) fn others_lack(&self, region: usize, sequence: u64) -> bool {
        let ways = self.entries.get(&sequence).map(|entry| entry.ways.iter().enumerate());
        ways.is_some_and(|mut ways| ways.any(|(other, way)| other != region && *way != Way::Done))
    }

    /// Whether a piece has come that holds all of it.
    pub(crate) fn is_superseded(&self, sequence: u64) -> bool {
        self.entries.get(&sequence).is_some_and(|entry| entry.piece.is_some())
    }
}
