//! Servers that went back to an earlier state, and WAL that cannot be replayed.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lifeboat_testkit::{PgServer, RestoredServer, Stop, majors_under_test, run_as_postgres};
use support::{LEDGER, Scene, insert, server_with_ledger};

fn is_refused(status: &serde_json::Value) -> bool {
    status["alarms"].as_array().is_some_and(|all| all.iter().any(|alarm| alarm["alarm"] == "wal-server-refused"))
}

/// Copies a data directory with all that belongs to it.
fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    run_as_postgres(&mut command).unwrap();
}

fn write(path: &Path, text: &str) {
    std::fs::File::create(path).and_then(|mut file| file.write_all(text.as_bytes())).unwrap();
}

fn restored_count(scene: &Scene, name: &str, major: u32, more: &[&str]) -> String {
    let target = scene.site.target(name);
    let mut arguments = vec!["restore", "--to", target.to_str().unwrap()];
    arguments.extend_from_slice(more);
    scene.site.restore(&arguments).expect(0);
    let copy = RestoredServer::start(&target, major).unwrap();
    copy.wait_until_promoted(Duration::from_secs(120)).unwrap();
    copy.psql("postgres", "SELECT count(*) || ' to ' || max(id) FROM ledger").unwrap().trim().to_owned()
}

#[test]
fn a_server_that_was_set_back_is_refused_for_good_until_what_it_lost_is_given_up() {
    let major = majors_under_test()[0];
    let mut server = server_with_ledger(major);
    let (scene, daemon) = Scene::protected(&server.connection_string(), "", "");
    let end = insert(&server, 1, 100);
    scene.wait_until_durable(&end);
    drop(daemon);
    server.stop(Stop::Fast).unwrap();
    let cold = server.data_dir().with_extension("cold");
    copy(server.data_dir(), &cold);
    server.start().unwrap();
    let daemon = scene.run_daemon();
    let acknowledged = insert(&server, 101, 200);
    scene.wait_until_durable(&acknowledged);
    drop(daemon);
    // The virtual machine is put back, and goes far beyond what is stored.
    server.stop(Stop::Fast).unwrap();
    std::fs::rename(server.data_dir(), server.data_dir().with_extension("lost")).unwrap();
    std::fs::rename(&cold, server.data_dir()).unwrap();
    server.start().unwrap();
    insert(&server, 5001, 9000);
    for _ in 0..2 {
        let daemon = scene.run_daemon();
        let status = scene.wait_for_status("a refusal", is_refused);
        assert!(status.to_string().contains("adopt --lost-wal"), "the way out is named: {status:#}");
        insert(&server, 9001, 9001);
        server.psql("postgres", "DELETE FROM ledger WHERE id = 9001").unwrap();
        drop(daemon);
    }
    let refused = scene.daemon(&["backup"]).expect(1);
    assert!(refused.err.contains("lost WAL"), "{}", refused.err);
    // Everything that was acknowledged can be restored, and nothing of the other history is in it.
    assert_eq!(restored_count(&scene, "before", major, &[]), "200 to 200");
    // Another cluster, to which a wrong setting leads, has positions that mean nothing here.
    let (stranger, settings) =
        (PgServer::builder(major).start().unwrap(), std::fs::read_to_string(scene.config()).unwrap());
    let wrong = settings.replace(&server.connection_string(), &stranger.connection_string());
    assert_ne!(wrong, settings);
    write(&scene.config(), &wrong);
    let strange = scene.daemon(&["adopt", "--lost-wal"]).expect(1);
    assert!(strange.err.contains("the server that was refused belongs to system"), "{}", strange.err);
    write(&scene.config(), &settings);
    let adopted = scene.daemon(&["adopt", "--lost-wal"]).expect(0);
    assert!(adopted.out.contains("put on record as missing"), "{}", adopted.out);
    server.psql("postgres", "SELECT pg_switch_wal()").unwrap();
    let daemon = scene.run_daemon();
    scene.wait_for_backups(2);
    let end = insert(&server, 9001, 9100);
    scene.wait_until_durable(&end);
    drop(daemon);
    assert_eq!(restored_count(&scene, "behind", major, &[]), "4200 to 9100");
    let window = scene.site.restore(&["--json", "window"]).expect(0);
    let windows: serde_json::Value = serde_json::from_str(&window.out).unwrap();
    assert_eq!(windows["windows"].as_array().unwrap().len(), 2, "two histories: {windows:#}");
    let daemon = scene.run_daemon();
    let end = insert(&server, 9101, 9200);
    scene.wait_until_durable(&end);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn wal_of_level_minimal_is_a_gap_and_orders_a_backup() {
    let major = majors_under_test()[0];
    let mut server = PgServer::builder(major).setting("wal_keep_size", "1GB").start().unwrap();
    server.psql("postgres", LEDGER).unwrap();
    let (scene, daemon) = Scene::protected(&server.connection_string(), "", "");
    let end = insert(&server, 1, 100);
    scene.wait_until_durable(&end);
    drop(daemon);
    server.psql("postgres", "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots").unwrap();
    for (level, senders) in [("minimal", "0"), ("replica", "10")] {
        server.psql("postgres", &format!("ALTER SYSTEM SET wal_level = {level}")).unwrap();
        server.psql("postgres", &format!("ALTER SYSTEM SET max_wal_senders = {senders}")).unwrap();
        server.restart().unwrap();
        server.psql("postgres", &format!("CREATE TABLE {level} AS SELECT generate_series(1, 10000) i")).unwrap();
    }
    insert(&server, 101, 200);
    let daemon = scene.run_daemon();
    scene.wait_for_backups(2);
    let end = insert(&server, 201, 300);
    scene.wait_until_durable(&end);
    assert!(scene.daemon_log().contains("wal_level was minimal"), "{}", scene.daemon_log());
    drop(daemon);
    let window = scene.site.restore(&["--json", "window"]).expect(0);
    let windows: serde_json::Value = serde_json::from_str(&window.out).unwrap();
    assert_eq!(windows["windows"].as_array().unwrap().len(), 2, "before it and behind it: {windows:#}");
    let oldest = windows["windows"][0]["backups"][0].as_str().unwrap();
    let target = scene.site.target("across");
    let across = ["restore", "--to", target.to_str().unwrap(), "--backup", oldest, "--dry-run"];
    scene.site.restore(&across).expect(10);
    assert_eq!(restored_count(&scene, "behind", major, &[]), "300 to 300");
}
