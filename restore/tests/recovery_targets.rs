//! Recovery to every kind of target, with real servers: what is restored is exactly the committed prefix.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use lifeboat_testkit::{PgServer, PgServerBuilder, majors_under_test};
use support::{Scene, Shipper};

fn server(major: u32) -> PgServerBuilder {
    // A server that logs next to nothing: where its copy stops is known all the same.
    let quiet = PgServer::builder(major).setting("log_min_messages", "panic");
    quiet.setting("wal_keep_size", "1GB").setting("max_wal_size", "1GB").setting("fsync", "off")
}

/// Commits the next line of the ledger, and returns transaction, position after it, and time after it.
fn commit(server: &PgServer) -> (String, String, String) {
    let xid =
        server.psql("postgres", "INSERT INTO ledger DEFAULT VALUES RETURNING pg_current_xact_id()::text").unwrap();
    let lsn = server.psql("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap();
    // Times in WAL have microseconds; the next commit must be later than this.
    let time = server.psql("postgres", "SELECT clock_timestamp()::text || pg_sleep(0.01)").unwrap();
    (xid, lsn, time)
}

const LEDGER: &str = "CREATE TABLE ledger (i bigint GENERATED ALWAYS AS IDENTITY, at timestamptz DEFAULT now())";

#[test]
fn every_kind_of_target_restores_exactly_the_committed_prefix() {
    for major in majors_under_test() {
        let server = server(major).start().unwrap();
        server.psql("postgres", LEDGER).unwrap();
        let scene = Scene::new(2);
        commit(&server);
        scene.init_and_back_up(&server);
        // The archive begins before the second backup.
        let mut shipper = Shipper::new(&scene, &server);
        let second = scene.back_up();
        let marks: Vec<_> = (2..=6).map(|_| commit(&server)).collect();
        let name = |text: &str| server.psql("postgres", &format!("SELECT pg_create_restore_point('{text}')")).unwrap();
        name("twice");
        commit(&server);
        name("twice");
        commit(&server);
        let aborted = "BEGIN; INSERT INTO ledger DEFAULT VALUES; SELECT pg_current_xact_id(); ROLLBACK";
        let aborted = server.psql("postgres", aborted).unwrap();
        server.psql("postgres", "SELECT setval(pg_get_serial_sequence('ledger', 'i'), 8)").unwrap();
        commit(&server);
        server.psql("postgres", "SELECT pg_switch_wal()").unwrap();
        commit(&server);
        shipper.ship(&server);
        // marks[k] belongs to ledger line k + 2; lines 7 to 10 came after.
        let (xid, lsn, time) = (&marks[2].0, &marks[2].1, &marks[2].2);
        for (why, arguments, expected) in [
            ("latest", vec![], 10),
            ("time", vec!["--target-time", time], 4),
            ("position, before the next record", vec!["--target-lsn", lsn, "--exclusive"], 4),
            ("transaction", vec!["--target-xid", xid], 4),
            ("transaction, exclusive", vec!["--target-xid", xid, "--exclusive"], 3),
            ("the newest of two restore points", vec!["--target-name", "twice"], 7),
            ("immediate", vec!["--target", "immediate"], 1),
            ("from an older place", vec!["--backup", &second, "--target-time", time], 4),
        ] {
            let copy = scene.start(&why.replace([' ', ','], "-"), major, &arguments);
            assert_eq!(scene.ledger(&copy), expected, "{why}, major {major}: {}", copy.report);
            assert_eq!(copy.report["recovery"]["state"], "open", "{why}");
            assert_eq!(copy.psql("SELECT pg_is_in_recovery()"), "f", "{why}");
            assert_eq!(copy.psql("SHOW archive_mode"), "off", "{why}");
            assert_eq!(copy.psql("SELECT length(current_setting('lifeboat.incarnation'))"), "16", "{why}");
            let timeline = if why == "immediate" { 2 } else { copy.report["recovery"]["timeline"].as_i64().unwrap() };
            assert_eq!(timeline, 2, "{why}");
        }

        let paused = scene.start("paused", major, &["--target-xid", xid, "--target-action", "pause"]);
        assert_eq!((scene.ledger(&paused), paused.psql("SELECT pg_is_in_recovery()").as_str()), (4, "t"));
        assert_eq!(paused.report["recovery"]["state"], "paused");
        let stopped = scene.start("stopped", major, &["--target-xid", xid, "--target-action", "shutdown"]);
        assert_eq!(stopped.report["recovery"]["state"], "stopped", "{}", stopped.report);
        assert!(!stopped.data.join("postmaster.pid").exists());

        refuse(&scene, &aborted);
        println!("{}", scene.site.restore(&["window"]).expect(0).out);
    }
}

/// Targets that cannot be reached: refused with words that help, and before a byte is written.
fn refuse(scene: &Scene, aborted: &str) {
    for (why, arguments, words) in [
        ("future", vec!["--target-time", "2999-01-01T00:00:00Z"], "the newest moment that can be reached is"),
        ("past", vec!["--target-time", "2001-01-01T00:00:00Z"], "no backup on this timeline was complete by"),
        ("behind", vec!["--target-lsn", "FF/0"], "no WAL without a hole leads to FF/0"),
        ("before", vec!["--target-lsn", "0/1000028"], "no backup on this timeline is consistent at or before"),
        ("rolled back", vec!["--target-xid", aborted], "was rolled back"),
        ("unknown", vec!["--target-xid", "999999"], "holds no commit of transaction 999999"),
        ("no name", vec!["--target-name", "nobody"], "holds no restore point `nobody`"),
        ("no timeline", vec!["--target-timeline", "7"], "the archive knows no timeline 7"),
    ] {
        let target = scene.site.dir.path().join("refused");
        let mut all = vec!["restore", "--to", target.to_str().unwrap()];
        all.extend(arguments);
        let said = scene.site.restore(&all).expect(10);
        assert!(said.err.contains(words), "{why}: {}", said.err);
        assert!(said.err.contains("what can be reached: on timeline 1 "), "{why}: {}", said.err);
        assert!(!target.exists() && !target.with_file_name("refused-wal-fetch").exists(), "{why}");
    }
}

#[test]
fn a_time_behind_the_last_commit_is_reached_only_if_the_archive_is_known_to_have_lived_then() {
    let major = majors_under_test()[0];
    let server = server(major).start().unwrap();
    server.psql("postgres", LEDGER).unwrap();
    let scene = Scene::new(1);
    let backup = scene.init_and_back_up(&server);
    let mut shipper = Shipper::new(&scene, &server);
    scene.back_up();
    commit(&server);
    let (_, _, later) = commit(&server);
    shipper.ship(&server);
    let target = scene.site.target("refused");
    let arguments = ["restore", "--to", target.to_str().unwrap(), "--target-time", &later];
    let said = scene.site.restore(&arguments).expect(10);
    assert!(said.err.contains("lies after everything that is verified to be stored"), "{}", said.err);
    shipper.sign_of_life();
    let copy = scene.start("back", major, &["--target-time", &later]);
    assert_eq!(scene.ledger(&copy), 2);
    // The archive begins behind the first backup.
    let said = scene.site.restore(&["restore", "--to", target.to_str().unwrap(), "--backup", &backup]).expect(10);
    assert!(said.err.contains("WAL is missing from"), "{}", said.err);
    let arguments = ["restore", "--to", target.to_str().unwrap(), "--backup", &backup, "--target", "immediate"];
    scene.site.restore(&arguments).expect(0);
}

#[test]
fn a_target_on_the_older_branch_of_a_fork_is_reached_and_so_is_the_newer() {
    let major = majors_under_test()[0];
    let primary = server(major).start().unwrap();
    primary.psql("postgres", LEDGER).unwrap();
    let scene = Scene::new(1);
    scene.init_and_back_up(&primary);
    let mut shipper = Shipper::new(&scene, &primary);
    scene.back_up();
    let standby = primary.standby().unwrap();
    let fork = commit(&primary).1;
    let caught_up = format!("SELECT pg_last_wal_replay_lsn() >= '{fork}'::pg_lsn");
    while standby.psql("postgres", &caught_up).unwrap() != "t" {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    standby.promote().unwrap();
    // The old primary goes on for a while: two commits that the new one has not.
    commit(&primary);
    let old = commit(&primary);
    commit(&primary);
    shipper.ship(&primary);
    shipper.follow(&standby, 2);
    standby.psql("postgres", "INSERT INTO ledger OVERRIDING SYSTEM VALUE VALUES (2), (3), (4), (5), (6)").unwrap();
    shipper.ship(&standby);

    let newest = scene.start("newest", major, &[]);
    assert_eq!(scene.ledger(&newest), 6);
    assert_eq!(newest.report["recovery"]["timeline"], 3, "history 2 is known, so that 3 is the next free one");
    let older = scene.start("older", major, &["--target-timeline", "0x1", "--target-lsn", &old.1, "--exclusive"]);
    assert_eq!(scene.ledger(&older), 3);
    assert_eq!(older.report["recovery"]["timeline"], 3, "the number of the other branch is not taken again");
    let window = scene.site.restore(&["window"]).expect(0).out;
    assert_eq!(window.lines().count(), 6, "{window}");
}

#[test]
fn segments_of_one_and_of_64_mib_and_a_tail_of_slices_are_restored() {
    let major = majors_under_test()[0];
    for size in [1, 64] {
        let server = server(major).wal_segsize_mb(size).start().unwrap();
        server.psql("postgres", LEDGER).unwrap();
        let scene = Scene::new(1);
        scene.init_and_back_up(&server);
        let mut shipper = Shipper::new(&scene, &server);
        scene.back_up();
        server
            .psql("postgres", "CREATE TABLE filler AS SELECT repeat(md5(i::text), 20) FROM generate_series(1, 60000) i")
            .unwrap();
        commit(&server);
        commit(&server);
        shipper.ship(&server);
        let copy = scene.start("back", major, &[]);
        assert_eq!((scene.ledger(&copy), copy.psql("SELECT count(*) FROM filler").as_str()), (2, "60000"), "{size}");
        println!("{size} MiB: {}", copy.report);
    }
}
