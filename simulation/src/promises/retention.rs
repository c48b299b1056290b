//! What retention must leave.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lifeboat_repository::log::records::{BackupRecord, RecordBody};
use lifeboat_vocabulary::{BackupId, UtcTime};

use crate::outcome::Kind;
use crate::promises::Account;
use crate::reader::ReadRegion;
use crate::world::{QUORUM, World};

/// Backups that retention keeps in any case.
const MIN_KEEP: usize = 3;

impl Account {
    /// Retention has just been carried out: the newest backups stay, and every moment of the window can still be reached.
    pub(crate) async fn look_at_window(&mut self, world: &World, kind: Kind) -> anyhow::Result<()> {
        let regions = self.regions(&self.reader).await?;
        self.note_backups(world, &regions);
        let mut present: BTreeMap<BackupId, BTreeSet<usize>> = BTreeMap::new();
        for (index, region) in regions.iter().enumerate() {
            let backups = region.log.state(world.now()).backups.into_iter();
            for (name, _) in
                backups.filter(|(name, backup)| backup.leaving.is_none() && self.committed.contains_key(name))
            {
                present.entry(name).or_default().insert(index);
            }
        }
        self.kept(world, &present);
        if kind != Kind::Clocks {
            self.window_is_reached(world, &present);
        }
        self.wal_is_kept(world, &regions, world.wal_quorum(), &present).await;
        Ok(())
    }

    /// The newest honest backups stay.
    pub(super) fn kept(&mut self, world: &World, restorable: &BTreeMap<BackupId, BTreeSet<usize>>) {
        let mut good: Vec<&BackupRecord> =
            self.committed.values().filter(|(_, holders)| holders.len() >= QUORUM).map(|(record, _)| record).collect();
        good.sort_by_key(|record| record.stop_time);
        let deleted = good.iter().filter(|record| !restorable.contains_key(&record.backup)).count();
        let is_empty = good.is_empty();
        let lost: Vec<String> = good
            .iter()
            .rev()
            .take(MIN_KEEP)
            .filter(|record| restorable.get(&record.backup).is_none_or(|holders| holders.len() < QUORUM))
            .map(|record| record.backup.to_string())
            .collect();
        self.counts.deleted = deleted;
        for name in lost {
            self.breaks(
                3,
                format!("{name} was committed in a quorum, is one of the newest, and does not stay in a quorum"),
            );
        }
        if is_empty {
            self.breaks(2, format!("no backup was ever good until {}", world.now()));
        }
    }

    /// Where a backup was complete before the window began, the regions still have one to start from.
    fn window_is_reached(&mut self, world: &World, present: &BTreeMap<BackupId, BTreeSet<usize>>) {
        let begin = world.clock_before(minutes(world.schedule().window));
        let good = self.committed.values().filter(|(_, holders)| holders.len() >= QUORUM);
        let old: Vec<&BackupRecord> =
            good.map(|(record, _)| record).filter(|record| record.stop_time <= begin).collect();
        let reaching: BTreeSet<usize> =
            old.iter().filter_map(|record| present.get(&record.backup)).flatten().copied().collect();
        if !old.is_empty() && reaching.len() < QUORUM {
            let what = format!("{} backups were complete before {begin}, and {reaching:?} have one of them", old.len());
            self.breaks(3, what);
        }
    }

    /// What was forgotten could still be restored until its grace was over.
    pub(super) fn graces(&mut self, world: &World, regions: &[ReadRegion]) {
        let grace = minutes(world.schedule().grace);
        for region in regions {
            let mut forgotten: BTreeMap<&BackupId, UtcTime> = BTreeMap::new();
            let by_pruner = |name: &str| name == world.pruner.key().name().as_str();
            for entry in region.log.entries().iter().filter(|entry| by_pruner(entry.record.origin.writer.as_str())) {
                let time = entry.record.origin.time;
                match &entry.record.body {
                    RecordBody::Forget(forget) => {
                        forgotten.extend(forget.backups.iter().map(|forgotten| (&forgotten.backup, time)));
                    }
                    RecordBody::SweepIntent(intent) => {
                        let early =
                            |backup: &&BackupId| forgotten.get(backup).is_none_or(|since| time.since(*since) < grace);
                        if let Some(backup) = intent.backups.iter().find(early) {
                            let (since, region) = (forgotten.get(backup), &region.store.name);
                            self.breaks(
                                3,
                                format!("{backup} was forgotten in {region} at {since:?} and deleted at {time}"),
                            );
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

fn minutes(count: u32) -> Duration {
    Duration::from_secs(60) * count
}
