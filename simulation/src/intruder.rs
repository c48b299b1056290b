//! Somebody who has the writer's signing key and the rights of its credentials: he creates what he likes, signs as the writer, and
//! can neither overwrite nor delete.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lifeboat_repository::format::InstanceId;
use lifeboat_repository::format::aead::sha256;
use lifeboat_repository::format::layout::{self, WalRange};
use lifeboat_repository::keys::KeyRecipients;
use lifeboat_repository::log::records::{
    BackupRecord, ForgetRecord, Forgotten, GapReason, GapScope, Link, Origin, PolicyText, Record, RecordBody,
    SweepIntentRecord, WalFloor, WalGapRecord,
};
use lifeboat_repository::log::{NoteSigner, RegionLog, note};
use lifeboat_repository::wal::{CompleteMark, Head, HeadFile, WalEpoch, WalLevels, WalSealer};
use lifeboat_stores::{PutMode, SealedBody, Store, StoreError};
use lifeboat_testkit::SeededRandom;
use lifeboat_vocabulary::{BackupId, RecordMark, UtcTime, WalPosition};

use crate::intruder::when::When;
use crate::network::{Network, Rights};
use crate::server::{BEGIN, SEGMENT, position};
use crate::world::{REGIONS, World};

mod false_backups;
mod when;

/// What he has done so far that matters for what may be expected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deeds {
    /// Something lies in a log, signed or not, that no honest host would put there.
    pub in_logs: usize,
    /// WAL or signs of life speak of WAL that the server has not written.
    pub ahead: usize,
    /// A gap over history.
    pub gaps: usize,
    /// Backups that he has made up.
    pub backups: usize,
}

/// How he goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// He does whatever he can.
    Open,
    /// He makes backups, which looks like what the host is for.
    Hidden,
}

/// The intruder.
pub struct Intruder {
    random: SeededRandom,
    key: Arc<NoteSigner>,
    regions: Vec<Arc<dyn Store>>,
    deeds: Deeds,
    manner: Manner,
}

impl Intruder {
    /// With the key that the writer has now.
    #[must_use]
    pub fn new(world: &World, seed: u64) -> Self {
        let network = |(index, region): (u64, &Arc<dyn Store>)| {
            Network::new(Rights::Writer, seed.wrapping_add(index)).to(Arc::clone(region))
        };
        let regions = (0..).zip(&world.regions).map(network).collect();
        let (mut random, key) = (SeededRandom::new(seed), Arc::clone(world.writer.key()));
        let manner = if random.one_in(2) { Manner::Open } else { Manner::Hidden };
        Self { random, key, regions, deeds: Deeds::default(), manner }
    }

    /// What he has done.
    #[must_use]
    pub fn deeds(&self) -> Deeds {
        self.deeds
    }

    /// Does something, and tells what.
    ///
    /// # Errors
    /// If a log cannot be read.
    pub async fn act(&mut self, world: &World) -> anyhow::Result<String> {
        let index = self.random.index(REGIONS);
        let log = world.log(index).await?;
        let first = if self.manner == Manner::Open { 0 } else { 8 };
        let what = match first + self.random.below(12 - first) {
            0 => self.garbage(&log, index, 0).await?,
            1 => {
                let free = 1 + self.random.below(3);
                self.garbage(&log, index, free).await?
            }
            2 => self.intent(world, &log, index).await?,
            3 => self.wrong_chain(world, &log, index).await?,
            4 => self.gap(world, &log, index).await?,
            5 => self.other_wal(world, index, 0).await?,
            6 => {
                let ahead = (1 + self.random.below(40)) * SEGMENT;
                self.other_wal(world, index, ahead).await?
            }
            7 => self.head(world, &log, index).await?,
            8 => self.backup(world, &log, index).await?,
            9 => self.false_backups(world, &log, index, When::Now).await?,
            10 => self.false_backups(world, &log, index, When::Ahead).await?,
            _ => self.false_backups(world, &log, index, When::LongAgo).await?,
        };
        Ok(format!("in r{index}: {what}"))
    }

    async fn create(&self, index: usize, key: lifeboat_stores::ObjectKey, bytes: Vec<u8>) -> anyhow::Result<bool> {
        let body = SealedBody { sha256: sha256(&bytes), bytes: bytes.into() };
        let store = self.regions.get(index).context("there is such a region")?;
        match store.put(&key, body, PutMode::CreateOnly).await {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The first place of the log at which nothing lies.
    fn place(log: &RegionLog) -> u64 {
        log.outside().last().map_or(0, |outside| outside.seq + 1).max(log.places())
    }

    async fn garbage(&mut self, log: &RegionLog, index: usize, free: u64) -> anyhow::Result<String> {
        let at = Self::place(log) + free;
        if self.create(index, layout::log_note(at), b"not a record\n".to_vec()).await? {
            self.deeds.in_logs += 1;
        }
        Ok(format!("garbage at place {at} of the log, {free} behind its end"))
    }

    fn record(&self, world: &World, log: &RegionLog, body: RecordBody) -> anyhow::Result<Vec<u8>> {
        let head = log.head().context("the log has begun")?;
        let region = log.region().context("the region has a name")?.clone();
        self.signed(world, log, Link { region, seq: Self::place(log), prev: Some(head.sha256) }, body)
    }

    fn signed(&self, world: &World, log: &RegionLog, link: Link, body: RecordBody) -> anyhow::Result<Vec<u8>> {
        let time = world.now();
        let wseq = Origin::next_count(log.last_count(self.key.name()), time);
        let origin = Origin { writer: self.key.name().clone(), wseq, time, tool: "lifeboat".to_owned() };
        Ok(note::sign(&Record { link, origin, body }.to_text()?, &[&self.key])?)
    }

    async fn put_record(&mut self, index: usize, log: &RegionLog, bytes: Vec<u8>) -> anyhow::Result<u64> {
        let at = Self::place(log);
        self.create(index, layout::log_note(at), bytes).await?;
        Ok(at)
    }

    async fn intent(&mut self, world: &World, log: &RegionLog, index: usize) -> anyhow::Result<String> {
        let state = log.state(world.now());
        if state.backups.is_empty() {
            return Ok("nothing: there is no backup yet".to_owned());
        }
        let end = world.server.end();
        let wal = vec![WalFloor { timeline: end.timeline, before: end.lsn }];
        let intent =
            SweepIntentRecord { backups: state.backups.keys().cloned().collect(), wal, ..SweepIntentRecord::default() };
        if self.random.one_in(2) {
            // In good order: first they leave, and then they go.
            let forget = forget(&intent.backups, world.clock_before(Duration::from_secs(3600)));
            let bytes = self.record(world, log, RecordBody::Forget(forget))?;
            self.put_record(index, log, bytes).await?;
            let log = world.log(index).await?;
            let bytes = self.record(world, &log, RecordBody::SweepIntent(intent))?;
            let at = self.put_record(index, &log, bytes).await?;
            self.deeds.in_logs += 2;
            return Ok(format!("records up to place {at} that everything was forgotten and is being deleted"));
        }
        let bytes = self.record(world, log, RecordBody::SweepIntent(intent))?;
        let at = self.put_record(index, log, bytes).await?;
        self.deeds.in_logs += 1;
        Ok(format!("a record at place {at} that everything is being deleted"))
    }

    async fn wrong_chain(&mut self, world: &World, log: &RegionLog, index: usize) -> anyhow::Result<String> {
        let region = log.region().context("the region has a name")?.clone();
        let at = Self::place(log);
        let link = Link { region, seq: at, prev: Some(sha256(b"another log")) };
        let record = newest_backup(world, log).map(|record| RecordBody::Backup(Box::new(record)));
        let body = record.unwrap_or(RecordBody::SweepIntent(SweepIntentRecord::default()));
        let bytes = self.signed(world, log, link, body)?;
        self.put_record(index, log, bytes).await?;
        self.deeds.in_logs += 1;
        Ok(format!("a record at place {at} that continues another log"))
    }

    async fn gap(&mut self, world: &World, log: &RegionLog, index: usize) -> anyhow::Result<String> {
        let end = world.server.end();
        let from = position(1, BEGIN + self.random.below(end.lsn.as_bytes() - BEGIN)).lsn;
        let scope = if self.random.one_in(2) { GapScope::Everywhere } else { GapScope::Region };
        let (timeline, reason) = (end.timeline, GapReason::SegmentRemoved);
        let record = WalGapRecord { timeline, from, to: Some(end.lsn), reason, scope };
        let bytes = self.record(world, log, RecordBody::WalGap(record))?;
        let at = self.put_record(index, log, bytes).await?;
        self.deeds.gaps += 1;
        Ok(format!("a gap of WAL at place {at}, from {from} to {}", end.lsn))
    }

    /// WAL that the server has not written, sealed and signed as the writer does, at the end of what there is or far behind.
    async fn other_wal(&mut self, world: &World, index: usize, ahead: u64) -> anyhow::Result<String> {
        let end = world.server.end();
        let start = end.lsn.as_bytes() / SEGMENT * SEGMENT + ahead;
        let (from, to) = (position(end.timeline.get(), start), position(end.timeline.get(), start + SEGMENT));
        let range = WalRange { timeline: from.timeline, start: from.lsn, end: to.lsn };
        let recipients = [world.recipient()];
        let recipients = KeyRecipients { recipients: &recipients, commands: &[] };
        let epoch = WalEpoch::new(world.repository(), world.now(), recipients).await?;
        let mut sealer = WalSealer::new(world.repository(), Arc::clone(&self.key), WalLevels::default())?;
        let length = usize::try_from(SEGMENT)?;
        let sealed = sealer.seal_piece(&epoch, range, &vec![7; length])?;
        let is_new = self.create(index, sealed.name.key(), sealed.body.bytes.to_vec()).await?;
        if is_new {
            self.deeds.ahead += 1;
        }
        Ok(format!("WAL of his own from {from} to {to} (new: {is_new})"))
    }

    /// A sign of life that tells of WAL which the server will not write for long.
    async fn head(&mut self, world: &World, log: &RegionLog, index: usize) -> anyhow::Result<String> {
        let end = world.server.end();
        let far = |offset: u64| position(end.timeline.get(), end.lsn.as_bytes() + (100 << 20) + offset);
        let record = RecordMark { timeline: end.timeline, start: far(8).lsn, end: far(64).lsn, previous: None, crc: 1 };
        let head = Head {
            repository: world.repository(),
            region: log.region().context("the region has a name")?.clone(),
            writer: self.key.name().clone(),
            instance: InstanceId::random()?,
            time: world.now(),
            log: log.head(),
            last_record: Some(record),
            complete: Some(CompleteMark { at: end, time: world.now().plus(Duration::from_secs(3600)) }),
            confirmed: Some(far(64)),
            durable: Some(WalPosition { lsn: far(64).lsn, timeline: end.timeline }),
        };
        let store = self.regions.get(index).context("there is such a region")?;
        let (mut file, _) = HeadFile::open(&**store, self.key.name(), log.trust()).await?;
        // The honest writer writes there, too.
        let written = file.write(&**store, &self.key, &head).await.is_ok();
        self.deeds.ahead += usize::from(written);
        Ok(format!("a sign of life that tells of WAL up to {} (written: {written})", far(64)))
    }

    /// A backup that has no objects, made up from the last one.
    async fn backup(&mut self, world: &World, log: &RegionLog, index: usize) -> anyhow::Result<String> {
        let Some(last) = newest_backup(world, log) else { return Ok("nothing: there is no backup yet".to_owned()) };
        let time = world.now();
        let end = world.server.end();
        let backup = BackupId::new(time, u32::try_from(self.random.below(1 << 30))?);
        let mut shards = last.index.clone();
        for shard in &mut shards {
            shard.key = shard.key.as_str().replace(last.backup.as_str(), backup.as_str()).parse()?;
        }
        let record = BackupRecord {
            backup: backup.clone(),
            index: shards,
            start_lsn: end.lsn,
            start_tli: end.timeline,
            stop_lsn: position(end.timeline.get(), end.lsn.as_bytes() + 8).lsn,
            stop_tli: end.timeline,
            start_time: world.clock_before(Duration::from_secs(30)),
            stop_time: time,
            ..last
        };
        let bytes = self.record(world, log, RecordBody::Backup(Box::new(record)))?;
        let at = self.put_record(index, log, bytes).await?;
        self.deeds.backups += 1;
        Ok(format!("a backup {backup} that does not exist, at place {at}"))
    }
}

fn forget(backups: &[BackupId], not_before: UtcTime) -> ForgetRecord {
    let backups = backups.iter().map(|backup| Forgotten { backup: backup.clone(), why: "old".to_owned() });
    let policy =
        PolicyText { timezone: "UTC".to_owned(), daily: 1, weekly: 0, monthly: 0, min_keep: 1, window_seconds: 0 };
    ForgetRecord { backups: backups.collect(), policy, not_before }
}

fn newest_backup(world: &World, log: &RegionLog) -> Option<BackupRecord> {
    let state = log.state(world.now());
    state.backups.into_values().map(|backup| backup.record).max_by_key(|record| record.stop_time)
}
