//! A live server, two regions, and back: what a user does, with the programs that a user runs.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use std::path::Path;
use std::time::Duration;

use lifeboat_testkit::{
    Checksums, PgServer, PgServerBuilder, RestoredServer, Stop, bin_dir, majors_under_test, pg_verifybackup,
};
use support::Scene;

fn restored(scene: &Scene, name: &str, more: &[&str]) -> std::path::PathBuf {
    let target = scene.site.target(name);
    let mut arguments = vec!["restore", "--to", target.to_str().unwrap()];
    arguments.extend(more);
    scene.site.restore(&arguments).expect(0);
    target
}

fn check_and_start(target: &Path, major: u32) -> RestoredServer {
    pg_verifybackup(target).unwrap();
    let server = RestoredServer::start(target, major).unwrap();
    server.wait_until_promoted(Duration::from_secs(120)).unwrap();
    server
}

#[test]
fn a_backup_under_load_is_restored_whole() {
    for major in majors_under_test() {
        let server = PgServer::builder(major).checksums(Checksums::On).start().unwrap();
        server.pgbench_init(5).unwrap();
        let still = "CREATE TABLE still AS SELECT i, md5(i::text) AS t FROM generate_series(1, 20000) i; \
                     CREATE INDEX ON still (t); CREATE UNLOGGED TABLE fleeting AS SELECT 1 AS x";
        server.psql("postgres", still).unwrap();
        let scene = Scene::new(2);
        let load = server.load(2, None).unwrap();
        scene.init_and_back_up(&server);
        assert!(load.stop(&server).unwrap() > 0, "there was load");

        let verified = scene.site.restore(&["verify"]).expect(0);
        assert_eq!(verified.out.matches("is intact").count(), 2, "{}", verified.out);
        let target = restored(&scene, "back", &[]);
        let copy = check_and_start(&target, major);
        copy.pg_amcheck().unwrap();
        let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers), \
                    (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history)";
        assert_eq!(copy.psql("postgres", sums).unwrap().trim(), "t|t", "every transaction is whole, major {major}");
        let rows = "SELECT count(*), md5(string_agg(t, '' ORDER BY i)) FROM still";
        assert_eq!(copy.psql("postgres", rows).unwrap(), server.psql("postgres", rows).unwrap());
        let unlogged = copy.psql("postgres", "SELECT count(*) FROM fleeting").unwrap();
        assert_eq!(unlogged.trim(), "0", "an unlogged table is there, and empty");
    }
}

#[test]
fn a_quiet_cluster_is_restored_equal_and_starts_by_itself() {
    for major in majors_under_test() {
        let server = PgServer::builder(major).checksums(Checksums::Off).wal_segsize_mb(1).start().unwrap();
        let space = server.tablespace_dir("fast").unwrap();
        let name = space.display();
        server.psql("postgres", &format!("CREATE TABLESPACE fast LOCATION '{name}'")).unwrap();
        let sql = "CREATE DATABASE other; \
                   CREATE TABLE rows TABLESPACE fast AS SELECT i, repeat(md5(i::text), 10) AS t FROM generate_series(1, 5000) i";
        sql.split("; ").for_each(|statement| drop(server.psql("postgres", statement).unwrap()));
        server.psql("other", "CREATE TABLE elsewhere AS SELECT 42 AS answer").unwrap();
        let scene = Scene::new(2);
        scene.init_and_back_up(&server);

        let moved = scene.site.target("moved");
        let map = format!("{name}={}", moved.display());
        let dry = scene.site.target("dry");
        let arguments = ["restore", "--to", dry.to_str().unwrap(), "--tablespace-map", &map, "--dry-run"];
        let plan = scene.site.restore(&arguments).expect(0);
        assert!(plan.out.contains(&format!("tablespace {name} into {}", moved.display())), "{}", plan.out);
        assert!(!dry.exists() && !moved.exists(), "a dry run writes nothing");

        let target = restored(&scene, "back", &["--tablespace-map", &map]);
        assert!(std::fs::read_link(target.join("pg_tblspc")).is_err());
        let copy = check_and_start(&target, major);
        for database in ["postgres", "other"] {
            let same = copy.pg_dump_text(database).unwrap() == server.pg_dump_text(database).unwrap();
            assert!(same, "the dumps of {database} differ, major {major}");
        }
        copy.pg_amcheck().unwrap();

        let unmapped = scene.site.target("unmapped");
        let refused = scene.site.restore(&["restore", "--to", unmapped.to_str().unwrap()]).expect(9);
        assert!(refused.err.contains("--tablespace-map"), "{}", refused.err);
    }
}

#[test]
fn a_restore_can_start_the_server_and_refuses_what_is_not_empty() {
    let major = majors_under_test()[0];
    let server = PgServer::builder(major).start().unwrap();
    server.psql("postgres", "CREATE TABLE t AS SELECT 7 AS seven").unwrap();
    let scene = Scene::new(1);
    scene.init_and_back_up(&server);
    let target = scene.site.target("back");
    let identity = scene.site.identity();
    let program = Path::new(env!("CARGO_BIN_EXE_lifeboatd")).with_file_name("lifeboat-restore");
    let started = std::process::Command::new(program)
        .args(["--region", &scene.site.address(0), "--identity", identity.to_str().unwrap(), "--json"])
        .args(["restore", "--start", "--to", target.to_str().unwrap()])
        .env("LIFEBOAT_PG_BIN", bin_dir(major).unwrap())
        .output()
        .unwrap();
    let said = support::Said::from(started).expect(0);
    let last: serde_json::Value = serde_json::from_str(said.out.lines().last().unwrap()).unwrap();
    let pid = std::fs::read_to_string(target.join("postmaster.pid")).unwrap();
    let answer = server
        .client("psql")
        .args(["-AXtq", "-c", "SELECT seven, pg_is_in_recovery() FROM t", last["connection"].as_str().unwrap()])
        .output()
        .unwrap();
    let stopped = std::process::Command::new("kill").args(["-QUIT", pid.lines().next().unwrap()]).status().unwrap();
    assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), "7|f");
    assert!(stopped.success());

    let precious = std::fs::read(target.join("PG_VERSION")).unwrap();
    let refused = scene.site.restore(&["restore", "--to", target.to_str().unwrap()]).expect(9);
    assert!(refused.err.contains("is not empty"), "{}", refused.err);
    assert_eq!(std::fs::read(target.join("PG_VERSION")).unwrap(), precious);
}

#[test]
fn a_standby_can_be_backed_up_and_its_signal_file_is_not_restored() {
    let major = majors_under_test()[0];
    let primary = PgServer::builder(major).start().unwrap();
    primary.psql("postgres", "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i").unwrap();
    let standby = primary.standby().unwrap();
    primary.psql("postgres", "CHECKPOINT").unwrap();
    let scene = Scene::new(1);
    scene.init_and_back_up(&standby);
    let target = restored(&scene, "back", &[]);
    assert!(!target.join("standby.signal").exists());
    let copy = check_and_start(&target, major);
    let asked = copy.psql("postgres", "SELECT count(*), pg_is_in_recovery() FROM t").unwrap();
    assert_eq!(asked.trim(), "1000|f");
}

#[test]
fn many_small_relations_and_a_large_one_are_restored_from_few_objects() {
    let major = majors_under_test()[0];
    let builder: PgServerBuilder = PgServer::builder(major).checksums(Checksums::On).setting("fsync", "off");
    let mut server = builder.setting("max_locks_per_transaction", "4096").start().unwrap();
    let many =
        "DO $$ BEGIN FOR i IN 1..20000 LOOP EXECUTE format('CREATE TABLE small_%s (a int)', i); END LOOP; END $$";
    server.psql("postgres", many).unwrap();
    // Toast-free rows of random text: more than 1 GiB, so that the relation has a second segment.
    let large =
        "CREATE TABLE large AS SELECT i, md5(i::text) || repeat('x', 900) AS t FROM generate_series(1, 1150000) i";
    server.psql("postgres", large).unwrap();
    let relation = server.psql("postgres", "SELECT pg_relation_filepath('large')").unwrap();
    assert!(server.data_dir().join(format!("{}.1", relation.trim())).exists(), "it has a second segment");
    let scene = Scene::new(2);
    scene.init_and_back_up(&server);
    let objects = scene.keys(0, ".lbp").len();
    assert!(objects < 60, "{objects} packs for more than 20,000 files");
    let sum = server.psql("postgres", "SELECT count(*), sum(hashtext(t)) FROM large").unwrap();
    server.stop(Stop::Immediate).unwrap();
    let target = restored(&scene, "back", &[]);
    pg_verifybackup(&target).unwrap();
    let copy = RestoredServer::start(&target, major).unwrap();
    assert_eq!(copy.psql("postgres", "SELECT count(*), sum(hashtext(t)) FROM large").unwrap(), sum);
    let tables = copy.psql("postgres", "SELECT count(*) FROM pg_class WHERE relname LIKE 'small%'").unwrap();
    assert_eq!(tables.trim(), "20000");
}
