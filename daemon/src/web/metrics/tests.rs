//! What Prometheus reads.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::model::snapshot::HealStatus;
use crate::status::samples::{alarm, cluster, snapshot};

/// Reads the text format strictly: help and type once per family, samples behind their family, no series twice.
fn parse(text: &str) -> (BTreeMap<String, f64>, BTreeMap<String, String>) {
    let (mut samples, mut types, mut family) = (BTreeMap::new(), BTreeMap::new(), String::new());
    let mut helped = BTreeSet::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(helped.insert(name.to_owned()), "{line}");
            assert!(words.ends_with('.'), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(helped.contains(name), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            family = name.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} stands behind {family}"));
            let allowed: &[&str] = if types[&family] == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(allowed.contains(&suffix), "{line}");
            assert!(samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "{line}");
        }
    }
    (samples, types)
}

fn text(status: StatusSnapshot) -> String {
    metrics(Arc::new(status)).unwrap()
}

#[test]
fn every_metric_stands_under_its_family_with_the_right_value() {
    let mut main = cluster("main");
    main.alarms = vec![alarm("region-away/virginia", "away")];
    main.regions[1].breaker = "open".to_owned();
    main.regions[1].heal = Some(HealStatus {
        doing: "WAL".to_owned(),
        objects_done: 3,
        objects_total: 10,
        bytes_done: 1 << 20,
        bytes_total: 30 << 20,
    });
    let (samples, types) = parse(&text(snapshot(vec![main, cluster("billing")])));
    for (series, value) in [
        ("lifeboat_build_info{version=\"0.1.0\"}", 1.0),
        ("lifeboat_protection{cluster=\"main\"}", 0.0),
        ("lifeboat_wal_durable_lsn_bytes{cluster=\"main\",region=\"frankfurt\"}", 94_630_328.0),
        ("lifeboat_wal_quorum_lag_seconds{cluster=\"billing\"}", 0.3),
        ("lifeboat_wal_quorum_lag_bytes{cluster=\"main\"}", 0.0),
        ("lifeboat_spool_limit_bytes{cluster=\"main\"}", 10_737_418_240.0),
        ("lifeboat_backup_last_success_timestamp_seconds{cluster=\"main\"}", 1_795_227_127.0),
        ("lifeboat_backup_duration_seconds_bucket{cluster=\"main\",le=\"60\"}", 0.0),
        ("lifeboat_backup_duration_seconds_bucket{cluster=\"main\",le=\"900\"}", 1.0),
        ("lifeboat_backup_duration_seconds_bucket{cluster=\"main\",le=\"+Inf\"}", 1.0),
        ("lifeboat_backup_duration_seconds_count{cluster=\"main\"}", 1.0),
        ("lifeboat_backup_runs_total{cluster=\"main\",ending=\"done\"}", 1.0),
        ("lifeboat_region_requests_total{cluster=\"main\",region=\"virginia\",op=\"put\",result=\"failed\"}", 1.0),
        ("lifeboat_region_request_duration_seconds_bucket{cluster=\"main\",region=\"virginia\",le=\"0.1\"}", 100.0),
        ("lifeboat_region_request_duration_seconds_bucket{cluster=\"main\",region=\"virginia\",le=\"1\"}", 120.0),
        ("lifeboat_region_request_duration_seconds_count{cluster=\"main\",region=\"virginia\"}", 121.0),
        ("lifeboat_region_breaker_state{cluster=\"main\",region=\"virginia\"}", 2.0),
        ("lifeboat_region_clock_skew_seconds{cluster=\"main\",region=\"virginia\"}", 0.2),
        ("lifeboat_uploaded_bytes_total{cluster=\"main\",region=\"frankfurt\"}", 5_242_880.0),
        ("lifeboat_log_head_seq{cluster=\"main\",region=\"frankfurt\"}", 41.0),
        ("lifeboat_objects_unverified_age_seconds{cluster=\"main\",region=\"frankfurt\"}", 1_040_000.0),
        ("lifeboat_scrub_done_ratio{cluster=\"main\",region=\"frankfurt\"}", 0.82),
        ("lifeboat_heal_missing_objects{cluster=\"main\",region=\"virginia\"}", 7.0),
        ("lifeboat_heal_missing_bytes{cluster=\"main\",region=\"virginia\"}", 30_408_704.0),
        ("lifeboat_heal_copied_bytes{cluster=\"main\",region=\"virginia\"}", 1_048_576.0),
        ("lifeboat_alarms{cluster=\"main\",severity=\"critical\"}", 1.0),
        ("lifeboat_alarms{cluster=\"billing\",severity=\"critical\"}", 0.0),
        ("lifeboat_alarms{cluster=\"\",severity=\"warning\"}", 0.0),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
    for (name, kind) in &types {
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
    }
}

#[test]
fn what_is_not_known_is_not_there() {
    let mut main = cluster("main");
    (main.wal, main.last_backup, main.rpo.seconds) = (None, None, None);
    main.regions.iter_mut().for_each(|region| (region.log, region.scrub) = (None, None));
    let (samples, types) = parse(&text(snapshot(vec![main])));
    for name in
        ["wal_durable_lsn_bytes", "backup_last_success_timestamp_seconds", "wal_quorum_lag_seconds", "log_head_seq"]
    {
        assert!(types.contains_key(&format!("lifeboat_{name}")), "{name}");
        assert!(!samples.keys().any(|series| series.starts_with(&format!("lifeboat_{name}"))), "{name}");
    }
}

#[test]
fn large_numbers_stay_exact_and_labels_cannot_break_out() {
    let mut main = cluster("a\"b\\c\nd");
    main.regions[0].uploaded_bytes = (1 << 53) - 1;
    main.regions[1].uploaded_bytes = u64::from(u32::MAX);
    let text = text(snapshot(vec![main]));
    for (region, bytes) in [("frankfurt", "9007199254740991"), ("virginia", "4294967295")] {
        let labels = format!("cluster=\"a\\\"b\\\\c\\nd\",region=\"{region}\"");
        let line = format!("\nlifeboat_uploaded_bytes_total{{{labels}}} {bytes}\n");
        assert!(text.contains(&line), "no {line} in {text}");
    }
}

#[test]
fn every_metric_stands_in_the_paper_and_nothing_else() {
    let paper = include_str!("../../../../docs/MONITORING.md");
    let (from, to) = (paper.find("## Metrics").unwrap(), paper.find("### Rules for Prometheus").unwrap());
    let rows = paper[from..to].lines().filter_map(|line| line.strip_prefix("| `")?.split('|').next());
    let written: BTreeSet<String> =
        rows.flat_map(|cell| cell.split(',')).map(|name| name.trim().trim_matches('`').to_owned()).collect();
    let written: BTreeSet<String> = written.into_iter().map(|name| format!("lifeboat_{name}")).collect();
    let (_, types) = parse(&text(snapshot(vec![cluster("main")])));
    assert_eq!(written, types.into_keys().collect());
}
