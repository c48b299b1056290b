//! Regions in which somebody else writes: another writer, a copy of this one, or whoever may create objects.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

#[allow(dead_code, reason = "shared by several test programs")]
mod wal_support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_daemon::wal::ship::positions::{Positions, UploadState};
use lifeboat_daemon::wal::ship::settings::ShipSettings;
use lifeboat_repository::format::aead::sha256;
use lifeboat_repository::format::layout::StoredName;
use lifeboat_stores::{Fault, MemoryStore, PutMode, Rule, SealedBody, Store};
use lifeboat_vocabulary::{ByteCount, Clock, ManualClock, SystemClock};
use wal_support::*;

/// Somebody who may create objects takes the name of a piece.
async fn plant(store: &dyn Store, start: u64) {
    let bytes = Bytes::from(format!("not ours, at {start}"));
    let key = StoredName::WalSegment(range(1, start, start + MIB)).key();
    let body = SealedBody { sha256: sha256(&bytes), bytes };
    store.put(&key, body, PutMode::CreateOnly).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_writer_stops_one_uploader_and_objects_that_nobody_signed_stop_none() {
    let clock = Arc::new(ManualClock::at(SystemClock.now()));
    let stores = (0..2).map(|_| Arc::new(MemoryStore::with_clock(Arc::<ManualClock>::clone(&clock))) as Arc<dyn Store>);
    let world = World::with(stores.collect()).await;
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    // A name that is taken before we use it: its WAL goes there under other names.
    plant(&*world.stores[1], 17 * MIB).await;
    let sent = offer(&shipper, 1, 16 * MIB, 18 * MIB + 10).await;
    let now = everywhere(&shipper, 1, sent).await;
    assert!(now.regions[1].unverified.as_ref().is_some_and(|what| what.contains("wal/00000001/")), "{now:?}");
    assert_eq!((&now.regions[1].state, &now.regions[0].unverified), (&UploadState::Current, &None));
    world.all_have(&[0, 1], range(1, 16 * MIB, sent), segment(1)).await;
    // Another server writes with the same key.
    let theirs = world.store_other_wal(1, range(1, 19 * MIB, 20 * MIB)).await;
    let sent = offer(&shipper, 1, sent, 22 * MIB).await;
    let now = until(&shipper, "a conflict", |now| matches!(now.regions[1].state, UploadState::Conflict { .. })).await;
    assert!(
        matches!(&now.regions[1].state, UploadState::Conflict { what } if what.contains("another writer")),
        "{now:?}"
    );
    let now = until(&shipper, "the other region", |now| now.confirmed == Some(at(1, sent))).await;
    assert_eq!((&now.regions[0].state, now.regions[0].durable), (&UploadState::Current, Some(at(1, sent))));
    let durable = now.regions[1].durable.unwrap().lsn;
    assert!((lsn(18 * MIB)..lsn(20 * MIB)).contains(&durable), "{durable}");
    let key = StoredName::WalSegment(range(1, 19 * MIB, 20 * MIB)).key();
    let kept = world.stores[1].get(&key, lifeboat_stores::ByteRange::WholeUpTo(ByteCount::from_mib(2))).await.unwrap();
    assert_eq!(kept, theirs, "nothing is overwritten");
    world.all_have(&[0], range(1, 16 * MIB, sent), segment(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_an_installation_writes_nothing_while_the_original_is_at_work_and_both_know() {
    let world = World::new(2).await;
    let first = world.start(world.settings()).await;
    first.begin(at(1, 16 * MIB), segment(16)).unwrap();
    let sent = offer(&first, 1, 16 * MIB, 17 * MIB).await;
    let all = everywhere(&first, 1, sent).await;
    assert!(all.regions.iter().all(|region| region.contested.is_none()), "{all:?}");
    // All but what tells the place: as a disk that was copied, in a machine that has the name of the first.
    let spool_directory = world.dir.path().join("copy");
    std::fs::create_dir(&spool_directory).unwrap();
    let names = || std::fs::read_dir(world.spool()).unwrap().map(|entry| entry.unwrap().file_name());
    for name in names().filter(|name| name != "machine") {
        std::fs::copy(world.spool().join(&name), spool_directory.join(&name)).unwrap();
    }
    let written = |directory: &std::path::Path| std::fs::read(directory.join("lease-r1")).unwrap();
    let patience = std::time::Instant::now() + Duration::from_secs(60);
    while written(&spool_directory) == written(&world.spool()) {
        assert!(std::time::Instant::now() < patience, "the lease is not renewed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let second = world.start(ShipSettings { spool_directory, ..world.settings() }).await;
    let leased = second.positions();
    let is_kept_out =
        |state: &UploadState| matches!(state, UploadState::Leased { holder } if holder.contains("a copy"));
    assert!(leased.regions.iter().all(|region| is_kept_out(&region.state)), "{leased:?}");
    second.begin(at(1, 16 * MIB), segment(16)).unwrap();
    offer(&second, 1, 16 * MIB, 18 * MIB).await;
    second.flush();
    let asked = |now: &Positions| now.regions.iter().all(|region| region.contested.is_some());
    let patience = std::time::Instant::now() + Duration::from_secs(120);
    while !asked(&first.positions()) {
        assert!(std::time::Instant::now() < patience, "{:?}", first.positions());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let now = first.positions();
    assert!(now.regions.iter().all(|region| region.state == UploadState::Current), "it goes on writing: {now:?}");
    let more = offer(&first, 1, sent, 19 * MIB).await;
    everywhere(&first, 1, more).await;
    let now = second.positions();
    assert_eq!(now.confirmed, None);
    assert!(now.regions.iter().all(|region| is_kept_out(&region.state)), "{now:?}");
    world.all_have(&[0, 1], range(1, 16 * MIB, more), segment(16)).await;
}

/// WAL that the spool keeps for region 0, which is away, and that the others have; then the process is killed. Returns up to where
/// region 0 has it, and the end.
async fn spooled_for_the_first(world: &World, end: u64) -> (u64, u64) {
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    let stored = offer(&shipper, 1, 16 * MIB, 16 * MIB + 100).await;
    everywhere(&shipper, 1, stored).await;
    world.stores[0].add(puts_of_wal(Fault::Lost));
    let sent = offer(&shipper, 1, stored, end).await;
    let pieces = usize::try_from((end - 16 * MIB) / MIB).unwrap();
    eventually("the spool keeps it", async || world.spooled().len() >= pieces).await;
    let others_have_it = |now: &Positions| now.regions[1..].iter().all(|other| other.durable == Some(at(1, sent)));
    until(&shipper, "the other regions", others_have_it).await;
    (stored, sent)
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_were_taken_while_the_host_was_down_cost_no_wal_and_no_restart() {
    let world = World::new(1).await;
    let (stored, sent) = spooled_for_the_first(&world, 22 * MIB).await;
    world.stores[0].heal();
    // Those of what waits, and of what comes.
    for piece in 16..28 {
        plant(&*world.stores[0], piece * MIB).await;
    }
    let shipper = world.start(world.settings()).await;
    let resume = shipper.resume().unwrap();
    assert!(resume.position.lsn <= lsn(stored), "the spool cannot give it: {resume:?}");
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    offer(&shipper, 1, 16 * MIB, 24 * MIB).await;
    let now = everywhere(&shipper, 1, 24 * MIB).await;
    assert!(now.regions[0].unverified.is_some() && sent <= 24 * MIB, "{now:?}");
    drop(shipper);
    // Once more, with what was sealed again in the region.
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 24 * MIB), segment(1)).unwrap();
    offer(&shipper, 1, 24 * MIB, 26 * MIB).await;
    everywhere(&shipper, 1, 26 * MIB).await;
    assert_eq!(world.log(0).await.wal_gaps().count(), 0, "nothing is missing");
    world.all_have(&[0], range(1, 16 * MIB, 26 * MIB), segment(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_after_the_start_ends_the_task_once_and_costs_no_wal() {
    let bare: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let world = World::with(vec![Arc::clone(&bare)]).await;
    let (stored, sent) = spooled_for_the_first(&world, 18 * MIB).await;
    world.stores[0].heal();
    // It answers, and takes no WAL yet.
    world.stores[0].add(Rule { key_contains: "wal/".to_owned(), ..puts_of_wal(Fault::Lost) });
    let shipper = world.start(world.settings()).await;
    plant(&*bare, 16 * MIB).await;
    world.stores[0].heal();
    let failed = tokio::time::timeout(Duration::from_secs(30), shipper.failed()).await;
    assert_eq!(failed.unwrap(), "upload into a region", "this run cannot open it");
    assert!(shipper.positions().confirmed.is_none_or(|confirmed| confirmed.lsn <= lsn(stored)));
    drop(shipper);
    let shipper = world.start(world.settings()).await;
    shipper.begin(at(1, 16 * MIB), segment(1)).unwrap();
    offer(&shipper, 1, 16 * MIB, sent).await;
    everywhere(&shipper, 1, sent).await;
    assert_eq!(world.log(0).await.wal_gaps().count(), 0, "nothing is missing");
    world.all_have(&[0], range(1, 16 * MIB, sent), segment(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_spool_keeps_for_one_region_stays_whatever_is_taken_in_another() {
    let world = World::new(2).await;
    plant(&*world.stores[1], 17 * MIB).await;
    let (_, sent) = spooled_for_the_first(&world, 19 * MIB).await;
    let before = world.spooled();
    // The server is down: nothing begins.
    let shipper = world.start(world.settings()).await;
    let failed = tokio::time::timeout(Duration::from_secs(3), shipper.failed()).await;
    assert!(failed.is_err(), "{failed:?}");
    let is_wal = |name: &&String| name.ends_with(".lbw");
    assert!(before.iter().filter(is_wal).all(|name| world.spooled().contains(name)), "{before:?}");
    world.stores[0].heal();
    // It no longer has what it was told is safe.
    shipper.begin(at(1, 19 * MIB), segment(1)).unwrap();
    let end = offer(&shipper, 1, 19 * MIB, 20 * MIB).await;
    everywhere(&shipper, 1, end).await;
    for region in 0..2 {
        assert_eq!(world.log(region).await.wal_gaps().count(), 0, "region {region}");
    }
    world.all_have(&[0, 1], range(1, 16 * MIB, end), segment(1)).await;
    assert!(sent <= end);
}
