//! Retention and holds with both programs: what is shown, what is asked, what is deleted, and how it ends.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use lifeboat_daemon::deletion::audit::Responsible;
use lifeboat_daemon::deletion::freeze::Freezer;
use lifeboat_daemon::deletion::standstill::Action;
use lifeboat_vocabulary::SystemClock;
use support::history::{History, POLICY};

#[test]
fn a_plan_is_shown_asked_for_and_carried_out_after_its_grace() {
    let history = History::new("3s", 5);
    let scene = &history.scene;
    let records = history.records();
    let page = scene.daemon(&["retention", "plan"]).expect(0).out;
    for part in [
        "policy: 3 daily, 1 weekly, 1 monthly, every moment of 1d, at least 1, in time zone UTC",
        "anchor of the point-in-time window",
        "is not among the last 3",
        "attention: region r1: 3 of 6 backups would go at once, which is more than 30 %",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    let plan = history.json(&["retention", "plan"], 0);
    assert_eq!(history.ages(&plan, "kept"), [0, 1, 2]);
    assert_eq!(history.ages(&plan, "dropped"), [3, 4, 5]);

    let refused = scene.daemon(&["retention", "apply"]).expect(1);
    assert!(refused.err.contains("repeat with --force"), "{}", refused.err);
    let refused = scene.daemon(&["retention", "apply", "--force"]).expect(1);
    assert!(refused.err.contains("repeat with --yes"), "{}", refused.err);
    assert_eq!(history.records(), records, "nothing was written");

    scene.daemon(&["retention", "apply", "--yes", "--force"]).expect(0);
    for region in 0..2 {
        assert_eq!(history.kinds(region).last_chunk::<2>().unwrap(), &["audit", "forget"]);
    }
    let old = &history.by_age[4];
    let list = scene.daemon(&["list"]).expect(0).out;
    let line = list.lines().find(|line| line.starts_with(old.as_str())).unwrap();
    assert!(line.contains("leaving") && line.contains("r0 (leaves "), "{list}");
    let shown = scene.site.restore(&["show", old.as_str()]).expect(0).out;
    assert!(shown.contains("leaves because") && shown.contains("is not among the last 3"), "{shown}");

    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let applied = history.json(&["retention", "apply", "--yes"], 0);
        let rest: usize = applied["plan"]["regions"][0]["dropped"].as_array().unwrap().len();
        if rest == 0 {
            break;
        }
        assert!(Instant::now() < patience, "{applied:#}");
        std::thread::sleep(Duration::from_millis(500));
    }
    for (age, backup) in history.by_age.iter().enumerate() {
        for region in 0..2 {
            let is_there = !scene.keys(region, &format!("/data/{backup}/")).is_empty();
            assert_eq!(is_there, age < 3, "backup of {age} days in r{region}");
        }
    }
    let gone = scene.site.restore(&["show", old.as_str()]).expect(8);
    assert!(gone.err.contains("there is no backup"), "{}", gone.err);
    let list = history.json(&["list"], 0);
    assert_eq!(list["backups"].as_array().unwrap().len(), 3);
    let target = scene.site.target("back");
    scene.site.restore(&["restore", "--to", target.to_str().unwrap(), "--backup", history.real.as_str()]).expect(0);
}

#[test]
fn a_backup_that_is_held_stays_until_it_is_released() {
    let history = History::new("72h", 5);
    let scene = &history.scene;
    let held = history.by_age[4].as_str();
    let add = ["hold", "add", held, "--reason", "case 4711", "--owner", "mia"];
    let first = history.json(&add, 0);
    let hold = first["hold"]["hold"].as_str().unwrap().to_owned();
    let plan = history.json(&["retention", "plan"], 0);
    assert_eq!(history.ages(&plan, "kept"), [0, 1, 2, 4]);
    let marks = plan["calendar"].as_object().unwrap().values().map(|month| month.as_str().unwrap()).collect::<String>();
    assert!(marks.contains('H'), "{plan:#}");
    let records = history.records();
    assert_eq!(history.json(&add, 0)["hold"]["hold"].as_str(), Some(hold.as_str()), "said again");
    assert_eq!(history.records(), records, "nothing new was written");
    let list = scene.daemon(&["hold", "list"]).expect(0).out;
    assert!(list.contains(&hold) && list.contains("case 4711") && list.contains("mia"), "{list}");
    let line = scene.daemon(&["list"]).expect(0).out.lines().find(|line| line.contains(held)).unwrap().to_owned();
    assert!(line.contains("ok, held"), "{line}");

    for (why, arguments, code, part) in [
        ("no such backup", vec!["add", "20200101T000000Z-00000000", "--reason", "x", "--owner", "y"], 8, "there is no"),
        ("no reason", vec!["add", held, "--reason", " ", "--owner", "y"], 2, "--reason must be one line"),
        (
            "ended already",
            vec!["add", held, "--reason", "x", "--owner", "y", "--expires", "2020-01-01T00:00:00Z"],
            2,
            "past",
        ),
        ("no end", vec!["add", held, "--reason", "x", "--owner", "y", "--expires", "soon"], 2, "is not an end"),
        ("no such hold", vec!["remove", "0011223344556677", "--reason", "x"], 8, "`lifeboatd hold list` shows those"),
    ] {
        let mut all = vec!["hold"];
        all.extend(arguments);
        let said = scene.daemon(&all).expect(code);
        assert!(said.err.contains(part), "{why}: {}", said.err);
    }

    let removed = scene.daemon(&["hold", "remove", &hold, "--reason", "case closed"]).expect(0).out;
    assert!(removed.contains("stays only as long as the policy keeps it"), "{removed}");
    assert_eq!(history.ages(&history.json(&["retention", "plan"], 0), "dropped"), [3, 4, 5]);
    assert!(scene.daemon(&["hold", "list"]).expect(0).out.contains("no backup of cluster main is held"));
}

#[test]
fn a_region_that_was_away_hears_of_a_hold_when_it_is_said_again() {
    let history = History::new("72h", 3);
    let scene = &history.scene;
    let held = history.by_age[3].as_str();
    let add = ["hold", "add", held, "--reason", "case 4711", "--owner", "mia", "--expires", "30d"];
    scene.regions[1].faults().change(|plan| plan.dead = true);
    let degraded = scene.daemon(&add).expect(4).out;
    assert!(degraded.contains("region r1 does not know; say it again"), "{degraded}");
    let plan = scene.daemon(&["retention", "plan"]).expect(4).out;
    assert!(plan.contains("region r1 cannot be read"), "{plan}");
    scene.regions[1].faults().clear();

    let lacking = history.json(&["hold", "list"], 4);
    assert_eq!(lacking["holds"][0]["missing_in"], serde_json::json!(["r1"]));
    let plan = history.json(&["retention", "plan"], 0);
    assert_eq!(history.ages(&plan, "kept"), [0, 1, 2, 3], "it protects in both regions all the same");
    let again = scene.daemon(&add).expect(0).out;
    assert!(again.contains("was held already"), "{again}");
    let complete = history.json(&["hold", "list"], 0);
    assert_eq!(complete["holds"].as_array().unwrap().len(), 1);
    assert_eq!(complete["holds"][0]["missing_in"], serde_json::json!([]));
}

#[test]
fn nothing_is_deleted_while_deletion_is_paused_and_a_change_of_policy_is_shown_first() {
    let history = History::new("72h", 5);
    let scene = &history.scene;
    let state = scene.site.dir.path().join(scene.state);
    let freezer = Freezer::new(&state, Arc::new(SystemClock));
    let who = Responsible::new("audit", "mia");
    freezer.pause(&"main".parse().unwrap(), Action::Delete, &who, None).unwrap();
    let records = history.records();
    let refused = scene.daemon(&["retention", "apply", "--yes", "--force"]).expect(1);
    assert!(refused.err.contains("stopped by mia") && refused.err.contains("lifeboatd resume"), "{}", refused.err);
    assert_eq!(history.records(), records);
    freezer.resume(&"main".parse().unwrap(), Action::Delete, &who).unwrap();
    scene.daemon(&["retention", "apply", "--yes", "--force"]).expect(0);

    history.configure(&POLICY.replace("daily = 3", "daily = 2"));
    let smaller = history.json(&["retention", "plan"], 0);
    let change = &smaller["regions"][1]["policy_change"];
    assert_eq!(change["before"]["daily"], 3);
    assert_eq!(change["dropped"], serde_json::json!([history.by_age[2].as_str()]));
    let page = scene.daemon(&["retention", "plan"]).expect(0).out;
    assert!(page.contains("the policy is another one than on "), "{page}");
    history.configure(&POLICY.replace("daily = 3", "daily = 4"));
    let larger = history.json(&["retention", "plan"], 0);
    assert_eq!(larger["regions"][0]["policy_change"]["kept"], serde_json::json!([history.by_age[3].as_str()]));
}
