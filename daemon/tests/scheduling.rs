//! Schedules as a user has them: the program, a live server, two S3 regions, and the minutes of a real clock.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lifeboat_testkit::{PgServer, majors_under_test};
use lifeboat_vocabulary::{Clock, SystemClock, UtcTime};
use serde_json::Value;
use support::{Said, Scene};

const BACKUP_ALONE: &str = "[daemon]\nroles = [\"backup\"]\n";

fn server() -> PgServer {
    PgServer::builder(majors_under_test()[0]).start().unwrap()
}

fn scene_of(server: &PgServer, schedule: &str, more: &str) -> Scene {
    let scene = Scene::new(2);
    scene.configure_wal(&server.connection_string(), &format!("[cluster.schedule]\n{schedule}"), more);
    scene.daemon(&["init"]).expect(0);
    scene
}

fn history_file(scene: &Scene) -> PathBuf {
    scene.site.dir.path().join(scene.state).join("main").join("runs.json")
}

/// The runs that the daemon remembers.
fn runs(scene: &Scene) -> Vec<Value> {
    let Ok(text) = std::fs::read(history_file(scene)) else { return Vec::new() };
    let all: Value = serde_json::from_slice(&text).unwrap();
    all["runs"].as_array().unwrap().clone()
}

fn done(scene: &Scene, kind: &str) -> Vec<Value> {
    let is_done = |run: &Value| run["kind"] == kind && run["result"]["ending"] == "done";
    runs(scene).into_iter().filter(is_done).collect()
}

fn time(value: &Value) -> UtcTime {
    value.as_str().unwrap().parse().unwrap()
}

#[track_caller]
fn wait(what: &str, patience: u64, mut is_true: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(patience);
    while !is_true() {
        assert!(Instant::now() < end, "{what} does not come");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A backup that takes a minute, once it holds the lock.
fn slow_backup(scene: &Scene) -> Child {
    let mut command = scene.daemon_command();
    command.arg("backup").env("LIFEBOAT_CLUSTER__MAIN__BACKUP__MAX_RATE", "512KiB");
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait("the backup's first object", 60, || !scene.keys(0, ".lbp").is_empty() || runs(scene).len() == 1);
    child
}

fn stop(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn log(scene: &Scene) -> String {
    std::fs::read_to_string(scene.site.dir.path().join(format!("lifeboatd-{}.log", scene.state))).unwrap_or_default()
}

#[test]
fn a_schedule_of_every_minute_is_kept_to_the_second_by_one_of_two_daemons() {
    let server = server();
    let scene = scene_of(&server, "full = \"* * * * *\"", "");
    let daemon = scene.run_daemon();
    wait("the first backup, which WAL orders", 60, || done(&scene, "ordered").len() == 1);

    let second = scene.daemon(&["run"]).expect(11);
    assert!(second.err.contains("cluster main is protected already"), "{}", second.err);
    let text = std::fs::read_to_string(scene.config()).unwrap();
    let stranger = scene.site.dir.path().join("stranger.toml");
    std::fs::write(&stranger, text.replacen("name = \"main\"", "name = \"stranger\"", 1)).unwrap();
    let mut third = Command::new(env!("CARGO_BIN_EXE_lifeboatd"));
    let third = third.arg("--config").arg(&stranger).arg("run").stdin(Stdio::null());
    let third = Said::from(third.output().unwrap()).expect(11);
    assert!(third.err.contains("is in use") && third.err.contains("state.directory"), "{}", third.err);

    // Another host, as it were: it has a state directory of its own.
    let beside = Scene::beside(&scene, "beside");
    let schedule = "[cluster.schedule]\nfull = \"* * * * *\"";
    beside.configure_wal(&server.connection_string(), schedule, "");
    let other = beside.run_daemon();

    let before = done(&scene, "scheduled").len();
    wait("a scheduled backup", 75, || done(&scene, "scheduled").len() > before);
    let run = done(&scene, "scheduled").pop().unwrap();
    let (planned, started) = (time(&run["planned"]), time(&run["started"]));
    assert_eq!(planned.as_unix_seconds() % 60, 0, "{run}");
    assert!(started >= planned && started.since(planned) < Duration::from_secs(10), "{run}");
    wait("a refusal by the other daemon", 30, || log(&beside).contains("another installation protects the cluster"));
    let told = || {
        let said = beside.daemon(&["--json", "status"]);
        let status: Value = serde_json::from_str(&said.out).unwrap_or_default();
        status["clusters"][0]["alarms"].to_string().contains("backup-second-writer")
    };
    wait("an alarm of the other daemon", 120, told);
    assert!(runs(&beside).iter().all(|run| run["kind"] == "found"), "{:?}", runs(&beside));
    assert!(beside.daemon_log().matches("\"a backup begins\"").count() == 0, "{}", log(&beside));
    // The first host is lost: its leases end by themselves, and the other takes over.
    daemon.kill();
    let before = done(&beside, "scheduled").len() + done(&beside, "ordered").len();
    let good = || done(&beside, "scheduled").len() + done(&beside, "ordered").len();
    wait("a backup by the other daemon", 240, || good() > before);
    wait("the end of its alarm", 60, || !told());
    drop(other);
}

#[test]
fn a_backup_by_hand_a_second_one_and_the_daemon_wait_for_each_other() {
    let server = server();
    let scene = scene_of(&server, "full = \"0 0 1 1 *\"", BACKUP_ALONE);
    let slow = slow_backup(&scene);
    let refused = scene.daemon(&["backup"]).expect(11);
    assert!(refused.err.contains("a backup by hand is under way: process "), "{}", refused.err);
    let daemon = scene.run_daemon();
    let held = || {
        let said = scene.daemon(&["--json", "status"]);
        let status: Value = serde_json::from_str(&said.out).unwrap_or_default();
        status["clusters"][0]["next_run"]["why"]
            .as_str()
            .is_some_and(|why| why.contains("a backup by hand is under way"))
    };
    wait("word of the daemon that it waits", 60, held);
    stop(slow);
    wait("the daemon's own", 60, || done(&scene, "scheduled").len() == 1);
    let first = runs(&scene).remove(0);
    assert_eq!((&first["kind"], &first["result"]["ending"]), (&"by-hand".into(), &"interrupted".into()), "{first}");
    drop(daemon);
    scene.daemon(&["backup"]).expect(0);
    assert_eq!(done(&scene, "by-hand").len(), 1);
}

#[test]
fn a_run_that_was_missed_is_made_up_for_once_at_the_start() {
    let server = server();
    let ago =
        |seconds: i64| UtcTime::from_unix_micros(SystemClock.now().as_unix_micros() - seconds * 1_000_000).unwrap();
    // Half an hour ago, each day.
    let missed = ago(1800).for_tables();
    let (hour, minute) = (missed.get(11..13).unwrap(), missed.get(14..16).unwrap());
    let scene = scene_of(&server, &format!("full = \"{minute} {hour} * * *\""), BACKUP_ALONE);
    scene.daemon(&["backup"]).expect(0);
    // Now it was three days ago.
    let mut all: Value = serde_json::from_slice(&std::fs::read(history_file(&scene)).unwrap()).unwrap();
    for key in ["started", "ended"] {
        all["runs"][0][key] = ago(3 * 86_400).to_string().into();
    }
    std::fs::write(history_file(&scene), serde_json::to_vec(&all).unwrap()).unwrap();
    let daemon = scene.run_daemon();
    wait("the run that was missed", 60, || done(&scene, "scheduled").len() == 1);
    assert!(log(&scene).contains("was missed"), "{}", log(&scene));
    daemon.kill();
    // The history is lost: the regions know of the backup, and nothing is made up for twice.
    std::fs::remove_file(history_file(&scene)).unwrap();
    let daemon = scene.run_daemon();
    wait("the backup that the regions know", 60, || done(&scene, "found").len() == 1);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(runs(&scene).len(), 1, "{:?}", runs(&scene));
    drop(daemon);
}

#[test]
fn a_region_that_hangs_does_not_keep_the_others_from_the_first_backup() {
    let server = server();
    let scene = scene_of(&server, "full = \"0 0 1 1 *\"", &format!("{BACKUP_ALONE}[durability]\nbackup_quorum = 1\n"));
    scene.regions[0].faults().change(|plan| plan.delay.fixed = Duration::from_secs(600));
    let daemon = scene.run_daemon();
    let begun = || log(&scene).contains("\"a backup begins\"");
    wait("the beginning of the first backup", 60, begun);
    scene.regions[0].faults().change(|plan| plan.delay.fixed = Duration::ZERO);
    wait("a good backup", 200, || {
        runs(&scene).iter().any(|run| run["result"]["ending"] == "done" || run["result"]["ending"] == "degraded")
    });
    drop(daemon);
}
