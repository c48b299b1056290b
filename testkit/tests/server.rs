//! The kit itself, on the versions under test.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use lifeboat_testkit::{
    Checksums, PgServer, RestoredServer, Stop, majors_under_test, pg_verifybackup, run_as_postgres, scratch_dir,
};

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[test]
fn a_server_that_cannot_start_tells_why_and_leaves_nothing() {
    for major in majors_under_test() {
        let error =
            PgServer::builder(major).setting("shared_preload_libraries", "no_such_library").start().unwrap_err();
        assert!(format!("{error:#}").contains("no_such_library"), "{major}: {error:#}");
        let error = PgServer::builder(major).wal_segsize_mb(3).start().unwrap_err();
        assert!(format!("{error:#}").contains("power of"), "{major}: {error:#}");
    }
}

#[test]
fn a_server_has_what_was_asked_for_and_is_gone_when_dropped() {
    for major in majors_under_test() {
        for (checksums, shown) in [(Checksums::Off, "off"), (Checksums::On, "on")] {
            let server = PgServer::builder(major)
                .checksums(checksums)
                .wal_segsize_mb(1)
                .setting("search_path", "it's, fine")
                .start()
                .unwrap();
            assert!(server.psql("postgres", "select 1; selekt 2").unwrap_err().to_string().contains("selekt"));
            let ask = |name: &str| server.psql("postgres", &format!("show {name}")).unwrap();
            assert_eq!(ask("data_checksums"), shown);
            assert_eq!(ask("wal_segment_size"), "1MB");
            assert_eq!(ask("search_path"), "it's, fine");
            assert!(ask("server_version").starts_with(&major.to_string()));
            assert_eq!(ask("fsync"), "on");
            let (pid, dir) = (server.pid().unwrap(), server.data_dir().to_owned());
            assert!(is_alive(pid) && dir.exists());
            drop(server);
            assert!(!is_alive(pid) && !dir.exists());
        }
    }
}

#[test]
fn a_crashed_server_recovers_and_keeps_its_address() {
    for major in majors_under_test() {
        let mut server = PgServer::builder(major).start().unwrap();
        let address = server.connection_string();
        server.psql("postgres", "create table t as select generate_series(1, 1000) i").unwrap();
        server.stop(Stop::Immediate).unwrap();
        assert!(server.psql("postgres", "select 1").is_err());
        server.start().unwrap();
        assert!(server.start().is_err());
        assert!(server.log_text().contains("automatic recovery in progress"));
        assert_eq!(server.psql("postgres", "select count(*) from t").unwrap(), "1000");
        server.restart().unwrap();
        assert_eq!(server.connection_string(), address);
    }
}

#[test]
fn passwords_are_asked_for_where_the_rules_say_so() {
    for major in majors_under_test() {
        let scram = PgServer::builder(major).setting("password_encryption", "scram-sha-256");
        let server = scram.hba("host all all 127.0.0.1/32 scram-sha-256").start().unwrap();
        server.psql("postgres", "create role guest login password 'secret'").unwrap();
        let try_with = |password: &str| {
            let address =
                format!("host=127.0.0.1 port={} user=guest dbname=postgres password={password}", server.port());
            run_as_postgres(Command::new(server.bin_dir().join("psql")).args(["-XAtqw", "-c", "select 7", &address]))
        };
        assert!(try_with("wrong").is_err());
        assert_eq!(try_with("secret").unwrap(), "7\n");
    }
}

#[test]
fn a_standby_follows_with_its_tablespaces_and_can_be_promoted() {
    for major in majors_under_test() {
        let primary = PgServer::builder(major).start().unwrap();
        let place = primary.tablespace_dir("fast").unwrap();
        let make =
            format!("create tablespace fast location '{}'; create table t (i int) tablespace fast", place.display());
        primary.psql("postgres", &make).unwrap();
        let standby = primary.standby().unwrap();
        assert_eq!(standby.psql("postgres", "select pg_is_in_recovery()").unwrap(), "t");
        assert!(standby.psql("postgres", "insert into t values (1)").is_err());
        standby.promote().unwrap();
        standby.psql("postgres", "insert into t values (1)").unwrap();
        assert_eq!(primary.psql("postgres", "select count(*) from t").unwrap(), "0");
    }
}

#[test]
fn load_runs_until_it_is_stopped() {
    for major in majors_under_test() {
        let server = PgServer::builder(major).setting("fsync", "off").start().unwrap();
        assert!(server.load(2, None).is_err(), "there are no tables yet");
        server.pgbench_init(1).unwrap();
        let load = server.load(2, Some(200)).unwrap();
        while load.transactions(&server).unwrap() < 20 {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        assert!(load.stop(&server).unwrap() >= 20);
        let balances = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)";
        assert_eq!(server.psql("postgres", balances).unwrap(), "t");
    }
}

#[test]
fn a_copy_is_judged_by_postgresql_itself() {
    for major in majors_under_test() {
        let server = PgServer::builder(major)
            .setting("archive_mode", "on")
            .setting("archive_command", "false")
            .setting("synchronous_standby_names", "nobody")
            .setting("synchronous_commit", "local")
            .start()
            .unwrap();
        server.psql("postgres", "create table t as select generate_series(1, 5000) i; create index on t (i)").unwrap();
        let dir = scratch_dir("lifeboat-copy-").unwrap();
        let copy = dir.path().join("copy");
        run_as_postgres(server.client("pg_basebackup").arg("-D").arg(&copy).args(["-c", "fast"])).unwrap();
        pg_verifybackup(&copy).unwrap();

        let file = copy.join(server.psql("postgres", "select pg_relation_filepath('t')").unwrap());
        let dump = server.pg_dump_text("postgres").unwrap();
        let mut restored = RestoredServer::start(&copy, major).unwrap();
        assert_eq!(restored.psql("postgres", "show archive_mode").unwrap(), "off");
        restored.psql("postgres", "set synchronous_commit = on; create table commits_do_not_hang ()").unwrap();
        restored.psql("postgres", "drop table commits_do_not_hang").unwrap();
        assert_eq!(restored.pg_dump_text("postgres").unwrap(), dump);
        restored.pg_amcheck().unwrap();
        assert!(restored.pg_checksums().is_err(), "the server runs");
        restored.stop(Stop::Fast).unwrap();
        restored.pg_checksums().unwrap();

        File::options().write(true).open(&file).unwrap().write_all_at(b"damage", 8000).unwrap();
        assert!(restored.pg_checksums().is_err(), "a page is damaged");
        assert!(pg_verifybackup(&copy).is_err(), "the copy has been changed");
        restored.start_again().unwrap();
        assert!(restored.psql("postgres", "select count(*) from t").is_err());
    }
}
