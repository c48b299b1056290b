//! What must stay true whatever happens, and the account of it.
//!
//! 1. **Nothing durable is claimed early.** What the server was told to be safe is readable in a quorum of regions at that moment, each
//!    by itself; a backup whose record stands in a region's log can be restored from that region.
//! 2. **Nothing is lost quietly.** Once everything works, every region has what it missed, or an alarm is raised.
//! 3. **The database host cannot destroy history.** Honest backups that were committed stay, whoever signs what with its key; and its
//!    daemon never tries what its credentials do not allow.
//! 4. **Regions and a key are enough.** All of this is read by a host that has nothing else.
//! 5. **Every backup can be restored by itself.** Files and WAL of a backup come from one region.
//! 6. **It never harms the database.** Once everything works, the server may forget its WAL again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context;
use lifeboat_daemon::base::alarms::board::RaisedAlarm;
use lifeboat_repository::log::records::{BackupRecord, GapReason, RecordBody, WalGapRecord};
use lifeboat_repository::wal::read::WalReader;
use lifeboat_vocabulary::{BackupId, Lsn, UtcTime, WalPosition};

use crate::intruder::Deeds;
use crate::outcome::{Counts, Kind};
use crate::pace::ThreadsWork;
use crate::reader::{ReadRegion, Reader, read_wal};
use crate::schedule::Schedule;
use crate::server::{BEGIN, DATA_FILE, SEGMENT, file_content};
use crate::world::{QUORUM, REGIONS, World};

/// A part of the WAL that the server was told to be safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Promised {
    timeline: u32,
    start: u64,
    end: u64,
}

mod retention;

/// What was promised, and what became of it.
pub(crate) struct Account {
    reader: Reader,
    /// It sees the regions without a network, so that nothing changes while it looks.
    at_once: Reader,
    /// Where the server was at the last look, and at the one before.
    ends: [Lsn; 2],
    /// Up to where it was looked.
    looked: WalPosition,
    promised: Vec<Promised>,
    /// Honest backups by name, with the regions that had them at some time.
    committed: BTreeMap<BackupId, (BackupRecord, BTreeSet<usize>)>,
    /// When honest backups were seen first.
    seen: BTreeMap<BackupId, UtcTime>,
    broken: Vec<String>,
    counts: Counts,
}

impl Account {
    pub(crate) fn new(reader: Reader, at_once: Reader) -> Self {
        let begin = crate::server::position(1, BEGIN);
        Self {
            reader,
            at_once,
            ends: [begin.lsn; 2],
            looked: begin,
            promised: Vec::new(),
            committed: BTreeMap::new(),
            seen: BTreeMap::new(),
            broken: Vec::new(),
            counts: Counts::default(),
        }
    }

    pub(crate) fn broken(&self) -> Vec<String> {
        self.broken.clone()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// All records of all logs, a line each.
    pub(crate) async fn logs(&self, world: &World) -> anyhow::Result<Vec<String>> {
        let mut lines = Vec::new();
        for region in self.regions(&self.reader).await? {
            let state = region.log.state(world.now());
            lines.push(format!("{}: floors {:?}, swept {:?}", region.store.name, state.wal_floors, state.swept.keys()));
            for entry in region.log.entries() {
                let (origin, body) = (&entry.record.origin, format!("{:?}", entry.record.body));
                let body: String = body.chars().take(160).collect();
                let (seq, writer, count, time) = (entry.record.link.seq, &origin.writer, origin.wseq, origin.time);
                lines.push(format!("    {seq:>3} {writer} {count} {time} {body}"));
            }
            lines.extend(region.log.outside().iter().map(|outside| format!("    outside: {outside:?}")));
        }
        Ok(lines)
    }

    fn breaks(&mut self, promise: u32, what: String) {
        // One fault breaks many parts.
        if self.broken.len() < 8 {
            self.broken.push(format!("promise {promise}: {what}"));
        }
    }

    async fn regions(&self, reader: &Reader) -> anyhow::Result<Vec<ReadRegion>> {
        let mut regions = Vec::new();
        for index in 0..REGIONS {
            regions.push(reader.region(index).await.with_context(|| format!("region r{index}"))?);
        }
        Ok(regions)
    }

    /// Looks at what is claimed now. `is_ours` tells that nobody else signs as the writer: what the server is told while somebody
    /// does is nothing that anybody could promise.
    pub(crate) async fn look(&mut self, world: &World, is_ours: bool) -> anyhow::Result<()> {
        let told = world.server.flushed();
        self.ends = [self.ends[1], world.server.end().lsn];
        let regions = self.regions(&self.at_once).await?;
        self.note_backups(world, &regions);
        if !is_ours {
            self.looked = world.server.end();
            return Ok(());
        }
        let Some(told) = told.filter(|told| (told.timeline, told.lsn) > (self.looked.timeline, self.looked.lsn)) else {
            return Ok(());
        };
        for (timeline, start, end) in world.server.course(self.looked.lsn.as_bytes()) {
            let end = end.min(told.lsn.as_bytes());
            if timeline > told.timeline.get() || end <= start {
                continue;
            }
            let part = Promised { timeline, start, end };
            // What the server had removed is told as safe behind the gap: where the gap is on record, nobody was promised anything.
            let fork = world.server.left_at(timeline).unwrap_or(u64::MAX);
            let until_fork = Promised { end: end.min(fork), ..part };
            // A region that was not there by then has it on record as missed.
            let was_removed = regions.iter().any(|region| is_told_missing(region, until_fork, is_of_server));
            let on_record = regions.iter().filter(|region| is_told_missing(region, until_fork, is_of_wal)).count();
            if was_removed && on_record >= world.wal_quorum() {
                continue;
            }
            self.promised.push(part);
            let mut holders = 0;
            let mut why = Vec::new();
            for region in &regions {
                match self.is_there(world, &[region], part).await {
                    Ok(()) => holders += 1,
                    Err(error) => why.push(format!("{}: {error:#}", region.store.name)),
                }
            }
            if holders < world.wal_quorum() {
                let what = format!(
                    "the server was told that WAL is safe up to {told}, and {holders} regions have {part:?}: {}",
                    why.join("; ")
                );
                self.breaks(1, what);
            }
        }
        self.looked = WalPosition { lsn: told.lsn.max(self.looked.lsn), ..told };
        Ok(())
    }

    /// Reads a part back and compares it with what the server wrote. The last segment of a timeline may lie under the name of one
    /// that follows: up to the fork they have the same bytes, and recovery takes the newest.
    async fn is_there(&self, world: &World, regions: &[&ReadRegion], part: Promised) -> anyhow::Result<()> {
        let reader = self.reader.wal(regions.iter().copied())?;
        let fork = world.server.left_at(part.timeline).unwrap_or(u64::MAX);
        let last_segment = fork / SEGMENT * SEGMENT;
        let before = Promised { end: part.end.min(last_segment), ..part };
        let behind = Promised { start: part.start.max(last_segment), end: part.end.min(fork), ..part };
        // What a standby lacked that took over is on the old timeline alone.
        let beyond = Promised { start: part.start.max(fork), ..part };
        for alone in [before, beyond] {
            if alone.start < alone.end {
                self.is_under(world, &reader, alone).await?;
            }
        }
        if behind.start >= behind.end {
            return Ok(());
        }
        let mut found = self.is_under(world, &reader, behind).await;
        for timeline in part.timeline + 1..=world.server.end().timeline.get() {
            if found.is_ok() {
                break;
            }
            let later = self.is_under(world, &reader, Promised { timeline, ..behind }).await;
            found = found.or(later);
        }
        found
    }

    async fn is_under(&self, world: &World, reader: &WalReader, part: Promised) -> anyhow::Result<()> {
        let found = read_wal(reader, part.timeline, part.start, part.end).await?;
        let truths = world.server.truths(part.timeline, part.start, part.end);
        anyhow::ensure!(truths.contains(&found), "other bytes than the server wrote, in {part:?}");
        Ok(())
    }

    fn note_backups(&mut self, world: &World, regions: &[ReadRegion]) {
        for (index, region) in regions.iter().enumerate() {
            let state = region.log.state(world.now());
            for (name, backup) in state.backups {
                let record = &backup.record;
                let (start, stop) = (record.start_lsn.as_bytes(), record.stop_lsn.as_bytes());
                if world.server.has_sent_backup(record.start_tli.get(), start, stop) {
                    self.seen.entry(name.clone()).or_insert_with(|| world.now());
                    let known = self.committed.entry(name).or_insert_with(|| (backup.record, BTreeSet::new()));
                    known.1.insert(index);
                }
            }
        }
    }

    /// Everything has worked for a while.
    pub(crate) async fn close(
        &mut self,
        world: &World,
        kind: Kind,
        deeds: Deeds,
        lost_what_was_told: bool,
    ) -> anyhow::Result<()> {
        let regions = self.regions(&self.reader).await?;
        self.counts.backups = self.committed.values().filter(|(_, holders)| holders.len() >= QUORUM).count();
        let restorable = self.restore_all(world, &regions).await;
        self.kept(world, &restorable);
        if kind != Kind::Clocks {
            self.graces(world, &regions);
        }
        // Where somebody has planted objects or a disk has lost them, a region may lack a part that the others have.
        let least = match kind {
            Kind::Quiet | Kind::Faults | Kind::Clocks | Kind::Retention => REGIONS,
            Kind::Disk | Kind::Intruder | Kind::Revoked | Kind::SetBack => world.wal_quorum(),
        };
        self.wal_is_kept(world, &regions, least, &restorable).await;
        self.goes_on(world, kind, deeds, &restorable);
        self.alarms(world, kind, deeds, lost_what_was_told);
        for network in world.writer.networks() {
            let refused: Vec<String> =
                network.refused().into_iter().filter(|what| !what.contains(" state/probe-")).collect();
            if let Some(first) = refused.first() {
                self.breaks(3, format!("the daemon on the database host tried {first} and {} more", refused.len() - 1));
            }
        }
        Ok(())
    }

    /// Restores every honest backup from every region that says it has it.
    async fn restore_all(&mut self, world: &World, regions: &[ReadRegion]) -> BTreeMap<BackupId, BTreeSet<usize>> {
        let mut restorable: BTreeMap<BackupId, BTreeSet<usize>> = BTreeMap::new();
        for (index, region) in regions.iter().enumerate() {
            let state = region.log.state(world.now());
            let honest = state.backups.iter().filter(|(name, _)| self.committed.contains_key(*name));
            let honest: Vec<(BackupId, BackupRecord)> =
                honest.map(|(name, backup)| (name.clone(), backup.record.clone())).collect();
            for (name, record) in honest {
                match self.restore(region, &record).await {
                    Ok(()) => {
                        self.counts.restored += 1;
                        restorable.entry(name).or_default().insert(index);
                    }
                    Err(error) => self.breaks(5, format!("{name} from {}: {error:#}", region.store.name)),
                }
            }
        }
        restorable
    }

    async fn restore(&self, region: &ReadRegion, record: &BackupRecord) -> anyhow::Result<()> {
        let _work = ThreadsWork::begin();
        let files = self.reader.restore(region, record).await?;
        let data = files.get(DATA_FILE).with_context(|| format!("it has {DATA_FILE}"))?;
        anyhow::ensure!(*data == file_content(record.start_lsn.as_bytes()), "{DATA_FILE} has other content");
        anyhow::ensure!(
            files.contains_key("global/pg_control") && files.contains_key("backup_label"),
            "files are missing"
        );
        anyhow::ensure!(files.keys().any(|name| name.starts_with("pg_wal/0")), "it has no WAL of its own");
        Ok(())
    }

    /// From the oldest backup that there is on, the WAL that the server was told to be safe is there.
    async fn wal_is_kept(
        &mut self,
        world: &World,
        regions: &[ReadRegion],
        least: usize,
        restorable: &BTreeMap<BackupId, BTreeSet<usize>>,
    ) {
        // Each region keeps the WAL of the window from the backup before it on; without one, from its oldest backup on.
        let window = world.clock_before(Duration::from_secs(60) * world.schedule().window);
        let begins = |index: usize| {
            let held = |name: &BackupId| restorable.get(name).is_some_and(|holders| holders.contains(&index));
            let held = self.committed.iter().filter(|(name, _)| held(name)).map(|(_, (record, _))| record);
            let held: Vec<&BackupRecord> = held.collect();
            let before = held.iter().filter(|record| record.stop_time <= window).map(|record| record.start_lsn).max();
            before.or(held.iter().map(|record| record.start_lsn).min()).map(Lsn::as_bytes)
        };
        let begins: Vec<Option<u64>> = (0..regions.len()).map(begins).collect();
        for part in together(&self.promised) {
            // Recovery follows the present timeline.
            let end = world.server.left_at(part.timeline).map_or(part.end, |fork| part.end.min(fork));
            let part = Promised { end, ..part };
            let (mut holders, mut why) = (0, Vec::new());
            for (region, begin) in regions.iter().zip(&begins) {
                let Some(begin) = begin else { continue };
                let part = Promised { start: part.start.max(*begin), ..part };
                if part.end <= part.start {
                    holders += 1;
                    continue;
                }
                match self.is_there(world, &[region], part).await {
                    Ok(()) => holders += 1,
                    Err(error) => why.push(format!("{}: {error:#}", region.store.name)),
                }
            }
            if holders < least {
                let what = format!("{part:?} was safe, and is in {holders} regions: {}", why.join("; "));
                self.breaks(2, what);
            }
            let Some(begin) = begins.iter().flatten().min() else { continue };
            let part = Promised { start: part.start.max(*begin), ..part };
            if part.end <= part.start {
                continue;
            }
            let all: Vec<&ReadRegion> = regions.iter().collect();
            match self.is_there(world, &all, part).await {
                Ok(()) => self.counts.wal_bytes += part.end - part.start,
                Err(error) => self.breaks(4, format!("{part:?} from all regions together: {error:#}")),
            }
        }
    }

    /// The server may forget, and backups go on.
    fn goes_on(&mut self, world: &World, kind: Kind, deeds: Deeds, restorable: &BTreeMap<BackupId, BTreeSet<usize>>) {
        let is_refused = kind == Kind::SetBack && world.server.was_set_back()
            || kind == Kind::Intruder && deeds.ahead + deeds.gaps > 0;
        let told = world.server.flushed();
        // What was there a minute ago has to be safe by now.
        let [before, _] = self.ends;
        let is_behind = told.is_none_or(|told| told.lsn < before);
        if is_refused {
            let is_of_wal = |alarm: &RaisedAlarm| alarm.id.to_string().starts_with("wal");
            if is_behind && !world.writer.alarms().iter().any(is_of_wal) {
                self.breaks(2, "WAL does not go on, and no alarm says so".to_owned());
            }
            return;
        }
        if is_behind {
            let words = |position: Option<Lsn>| position.map_or_else(|| "nothing".to_owned(), |lsn| lsn.to_string());
            let what = format!(
                "the server was at {} a minute ago, and was told {}",
                words(Some(before)),
                words(told.map(|told| told.lsn))
            );
            self.breaks(6, what);
        }
        // Not by what a host says of the time.
        let newest = self.seen.iter().filter(|(name, _)| restorable.get(*name).is_some_and(|all| all.len() >= QUORUM));
        let newest = newest.map(|(_, seen)| *seen).max();
        if newest.is_none_or(|newest| newest.plus(world.schedule().age_max) < world.now()) {
            self.breaks(2, format!("the newest backup is of {newest:?}, and it is {}", world.now()));
        }
    }

    fn alarms(&mut self, world: &World, kind: Kind, deeds: Deeds, lost_what_was_told: bool) {
        let of = |host: &crate::host::Host| -> Vec<String> {
            host.alarms()
                .iter()
                .filter(|alarm| !is_of_scale(&alarm.id.to_string(), world.schedule()))
                .map(|alarm| format!("{}: {}", alarm.id, alarm.text))
                .collect()
        };
        let (writers, pruners) = (of(&world.writer), of(&world.pruner));
        let is_expected = match kind {
            Kind::Quiet | Kind::Faults | Kind::Clocks | Kind::Retention => false,
            Kind::SetBack => lost_what_was_told,
            Kind::Disk => return,
            Kind::Intruder | Kind::Revoked => deeds.in_logs > 0,
        };
        let all: Vec<String> = writers.into_iter().chain(pruners).collect();
        if is_expected && all.is_empty() {
            self.breaks(2, "no alarm is raised".to_owned());
        }
        let is_honest = matches!(kind, Kind::Quiet | Kind::Faults | Kind::Clocks | Kind::Retention);
        if !is_expected && is_honest && !all.is_empty() {
            self.breaks(2, format!("everything works, and alarms are raised: {}", all.join(" | ")));
        }
    }
}

/// The server no longer had it.
fn is_of_server(reason: GapReason) -> bool {
    is_of_wal(reason) && reason != GapReason::RegionMissed
}

fn is_of_wal(reason: GapReason) -> bool {
    reason != GapReason::Other
}

/// Whether a log says that some of this is missing, for such a reason.
fn is_told_missing(region: &ReadRegion, part: Promised, is_meant: fn(GapReason) -> bool) -> bool {
    let gaps = region.log.entries().iter().filter_map(|entry| match &entry.record.body {
        RecordBody::WalGap(gap) if is_meant(gap.reason) => Some(gap),
        _ => None,
    });
    let overlaps = |gap: &WalGapRecord| {
        let is_before_its_end = gap.to.is_none_or(|to| to.as_bytes() > part.start);
        // The last segment of a timeline belongs to the next one, too.
        gap.timeline.get() >= part.timeline && gap.from.as_bytes() < part.end && is_before_its_end
    };
    gaps.into_iter().any(overlaps)
}

/// Parts that follow each other as one: what each was by itself must also fit together.
fn together(parts: &[Promised]) -> Vec<Promised> {
    let mut whole: Vec<Promised> = Vec::new();
    for part in parts {
        match whole.last_mut() {
            Some(last) if last.timeline == part.timeline && last.end == part.start => last.end = part.end,
            _ => whole.push(*part),
        }
    }
    whole
}

/// Retention is for days; where a day lasts for minutes, many backups are due at once.
fn is_of_scale(alarm: &str, schedule: Schedule) -> bool {
    // A daemon that begins again each minute never sees a region well for the five minutes that such an alarm takes to clear.
    let takes_minutes = ["region-slow", "region-failing"].iter().any(|name| alarm.starts_with(name));
    alarm.starts_with("prune-unusual") || takes_minutes && schedule == Schedule::BUSY
}
