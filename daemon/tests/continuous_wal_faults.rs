//! Continuous WAL over regions that misbehave, and beside servers that must not write.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use std::num::NonZeroU64;
use std::process::Command;
use std::time::Duration;

use lifeboat_s3_testd::{Failure, FaultPlan, Operation, Times};
use lifeboat_testkit::{Checksums, PgServer, RestoredServer, Stop, majors_under_test, run_as_postgres};
use support::{LEDGER, Scene, insert, lsn_number, server_with_ledger};

/// How many rows are restored from this region alone.
fn rows_from(scene: &Scene, region: usize, major: u32) -> String {
    let target = scene.site.target(&format!("from-{region}"));
    let identity = scene.site.identity();
    let arguments = ["--identity", identity.to_str().unwrap(), "restore", "--to", target.to_str().unwrap()];
    scene.site.restore_from(&[region], &arguments).expect(0);
    let copy = RestoredServer::start(&target, major).unwrap();
    copy.wait_until_promoted(Duration::from_secs(120)).unwrap();
    copy.psql("postgres", "SELECT count(*) FROM ledger").unwrap().trim().to_owned()
}

fn has_alarm(status: &serde_json::Value, name: &str) -> bool {
    let alarms = status["alarms"].as_array().cloned().unwrap_or_default();
    alarms.iter().any(|alarm| alarm["alarm"].as_str().is_some_and(|alarm| alarm.starts_with(name)))
}

#[test]
fn a_region_has_every_commit_in_the_end_however_it_failed() {
    type Fault = fn(&mut FaultPlan);
    let faults: [(&str, Fault); 9] = [
        ("slow down", |plan| plan.slow_down_every = NonZeroU64::new(3)),
        ("500", |plan| plan.fail_all = Some(Failure::status(500))),
        ("503", |plan| plan.fail_all = Some(Failure::status(503))),
        ("no connection", |plan| plan.dead = true),
        ("lost answers", |plan| plan.lose_response_after_commit = Some(Times::of(Operation::PutObject, 5))),
        ("errors with status 200", |plan| plan.error_in_200 = Some(Times::any(3))),
        ("listings that lag", |plan| plan.list_lag = Duration::from_secs(3)),
        ("a clock that is off", |plan| plan.clock_offset_seconds = 120),
        ("slow answers", |plan| plan.delay.fixed = Duration::from_millis(1500)),
    ];
    let major = majors_under_test()[0];
    let server = server_with_ledger(major);
    let (scene, daemon) = Scene::protected(&server.connection_string(), "", "");
    let (mut rows, mut end) = (0, String::new());
    for (name, fault) in faults {
        scene.regions[1].faults().change(fault);
        for _ in 0..4 {
            end = insert(&server, rows + 1, rows + 100);
            rows += 100;
            std::thread::sleep(Duration::from_millis(400));
        }
        scene.regions[1].faults().clear();
        println!("{name}: {rows} rows");
    }
    scene.wait_until_durable(&end);
    drop(daemon);
    assert_eq!(rows_from(&scene, 1, major), rows.to_string(), "the region that misbehaved has all of it");
    assert_eq!(rows_from(&scene, 0, major), rows.to_string());
}

#[test]
fn a_region_that_never_answers_does_not_keep_wal_from_the_others_at_the_start() {
    let major = majors_under_test()[0];
    let server = server_with_ledger(major);
    let (scene, daemon) = Scene::protected(&server.connection_string(), "", "");
    daemon.kill();
    let end = insert(&server, 1, 100);
    scene.regions[1].faults().change(|plan| plan.delay.fixed = Duration::from_secs(600));
    let daemon = scene.run_daemon();
    let wanted = lsn_number(&end);
    scene.wait_for_status("WAL in the region that answers", |status| {
        status["quorum"]["durable"].as_str().is_some_and(|durable| lsn_number(durable) >= wanted)
    });
    assert!(scene.daemon_log().contains("it has not answered yet, and the others have"), "{}", scene.daemon_log());
    scene.regions[1].faults().clear();
    scene.wait_until_durable(&end);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_promoted_clone_is_kept_out_while_the_original_is_alive() {
    let major = majors_under_test()[0];
    let server = server_with_ledger(major);
    let (scene, _daemon) = Scene::protected(&server.connection_string(), "", "");
    let clone = server.standby().unwrap();
    clone.promote().unwrap();
    clone.psql("postgres", "INSERT INTO ledger VALUES (-1)").unwrap();
    // The clone's host has a copy of the configuration and of the keys, and a state directory of its own.
    let stranger = Scene::beside(&scene, "state-of-the-clone");
    stranger.configure_wal(&clone.connection_string(), "", "");
    let other = stranger.run_daemon();
    stranger.wait_for_status("a daemon that is kept out", |status| has_alarm(status, "wal-conflict/"));
    for region in 0..2 {
        assert_eq!(scene.keys(region, "/00000002/").len(), 0, "nothing of the clone was stored");
    }
    drop(other);
    scene.configure_wal(&server.connection_string(), "", "");
    let end = insert(&server, 1, 50);
    scene.wait_until_durable(&end);
}

#[test]
fn a_cloned_host_with_its_state_is_kept_out_and_both_raise_the_alarm() {
    let major = majors_under_test()[0];
    let server = server_with_ledger(major);
    let (scene, _daemon) = Scene::protected(&server.connection_string(), "", "");
    scene.wait_until_durable(&insert(&server, 1, 10));
    let clone = server.standby().unwrap();
    // Files come and go meanwhile, and `cp` complains of those that it has missed.
    let state = scene.site.dir.path().join(scene.state);
    let cloned = scene.site.dir.path().join("cloned-state");
    Command::new("cp").arg("-a").arg(state).arg(&cloned).output().unwrap();
    assert!(cloned.join("main/spool/instance").exists());
    clone.promote().unwrap();
    clone.psql("postgres", "INSERT INTO ledger VALUES (-1)").unwrap();
    let stranger = Scene::beside(&scene, "cloned-state");
    stranger.configure_wal(&clone.connection_string(), "", "");
    let _other = stranger.run_daemon();
    stranger.wait_for_status("a daemon that is kept out", |status| has_alarm(status, "wal-conflict/"));
    scene.wait_for_status("the original hears of it", |status| has_alarm(status, "wal-conflict/"));
    for region in 0..2 {
        assert_eq!(scene.keys(region, "/00000002/").len(), 0, "nothing of the clone was stored");
    }
    assert!(stranger.daemon_log().contains("this is another installation now"), "{}", stranger.daemon_log());
    // What is kept out does not keep the original from its work.
    scene.wait_until_durable(&insert(&server, 11, 50));
}

#[test]
fn an_old_primary_that_was_rewound_is_a_good_standby_and_a_good_primary_again() {
    let major = majors_under_test()[0];
    let mut first =
        PgServer::builder(major).checksums(Checksums::On).setting("wal_keep_size", "256MB").start().unwrap();
    first.psql("postgres", LEDGER).unwrap();
    let mut second = first.standby().unwrap();
    let both = format!(
        "host={},{} port={},{} user=postgres dbname=postgres target_session_attrs=read-write",
        first.socket_dir().display(),
        second.socket_dir().display(),
        first.port(),
        second.port()
    );
    let (scene, daemon) = Scene::protected(&both, "", "");
    let end = insert(&first, 1, 100);
    scene.wait_until_durable(&end);
    // The first one writes on after the second was promoted: that has to be undone.
    second.promote().unwrap();
    insert(&first, 9001, 9100);
    first.stop(Stop::Fast).unwrap();
    let end = insert(&second, 101, 200);
    scene.wait_until_durable(&end);
    let mut rewind = Command::new(second.bin_dir().join("pg_rewind"));
    rewind.arg("--target-pgdata").arg(first.data_dir());
    rewind.arg("--source-server").arg(second.connection_string()).args(["-R", "--no-sync"]);
    run_as_postgres(&mut rewind).unwrap();
    first.start().unwrap();
    let end = insert(&second, 201, 300);
    scene.wait_until_durable(&end);
    let caught_up = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
    let patience = std::time::Instant::now() + Duration::from_secs(60);
    while first.psql("postgres", &caught_up).unwrap().trim() != "t" {
        assert!(std::time::Instant::now() < patience, "the rewound server does not follow: {}", first.log_text());
        std::thread::sleep(Duration::from_millis(100));
    }
    second.stop(Stop::Kill).unwrap();
    first.promote().unwrap();
    let end = insert(&first, 301, 400);
    let status = scene.wait_until_durable(&end);
    assert_eq!(status["timeline"], 3, "{status:#}");
    drop(daemon);
    assert_eq!(rows_from(&scene, 0, major), "400", "and nothing of what was undone");
}
