//! Values that several tests of this crate begin with.

#[cfg(test)]
pub(crate) mod heal;
#[cfg(test)]
pub(crate) mod long_log;
#[cfg(test)]
pub(crate) mod sweep;
#[cfg(test)]
pub(crate) mod wal;

use lifeboat_vocabulary::{BackupId, ByteCount, Lsn, Sha256Digest, TimelineId, UtcTime};
use zeroize::Zeroizing;

use crate::format::ids::{EpochId, HoldId, Incarnation, RepositoryId};
use crate::format::layout::{self, WalRange};
use crate::keys::signing::SigningKey;
use crate::log::descriptor::Descriptor;
use crate::log::note::NoteSigner;
use crate::log::records::backup::{
    BackupKind, BackupRecord, EpochRef, FilesFacts, PacksRef, PageFacts, ServerFacts, ShardRef,
};
use crate::log::records::bundle::BundleRecord;
use crate::log::records::care::{
    AuditRecord, DamageRecord, ForgetRecord, Forgotten, FoundBy, HealedRecord, HoldRecord, KeepRecord, PolicyText,
    ReleaseRecord, SweepDoneRecord, SweepIntentRecord, WalFloor,
};
use crate::log::records::omissions::Omissions;
use crate::log::records::record::{InitRecord, Link, Origin, Record, RecordBody};
use crate::log::records::wal::{GapReason, GapScope, IncarnationRecord, WalEpochRecord, WalGapRecord};

fn counting<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|i| first.wrapping_add(u8::try_from(i).unwrap()))
}

pub(crate) fn digest(byte: u8) -> Sha256Digest {
    Sha256Digest::from_bytes([byte; 32])
}

pub(crate) fn time(text: &str) -> UtcTime {
    text.parse().unwrap()
}

pub(crate) fn signer() -> NoteSigner {
    signer_named("lifeboat.example/db1", 0xe0)
}

pub(crate) fn signer_named(name: &str, first: u8) -> NoteSigner {
    NoteSigner::new(name.parse().unwrap(), SigningKey::from_seed(&Zeroizing::new(counting(first))))
}

pub(crate) fn repository() -> RepositoryId {
    RepositoryId::from_bytes(counting(0xa0))
}

pub(crate) fn epoch() -> EpochId {
    EpochId::from_bytes(counting(0xb0))
}

pub(crate) fn descriptor() -> Descriptor {
    Descriptor::new(repository(), 7_400_000_000_000_000_001, time("2026-11-20T02:00:00Z"), signer().verify_key())
}

pub(crate) fn origin(wseq: u64) -> Origin {
    let (writer, time) = (signer().name().clone(), time("2026-11-20T02:00:00Z"));
    Origin { writer, wseq, time, tool: "lifeboat 0.1.0".to_owned() }
}

pub(crate) fn init_record() -> InitRecord {
    InitRecord { repo: repository(), sysid: 7_400_000_000_000_000_001, descriptor_sha256: digest(1) }
}

pub(crate) fn init_entry() -> Record {
    let link = Link { region: "eu-1".parse().unwrap(), seq: 0, prev: None };
    Record { link, origin: origin(0), body: RecordBody::Init(init_record()) }
}

pub(crate) fn backup_record_named(id: &str, stop_time: &str) -> BackupRecord {
    let backup: BackupId = id.parse().unwrap();
    let shard = |number| {
        let key = layout::index_shard(&backup, number);
        ShardRef { key, sha256: digest(4), size: ByteCount::from_bytes(3_145_990) }
    };
    let bytes = ByteCount::from_bytes(6_871_947_673);
    BackupRecord {
        kind: BackupKind::Full,
        parent: None,
        pg: ServerFacts { version: 170_006, sysid: 7_400_000_000_000_000_001, wal_segment_bytes: 16 << 20 },
        start_lsn: "A/28000028".parse::<Lsn>().unwrap(),
        start_tli: TimelineId::new(7).unwrap(),
        stop_lsn: "A/2C0001F8".parse().unwrap(),
        stop_tli: TimelineId::new(7).unwrap(),
        start_time: time("2026-11-20T02:00:03Z"),
        stop_time: time(stop_time),
        duration_ms: 2_464_000,
        frame_bytes: 128 << 10,
        epochs: vec![EpochRef { id: epoch(), slots: 0, keys_sha256: digest(2) }],
        packs: PacksRef { sha256: digest(3), objects: 12, bytes, own: 12, own_bytes: bytes },
        index: vec![shard(0), shard(1)],
        files: FilesFacts { count: 4127, raw_bytes: ByteCount::from_bytes(20_615_843_020) },
        pages: Some(PageFacts { checked: 2_516_582, damaged: 0, damaged_files: 0 }),
        omissions: Omissions::default(),
        backup,
    }
}

pub(crate) fn backup_record() -> BackupRecord {
    backup_record_named("20261120T020003Z-5f1c09ab", "2026-11-20T02:41:07Z")
}

pub(crate) fn backup_entry() -> Record {
    let link = Link { region: "eu-1".parse().unwrap(), seq: 1, prev: Some(digest(9)) };
    Record { link, origin: origin(1), body: RecordBody::Backup(Box::new(backup_record())) }
}

pub(crate) fn wal_range(timeline: u32, start: u64, end: u64) -> WalRange {
    let lsn = |bytes| Lsn::from_bytes(bytes).unwrap();
    WalRange { timeline: TimelineId::new(timeline).unwrap(), start: lsn(start), end: lsn(end) }
}

pub(crate) fn wal_entries() -> Vec<Record> {
    let range = wal_range(7, 0xA_2800_0000, 0xA_2900_0000);
    let epoch = WalEpochRecord {
        epoch: epoch(),
        keys_sha256: digest(5),
        timeline: range.timeline,
        start: range.start,
        wal_segment_bytes: 16 << 20,
        incarnation: Some(Incarnation::from_bytes(counting(0xc0))),
    };
    let (reason, scope) = (GapReason::FreshSlot, GapScope::Everywhere);
    let gap = WalGapRecord { timeline: range.timeline, from: range.start, to: Some(range.end), reason, scope };
    let bodies = [
        RecordBody::WalEpoch(epoch.clone()),
        RecordBody::WalEpoch(WalEpochRecord { incarnation: None, ..epoch.clone() }),
        RecordBody::WalGap(gap.clone()),
        RecordBody::WalGap(WalGapRecord { to: None, scope: GapScope::Region, ..gap }),
        RecordBody::Incarnation(IncarnationRecord { incarnation: epoch.incarnation }),
        RecordBody::Incarnation(IncarnationRecord { incarnation: None }),
    ];
    let link = Link { region: "eu-1".parse().unwrap(), seq: 1, prev: Some(digest(9)) };
    bodies.into_iter().map(|body| Record { link: link.clone(), origin: origin(1), body }).collect()
}

pub(crate) fn policy_text() -> PolicyText {
    let timezone = "Europe/Berlin".to_owned();
    PolicyText { timezone, daily: 7, weekly: 4, monthly: 12, min_keep: 2, window_seconds: 604_800 }
}

pub(crate) fn forget(backups: &[&str], not_before: &str) -> ForgetRecord {
    let forgotten = |id: &&str| Forgotten { backup: id.parse().unwrap(), why: "no rule keeps it".to_owned() };
    let backups = backups.iter().map(forgotten).collect();
    ForgetRecord { backups, policy: policy_text(), not_before: time(not_before) }
}

pub(crate) fn hold(first: u8, backup: &str, expires: Option<&str>) -> HoldRecord {
    let (hold, backup) = (HoldId::from_bytes(counting(first)), backup.parse().unwrap());
    let (reason, owner) = ("case 4711".to_owned(), "mia".to_owned());
    HoldRecord { hold, backup, reason, owner, expires: expires.map(time) }
}

pub(crate) fn release(first: u8) -> ReleaseRecord {
    let (reason, owner) = ("case closed".to_owned(), "mia".to_owned());
    ReleaseRecord { hold: HoldId::from_bytes(counting(first)), reason, owner }
}

pub(crate) fn care_entries() -> Vec<Record> {
    let id = "20261120T020003Z-5f1c09ab";
    let backup: BackupId = id.parse().unwrap();
    let range = wal_range(7, 0xA_2800_0000, 0xA_2900_0000);
    let floor = WalFloor { timeline: range.timeline, before: range.start };
    let intent = SweepIntentRecord {
        backups: vec![backup.clone()],
        leftovers: vec!["20261119T020003Z-00000002".parse().unwrap()],
        epochs: vec![epoch()],
        wal: vec![floor],
        slices: vec![WalFloor { before: range.end, ..floor }],
    };
    let bytes = ByteCount::from_bytes(1 << 20);
    let audit = AuditRecord {
        action: "pause".to_owned(),
        subject: Some("delete".to_owned()),
        reason: "moving the bucket".to_owned(),
        owner: "mia".to_owned(),
        expires: Some(time("2026-11-21T02:00:00Z")),
    };
    let damage = DamageRecord {
        backup: Some(backup.clone()),
        objects: vec![layout::index_shard(&backup, 0)],
        count: 2,
        found_by: FoundBy::Scrub,
    };
    let bodies = [
        RecordBody::Forget(forget(&[id], "2026-11-23T02:00:00Z")),
        RecordBody::SweepIntent(intent),
        RecordBody::SweepDone(SweepDoneRecord { intent: 4, objects: 9, bytes, locked: 1 }),
        RecordBody::Hold(hold(0xd0, id, Some("2027-01-01T00:00:00Z"))),
        RecordBody::Hold(hold(0xd0, id, None)),
        RecordBody::Release(release(0xd0)),
        RecordBody::Damage(damage.clone()),
        RecordBody::Damage(DamageRecord { backup: None, ..damage }),
        RecordBody::Healed(HealedRecord {
            backups: vec![backup.clone()],
            settles: vec![3, 4],
            objects: 2,
            bytes,
            from: "us".parse().unwrap(),
        }),
        RecordBody::Audit(audit.clone()),
        RecordBody::Audit(AuditRecord { subject: None, expires: None, ..audit }),
        RecordBody::Keep(KeepRecord { backups: vec![backup] }),
        RecordBody::Bundle(BundleRecord { first: 1, last: 4, sha256: digest(7), bytes }),
    ];
    let link = Link { region: "eu-1".parse().unwrap(), seq: 5, prev: Some(digest(9)) };
    bodies.into_iter().map(|body| Record { link: link.clone(), origin: origin(5), body }).collect()
}
