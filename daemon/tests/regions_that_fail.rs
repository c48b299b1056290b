//! Regions that do not answer, stop answering, lag or return wrong bytes: the backup goes on without them, and says so; a
//! restore takes what is intact.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use std::time::Duration;

use lifeboat_s3_testd::{CorruptGet, Delay, Deny, Failure, KeyPattern, Operation, Times, TruncateGet, Truncation};
use lifeboat_testkit::{PgServer, majors_under_test, pg_verifybackup};
use support::{Scene, server_with_rows};

#[test]
fn a_region_that_is_dead_from_the_start_makes_a_backup_degraded_or_below_the_quorum() {
    let server = server_with_rows();
    let scene = Scene::new(2);
    scene.configure(&server, "");
    scene.daemon(&["init"]).expect(0);
    scene.regions[1].faults().change(|plan| plan.dead = true);
    let said = scene.daemon(&["backup"]).expect(5);
    assert!(said.out.contains("below quorum") && said.out.contains("r1"), "{}", said.out);

    scene.configure(&server, "[durability]\nbackup_quorum = 1");
    let said = scene.daemon(&["backup"]).expect(4);
    assert!(said.out.contains("degraded"), "{}", said.out);
    let listed = scene.daemon(&["list"]).expect(4);
    assert!(listed.out.contains("region r1 cannot be read"), "{}", listed.out);
    let target = scene.site.target("back");
    let restore = ["restore", "--to", target.to_str().unwrap()];
    let said = scene.site.restore(&restore).expect(10);
    assert!(said.err.contains("wait for it, or accept the loss with --without-region"), "{}", said.err);
    assert!(!target.exists(), "nothing is written");
    scene.site.restore(&[&restore[..], &["--without-region", "region-2"]].concat()).expect(0);
    pg_verifybackup(&target).unwrap();

    scene.regions[0].faults().change(|plan| plan.dead = true);
    let said = scene.daemon(&["backup"]).expect(1);
    assert!(said.err.contains("no region can be used"), "{}", said.err);
}

#[test]
fn a_region_that_dies_midway_has_no_backup_and_the_other_one_has_it() {
    let server = server_with_rows();
    let scene = Scene::new(2);
    scene.configure(&server, "[durability]\nbackup_quorum = 1");
    scene.daemon(&["init"]).expect(0);
    let deny = Deny { operation: Operation::PutObject, keys: KeyPattern::new("*packs.sha256") };
    scene.regions[1].faults().change(|plan| plan.deny.push(deny));
    let said = scene.daemon(&["backup"]).expect(4);
    assert!(said.out.contains("excluded"), "{}", said.out);
    scene.regions[1].faults().clear();
    assert!(!scene.keys(1, ".lbp").is_empty(), "it had taken packs before it died");
    let alone = scene.site.restore_from(&[1], &["list"]).expect(0);
    assert!(alone.out.contains("no backups"), "what has no record is no backup: {}", alone.out);
    let listed = scene.daemon(&["list"]).expect(0);
    assert!(listed.out.contains("r1 (missing)"), "{}", listed.out);
}

#[test]
fn a_region_that_lags_is_excluded_and_a_slow_one_is_not() {
    let server = server_with_rows();
    let scene = Scene::new(2);
    scene.configure(&server, "[durability]\nbackup_quorum = 1\nregion_lag_limit = \"2s\"");
    scene.daemon(&["init"]).expect(0);
    let slow = |fixed| Delay { fixed, per_mib: Duration::ZERO };
    scene.regions[1].faults().change(|plan| plan.delay = slow(Duration::from_millis(300)));
    scene.daemon(&["backup"]).expect(0);
    scene.regions[1].faults().change(|plan| plan.delay = slow(Duration::from_secs(8)));
    let said = scene.daemon(&["backup"]).expect(4);
    assert!(said.out.contains("behind the other regions"), "{}", said.out);
}

#[test]
fn a_lost_answer_and_a_store_that_asks_to_slow_down_do_no_harm() {
    let server = server_with_rows();
    let scene = Scene::new(2);
    scene.configure(&server, "");
    scene.daemon(&["init"]).expect(0);
    scene.regions[0].faults().change(|plan| plan.lose_response_after_commit = Some(Times::of(Operation::PutObject, 2)));
    scene.regions[1].faults().change(|plan| plan.slow_down_every = std::num::NonZeroU64::new(4));
    scene.daemon(&["backup"]).expect(0);
    scene.regions[0].faults().change(|plan| plan.fail_next = None);
    scene.regions[1].faults().clear();
    scene.site.restore(&["verify"]).expect(0);
    assert_eq!(scene.keys(0, ".note").len(), 2, "init and one backup, although answers were lost");
}

#[test]
fn damage_in_one_region_is_found_named_and_taken_from_the_other() {
    let server = server_with_rows();
    let scene = Scene::new(2);
    scene.init_and_back_up(&server);
    let pack = scene.keys(0, ".lbp").remove(0);
    type Lie = fn(&mut lifeboat_s3_testd::FaultPlan, &str);
    let flip: Lie = |plan, _| {
        plan.corrupt_get = Some(CorruptGet { keys: KeyPattern::new("*.lbp"), offset: 70_000, mask: 1 });
    };
    let cut: Lie = |plan, _| {
        let keys = KeyPattern::new("*.lbp");
        plan.truncate_get = Some(TruncateGet { keys, keep: 100_000, how: Truncation::ShorterLength });
    };
    let gone: Lie = |plan, key| {
        plan.vanish.insert(key.to_owned());
    };
    let index: Lie = |plan, _| {
        plan.corrupt_get = Some(CorruptGet { keys: KeyPattern::new("*.lbx"), offset: 200, mask: 4 });
    };
    let list: Lie = |plan, _| {
        plan.corrupt_get = Some(CorruptGet { keys: KeyPattern::new("*packs.sha256"), offset: 3, mask: 1 });
    };
    for (number, (what, lie)) in [
        ("a flipped bit", flip),
        ("a cut pack", cut),
        ("a missing pack", gone),
        ("the index", index),
        ("the list", list),
    ]
    .into_iter()
    .enumerate()
    {
        scene.regions[0].faults().change(|plan| lie(plan, &pack));
        let verified = scene.site.restore(&["verify"]).expect(6);
        assert!(verified.out.contains("r0: ") && verified.out.contains("DAMAGED"), "{what}: {}", verified.out);
        assert!(verified.out.contains("r1: ") && verified.out.contains("is intact"), "{what}: {}", verified.out);
        let target = scene.site.target(&format!("back-{number}"));
        scene.site.restore(&["restore", "--to", target.to_str().unwrap()]).expect(0);
        pg_verifybackup(&target).unwrap();
        scene.regions[0].faults().clear();
    }
    let target = scene.site.target("alone");
    scene.regions[0].faults().change(|plan| flip(plan, &pack));
    let identity = scene.site.identity();
    let arguments = ["--identity", identity.to_str().unwrap(), "restore", "--to", target.to_str().unwrap()];
    let said = scene.site.restore_from(&[0], &arguments).expect(1);
    assert!(said.err.contains("from any region"), "{}", said.err);
    assert!(!target.join("global/pg_control").exists(), "what is not whole cannot be started");
}

#[test]
fn without_a_key_every_object_is_hashed_and_nothing_can_be_read() {
    let server = server_with_rows();
    let scene = Scene::new(1);
    scene.init_and_back_up(&server);
    let hashed = scene.site.restore_from(&[0], &["verify"]).expect(0);
    assert!(hashed.out.contains("signed SHA-256"), "{}", hashed.out);
    let pack = scene.keys(0, ".lbp").remove(0);
    let mut bytes = scene.regions[0].object(support::BUCKET, &pack).unwrap().to_vec();
    bytes[5000] ^= 1;
    scene.regions[0].put_raw(support::BUCKET, &pack, bytes.into()).unwrap();
    let hashed = scene.site.restore_from(&[0], &["verify"]).expect(6);
    assert!(hashed.out.contains(&pack.replace("pg/main/", "")), "{}", hashed.out);

    let target = scene.site.target("back");
    let said = scene.site.restore_from(&[0], &["restore", "--to", target.to_str().unwrap()]).expect(7);
    assert!(said.err.contains("--identity"), "{}", said.err);
    let stranger = scene.site.dir.path().join("stranger.key");
    scene.site.restore_from(&[], &["keygen", "--out", stranger.to_str().unwrap()]).expect(0);
    let arguments = ["--identity", stranger.to_str().unwrap(), "restore", "--to", target.to_str().unwrap()];
    let said = scene.site.restore_from(&[0], &arguments).expect(7);
    assert!(!target.exists(), "nothing was written: {}", said.err);
    let pinned = ["--signer", "lifeboat-verify-1tmnlphpd0vtjs5gr8v65dhg9am5j6jzdfhgmnmfa99h3ye4k3e6sm3hsyl", "list"];
    let said = scene.site.restore_from(&[0], &pinned).expect(1);
    assert!(said.err.contains("no region can be read"), "a repository of somebody else: {}", said.err);
}

#[test]
fn nothing_that_is_stored_shows_what_is_in_the_database() {
    let server = PgServer::builder(majors_under_test()[0]).start().unwrap();
    let canary =
        "CREATE TABLE secret_table_name AS SELECT 'plaintext-canary-' || i AS t FROM generate_series(1, 1000) i";
    server.psql("postgres", canary).unwrap();
    let scene = Scene::new(1);
    scene.init_and_back_up(&server);
    let keys = scene.keys(0, "");
    assert!(keys.len() >= 6, "{keys:?}");
    let database = server.data_dir().display().to_string();
    for key in keys {
        let object = scene.regions[0].object(support::BUCKET, &key).unwrap();
        for needle in ["plaintext-canary-", "secret_table_name", "postgresql.conf", "pg_wal", database.as_str()] {
            let found = object.windows(needle.len()).any(|window| window == needle.as_bytes());
            assert!(!found, "{key} shows {needle}");
            assert!(!key.contains(needle), "{key}");
        }
    }
}

#[test]
fn a_role_that_may_only_create_is_enough_for_backups() {
    let server = server_with_rows();
    let scene = Scene::new(1);
    scene.configure(&server, "");
    scene.daemon(&["init"]).expect(0);
    let deny = |operation, keys| Deny { operation, keys: KeyPattern::new(keys) };
    scene.regions[0].faults().change(|plan| {
        plan.deny = vec![
            deny(Operation::GetObject, "*.lbp"),
            deny(Operation::HeadObject, "*"),
            deny(Operation::DeleteObject, "*"),
        ];
        // An answer that is lost must not need a right to read packs. Other names somebody else may have taken: they are compared.
        plan.lose_response_after_commit = Some(Times::of(Operation::PutObject, 1));
    });
    scene.daemon(&["backup"]).expect(0);
    scene.regions[0].faults().clear();
    scene.regions[0].faults().change(|plan| plan.fail_all = Some(Failure::status(403)));
    let said = scene.daemon(&["doctor"]).expect(1);
    assert!(said.out.contains("FAILED") && said.out.contains("->"), "{}", said.out);
}
