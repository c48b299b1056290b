//! Backups of garbage that no listing tells from real ones: their objects are there, with the sizes and digests that are signed.

use std::time::Duration;

use lifeboat_repository::format::aead::sha256;
use lifeboat_repository::format::{PacksList, layout};
use lifeboat_repository::log::RegionLog;
use lifeboat_repository::log::records::{BackupRecord, PacksRef, RecordBody};
use lifeboat_vocabulary::{BackupId, ByteCount, UtcTime};

use crate::intruder::when::When;
use crate::intruder::{Intruder, newest_backup};
use crate::schedule::Schedule;
use crate::server::position;
use crate::world::World;

/// Of backups that are not of now: as many as retention keeps in any case.
const FEW: u32 = 3;
/// No clock is so wrong.
const FAR: Duration = Duration::from_secs(3 * 24 * 3600);

impl Intruder {
    /// Backups that could push out real ones. Of now there are more than anybody has asked for: as many as the schedule has cannot
    /// be told from real ones by anybody who does not restore them.
    pub(super) async fn false_backups(
        &mut self,
        world: &World,
        log: &RegionLog,
        index: usize,
        when: When,
    ) -> anyhow::Result<String> {
        let Some(last) = newest_backup(world, log) else { return Ok("nothing: there is no backup yet".to_owned()) };
        let (count, time) = match when {
            When::Now if world.schedule() == Schedule::BUSY => return Ok("nothing: many are asked for".to_owned()),
            When::Now => (world.schedule().explained() + 1, world.now()),
            When::Ahead => (FEW, world.now().plus(FAR)),
            When::LongAgo => (FEW, world.clock_before(FAR)),
        };
        for _ in 0..count {
            let record = self.false_backup(world, index, &last, time).await?;
            let log = world.log(index).await?;
            let bytes = self.record(world, &log, RecordBody::Backup(Box::new(record)))?;
            self.put_record(index, &log, bytes).await?;
        }
        self.deeds.backups += 1;
        // Behind what was changed nothing counts, and after the end of the key neither.
        let is_seen = when == When::Now && self.deeds.in_logs == 0;
        self.deeds.in_logs += usize::from(is_seen);
        Ok(format!("{count} backups of garbage, as of {time}"))
    }

    async fn false_backup(
        &mut self,
        world: &World,
        index: usize,
        last: &BackupRecord,
        time: UtcTime,
    ) -> anyhow::Result<BackupRecord> {
        let backup = BackupId::new(time, u32::try_from(self.random.below(1 << 30))?);
        let (mut shards, mut list, mut bytes) = (last.index.clone(), PacksList::default(), ByteCount::ZERO);
        for shard in &mut shards {
            shard.key = shard.key.as_str().replace(last.backup.as_str(), backup.as_str()).parse()?;
            let garbage = vec![7; usize::try_from(shard.size.as_bytes())?];
            list.insert(shard.key.clone(), sha256(&garbage))?;
            bytes = bytes.plus(shard.size);
            self.create(index, shard.key.clone(), garbage).await?;
        }
        let body = list.to_body()?;
        self.create(index, layout::packs_list(&backup), body.bytes.to_vec()).await?;
        let objects = list.len() as u64;
        let packs = PacksRef { sha256: body.sha256, objects, bytes, own: objects, own_bytes: bytes };
        let end = world.server.end();
        let stop = position(end.timeline.get(), end.lsn.as_bytes() + 8);
        Ok(BackupRecord {
            backup,
            index: shards,
            packs,
            start_lsn: end.lsn,
            start_tli: end.timeline,
            stop_lsn: stop.lsn,
            stop_tli: stop.timeline,
            start_time: time,
            stop_time: time,
            ..last.clone()
        })
    }
}
