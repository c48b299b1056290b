//! The history: how runs are remembered, and what is wrong with them.

use lifeboat_config::ScheduleSettings;
use lifeboat_vocabulary::UtcTime;

use super::*;

fn at(text: &str) -> UtcTime {
    let text = if text.len() == 5 { format!("2026-11-20T{text}:00Z") } else { text.to_owned() };
    text.parse().unwrap()
}

fn table(full: &str) -> Timetable {
    let settings = ScheduleSettings {
        timezone: jiff::tz::TimeZone::UTC,
        full: full.parse().unwrap(),
        jitter: Duration::ZERO,
        blackout: Vec::new(),
    };
    Timetable::new("main".parse().unwrap(), settings)
}

fn ended(ending: RunEnding, backup: Option<&str>) -> RunResult {
    RunResult {
        ending,
        backup: backup.map(str::to_owned),
        bytes: None,
        why: Some("r1: no route".to_owned()),
        damaged_pages: 0,
    }
}

/// Runs that begin at these times, ten minutes each.
fn history(endings: &[(&str, RunEnding)]) -> Runs {
    let mut runs = Runs::default();
    for (started, ending) in endings {
        let number = runs.begin(RunKind::Scheduled, Some(at(started)), at(started));
        runs.end(number, at(started).plus(Duration::from_secs(600)), ended(*ending, Some(started)));
    }
    runs
}

fn alarms(runs: &Runs, now: &str) -> Vec<String> {
    runs.wrong(&table("0 2 * * *"), |_| false, at(now)).iter().map(|(name, _)| name.to_string()).collect()
}

#[test]
fn failures_are_reported_when_they_begin_to_matter() {
    use RunEnding::{BelowQuorum, Degraded, Done, Failed, Incomplete, Interrupted, Stopped};
    let yesterday = "2026-11-19T02:00:00Z";
    for (why, runs, now, expected) in [
        ("all is well", vec![("02:00", Done)], "02:10", vec![]),
        ("it failed", vec![(yesterday, Done), ("02:00", Failed)], "02:10", vec!["backup-failed"]),
        ("it was killed", vec![(yesterday, Done), ("02:00", Interrupted)], "02:10", vec!["backup-failed"]),
        ("too few regions have it", vec![(yesterday, Done), ("02:00", BelowQuorum)], "02:10", vec!["backup-failed"]),
        ("data is missing in it", vec![(yesterday, Done), ("02:00", Incomplete)], "02:10", vec!["backup-incomplete"]),
        (
            "nothing better came of the next one",
            vec![(yesterday, Done), ("02:00", Incomplete), ("02:30", Failed)],
            "02:50",
            vec!["backup-failed", "backup-incomplete"],
        ),
        ("the next one has everything", vec![("02:00", Incomplete), ("02:30", Done)], "02:50", vec![]),
        (
            "one that is incomplete is not fresh",
            vec![(yesterday, Done), ("02:00", Incomplete)],
            "15:01",
            vec!["backup-incomplete", "backup-overdue"],
        ),
        ("it was stopped by a person", vec![(yesterday, Done), ("02:00", Stopped)], "02:10", vec![]),
        (
            "stopped after it failed",
            vec![(yesterday, Done), ("02:00", Failed), ("02:30", Stopped)],
            "02:50",
            vec!["backup-failed"],
        ),
        ("the next one worked", vec![("02:00", Failed), ("02:25", Done)], "02:50", vec![]),
        ("a region was away", vec![("02:00", Degraded)], "02:50", vec![]),
        ("for more than an hour", vec![("02:00", Degraded)], "03:11", vec!["backup-degraded"]),
        ("an older one is nobody's business", vec![(yesterday, Degraded), ("02:00", Done)], "12:00", vec![]),
        ("none came for half a day too long", vec![(yesterday, Done)], "15:00", vec![]),
        ("and an hour", vec![(yesterday, Done)], "15:01", vec!["backup-overdue"]),
        (
            "none that counts",
            vec![(yesterday, Done), ("02:00", BelowQuorum)],
            "15:01",
            vec!["backup-failed", "backup-overdue"],
        ),
    ] {
        assert_eq!(alarms(&history(&runs), now), expected, "{why}");
    }
    let mut never = Runs::default();
    assert!(alarms(&never, "12:00").is_empty());
    never.plan_by(&table("0 2 * * *"), at("2026-11-18T12:00:00Z"));
    assert_eq!(alarms(&never, "12:00"), ["backup-overdue"], "seen first two days ago");
}

#[test]
fn damaged_pages_are_reported_until_a_backup_finds_none() {
    let mut runs = Runs::default();
    let number = runs.begin(RunKind::Scheduled, None, at("02:00"));
    runs.end(number, at("02:10"), RunResult { damaged_pages: 3, ..ended(RunEnding::Done, Some("a")) });
    assert_eq!(alarms(&runs, "02:11"), ["database-damaged"]);
    let number = runs.begin(RunKind::ByHand, None, at("03:00"));
    runs.end(number, at("03:10"), ended(RunEnding::Done, Some("b")));
    assert!(alarms(&runs, "03:11").is_empty());
}

#[test]
fn a_backup_that_was_made_while_the_clock_was_ahead_hides_nothing() {
    let mut runs = history(&[("2027-11-20T02:00:00Z", RunEnding::Done)]);
    let number = runs.begin(RunKind::ByHand, None, at("03:00"));
    runs.end(number, at("03:10"), RunResult { damaged_pages: 3, ..ended(RunEnding::Done, Some("b")) });
    assert_eq!(alarms(&runs, "03:11"), ["database-damaged"]);
    assert_eq!(alarms(&runs, "2026-11-27T03:11:00Z"), ["backup-overdue", "database-damaged"]);
    assert_eq!(runs.newest_good(at("03:11")).map(|run| run.number), Some(number));
    let mut alone = history(&[("2027-11-20T02:00:00Z", RunEnding::Done)]);
    alone.first_seen = Some(at("02:00"));
    assert_eq!(
        alarms(&alone, "2026-11-27T03:11:00Z"),
        ["backup-overdue", "clock-wrong"],
        "it covers nothing before its time"
    );
    assert_eq!(alarms(&alone, "03:11"), ["clock-wrong"]);
    // A good one at a time that has passed takes its place.
    let number = alone.begin(RunKind::ByHand, None, at("04:00"));
    assert_eq!(alarms(&alone, "04:01"), ["clock-wrong"], "not before it is there");
    alone.end(number, at("04:10"), ended(RunEnding::Done, Some("c")));
    assert_eq!(alarms(&alone, "04:11"), Vec::<String>::new());
    let little = history(&[("03:04", RunEnding::Done)]);
    assert_eq!(alarms(&little, "03:00"), Vec::<String>::new(), "clocks differ by minutes");
}

#[test]
fn a_degraded_backup_from_the_future_is_not_in_time_for_years() {
    let mut runs = Runs::default();
    let number = runs.begin(RunKind::ByHand, None, at("2027-11-20T02:00:00Z"));
    runs.end(number, at("2027-11-20T02:10:00Z"), ended(RunEnding::Degraded, Some("a")));
    assert_eq!(alarms(&runs, "12:00"), ["backup-degraded", "clock-wrong"]);
    let mut runs = Runs::default();
    let number = runs.begin(RunKind::ByHand, None, at("02:00"));
    runs.end(number, at("2027-11-20T02:10:00Z"), ended(RunEnding::Degraded, Some("a")));
    assert_eq!(alarms(&runs, "02:30"), Vec::<String>::new());
    assert_eq!(alarms(&runs, "03:01"), ["backup-degraded"], "the clock was set in the middle of it");
}

#[test]
fn what_was_noted_while_the_clock_was_ahead_begins_when_it_is_right_again() {
    let mut runs = Runs::default();
    runs.plan_by(&table("0 2 * * *"), at("2027-11-20T02:00:00Z"));
    assert_eq!(alarms(&runs, "02:00"), ["clock-wrong"]);
    runs.plan_by(&table("0 2 * * *"), at("03:00"));
    assert_eq!(alarms(&runs, "03:01"), Vec::<String>::new());
    assert_eq!(alarms(&runs, "2026-11-22T12:00:00Z"), ["backup-overdue"]);
    runs.plan_by(&table("0 5 * * *"), at("2027-11-20T02:00:00Z"));
    assert_eq!(runs.past().in_force_since, Some(at("2027-11-20T02:00:00Z")));
    runs.plan_by(&table("0 5 * * *"), at("04:00"));
    assert_eq!(runs.past().in_force_since, Some(at("04:00")));
    runs.plan_by(&table("0 5 * * *"), at("06:00"));
    assert_eq!(runs.past().in_force_since, Some(at("04:00")));
}

#[test]
fn a_run_that_nobody_ended_was_interrupted_and_no_run_is_ended_twice() {
    let mut runs = Runs::default();
    let first = runs.begin(RunKind::Scheduled, None, at("02:00"));
    let second = runs.begin(RunKind::Scheduled, None, at("03:00"));
    runs.end(first, at("03:01"), ended(RunEnding::Done, None));
    let endings: Vec<_> = runs.iter().map(|run| run.result.as_ref().map(|result| result.ending)).collect();
    assert_eq!(endings, [Some(RunEnding::Interrupted), None]);
    runs.end(second, at("03:10"), ended(RunEnding::Done, None));
    runs.interrupt(at("04:00"));
    assert_eq!(runs.newest_good(at("05:00")).map(|run| run.number), Some(second));
}

#[test]
fn the_newest_good_run_is_never_forgotten() {
    let mut runs = history(&[("02:00", RunEnding::Done)]);
    for count in 0..2 * RUNS_MAX {
        let started = at("03:00").plus(Duration::from_secs(count as u64 * 60));
        let number = runs.begin(RunKind::Scheduled, None, started);
        runs.end(number, started, ended(RunEnding::Failed, None));
    }
    assert_eq!(runs.iter().count(), RUNS_MAX);
    assert_eq!(runs.newest_good(at("2027-01-01T00:00:00Z")).map(|run| run.started), Some(at("02:00")));
    assert_eq!(runs.past().newest_made(), Some(at("02:00")));
}

#[test]
fn a_timetable_is_in_force_from_its_change_on_and_the_first_one_from_the_beginning() {
    let mut runs = Runs::default();
    runs.plan_by(&table("0 2 * * *"), at("02:00"));
    assert_eq!(runs.past().in_force_since, None);
    runs.plan_by(&table("0 2 * * *"), at("03:00"));
    assert_eq!(runs.past().in_force_since, None, "the same");
    runs.plan_by(&table("0 5 * * *"), at("04:00"));
    assert_eq!(runs.past().in_force_since, Some(at("04:00")));
}

#[tokio::test]
async fn a_history_outlives_a_restart_and_commands_change_it_beside_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let (daemon, loaded) = RunHistory::open(dir.path());
    assert_eq!(loaded, Loaded::Fresh);
    let (number, saved) = daemon.begin(RunKind::Scheduled, Some(at("02:00")), at("02:01")).await;
    saved.unwrap();
    let (command, loaded) = RunHistory::open(dir.path());
    assert_eq!(loaded, Loaded::Read);
    daemon.end(number, at("02:10"), ended(RunEnding::Degraded, Some("20261120T020100Z-00000001"))).await.unwrap();
    let (by_hand, saved) = command.begin(RunKind::ByHand, None, at("03:00")).await;
    saved.unwrap();
    command.end(by_hand, at("03:10"), RunResult::without_backup(RunEnding::Failed, "no")).await.unwrap();
    let runs = daemon.read();
    assert_eq!(runs, command.read());
    let endings: Vec<_> = runs.iter().filter_map(|run| Some(run.result.as_ref()?.ending.as_str())).collect();
    assert_eq!(endings, ["degraded", "failed"]);
    assert_eq!(runs.iter().next().and_then(|run| run.planned), Some(at("02:00")));
}

#[test]
fn a_degraded_backup_that_was_healed_is_no_longer_wrong() {
    let mut runs = Runs::default();
    let number = runs.begin(RunKind::ByHand, None, at("02:00"));
    runs.end(number, at("02:10"), ended(RunEnding::Degraded, Some("20261120T020100Z-00000001")));
    let wrong = |healed: &str| {
        let wrongs = runs.wrong(&table("0 2 * * *"), |backup| backup == healed, at("12:00"));
        wrongs.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(wrong("20261120T020100Z-00000002"), ["backup-degraded"]);
    assert_eq!(wrong("20261120T020100Z-00000001"), Vec::<String>::new());
}
