//! The probe finds what servers lack, and does not mind what a role may not do.

mod support;

use std::sync::Arc;

use lifeboat_s3_testd::{Config, Deny, Failure, KeyPattern, Operation as S3, Server};
use lifeboat_stores::{
    Check, Fault, Finding, MemoryStore, Operation, ProbeReport, Rule, StoreError, WithFaults, open, probe,
};
use lifeboat_vocabulary::SystemClock;

fn lacking(report: &ProbeReport) -> Vec<Check> {
    report.faults().map(|(check, _)| check).collect()
}

#[tokio::test]
async fn a_region_that_cannot_be_written_is_an_error() {
    let store = WithFaults::new(Arc::new(MemoryStore::new()));
    store.add(Rule::always(Fault::Denied));
    assert!(matches!(probe(&store, &SystemClock).await, Err(StoreError::Misconfigured { .. })));
}

#[tokio::test]
async fn servers_that_ignore_what_backups_rely_on_are_detected() {
    let server = Server::start(Config::default()).unwrap();
    let store = open(&support::region(&server.url(), "")).await.unwrap();
    server.faults().change(|plan| plan.ignore_if_none_match = true);
    let report = probe(store.as_ref(), &SystemClock).await.unwrap();
    assert_eq!(lacking(&report), [Check::CreateOnce, Check::ReplaceOnce]);
    server.faults().clear();
    server.faults().change(|plan| plan.list_lag = std::time::Duration::from_secs(60));
    assert_eq!(lacking(&probe(store.as_ref(), &SystemClock).await.unwrap()), [Check::List]);

    for (rule, check) in [
        (Rule::nth(Operation::Get, 1, Fault::BitFlip), Check::ReadBack),
        (Rule::nth(Operation::Get, 1, Fault::Truncated), Check::ReadBack),
    ] {
        let store = WithFaults::new(Arc::new(MemoryStore::new()));
        store.add(rule);
        assert_eq!(lacking(&probe(&store, &SystemClock).await.unwrap()), [check]);
    }
}

#[tokio::test]
async fn a_request_that_is_lost_proves_nothing_about_the_region() {
    let store = WithFaults::new(Arc::new(MemoryStore::new()));
    store.add(Rule::nth(Operation::Delete, 1, Fault::Lost));
    let report = probe(&store, &SystemClock).await.unwrap();
    assert_eq!(lacking(&report), []);
    assert!(matches!(report.of(Check::Delete), Some(Finding::Unclear { .. })), "{report:?}");
}

#[tokio::test]
async fn a_role_that_may_only_create_is_no_fault() {
    let server = Server::start(Config::default()).unwrap();
    let store = open(&support::region(&server.url(), "")).await.unwrap();
    let deny = |operation| Deny { operation, keys: KeyPattern::any() };
    server.faults().change(|plan| plan.deny = vec![deny(S3::GetObject), deny(S3::DeleteObject)]);
    let report = probe(store.as_ref(), &SystemClock).await.unwrap();
    assert_eq!(lacking(&report), []);
    for check in [Check::ReadBack, Check::Delete] {
        assert!(matches!(report.of(check), Some(Finding::NotAllowed { .. })), "{check}");
    }
    server.faults().change(|plan| plan.fail_all = Some(Failure::status(403)));
    let error = probe(store.as_ref(), &SystemClock).await.unwrap_err();
    assert!(error.to_string().contains("lack the right"), "{error}");
}

#[tokio::test]
async fn a_probe_of_a_good_region_finds_nothing_and_leaves_nothing_behind() {
    let server = Server::start(Config::default()).unwrap();
    let store = open(&support::region(&server.url(), "")).await.unwrap();
    let report = probe(store.as_ref(), &SystemClock).await.unwrap();
    assert!(report.findings.iter().all(|(_, finding)| *finding == Finding::Holds), "{report:?}");
    assert_eq!(report.findings.len(), 7);
    assert!(report.clock_skew_micros.unwrap().abs() < 2_000_000, "{report:?}");
    assert_eq!(server.keys("lifeboat"), Vec::<String>::new());
}

#[tokio::test]
async fn a_clock_that_differs_is_measured() {
    let server = Server::start(Config::default()).unwrap();
    let store = open(&support::region(&server.url(), "")).await.unwrap();
    server.faults().change(|plan| plan.clock_offset_seconds = 120);
    let skew = probe(store.as_ref(), &SystemClock).await.unwrap().clock_skew_micros.unwrap();
    assert!((118_000_000..122_000_000).contains(&skew), "{skew}");
}
