//! What a region lacks, looked at without anything being changed.

use lifeboat_repository::format::ids::EpochId;

use crate::wal::ship::pending::{Entry, Load, PendingObjects, What};

impl PendingObjects {
    /// The keys whose notices a region still lacks.
    pub(crate) fn waiting_keys(&self, region: usize) -> impl Iterator<Item = EpochId> {
        self.lacking_entries(region).filter_map(|entry| match &entry.what {
            What::Notice(notice) => notice.epoch(),
            What::Wal(_) | What::History(_) => None,
        })
    }

    /// What a region lacks and the spool keeps since an earlier run, but for notices.
    pub(crate) fn of_earlier_runs(&self, region: usize) -> Vec<Load> {
        let of_earlier_runs = self.lacking_entries(region).filter(|entry| entry.is_of_earlier_run);
        let sealed = of_earlier_runs.filter(|entry| !matches!(entry.what, What::Notice(_)));
        sealed.map(|entry| Load { what: entry.what.clone(), file: entry.file.clone(), body: None }).collect()
    }

    fn lacking_entries(&self, region: usize) -> impl Iterator<Item = &Entry> {
        self.entries.values().filter(move |entry| entry.lacks(region))
    }
}
