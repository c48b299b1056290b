//! Every answer against the description that is given out with it.

use super::*;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::header::CONTENT_TYPE;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use lifeboat_config::{Environment, HttpSettings};
use lifeboat_vocabulary::ManualClock;
use serde_json::json;

use crate::model::region_health::Health;
use crate::model::snapshot::{
    ClusterStatus, ForecastStatus, HealStatus, OverrideStatus, RunningStatus, StopStatus, TaskStatus,
};
use crate::model::verdict::{WalReceiver, judge};
use crate::status::samples::{alarm, at, cluster, snapshot};
use crate::web::schema::Schemas;

struct Answer {
    status: u16,
    content_type: String,
    body: String,
}

/// What a request without a token and a body gets.
async fn ask(status: &StatusSnapshot, time: &str, method: Method, path: &str) -> Answer {
    let nothing = HttpSettings { listen: None, token: None, tls: None };
    let access = Access::read(&nothing, &Environment::default()).unwrap();
    let (_, latest) = watch::channel(Arc::new(status.clone()));
    let router = router(access, latest, Arc::new(ManualClock::at(at(time))));
    let request = hyper::Request::builder().method(method).uri(path).body(axum::body::Body::empty()).unwrap();
    let (head, body) = TowerToHyperService::new(router).call(request).await.unwrap().into_parts();
    let content_type = head.headers.get(CONTENT_TYPE).unwrap().to_str().unwrap().to_owned();
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    Answer { status: head.status.as_u16(), content_type, body }
}

async fn get(status: &StatusSnapshot, path: &str) -> Answer {
    ask(status, "17:24:06", Method::GET, path).await
}

async fn schemas() -> Schemas {
    Schemas::read(&get(&well(), "/api/v1/openapi.json").await.body)
}

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

#[tokio::test]
async fn every_answer_is_as_it_is_described() {
    let schemas = schemas().await;
    for (what, status) in [("well", well()), ("ill", ill()), ("empty", snapshot(vec![]))] {
        for path in ["/healthz", "/readyz", "/api/v1/status", "/api/v1/openapi.json"] {
            let answer = get(&status, path).await;
            let faults = schemas.faults(path, answer.status, &answer.content_type, &answer.body);
            assert!(faults.is_empty(), "{what} {path}: {faults:#?}\n{}", answer.body);
        }
    }
    let refused = Problem::new(StatusCode::UNAUTHORIZED, "send a token").into_response();
    let content_type = refused.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
    let body = refused.into_body().collect().await.unwrap().to_bytes();
    let faults = schemas.faults("/readyz", 401, &content_type, std::str::from_utf8(&body).unwrap());
    assert!(faults.is_empty(), "{faults:#?}");
}

#[tokio::test]
async fn the_description_is_strict_enough_to_notice_a_change() {
    let schemas = schemas().await;
    let good: serde_json::Value = serde_json::from_str(&get(&well(), "/api/v1/status").await.body).unwrap();
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
        let faults = schemas.faults("/api/v1/status", 200, "application/json", &changed.to_string());
        assert!(!faults.is_empty(), "{why}");
    }
}

#[tokio::test]
async fn a_daemon_that_does_not_move_is_sick_and_one_without_protection_is_not_ready() {
    let asked = async |path, status: &StatusSnapshot, time| {
        let answer = ask(status, time, Method::GET, path).await;
        (answer.status, answer.body)
    };
    let (live, probe) = ("/healthz", "/readyz");
    let well = well();
    assert_eq!(asked(live, &well, "17:24:06").await, (200, r#"{"status":"ok"}"#.to_owned()));
    assert_eq!(asked(probe, &well, "17:24:06").await, (200, r#"{"reasons":[],"status":"ready"}"#.to_owned()));
    assert_eq!(asked(live, &well, "17:25:06").await.0, 503, "the snapshot is a minute old");
    assert_eq!(asked(probe, &well, "17:25:06").await.0, 503);
    let ill = ill();
    assert_eq!(asked(live, &ill, "17:24:06").await, (503, r#"{"status":"stuck"}"#.to_owned()));
    let (code, body) = asked(probe, &ill, "17:24:06").await;
    assert_eq!(code, 503);
    for reason in ["full: 1 of 2 regions answer, a backup needs 2", "bare: continuous WAL has not begun yet"] {
        assert!(body.contains(reason), "{body}");
    }
    assert_eq!(asked(probe, &snapshot(vec![]), "17:24:06").await.0, 503);
}

#[tokio::test]
async fn only_what_is_there_can_be_read_and_nothing_can_be_written() {
    for (method, path, expected) in [
        (Method::GET, "/metrics", 200),
        (Method::HEAD, "/healthz", 200),
        (Method::GET, "/metrics/", 404),
        (Method::GET, "/../etc/passwd", 404),
        (Method::POST, "/nothing", 404),
        (Method::POST, "/api/v1/status", 405),
        (Method::DELETE, "/healthz", 405),
    ] {
        let answer = ask(&well(), "17:24:06", method.clone(), path).await;
        assert_eq!(answer.status, expected, "{method} {path}");
        if expected != 200 {
            assert_eq!(answer.content_type, "application/problem+json");
        }
    }
}

#[tokio::test]
async fn the_page_has_no_colours_for_a_browser() {
    let answer = get(&ill(), "/").await;
    assert!(answer.body.starts_with("lifeboatd  STUCK  "), "{}", answer.body);
    assert!(!answer.body.contains('\x1b'));
}
