//! Planned times over a year of real zones, minute by minute where clocks change.

use std::time::Duration;

use lifeboat_config::ScheduleSettings;
use proptest::prelude::*;

use super::*;

pub(crate) fn table(zone: &str, full: &str) -> Timetable {
    let settings = ScheduleSettings {
        timezone: TimeZone::get(zone).unwrap(),
        full: full.parse().unwrap(),
        jitter: Duration::ZERO,
        blackout: Vec::new(),
    };
    Timetable::new("main".parse().unwrap(), settings)
}

fn with(timetable: Timetable, jitter: u64, windows: &[&str]) -> Timetable {
    let blackout = windows.iter().map(|text| text.parse().unwrap()).collect();
    let settings = ScheduleSettings { jitter: Duration::from_secs(jitter), blackout, ..timetable.settings };
    Timetable { settings, ..timetable }
}

fn at(text: &str) -> UtcTime {
    text.parse().unwrap()
}

#[test]
fn a_time_that_is_left_out_means_right_after_and_one_that_comes_twice_means_the_first() {
    for (zone, line, before, expected, following) in [
        // Clocks go forward from 02:00 to 03:00.
        ("Europe/Berlin", "30 2 * * *", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"),
        ("America/New_York", "30 2 * * *", "2026-03-07T12:00:00Z", "2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"),
        // By half an hour, from 02:00 to 02:30.
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-03T12:00:00Z", "2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"),
        // The first minute of the hole, and the first after it, are the same moment.
        ("Europe/Berlin", "0 2,3 * * *", "2026-03-29T00:59:59Z", "2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"),
        // Clocks go back from 03:00 to 02:00.
        ("Europe/Berlin", "30 2 * * *", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
        ("Europe/Berlin", "30 2 * * *", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z", "2026-10-27T01:30:00Z"),
        ("America/New_York", "30 1 * * *", "2026-10-31T12:00:00Z", "2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"),
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04T12:00:00Z", "2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"),
        ("UTC", "30 2 * * *", "2026-03-28T12:00:00Z", "2026-03-29T02:30:00Z", "2026-03-30T02:30:00Z"),
    ] {
        let table = table(zone, line);
        let next = table.next_after(at(before));
        assert_eq!(next, Some(at(expected)), "{zone} {line} after {before}");
        assert_eq!(table.next_after(at(expected)), Some(at(following)), "{zone} {line} after {expected}");
    }
}

const ZONES: [&str; 7] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Antarctica/Troll",
    "Asia/Kolkata",
    "Africa/Casablanca",
];

/// All planned times of a year.
fn year(table: &Timetable) -> Vec<UtcTime> {
    let (mut now, end) = (at("2026-01-01T00:00:00Z"), at("2027-01-01T00:00:00Z"));
    let mut found = Vec::new();
    while let Some(next) = table.next_after(now).filter(|next| *next < end) {
        assert!(next > now, "{} goes on", table.text());
        found.push(next);
        now = next;
    }
    found
}

#[test]
fn a_daily_run_comes_once_on_each_day_of_the_year_in_every_zone() {
    for zone in ZONES {
        for line in ["0 0 * * *", "30 1 * * *", "0 2 * * *", "30 2 * * *", "59 2 * * *", "0 3 * * *", "59 23 * * *"] {
            let table = table(zone, line);
            let days: Vec<_> = year(&table).iter().map(|planned| table.civil(*planned).date()).collect();
            let mut distinct = days.clone();
            distinct.dedup();
            assert_eq!(days, distinct, "{zone} {line}: twice on one day");
            for pair in days.windows(2) {
                assert_eq!(pair[0].tomorrow().unwrap(), pair[1], "{zone} {line}: a day without a run");
            }
        }
    }
}

#[test]
fn the_last_time_is_the_greatest_that_is_not_later_at_every_minute_around_clock_changes() {
    for zone in ZONES {
        for line in ["30 2 * * *", "*/20 * * * *", "0 1,2,3 * * Sun", "* * * * *"] {
            let table = table(zone, line);
            let changes: Vec<_> =
                table.settings.timezone.following(timestamp(at("2026-01-01T00:00:00Z"))).take(4).collect();
            for change in changes {
                let change = utc(change.timestamp()).unwrap();
                let start = UtcTime::from_unix_micros(change.as_unix_micros() - 4 * 3_600_000_000).unwrap();
                let (mut planned, mut now) = (Vec::new(), start);
                while let Some(next) = table.next_after(now).filter(|next| next.since(start).as_secs() < 8 * 3600) {
                    planned.push(next);
                    now = next;
                }
                for minute in 0..8 * 60 {
                    let now = start.plus(Duration::from_secs(minute * 60 + 7));
                    let Some(expected) = planned.iter().rev().find(|planned| **planned <= now) else { continue };
                    assert_eq!(table.last_until(now), Some(*expected), "{zone} {line} at {now}");
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn the_next_time_is_the_last_time_once_it_has_passed(
        zone in prop::sample::select(ZONES.to_vec()),
        line in prop::sample::select(vec!["30 2 * * *", "0 */6 * * *", "15 3 1 * *", "0 2 * * Sat-Mon", "*/7 1-3 * * *"]),
        second in 0_u64..365 * 86_400,
    ) {
        let table = table(zone, line);
        let now = at("2026-01-01T00:00:00Z").plus(Duration::from_secs(second));
        let next = table.next_after(now).unwrap();
        prop_assert!(next > now);
        prop_assert_eq!(table.last_until(next), Some(next));
        let just_before = UtcTime::from_unix_micros(next.as_unix_micros() - 1).unwrap();
        let last = table.last_until(just_before).unwrap();
        prop_assert!(last <= now, "nothing is planned between {} and {}", now, next);
        prop_assert_eq!(table.next_after(last), Some(next));
    }

    #[test]
    fn jitter_is_drawn_once_stays_below_its_bound_and_keeps_runs_in_order(
        line in prop::sample::select(vec!["30 2 * * *", "*/5 * * * *", "0 2 * * Sat-Mon"]),
        jitter in 0_u64..43_200,
        second in 0_u64..365 * 86_400,
    ) {
        let table = with(table("Europe/Berlin", line), jitter, &[]);
        let first = table.next_after(at("2026-01-01T00:00:00Z").plus(Duration::from_secs(second))).unwrap();
        let second = table.next_after(first).unwrap();
        prop_assert!(table.start_of(first) >= first);
        prop_assert!(table.start_of(first).since(first) <= Duration::from_secs(jitter));
        prop_assert!(table.start_of(first) < table.start_of(second));
        prop_assert_eq!(table.clone().start_of(first), table.start_of(first));
    }
}

#[test]
fn jitter_differs_from_day_to_day_and_from_cluster_to_cluster() {
    let main = with(table("UTC", "0 2 * * *"), 3600, &[]);
    let other = Timetable { cluster: "other".parse().unwrap(), ..main.clone() };
    let starts: std::collections::BTreeSet<_> =
        year(&main).iter().map(|planned| main.start_of(*planned).since(*planned).as_millis() / 60_000).collect();
    assert!(starts.len() > 50, "all over the hour: {}", starts.len());
    let planned = year(&main);
    assert!(planned.iter().filter(|planned| main.start_of(**planned) != other.start_of(**planned)).count() > 360);
}

#[test]
fn a_run_that_is_due_in_a_window_waits_until_it_ends() {
    for (why, zone, line, windows, planned, expected) in [
        ("outside", "UTC", "0 2 * * *", vec!["08:00-18:00"], "2026-11-20T02:00:00Z", "2026-11-20T02:00:00Z"),
        ("inside", "UTC", "0 9 * * *", vec!["08:00-18:00"], "2026-11-20T09:00:00Z", "2026-11-20T18:00:00Z"),
        ("over midnight", "UTC", "0 2 * * *", vec!["22:00-06:00"], "2026-11-20T02:00:00Z", "2026-11-20T06:00:00Z"),
        (
            "another weekday",
            "UTC",
            "0 9 * * *",
            vec!["Mon 08:00-18:00"],
            "2026-11-20T09:00:00Z",
            "2026-11-20T09:00:00Z",
        ),
        (
            "the night from Friday to Saturday",
            "UTC",
            "0 2 * * *",
            vec!["Fri 22:00-06:00"],
            "2026-11-21T02:00:00Z",
            "2026-11-21T06:00:00Z",
        ),
        (
            "one window after another",
            "UTC",
            "0 9 * * *",
            vec!["08:00-18:00", "18:00-20:00", "Fri 19:00-04:00"],
            "2026-11-20T09:00:00Z",
            "2026-11-21T04:00:00Z",
        ),
        (
            "by the cluster's own clock",
            "Europe/Berlin",
            "0 9 * * *",
            vec!["08:00-18:00"],
            "2026-11-20T08:00:00Z",
            "2026-11-20T17:00:00Z",
        ),
        (
            "the window's end comes twice",
            "Europe/Berlin",
            "30 1 * * *",
            vec!["01:00-02:30"],
            "2026-10-24T23:30:00Z",
            "2026-10-25T01:30:00Z",
        ),
        (
            "the window's end is left out",
            "Europe/Berlin",
            "30 1 * * *",
            vec!["01:00-02:30"],
            "2026-03-29T00:30:00Z",
            "2026-03-29T01:00:00Z",
        ),
    ] {
        let table = with(table(zone, line), 0, &windows);
        assert_eq!(table.last_until(at(planned)), Some(at(planned)), "{why}");
        assert_eq!(table.start_of(at(planned)), at(expected), "{why}");
    }
}

#[test]
fn the_longest_interval_is_that_over_weekends_months_and_windows() {
    for (line, windows, now, minutes) in [
        ("0 2 * * *", &[][..], "2026-11-25T12:00:00Z", 24 * 60),
        // From Friday 14:00 to Monday 02:00, whenever one asks.
        ("0 2,14 * * 1-5", &[], "2026-11-23T00:00:00Z", 60 * 60),
        ("0 2,14 * * 1-5", &[], "2026-11-28T20:00:00Z", 60 * 60),
        ("*/5 * * * 1-5", &[], "2026-11-25T12:00:00Z", 48 * 60 + 5),
        ("* * * * 1-5", &[], "2026-11-25T12:00:00Z", 48 * 60 + 1),
        // December has 31 days.
        ("0 2 1 * *", &[], "2026-11-25T12:00:00Z", 31 * 24 * 60),
        ("0 2 1 * *", &[], "2027-01-25T12:00:00Z", 31 * 24 * 60),
        ("0 0 1 1 *", &[], "2026-11-25T12:00:00Z", 365 * 24 * 60),
        // What is due at 06:00 begins when the window ends, twelve hours before the next.
        ("0 6 * * *", &["Wed 05:00-18:00"], "2026-11-23T12:00:00Z", 36 * 60),
    ] {
        let table = with(table("UTC", line), 0, windows);
        let longest = table.longest_interval(at(now)).unwrap();
        assert_eq!(longest.as_secs(), minutes * 60, "{line} {windows:?} at {now}");
    }
}

#[test]
fn the_most_runs_of_a_day_are_those_of_the_busiest() {
    for (line, expected) in
        [("0 2 * * *", 1), ("0 2,14 * * 1-5", 2), ("*/5 * * * 6", 288), ("0 0 1 1 *", 0), ("* * * * *", 1440)]
    {
        assert_eq!(table("UTC", line).most_in_a_day(at("2026-11-25T12:00:00Z")), expected, "{line}");
    }
}
