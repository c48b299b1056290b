//! WAL that is offered arrives in every region, byte for byte, and no more often than it has to.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

#[allow(dead_code, reason = "shared by two test programs")]
mod wal_support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_daemon::wal::CommitMode;
use lifeboat_daemon::wal::ship::positions::{Offer, ShipError, UploadState};
use lifeboat_daemon::wal::ship::settings::ShipSettings;
use lifeboat_daemon::wal::ship::shipper::Shipper;
use lifeboat_repository::format::layout::{StoredName, WalForm};
use lifeboat_repository::log::records::{GapReason, GapScope};
use lifeboat_repository::log::{LogTrust, Signers};
use lifeboat_repository::wal::{EarlierHead, HeadFile};
use lifeboat_stores::{Fault, LocalDir, MemoryStore, Operation, RegionSettings, Rule, Store, open};
use lifeboat_vocabulary::{Clock, SystemClock, TimelineId};
use wal_support::*;

/// A store in a directory, one in memory, and one behind S3.
async fn three_kinds(dir: &std::path::Path) -> (Vec<Arc<dyn Store>>, lifeboat_s3_testd::Server) {
    let bucket = lifeboat_s3_testd::Bucket::plain("lifeboat");
    let config = lifeboat_s3_testd::Config { buckets: vec![bucket], page_size: 7, ..Default::default() };
    let server = lifeboat_s3_testd::Server::start(config).unwrap();
    let credentials = dir.join("credentials");
    let keys = "[default]\naws_access_key_id = test-access-key\naws_secret_access_key = test-secret-key\n";
    std::fs::write(&credentials, keys).unwrap();
    std::fs::set_permissions(&credentials, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let address = format!(
        "s3://lifeboat/pg?endpoint={}&profile=minio&region=us-east-1&credentials_file={}",
        server.url(),
        credentials.display()
    );
    let settings = RegionSettings::from_url("s3".parse().unwrap(), &address).unwrap();
    std::fs::create_dir(dir.join("region")).unwrap();
    let local = LocalDir::open(dir.join("region"), None, SystemClock.now()).await.unwrap();
    (vec![Arc::new(local), Arc::new(MemoryStore::new()), open(&settings).await.unwrap()], server)
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_offered_can_be_read_from_each_region_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    for mib in [1, 16, 64] {
        let parts = dir.path().join(mib.to_string());
        std::fs::create_dir(&parts).unwrap();
        let (stores, _server) = three_kinds(&parts).await;
        let world = World::with(stores).await;
        let shipper = world.start(world.settings()).await;
        assert_eq!(shipper.resume(), None, "nobody has anything");
        let start = 128 * MIB;
        shipper.begin(at(1, start), segment(mib)).unwrap();
        // Some in slices, a burst in pieces, and an end within a piece.
        let mut sent = start;
        for bytes in [10, 300_000, 1, 18 * MIB, 4321] {
            sent = offer(&shipper, 1, sent, sent + bytes).await;
            if bytes < MIB {
                everywhere(&shipper, 1, sent).await;
            }
        }
        let positions = shipper.stop(Duration::from_secs(30)).await;
        assert_eq!(positions.confirmed, Some(at(1, sent)), "{mib} MiB: {positions:?}");
        world.all_have(&[0, 1, 2], range(1, start, sent), segment(mib)).await;
        let piece = mib.min(16) * MIB;
        for region in 0..3 {
            let pieces = world.objects(region, WalForm::Piece).await;
            assert_eq!(pieces.len() as u64, (sent - start) / piece, "every whole piece is one object");
            assert!(pieces.iter().all(|object| object.range.len() == piece));
        }
        assert!(world.spooled().is_empty(), "{:?}", world.spooled());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_costs_no_object_and_a_busy_one_a_slice_each_interval() {
    let world = World::new(2).await;
    let settings = lifeboat_daemon::wal::ship::settings::ShipSettings {
        flush_interval: Duration::from_millis(100),
        ..world.settings()
    };
    let shipper = world.start(settings).await;
    shipper.begin(at(1, 16 * MIB), segment(16)).unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    for region in 0..2 {
        let keys = world.stores[region].list("", None).await.unwrap().entries;
        let wal: Vec<_> = keys.iter().filter(|entry| !entry.key.as_str().starts_with("state/")).collect();
        assert_eq!(wal.len(), 2, "only descriptor and first record: {wal:?}");
    }
    let begun = tokio::time::Instant::now();
    let mut sent = 16 * MIB;
    while begun.elapsed() < Duration::from_secs(1) {
        sent = offer(&shipper, 1, sent, sent + 50).await;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    everywhere(&shipper, 1, sent).await;
    let slices = world.objects(0, WalForm::Slice).await;
    assert!((7..=11).contains(&slices.len()), "{} slices in a second", slices.len());
    for pair in slices.windows(2) {
        assert_eq!(pair[0].range.end, pair[1].range.start, "slices tile the line");
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.objects(0, WalForm::Slice).await.len(), slices.len(), "idle again");
    assert!(world.spooled().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn in_synchronous_mode_commits_travel_at_once_and_in_groups() {
    let world = World::new(2).await;
    let slow = Rule { operation: Some(Operation::Put), ..Rule::always(Fault::Slow(Duration::from_millis(30))) };
    let settings = lifeboat_daemon::wal::ship::settings::ShipSettings {
        flush_interval: Duration::from_secs(60),
        mode: CommitMode::Synchronous,
        wal_quorum: 2,
        ..world.settings()
    };
    let shipper = world.start(settings).await;
    shipper.begin(at(1, 16 * MIB), segment(16)).unwrap();
    let mut sent = offer(&shipper, 1, 16 * MIB, 16 * MIB + 100).await;
    until(&shipper, "the first commit", |now| now.confirmed == Some(at(1, sent))).await;
    world.stores.iter().for_each(|store| store.add(slow.clone()));
    let begun = tokio::time::Instant::now();
    for _ in 0..20 {
        sent = offer(&shipper, 1, sent, sent + 100).await;
        until(&shipper, "a commit", |now| now.confirmed == Some(at(1, sent))).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "20 commits took {:?}", begun.elapsed());
    let before = world.objects(0, WalForm::Slice).await.len();
    // Many at once share the slices.
    for _ in 0..500 {
        sent = offer(&shipper, 1, sent, sent + 100).await;
    }
    until(&shipper, "all commits", |now| now.confirmed == Some(at(1, sent))).await;
    let slices = world.objects(0, WalForm::Slice).await.len() - before;
    assert!(slices < 60, "{slices} slices for 500 commits");
    world.all_have(&[0, 1], range(1, 16 * MIB, sent), segment(16)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_that_ends_within_a_segment_is_followed_by_the_next_with_its_history_first() {
    let world = World::new(2).await;
    let shipper = world.start(world.settings()).await;
    let (start, switch) = (32 * MIB, 33 * MIB + 4096);
    shipper.begin(at(1, start), segment(1)).unwrap();
    offer(&shipper, 1, start, switch).await;
    let history = Bytes::from(format!("1\t{}\tno recovery target specified\n", lsn(switch)));
    // Timelines may skip numbers, and are hexadecimal in names.
    shipper.add_history(TimelineId::new(12).unwrap(), history.clone()).await.unwrap();
    shipper.begin(at(12, 33 * MIB), segment(1)).unwrap();
    let end = offer(&shipper, 12, 33 * MIB, 36 * MIB + 7).await;
    everywhere(&shipper, 12, end).await;
    world.all_have(&[0, 1], range(1, start, switch), segment(1)).await;
    world.all_have(&[0, 1], range(12, 33 * MIB, end), segment(1)).await;
    let version = async |key: &str| -> u64 {
        world.stores[0].head(&key.parse().unwrap()).await.unwrap().version.0.parse().unwrap()
    };
    let history_at = version("wal/0000000c/history.lbb").await;
    for object in world.objects(0, WalForm::Slice).await.into_iter().chain(world.objects(0, WalForm::Piece).await) {
        if object.range.timeline.get() == 12 {
            assert!(version(object.key().as_str()).await > history_at, "{object:?} was there before its history");
        }
    }
    let refused = shipper.begin(at(1, start), segment(1)).unwrap_err();
    assert!(matches!(refused, ShipError::EarlierTimeline { .. }), "{refused}");
    let other = Bytes::from("1\t0/7000000\tanother promotion\n");
    let refused = shipper.add_history(TimelineId::new(12).unwrap(), other).await.unwrap_err();
    assert!(refused.to_string().contains("another server was promoted"), "{refused}");
    shipper.add_history(TimelineId::new(12).unwrap(), history).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_positions_with_other_bytes_are_refused_after_a_reconnect() {
    let world = World::new(1).await;
    let shipper = world.start(world.settings()).await;
    assert!(matches!(shipper.offer(at(1, 16 * MIB), wal(1, 0, 1)).await, Err(ShipError::NotBegun)));
    shipper.begin(at(1, 16 * MIB), segment(16)).unwrap();
    let sent = offer(&shipper, 1, 16 * MIB, 18 * MIB).await;
    shipper.begin(at(1, 16 * MIB), segment(16)).unwrap();
    assert_eq!(offer(&shipper, 1, 16 * MIB, sent + 100).await, sent + 100, "the same bytes are fine");
    shipper.begin(at(1, 16 * MIB), segment(16)).unwrap();
    let changed = shipper.offer(at(1, 16 * MIB), wal(2, 16 * MIB, 17 * MIB)).await.unwrap_err();
    assert!(matches!(changed, ShipError::Changed { .. }), "{changed}");
    everywhere(&shipper, 1, sent + 100).await;
    world.all_have(&[0], range(1, 16 * MIB, sent + 100), segment(16)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_wal_is_on_record_before_what_follows_it() {
    let world = World::new(2).await;
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 16 * MIB), segment(16)).unwrap();
    let sent = offer(&shipper, 1, 16 * MIB, 16 * MIB + 500).await;
    everywhere(&shipper, 1, sent).await;
    shipper.record_gap(range(1, sent, 70 * MIB), GapReason::SegmentRemoved).await.unwrap();
    shipper.begin(at(1, 64 * MIB), segment(16)).unwrap();
    let end = offer(&shipper, 1, 64 * MIB, 65 * MIB).await;
    everywhere(&shipper, 1, end).await;
    world.all_have(&[0, 1], range(1, 64 * MIB, end), segment(16)).await;
    // And one that nobody has announced.
    shipper.begin(at(1, 96 * MIB), segment(16)).unwrap();
    let last = offer(&shipper, 1, 96 * MIB, 97 * MIB).await;
    everywhere(&shipper, 1, last).await;
    for region in 0..2 {
        let log = world.log(region).await;
        let gaps: Vec<_> = log.wal_gaps().map(|gap| (gap.from, gap.to, gap.reason, gap.scope)).collect();
        let expected = [
            (lsn(sent), Some(lsn(64 * MIB)), GapReason::SegmentRemoved, GapScope::Everywhere),
            (lsn(end), Some(lsn(96 * MIB)), GapReason::Other, GapScope::Everywhere),
        ];
        assert_eq!(gaps, expected);
        assert_eq!(log.wal_epochs().count(), 1);
    }
    shipper.stop(Duration::from_secs(10)).await;
    let shipper = world.start(world.settings()).await;
    let resume = shipper.resume().unwrap();
    assert_eq!((resume.highest, resume.quorum), (at(1, last), Some(at(1, last))), "the gaps are passed");
    assert_eq!((resume.position, resume.unknown), (at(1, last), Vec::new()));
}

#[tokio::test]
async fn a_gap_is_one_of_all_regions_only_once_all_have_answered() {
    let world = World::new(2).await;
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 14 * MIB), segment(1)).unwrap();
    let sent = offer(&shipper, 1, 14 * MIB, 15 * MIB).await;
    everywhere(&shipper, 1, sent).await;
    shipper.stop(Duration::from_secs(10)).await;
    world.stores[1].add(Rule::always(Fault::Lost));
    let shipper = world.start(world.settings()).await;
    shipper.record_gap(range(1, 15 * MIB, 16 * MIB), GapReason::SegmentRemoved).await.unwrap();
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    offer(&shipper, 1, 16 * MIB, 17 * MIB).await;
    let gaps =
        async |region| -> Vec<_> { world.log(region).await.wal_gaps().map(|gap| (gap.reason, gap.scope)).collect() };
    let narrow = (GapReason::SegmentRemoved, GapScope::Region);
    eventually("the gap in the region that answers", async || gaps(0).await == [narrow]).await;
    world.stores[1].heal();
    let wide = (GapReason::SegmentRemoved, GapScope::Everywhere);
    eventually("the gap in both regions", async || gaps(0).await == [narrow, wide] && gaps(1).await.contains(&wide))
        .await;
    shipper.stop(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn wal_goes_on_behind_what_the_server_has_removed_while_a_region_does_not_answer() {
    let world = World::new(2).await;
    world.stores[1].add(Rule::always(Fault::Lost));
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 14 * MIB), segment(1)).unwrap();
    let sent = offer(&shipper, 1, 14 * MIB, 15 * MIB).await;
    until(&shipper, "what comes before", |now| now.confirmed == Some(at(1, sent))).await;
    // The connection was lost, and the slot with it.
    shipper.record_gap(range(1, 15 * MIB, 16 * MIB), GapReason::SegmentRemoved).await.unwrap();
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    let sent = offer(&shipper, 1, 16 * MIB, 17 * MIB).await;
    until(&shipper, "what comes behind", |now| now.confirmed == Some(at(1, sent))).await;
    world.stores[1].heal();
    everywhere(&shipper, 1, sent).await;
    shipper.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_give_a_region_any_more_is_on_record_there_alone() {
    let world = World::new(2).await;
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    let first = offer(&shipper, 1, 16 * MIB, 16 * MIB + 77).await;
    everywhere(&shipper, 1, first).await;
    world.stores[1].add(Rule::always(Fault::Lost));
    let sent = offer(&shipper, 1, first, 20 * MIB).await;
    until(&shipper, "the first region", |now| now.regions[0].durable == Some(at(1, sent))).await;
    drop(shipper);
    // The host is lost, and its spool with it; the server has only what came last.
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.stores[1].heal();
    let lease = StoredName::Lease { writer: world.signer.name().clone() }.key();
    for store in &world.stores {
        store.delete(&lease).await.unwrap();
    }
    let spool_directory = world.dir.path().join("new-host");
    let shipper = world.start(ShipSettings { spool_directory, ..world.settings() }).await;
    let found = shipper.resume().unwrap();
    assert_eq!((found.position, found.highest), (at(1, first), at(1, sent)));
    assert_eq!(found.pieces, at(1, 16 * MIB), "region 1 lacks the first piece");
    shipper.begin(at(1, 20 * MIB), segment(1)).unwrap();
    let end = offer(&shipper, 1, 20 * MIB, 21 * MIB + 3).await;
    everywhere(&shipper, 1, end).await;
    assert_eq!(world.log(0).await.wal_gaps().count(), 0);
    let log = world.log(1).await;
    let gaps: Vec<_> = log.wal_gaps().map(|gap| (gap.from, gap.to, gap.reason, gap.scope)).collect();
    assert_eq!(gaps, [(lsn(first), Some(lsn(20 * MIB)), GapReason::RegionMissed, GapScope::Region)]);
    world.all_have(&[0], range(1, 16 * MIB, end), segment(1)).await;
    world.all_have(&[1], range(1, 20 * MIB, end), segment(1)).await;
}

async fn head(world: &World, region: usize) -> Option<u64> {
    let trust = LogTrust {
        repository: world.settings().repository,
        signers: Signers::root_only(world.signer.verify_key()),
        region: Some(world.region(region).name),
        remembered: None,
    };
    match HeadFile::open(&*world.stores[region], world.signer.name(), &trust).await.unwrap().1 {
        EarlierHead::Head(head) => Some(head.durable.unwrap().lsn.as_bytes()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_at_the_end_of_a_timeline_is_on_record_when_the_next_one_begins() {
    let world = World::new(2).await;
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    let sent = offer(&shipper, 1, 16 * MIB, 17 * MIB + 100).await;
    everywhere(&shipper, 1, sent).await;
    drop(shipper);
    // The host was down while another server took over, which has neither the slot nor this WAL.
    let shipper = world.start(world.settings()).await;
    shipper.record_gap(range(1, sent, 19 * MIB), GapReason::SegmentRemoved).await.unwrap();
    shipper.begin(at(2, 19 * MIB), segment(1)).unwrap();
    let sent_then = offer(&shipper, 2, 19 * MIB, 20 * MIB).await;
    everywhere(&shipper, 2, sent_then).await;
    for region in 0..2 {
        let log = world.log(region).await;
        let gaps: Vec<_> = log.wal_gaps().map(|gap| (gap.timeline.get(), gap.from, gap.to)).collect();
        assert_eq!(gaps, [(1, lsn(sent), Some(lsn(19 * MIB)))], "region {region}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_at_the_end_of_a_timeline_is_on_record_in_a_region_that_answers_late_too() {
    let world = World::new(2).await;
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    let sent = offer(&shipper, 1, 16 * MIB, 17 * MIB + 100).await;
    everywhere(&shipper, 1, sent).await;
    shipper.stop(Duration::from_secs(10)).await;
    world.stores[1].add(Rule::always(Fault::Lost));
    let shipper = world.start(world.settings()).await;
    shipper.record_gap(range(1, sent, 19 * MIB), GapReason::SegmentRemoved).await.unwrap();
    shipper.begin(at(2, 19 * MIB), segment(1)).unwrap();
    let sent_then = offer(&shipper, 2, 19 * MIB, 20 * MIB).await;
    until(&shipper, "the first region", |now| now.regions[0].durable == Some(at(2, sent_then))).await;
    world.stores[1].heal();
    everywhere(&shipper, 2, sent_then).await;
    let missing = (1, lsn(sent), Some(lsn(19 * MIB)), GapScope::Everywhere);
    for region in 0..2 {
        let gaps = async || -> Vec<_> {
            let log = world.log(region).await;
            log.wal_gaps().map(|gap| (gap.timeline.get(), gap.from, gap.to, gap.scope)).collect()
        };
        eventually("the gap everywhere", async || gaps().await.contains(&missing)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_answers_late_hears_of_a_gap_that_another_one_fills() {
    let world = World::new(3).await;
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    let sent = offer(&shipper, 1, 16 * MIB, 17 * MIB).await;
    everywhere(&shipper, 1, sent).await;
    world.stores[1].add(Rule::always(Fault::Lost));
    world.stores[2].add(Rule::always(Fault::Lost));
    let sent_then = offer(&shipper, 1, sent, 19 * MIB).await;
    until(&shipper, "the first region", |now| now.regions[0].durable == Some(at(1, sent_then))).await;
    drop(shipper);
    // The host is lost, and its spool with it; the server has only what came last.
    let lease = StoredName::Lease { writer: world.signer.name().clone() }.key();
    for region in [0, 1] {
        world.stores[region].heal();
        world.stores[region].delete(&lease).await.unwrap();
    }
    let spool_directory = world.dir.path().join("new-host");
    let shipper = world.start(ShipSettings { spool_directory, ..world.settings() }).await;
    shipper.record_gap(range(1, sent, sent_then), GapReason::SegmentRemoved).await.unwrap();
    shipper.begin(at(1, sent_then), segment(1)).unwrap();
    let end = offer(&shipper, 1, sent_then, 20 * MIB).await;
    world.stores[2].heal();
    world.stores[2].delete(&lease).await.unwrap();
    everywhere(&shipper, 1, end).await;
    let missed = (lsn(sent), Some(lsn(sent_then)), GapReason::RegionMissed, GapScope::Region);
    for (region, expected) in [(0, vec![]), (1, vec![missed]), (2, vec![missed])] {
        let log = world.log(region).await;
        let gaps: Vec<_> = log.wal_gaps().map(|gap| (gap.from, gap.to, gap.reason, gap.scope)).collect();
        assert_eq!(gaps, expected, "region {region}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_the_spool_for_a_region_is_missing_nowhere() {
    let world = World::new(2).await;
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    let sent = offer(&shipper, 1, 16 * MIB, 17 * MIB).await;
    everywhere(&shipper, 1, sent).await;
    world.stores[1].add(Rule::always(Fault::Lost));
    let sent = offer(&shipper, 1, sent, 19 * MIB).await;
    until(&shipper, "the first region", |now| now.regions[0].durable == Some(at(1, sent))).await;
    // The server was told, and has removed what the region asks for.
    shipper.record_gap(range(1, 17 * MIB, 18 * MIB), GapReason::SegmentRemoved).await.unwrap();
    world.stores[1].heal();
    everywhere(&shipper, 1, sent).await;
    shipper.stop(Duration::from_secs(10)).await;
    for region in 0..2 {
        assert_eq!(world.log(region).await.wal_gaps().count(), 0, "region {region}");
    }
    world.all_have(&[0, 1], range(1, 16 * MIB, sent), segment(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_installation_writes_and_the_next_takes_over_after_an_orderly_end() {
    let world = World::new(2).await;
    let first = world.start(world.settings()).await;
    first.begin(at(1, 16 * MIB), segment(16)).unwrap();
    let sent = offer(&first, 1, 16 * MIB, 17 * MIB).await;
    everywhere(&first, 1, sent).await;
    let other_host = lifeboat_daemon::wal::ship::settings::ShipSettings {
        spool_directory: world.dir.path().join("other"),
        ..world.settings()
    };
    let second = world.start(other_host).await;
    for region in second.positions().regions {
        assert!(matches!(region.state, UploadState::Leased { .. }), "{region:?}");
    }
    assert_eq!(second.resume(), None, "nothing is known yet");
    second.begin(at(1, 16 * MIB), segment(16)).unwrap();
    let more = offer(&second, 1, 16 * MIB, 18 * MIB).await;
    second.flush();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(second.positions().confirmed, None);
    assert_eq!(world.objects(0, WalForm::Slice).await.last().unwrap().range.end, lsn(sent), "it writes nothing");
    first.stop(Duration::from_secs(10)).await;
    assert_eq!(head(&world, 0).await, Some(sent));
    let positions = everywhere(&second, 1, more).await;
    assert!(positions.regions.iter().all(|region| region.state == UploadState::Current), "{positions:?}");
    world.all_have(&[0, 1], range(1, 16 * MIB, more), segment(16)).await;
    for region in 0..2 {
        assert_eq!(world.log(region).await.wal_gaps().count(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_work_and_a_spool_in_use_are_errors() {
    let world = World::new(1).await;
    let start = async |settings| -> String {
        let regions = vec![world.region(0)];
        let started = Shipper::start(settings, regions, Arc::new(SystemClock)).await;
        format!("{:#}", started.err().unwrap())
    };
    let settings = || world.settings();
    let quorum = start(lifeboat_daemon::wal::ship::settings::ShipSettings { wal_quorum: 2, ..settings() }).await;
    assert!(quorum.contains("quorum"), "{quorum}");
    let small = lifeboat_vocabulary::ByteCount::from_mib(1);
    let memory = start(lifeboat_daemon::wal::ship::settings::ShipSettings { memory: small, ..settings() }).await;
    assert!(memory.contains("memory"), "{memory}");
    let shipper = world.start(settings()).await;
    let used = start(settings()).await;
    assert!(used.contains("another process uses it"), "{used}");
    assert_eq!(StoredName::Lease { writer: world.signer.name().clone() }.to_string(), "state/lease-lifeboat.test.json");
    shipper.begin(at(1, MIB), segment(1)).unwrap();
    assert_eq!(shipper.offer(at(1, MIB), wal(1, MIB, MIB + 1)).await.unwrap(), Offer::Taken);
}
