//! What the spool holds, and for which regions.

use lifeboat_repository::log::records::GapReason;
use lifeboat_vocabulary::WalPosition;
use tokio::time::Instant;

use crate::wal::ship::notice::Notice;
use crate::wal::ship::pending::{Load, What};
use crate::wal::ship::spool::SpoolFile;
use crate::wal::ship::state::{ShipState, start_of};

impl ShipState {
    /// Something lay in the spool.
    pub(crate) fn reloaded(&mut self, what: What, file: SpoolFile, now: Instant) {
        if let Some(range) = what.range() {
            self.marks.found(start_of(range));
        }
        if let What::Notice(notice) = &what
            && let Notice::Epoch { record, .. } = &**notice
        {
            self.owed = self.owed.or(Some(WalPosition { timeline: record.timeline, lsn: record.start }));
        }
        let wanted = match &what {
            What::Notice(notice) => notice.wanted(self.regions.iter().map(|region| &region.name)),
            _ => None,
        };
        let sequence = file.sequence;
        self.pending_objects.reload(what.clone(), file, wanted.as_deref(), now);
        self.keeps(&what, sequence);
    }

    /// The spool keeps this for the regions that lack it. What says that one region missed WAL is nothing that another could have
    /// instead of it; of what the server no longer has, none will get more.
    fn keeps(&mut self, what: &What, sequence: u64) {
        let Some(range) = what.range() else { return };
        let has_missed =
            |notice: &Notice| notice.is_of_one_region() && notice.reason() == Some(GapReason::RegionMissed);
        if !matches!(what, What::Notice(notice) if has_missed(notice)) {
            return self.marks.spool(range);
        }
        let regions = 0..self.regions.len();
        let kept = regions.map(|region| {
            (!self.pending_objects.lacks(region, sequence)).then(|| self.pending_objects.kept_for(region))
        });
        let kept: Vec<_> = kept.collect();
        self.marks.spool_for(range, &kept);
    }

    /// Where the first WAL begins that waits in the spool.
    pub(crate) fn spooled_from(&self) -> Option<WalPosition> {
        let starts = self.pending_objects.objects().map(|object| start_of(object.range));
        starts.min_by_key(|at| (at.timeline, at.lsn))
    }

    /// A load survives a crash now.
    pub(crate) fn spooled(&mut self, load: &Load) {
        self.keeps(&load.what, load.file.sequence);
        self.pending_objects.spooled(load.file.sequence);
    }
}
