//! Hours in which no backup begins: `Mon-Fri 08:00-18:00`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use jiff::ToSpan;
use jiff::civil::{DateTime, Weekday};

use crate::cron_field::WEEKDAY;

const MINUTES_OF_A_DAY: u16 = 24 * 60;

/// Hours of some weekdays in which no backup begins. One that began before goes on.
///
/// `08:00-18:00` is every day; a window whose end is not after its beginning ends on the next day: `Fri 22:00-06:00`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlackoutWindow {
    /// The weekdays on which it begins: 0 (Sunday) to 6.
    days: BTreeSet<u8>,
    /// Minutes after midnight.
    from: u16,
    /// How many minutes it lasts: at most a day.
    minutes: u16,
    text: String,
}

/// A text that is not a window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a window of time (weekdays and hours, such as Mon-Fri 08:00-18:00, or hours alone)")]
pub struct ParseWindowError {
    text: String,
}

impl BlackoutWindow {
    /// The end of the window that `civil` lies in: the first minute that is outside. `None` if it lies outside.
    #[must_use]
    pub fn end_around(&self, civil: DateTime) -> Option<DateTime> {
        // One that began today, or yesterday and lasts over midnight.
        [0, 1].into_iter().find_map(|days_ago| {
            let day = civil.date().checked_sub(i64::from(days_ago).days()).ok()?;
            if !self.days.contains(&number_of(day.weekday())) {
                return None;
            }
            let begin = day.at(0, 0, 0, 0).checked_add(i64::from(self.from).minutes()).ok()?;
            let end = begin.checked_add(i64::from(self.minutes).minutes()).ok()?;
            (begin <= civil && civil < end).then_some(end)
        })
    }
}

fn number_of(day: Weekday) -> u8 {
    u8::try_from(day.to_sunday_zero_offset()).unwrap_or(0)
}

/// Whether some minute of the week is in none of the windows.
pub(crate) fn leave_room(windows: &[BlackoutWindow]) -> bool {
    // A whole week: 2026-11-22 is a Sunday.
    let monday = jiff::civil::date(2026, 11, 23).at(0, 0, 0, 0);
    let mut now = monday;
    while let Some(end) = windows.iter().filter_map(|window| window.end_around(now)).max() {
        now = end;
        if now.duration_since(monday).as_secs() >= 8 * 86_400 {
            return false;
        }
    }
    true
}

/// Minutes after midnight; 24:00 is the end of the day.
fn minutes_of(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str, most: u16| {
        let digits = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|number| digits && *number <= most)
    };
    let (hours, minutes) = (number(hours, 24)?, number(minutes, 59).filter(|_| minutes.len() == 2)?);
    Some(hours * 60 + minutes).filter(|sum| *sum <= MINUTES_OF_A_DAY)
}

impl FromStr for BlackoutWindow {
    type Err = ParseWindowError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let words: Vec<&str> = text.split_whitespace().collect();
            let (days, hours) = match words.as_slice() {
                [hours] => (WEEKDAY.all(), *hours),
                [days, hours] => (WEEKDAY.numbers(days).ok()?, *hours),
                _ => return None,
            };
            let (from, until) = hours.split_once('-')?;
            let (from, until) = (minutes_of(from)?, minutes_of(until)?);
            if from == until || from == MINUTES_OF_A_DAY {
                return None;
            }
            let minutes = if until > from { until - from } else { until + MINUTES_OF_A_DAY - from };
            Some(Self { days, from, minutes, text: words.join(" ") })
        };
        parse().ok_or_else(|| ParseWindowError { text: text.to_owned() })
    }
}

impl fmt::Display for BlackoutWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(text: &str) -> BlackoutWindow {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for text in [
            "",
            "Mon",
            "8-18",
            "08:00",
            "08:00-08:00",
            "24:00-06:00",
            "08:00-24:01",
            "08:60-09:00",
            "08:0-09:00",
            "-08:00-09:00",
            "Mon Tue 08:00-09:00",
            "Mon-Fri08:00-09:00",
            "8 08:00-09:00",
            "08:00 - 09:00",
        ] {
            assert!(text.parse::<BlackoutWindow>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_window_ends_when_it_says_also_over_midnight() {
        // 2026-11-20 is a Friday.
        for (text, now, expected) in [
            ("08:00-18:00", "2026-11-20T07:59:59", None),
            ("08:00-18:00", "2026-11-20T08:00", Some("2026-11-20T18:00")),
            ("08:00-18:00", "2026-11-20T18:00", None),
            ("Mon-Fri 08:00-18:00", "2026-11-21T12:00", None),
            ("Fri 22:00-06:00", "2026-11-20T05:00", None),
            ("Fri 22:00-06:00", "2026-11-20T23:00", Some("2026-11-21T06:00")),
            ("Fri 22:00-06:00", "2026-11-21T05:59:59", Some("2026-11-21T06:00")),
            ("Fri 22:00-06:00", "2026-11-21T22:00", None),
            ("Sat,Sun 0:00-24:00", "2026-11-22T23:59", Some("2026-11-23T00:00")),
            ("5 12:00-24:00", "2026-11-20T12:00", Some("2026-11-21T00:00")),
        ] {
            let end = window(text).end_around(now.parse().unwrap());
            assert_eq!(end, expected.map(|end| end.parse().unwrap()), "{text} at {now}");
        }
    }

    #[test]
    fn windows_must_leave_room_in_the_week() {
        for (windows, room) in [
            (vec![], true),
            (vec!["00:00-24:00"], false),
            (vec!["00:00-23:59"], true),
            (vec!["Mon-Fri 00:00-24:00"], true),
            (vec!["Mon-Fri 00:00-24:00", "Sat-Sun 00:00-24:00"], false),
            (vec!["06:00-18:00", "18:00-06:00"], false),
            (vec!["06:00-18:00", "18:00-05:00"], true),
        ] {
            let parsed: Vec<_> = windows.iter().map(|text| window(text)).collect();
            assert_eq!(leave_room(&parsed), room, "{windows:?}");
        }
    }
}
