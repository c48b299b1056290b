//! What there is to restore: the logs of several regions, laid side by side.
//!
//! Regions are written independently, so they may differ; where they *disagree*, a person has to look. Nothing is
//! decided by majority, and nothing is hidden.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::{BackupId, RegionName, UtcTime};

use crate::format::ids::RepositoryId;
use crate::keys::signing::VerifyKey;
use crate::log::descriptor::Descriptor;
use crate::log::outside::{Outside, Refused};
use crate::log::records::backup::{BackupRecord, Integrity};
use crate::log::records::care::HoldRecord;
use crate::log::region_log::RegionLog;
use crate::log::region_state::{Leaving, unreleased_holds};
use crate::log::signers::KeyStanding;
use crate::wal::records::WalRecords;

/// So many objects and records that do not count are named for one region.
const OUTSIDE_NAMED: usize = 10;

/// What one region said when it was asked for its history.
#[derive(Clone, Debug)]
pub struct RegionView {
    /// The region, as the caller calls it.
    pub name: RegionName,
    /// Its answer.
    pub answer: RegionAnswer,
}

/// See [`RegionView`].
#[derive(Clone, Debug)]
pub enum RegionAnswer {
    /// Descriptor and log were read and checked.
    Read {
        /// Its descriptor.
        descriptor: Box<Descriptor>,
        /// Its log.
        log: Box<RegionLog>,
    },
    /// It cannot be used now.
    Unreadable {
        /// Why not: an error with all its causes.
        why: String,
    },
}

/// One backup, in all regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogRow {
    /// The record, from the first region that has it.
    pub record: BackupRecord,
    /// The key that has signed it there.
    pub signer: VerifyKey,
    /// Whether any of the regions says that this key was revoked: then nobody knows whether its owner has made the backup.
    pub standing: KeyStanding,
    /// What each region has, in order of names.
    pub regions: BTreeMap<RegionName, Presence>,
    /// The regions that are to give it up, and when.
    pub leaving: BTreeMap<RegionName, Leaving>,
    /// The regions in which objects of it are damaged or missing.
    pub damaged: BTreeSet<RegionName>,
    /// The holds on it that were not released; some may have ended by themselves.
    pub holds: Vec<HoldRecord>,
}

/// What one region has of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It exists there.
    Committed {
        /// Place of its record in the region's log.
        seq: u64,
    },
    /// It exists there with another content than in the first region that has it.
    Different {
        /// Place of its record in the region's log.
        seq: u64,
    },
    /// It existed there and was swept: what is left of it is being deleted.
    Swept,
    /// It does not exist there.
    Absent,
    /// The region cannot be asked, or is not part of the same repository.
    Unknown,
}

/// Something that a person has to look at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Finding {
    /// A region gives no history.
    #[error("region {region} cannot be read: {why}")]
    Unreadable {
        /// The region.
        region: RegionName,
        /// Why not.
        why: String,
    },
    /// Two views of one name.
    #[error("region {region} was given twice; the second is not used")]
    SameName {
        /// The name.
        region: RegionName,
    },
    /// A region calls itself otherwise than the caller.
    #[error("region {region} calls itself {found}")]
    OtherName {
        /// The caller's name for it.
        region: RegionName,
        /// Its own.
        found: RegionName,
    },
    /// A region belongs to another repository; its backups are not shown.
    #[error("region {region} belongs to repository {found}, not to {expected}; its backups are not shown")]
    OtherRepository {
        /// The region.
        region: RegionName,
        /// The repository of the first region.
        expected: RepositoryId,
        /// Its own.
        found: RepositoryId,
    },
    /// A region is signed by another root key; its backups are not shown.
    #[error("region {region} is signed by {found}, not by {expected}; its backups are not shown")]
    OtherRoot {
        /// The region.
        region: RegionName,
        /// The root key of the first region.
        expected: Box<VerifyKey>,
        /// Its own.
        found: Box<VerifyKey>,
    },
    /// Descriptors of one repository that are not equal; its backups are not shown.
    #[error("region {region} describes the repository otherwise than the first region; its backups are not shown")]
    OtherDescriptor {
        /// The region.
        region: RegionName,
    },
    /// Two regions have different records of one backup.
    #[error("backup {backup} is not the same in {first} and {second}: two signed records disagree")]
    Disagreement {
        /// The backup.
        backup: BackupId,
        /// The region whose record is shown.
        first: RegionName,
        /// The region that has another.
        second: RegionName,
    },
    /// One region has two records of one backup.
    #[error(
        "backup {backup} stands twice in the log of {region}, as records {first} and {second}; the first one counts"
    )]
    Twice {
        /// The backup.
        backup: BackupId,
        /// The region.
        region: RegionName,
        /// Place of the first record.
        first: u64,
        /// Place of the second.
        second: u64,
    },
    /// An object lies at a place of the log, and is no record of it.
    #[error("in the log of region {region}, {outside}")]
    Outside {
        /// The region.
        region: RegionName,
        /// The object.
        outside: Box<Outside>,
    },
    /// A record stands in the log that its key may not write; nobody counts it.
    #[error("in the log of region {region}, {refused}")]
    Refused {
        /// The region.
        region: RegionName,
        /// The record.
        refused: Refused,
    },
    /// More of both than are named.
    #[error("in the log of region {region} there are {more} more objects and records that do not count")]
    MoreOutside {
        /// The region.
        region: RegionName,
        /// How many.
        more: usize,
    },
    /// A foreign object lies among the records.
    #[error("object {key} in region {region} is not part of the log")]
    Stray {
        /// The region.
        region: RegionName,
        /// The object.
        key: ObjectKey,
    },
}

/// The table of all backups.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    rows: Vec<CatalogRow>,
    findings: Vec<Finding>,
    descriptor: Option<Descriptor>,
    wal: WalRecords,
}

#[derive(Default)]
struct Merge<'a> {
    rows: BTreeMap<BackupId, (RegionName, CatalogRow)>,
    swept: BTreeSet<(RegionName, BackupId)>,
    used: Vec<(RegionName, &'a RegionLog)>,
    unknown: Vec<RegionName>,
    findings: Vec<Finding>,
    descriptor: Option<Descriptor>,
}

impl Catalog {
    /// Lays the views side by side. The first region that can be read says which repository this is.
    #[must_use]
    pub fn merge(views: &[RegionView]) -> Self {
        let mut merge = Merge::default();
        for view in views {
            merge.add(view);
        }
        merge.finish()
    }

    /// All backups that exist in any region, newest first: by the time when they were complete, then by WAL position, then by name. The time is
    /// the writer's; the timeline is not looked at, because it starts anew with every major upgrade.
    #[must_use]
    pub fn rows(&self) -> &[CatalogRow] {
        &self.rows
    }

    /// What a person has to look at, in order of regions.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The repository; `None` if no region can be read.
    #[must_use]
    pub fn descriptor(&self) -> Option<&Descriptor> {
        self.descriptor.as_ref()
    }

    /// What the logs of the regions that are used say about the stream of WAL: gaps, keys, incarnation.
    #[must_use]
    pub fn wal(&self) -> &WalRecords {
        &self.wal
    }

    /// The backup of this name.
    #[must_use]
    pub fn find(&self, backup: &BackupId) -> Option<&CatalogRow> {
        self.rows.iter().find(|row| row.record.backup == *backup)
    }

    /// The newest backup that counts as good and that some region has, whether its key was revoked or not. One that is dated later
    /// than `now` was made while a clock was ahead: it is the newest only if there is no other.
    #[must_use]
    pub fn newest_intact(&self, now: UtcTime) -> Option<&CatalogRow> {
        self.intact().find(|row| row.record.stop_time <= now).or_else(|| self.newest_intact_as_dated())
    }

    /// The same by what the backups say of themselves alone: for a machine whose own clock may be the wrong one, such as a host that
    /// was just set up to restore on.
    #[must_use]
    pub fn newest_intact_as_dated(&self) -> Option<&CatalogRow> {
        self.intact().next()
    }

    /// The newest intact backup that can be restored from a region as it is: one has all objects of it, as far as is known, and does not
    /// give it up. Dates are taken as in [`Self::newest_intact`].
    #[must_use]
    pub fn newest_whole(&self, now: UtcTime) -> Option<&CatalogRow> {
        let mut whole = self.intact().filter(|row| row.is_whole_somewhere());
        let first = whole.next()?;
        if first.record.stop_time <= now {
            return Some(first);
        }
        Some(whole.find(|row| row.record.stop_time <= now).unwrap_or(first))
    }

    fn intact(&self) -> impl Iterator<Item = &CatalogRow> {
        self.rows.iter().filter(|row| row.record.integrity() == Integrity::Intact && !row.is_disputed())
    }
}

impl CatalogRow {
    fn new(record: BackupRecord, signer: VerifyKey) -> Self {
        let (regions, leaving, damaged) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { record, signer, standing: KeyStanding::InForce, regions, leaving, damaged, holds: Vec::new() }
    }

    /// Whether it was swept in every region that is known to have had it.
    fn is_gone(&self) -> bool {
        let exists = |presence: &Presence| matches!(presence, Presence::Committed { .. } | Presence::Different { .. });
        !self.regions.values().any(exists)
    }

    /// The regions that have the backup as [`Self::record`] describes it.
    pub fn holders(&self) -> impl Iterator<Item = &RegionName> {
        self.regions.iter().filter(|(_, presence)| matches!(presence, Presence::Committed { .. })).map(|(name, _)| name)
    }

    /// Whether a region has it, neither damaged nor about to leave.
    fn is_whole_somewhere(&self) -> bool {
        self.holders().any(|region| !self.damaged.contains(region) && !self.leaving.contains_key(region))
    }

    /// The holds on it that are in force at `now`.
    pub fn holds_at(&self, now: UtcTime) -> impl Iterator<Item = &HoldRecord> {
        self.holds.iter().filter(move |hold| hold.lasts_at(now))
    }

    /// Whether two signed records disagree about it. Which one is right must not be guessed.
    #[must_use]
    pub fn is_disputed(&self) -> bool {
        self.regions.values().any(|presence| matches!(presence, Presence::Different { .. }))
    }
}

impl<'a> Merge<'a> {
    fn add(&mut self, view: &'a RegionView) {
        let region = view.name.clone();
        if self.used.iter().any(|(used, _)| *used == region) || self.unknown.contains(&region) {
            self.findings.push(Finding::SameName { region });
            return;
        }
        let (descriptor, log) = match &view.answer {
            RegionAnswer::Read { descriptor, log } => (descriptor, log),
            RegionAnswer::Unreadable { why } => {
                self.findings.push(Finding::Unreadable { region: region.clone(), why: why.clone() });
                self.unknown.push(region);
                return;
            }
        };
        if let Some(finding) = self.descriptor.as_ref().and_then(|first| disagreement(first, descriptor, &region)) {
            self.findings.push(finding);
            self.unknown.push(region);
            return;
        }
        self.descriptor.get_or_insert_with(|| (**descriptor).clone());
        if let Some(found) = log.region().filter(|found| **found != region).cloned() {
            self.findings.push(Finding::OtherName { region: region.clone(), found });
        }
        self.findings
            .extend(log.strays().iter().map(|key| Finding::Stray { region: region.clone(), key: key.clone() }));
        self.add_outside(&region, log);
        self.add_log(&region, log);
        self.add_care(&region, log);
        self.used.push((region, log));
    }

    /// What lies or stands in the log and does not count: the first few by name.
    fn add_outside(&mut self, region: &RegionName, log: &RegionLog) {
        let outside = log
            .outside()
            .iter()
            .map(|outside| Finding::Outside { region: region.clone(), outside: Box::new(outside.clone()) });
        let refused = log.refused().map(|refused| Finding::Refused { region: region.clone(), refused });
        let mut all = outside.chain(refused);
        self.findings.extend(all.by_ref().take(OUTSIDE_NAMED));
        let more = all.count();
        if more > 0 {
            self.findings.push(Finding::MoreOutside { region: region.clone(), more });
        }
    }

    fn add_log(&mut self, region: &RegionName, log: &RegionLog) {
        for entry in log.entries() {
            let Some(record) = entry.record.backup() else { continue };
            let (backup, seq) = (record.backup.clone(), entry.record.link.seq);
            let new_row = || (region.clone(), CatalogRow::new(record.clone(), entry.signer));
            let (first, row) = self.rows.entry(backup.clone()).or_insert_with(new_row);
            let same = row.record == *record;
            let presence = if same { Presence::Committed { seq } } else { Presence::Different { seq } };
            match row.regions.get(region).copied() {
                None => {
                    row.regions.insert(region.clone(), presence);
                    if !same {
                        let (first, second) = (first.clone(), region.clone());
                        self.findings.push(Finding::Disagreement { backup, first, second });
                    }
                }
                Some(before) => {
                    // A log has one order, and in it the first word about a backup counts: whoever says something else later, with
                    // whatever key, takes nothing from it.
                    let first = before.seq().unwrap_or(seq);
                    self.findings.push(Finding::Twice { backup, region: region.clone(), first, second: seq });
                }
            }
        }
    }

    /// What became of the region's backups since they were made.
    fn add_care(&mut self, region: &RegionName, log: &RegionLog) {
        let state = log.state_without_holds();
        self.swept.extend(state.swept.into_keys().map(|backup| (region.clone(), backup)));
        for (backup, state) in state.backups {
            let Some((_, row)) = self.rows.get_mut(&backup) else { continue };
            row.leaving.extend(state.leaving.map(|leaving| (region.clone(), leaving)));
            row.damaged.extend(state.damaged.map(|_| region.clone()));
        }
    }

    fn finish(self) -> Catalog {
        let Self { mut rows, swept, used, unknown, findings, descriptor } = self;
        for hold in unreleased_holds(used.iter().map(|(_, log)| *log)).into_values() {
            rows.get_mut(&hold.backup).into_iter().for_each(|(_, row)| row.holds.push(hold.clone()));
        }
        let mut rows: Vec<CatalogRow> = rows.into_values().map(|(_, row)| row).collect();
        for row in &mut rows {
            let standing = used.iter().map(|(_, log)| log.trust().signers.standing(&row.signer));
            row.standing = standing.max().unwrap_or(KeyStanding::InForce);
            for (region, _) in &used {
                let presence = row.regions.entry(region.clone()).or_insert(Presence::Absent);
                if swept.contains(&(region.clone(), row.record.backup.clone())) {
                    *presence = Presence::Swept;
                }
            }
            for region in &unknown {
                row.regions.entry(region.clone()).or_insert(Presence::Unknown);
            }
        }
        rows.retain(|row| !row.is_gone());
        let age = |row: &CatalogRow| (row.record.stop_time, row.record.stop_lsn, row.record.backup.clone());
        rows.sort_by_cached_key(|row| std::cmp::Reverse(age(row)));
        let wal = WalRecords::of(used.iter().map(|(region, log)| (region, *log)));
        Catalog { rows, findings, descriptor, wal }
    }
}

impl Presence {
    fn seq(self) -> Option<u64> {
        match self {
            Self::Committed { seq } | Self::Different { seq } => Some(seq),
            Self::Swept | Self::Absent | Self::Unknown => None,
        }
    }
}

fn disagreement(first: &Descriptor, other: &Descriptor, region: &RegionName) -> Option<Finding> {
    let region = region.clone();
    if first.repo != other.repo {
        return Some(Finding::OtherRepository { region, expected: first.repo, found: other.repo });
    }
    if first.root != other.root {
        return Some(Finding::OtherRoot { region, expected: Box::new(first.root), found: Box::new(other.root) });
    }
    (first != other).then_some(Finding::OtherDescriptor { region })
}

#[cfg(test)]
mod tests;
