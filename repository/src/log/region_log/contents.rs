//! What a log that was read has.

use std::sync::Arc;

use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::RegionName;

use super::RegionLog;
use crate::format::key_name::KeyName;
use crate::log::link::{LogEntry, LogHead};
use crate::log::outside::{Outside, Refused};
use crate::log::records::record::RecordBody;
use crate::log::room::Room;

impl RegionLog {
    /// The record at a place. Places are not the numbers of entries: objects that are no records may lie between them.
    #[must_use]
    pub fn at(&self, seq: u64) -> Option<&Arc<LogEntry>> {
        let index = self.entries.binary_search_by_key(&seq, |entry| entry.record.link.seq).ok()?;
        self.entries.get(index)
    }

    /// How many places the log takes up to its last record.
    #[must_use]
    pub fn places(&self) -> u64 {
        self.head().map_or(0, |head| head.seq + 1)
    }

    /// The place that the next record gets.
    pub(crate) fn next_place(&self) -> u64 {
        self.next
    }

    /// Whether nothing more is read of it, because too many objects lie in it that are no records.
    pub(crate) fn is_closed(&self) -> bool {
        self.room == Room::Full
    }

    /// Objects at places of the log that are no records, by place.
    #[must_use]
    pub fn outside(&self) -> &[Outside] {
        &self.outside
    }

    /// Records that say nothing, because their keys may not say it.
    pub fn refused(&self) -> impl Iterator<Item = Refused> {
        self.entries.iter().filter_map(|entry| match &entry.record.body {
            RecordBody::Void { kind, why } => {
                Some(Refused { seq: entry.record.link.seq, kind: kind.clone(), why: why.clone() })
            }
            _ => None,
        })
    }

    /// The region whose log this is; unknown only while it is empty.
    #[must_use]
    pub fn region(&self) -> Option<&RegionName> {
        self.trust.region.as_ref()
    }

    /// All records, from the first.
    #[must_use]
    pub fn entries(&self) -> &[Arc<LogEntry>] {
        &self.entries
    }

    /// The end of the log, to be remembered; `None` while it is empty.
    #[must_use]
    pub fn head(&self) -> Option<LogHead> {
        self.entries.last().map(|last| LogHead { seq: last.record.link.seq, sha256: last.sha256 })
    }

    /// Objects among the records that are none (the first few). They do no harm; a person should look where they come from.
    #[must_use]
    pub(crate) fn strays(&self) -> &[ObjectKey] {
        &self.strays
    }

    /// The highest count that `writer` has used in this log. The next event's must be above that of all logs.
    #[must_use]
    pub fn last_count(&self, writer: &KeyName) -> Option<u64> {
        let is_own = |entry: &&Arc<LogEntry>| {
            entry.record.origin.writer == *writer && !matches!(entry.record.body, RecordBody::Void { .. })
        };
        let own = self.entries.iter().filter(is_own);
        own.map(|entry| entry.record.origin.wseq).max()
    }
}
