//! Objects that a lifecycle rule, or a hand, has deleted from all regions: everybody says so, and a backup is made behind them.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use lifeboat_testkit::{PgServer, majors_under_test};
use serde_json::Value;
use support::{BUCKET, Daemon, Scene, flushed, insert, lsn_number, server_with_ledger};

/// What was taken out of each region.
type Taken = Vec<(usize, String, Bytes)>;

/// Takes the objects out of all regions whose key is as `is_it` says.
fn take(scene: &Scene, is_it: impl Fn(&str) -> bool) -> Taken {
    let mut taken = Vec::new();
    for (index, region) in scene.regions.iter().enumerate() {
        for key in region.keys(BUCKET).into_iter().filter(|key| is_it(key)) {
            let body = region.object(BUCKET, &key).unwrap();
            region.remove_raw(BUCKET, &key).unwrap();
            taken.push((index, key, body));
        }
    }
    assert!(!taken.is_empty());
    taken
}

fn put_back(scene: &Scene, taken: Taken) {
    for (region, key, body) in taken {
        scene.regions[region].put_raw(BUCKET, &key, body).unwrap();
    }
}

/// Where the WAL of an object begins and ends, by its key.
fn range(key: &str) -> Option<(u64, u64)> {
    let name = key.rsplit('/').next()?;
    let (start, end) = name.strip_suffix(".lbw").or_else(|| name.strip_suffix(".lbs"))?.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

/// A daemon that has made its first backup, and has stored whole segments of WAL and a part of one since.
fn protected(server: &PgServer) -> (Scene, Daemon) {
    let (scene, daemon) = Scene::protected(&server.connection_string(), "", "");
    for round in 0..3 {
        insert(server, round * 100 + 1, round * 100 + 100);
        server.psql("postgres", "SELECT pg_switch_wal()").unwrap();
    }
    scene.wait_until_durable(&insert(server, 1001, 1010));
    (scene, daemon)
}

/// What this daemon says of its cluster; null as long as it has not said anything.
fn status(scene: &Scene, daemon: &Daemon) -> Value {
    let all: Value = serde_json::from_str(&scene.daemon(&["--json", "status"]).out).unwrap();
    if all["daemon"]["pid"] == daemon.pid() { all["clusters"][0].clone() } else { Value::Null }
}

#[track_caller]
fn wait_for(scene: &Scene, daemon: &Daemon, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let patience = Instant::now() + Duration::from_secs(150);
    loop {
        let now = status(scene, daemon);
        if !now.is_null() && wanted(&now) {
            return now;
        }
        assert!(Instant::now() < patience, "{what} does not come: {now:#}\n{}", scene.daemon_log());
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn has_alarm(status: &Value) -> bool {
    status["alarms"].as_array().is_some_and(|alarms| alarms.iter().any(|alarm| alarm["name"] == "wal-lost"))
}

#[test]
fn wal_that_is_gone_from_all_regions_is_told_by_everyone_and_a_backup_is_made_behind_it() {
    let server = server_with_ledger(majors_under_test()[0]);
    let (scene, daemon) = protected(&server);
    // Its last words say in each region how far that has everything.
    assert_eq!(daemon.stop(), Some(0));
    scene.daemon(&["heal"]).expect(0);
    scene.daemon(&["scrub"]).expect(0);
    let whole = scene.daemon(&["heal", "--dry-run"]).expect(0);
    assert!(whole.out.contains("has everything"), "{}", whole.out);
    let pieces = scene.keys(0, ".lbw");
    let (start, end) = pieces.iter().filter_map(|key| range(key)).max().unwrap();
    let taken = take(&scene, |key| range(key).is_some_and(|(from, to)| from >= start && to <= end));

    let said = scene.daemon(&["scrub"]).expect(6);
    assert!(said.out.contains("lost:") && said.out.contains("no region has it"), "{}", said.out);
    let said = scene.daemon(&["--json", "scrub"]).expect(6).json();
    assert_eq!(lsn_number(said["lost_wal"][0]["from"].as_str().unwrap()), start, "{said:#}");
    assert_eq!(lsn_number(said["lost_wal"][0]["to"].as_str().unwrap()), end, "{said:#}");
    for arguments in [&["heal", "--dry-run"][..], &["heal"]] {
        let said = scene.daemon(arguments).expect(6);
        assert!(said.out.contains("no region that answers has it"), "{}", said.out);
        assert!(!said.out.contains("has everything"), "{}", said.out);
    }
    let windows = scene.site.restore(&["--json", "window"]).expect(0).json();
    let to = windows["windows"][0]["to"]["lsn"].as_str().unwrap().to_owned();
    assert!(lsn_number(&to) <= start, "{windows:#}");

    // While no backup is made, nothing leads to what comes later.
    let pause = ["pause", "--action", "backup", "--reason", "a look at the window", "--owner", "test"];
    scene.daemon(&pause).expect(0);
    let daemon = scene.run_daemon();
    let ends = |status: &Value| status["window"]["ends_at_lost_wal"] == true;
    let now = wait_for(&scene, &daemon, "the alarm", |status| has_alarm(status) && ends(status));
    assert_eq!(lsn_number(now["window"]["to"]["lsn"].as_str().unwrap()), start, "{now:#}");
    assert_eq!((&now["window"]["to"]["time"], &now["verdict"]["protection"]), (&Value::Null, &"not-protected".into()));
    let page = scene.daemon(&["status"]);
    assert!(page.out.contains("to where WAL is lost") && page.out.contains("NOT PROTECTED"), "{}", page.out);
    let resume = ["resume", "--action", "backup", "--reason", "it was looked at", "--owner", "test"];
    scene.daemon(&resume).expect(0);
    scene.wait_for_backups(2);
    let now =
        wait_for(&scene, &daemon, "a window that goes on", |status| !ends(status) && status["window"].is_object());
    assert!(lsn_number(now["window"]["to"]["lsn"].as_str().unwrap()) > end, "{now:#}");
    let gaps = now["window"]["gaps"].to_string();
    assert!(gaps.contains("no region has it any more") && has_alarm(&now), "{now:#}");

    // A region had it all the time.
    assert_eq!(daemon.stop(), Some(0));
    put_back(&scene, taken.into_iter().filter(|(region, ..)| *region == 1).collect());
    scene.daemon(&["heal"]).expect(0);
    scene.daemon(&["scrub"]).expect(0);
    let daemon = scene.run_daemon();
    let now =
        wait_for(&scene, &daemon, "the end of the alarm", |status| status["window"].is_object() && !has_alarm(status));
    assert_eq!(now["window"]["gaps"], serde_json::json!([]), "{now:#}");
}

#[test]
fn a_rule_that_expires_any_prefix_in_all_regions_is_told_by_scrub() {
    let server = server_with_ledger(majors_under_test()[0]);
    let (scene, daemon) = protected(&server);
    let end = flushed(&server);
    scene.wait_until_durable(&end);
    assert_eq!(daemon.stop(), Some(0));
    let parts: [(&[&str], Option<i32>, &str); 7] = [
        (&["/data/"], Some(6), "it is missing"),
        (&["/keys/"], Some(6), "it is missing"),
        // Once pieces have replaced them, slices alone hold the last part only.
        (&["/slices/"], Some(6), "lost:"),
        (&["/wal/", "/slices/"], Some(6), "lost:"),
        (&["/state/head-", "/state/lease-"], Some(4), "sign of life"),
        (&["/log/"], None, ""),
        (&["lifeboat.json"], None, ""),
    ];
    for (prefixes, code, text) in parts {
        scene.daemon(&["scrub"]).expect(0);
        let taken = take(&scene, |key| prefixes.iter().any(|prefix| key.contains(prefix)));
        let said = scene.daemon(&["scrub"]);
        match code {
            Some(code) => assert_eq!(said.code, Some(code), "{prefixes:?}: {}{}", said.out, said.err),
            None => assert!(said.code.is_some_and(|code| code != 0), "{prefixes:?}: {}{}", said.out, said.err),
        }
        let all = format!("{}{}", said.out, said.err);
        assert!(all.contains(text), "{prefixes:?}: {all}");
        put_back(&scene, taken);
    }
}

#[test]
fn a_daemon_says_that_backups_or_keys_are_gone_from_all_regions() {
    let server = server_with_ledger(majors_under_test()[0]);
    let (scene, daemon) = protected(&server);
    assert_eq!(daemon.stop(), Some(0));
    for prefix in ["/data/", "/keys/"] {
        let taken = take(&scene, |key| key.contains(prefix));
        // What the run before has said counts for nothing here.
        let alarms = scene.site.dir.path().join(scene.state).join("alarms.json");
        if alarms.exists() {
            std::fs::remove_file(&alarms).unwrap();
        }
        let daemon = scene.run_daemon();
        let is_damage = |alarm: &Value| alarm["name"].as_str().is_some_and(|name| name.starts_with("region-damaged/"));
        let now = wait_for(&scene, &daemon, "the alarm", |status| {
            status["alarms"].as_array().is_some_and(|alarms| alarms.iter().any(is_damage))
        });
        assert_ne!(now["verdict"]["protection"], "ok", "{prefix}: {now:#}");
        assert!(daemon.stop().is_some());
        put_back(&scene, taken);
    }
}
