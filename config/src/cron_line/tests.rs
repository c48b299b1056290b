//! Cron lines against the calendar, day by day.

use jiff::ToSpan;
use jiff::civil::{DateTime, Weekday, date};

use super::*;

fn line(text: &str) -> CronLine {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn at(text: &str) -> DateTime {
    text.parse().unwrap()
}

#[test]
fn lines_that_are_wrong_or_never_come_are_refused_with_what_would_be_right() {
    for (text, problem, right) in [
        ("", "has 0 fields", "five fields"),
        ("0 2 * *", "has 4 fields", "`0 2 * * *`"),
        ("0 0 2 * * *", "has 6 fields", "five fields"),
        ("@daily", "is a name for a schedule", "`0 2 * * *`"),
        ("60 2 * * *", "`60` is not a minute", "0 to 59"),
        ("0 24 * * *", "`24` is not a hour", "0 to 23"),
        ("0 2 * * 8", "`8` is not a weekday", "a name such as sun"),
        ("0 2 * * Son", "`Son` is not a weekday", "0 to 7"),
        ("0 2 30 2 *", "never comes", "`0 2 29 2 *`"),
        ("0 2 31 4,6,Sep,11 *", "never comes", "`0 2 30 4,6,Sep,11 *`"),
    ] {
        let told = text.parse::<CronLine>().unwrap_err();
        assert!(told.problem.contains(problem) && told.right.contains(right), "{text}: {told}");
    }
}

#[test]
fn weekdays_are_counted_as_in_a_crontab() {
    // 2026-11-22 is a Sunday.
    for (text, expected) in [
        ("0 2 * * 0", "2026-11-22T02:00"),
        ("0 2 * * 7", "2026-11-22T02:00"),
        ("0 2 * * Sun", "2026-11-22T02:00"),
        ("0 2 * * 1", "2026-11-23T02:00"),
        ("0 2 * * Mon", "2026-11-23T02:00"),
        ("0 2 * * 6", "2026-11-28T02:00"),
        ("0 2 * * 1-5", "2026-11-23T02:00"),
    ] {
        assert_eq!(line(text).next_after(at("2026-11-21T12:00")), Some(at(expected)), "{text}");
    }
}

#[test]
fn a_day_of_the_month_or_a_weekday_is_enough() {
    let both = line("0 2 13 * Fri");
    // Friday the 20th and Friday the 27th of November, Friday the 4th, the 11th, Sunday the 13th of December.
    let mut now = at("2026-11-14T00:00");
    let mut days = Vec::new();
    for _ in 0..5 {
        now = both.next_after(now).unwrap();
        days.push((now.month(), now.day()));
    }
    assert_eq!(days, [(11, 20), (11, 27), (12, 4), (12, 11), (12, 13)]);
    let every_second = line("0 2 */2 * Fri");
    assert_eq!(every_second.next_after(at("2026-11-14T00:00")), Some(at("2026-11-27T02:00")), "with * both must fit");
    let half = line("0 2 31 2 Fri");
    assert_eq!(half.next_after(at("2026-02-01T00:00")), Some(at("2026-02-06T02:00")), "the other half still comes");
}

#[test]
fn the_next_time_is_later_and_the_last_one_is_not() {
    let daily = line("30 2 * * *");
    assert_eq!(daily.next_after(at("2026-11-21T02:30")), Some(at("2026-11-22T02:30")));
    assert_eq!(daily.next_after(at("2026-11-21T02:29:59")), Some(at("2026-11-21T02:30")));
    assert_eq!(daily.last_until(at("2026-11-21T02:30")), Some(at("2026-11-21T02:30")));
    assert_eq!(daily.last_until(at("2026-11-21T02:29:59")), Some(at("2026-11-20T02:30")));
    assert_eq!(line("0 0 29 2 *").last_until(at("2026-01-01T00:00")), Some(at("2024-02-29T00:00")));
    assert_eq!(line("0 0 29 2 *").next_after(at("2026-01-01T00:00")), Some(at("2028-02-29T00:00")));
}

/// What a line means, without the crate: each minute of two years is asked.
#[test]
fn every_minute_of_two_years_is_as_the_fields_say() {
    for (text, fits) in [
        ("*/20 3 * * *", (|t| t.hour() == 3 && t.minute() % 20 == 0) as fn(DateTime) -> bool),
        ("0 2 * * Sat-Mon", |t| {
            t.hour() == 2
                && t.minute() == 0
                && matches!(t.weekday(), Weekday::Saturday | Weekday::Sunday | Weekday::Monday)
        }),
        ("15 4 1,15,31 Jan-Mar *", |t| {
            t.hour() == 4 && t.minute() == 15 && [1, 15, 31].contains(&t.day()) && t.month() <= 3
        }),
        ("0 2 13 * Fri", |t| t.hour() == 2 && t.minute() == 0 && (t.day() == 13 || t.weekday() == Weekday::Friday)),
    ] {
        let line = line(text);
        let mut expected = Vec::new();
        let end = date(2026, 1, 1).at(0, 0, 0, 0);
        let mut minute = date(2024, 1, 1).at(0, 0, 0, 0);
        while minute < end {
            if fits(minute) {
                expected.push(minute);
            }
            minute = minute.checked_add(1.minute()).unwrap();
        }
        let (mut forwards, mut now) = (Vec::new(), date(2023, 12, 31).at(23, 59, 59, 0));
        while let Some(next) = line.next_after(now).filter(|next| *next < end) {
            assert!(next > now);
            forwards.push(next);
            now = next;
        }
        assert_eq!(forwards, expected, "{text} forwards");
        let (mut backwards, mut now) = (Vec::new(), end.checked_sub(1.second()).unwrap());
        while let Some(last) = line.last_until(now).filter(|last| *last >= date(2024, 1, 1).at(0, 0, 0, 0)) {
            backwards.push(last);
            now = last.checked_sub(1.second()).unwrap();
        }
        backwards.reverse();
        assert_eq!(backwards, expected, "{text} backwards");
    }
}
