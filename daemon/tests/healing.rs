//! Regions that were away, are new, are damaged or were set back: healed from others with the programs as a user has them.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use lifeboat_s3_testd::{Delay, Deny, KeyPattern, Operation};
use lifeboat_testkit::{PgServer, RestoredServer, majors_under_test, pg_verifybackup};
use support::{BUCKET, Scene, server_with_rows};

const QUORUM_OF_ONE: &str = "[durability]\nbackup_quorum = 1";

fn dead(scene: &Scene, region: usize, is_dead: bool) {
    scene.regions[region].faults().change(|plan| plan.dead = is_dead);
}

/// Two regions, with a state directory of the scene's own.
fn scene(server: &PgServer, count: usize) -> Scene {
    let scene = Scene::new(count);
    scene.configure_wal(&server.connection_string(), "", QUORUM_OF_ONE);
    scene.daemon(&["init"]).expect(0);
    scene
}

/// Everything in this region is what the signed records say.
#[track_caller]
fn is_intact_alone(scene: &Scene, region: usize) {
    let identity = scene.site.identity();
    scene.site.restore_from(&[region], &["--identity", identity.to_str().unwrap(), "verify"]).expect(0);
}

#[test]
fn a_region_that_missed_a_backup_and_wal_is_healed_and_restored_from_alone() {
    let major = majors_under_test()[0];
    let server = server_with_rows();
    server.psql("postgres", "CREATE TABLE ledger (id bigint PRIMARY KEY)").unwrap();
    let scene = scene(&server, 2);
    let daemon = scene.run_daemon();
    scene.wait_for_backups(1);
    let insert = |from: u32, to: u32| {
        server.psql("postgres", &format!("INSERT INTO ledger SELECT generate_series({from}, {to})")).unwrap();
        server.psql("postgres", "SELECT pg_switch_wal()").unwrap();
        server.psql("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap().trim().to_owned()
    };
    scene.wait_until_durable(&insert(1, 100));
    assert_eq!(daemon.stop(), Some(0));
    dead(&scene, 1, true);
    scene.daemon(&["backup"]).expect(4);
    let daemon = scene.run_daemon();
    let end = insert(101, 200);
    scene.wait_for_status("WAL in the region that is there", |status| {
        let durable = status["regions"][0][1]["durable"].as_str().map(support::lsn_number);
        durable.is_some_and(|durable| durable >= support::lsn_number(&end))
    });
    // The host is lost, and with it what it kept for the region that was away.
    daemon.kill();
    std::fs::remove_dir_all(scene.site.dir.path().join(scene.state)).unwrap();
    dead(&scene, 1, false);
    let dry = scene.daemon(&["heal", "--dry-run"]).expect(4);
    assert!(dry.out.contains("r1") && dry.out.contains("is missing"), "{}", dry.out);
    let healed = scene.daemon(&["heal"]).expect(0);
    assert!(healed.out.contains("healed") && healed.out.contains("has everything"), "{}", healed.out);
    scene.daemon(&["heal", "--dry-run"]).expect(0);
    is_intact_alone(&scene, 1);
    let target = scene.site.target("from-the-healed-region");
    let identity = scene.site.identity();
    let arguments = ["--identity", identity.to_str().unwrap(), "restore", "--to", target.to_str().unwrap()];
    scene.site.restore_from(&[1], &arguments).expect(0);
    let copy = RestoredServer::start(&target, major).unwrap();
    copy.wait_until_promoted(Duration::from_secs(120)).unwrap();
    assert_eq!(copy.psql("postgres", "SELECT count(*) FROM ledger").unwrap().trim(), "200");
}

#[test]
fn the_running_daemon_heals_by_itself() {
    let server = server_with_rows();
    let scene = scene(&server, 2);
    dead(&scene, 1, true);
    scene.daemon(&["backup"]).expect(4);
    dead(&scene, 1, false);
    let _daemon = scene.run_daemon();
    let patience = Instant::now() + Duration::from_secs(90);
    while !scene.site.restore_from(&[1], &["list"]).out.contains("Z-") {
        assert!(Instant::now() < patience, "the region is not healed: {}", scene.daemon_log());
        std::thread::sleep(Duration::from_millis(500));
    }
    is_intact_alone(&scene, 1);
}

#[test]
fn a_kill_in_the_middle_claims_nothing_and_the_next_run_ends_it() {
    let server = server_with_rows();
    let scene = scene(&server, 2);
    dead(&scene, 1, true);
    scene.daemon(&["backup"]).expect(4);
    dead(&scene, 1, false);
    for packs in 1..=2 {
        scene.regions[1]
            .faults()
            .change(|plan| plan.delay = Delay { fixed: Duration::from_millis(150), per_mib: Duration::ZERO });
        let mut command = scene.daemon_command();
        let mut child = command.arg("heal").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let patience = Instant::now() + Duration::from_secs(60);
        while scene.keys(1, ".lbp").len() < packs && child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < patience, "no pack arrives");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        scene.regions[1].faults().clear();
        let listed = scene.site.restore_from(&[1], &["list"]).expect(0);
        if listed.out.contains("Z-") {
            is_intact_alone(&scene, 1);
        }
    }
    scene.daemon(&["heal"]).expect(0);
    is_intact_alone(&scene, 1);
}

#[test]
fn scrub_finds_what_is_flipped_or_gone_and_heal_replaces_it() {
    let server = server_with_rows();
    let scene = scene(&server, 2);
    scene.daemon(&["backup"]).expect(0);
    scene.daemon(&["scrub"]).expect(0);
    scene.daemon(&["scrub", "--full"]).expect(0);
    let pack = scene.keys(0, ".lbp").remove(0);
    let mut bytes = scene.regions[0].object(BUCKET, &pack).unwrap().to_vec();
    bytes[5000] ^= 1;
    scene.regions[0].put_raw(BUCKET, &pack, bytes.into()).unwrap();
    scene.daemon(&["scrub"]).expect(0);
    let found = scene.daemon(&["scrub", "--full"]).expect(6);
    assert!(found.out.contains("1 damaged") && found.out.contains(".lbp in r0"), "{}", found.out);
    scene.daemon(&["heal"]).expect(0);
    scene.daemon(&["scrub", "--full"]).expect(0);
    is_intact_alone(&scene, 0);

    let index = scene.keys(1, ".lbx").remove(0);
    scene.regions[1].remove_raw(BUCKET, &index).unwrap();
    let found = scene.daemon(&["--json", "scrub", "--region", "r1"]).expect(6);
    let found: serde_json::Value = serde_json::from_str(found.out.trim()).unwrap();
    assert_eq!(found["regions"][0]["damaged"][0]["what"], "it is missing");
    let healed = scene.daemon(&["--json", "heal"]).expect(0);
    let healed: serde_json::Value = serde_json::from_str(healed.out.lines().last().unwrap()).unwrap();
    assert_eq!(healed["regions"][1]["healed"]["objects"], 1, "{healed}");
    assert_eq!(healed["regions"][1]["healed"]["from"], "r0", "{healed}");
    is_intact_alone(&scene, 1);
}

#[test]
fn what_was_cut_is_found_by_names_and_sizes_alone_and_a_scrub_that_cannot_record_it_says_so() {
    let server = server_with_rows();
    let scene = scene(&server, 2);
    scene.daemon(&["backup"]).expect(0);
    scene.daemon(&["scrub"]).expect(0);
    for name in [".lbp", "/keys/", "packs.sha256"] {
        let key = scene.keys(1, name).remove(0);
        scene.regions[1].put_raw(BUCKET, &key, Vec::new().into()).unwrap();
        let records = scene.keys(1, "/log/").len();
        let denied = Deny { operation: Operation::PutObject, keys: KeyPattern::new("*/log/*") };
        scene.regions[1].faults().change(|plan| plan.deny = vec![denied]);
        let found = scene.daemon(&["--json", "scrub"]).expect(6);
        let found: serde_json::Value = serde_json::from_str(found.out.trim()).unwrap();
        let trouble = found["regions"][1]["trouble"].as_str().unwrap();
        assert!(trouble.contains("could not be put on record"), "{name}: {found}");
        assert_eq!(scene.keys(1, "/log/").len(), records, "{name}");
        scene.regions[1].faults().clear();
        let found = scene.daemon(&["scrub"]).expect(6);
        assert!(found.out.contains("1 damaged") && found.out.contains("in r1"), "{name}: {}", found.out);
        scene.daemon(&["heal"]).expect(0);
        scene.daemon(&["scrub", "--full"]).expect(0);
        is_intact_alone(&scene, 1);
    }
}

#[test]
fn heal_finds_what_is_missing_before_any_scrub_has_looked() {
    let server = server_with_rows();
    let scene = scene(&server, 2);
    scene.daemon(&["backup"]).expect(0);
    let pack = scene.keys(1, ".lbp").remove(0);
    scene.regions[1].remove_raw(BUCKET, &pack).unwrap();
    let records = || scene.keys(1, "/log/").len();
    let before = records();
    let dry = scene.daemon(&["heal", "--dry-run"]).expect(6);
    assert!(dry.out.contains("has damaged objects"), "{}", dry.out);
    assert_eq!((records(), scene.keys(1, ".lbp").contains(&pack)), (before, false), "nothing was changed");
    scene.daemon(&["heal"]).expect(0);
    is_intact_alone(&scene, 1);
    scene.daemon(&["heal", "--dry-run"]).expect(0);
    // Gone everywhere: it is said, and on record afterwards.
    for region in 0..2 {
        let pack = scene.keys(region, ".lbp").remove(0);
        scene.regions[region].remove_raw(BUCKET, &pack).unwrap();
    }
    let healed = scene.daemon(&["heal"]).expect(6);
    assert!(healed.out.contains("no region has"), "{}", healed.out);
}

#[test]
fn damage_that_no_region_can_replace_sets_the_exit_code() {
    let server = server_with_rows();
    let scene = scene(&server, 2);
    scene.daemon(&["backup"]).expect(0);
    for region in 0..2 {
        let pack = scene.keys(region, ".lbp").remove(0);
        scene.regions[region].put_raw(BUCKET, &pack, bytes::Bytes::from_static(b"gone")).unwrap();
    }
    scene.daemon(&["scrub", "--full"]).expect(6);
    let healed = scene.daemon(&["heal"]).expect(6);
    assert!(healed.out.contains("no region has"), "{}", healed.out);
}

#[test]
fn a_region_that_is_added_later_gets_everything() {
    let server = server_with_rows();
    let scene = Scene::new(2);
    scene.configure_wal(&server.connection_string(), "", QUORUM_OF_ONE);
    let both = std::fs::read_to_string(scene.config()).unwrap();
    let (before, second) = both.rsplit_once("[[region]]").unwrap();
    let rest = second.split_once("[keys]").unwrap().1;
    std::fs::write(scene.config(), format!("{before}[keys]{rest}")).unwrap();
    scene.daemon(&["init"]).expect(0);
    scene.daemon(&["backup"]).expect(0);
    std::fs::write(scene.config(), both).unwrap();
    let told = scene.daemon(&["heal"]).expect(4);
    assert!(told.out.contains("lifeboatd init"), "{}", told.out);
    scene.daemon(&["init"]).expect(0);
    scene.daemon(&["heal", "--region", "r1"]).expect(0);
    is_intact_alone(&scene, 1);
    let target = scene.site.target("back");
    let identity = scene.site.identity();
    let arguments = ["--identity", identity.to_str().unwrap(), "restore", "--to", target.to_str().unwrap()];
    scene.site.restore_from(&[1], &arguments).expect(0);
    pg_verifybackup(&target).unwrap();
}

#[test]
fn a_region_that_was_set_back_freezes_deletion_until_a_person_has_looked() {
    let server = server_with_rows();
    let scene = scene(&server, 2);
    scene.daemon(&["backup"]).expect(0);
    scene.daemon(&["heal"]).expect(0);
    let last = scene.keys(1, ".note").into_iter().filter(|key| key.contains("/log/")).max().unwrap();
    scene.regions[1].remove_raw(BUCKET, &last).unwrap();
    let said = scene.daemon(&["heal"]).expect(4);
    assert!(said.out.contains("the log of r1 was set back") && said.out.contains("deletion is frozen"), "{}", said.out);
    assert!(!scene.keys(1, ".note").contains(&last), "what is not trusted is not written to");
    let file = scene.site.dir.path().join(scene.state).join("main/standstill.json");
    let standstill = std::fs::read_to_string(file).unwrap();
    assert!(standstill.contains("log-mismatch"), "{standstill}");
    scene.daemon(&["resume", "--action", "delete", "--reason", "the bucket was restored", "--owner", "me"]).expect(0);
    scene.daemon(&["heal"]).expect(0);
    assert!(scene.keys(1, ".note").contains(&last), "accepted, and healed");
    is_intact_alone(&scene, 1);
}

#[test]
fn verify_without_a_key_looks_at_wrapped_keys_and_calls_nothing_damaged_that_it_could_not_read() {
    let server = server_with_rows();
    let scene = scene(&server, 2);
    scene.daemon(&["backup"]).expect(0);
    let identity = scene.site.identity();
    let identity = ["--identity", identity.to_str().unwrap()];
    let verify = |region: usize, with: &[&str]| scene.site.restore_from(&[region], &[with, &["verify"]].concat());
    for with in [&[][..], &identity[..]] {
        // Requests for one object are refused: nothing is known about it.
        let pack = scene.keys(0, ".lbp").remove(0);
        scene.regions[0].faults().change(|plan| {
            plan.deny.push(Deny { operation: Operation::GetObject, keys: KeyPattern::new(&pack) });
        });
        let said = verify(0, with).expect(1);
        assert!(said.out.contains("NOT VERIFIED: 1 object could not be read"), "{}", said.out);
        assert!(!said.out.contains("DAMAGED"), "{}", said.out);
        scene.regions[0].faults().clear();
        // A region that is away is not passed over.
        dead(&scene, 1, true);
        let said = scene.site.restore_from(&[0, 1], &[with, &["verify"]].concat()).expect(1);
        assert!(said.out.contains("is intact") && said.out.contains("NOT VERIFIED"), "{}", said.out);
        dead(&scene, 1, false);
    }
    let keys = scene.keys(1, "/keys/");
    assert!(!keys.is_empty());
    for key in &keys {
        scene.regions[1].remove_raw(BUCKET, key).unwrap();
    }
    for with in [&[][..], &identity[..]] {
        let said = verify(1, with).expect(6);
        assert!(said.out.contains("DAMAGED") && said.out.contains("keys/"), "{}", said.out);
        verify(0, with).expect(0);
    }
    let said = scene.site.restore_from(&[1], &["--json", "verify"]).expect(6);
    let said: serde_json::Value = serde_json::from_str(said.out.trim()).unwrap();
    assert_eq!(
        (&said["regions"][0]["verdict"], &said["regions"][0]["unread"]),
        (&"damaged".into(), &serde_json::json!([]))
    );
}
