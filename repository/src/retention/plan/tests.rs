//! Tests of retention, case by case.

use super::*;
use crate::format::ids::HoldId;
use crate::log::records::care::PolicyText;
use crate::log::records::care::WHY_BYTES_MAX;
use crate::retention::model::RetentionLimits;
use jiff::tz::TimeZone;
use lifeboat_vocabulary::{ByteCount, Lsn, TimelineId, WalPosition};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn utc(text: &str) -> UtcTime {
    text.parse().unwrap()
}

/// A good backup that was complete at `stop_time`; WAL grows by a byte a second.
pub(crate) fn candidate(stop_time: UtcTime) -> Candidate {
    let seconds = u64::try_from(stop_time.as_unix_seconds()).unwrap();
    let start = WalPosition { timeline: TimelineId::new(1).unwrap(), lsn: Lsn::from_bytes(seconds).unwrap() };
    Candidate {
        backup: BackupId::new(stop_time, 0x5f1c_09ab),
        stop_time,
        arrived: None,
        start,
        verification: Verification::Undrilled,
        held: BTreeSet::new(),
        leaving: None,
        parent: None,
        own_bytes: ByteCount::from_mib(1),
    }
}

pub(crate) fn policy(zone: &str) -> RetentionPolicy {
    let timezone = TimeZone::get(zone).unwrap();
    let limits = RetentionLimits::default();
    RetentionPolicy { timezone, daily: 7, weekly: 4, monthly: 12, min_keep: 2, window: 7 * DAY, limits }
}

fn only(daily: u32, weekly: u32, monthly: u32) -> RetentionPolicy {
    RetentionPolicy { daily, weekly, monthly, min_keep: 0, window: Duration::ZERO, ..policy("UTC") }
}

fn backups(times: &[&str]) -> Vec<Candidate> {
    times.iter().map(|time| candidate(utc(time))).collect()
}

fn with(candidates: &mut [Candidate], time: &str, change: impl FnOnce(&mut Candidate)) {
    change(candidates.iter_mut().find(|each| each.stop_time == utc(time)).unwrap());
}

/// `2026-11-20 D W M`: the day of each backup that is kept, with the marks of its reasons.
fn marks(plan: &RetentionPlan, candidates: &[Candidate]) -> Vec<String> {
    let line = |(backup, reasons): &(BackupId, BTreeSet<Reason>)| {
        let kept = candidates.iter().find(|candidate| candidate.backup == *backup).unwrap();
        let marks: String = reasons.iter().map(Reason::mark).collect();
        format!("{} {marks}", &kept.stop_time.to_string()[..10])
    };
    plan.kept.iter().map(line).collect()
}

fn kept_days(candidates: &[Candidate], policy: &RetentionPolicy, now: &str) -> Vec<String> {
    marks(&plan_candidates(candidates, policy, utc(now)), candidates)
}

#[test]
fn a_year_of_daily_backups_with_two_missed_keeps_what_the_manual_says() {
    let days = (0..446).map(|day| utc("2025-09-01T02:00:00Z").plus(DAY * day));
    let is_missed =
        |day: &UtcTime| ["2026-11-12", "2026-11-13"].iter().any(|missed| day.to_string().starts_with(missed));
    let history: Vec<_> = days.filter(|day| !is_missed(day)).map(candidate).collect();
    assert_eq!(history.last().unwrap().stop_time, utc("2026-11-20T02:00:00Z"));
    let plan = plan_candidates(&history, &policy("UTC"), utc("2026-11-20T03:00:00Z"));
    let expected = [
        "2026-11-20 DWMNG",
        "2026-11-19 DN",
        "2026-11-18 D",
        "2026-11-17 D",
        "2026-11-16 D",
        "2026-11-15 DW",
        "2026-11-14 D",
        "2026-11-11 A",
        "2026-11-08 W",
        "2026-11-01 W",
        "2026-10-31 M",
        "2026-09-30 M",
        "2026-08-31 M",
        "2026-07-31 M",
        "2026-06-30 M",
        "2026-05-31 M",
        "2026-04-30 M",
        "2026-03-31 M",
        "2026-02-28 M",
        "2026-01-31 M",
        "2025-12-31 M",
    ];
    assert_eq!(marks(&plan, &history), expected);
    assert_eq!(plan.kept.len() + plan.dropped.len(), history.len());
    let anchor = &history[history.len() - 8];
    assert_eq!((plan.anchor.as_ref(), plan.wal_from), (Some(&anchor.backup), Some(anchor.start)));
    let why = |day: &str| {
        let dropped = plan.dropped.iter().find(|dropped| dropped.backup.as_str().starts_with(day));
        dropped.map(|dropped| dropped.why.as_str()).unwrap()
    };
    let expected = "day 2026-11-10 is not among the last 7; week 2026-W46 has 20261115T020000Z-5f1c09ab; \
                    month 2026-11 has 20261120T020000Z-5f1c09ab";
    assert_eq!(why("20261110"), expected);
    let expected = "day 2025-11-30 is not among the last 7; week 2025-W48 is not among the last 4; \
                    month 2025-11 is not among the last 12";
    assert_eq!(why("20251130"), expected);
    assert!(plan.dropped.iter().all(|dropped| dropped.why.len() <= WHY_BYTES_MAX));
}

#[test]
fn the_minimum_number_of_backups_is_kept_whatever_the_policy_says() {
    let nothing = only(0, 0, 0);
    let none: [&str; 0] = [];
    let now = "2026-11-20T03:00:00Z";
    assert_eq!(kept_days(&[], &policy("UTC"), now), none, "there is none");
    assert_eq!(plan_candidates(&[], &policy("UTC"), utc(now)), RetentionPlan::default());
    let single = backups(&["2020-01-01T02:00:00Z"]);
    assert_eq!(kept_days(&single, &policy("UTC"), now), ["2020-01-01 DWMNAG"], "the only one, and years old");
    assert_eq!(kept_days(&single, &nothing, now), ["2020-01-01 AG"], "even if nothing is to be kept");
    let two = backups(&["2020-01-01T02:00:00Z", "2020-01-01T03:00:00Z"]);
    assert_eq!(kept_days(&two, &nothing, now), ["2020-01-01 AG"], "the newer of two");
    let at_least_two = RetentionPolicy { min_keep: 2, ..nothing };
    assert_eq!(kept_days(&two, &at_least_two, now), ["2020-01-01 NAG", "2020-01-01 N"], "two are the least");
}

#[test]
fn days_weeks_and_months_are_those_of_the_time_zone() {
    let berlin = |daily, weekly, monthly| RetentionPolicy {
        timezone: TimeZone::get("Europe/Berlin").unwrap(),
        ..only(daily, weekly, monthly)
    };
    let newest = "2027-03-01T02:00:00Z";
    for (why, policy, times, expected) in [
        (
            "23:30 UTC is the next day, and here the next month, in Berlin",
            berlin(0, 0, 3),
            ["2026-11-30T22:30:00Z", "2026-11-30T23:30:00Z", newest],
            vec!["2027-03-01 MAG", "2026-11-30 M", "2026-11-30 M"],
        ),
        (
            "in UTC both are of November",
            only(0, 0, 3),
            ["2026-11-30T22:30:00Z", "2026-11-30T23:30:00Z", newest],
            vec!["2027-03-01 MAG", "2026-11-30 M"],
        ),
        (
            "29 December to 4 January is one week, whatever the year",
            only(0, 3, 0),
            ["2025-12-29T02:00:00Z", "2026-01-04T02:00:00Z", newest],
            vec!["2027-03-01 WAG", "2026-01-04 W"],
        ),
        (
            "the Sunday before belongs to another",
            only(0, 3, 0),
            ["2025-12-28T02:00:00Z", "2026-01-04T02:00:00Z", newest],
            vec!["2027-03-01 WAG", "2026-01-04 W", "2025-12-28 W"],
        ),
        (
            "the same week number of another year is another week",
            only(0, 3, 0),
            ["2025-01-02T02:00:00Z", "2026-01-02T02:00:00Z", newest],
            vec!["2027-03-01 WAG", "2026-01-02 W", "2025-01-02 W"],
        ),
        (
            "a day of 25 hours is one day",
            berlin(3, 0, 0),
            ["2026-10-24T22:30:00Z", "2026-10-25T22:30:00Z", newest],
            vec!["2027-03-01 DAG", "2026-10-25 D"],
        ),
        (
            "two backups at the hour that comes twice are of one day",
            berlin(3, 0, 0),
            ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", newest],
            vec!["2027-03-01 DAG", "2026-10-25 D"],
        ),
        (
            "a day of 23 hours is one day",
            berlin(3, 0, 0),
            ["2026-03-28T22:59:00Z", "2026-03-29T21:59:00Z", newest],
            vec!["2027-03-01 DAG", "2026-03-29 D", "2026-03-28 D"],
        ),
    ] {
        assert_eq!(kept_days(&backups(&times), &policy, "2027-03-01T03:00:00Z"), expected, "{why}");
    }
}

#[test]
fn the_window_needs_a_backup_that_is_older_and_wal_from_there() {
    let policy = RetentionPolicy { window: 2 * DAY, ..only(1, 0, 0) };
    let history = backups(&["2026-11-16T02:00:00Z", "2026-11-17T02:00:00Z", "2026-11-18T02:00:00Z"]);
    for (now, anchor, wal_from) in [
        ("2026-11-18T01:00:00Z", 0, Some(0)),
        ("2026-11-19T01:59:59Z", 0, Some(0)),
        ("2026-11-19T02:00:00Z", 1, Some(1)),
        ("2026-12-24T02:00:00Z", 2, Some(2)),
    ] {
        let plan = plan_candidates(&history, &policy, utc(now));
        assert_eq!(plan.anchor.as_ref(), Some(&history[anchor].backup), "{now}");
        assert_eq!(plan.wal_from, wal_from.map(|place: usize| history[place].start), "{now}");
        assert!(plan.keeps(&history[anchor].backup), "{now}");
    }
    let young = plan_candidates(&history, &RetentionPolicy { window: 30 * DAY, ..policy }, utc("2026-11-19T02:00:00Z"));
    assert_eq!((young.anchor.as_ref(), young.wal_from), (Some(&history[0].backup), None), "no WAL has left the window");
}

#[test]
fn damaged_and_undrilled_backups_displace_no_good_one() {
    let times = ["2026-11-16T02:00:00Z", "2026-11-17T02:00:00Z", "2026-11-18T02:00:00Z", "2026-11-19T02:00:00Z"];
    let now = "2026-11-19T03:00:00Z";
    for (why, damaged, drilled, expected) in [
        ("nothing is known", vec![], vec![], vec!["2026-11-19 DAG"]),
        ("an older one was drilled", vec![], vec![0], vec!["2026-11-19 DAG", "2026-11-16 P"]),
        ("two older ones were drilled", vec![], vec![0, 1], vec!["2026-11-19 DAG", "2026-11-17 P"]),
        ("the newest is damaged, and stays", vec![3], vec![], vec!["2026-11-19 !", "2026-11-18 DAG"]),
        (
            "of several damaged ones those of the policy stay",
            vec![2, 3],
            vec![],
            vec!["2026-11-19 !", "2026-11-17 DAG"],
        ),
        ("a damaged one with a newer good one goes", vec![2], vec![], vec!["2026-11-19 DAG"]),
        ("all are damaged", vec![0, 1, 2, 3], vec![], vec!["2026-11-19 !"]),
    ] {
        let mut history = backups(&times);
        damaged.iter().for_each(|place: &usize| history[*place].verification = Verification::Damaged);
        drilled.iter().for_each(|place: &usize| history[*place].verification = Verification::Drilled);
        let plan = plan_candidates(&history, &only(1, 0, 0), utc(now));
        assert_eq!(marks(&plan, &history), expected, "{why}");
        let damaged_go =
            plan.dropped.iter().filter(|dropped| dropped.why.starts_with("it is damaged or incomplete, and "));
        let damaged_stay = plan.kept.iter().filter(|(_, reasons)| reasons.contains(&Reason::NothingBetter));
        assert_eq!(damaged_go.count() + damaged_stay.count(), damaged.len(), "{why}");
    }
}

#[test]
fn a_backup_that_is_held_or_referred_to_stays() {
    let (first, second, third) = ("2026-11-16T02:00:00Z", "2026-11-17T02:00:00Z", "2026-11-18T02:00:00Z");
    let mut history = backups(&[first, second, third]);
    let hold = HoldId::from_bytes([7; 8]);
    with(&mut history, first, |backup| backup.held = BTreeSet::from([hold]));
    let policy = only(1, 0, 0);
    assert_eq!(kept_days(&history, &policy, third), ["2026-11-18 DAG", "2026-11-16 H"]);
    with(&mut history, first, |backup| backup.verification = Verification::Damaged);
    assert_eq!(kept_days(&history, &policy, third), ["2026-11-18 DAG", "2026-11-16 H"], "also a damaged one");
    let mut chain = backups(&[first, second, third]);
    let ids: Vec<_> = chain.iter().map(|candidate| candidate.backup.clone()).collect();
    with(&mut chain, second, |backup| backup.parent = Some(ids[0].clone()));
    with(&mut chain, third, |backup| backup.parent = Some(ids[1].clone()));
    let plan = plan_candidates(&chain, &policy, utc(third));
    assert_eq!(marks(&plan, &chain), ["2026-11-18 DAG", "2026-11-17 R", "2026-11-16 R"]);
    assert_eq!(plan.kept[2].1, BTreeSet::from([Reason::Referenced { by: ids[1].clone() }]));
}

#[test]
fn an_upgrade_that_starts_timelines_anew_makes_no_backup_old() {
    let mut history = backups(&["2026-11-16T02:00:00Z", "2026-11-17T02:00:00Z"]);
    with(&mut history, "2026-11-16T02:00:00Z", |old| {
        old.start = WalPosition { timeline: TimelineId::new(9).unwrap(), lsn: "FF/0".parse().unwrap() };
    });
    assert_eq!(kept_days(&history, &only(1, 0, 0), "2026-11-17T02:00:00Z"), ["2026-11-17 DAG"]);
}

#[test]
fn unusual_plans_are_left_to_a_person() {
    let now = utc("2026-11-20T03:00:00Z");
    let every = |hours: u32| RetentionLimits { backup_every: Some(HOUR * hours), share_max_percent: 30 };
    let history = |count: u32| -> Vec<Candidate> {
        let first = utc("2026-11-20T03:00:00Z").as_unix_micros() - i64::from(count) * 3_600_000_000;
        let first = UtcTime::from_unix_micros(first).unwrap();
        (0..count).map(|hour| candidate(first.plus(HOUR * hour))).collect()
    };
    let keep = |daily| RetentionPolicy { limits: every(24), min_keep: 1, ..only(daily, 0, 0) };
    let guards = |history: &[Candidate], policy: &RetentionPolicy, now| plan_candidates(history, policy, now).unusual;
    assert_eq!(guards(&history(2), &keep(1), now), [], "a single backup may always go");
    let share = Guard::TooManyBackups { dropped: 2, of: 3, percent: 30 };
    let (dropped, of) = (ByteCount::from_mib(2), ByteCount::from_mib(3));
    let bytes = Guard::TooManyBytes { dropped, of, percent: 30 };
    assert_eq!(guards(&history(3), &keep(1), now), [share, bytes.clone()]);
    assert_eq!(bytes.to_string(), "2.0 MiB of 3.0 MiB would go at once, which is more than 30 %");
    let mut known = history(3);
    known[1].leaving = Some(now);
    assert_eq!(guards(&known, &keep(1), now), [], "what was forgotten before was measured then");

    let late = now.plus(47 * HOUR);
    assert_eq!(guards(&history(2), &keep(1), late), [], "the newest is just two days old");
    let (newest, expected) = (utc("2026-11-20T02:00:00Z"), utc("2026-11-22T02:00:00Z"));
    let stopped = Guard::NoFreshBackup { newest: Some(newest), expected: Some(expected) };
    let text = "the newest good backup is of 2026-11-20T02:00:00Z, and another was due by 2026-11-22T02:00:00Z";
    assert_eq!(stopped.to_string(), text);
    assert_eq!(guards(&history(2), &keep(1), late.plus(HOUR)), [stopped]);
    let all_wal = RetentionPolicy { window: 30 * DAY, ..keep(1) };
    assert_eq!(guards(&history(1), &all_wal, late.plus(HOUR)), [], "nothing would go");
    let jumped = now.plus(200 * DAY);
    let stale = |guards: Vec<Guard>| matches!(guards[..], [Guard::NoFreshBackup { .. }]);
    assert!(stale(guards(&history(1), &all_wal, jumped)), "no backup would go, and all WAL before the newest");
    let mut damaged = history(2);
    damaged.iter_mut().for_each(|backup| backup.verification = Verification::Damaged);
    let none = Guard::NoFreshBackup { newest: None, expected: None };
    assert_eq!(guards(&damaged, &keep(1), now), [none], "there is no good one at all");

    let early = utc("2026-11-20T00:30:00Z");
    assert_eq!(guards(&history(1), &keep(1), early), [Guard::ClockBehind { now: early, before: newest }]);
    assert_eq!(guards(&history(1), &keep(1), early.plus(HOUR)), [], "clocks differ a little");
}

#[test]
fn a_clock_that_runs_backwards_does_not_move_the_window_back() {
    let mut state = RegionState::default();
    for time in ["2026-11-01T02:00:00Z", "2026-11-10T02:00:00Z", "2026-11-20T02:00:00Z"] {
        let record = crate::samples::backup_record_named(BackupId::new(utc(time), 1).as_str(), time);
        let (leaving, damaged, held) = (None, None, BTreeSet::new());
        state.backups.insert(record.backup.clone(), BackupState { record, seq: 1, leaving, damaged, held });
    }
    let anchor = |state: &RegionState, now: &str| {
        let plan = plan_region(state, &StoreFacts::default(), &policy("UTC"), utc(now));
        (plan.anchor.unwrap().as_str()[..8].to_owned(), plan.unusual)
    };
    assert_eq!(anchor(&state, "2026-11-28T02:00:00Z"), ("20261120".to_owned(), vec![]));
    assert_eq!(anchor(&state, "2026-11-21T02:00:00Z"), ("20261110".to_owned(), vec![]));
    state.last_decision = Some(utc("2026-11-28T02:00:00Z"));
    let (now, before) = (utc("2026-11-21T02:00:00Z"), utc("2026-11-28T02:00:00Z"));
    let behind = vec![Guard::ClockBehind { now, before }];
    assert_eq!(anchor(&state, "2026-11-21T02:00:00Z"), ("20261120".to_owned(), behind));
}

#[test]
fn damage_is_taken_from_the_record_and_from_the_region() {
    let record = crate::samples::backup_record();
    let (leaving, damaged, held) = (None, None, BTreeSet::new());
    let good = BackupState { record, seq: 1, leaving, damaged, held };
    let in_region = BackupState { damaged: Some(5), ..good.clone() };
    let mut in_database = good.clone();
    in_database.record.pages =
        Some(crate::log::records::backup::PageFacts { checked: 9, damaged: 1, damaged_files: 1 });
    for (why, backup, expected) in [
        ("nothing speaks against it", good, Verification::Undrilled),
        ("objects are damaged", in_region, Verification::Damaged),
        ("the database was damaged", in_database, Verification::Damaged),
    ] {
        let backups = BTreeMap::from([(backup.record.backup.clone(), backup)]);
        let found = candidates(&RegionState { backups, ..RegionState::default() }, &StoreFacts::default());
        assert_eq!(found.iter().map(|candidate| candidate.verification).collect::<Vec<_>>(), [expected], "{why}");
    }
}

#[test]
fn a_policy_is_read_back_from_its_record() {
    let berlin = policy("Europe/Berlin");
    assert_eq!(RetentionPolicy::from_text(&berlin.text(), berlin.limits), Some(berlin.clone()));
    assert_eq!(policy("UTC").text().timezone, "UTC");
    let elsewhere = PolicyText { timezone: "Atlantis/Centre".to_owned(), ..berlin.text() };
    assert_eq!(RetentionPolicy::from_text(&elsewhere, berlin.limits), None);
}

/// As `candidate`, and its record arrived at once.
fn arrived(stop_time: UtcTime) -> Candidate {
    Candidate { arrived: Some(stop_time), ..candidate(stop_time) }
}

/// What somebody with a writer's key adds: complete at `stop_time`, he says.
fn claimed(stop_time: UtcTime, arrived: UtcTime, number: u32) -> Candidate {
    Candidate { backup: BackupId::new(stop_time, number), arrived: Some(arrived), ..candidate(stop_time) }
}

#[test]
fn a_backup_whose_time_the_store_does_not_bear_out_pushes_nothing_out() {
    let begin = utc("2026-10-01T02:00:00Z");
    let now = begin.plus(40 * DAY + HOUR);
    let honest: Vec<Candidate> = (0..=40).map(|day| arrived(begin.plus(DAY * day))).collect();
    let limits = RetentionLimits { backup_every: Some(DAY), share_max_percent: 100 };
    let policy = RetentionPolicy { limits, ..policy("UTC") };
    let expected = plan_candidates(&honest, &policy, now);
    for (why, false_ones) in [
        ("years ahead", (0..50).map(|n| claimed(now.plus(DAY * (300 + n)), now, n)).collect::<Vec<_>>()),
        ("the last of each day", (0..38).map(|n| claimed(begin.plus(DAY * n + 20 * HOUR), now, n)).collect()),
        ("a new anchor", (0..20).map(|n| claimed(begin.plus(32 * DAY + 2 * HOUR * n), now, n)).collect()),
    ] {
        let all: Vec<Candidate> = honest.iter().chain(&false_ones).cloned().collect();
        let plan = plan_candidates(&all, &policy, now);
        for (backup, _) in &expected.kept {
            assert!(plan.keeps(backup), "{why}: {backup}");
        }
        assert_eq!((&plan.anchor, plan.wal_from), (&expected.anchor, expected.wal_from), "{why}");
        assert_eq!(plan.unusual, [], "{why}: nothing of it stops retention");
        assert_eq!(plan.kept.len() + plan.dropped.len(), all.len(), "{why}");
    }
    // A copy of the whole repository, or a region that was healed: everything arrived much later than it was made.
    let copied: Vec<Candidate> = honest.iter().map(|each| Candidate { arrived: Some(now), ..each.clone() }).collect();
    let names = |plan: &RetentionPlan| plan.kept.iter().map(|(backup, _)| backup.clone()).collect::<Vec<_>>();
    assert_eq!(names(&plan_candidates(&copied, &policy, now)), names(&expected));
}

#[test]
fn shares_are_measured_in_what_existed_before_the_last_days() {
    let begin = utc("2026-11-01T02:00:00Z");
    let now = begin.plus(12 * DAY);
    let old = (0..10).map(|day| arrived(begin.plus(DAY * day)));
    let many = (0..200).map(|n| claimed(now, now, n));
    let limits = RetentionLimits { backup_every: None, share_max_percent: 30 };
    let policy = RetentionPolicy { limits, min_keep: 1, ..only(6, 0, 0) };
    let all: Vec<Candidate> = old.chain(many).collect();
    let guards = plan_candidates(&all, &policy, now).unusual;
    assert_eq!(guards[0], Guard::TooManyBackups { dropped: 5, of: 10, percent: 30 }, "not 204 of 210");
}

#[test]
fn what_became_due_while_a_region_was_away_is_not_unusual_and_another_policy_is() {
    let begin = utc("2026-09-01T02:00:00Z");
    let at = |day: u32| begin.plus(DAY * day);
    let usual = policy("UTC");
    let all: Vec<Candidate> = (0..=30).map(|day| candidate(at(day))).collect();
    let kept = plan_candidates(&all, &usual, at(30));
    let mut state =
        RegionState { policy: Some((usual.text(), at(30))), last_decision: Some(at(30)), ..RegionState::default() };
    let left = all.iter().filter(|each| kept.keeps(&each.backup)).map(|each| each.stop_time);
    for time in left.chain((31..=60).map(at)) {
        let mut record = crate::samples::backup_record_named(BackupId::new(time, 1).as_str(), "2026-11-20T02:41:07Z");
        record.stop_time = time;
        let backup = BackupState { record, seq: 1, leaving: None, damaged: None, held: BTreeSet::new() };
        state.backups.insert(backup.record.backup.clone(), backup);
    }
    let unusual = |state: &RegionState, policy: &RetentionPolicy| {
        plan_region(state, &StoreFacts::default(), policy, at(60).plus(HOUR)).unusual
    };
    assert_eq!(unusual(&state, &usual), [], "one or two a day, had it been there");
    let before = RetentionPolicy { daily: 60, ..usual.clone() };
    let longer = RegionState { policy: Some((before.text(), at(30))), ..state.clone() };
    assert!(!unusual(&longer, &usual).is_empty(), "the policy is another one than the last time");
    let never = RegionState { policy: None, last_decision: None, ..state.clone() };
    assert!(!unusual(&never, &usual).is_empty(), "retention has never been carried out here");
    let less = RetentionPolicy { daily: 1, weekly: 1, monthly: 0, ..usual };
    let agreed = RegionState { policy: Some((less.text(), at(60))), ..state };
    assert!(!unusual(&agreed, &less).is_empty(), "it became due at once");
}

#[test]
fn a_decision_of_the_future_counts_from_when_its_record_arrived() {
    let now = utc("2026-11-20T03:00:00Z");
    let state = RegionState { last_decision: Some(utc("2036-01-01T00:00:00Z")), ..RegionState::default() };
    let behind = |facts: &StoreFacts| plan_region(&state, facts, &policy("UTC"), now).unusual;
    assert!(matches!(behind(&StoreFacts::default())[..], [Guard::ClockBehind { .. }]));
    assert_eq!(behind(&StoreFacts { decided: Some(now), ..StoreFacts::default() }), []);
}

#[test]
fn a_backup_of_which_nobody_can_see_whether_it_is_whole_is_kept_and_pushes_none_out() {
    let mut all = backups(&["2026-11-19T02:00:00Z", "2026-11-20T02:00:00Z", "2026-11-20T05:00:00Z"]);
    let kept = |all: &[Candidate]| plan_candidates(all, &only(2, 0, 0), utc("2026-11-20T06:00:00Z")).kept.len();
    assert_eq!(kept(&all), 2, "the newest of the day stands for it");
    with(&mut all, "2026-11-20T05:00:00Z", |newest| newest.verification = Verification::Unknown);
    assert_eq!(kept(&all), 3, "it may be the best of the day, or nothing");
    with(&mut all, "2026-11-20T05:00:00Z", |newest| newest.verification = Verification::Undrilled);
    with(&mut all, "2026-11-20T02:00:00Z", |older| older.verification = Verification::Unknown);
    assert_eq!(kept(&all), 2, "a good one of the day is newer");
}
