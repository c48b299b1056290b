//! What is due, as tables; and a year of a daemon that is killed, whose clock is set, and whose runs fail.

use lifeboat_config::ScheduleSettings;

use super::*;
use lifeboat_testkit::SeededRandom;

fn at(text: &str) -> UtcTime {
    let text = if text.len() == 5 { format!("2026-11-20T{text}:00Z") } else { text.to_owned() };
    text.parse().unwrap()
}

fn table(full: &str, windows: &[&str]) -> Timetable {
    let settings = ScheduleSettings {
        timezone: jiff::tz::TimeZone::UTC,
        full: full.parse().unwrap(),
        jitter: Duration::ZERO,
        blackout: windows.iter().map(|text| text.parse().unwrap()).collect(),
    };
    Timetable::new("main".parse().unwrap(), settings)
}

fn run(planned: Option<&str>, started: &str, outcome: Outcome) -> Attempt {
    let started = at(started);
    Attempt { planned: planned.map(at), started, ended: started.plus(Duration::from_secs(600)), outcome }
}

fn good(planned: &str) -> Attempt {
    run(Some(planned), planned, Outcome::Good)
}

fn failed(planned: &str, started: &str) -> Attempt {
    run(Some(planned), started, Outcome::Failed)
}

fn past(attempts: &[Attempt]) -> Past {
    Past { attempts: attempts.to_vec(), in_force_since: None }
}

fn due(planned: &str, why: Why) -> Decision {
    Decision::Run { planned: at(planned), why }
}

fn wait(until: &str) -> Decision {
    Decision::Wait { until: at(until) }
}

/// Yesterday's.
const BEFORE: &str = "2026-11-19T02:00:00Z";
const TOMORROW: &str = "2026-11-21T02:00:00Z";

#[test]
fn what_is_due_is_decided_by_the_timetable_and_by_what_was_run() {
    let hand = |started: &str, outcome| run(None, started, outcome);
    for (why, attempts, now, expected) in [
        ("nothing was ever run", vec![], "12:00", due("02:00", Why::First)),
        (
            "the first one is incomplete, as the next would be",
            vec![run(Some("02:00"), "02:00", Outcome::Incomplete)],
            "12:00",
            wait(TOMORROW),
        ),
        (
            "so was yesterday's",
            vec![good("2026-11-18T02:00:00Z"), run(Some(BEFORE), BEFORE, Outcome::Incomplete)],
            "02:00",
            due("02:00", Why::Scheduled),
        ),
        ("it is not time yet", vec![good(BEFORE)], "01:59", wait("02:00")),
        ("it is time", vec![good(BEFORE)], "02:00", due("02:00", Why::Scheduled)),
        ("it was run", vec![good(BEFORE), good("02:00")], "02:30", wait(TOMORROW)),
        ("the daemon was down at the time", vec![good(BEFORE)], "09:00", due("02:00", Why::Missed)),
        ("for a week", vec![good("2026-11-12T02:00:00Z")], "09:00", due("02:00", Why::Missed)),
        (
            "what was missed has been made up for",
            vec![good(BEFORE), run(Some("02:00"), "09:00", Outcome::Good)],
            "09:30",
            wait(TOMORROW),
        ),
        ("somebody made one after the time", vec![good(BEFORE), hand("03:00", Outcome::Good)], "09:00", wait(TOMORROW)),
        (
            "somebody made one before the time",
            vec![good(BEFORE), hand("01:30", Outcome::Good)],
            "02:00",
            due("02:00", Why::Scheduled),
        ),
        (
            "somebody's did not work",
            vec![good(BEFORE), good("02:00"), hand("03:00", Outcome::Failed)],
            "03:30",
            wait(TOMORROW),
        ),
        ("it failed: 15 minutes", vec![good(BEFORE), failed("02:00", "02:00")], "02:11", wait("02:25")),
        ("they are over", vec![good(BEFORE), failed("02:00", "02:00")], "02:25", due("02:00", Why::Retry(1))),
        (
            "it failed twice: half an hour",
            vec![good(BEFORE), failed("02:00", "02:00"), failed("02:00", "02:25")],
            "02:36",
            wait("03:05"),
        ),
        (
            "it failed for so long that the next one comes first",
            vec![good(BEFORE), failed("02:00", "02:00"), failed("02:00", "2026-11-21T01:49:00Z")],
            "2026-11-21T01:59:30Z",
            wait(TOMORROW),
        ),
        (
            "the next one begins anew",
            vec![good(BEFORE), failed("02:00", "02:00"), failed("02:00", "2026-11-21T01:40:00Z")],
            TOMORROW,
            due(TOMORROW, Why::Scheduled),
        ),
        (
            "it was stopped: at once",
            vec![good(BEFORE), run(Some("02:00"), "02:00", Outcome::Stopped)],
            "02:11",
            due("02:00", Why::Missed),
        ),
        ("the first failed", vec![failed("02:00", "03:00")], "03:20", wait("03:25")),
        ("the first is tried again", vec![failed("02:00", "03:00")], "03:25", due("02:00", Why::Retry(1))),
        (
            "a run took longer than until the next",
            vec![run(Some(BEFORE), BEFORE, Outcome::Good)],
            "05:00",
            due("02:00", Why::Missed),
        ),
    ] {
        assert_eq!(decide(&table("0 2 * * *", &[]), &past(&attempts), at(now)), expected, "{why}");
    }
}

#[test]
fn setting_the_clock_repeats_no_run_and_blocks_none_for_ever() {
    let future = run(Some("2031-01-01T02:00:00Z"), "2031-01-01T02:00:00Z", Outcome::Good);
    for (why, attempts, now, expected) in [
        ("set back by an hour after the run", vec![good(BEFORE), good("02:00")], "01:05", wait(TOMORROW)),
        ("set back to the very time", vec![good(BEFORE), good("02:00")], "02:00", wait(TOMORROW)),
        ("set forward over the time", vec![good(BEFORE)], "23:00", due("02:00", Why::Missed)),
        ("set forward by years, and back", vec![good(BEFORE), future], "01:00", wait("02:00")),
        ("and the next is due", vec![good(BEFORE), future], "02:00", due("02:00", Why::Scheduled)),
        (
            "a failure in a future that was left is no reason to wait",
            vec![good(BEFORE), run(Some("02:00"), "23:00", Outcome::Failed)],
            "02:30",
            due("02:00", Why::Retry(1)),
        ),
    ] {
        assert_eq!(decide(&table("0 2 * * *", &[]), &past(&attempts), at(now)), expected, "{why}");
    }
}

#[test]
fn a_new_timetable_makes_up_for_no_run_from_before_it_was_in_force() {
    let known = Past { in_force_since: Some(at("12:00")), ..past(&[good(BEFORE)]) };
    assert_eq!(decide(&table("0 10 * * *", &[]), &known, at("12:01")), wait("2026-11-21T10:00:00Z"));
    assert_eq!(decide(&table("0 13 * * *", &[]), &known, at("13:00")), due("13:00", Why::Scheduled));
    // It was changed while the clock was ahead.
    let ahead = Past { in_force_since: Some(at("2027-11-20T12:00:00Z")), ..past(&[good(BEFORE)]) };
    assert_eq!(decide(&table("0 13 * * *", &[]), &ahead, at("13:00")), due("13:00", Why::Scheduled));
    assert_eq!(decide(&table("0 13 * * *", &[]), &ahead, at("13:30")), due("13:00", Why::Missed));
}

#[test]
fn windows_put_runs_off_and_merge_those_that_come_meanwhile() {
    let hourly = table("0 * * * *", &["08:00-18:00"]);
    let known = past(&[good("07:00")]);
    assert_eq!(decide(&hourly, &known, at("07:30")), wait("18:00"), "the one of 08:00 waits");
    assert_eq!(decide(&hourly, &known, at("12:00")), wait("18:00"), "and so do the others");
    assert_eq!(decide(&hourly, &known, at("18:00")), due("18:00", Why::Scheduled), "as one");
    let after = past(&[good("07:00"), good("18:00")]);
    assert_eq!(decide(&hourly, &after, at("18:30")), wait("19:00"));
    let nightly = table("0 2 * * *", &["08:00-18:00"]);
    let missed = past(&[good(BEFORE)]);
    assert_eq!(decide(&nightly, &missed, at("09:00")), wait("18:00"), "what is made up for waits too");
    assert_eq!(decide(&nightly, &past(&[]), at("09:00")), due("02:00", Why::First), "the first backup does not");
    let retried = past(&[good(BEFORE), failed("02:00", "07:50")]);
    assert_eq!(decide(&nightly, &retried, at("08:16")), wait("18:00"), "nor do retries begin in one");
}

#[test]
fn pauses_after_failures_double_up_to_four_hours() {
    let minutes: Vec<u64> = (1..=7).map(|failures| pause_after(failures).as_secs() / 60).collect();
    assert_eq!(minutes, [15, 30, 60, 120, 240, 240, 240]);
    assert_eq!(pause_after(usize::MAX), PAUSE_MAX);
}

#[test]
fn a_backup_is_overdue_after_half_of_the_usual_time_and_an_hour() {
    for (line, good, expected) in [
        ("0 2 * * *", BEFORE, "15:00"),
        ("0 2 * * Sun", "2026-11-15T02:00:00Z", "2026-11-25T15:00:00Z"),
        // From Friday, Monday is the next: nobody is paged on Sunday.
        ("0 2 * * Mon-Fri", "02:00", "2026-11-23T15:00:00Z"),
        ("*/10 * * * *", "02:00", "03:15"),
    ] {
        assert_eq!(overdue_after(&table(line, &[]), at(good)), Some(at(expected)), "{line}");
    }
}

/// A year in which the daemon is down at times, its clock is set forwards and backwards, and runs fail.
#[test]
fn in_any_year_every_planned_time_is_taken_care_of_once() {
    let zones = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"];
    for seed in 1..=40_u64 {
        let mut chance = SeededRandom::new(seed);
        let zone = zones[usize::try_from(chance.below(4)).unwrap()];
        let settings = ScheduleSettings {
            timezone: jiff::tz::TimeZone::get(zone).unwrap(),
            full: "30 2 * * *".parse().unwrap(),
            jitter: Duration::from_secs(chance.below(3600)),
            blackout: Vec::new(),
        };
        let table = Timetable::new("main".parse().unwrap(), settings);
        let mut known = past(&[]);
        let mut now = at("2026-01-01T12:00:00Z");
        let end = at("2027-01-01T12:00:00Z");
        let mut backwards = 0;
        while now < end {
            match decide(&table, &known, now) {
                Decision::Never => panic!("seed {seed}: nothing is due any more"),
                Decision::Wait { until } => {
                    assert!(until > now, "seed {seed}: it waits for the past");
                    // A day, and what the clock was set back by.
                    assert!(until.since(now) < Duration::from_secs(72 * 3600), "seed {seed}: {now} until {until}");
                    now = until;
                }
                Decision::Run { planned, .. } => {
                    let taken = known.attempts.iter().filter(|run| run.planned == Some(planned));
                    let goods = taken.filter(|run| run.outcome == Outcome::Good).count();
                    assert_eq!(goods, 0, "seed {seed}: {planned} is run twice");
                    let outcome = [Outcome::Good, Outcome::Good, Outcome::Good, Outcome::Failed, Outcome::Stopped];
                    let outcome = outcome[usize::try_from(chance.below(5)).unwrap()];
                    let ended = now.plus(Duration::from_secs(60 + chance.below(7200)));
                    known.attempts.push(Attempt { planned: Some(planned), started: now, ended, outcome });
                    if known.attempts.len() > 60 {
                        known.attempts.remove(0);
                    }
                    now = ended;
                }
            }
            match chance.below(40) {
                0 => now = now.plus(Duration::from_secs(chance.below(5 * 86_400))),
                1 if backwards < 20 => {
                    backwards += 1;
                    let back = i64::try_from(chance.below(6 * 3600)).unwrap() * 1_000_000;
                    now = UtcTime::from_unix_micros(now.as_unix_micros() - back).unwrap();
                }
                _ => {}
            }
            // Whenever it has nothing to do, the last planned time has been taken care of.
            if matches!(decide(&table, &known, now), Decision::Wait { .. }) {
                let planned = table.last_until(now).unwrap();
                let waits = table.start_of(planned) > now || known.failures(planned, now).0 > 0;
                assert!(waits || known.takes_care_of(planned, now), "seed {seed}: {planned} is forgotten at {now}");
            }
        }
    }
}
