//! Continuous WAL as a user has it: `lifeboatd run` beside a live server, two S3 regions, and recovery from the regions
//! alone.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use std::time::Duration;

use lifeboat_testkit::{PgServer, RestoredServer, Stop, majors_under_test};
use support::{BUCKET, Daemon, Scene, flushed, insert, lsn_number};

const LEDGER: &str = "CREATE TABLE ledger (id bigint PRIMARY KEY, made timestamptz NOT NULL DEFAULT clock_timestamp())";

fn server(major: u32) -> PgServer {
    PgServer::builder(major).setting("max_wal_size", "256MB").start().unwrap()
}

fn protected(server: &PgServer, cluster: &str, more: &str) -> (Scene, Daemon) {
    Scene::protected(&server.connection_string(), cluster, more)
}

/// Restores with these options and opens the copy.
fn restored(scene: &Scene, name: &str, major: u32, more: &[&str]) -> RestoredServer {
    let target = scene.site.target(name);
    let mut arguments = vec!["restore", "--to", target.to_str().unwrap()];
    arguments.extend(more);
    scene.site.restore(&arguments).expect(0);
    let copy = RestoredServer::start(&target, major).unwrap();
    copy.wait_until_promoted(Duration::from_secs(120)).unwrap();
    copy
}

fn ledger(copy: &RestoredServer) -> String {
    copy.psql("postgres", "SELECT count(*) || ' to ' || coalesce(max(id), 0) FROM ledger").unwrap().trim().to_owned()
}

#[test]
fn commits_are_restored_to_the_last_one_and_to_any_moment_before() {
    for major in majors_under_test() {
        let server = server(major);
        server.psql("postgres", LEDGER).unwrap();
        let (scene, daemon) = protected(&server, "", "");
        insert(&server, 1, 1000);
        let first = server.psql("postgres", "SELECT clock_timestamp()").unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let middle = insert(&server, 1001, 2000);
        server.psql("postgres", "SELECT pg_create_restore_point('before the mistake')").unwrap();
        let end = insert(&server, 2001, 3000);
        let status = scene.wait_until_durable(&end);
        assert!(status["alarms"].as_array().unwrap().is_empty(), "{status:#}");
        drop(daemon);

        assert_eq!(ledger(&restored(&scene, "latest", major, &[])), "3000 to 3000");
        let time = first.trim().replace(' ', "T");
        let time = if time.ends_with("+00") { format!("{time}:00") } else { time };
        assert_eq!(ledger(&restored(&scene, "time", major, &["--target-time", &time])), "1000 to 1000");
        let before = ["--target-lsn", middle.as_str(), "--exclusive"];
        assert_eq!(ledger(&restored(&scene, "lsn", major, &before)), "2000 to 2000");
        let named = ["--target-name", "before the mistake"];
        assert_eq!(ledger(&restored(&scene, "name", major, &named)), "2000 to 2000");
    }
}

#[test]
fn a_kill_of_the_daemon_costs_nothing_and_an_orderly_stop_leaves_nothing_behind() {
    let server = server(majors_under_test()[0]);
    server.psql("postgres", LEDGER).unwrap();
    let (scene, mut daemon) = protected(&server, "", "");
    let mut end = String::new();
    for round in 0..5_u32 {
        end = insert(&server, round * 1000 + 1, round * 1000 + 1000);
        std::thread::sleep(Duration::from_millis(u64::from(round) * 300));
        daemon.kill();
        daemon = scene.run_daemon();
    }
    scene.wait_until_durable(&end);
    end = insert(&server, 5001, 6000);
    assert_eq!(daemon.stop(), Some(0));
    let slot = "SELECT confirmed.restart_lsn >= '{}' FROM pg_replication_slots confirmed";
    let told = server.psql("postgres", &slot.replace("{}", &end)).unwrap();
    assert_eq!(told.trim(), "t", "what was there at the stop has been shipped and told to the server");
    assert_eq!(ledger(&restored(&scene, "back", server.major(), &[])), "6000 to 6000");
}

#[test]
fn synchronous_commits_wait_for_both_regions_and_time_out_into_the_open() {
    let server = server(majors_under_test()[0]);
    server.psql("postgres", LEDGER).unwrap();
    let more = "[durability]\nwal_quorum = 2\n";
    let (scene, daemon) = protected(&server, "[cluster.wal]\nsynchronous = true", more);
    server.psql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (lifeboat)'").unwrap();
    server.psql("postgres", "SELECT pg_reload_conf()").unwrap();
    scene.wait_for_status("a stream", |status| status["host"].is_string());
    insert(&server, 1, 100);
    let sync =
        server.psql("postgres", "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'lifeboat'");
    assert_eq!(sync.unwrap().trim(), "quorum");
    // Nothing was waited for: what the commit returned from is in both regions.
    drop(daemon);
    assert_eq!(ledger(&restored(&scene, "back", server.major(), &[])), "100 to 100");
    server.psql("postgres", "ALTER SYSTEM RESET synchronous_standby_names").unwrap();
    server.psql("postgres", "SELECT pg_reload_conf()").unwrap();
}

#[test]
fn a_region_away_for_long_fills_the_spool_holds_the_slot_and_catches_up() {
    let server = server(majors_under_test()[0]);
    server.psql("postgres", LEDGER).unwrap();
    let (scene, daemon) = protected(&server, "", "[limits]\nspool = \"64MiB\"\n");
    scene.regions[1].faults().change(|plan| plan.dead = true);
    let fill = "CREATE TABLE fill AS SELECT i, md5(random()::text) || md5(random()::text) || md5(random()::text) AS t \
                FROM generate_series(1, 1500000) i";
    server.psql("postgres", fill).unwrap();
    let full = scene.wait_for_status("a full spool", |status| {
        status["alarms"].as_array().is_some_and(|all| all.iter().any(|alarm| alarm["alarm"] == "wal-spool-full"))
    });
    assert!(full["spool_bytes"].as_u64().unwrap() <= 64 << 20, "{full:#}");
    let end = insert(&server, 1, 500);
    let held =
        server.psql("postgres", "SELECT pg_current_wal_lsn() - restart_lsn > 10000000 FROM pg_replication_slots");
    assert_eq!(held.unwrap().trim(), "t", "the server keeps what has no place elsewhere");
    // A checkpoint and a shutdown go through: nothing waits for an unread socket.
    server.psql("postgres", "CHECKPOINT").unwrap();
    scene.regions[1].faults().clear();
    scene.wait_until_durable(&end);
    scene.wait_for_status("the end of the alarm", |status| {
        status["alarms"].as_array().is_some_and(|all| all.iter().all(|alarm| alarm["alarm"] != "wal-spool-full"))
    });
    drop(daemon);
    let target = scene.site.target("second");
    let identity = scene.site.identity();
    let arguments = ["--identity", identity.to_str().unwrap(), "restore", "--to", target.to_str().unwrap()];
    scene.site.restore_from(&[1], &arguments).expect(0);
    let copy = RestoredServer::start(&target, server.major()).unwrap();
    copy.wait_until_promoted(Duration::from_secs(120)).unwrap();
    assert_eq!(ledger(&copy), "500 to 500", "the region that was away has everything by itself");
}

#[test]
fn a_primary_that_shuts_down_is_not_kept_waiting_by_dead_regions() {
    let mut server = server(majors_under_test()[0]);
    server.psql("postgres", LEDGER).unwrap();
    let (scene, daemon) = protected(&server, "", "");
    for region in scene.regions.iter() {
        region.faults().change(|plan| plan.dead = true);
    }
    insert(&server, 1, 1000);
    let begun = std::time::Instant::now();
    server.stop(Stop::Fast).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    for region in scene.regions.iter() {
        region.faults().clear();
    }
    server.start().unwrap();
    let end = insert(&server, 1001, 2000);
    scene.wait_until_durable(&end);
    drop(daemon);
    assert_eq!(ledger(&restored(&scene, "back", server.major(), &[])), "2000 to 2000");
}

#[test]
fn a_slot_that_is_lost_is_a_recorded_gap_and_a_new_base_backup() {
    let server = PgServer::builder(majors_under_test()[0])
        .setting("max_wal_size", "32MB")
        .setting("min_wal_size", "32MB")
        .setting("max_slot_wal_keep_size", "16MB")
        .start()
        .unwrap();
    server.psql("postgres", LEDGER).unwrap();
    let (scene, daemon) = protected(&server, "", "");
    let before = insert(&server, 1, 100);
    scene.wait_until_durable(&before);
    daemon.kill();
    for _ in 0..8 {
        server.psql("postgres", "CREATE TABLE IF NOT EXISTS fill (t text)").unwrap();
        server.psql("postgres", "INSERT INTO fill SELECT md5(i::text) FROM generate_series(1, 100000) i").unwrap();
        server.psql("postgres", "SELECT pg_switch_wal()").unwrap();
        server.psql("postgres", "CHECKPOINT").unwrap();
    }
    insert(&server, 101, 200);
    let daemon = scene.run_daemon();
    scene.wait_for_backups(2);
    let end = insert(&server, 201, 300);
    scene.wait_until_durable(&end);
    assert!(scene.daemon_log().contains("WAL is missing"), "{}", scene.daemon_log());
    drop(daemon);
    let window = scene.site.restore(&["--json", "window"]).expect(0);
    let windows: serde_json::Value = serde_json::from_str(&window.out).unwrap();
    assert_eq!(windows["windows"].as_array().unwrap().len(), 2, "before the gap and behind it: {windows:#}");
    assert!(windows["windows"][0]["wal_after_hole"].is_string(), "the gap is shown: {windows:#}");
    let reaches = windows["windows"][0]["to"]["lsn"].as_str().unwrap();
    assert!(lsn_number(reaches) >= lsn_number(&before), "the gap hides WAL that is stored: {before}, {windows:#}");
    assert_eq!(ledger(&restored(&scene, "back", server.major(), &[])), "300 to 300");
}

#[test]
fn the_newest_backup_alone_is_not_taken_for_the_latest_where_wal_is_on_record() {
    let server = server(majors_under_test()[0]);
    server.psql("postgres", LEDGER).unwrap();
    let (scene, daemon) = protected(&server, "", "");
    scene.wait_until_durable(&insert(&server, 1, 100));
    assert_eq!(daemon.stop(), Some(0));
    for (index, region) in scene.regions.iter().enumerate() {
        for key in scene.keys(index, "wal/").into_iter().chain(scene.keys(index, "slices/")) {
            region.remove_raw(BUCKET, &key).unwrap();
        }
    }
    let target = scene.site.target("back");
    let said = scene.site.restore(&["restore", "--to", target.to_str().unwrap()]).expect(10);
    assert!(said.err.contains("is not there any more; name a target"), "{}", said.err);
    assert!(said.err.contains("--target immediate"), "there is no WAL to name a position of: {}", said.err);
    assert!(!target.exists(), "nothing is written");
    // Nor where no sign of life is left that says how far WAL went, and a region does not answer.
    for (index, region) in scene.regions.iter().enumerate() {
        scene.keys(index, "state/head-").iter().for_each(|key| assert!(region.remove_raw(BUCKET, key).unwrap()));
    }
    let moment = scene.site.target("moment");
    let said = scene.site.restore(&["restore", "--dry-run", "--to", moment.to_str().unwrap()]).expect(0);
    assert!(said.out.contains("keys for WAL are on record, and no WAL is stored"), "{}", said.out);
    scene.regions[1].faults().change(|plan| plan.dead = true);
    let said = scene.site.restore(&["restore", "--to", target.to_str().unwrap()]).expect(10);
    assert!(said.err.contains("wait for it, or accept"), "{}", said.err);
    assert_eq!(ledger(&restored(&scene, "immediate", server.major(), &["--target", "immediate"])), "0 to 0");
}

#[test]
fn a_promoted_standby_is_followed_twice_and_the_old_primary_is_refused() {
    let mut primary = server(majors_under_test()[0]);
    primary.psql("postgres", LEDGER).unwrap();
    let mut standby = primary.standby().unwrap();
    let hosts = |servers: &[&PgServer]| {
        let host: Vec<String> = servers.iter().map(|s| s.socket_dir().display().to_string()).collect();
        let port: Vec<String> = servers.iter().map(|s| s.port().to_string()).collect();
        format!(
            "host={} port={} user=postgres dbname=postgres target_session_attrs=read-write",
            host.join(","),
            port.join(",")
        )
    };
    let scene = Scene::new(2);
    scene.configure_wal(&hosts(&[&primary, &standby]), "", "");
    scene.daemon(&["init"]).expect(0);
    let daemon = scene.run_daemon();
    scene.wait_for_backups(1);
    let load = insert(&primary, 1, 1000);
    scene.wait_until_durable(&load);
    primary.stop(Stop::Kill).unwrap();
    standby.promote().unwrap();
    let end = insert(&standby, 1001, 2000);
    let status = scene.wait_until_durable(&end);
    assert_eq!(status["timeline"], 2, "{status:#}");
    // The daemon is killed before its heads say that it went on there, and finds the old primary.
    daemon.kill();
    primary.start().unwrap();
    scene.configure_wal(&primary.connection_string(), "", "");
    let daemon = scene.run_daemon();
    scene.wait_for_status("a refusal", is_refused);
    drop(daemon);
    primary.stop(Stop::Kill).unwrap();
    let second = standby.standby().unwrap();
    scene.configure_wal(&hosts(&[&standby, &second]), "", "");
    let daemon = scene.run_daemon();
    let end = insert(&standby, 2001, 3000);
    scene.wait_until_durable(&end);
    standby.stop(Stop::Kill).unwrap();
    second.promote().unwrap();
    let end = insert(&second, 3001, 4000);
    let status = scene.wait_until_durable(&end);
    assert_eq!(status["timeline"], 3, "{status:#}");
    drop(daemon);

    // The first primary starts again as a primary.
    primary.start().unwrap();
    primary.psql("postgres", "INSERT INTO ledger VALUES (-666)").unwrap();
    scene.configure_wal(&primary.connection_string(), "", "");
    let before = scene.keys(0, "wal/").len() + scene.keys(0, "slices/").len();
    let daemon = scene.run_daemon();
    scene.wait_for_status("a refusal", is_refused);
    assert_eq!(scene.keys(0, "wal/").len() + scene.keys(0, "slices/").len(), before, "nothing of it was stored");
    drop(daemon);
    assert_eq!(ledger(&restored(&scene, "back", primary.major(), &[])), "4000 to 4000");
}

fn is_refused(status: &serde_json::Value) -> bool {
    status["alarms"].as_array().is_some_and(|all| all.iter().any(|alarm| alarm["alarm"] == "wal-server-refused"))
}

fn backups(scene: &Scene) -> usize {
    scene.daemon(&["list"]).expect(0).out.lines().filter(|line| line.contains("Z-")).count()
}

#[test]
fn a_restored_copy_cannot_write_into_the_originals_repository_until_it_is_adopted() {
    let major = majors_under_test()[0];
    let server = server(major);
    server.psql("postgres", LEDGER).unwrap();
    let (scene, daemon) = protected(&server, "", "");
    let end = insert(&server, 1, 100);
    scene.wait_until_durable(&end);
    drop(daemon);
    let copy = restored(&scene, "copy", major, &[]);
    let before = backups(&scene);
    scene.configure_wal(&copy.connection_string(), "", "");
    let daemon = scene.run_daemon();
    let status = scene.wait_for_status("a refusal", |status| {
        status["alarms"].as_array().is_some_and(|all| all.iter().any(|alarm| alarm["alarm"] == "wal-server-refused"))
    });
    assert!(status.to_string().contains("lifeboatd adopt"), "the way out is named: {status:#}");
    assert_eq!(scene.keys(0, "wal/00000002").len(), 0);
    let refused = scene.daemon(&["backup"]).expect(1);
    assert!(refused.err.contains("the restored copy") && refused.err.contains("lifeboatd adopt"), "{}", refused.err);
    drop(daemon);
    assert_eq!(backups(&scene), before, "nor is there a backup of it");
    scene.daemon(&["adopt"]).expect(0);
    scene.daemon(&["backup"]).expect(0);
    let daemon = scene.run_daemon();
    copy.psql("postgres", "INSERT INTO ledger SELECT generate_series(101, 150)").unwrap();
    let end = copy.psql("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap();
    scene.wait_until_durable(&end);
    drop(daemon);
    // And now the original is the stranger.
    scene.configure_wal(&server.connection_string(), "", "");
    let _daemon = scene.run_daemon();
    scene.wait_for_status("a refusal of the original", |status| {
        status["alarms"].as_array().is_some_and(|all| all.iter().any(|alarm| alarm["alarm"] == "wal-server-refused"))
    });
}

#[test]
fn segments_of_64_mib_and_of_1_mib_are_restored() {
    for size in [64, 1] {
        let major = majors_under_test()[0];
        let server = PgServer::builder(major).wal_segsize_mb(size).start().unwrap();
        server.psql("postgres", LEDGER).unwrap();
        let (scene, daemon) = protected(&server, "", "");
        server.psql("postgres", "CREATE TABLE fill AS SELECT md5(i::text) FROM generate_series(1, 2000000) i").unwrap();
        let end = insert(&server, 1, 100);
        scene.wait_until_durable(&end);
        assert!(lsn_number(&end) > 150 << 20, "more than a segment was written: {end}");
        drop(daemon);
        assert_eq!(ledger(&restored(&scene, "back", major, &[])), "100 to 100", "{size} MiB");
    }
}

#[test]
fn nothing_that_is_written_can_be_read_without_a_key() {
    let server = server(majors_under_test()[0]);
    server.psql("postgres", "CREATE TABLE secret (t text)").unwrap();
    let (scene, daemon) = protected(&server, "", "");
    server
        .psql("postgres", "INSERT INTO secret SELECT 'xyzzy-plaintext-canary' FROM generate_series(1, 1000)")
        .unwrap();
    let end = flushed(&server);
    scene.wait_until_durable(&end);
    drop(daemon);
    for region in scene.regions.iter() {
        for key in region.keys(support::BUCKET) {
            let bytes = region.object(support::BUCKET, &key).unwrap();
            let found = bytes.windows(22).any(|window| window == b"xyzzy-plaintext-canary");
            assert!(!found, "{key} can be read by anybody");
        }
    }
}
