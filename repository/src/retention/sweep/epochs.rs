//! When a wrapped key for WAL is not needed any more.
//!
//! No name says under which key a WAL object is sealed. The log says when a writer took the next key; what was sealed under
//! the one before holds WAL that was received until then. So a key is over when everything is gone that was received until
//! well after the next one was taken, and when the objects that are left name it nowhere in their headers.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_stores::{ByteRange, ObjectKey, Store, StoreError};
use lifeboat_vocabulary::{Lsn, TimelineId};

use crate::format::header::{HEADER_BYTES, ObjectHeader};
use crate::format::ids::EpochId;
use crate::format::key_name::KeyName;
use crate::format::layout::{StoredName, WalForm};
use crate::log::records::backup::BackupRecord;
use crate::log::records::care::WalFloor;
use crate::log::records::record::RecordBody;
use crate::log::region_log::RegionLog;
use crate::retention::sweep::error::SweepError;
use crate::retention::sweep::floor::{Kept, KeptWal};
use crate::wal::list::{WalPages, timelines};

/// The keys for WAL that a log names.
pub(crate) struct WalEpochs {
    named: BTreeSet<EpochId>,
    over: BTreeSet<EpochId>,
}

struct Taken<'a> {
    seq: u64,
    writer: &'a KeyName,
    epoch: EpochId,
}

impl WalEpochs {
    /// `kept` is the WAL that today's plan keeps. Floors that the log names do not count: whoever may write there may have
    /// put them where he likes.
    pub(crate) fn of(log: &RegionLog, kept: Option<&KeptWal>) -> Self {
        let (mut taken, mut backups, mut newest) = (Vec::new(), Vec::new(), None);
        for entry in log.entries() {
            let seq = entry.record.link.seq;
            match &entry.record.body {
                RecordBody::WalEpoch(record) => {
                    newest = newest.max(Some(record.timeline));
                    taken.push(Taken { seq, writer: &entry.record.origin.writer, epoch: record.epoch });
                }
                RecordBody::Backup(record) => {
                    newest = newest.max(Some(record.stop_tli));
                    backups.push((seq, &**record));
                }
                _ => {}
            }
        }
        let named: BTreeSet<EpochId> = taken.iter().map(|taken| taken.epoch).collect();
        let Some(newest) = newest else { return Self { named, over: BTreeSet::new() } };
        let floor = match kept.map(|kept| kept.of_timeline(newest)) {
            Some(Kept::From(floor)) => Some(floor),
            Some(Kept::All | Kept::Nothing) | None => None,
        };
        let is_over = |index: usize, this: &Taken<'_>| {
            let later = taken.iter().skip(index + 1);
            let mut next = later.filter(|later| later.writer == this.writer && later.epoch != this.epoch);
            next.next().is_some_and(|next| all_gone_since(next.seq, &backups, newest, floor))
        };
        let over = taken.iter().enumerate().filter(|(index, this)| is_over(*index, this));
        let mut over: BTreeSet<EpochId> = over.map(|(_, this)| this.epoch).collect();
        // One that was announced twice is over when its last announcement is.
        for (index, this) in taken.iter().enumerate() {
            if !is_over(index, this) {
                over.remove(&this.epoch);
            }
        }
        Self { named, over }
    }

    /// Whether the log names it as a key for WAL.
    pub(crate) fn is_of_wal(&self, epoch: EpochId) -> bool {
        self.named.contains(&epoch)
    }

    /// Whether, by the log, no WAL is left that could be sealed under it.
    pub(crate) fn is_over(&self, epoch: EpochId) -> bool {
        self.over.contains(&epoch)
    }
}

/// Whether everything is below `floor` that was received before record `seq`, and some time after it.
///
/// By the log alone, without a clock: one backup is made at a time, so the second one behind the record began after the
/// record stood there, and whatever was received before it began lies below its end. Only backups on the newest timeline
/// count, on which nothing can have been received before its parents ended.
fn all_gone_since(seq: u64, backups: &[(u64, &BackupRecord)], newest: TimelineId, floor: Option<Lsn>) -> bool {
    let Some(floor) = floor else { return false };
    let mut later = backups.iter().filter(|(at, _)| *at > seq);
    let Some((_, first)) = later.next() else { return false };
    let is_proof = |record: &BackupRecord| {
        record.start_time >= first.stop_time
            && (record.start_tli, record.stop_tli) == (newest, newest)
            && record.stop_lsn <= floor
    };
    later.any(|(_, record)| is_proof(record))
}

/// The epochs that the oldest objects name which stay, and all histories: these are never deleted. `None` if this role may
/// not read them, or they cannot be read: then nothing is known.
pub(crate) async fn epochs_in_use(
    store: &dyn Store,
    rising: &[WalFloor],
) -> Result<Option<BTreeSet<EpochId>>, SweepError> {
    let floors: BTreeMap<TimelineId, Lsn> = rising.iter().map(|floor| (floor.timeline, floor.before)).collect();
    let mut keys = Vec::new();
    for timeline in timelines(store).await.map_err(SweepError::List)? {
        keys.push((StoredName::TimelineHistory { timeline }.key(), Missing::IsFine));
        for form in [WalForm::Piece, WalForm::Slice] {
            let mut pages = WalPages::all(store, form, timeline);
            while let Some(object) = pages.next().await.map_err(SweepError::List)? {
                if floors.get(&timeline).is_none_or(|floor| object.range.end > *floor) {
                    keys.push((object.key(), Missing::IsUnknown));
                    break;
                }
            }
        }
    }
    let mut epochs = BTreeSet::new();
    for (key, missing) in keys {
        match epoch_of(store, &key).await {
            Ok(Some(epoch)) => {
                epochs.insert(epoch);
            }
            Err(StoreError::NotFound { .. }) if missing == Missing::IsFine => {}
            Ok(None) => return Ok(None),
            Err(error) => {
                tracing::warn!(%key, %error, "keys for WAL stay: an object does not say which one it needs");
                return Ok(None);
            }
        }
    }
    Ok(Some(epochs))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    IsFine,
    IsUnknown,
}

async fn epoch_of(store: &dyn Store, key: &ObjectKey) -> Result<Option<EpochId>, StoreError> {
    let bytes = store.get(key, ByteRange::Part { start: 0, length: HEADER_BYTES as u64 }).await?;
    Ok(ObjectHeader::parse(&bytes).ok().map(|header| header.epoch))
}
