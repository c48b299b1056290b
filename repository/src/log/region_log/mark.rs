//! Taking back what was read of a log, because it turned out not to belong there.

use std::sync::Arc;

use lifeboat_vocabulary::RegionName;

use super::{LogTrust, RegionLog};
use crate::log::bundle::unkept::Unkept;
use crate::log::room::Room;
use crate::log::signers::Signers;

/// A log as it stood when less of it was read.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    records: usize,
    bytes: u64,
    signers: Signers,
    region: Option<RegionName>,
    next: u64,
    room: Room,
    unkept: Option<Unkept>,
}

impl RegionLog {
    /// How it stands now.
    pub(crate) fn mark(&mut self) -> Mark {
        // Compressed, because many of them may be held at the same time.
        self.unkept.iter_mut().for_each(Unkept::seal);
        Mark {
            unkept: self.unkept.clone(),
            records: self.entries.len(),
            bytes: self.bytes,
            signers: self.trust.signers.clone(),
            region: self.trust.region.clone(),
            next: self.next,
            room: self.room,
        }
    }

    /// The same log, of which nothing was read.
    pub(crate) fn unread_again(&self) -> Self {
        let mut log = Self::unread(LogTrust::clone(&self.begun_with), self.limits);
        log.strays.clone_from(&self.strays);
        let log = log.counting_on(Arc::clone(&self.looked_at));
        if self.unkept.is_some() { log.collecting() } else { log }
    }

    /// Forgets what was read since.
    pub(crate) fn rewind(&mut self, mark: Mark) {
        let Mark { records, bytes, signers, region, next, room, unkept } = mark;
        self.entries.truncate(records);
        (self.trust.signers, self.trust.region) = (signers, region);
        (self.bytes, self.next, self.room) = (bytes, next, room);
        // Objects are judged in the order of their places: those before the next one are the same, and all others are looked at again.
        self.outside.retain(|outside| outside.seq < next);
        self.unkept = unkept;
    }
}
