//! Tests of the page.

use super::*;
use crate::log_samples;
use crate::retention::page_json;
use jiff::tz::TimeZone;
use lifeboat_repository::format::layout;
use lifeboat_repository::log::records::ShardRef;
use lifeboat_repository::log::{BackupState, Leaving, RegionState};
use lifeboat_repository::retention::{RetentionLimits, RetentionPolicy, StoreFacts};
use std::time::Duration;

fn utc(text: &str) -> UtcTime {
    text.parse().unwrap()
}

fn policy(daily: u32) -> RetentionPolicy {
    let (window, limits) = (Duration::from_secs(86_400), RetentionLimits::default());
    RetentionPolicy { timezone: TimeZone::UTC, daily, weekly: 1, monthly: 1, min_keep: 1, window, limits }
}

/// A backup at 02:00 of a day, of 10 MiB; WAL grows by a segment a day.
fn record(day: &str) -> BackupRecord {
    let record = log_samples::backup(&format!("{day}T02:00:00Z"), 10);
    let days = u64::try_from(record.stop_time.as_unix_seconds() / 86_400).unwrap();
    let lsn = lifeboat_vocabulary::Lsn::from_bytes(days << 24).unwrap();
    let backup = BackupId::new(record.stop_time, 0x5f1c_09ab);
    let index = vec![ShardRef { key: layout::index_shard(&backup, 0), ..record.index[0].clone() }];
    BackupRecord { start_lsn: lsn, stop_lsn: lsn, index, backup, ..record }
}

fn state(days: &[&str], leaving: &[&str]) -> RegionState {
    let mut state = RegionState::default();
    for day in days {
        let leaving = leaving.contains(day).then(|| {
            let (why, not_before) = ("no rule keeps it".to_owned(), utc("2026-11-22T03:00:00Z"));
            Leaving { seq: 9, not_before, why }
        });
        let (record, damaged, held) = (record(day), None, BTreeSet::new());
        state.backups.insert(record.backup.clone(), BackupState { record, seq: 1, leaving, damaged, held });
    }
    state
}

/// Two regions; the second has missed a day.
fn plan() -> ClusterPlan {
    let now = utc("2026-11-20T03:00:00Z");
    let all = ["2026-10-31", "2026-11-17", "2026-11-18", "2026-11-19", "2026-11-20"];
    let mut first = state(&all, &["2026-10-31", "2026-11-17"]);
    first.policy = Some((policy(3).text(), utc("2026-11-19T03:00:00Z")));
    let second = state(&["2026-10-31", "2026-11-17", "2026-11-18", "2026-11-20"], &["2026-10-31"]);
    let region =
        |name: &str, state| RegionPlan::of(name.parse().unwrap(), state, &StoreFacts::default(), &policy(2), now);
    ClusterPlan {
        cluster: "main".parse().unwrap(),
        now,
        policy: policy(2),
        grace: Duration::from_secs(72 * 3600),
        regions: vec![region("fra", first), region("iad", second)],
        unreadable: vec![("syd".parse().unwrap(), "no route".to_owned())],
    }
}

#[test]
fn the_page_shows_a_calendar_what_stays_what_goes_and_what_that_frees() {
    let expected = "\
retention of cluster main, 2026-11-20 03:00:00 UTC
policy: 2 daily, 1 weekly, 1 monthly, every moment of 1d, at least 1, in time zone UTC

         1       5         10        15        20        25        30
2026-11  . . . . . . . . . . . . . . . . x A A M . . . . . . . . . .
2026-10  . . . . . . . . . . . . . . . . . . . . . . . . . . . . . . x
         A anchor of the window   M month   x goes   . no backup

stays                      completed           stored  regions   because
20261120T020000Z-5f1c09ab  2026-11-20 02:00  10.0 MiB  fra, iad  day 2026-11-20, week 2026-W47, month 2026-11, newest 1, \
newest good one
20261119T020000Z-5f1c09ab  2026-11-19 02:00  10.0 MiB  fra       day 2026-11-19, anchor of the point-in-time window
20261118T020000Z-5f1c09ab  2026-11-18 02:00  10.0 MiB  iad       day 2026-11-18, anchor of the point-in-time window

goes                       completed            frees  regions   deleted from      because
20261118T020000Z-5f1c09ab  2026-11-18 02:00  10.0 MiB  fra       3d after apply    day 2026-11-18 is not among the last 2; \
week 2026-W47 has 20261120T020000Z-5f1c09ab; month 2026-11 has 20261120T020000Z-5f1c09ab
20261117T020000Z-5f1c09ab  2026-11-17 02:00  10.0 MiB  fra, iad  3d after apply    day 2026-11-17 is not among the last 2; \
week 2026-W47 has 20261120T020000Z-5f1c09ab; month 2026-11 has 20261120T020000Z-5f1c09ab
20261031T020000Z-5f1c09ab  2026-10-31 02:00  10.0 MiB  fra, iad  2026-11-22 03:00  day 2026-10-31 is not among the last 2; \
week 2026-W44 is not among the last 1; month 2026-10 is not among the last 1

region  stay      with  go  which frees  WAL stays from
fra        2  20.0 MiB   3     30.0 MiB  51/28000000 on timeline 1
iad        2  20.0 MiB   2     20.0 MiB  51/27000000 on timeline 1

the policy is another one than on 2026-11-19 03:00 in fra: it was 3 daily, 1 weekly, 1 monthly, every moment of 1d, at \
least 1, in time zone UTC
  goes because of that:  20261118T020000Z-5f1c09ab
  stays because of that: nothing
attention: region syd cannot be read: no route
";
    assert_eq!(text(&plan()), expected);
}

#[test]
fn the_json_says_what_the_page_says() {
    let json = page_json::json(&plan());
    assert_eq!(json["calendar"]["2026-11"], "................xAAM..........");
    assert_eq!(json["regions"][0]["frees_bytes"], 3 * (10 << 20));
    assert_eq!(json["regions"][0]["policy_change"]["dropped"], serde_json::json!(["20261118T020000Z-5f1c09ab"]));
    assert_eq!(json["regions"][1]["policy_change"], serde_json::Value::Null);
    assert_eq!(json["unreadable"][0]["region"], "syd");
}

#[test]
fn a_cluster_without_backups_has_a_page_too() {
    let empty = RegionPlan::of(
        "fra".parse().unwrap(),
        RegionState::default(),
        &StoreFacts::default(),
        &policy(2),
        utc("2026-11-20T03:00:00Z"),
    );
    let page = text(&ClusterPlan { regions: vec![empty], unreadable: Vec::new(), ..plan() });
    assert!(page.ends_with("no backups yet\n"), "{page}");
}
