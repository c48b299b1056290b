//! The state of a region by its log: backups that exist, those that were forgotten, holds, damage, and the floors of WAL.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_vocabulary::{BackupId, Lsn, TimelineId, UtcTime};

use crate::format::ids::HoldId;
use crate::format::key_name::KeyName;
use crate::log::damage::OpenDamage;
use crate::log::records::backup::BackupRecord;
use crate::log::records::care::{ForgetRecord, HoldRecord, PolicyText, SweepIntentRecord, WalFloor};
use crate::log::records::record::{Origin, RecordBody};
use crate::log::region_log::RegionLog;

/// What a region has, and what is to happen with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionState {
    /// The backups that exist in this region.
    pub backups: BTreeMap<BackupId, BackupState>,
    /// The backups that do not exist here any more, or never can: place of the `sweep-intent` that says so.
    pub swept: BTreeMap<BackupId, u64>,
    /// Sweeps that were begun and not finished, in order.
    pub open_intents: Vec<OpenIntent>,
    /// Names in `sweep-intent` records that count for nothing: what they name was not to go.
    pub void_sweeps: Vec<VoidSweep>,
    /// The holds that are in force, also those on backups that this region does not have, by their ids.
    pub holds: BTreeMap<HoldId, HoldRecord>,
    /// Below this, no WAL of the timeline is kept. Only ever rises.
    pub wal_floors: BTreeMap<TimelineId, Lsn>,
    /// Below this, no slices of the timeline are kept that pieces stand in for. Only ever rises.
    pub slice_floors: BTreeMap<TimelineId, Lsn>,
    /// The policy that decided last, and when it did.
    pub policy: Option<(PolicyText, UtcTime)>,
    /// The latest time at which anything was forgotten or swept, by the clocks of those who did it. A plan of what
    /// to keep takes no earlier time than this.
    pub last_decision: Option<UtcTime>,
    /// Place of the record that says so.
    pub decided_by: Option<u64>,
}

/// A backup that exists in a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupState {
    /// Its record.
    pub record: BackupRecord,
    /// Place of the record in the log.
    pub seq: u64,
    /// Whether it is to leave.
    pub leaving: Option<Leaving>,
    /// Place of the last `damage` record that names it and that no `healed` record settles.
    pub damaged: Option<u64>,
    /// The holds on it that are in force.
    pub held: BTreeSet<HoldId>,
}

/// A backup was forgotten: it leaves the kept set, and can be restored until it is swept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Place of the `forget` record.
    pub seq: u64,
    /// No sweep takes it before this time.
    pub not_before: UtcTime,
    /// Why no rule keeps it.
    pub why: String,
}

/// A sweep that was begun and not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenIntent {
    /// Its place in the log.
    pub seq: u64,
    /// Who wrote it.
    pub writer: KeyName,
    /// What it sweeps: of what the record names, that which counts.
    pub intent: SweepIntentRecord,
    /// The backups that it names, as they stood before it.
    pub backups: Vec<BackupState>,
    /// Objects that were locked when it was tried last; `None` if no try came to its end.
    pub locked: Option<u64>,
}

/// What a `sweep-intent` names and must not: backups that nobody had forgotten, or whose grace was not over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoidSweep {
    /// Place of the record.
    pub seq: u64,
    /// Who wrote it.
    pub writer: KeyName,
    /// What it names in vain; at least one.
    pub backups: Vec<BackupId>,
}

impl RegionLog {
    /// What stands in this region, by all of its log. `now` decides only which holds have ended by themselves.
    #[must_use]
    pub fn state(&self, now: UtcTime) -> RegionState {
        let mut state = self.state_without_holds();
        state.adopt_holds(holds_in_force([self], now));
        state
    }

    pub(crate) fn state_without_holds(&self) -> RegionState {
        let (mut state, mut damage) = (RegionState::default(), OpenDamage::default());
        for entry in self.entries() {
            let (seq, time) = (entry.record.link.seq, entry.record.origin.time);
            match &entry.record.body {
                RecordBody::Backup(record) => state.add_backup(record, seq),
                RecordBody::Forget(forget) => state.forget(forget, seq, time),
                RecordBody::Keep(keep) => {
                    keep.backups.iter().for_each(|id| state.change(id, |backup| backup.leaving = None));
                }
                RecordBody::SweepIntent(intent) => state.begin_sweep(intent, seq, &entry.record.origin),
                RecordBody::SweepDone(done) if done.locked == 0 => {
                    state.open_intents.retain(|open| open.seq != done.intent);
                }
                RecordBody::SweepDone(done) => {
                    let open = state.open_intents.iter_mut().filter(|open| open.seq == done.intent);
                    open.for_each(|open| open.locked = Some(done.locked));
                }
                // Who holds a backup that is to leave wants it to stay: after the hold, it has to be forgotten anew.
                RecordBody::Hold(hold) => state.change(&hold.backup, |backup| backup.leaving = None),
                RecordBody::Damage(_) | RecordBody::Healed(_) => {
                    for id in damage.note(&entry.record) {
                        state.change(id, |backup| backup.damaged = damage.last_of(id));
                    }
                }
                RecordBody::Init(_)
                | RecordBody::WalEpoch(_)
                | RecordBody::WalGap(_)
                | RecordBody::Incarnation(_)
                | RecordBody::Release(_)
                | RecordBody::Audit(_)
                | RecordBody::Signer(_)
                | RecordBody::Copy(_)
                | RecordBody::Bundle(_)
                | RecordBody::Void { .. }
                | RecordBody::Unknown { .. } => {}
            }
        }
        state
    }
}

impl RegionState {
    fn add_backup(&mut self, record: &BackupRecord, seq: u64) {
        // A record behind the sweep of its backup was written without reading the log; its objects are gone.
        if self.swept.contains_key(&record.backup) {
            return;
        }
        let new = || BackupState { record: record.clone(), seq, leaving: None, damaged: None, held: BTreeSet::new() };
        self.backups.entry(record.backup.clone()).or_insert_with(new);
    }

    fn change(&mut self, backup: &BackupId, change: impl FnOnce(&mut BackupState)) {
        if let Some(backup) = self.backups.get_mut(backup) {
            change(backup);
        }
    }

    fn decided_at(&mut self, time: UtcTime, seq: u64) {
        if self.last_decision < Some(time) {
            (self.last_decision, self.decided_by) = (Some(time), Some(seq));
        }
    }

    fn forget(&mut self, forget: &ForgetRecord, seq: u64, time: UtcTime) {
        for forgotten in &forget.backups {
            let leaving = Leaving { seq, not_before: forget.not_before, why: forgotten.why.clone() };
            // Forgetting twice does not prolong the time that is left.
            self.change(&forgotten.backup, |backup| {
                backup.leaving.get_or_insert(leaving);
            });
        }
        self.policy = Some((forget.policy.clone(), time));
        self.decided_at(time, seq);
    }

    /// A name counts only where the log itself says that it may go: a backup that was forgotten and whose grace was over, a
    /// leftover of which no record stands here. So a record that names what was not to go, whoever wrote it, takes nothing
    /// from any reader.
    fn begin_sweep(&mut self, intent: &SweepIntentRecord, seq: u64, origin: &Origin) {
        let (mut void, mut taken) = (Vec::new(), Vec::new());
        let mut counts = SweepIntentRecord { backups: Vec::new(), leftovers: Vec::new(), ..intent.clone() };
        for backup in &intent.backups {
            let is_due = |leaving: &Leaving| leaving.not_before <= origin.time;
            match self.backups.get(backup) {
                Some(there) if there.leaving.as_ref().is_some_and(is_due) => {
                    taken.extend(self.backups.remove(backup));
                    counts.backups.push(backup.clone());
                }
                // What an earlier one named goes by that one.
                None if self.swept.contains_key(backup) => {}
                _ => void.push(backup.clone()),
            }
        }
        for backup in &intent.leftovers {
            if self.backups.contains_key(backup) { &mut void } else { &mut counts.leftovers }.push(backup.clone());
        }
        for backup in counts.backups.iter().chain(&counts.leftovers) {
            self.swept.entry(backup.clone()).or_insert(seq);
        }
        raise(&mut self.wal_floors, &intent.wal);
        raise(&mut self.slice_floors, &intent.slices);
        let writer = || origin.writer.clone();
        if !void.is_empty() {
            self.void_sweeps.push(VoidSweep { seq, writer: writer(), backups: void });
        }
        let (writer, locked) = (writer(), None);
        self.open_intents.push(OpenIntent { seq, writer, intent: counts, backups: taken, locked });
        self.decided_at(origin.time, seq);
    }

    /// Takes holds into account that are in force, such as those in the logs of other regions.
    pub fn adopt_holds(&mut self, holds: BTreeMap<HoldId, HoldRecord>) {
        for (id, hold) in holds {
            self.change(&hold.backup, |backup| {
                backup.held.insert(id);
                backup.leaving = None;
            });
            self.holds.insert(id, hold);
        }
    }
}

fn raise(floors: &mut BTreeMap<TimelineId, Lsn>, by: &[WalFloor]) {
    for WalFloor { timeline, before } in by {
        let floor = floors.entry(*timeline).or_insert(*before);
        *floor = (*floor).max(*before);
    }
}

/// The holds that are in force at `now` by all of `logs` together: those that some log has, that no log has released, and
/// that have not ended by themselves. A region that missed a hold keeps the backup nevertheless.
#[must_use]
pub fn holds_in_force<'a>(logs: impl IntoIterator<Item = &'a RegionLog>, now: UtcTime) -> BTreeMap<HoldId, HoldRecord> {
    let mut holds = unreleased_holds(logs);
    holds.retain(|_, hold| hold.lasts_at(now));
    holds
}

/// The holds that some log has and that no log has released, also those that have ended by themselves.
pub(crate) fn unreleased_holds<'a>(logs: impl IntoIterator<Item = &'a RegionLog>) -> BTreeMap<HoldId, HoldRecord> {
    let mut holds = BTreeMap::new();
    let mut released = BTreeSet::new();
    for entry in logs.into_iter().flat_map(RegionLog::entries) {
        match &entry.record.body {
            RecordBody::Hold(hold) => {
                holds.entry(hold.hold).or_insert_with(|| hold.clone());
            }
            RecordBody::Release(release) => {
                released.insert(release.hold);
            }
            _ => {}
        }
    }
    holds.retain(|id, _: &mut HoldRecord| !released.contains(id));
    holds
}

#[cfg(test)]
mod tests;
