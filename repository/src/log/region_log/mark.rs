//! Taking back what was read of a log, because it turned out not to belong there.

use std::sync::Arc;

use lifeboat_vocabulary::RegionName;

use super::RegionLog;
use crate::log::bundle::unkept::{Unkept, UnkeptMark};
use crate::log::room::Room;
use crate::log::signers::Signers;

/// A log as it stood when less of it was read: how much of it there was, because many marks may be held at the same time.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    records: usize,
    bytes: u64,
    /// Shared with the mark before, unless a key was named or revoked between them.
    signers: Arc<Signers>,
    region: Option<RegionName>,
    next: u64,
    room: Room,
    unkept: Option<UnkeptMark>,
}

impl RegionLog {
    /// How it stands now. `before` is the last mark that was made.
    pub(crate) fn mark(&mut self, before: Option<&Mark>) -> Mark {
        let same = before.map(|before| &before.signers).filter(|signers| ***signers == self.trust.signers);
        Mark {
            records: self.entries.len(),
            bytes: self.bytes,
            signers: same.map_or_else(|| Arc::new(self.trust.signers.clone()), Arc::clone),
            region: self.trust.region.clone(),
            next: self.next,
            room: self.room,
            unkept: self.unkept.as_mut().map(Unkept::mark),
        }
    }

    /// Forgets what was read since.
    pub(crate) fn rewind(&mut self, mark: &Mark) {
        let Mark { records, bytes, signers, region, next, room, unkept } = mark;
        self.entries.truncate(*records);
        self.trust.signers.clone_from(signers);
        self.trust.region.clone_from(region);
        (self.bytes, self.next, self.room) = (*bytes, *next, *room);
        // Objects are judged in the order of their places: those before the next one are the same, and all others are looked at again.
        self.outside.retain(|outside| outside.seq < self.next);
        match (&mut self.unkept, unkept) {
            (Some(unkept), Some(mark)) => unkept.rewind(*mark),
            (unkept, _) => *unkept = None,
        }
    }
}
