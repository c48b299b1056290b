//! Statuses for tests.

use std::collections::BTreeMap;

use lifeboat_vocabulary::UtcTime;

use crate::model::region_health::Health;
use crate::model::snapshot::{
    AlarmLine, BackupStatus, ClusterCounters, ClusterStatus, DaemonStatus, DurationCounts, NextRun, Point, Protection,
    RegionLogStatus, RegionStatus, RequestCounts, RpoStatus, RunStatus, ScrubStatus, StatusSnapshot, VERSION, Verdict,
    WindowStatus,
};
use crate::model::wal_status::{HolderStatus, WalStatus};

/// A time on 21 November 2026, such as `02:00:03`.
pub(crate) fn at(time: &str) -> UtcTime {
    format!("2026-11-21T{time}Z").parse().unwrap()
}

/// A region without a fault.
pub(crate) fn region(name: &str) -> RegionStatus {
    RegionStatus {
        name: name.to_owned(),
        health: Health::Healthy,
        health_since: at("00:00:00"),
        breaker: "closed".to_owned(),
        writers: "many".to_owned(),
        latency_seconds: Some(0.031),
        error_share: 0.0,
        clock_skew_seconds: Some(0.2),
        requests: BTreeMap::from([("put".to_owned(), RequestCounts { ok: 120, failed: 1 })]),
        durations: DurationCounts { buckets: vec![(0.1, 100), (1.0, 20)], longer: 1, sum_seconds: 12.5 },
        uploaded_bytes: 5 << 20,
        downloaded_bytes: 4096,
        log: Some(RegionLogStatus {
            read: at("17:24:00"),
            head_seq: Some(41),
            backups: 7,
            missing: 0,
            leaving: 0,
            window_from: Some(Point { time: Some(at("02:12:07")), lsn: "0/3000028".to_owned(), timeline: 1 }),
        }),
        unread_seconds: None,
        heal: None,
        scrub: Some(ScrubStatus { share_done: Some(0.82), oldest_unverified_seconds: Some(1_040_000.0), damaged: 0 }),
    }
}

fn holder() -> HolderStatus {
    HolderStatus {
        durable: Some("0/5A3F1B8".to_owned()),
        timeline: Some(1),
        exposure_seconds: 0.3,
        commits: 812,
        complete_until: Some("2026-11-21T17:23:59Z".to_owned()),
        latency_p50: 0.4,
        latency_p99: 0.9,
        latency_max: 1.2,
        state: "current".to_owned(),
        ..HolderStatus::default()
    }
}

/// A cluster without a fault, with two regions.
pub(crate) fn cluster(name: &str) -> ClusterStatus {
    let names = ["frankfurt", "virginia"];
    let wal = WalStatus {
        cluster: name.to_owned(),
        time: at("17:24:05").to_string(),
        pid: 4711,
        host: Some("/var/run/postgresql".to_owned()),
        timeline: Some(1),
        received: Some("0/5A3F1B8".to_owned()),
        confirmed: Some("0/5A3F1B8".to_owned()),
        spool_limit_bytes: 10 << 30,
        wal_quorum: 1,
        quorum: holder(),
        regions: names.iter().map(|name| ((*name).to_owned(), holder())).collect(),
        rpo_objective_seconds: 60.0,
        ..WalStatus::default()
    };
    let backup = "20261121T020003Z-5f1c09ab".to_owned();
    let point = |time, lsn: &str| Point { time: Some(time), lsn: lsn.to_owned(), timeline: 1 };
    ClusterStatus {
        cluster: name.to_owned(),
        verdict: Verdict { protection: Protection::Ok, reasons: vec![], not_ready: vec![] },
        wal: Some(wal),
        window: Some(WindowStatus {
            oldest_backup: "20261114T020003Z-00000001".to_owned(),
            from: point("2026-11-14T02:12:07Z".parse().unwrap(), "0/3000028"),
            to: point(at("17:24:05"), "0/5A3F1B8"),
            gaps: vec![],
            ends_at_lost_wal: false,
            older_backups: 0,
            older_from: None,
        }),
        rpo: RpoStatus { seconds: Some(0.3), bytes: Some(0), objective_seconds: 60.0 },
        last_backup: Some(BackupStatus {
            backup: backup.clone(),
            kind: "full".to_owned(),
            stop_time: at("02:12:07"),
            raw_bytes: 45_200_000_000,
            stored_bytes: 11_300_000_000,
            duration_ms: 724_000,
            regions: names.iter().map(|name| (*name).to_owned()).collect(),
        }),
        next_run: Some(NextRun {
            what: "full backup".to_owned(),
            time: Some("2026-11-22T02:00:00Z".parse().unwrap()),
            why: None,
        }),
        running: None,
        forecast: None,
        regions: names.iter().map(|name| region(name)).collect(),
        freezes: vec![],
        pauses: vec![],
        alarms: vec![],
        runs: vec![RunStatus {
            what: "full backup".to_owned(),
            planned: Some(at("02:00:00")),
            started: at("02:00:03"),
            ended: Some(at("02:12:07")),
            ending: "done".to_owned(),
            good: true,
            backup: Some(backup),
            bytes: Some(45_200_000_000),
        }],
        counters: ClusterCounters {
            runs: BTreeMap::from([("done".to_owned(), 1)]),
            backup_durations: DurationCounts { buckets: vec![(60.0, 0), (900.0, 1)], longer: 0, sum_seconds: 724.0 },
            waiting_seconds: 1.5,
            running_seconds: 724.0,
        },
        backup_quorum: 2,
    }
}

/// A daemon that protects these clusters.
pub(crate) fn snapshot(clusters: Vec<ClusterStatus>) -> StatusSnapshot {
    StatusSnapshot {
        version: VERSION,
        time: at("17:24:05"),
        daemon: DaemonStatus {
            version: "0.1.0".to_owned(),
            pid: 4711,
            started: "2026-11-18T09:00:00Z".parse().unwrap(),
            http: Some("http://127.0.0.1:9432".to_owned()),
            core_stuck: None,
            tasks: vec![],
        },
        clusters,
        overrides: vec![],
        alarms: vec![],
    }
}

/// A critical alarm since 17:12:03.
pub(crate) fn alarm(name: &str, text: &str) -> AlarmLine {
    let rule = name.split('/').next().unwrap_or(name);
    AlarmLine {
        name: name.to_owned(),
        severity: "critical".to_owned(),
        since: at("17:12:03"),
        text: text.to_owned(),
        runbook: format!("docs/runbooks/{rule}.md"),
    }
}
