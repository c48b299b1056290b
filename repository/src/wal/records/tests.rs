//! Tests of what logs say about WAL.

use super::*;
use crate::format::ids::Incarnation;
use crate::log::append::Draft;
use crate::log::records::record::Origin;
use crate::log::records::wal::{GapReason, IncarnationRecord};
use crate::log::region_log::LogTrust;
use crate::samples;
use crate::samples::wal::trust;
use lifeboat_stores::MemoryStore;

const A: Incarnation = Incarnation::from_bytes([0xA; 8]);
const B: Incarnation = Incarnation::from_bytes([0xB; 8]);

fn adopted(incarnation: Option<Incarnation>) -> RecordBody {
    RecordBody::Incarnation(IncarnationRecord { incarnation })
}

fn gap(from: u64, scope: GapScope) -> WalGapRecord {
    let reason = if scope == GapScope::Region { GapReason::RegionMissed } else { GapReason::SlotLost };
    let range = samples::wal_range(1, from, from + 10);
    let (timeline, to) = (range.timeline, Some(range.end));
    WalGapRecord { timeline, from: range.start, to, reason, scope }
}

fn epoch(number: u8) -> WalEpochRecord {
    let range = samples::wal_range(1, 16 << 20, 32 << 20);
    WalEpochRecord {
        epoch: EpochId::from_bytes([number; 16]),
        keys_sha256: samples::digest(number),
        timeline: range.timeline,
        start: range.start,
        wal_segment_bytes: 16 << 20,
        incarnation: Some(A),
    }
}

/// A log whose events are known by writer and count.
async fn log(region: &str, events: &[(&str, u64, RecordBody)]) -> (RegionName, RegionLog) {
    let store = MemoryStore::new();
    let trust: LogTrust = trust(region);
    let mut log = RegionLog::read(&store, trust).await.unwrap();
    let init = Draft { origin: samples::origin(0), body: RecordBody::Init(samples::init_record()) };
    log.append(&store, &samples::signer(), &init).await.unwrap();
    for (writer, wseq, body) in events {
        let origin = Origin { writer: writer.parse().unwrap(), ..samples::origin(*wseq) };
        log.append(&store, &samples::signer(), &Draft { origin, body: body.clone() }).await.unwrap();
    }
    (region.parse().unwrap(), log)
}

fn records(logs: &[(RegionName, RegionLog)]) -> WalRecords {
    WalRecords::of(logs.iter().map(|(region, log)| (region, log)))
}

#[tokio::test]
async fn an_adopted_incarnation_is_current_until_all_logs_have_a_later_one() {
    let (a, b, original) = (adopted(Some(A)), adopted(Some(B)), adopted(None));
    let (x1, y1) = (("x", 1, a.clone()), ("y", 1, b.clone()));
    let back = ("x", 2, original.clone());
    let disputed = CurrentIncarnation::Disputed(
        [("eu".parse().unwrap(), Some(A)), ("us".parse().unwrap(), Some(B))].into_iter().collect(),
    );
    for (why, eu, us, expected) in [
        ("never", vec![], vec![], CurrentIncarnation::One(None)),
        ("everywhere", vec![x1.clone()], vec![x1.clone()], CurrentIncarnation::One(Some(A))),
        ("one region was away", vec![x1.clone()], vec![], CurrentIncarnation::One(Some(A))),
        ("one knows a later one", vec![x1.clone()], vec![x1.clone(), y1.clone()], CurrentIncarnation::One(Some(B))),
        ("two events of one copy", vec![x1.clone()], vec![("z", 9, a.clone())], CurrentIncarnation::One(Some(A))),
        ("back to the original", vec![x1.clone()], vec![x1.clone(), back.clone()], CurrentIncarnation::One(None)),
        ("neither knows the other", vec![x1.clone()], vec![y1.clone()], disputed),
    ] {
        let logs = [log("eu", &eu).await, log("us", &us).await];
        assert_eq!(records(&logs).incarnation, expected, "{why}");
        let last = |events: &[(&str, u64, RecordBody)]| match events.last() {
            Some((_, _, RecordBody::Incarnation(body))) => body.incarnation,
            _ => None,
        };
        assert_eq!((logs[0].1.incarnation(), logs[1].1.incarnation()), (last(&eu), last(&us)), "{why}");
    }
}

#[tokio::test]
async fn gaps_and_keys_of_all_logs_are_reported_once() {
    let (everywhere, here) = (gap(100, GapScope::Everywhere), gap(200, GapScope::Region));
    let body = |gap: &WalGapRecord| RecordBody::WalGap(gap.clone());
    let keys = |number| RecordBody::WalEpoch(epoch(number));
    let eu = log("eu", &[("x", 1, keys(1)), ("x", 2, body(&everywhere)), ("x", 3, body(&here))]).await;
    let us = log("us", &[("x", 1, keys(1)), ("x", 2, body(&everywhere)), ("x", 4, keys(2))]).await;
    assert_eq!(us.1.wal_epoch_keys(EpochId::from_bytes([2; 16])), Some(samples::digest(2)));
    assert_eq!(eu.1.wal_epoch_keys(EpochId::from_bytes([2; 16])), None);
    assert_eq!(eu.1.wal_gaps().collect::<Vec<_>>(), [&everywhere, &here]);
    let (eu_name, us_name) = (eu.0.clone(), us.0.clone());
    let records = records(&[eu, us]);
    let both =
        KnownGap { gap: everywhere.clone(), regions: vec![eu_name.clone(), us_name], standing: KeyStanding::InForce };
    assert_eq!(records.gaps, [both, KnownGap { gap: here, regions: vec![eu_name], standing: KeyStanding::InForce }]);
    assert_eq!(records.gaps_of_all().collect::<Vec<_>>(), [&everywhere]);
    let found: Vec<_> = records.epochs.values().cloned().collect();
    assert_eq!(found, [vec![epoch(1)], vec![epoch(2)]]);
}
