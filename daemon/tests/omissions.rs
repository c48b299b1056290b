//! What the server leaves out of a base backup is found, judged, shown, and never restored in silence.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use std::os::unix::fs::symlink;

use lifeboat_testkit::{PgServer, Stop, majors_under_test};
use support::Scene;

/// Moves a member of the data directory away and puts a link in its place.
fn move_away(server: &mut PgServer, path: &str, to: &std::path::Path) {
    server.stop(Stop::Fast).unwrap();
    let from = server.data_dir().join(path);
    std::fs::rename(&from, to).unwrap();
    symlink(to, &from).unwrap();
    server.start().unwrap();
}

#[test]
fn a_database_that_was_moved_and_linked_makes_the_backup_incomplete_and_the_alarm_names_it() {
    for major in majors_under_test() {
        let mut server = PgServer::builder(major).start().unwrap();
        server.psql("postgres", "CREATE DATABASE big").unwrap();
        server.psql("big", "CREATE TABLE t AS SELECT 7 AS seven").unwrap();
        let oid = server.psql("postgres", "SELECT oid FROM pg_database WHERE datname = 'big'").unwrap();
        let path = format!("base/{}", oid.trim());
        let elsewhere = server.tablespace_dir("elsewhere").unwrap();
        move_away(&mut server, &path, &elsewhere.join("big"));

        let scene = Scene::new(2);
        scene.configure_wal(&server.connection_string(), "", "");
        scene.daemon(&["init"]).expect(0);
        let said = scene.daemon(&["backup", "--type", "full"]).expect(6);
        assert!(said.out.contains(&format!("missing data: {path}")), "{}", said.out);
        let list = scene.daemon(&["list"]).expect(0);
        assert!(list.out.contains("incomplete") && list.out.contains(&path), "{}", list.out);
        let verified = scene.site.restore(&["verify", &list_backup(&list.out)]).expect(6);
        assert!(verified.out.contains("is intact") && verified.out.contains(&path), "{}", verified.out);

        let daemon = scene.run_daemon();
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !scene.daemon(&["status"]).out.contains(&path) {
            assert!(std::time::Instant::now() < patience, "no alarm: {}", scene.daemon(&["status"]).out);
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        let status = scene.daemon(&["--json", "status"]);
        assert!(status.out.contains("backup-incomplete") && status.code != Some(0), "{}", status.out);
        let made = scene.daemon(&["list"]).out.lines().filter(|line| line.contains("Z-")).count();
        assert!(made <= 4, "an incomplete backup is not made again and again: {made}");
        drop(daemon);

        let target = scene.site.target("back");
        let to = ["restore", "--to", target.to_str().unwrap()];
        let none = scene.site.restore(&to).expect(8);
        assert!(none.err.contains(&path), "{}", none.err);
        let backup = list_backup(&list.out);
        let named = [&to[..], &["--backup", &backup]].concat();
        let plan = scene.site.restore(&[&named[..], &["--dry-run"]].concat()).expect(0);
        assert!(plan.out.contains(&format!("missing data: {path}")), "{}", plan.out);
        let refused = scene.site.restore(&named).expect(6);
        assert!(refused.err.contains("--accept-incomplete") && !target.exists(), "{}", refused.err);
        scene.site.restore(&[&named[..], &["--accept-incomplete"]].concat()).expect(0);
        assert!(!target.join(&path).exists());
    }
}

#[test]
fn a_linked_directory_of_log_files_is_a_note_and_no_more() {
    let mut server = PgServer::builder(majors_under_test()[0]).start().unwrap();
    std::fs::create_dir(server.data_dir().join("log")).unwrap();
    lifeboat_testkit::give_to_postgres(server.data_dir()).unwrap();
    let elsewhere = server.tablespace_dir("elsewhere").unwrap();
    move_away(&mut server, "log", &elsewhere.join("log"));
    let scene = Scene::new(1);
    scene.configure_wal(&server.connection_string(), "", "[durability]\nbackup_quorum = 1");
    scene.daemon(&["init"]).expect(0);
    let said = scene.daemon(&["backup", "--type", "full"]).expect(0);
    assert!(said.out.contains("not part of the backup: log"), "{}", said.out);
    assert!(scene.daemon(&["list"]).expect(0).out.contains(" ok "));
    let target = scene.site.target("back");
    scene.site.restore(&["restore", "--to", target.to_str().unwrap()]).expect(0);
}

/// The backup in the last line of a list that names one.
fn list_backup(list: &str) -> String {
    let is_backup = |line: &&str| line.contains("Z-") && !line.contains(':') || line.contains(" full ");
    let line = list.lines().rfind(is_backup);
    line.unwrap().split_whitespace().next().unwrap().to_owned()
}

/// A server whose configuration includes a directory that lies outside, in which `work_mem` is set.
fn server_with_outside(major: u32) -> (PgServer, std::path::PathBuf, tempfile::TempDir) {
    let outside = lifeboat_testkit::scratch_dir("lifeboat-etc-").unwrap();
    let directory = outside.path().join("conf.d");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("a.conf"), "work_mem = '17MB'\n").unwrap();
    lifeboat_testkit::give_to_postgres(outside.path()).unwrap();
    let server = PgServer::builder(major).setting("include_dir", directory.to_str().unwrap()).start().unwrap();
    (server, directory, outside)
}

#[test]
fn configuration_outside_of_the_data_directory_comes_back_as_text_or_as_values() {
    for major in majors_under_test() {
        for (role, rights, what) in [
            ("postgres", "", "text"),
            ("copier", "CREATE ROLE copier LOGIN REPLICATION; GRANT pg_read_all_settings TO copier", "values"),
            ("guest", "CREATE ROLE guest LOGIN REPLICATION", "nothing"),
        ] {
            let (server, directory, outside) = server_with_outside(major);
            let path = directory.to_str().unwrap();
            server.psql("postgres", if rights.is_empty() { "SELECT 1" } else { rights }).unwrap();
            let scene = Scene::new(1);
            let connection = server.connection_string().replace("user=postgres", &format!("user={role}"));
            scene.configure_wal(&connection, "", "[durability]\nbackup_quorum = 1");
            scene.daemon(&["init"]).expect(0);
            let said = scene.daemon(&["backup", "--type", "full"]).expect(0);
            let is_said = said.out.contains("configuration not kept") && said.out.contains(path);
            assert_eq!(is_said, what != "text", "{what}: {}", said.out);
            let doctor = scene.daemon(&["doctor"]);
            assert_eq!(doctor.out.contains(path), what == "values", "{what}: {}", doctor.out);

            outside.close().unwrap();
            let target = scene.site.target("back");
            let said = scene.site.restore(&["restore", "--to", target.to_str().unwrap()]).expect(0);
            assert!(said.out.contains(path), "{what}: {}", said.out);
            lifeboat_testkit::pg_verifybackup(&target).unwrap();
            let copy = lifeboat_testkit::RestoredServer::start(&target, major).unwrap();
            copy.wait_until_promoted(std::time::Duration::from_secs(60)).unwrap();
            let expected = if what == "nothing" { "4MB" } else { "17MB" };
            assert_eq!(copy.psql("postgres", "SHOW work_mem").unwrap().trim(), expected, "{what}, major {major}");
        }
    }
}
