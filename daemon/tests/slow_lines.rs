//! A line that is slow and healthy: all regions share it, and everything works, slowly. WAL does not wait for backups.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lifeboat_s3_testd::{Bucket, Config, Proxy, Server, SharedLine};
use lifeboat_testkit::{PgServer, Site, built_beside, majors_under_test, pg_verifybackup};
use support::{BUCKET, Scene, insert, server_with_ledger};

/// The longest that a commit may wait for both regions while a backup fills the line.
const WAL_MAX: Duration = Duration::from_secs(60);
/// More than any of these takes, by far.
const PATIENCE: Duration = Duration::from_secs(240);
/// One Mbit/s, in **bytes** per second.
const ONE_MBIT: u64 = 125_000;

/// A scene whose regions are reached over one line.
struct Distant {
    scene: Scene,
    proxies: Vec<Proxy>,
}

impl Distant {
    /// With `count` regions, and a line that is fast at first.
    fn new(count: usize) -> Self {
        let config = || Config { buckets: vec![Bucket::plain(BUCKET)], ..Config::default() };
        let regions: Vec<Server> = (0..count).map(|_| Server::start(config()).unwrap()).collect();
        let proxies: Vec<Proxy> = regions.iter().map(|region| Proxy::start(region.addr()).unwrap()).collect();
        let restore = built_beside(Path::new(env!("CARGO_BIN_EXE_lifeboatd")), "lifeboat-restore");
        let site = Site::new("lifeboat-slow", &restore, proxies.iter().map(Proxy::url).collect()).unwrap();
        let scene = Scene { site: Arc::new(site), regions: Arc::new(regions), state: "state" };
        Self { scene, proxies }
    }

    /// From now on all regions together have so many **bytes** per second in each direction, and a round trip takes so long.
    fn slow_down(&self, bytes_per_second: u64, round_trip: Duration) {
        let line = || SharedLine::new(NonZeroU64::new(bytes_per_second).unwrap());
        let (up, down) = (line(), line());
        for proxy in &self.proxies {
            proxy.change(|network| {
                network.latency = round_trip / 2;
                (network.up.shared, network.down.shared) = (Some(up.clone()), Some(down.clone()));
            });
        }
    }

    /// Whether the data of a backup is in every region.
    fn has_backup(&self) -> bool {
        (0..self.proxies.len()).all(|region| !self.scene.keys(region, "packs.sha256").is_empty())
    }
}

/// A server with a table `ledger`, and so many MiB that cannot be compressed.
fn server(mib: u32) -> PgServer {
    let server = server_with_ledger(majors_under_test()[0]);
    let noise = format!(
        "CREATE TABLE noise AS SELECT decode(md5(i::text) || md5((-i)::text), 'hex') AS bytes FROM generate_series(1, {}) i",
        mib * 32768
    );
    server.psql("postgres", &noise).unwrap();
    server
}

/// Two regions share a line, a backup is made over it, and commits go on meanwhile.
#[track_caller]
fn a_backup_and_wal_share(bytes_per_second: u64, round_trip: Duration, noise_mib: u32) {
    let (server, distant) = (server(noise_mib), Distant::new(2));
    let scene = &distant.scene;
    scene.configure_wal(&server.connection_string(), "", "");
    scene.daemon(&["init"]).expect(0);
    distant.slow_down(bytes_per_second, round_trip);
    let daemon = scene.run_daemon();
    let begun = Instant::now();
    let (mut row, mut waits) = (0, Vec::new());
    while !distant.has_backup() {
        assert!(begun.elapsed() < PATIENCE, "there is no backup: {}", daemon.log());
        row += 1;
        let end = insert(&server, row, row);
        let committed = Instant::now();
        scene.wait_until_durable(&end);
        // What came after the backup does not show that WAL has a part of the line.
        if !distant.has_backup() {
            waits.push(committed.elapsed());
        }
    }
    let log = daemon.log();
    assert!(!log.contains("is excluded from this backup"), "{log}");
    assert!(!waits.is_empty(), "no commit became durable while the backup was made: {log}");
    assert!(waits.iter().all(|wait| *wait < WAL_MAX), "{waits:?}: {log}");
    scene.wait_for_backups(1);
    let listed = scene.daemon(&["list"]).expect(0);
    assert!(!listed.out.contains("missing"), "{}", listed.out);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn two_regions_that_share_256_kib_per_second_get_a_backup_and_wal_meanwhile() {
    a_backup_and_wal_share(256 << 10, Duration::from_millis(40), 1);
}

#[test]
fn a_backup_and_wal_share_a_slow_line_with_a_long_way() {
    a_backup_and_wal_share(256 << 10, Duration::from_millis(300), 1);
}

#[test]
fn a_backup_and_wal_share_a_better_line_with_a_long_way() {
    a_backup_and_wal_share(3 << 20, Duration::from_millis(300), 16);
}

/// A region with a backup, and a line of one Mbit/s from now on.
fn one_distant_region() -> (PgServer, Distant) {
    let (server, distant) = (server(1), Distant::new(1));
    distant.scene.configure(&server, "");
    distant.scene.daemon(&["init"]).expect(0);
    distant.scene.daemon(&["backup"]).expect(0);
    distant.slow_down(ONE_MBIT, Duration::from_millis(40));
    (server, distant)
}

#[test]
fn a_backup_is_restored_over_one_mbit_per_second() {
    let (_server, distant) = one_distant_region();
    let target = distant.scene.site.target("back");
    let restored = distant.scene.site.restore(&["restore", "--to", target.to_str().unwrap()]).expect(0);
    pg_verifybackup(&target).unwrap();
    assert!(restored.err.contains(" left"), "it says how long it takes: {}", restored.err);
}

#[test]
fn a_backup_is_verified_over_one_mbit_per_second_and_is_not_damaged() {
    let (_server, distant) = one_distant_region();
    let verified = distant.scene.site.restore(&["verify"]).expect(0);
    assert!(verified.out.contains("is intact") && !verified.out.contains("DAMAGED"), "{}", verified.out);
}

#[test]
fn a_region_is_healed_over_a_slow_line() {
    let (server, distant) = (server(1), Distant::new(2));
    let scene = &distant.scene;
    scene.configure(&server, "[durability]\nbackup_quorum = 1");
    scene.daemon(&["init"]).expect(0);
    scene.regions[1].faults().change(|plan| plan.dead = true);
    scene.daemon(&["backup"]).expect(4);
    scene.regions[1].faults().clear();
    distant.slow_down(256 << 10, Duration::from_millis(40));
    let healed = scene.daemon(&["heal"]).expect(0);
    assert!(healed.out.contains("has everything"), "{}", healed.out);
}
