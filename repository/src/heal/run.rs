//! A region that was unavailable, is new, or is damaged gets from healthy regions what it lacks: sealed objects as they are, each
//! verified on the way, and the records once everything that they name is there.
//!
//! CRASH SAFETY. Every step is one create-only (or conditional) write, and what a step relies on is there before it: slots,
//! then the record of an epoch, then WAL under it; objects, list and slots of a backup, then its record. A crash at any
//! point leaves at most objects that no record names; the next run lists what is there, and goes on behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::{Lsn, RegionName, TimelineId, UtcTime, error_chain};

use crate::heal::backup::{HealBackupError, Moved, heal_backup};
use crate::heal::copy::{Copied, Copier, CopyError};
use crate::heal::faults::{SILENT, ScrubRegion};
use crate::heal::in_place::is_whole_in_place;
use crate::heal::pass_on::PassOn;
use crate::heal::plan::{BackupTask, Lack, Rank, RecordPlan, plan_records};
use crate::heal::presence::{PresenceReport, check_presence};
use crate::heal::report::{HealEnd, HealError, HealPreview, HealReport};
use crate::heal::scope::HealScope;
use crate::heal::stream::{Epochs, Stream, heal_damaged_wal};
use crate::heal::tools::{HealRegion, HealTools, Look};
use crate::heal::wal::{MissingWal, Until, WalBounds, WalLack, lacking_wal};
use crate::heal::writer_guard::WriterGuard;
use crate::log::append::Draft;
use crate::log::damage::FoundDamage;
use crate::log::error::LogError;
use crate::log::records::care::{BACKUPS_MAX, HealedRecord, SETTLED_MAX};
use crate::log::records::record::{Origin, RecordBody};
use crate::log::region_log::{LogTrust, RegionLog};
use crate::log::region_store::RegionStore;
use crate::wal::name::WalObject;
use crate::wal::object::WalTrust;

/// The log of the region is read again after so many objects of WAL: a sweep may have run meanwhile.
const LOOK_AT_LOG_EVERY: u64 = 64;

/// Finds out what `target` lacks, and changes nothing.
///
/// # Errors
/// [`HealError::List`] if the region does not answer.
pub async fn preview(
    target: &HealRegion,
    sources: &[HealRegion],
    scope: &HealScope,
    tools: &HealTools<'_>,
) -> Result<HealPreview, HealError> {
    let logs: Vec<&RegionLog> = sources.iter().map(|source| &source.log).collect();
    let mut target = target.clone();
    let PresenceReport { missing, unread, .. } = look(&mut target, sources, tools).await?;
    let target = &target;
    let records = plan_records(&target.log, &logs, scope, &missing, tools.clock.now());
    let mut preview = HealPreview { records, unread, ..HealPreview::default() };
    match guard(&target.store, tools).until().await {
        Ok(until) => {
            let lack = compare(target, sources, &bounds(target, scope, until, tools), &BTreeSet::new()).await?;
            preview.wal_objects = lack.count();
            preview.wal_bytes = lack.bytes();
            lack.unread.iter().for_each(|(key, why)| preview.unread.add(key.clone(), why));
        }
        Err(why) => preview.wal_unseen = Some(why),
    }
    Ok(preview)
}

/// Brings `target` what it lacks, in the order that `heal::plan` gives reasons for. Works beside backups, WAL and sweeps.
///
/// What cannot be healed is in the report, and does not keep the rest from being healed.
///
/// # Errors
/// [`HealError`] if nothing could be begun. What was done before stays, and is found by the next run.
pub async fn heal_region(
    target: &mut HealRegion,
    sources: &[HealRegion],
    scope: &HealScope,
    tools: &HealTools<'_>,
) -> Result<HealReport, HealError> {
    let region = target.store.name.clone();
    let refreshed = target.log.refresh(&*target.store.store).await;
    refreshed.map_err(|source| HealError::Log { region, source })?;
    let PresenceReport { missing, damage, unread, .. } = look(target, sources, tools).await?;
    let mut report = HealReport::default();
    for (key, why) in unread.iter() {
        report.leave(key.to_string(), format!("it could not be read, so that nothing is known of it: {why}"));
    }
    let logs: Vec<&RegionLog> = sources.iter().map(|source| &source.log).collect();
    let plan = plan_records(&target.log, &logs, scope, &missing, tools.clock.now());
    let store = target.store.clone();
    let stores: Vec<RegionStore> = sources.iter().map(|source| source.store.clone()).collect();
    let trust = WalTrust::of(tools.trust);
    let copier = Copier::new(&store, stores, &trust, tools);
    let writer = guard(&store, tools);
    let floors = target.log.state(tools.clock.now()).wal_floors;
    let run = Run {
        target,
        sources,
        scope,
        plan,
        tools,
        copier: &copier,
        writer: &writer,
        epochs: Epochs::default(),
        report,
        missing: damage,
        mended: BTreeSet::new(),
        moved: Moved::default(),
        settled: BTreeSet::new(),
        floors,
        since_look: 0,
        silent: 0,
        holder: None,
    };
    run.run().await
}

/// What a listing of the region does not show, if it is to be listed.
async fn look(
    target: &mut HealRegion,
    sources: &[HealRegion],
    tools: &HealTools<'_>,
) -> Result<PresenceReport, HealError> {
    if tools.look == Look::AtRecords {
        return Ok(PresenceReport::default());
    }
    tools.progress.doing("a comparison with the lists of the backups".to_owned());
    let others: Vec<RegionStore> = sources.iter().map(|source| source.store.clone()).collect();
    let HealTools { trust, pace, progress, clock, .. } = *tools;
    let scrubbed = ScrubRegion { region: &target.store, others: &others, trust, pace, progress, clock };
    let found = check_presence(scrubbed, &mut target.log).await;
    found.map_err(|source| HealError::Objects { region: target.store.name.clone(), source })
}

fn guard<'a>(target: &'a RegionStore, tools: &HealTools<'a>) -> WriterGuard<'a> {
    let trust = LogTrust { region: Some(target.name.clone()), remembered: None, ..tools.trust.clone() };
    WriterGuard::new(target, trust, tools.signer.name(), tools.clock)
}

fn bounds(target: &HealRegion, scope: &HealScope, until: Until, tools: &HealTools<'_>) -> WalBounds {
    let floors = target.log.state(tools.clock.now()).wal_floors;
    WalBounds { from: scope.wal_from, floors, until, settled: tools.settled }
}

async fn compare(
    target: &HealRegion,
    sources: &[HealRegion],
    bounds: &WalBounds,
    refused: &BTreeSet<WalObject>,
) -> Result<WalLack, HealError> {
    let sources: Vec<RegionStore> = sources.iter().map(|source| source.store.clone()).collect();
    let trust = WalTrust::of(target.log.trust());
    let lack = lacking_wal(&target.store, &trust, &sources, bounds, refused).await;
    lack.map_err(|source| HealError::List { region: target.store.name.clone(), source })
}

struct Run<'a> {
    target: &'a mut HealRegion,
    sources: &'a [HealRegion],
    scope: &'a HealScope,
    plan: RecordPlan,
    tools: &'a HealTools<'a>,
    copier: &'a Copier<'a>,
    writer: &'a WriterGuard<'a>,
    epochs: Epochs,
    report: HealReport,
    /// What a listing of the target did not show before.
    missing: Vec<FoundDamage>,
    /// What this run has put there, or found intact.
    mended: BTreeSet<ObjectKey>,
    moved: Moved,
    /// Places of the `damage` records that are mended: of those that stood in the log when the run began.
    settled: BTreeSet<u64>,
    floors: BTreeMap<TimelineId, Lsn>,
    since_look: u64,
    /// Objects of the target in a row that could not be read.
    silent: u32,
    holder: Option<RegionName>,
}

enum Item {
    Backup(Box<BackupTask>),
    History(TimelineId, MissingWal),
    Wal(WalObject, MissingWal),
}

/// Whether the next item is tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

impl<'a> Run<'a> {
    /// Who brings records that the target has missed.
    fn pass_on(&self) -> PassOn<'a> {
        let HealTools { signer, tool, clock, .. } = self.tools;
        PassOn { signer, sources: self.sources, tool, now: clock.now() }
    }

    async fn run(mut self) -> Result<HealReport, HealError> {
        self.common().await?;
        self.without_source().await;
        self.damaged_wal().await;
        let mut refused = BTreeSet::new();
        // A piece that is damaged everywhere is replaced by its slices: they are planned once it is known.
        while self.report.ended.is_none() {
            let before = refused.len();
            self.everything(&mut refused).await?;
            if refused.len() == before {
                break;
            }
        }
        self.finish().await
    }

    fn now(&self) -> UtcTime {
        self.tools.clock.now()
    }

    fn log_failed(&self, source: LogError) -> HealError {
        HealError::Log { region: self.target.store.name.clone(), source }
    }

    /// Records of other logs that belong into all, in the order of their origins.
    async fn common(&mut self) -> Result<(), HealError> {
        for draft in std::mem::take(&mut self.plan.common) {
            let what = format!("record {} of kind {}", draft.origin.wseq, draft.body.kind());
            let pass_on = self.pass_on();
            match pass_on.bring(&mut self.target.log, &*self.target.store.store, &draft).await {
                Ok(()) => self.report.records += 1,
                // Two events under one count: the agreement of the logs reports it.
                Err(error @ LogError::CountReused { .. }) => self.report.leave(what, error_chain(&error)),
                Err(source) => return Err(self.log_failed(source)),
            }
        }
        for backup in std::mem::take(&mut self.plan.disputed) {
            self.report.leave(format!("backup {backup}"), "two signed records of it disagree: a person has to decide");
        }
        Ok(())
    }

    /// Backups that no other region has are not copied; but what is known to be damaged may be intact again. To find out costs a reading
    /// of it: that is done as often as everything is listed.
    async fn without_source(&mut self) {
        let lacks = std::mem::take(&mut self.plan.alone);
        let backups = self.target.log.state(self.now()).backups;
        for alone in std::mem::take(&mut self.plan.without_source) {
            let what = format!("backup {}", alone.backup);
            let (record, lack) = (backups.get(&alone.backup).map(|there| &there.record), lacks.get(&alone.backup));
            let looked = match (self.tools.look, record, lack) {
                (Look::AtObjects, Some(record), Some(lack)) if self.report.ended.is_none() => {
                    is_whole_in_place(self.copier, record, lack).await
                }
                _ => Ok(false),
            };
            match (looked, lack) {
                (Ok(true), Some(Lack::Objects { records, named, .. })) => {
                    tracing::info!(region = %self.target.store.name, backup = %alone.backup, "the backup is intact again");
                    self.settled.extend(records);
                    self.mended.extend(named.iter().cloned());
                    self.report.backups.push(alone.backup);
                }
                (Err(HealBackupError::Copy(error)), _) => {
                    self.failed(what, &error);
                }
                (Err(error), _) => self.report.leave(what, error_chain(&error)),
                (Ok(_), _) => self.report.leave(what, alone.to_string()),
            }
        }
    }

    async fn damaged_wal(&mut self) {
        if self.report.ended.is_some() {
            return;
        }
        let mut mended = BTreeSet::new();
        for key in std::mem::take(&mut self.plan.wal_damage) {
            self.tools.progress.doing(format!("damaged {key}"));
            let healed = heal_damaged_wal(self.copier, &key, &self.target.log, &self.floors).await;
            let is_mended = healed.is_ok();
            if self.took_wal(key.to_string(), healed) == Next::End {
                break;
            }
            if is_mended {
                mended.insert(key);
            }
        }
        // What a record counts and does not name is found anew by the next scrub.
        let records = std::mem::take(&mut self.plan.wal_records);
        let is_mended = |(_, keys): &(u64, Vec<ObjectKey>)| keys.iter().all(|key| mended.contains(key));
        self.settled.extend(records.into_iter().filter(is_mended).map(|(place, _)| place));
        self.mended.append(&mut mended);
    }

    /// Backups and WAL, in the order in which they close holes.
    async fn everything(&mut self, refused: &mut BTreeSet<WalObject>) -> Result<(), HealError> {
        let mut until = Until::Nothing;
        match self.writer.until().await {
            Ok(found) => until = found,
            Err(why) => self.report.leave("WAL", format!("whether a writer is at work cannot be seen: {why}")),
        }
        let bounds = bounds(self.target, self.scope, until, self.tools);
        let lack = compare(self.target, self.sources, &bounds, refused).await?;
        self.tools.progress.expect(lack.count(), lack.bytes());
        for (key, why) in lack.unread.iter() {
            // Another round asks again.
            if !self.report.left.iter().any(|left| left.what == key.as_str()) {
                self.report.leave(key.to_string(), why);
            }
        }
        let mut items = Vec::new();
        for task in std::mem::take(&mut self.plan.backups) {
            items.push((self.plan.rank(&task.record, self.scope), Item::Backup(Box::new(task))));
        }
        for (timeline, missing) in lack.histories {
            items.push((Rank::Hole(timeline, 0, 0), Item::History(timeline, missing)));
        }
        for (object, missing) in lack.objects {
            items.push((self.plan.rank_of_wal(object.range), Item::Wal(object, missing)));
        }
        items.sort_by(|(rank, _), (other, _)| rank.cmp(other));
        for (_, item) in items {
            let next = match item {
                Item::Backup(task) => self.backup(&task).await,
                Item::History(timeline, missing) => self.history(timeline, &missing).await,
                Item::Wal(object, missing) => self.wal(object, &missing, refused).await,
            };
            if next == Next::End {
                break;
            }
        }
        Ok(())
    }

    async fn backup(&mut self, task: &BackupTask) -> Next {
        let id = &task.record.backup;
        self.tools.progress.doing(format!("backup {id}"));
        let author = self.pass_on();
        match heal_backup(self.copier, task, &mut self.target.log, author).await {
            Ok(moved) => {
                let (objects, bytes) = (moved.objects, moved.bytes);
                tracing::info!(region = %self.target.store.name, backup = %id, objects, %bytes, "the region has the backup");
                self.silent = 0;
                self.moved.add(&moved);
                self.holder = task.holders.first().cloned();
                self.report.backups.push(id.clone());
                if let Lack::Objects { records, named, .. } = &task.lack {
                    self.settled.extend(records);
                    self.mended.extend(named.iter().cloned());
                }
                Next::GoOn
            }
            Err(HealBackupError::Copy(error)) => self.failed(format!("backup {id}"), &error),
            Err(error) => {
                self.report.leave(format!("backup {id}"), error_chain(&error));
                Next::GoOn
            }
        }
    }

    fn stream(&mut self) -> Stream<'_> {
        let pass_on = self.pass_on();
        Stream { epochs: &mut self.epochs, target: &mut *self.target, sources: self.sources, pass_on }
    }

    async fn history(&mut self, timeline: TimelineId, missing: &MissingWal) -> Next {
        self.tools.progress.doing(format!("history of timeline {timeline}"));
        let copier = self.copier;
        let healed = self.stream().history(copier, timeline, missing).await;
        self.took_wal(format!("history of timeline {timeline}"), healed)
    }

    async fn wal(&mut self, object: WalObject, missing: &MissingWal, refused: &mut BTreeSet<WalObject>) -> Next {
        self.tools.progress.doing(format!("WAL {}", object.range));
        match self.may_still(object).await {
            Ok(true) => {}
            Ok(false) => return Next::GoOn,
            Err(why) => {
                self.report.ended = Some(HealEnd::Region(why));
                return Next::End;
            }
        }
        let copier = self.copier;
        let healed = self.stream().object(copier, object, missing).await;
        if let Err(CopyError::NoSource { .. }) = &healed {
            refused.insert(object);
        }
        self.took_wal(object.key().to_string(), healed)
    }

    /// Whether the region's own writer has not begun meanwhile, and what is to come was not swept.
    async fn may_still(&mut self, object: WalObject) -> Result<bool, String> {
        if self.since_look >= LOOK_AT_LOG_EVERY {
            self.target.log.refresh(&*self.target.store.store).await.map_err(|error| error_chain(&error))?;
            self.floors = self.target.log.state(self.now()).wal_floors;
            self.since_look = 0;
        }
        self.since_look += 1;
        let until = self.writer.until().await?;
        let floors = self.floors.clone();
        let bounds = WalBounds { from: self.scope.wal_from, floors, until, settled: Duration::ZERO };
        Ok(bounds.admits(object.range))
    }

    fn took_wal(&mut self, what: String, healed: Result<Copied, CopyError>) -> Next {
        match healed {
            Ok(copied) => {
                self.silent = 0;
                if matches!(copied, Copied::Put { .. }) {
                    self.report.wal_objects += 1;
                }
                self.moved.note(&copied);
                Next::GoOn
            }
            Err(error) => self.failed(what, &error),
        }
    }

    fn failed(&mut self, what: String, error: &CopyError) -> Next {
        match error {
            CopyError::Stopped => self.report.ended = Some(HealEnd::Stopped),
            CopyError::Target { .. } | CopyError::Log { .. } => {
                self.report.ended = Some(HealEnd::Region(error_chain(error)));
            }
            // One object that cannot be read keeps no other from being healed; several in a row do.
            CopyError::Unread { .. } if self.silent + 1 < SILENT => {
                self.silent += 1;
                self.report.leave(what, error_chain(error));
                return Next::GoOn;
            }
            CopyError::Unread { .. } => self.report.ended = Some(HealEnd::Region(error_chain(error))),
            CopyError::NoSource { .. }
            | CopyError::SourceAway { .. }
            | CopyError::NotReplaceable { .. }
            | CopyError::NotReadable { .. }
            | CopyError::Epoch { .. } => {
                self.report.leave(what, error_chain(error));
                return Next::GoOn;
            }
        }
        Next::End
    }

    /// Records what was healed. Without it nothing is lost but the knowledge: damage that is mended is found intact
    /// by the next run, which records that. Only the `damage` records that this run has acted on are settled, not what was
    /// recorded meanwhile.
    async fn finish(mut self) -> Result<HealReport, HealError> {
        let Moved { objects, bytes, .. } = self.moved;
        self.report.damage = self.copier.damage();
        // What stays missing goes on record as damage, as if a scrub had found it; what is there by now does not.
        if !self.report.is_complete() {
            let mended = &self.mended;
            self.missing.retain(|found| !mended.contains(&found.key));
            self.report.damage.append(&mut self.missing);
        }
        (self.report.objects, self.report.bytes) = (objects, bytes);
        self.report.from = self.moved.mostly_from().or(self.holder.take());
        let first = || self.sources.first().map(|source| source.store.name.clone());
        // Where there is no other region, nothing was copied: what was found intact in its place was.
        let from = self.report.from.clone().or_else(first).unwrap_or_else(|| self.target.store.name.clone());
        let settled: Vec<u64> = std::mem::take(&mut self.settled).into_iter().collect();
        let (mut backups, mut settled) = (self.report.backups.chunks(BACKUPS_MAX), settled.chunks(SETTLED_MAX));
        let mut records = Vec::new();
        loop {
            let (some, places) = (backups.next(), settled.next());
            let is_about_wal = records.is_empty() && objects > 0;
            if some.is_none() && places.is_none() && !is_about_wal {
                break;
            }
            let (backups, settles) = (some.unwrap_or_default().to_vec(), places.unwrap_or_default().to_vec());
            records.push(HealedRecord { backups, settles, objects, bytes, from: from.clone() });
        }
        for record in records {
            let draft = self.draft(RecordBody::Healed(record));
            let appended = self.target.log.append(&*self.target.store.store, self.tools.signer, &draft).await;
            if let Err(error) = appended {
                self.report.ended.get_or_insert(HealEnd::Region(error_chain(&error)));
                break;
            }
        }
        Ok(self.report)
    }

    fn draft(&self, body: RecordBody) -> Draft {
        let writer = self.tools.signer.name().clone();
        let logs = self.sources.iter().map(|source| &source.log).chain([&self.target.log]);
        let last = logs.filter_map(|log| log.last_count(&writer)).max();
        let time = self.now();
        let origin = Origin { wseq: Origin::next_count(last, time), writer, time, tool: self.tools.tool.to_owned() };
        Draft { origin, body }
    }
}

#[cfg(test)]
mod tests;
