//! Every answer against the description that is given out with it.

use super::*;
use crate::model::region_health::Health;
use crate::model::snapshot::{
    ClusterStatus, ForecastStatus, HealStatus, OverrideStatus, RunningStatus, StopStatus, TaskStatus,
};
use crate::model::verdict::{WalReceiver, judge};
use crate::status::samples::{alarm, at, cluster, snapshot};
use crate::web::schema::Schemas;

fn judged(mut cluster: ClusterStatus) -> ClusterStatus {
    cluster.verdict = judge(&cluster, WalReceiver::Here);
    cluster
}

fn well() -> StatusSnapshot {
    snapshot(vec![judged(cluster("main"))])
}

/// As much as can be wrong, and everything absent that can be.
fn ill() -> StatusSnapshot {
    let mut full = cluster("full");
    full.alarms = vec![alarm("region-away/virginia", "away")];
    full.regions[1].health = Health::Away;
    full.regions[1].heal = Some(HealStatus {
        doing: "from frankfurt".to_owned(),
        objects_done: 1,
        objects_total: 2,
        bytes_done: 3,
        bytes_total: 4,
    });
    let stop = |expires| StopStatus {
        what: "delete".to_owned(),
        since: at("10:00:00"),
        who: "anna".to_owned(),
        why: "audit".to_owned(),
        expires,
    };
    (full.freezes, full.pauses) = (vec![stop(None)], vec![stop(Some(at("20:00:00")))]);
    full.running = Some(RunningStatus { what: "full backup".to_owned(), since: at("17:00:00") });
    full.forecast = Some(ForecastStatus { seconds: 1380.0, objective_seconds: Some(1800.0) });
    let mut bare = cluster("bare");
    (bare.wal, bare.window, bare.last_backup, bare.next_run) = (None, None, None, None);
    (bare.rpo.seconds, bare.rpo.bytes) = (None, None);
    for region in &mut bare.regions {
        (region.latency_seconds, region.clock_skew_seconds) = (None, None);
        (region.log, region.scrub) = (None, None);
    }
    let mut all = snapshot(vec![judged(full), judged(bare)]);
    all.daemon.http = None;
    all.daemon.core_stuck = Some("task scheduler has made no step".to_owned());
    all.daemon.tasks = vec![TaskStatus { name: "scheduler".to_owned(), doing: "a look".to_owned(), wedged: true }];
    all.overrides = vec![OverrideStatus {
        variable: "LIFEBOAT_LIMITS__WORKERS".to_owned(),
        setting: "limits.workers".to_owned(),
        since: at("01:00:00"),
    }];
    all.alarms = vec![alarm("http-unavailable", "the port is taken")];
    all
}

#[test]
fn every_answer_is_as_it_is_described() {
    let schemas = Schemas::read(OPENAPI);
    for (what, status) in [("well", well()), ("ill", ill()), ("empty", snapshot(vec![]))] {
        for (path, name) in [
            (Path::Health, "/healthz"),
            (Path::Ready, "/readyz"),
            (Path::Status, "/api/v1/status"),
            (Path::OpenApi, "/api/v1/openapi.json"),
        ] {
            assert_eq!(Path::parse(name), Some(path));
            let answer = answer(path, &status, at("17:24:06"));
            let faults = schemas.faults((name, answer.status.as_u16()), answer.content_type, &answer.body);
            assert!(faults.is_empty(), "{what} {name}: {faults:#?}\n{}", answer.body);
        }
    }
    let refused = problem(StatusCode::UNAUTHORIZED, "send a token");
    let faults = schemas.faults(("/readyz", 401), refused.content_type, &refused.body);
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn the_description_is_strict_enough_to_notice_a_change() {
    let schemas = Schemas::read(OPENAPI);
    let good: serde_json::Value = serde_json::from_str(&answer(Path::Status, &well(), at("17:24:06")).body).unwrap();
    for (why, pointer, value) in [
        ("another type", "/clusters/0/rpo/seconds", json!("0.3")),
        ("a value that is not named", "/clusters/0/verdict/protection", json!("fine")),
        ("a missing object", "/daemon", json!(null)),
        ("an item of another type", "/clusters/0/verdict/reasons", json!([1])),
        (
            "a field that is not described",
            "/clusters/0/rpo",
            json!({ "seconds": 1.0, "bytes": 1, "objective_seconds": 1.0, "new": 1 }),
        ),
        ("a field that is missing", "/clusters/0/rpo", json!({ "seconds": 1.0, "bytes": 1 })),
        ("a time that is none", "/time", json!("yesterday")),
        ("a negative count", "/daemon/pid", json!(-1)),
    ] {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        let faults = schemas.faults(("/api/v1/status", 200), JSON, &changed.to_string());
        assert!(!faults.is_empty(), "{why}");
    }
}

#[test]
fn a_daemon_that_does_not_move_is_sick_and_one_without_protection_is_not_ready() {
    let asked = |path, status: &StatusSnapshot, time| {
        let answer = answer(path, status, at(time));
        (answer.status.as_u16(), answer.body)
    };
    let well = well();
    assert_eq!(asked(Path::Health, &well, "17:24:06"), (200, r#"{"status":"ok"}"#.to_owned()));
    assert_eq!(asked(Path::Ready, &well, "17:24:06"), (200, r#"{"reasons":[],"status":"ready"}"#.to_owned()));
    assert_eq!(asked(Path::Health, &well, "17:25:06").0, 503, "the snapshot is a minute old");
    assert_eq!(asked(Path::Ready, &well, "17:25:06").0, 503);
    let ill = ill();
    assert_eq!(asked(Path::Health, &ill, "17:24:06"), (503, r#"{"status":"stuck"}"#.to_owned()));
    let (code, body) = asked(Path::Ready, &ill, "17:24:06");
    assert_eq!(code, 503);
    for reason in ["full: 1 of 2 regions answer, a backup needs 2", "bare: continuous WAL has not begun yet"] {
        assert!(body.contains(reason), "{body}");
    }
    assert_eq!(asked(Path::Ready, &snapshot(vec![]), "17:24:06").0, 503);
}

#[test]
fn only_what_is_there_can_be_read_and_nothing_can_be_written() {
    for (method, path, expected) in [
        (Method::GET, "/metrics", None),
        (Method::HEAD, "/healthz", None),
        (Method::GET, "/metrics/", Some(404)),
        (Method::GET, "/../etc/passwd", Some(404)),
        (Method::POST, "/nothing", Some(404)),
        (Method::POST, "/api/v1/status", Some(405)),
        (Method::DELETE, "/healthz", Some(405)),
    ] {
        let refused = refusal(&method, path);
        assert_eq!(refused.as_ref().map(|answer| answer.status.as_u16()), expected, "{method} {path}");
        if let Some(refused) = refused {
            assert_eq!(refused.content_type, PROBLEM);
        }
    }
}

#[test]
fn the_page_has_no_colours_for_a_browser() {
    let answer = answer(Path::Page, &ill(), at("17:24:06"));
    assert!(answer.body.starts_with("lifeboatd  STUCK  "), "{}", answer.body);
    assert!(!answer.body.contains('\x1b'));
}
