//! A cron line of five fields, as crontab(5) writes them: when something is to happen, in civil time.
//!
//! The crate that walks the calendar has six fields, counts weekdays from 1 = Sunday, and wants both the day of the
//! month and the weekday to fit. Here is the only room that knows: lines are read by our own rules and handed to it as
//! plain lists of numbers, and it sees civil time as if it were UTC, so that it never meets a clock change.

use lifeboat_vocabulary::counted;
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::str::FromStr;

use chrono::{Datelike, NaiveDate, Timelike, Utc};
use jiff::civil::DateTime;

use crate::cron_field::{DAY, FieldFault, HOUR, MINUTE, MONTH, Unit, WEEKDAY};

/// When something is to happen: `0 2 * * Sun`.
///
/// Minute, hour, day of the month, month, weekday. Weekdays are names or 0 to 7, where 0 and 7 are Sunday. If both the
/// day of the month and the weekday are restricted, either is enough. Source: crontab(5), POSIX `crontab`.
#[derive(Clone)]
pub struct CronLine {
    text: String,
    /// One, or two of which either is enough.
    schedules: Vec<cron::Schedule>,
}

/// A text that is not a cron line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem} ({right})")]
pub struct ParseCronLineError {
    problem: String,
    right: String,
}

impl From<FieldFault> for ParseCronLineError {
    fn from(fault: FieldFault) -> Self {
        Self { problem: fault.problem, right: fault.right }
    }
}

impl CronLine {
    /// The first time after `civil`; `None` after the year 2100.
    #[must_use]
    pub fn next_after(&self, civil: DateTime) -> Option<DateTime> {
        let from = to_chrono(civil)?;
        self.schedules.iter().filter_map(|schedule| to_civil(schedule.after(&from).next()?)).min()
    }

    /// The last time that was not after `civil`; `None` before 1970.
    #[must_use]
    pub fn last_until(&self, civil: DateTime) -> Option<DateTime> {
        let until = to_chrono(civil)? + chrono::TimeDelta::seconds(1);
        self.schedules.iter().filter_map(|schedule| to_civil(schedule.after(&until).next_back()?)).max()
    }
}

/// Civil time as if it were UTC, to the second.
fn to_chrono(civil: DateTime) -> Option<chrono::DateTime<Utc>> {
    let unsigned = |number: i8| u32::try_from(number).ok();
    let date = NaiveDate::from_ymd_opt(i32::from(civil.year()), unsigned(civil.month())?, unsigned(civil.day())?)?;
    let time = date.and_hms_opt(unsigned(civil.hour())?, unsigned(civil.minute())?, unsigned(civil.second())?)?;
    Some(time.and_utc())
}

fn to_civil(time: chrono::DateTime<Utc>) -> Option<DateTime> {
    let small = |number: u32| i8::try_from(number).ok();
    let (hour, minute, second) = (small(time.hour())?, small(time.minute())?, small(time.second())?);
    let year = i16::try_from(time.year()).ok()?;
    DateTime::new(year, small(time.month())?, small(time.day())?, hour, minute, second, 0).ok()
}

impl FromStr for CronLine {
    type Err = ParseCronLineError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            let problem = match text.strip_prefix('@') {
                Some(_) => format!("`{text}` is a name for a schedule, which is not understood here"),
                None => format!("`{text}` has {}", counted(fields.len() as u64, "field", "fields")),
            };
            let right = "five fields: minute, hour, day of the month, month, weekday, such as `0 2 * * *`".to_owned();
            return Err(ParseCronLineError { problem, right });
        };
        let (minutes, hours) = (MINUTE.numbers(minute)?, HOUR.numbers(hour)?);
        let (days, months, weekdays) = (DAY.numbers(day)?, MONTH.numbers(month)?, WEEKDAY.numbers(weekday)?);
        let both_restricted = !day.starts_with('*') && !weekday.starts_with('*');
        let line = |days: &BTreeSet<u8>, weekdays: &BTreeSet<u8>| {
            six_fields([(&MINUTE, &minutes), (&HOUR, &hours), (&DAY, days), (&MONTH, &months), (&WEEKDAY, weekdays)])
        };
        let lines = match both_restricted {
            true => vec![line(&days, &WEEKDAY.all()), line(&DAY.all(), &weekdays)],
            false => vec![line(&days, &weekdays)],
        };
        let mut schedules = Vec::new();
        for line in lines {
            let refused = |_| ParseCronLineError {
                problem: format!("`{text}` is not understood"),
                right: "five fields, such as `0 2 * * *`".to_owned(),
            };
            let schedule: cron::Schedule = line.parse().map_err(refused)?;
            // Eight years hold every date that there is, but for two centuries' ends; later the search would be in vain.
            if to_chrono(DateTime::constant(2000, 1, 1, 0, 0, 0, 0))
                .is_some_and(|at| schedule.after(&at).next().is_some())
            {
                schedules.push(schedule);
            }
        }
        if schedules.is_empty() {
            return Err(never(text, [minute, hour, month, weekday], &days, &months));
        }
        Ok(Self { text: fields.join(" "), schedules })
    }
}

/// A date that no year has, and the nearest one that there is.
fn never(
    text: &str,
    [minute, hour, month, weekday]: [&str; 4],
    days: &BTreeSet<u8>,
    months: &BTreeSet<u8>,
) -> ParseCronLineError {
    let longest = months.iter().map(|month| month_length(*month)).max().unwrap_or(31);
    let day = days.first().map_or(longest, |day| (*day).min(longest));
    ParseCronLineError {
        problem: format!("`{text}` never comes: no such month has so many days"),
        right: format!("`{minute} {hour} {day} {month} {weekday}`, or another date that there is"),
    }
}

fn month_length(month: u8) -> u8 {
    match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// As the crate wants it: with seconds before, and weekdays counted from 1.
fn six_fields(fields: [(&Unit, &BTreeSet<u8>); 5]) -> String {
    let mut line = "0".to_owned();
    for (unit, numbers) in fields {
        line.push(' ');
        if *numbers == unit.all() {
            line.push('*');
            continue;
        }
        let offset = u8::from(unit.word == WEEKDAY.word);
        for (index, number) in numbers.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            // Writing into a text cannot fail.
            if write!(line, "{comma}{}", number + offset).is_err() {
                return line;
            }
        }
    }
    line
}

impl fmt::Display for CronLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for CronLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CronLine({})", self.text)
    }
}

impl PartialEq for CronLine {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for CronLine {}

#[cfg(test)]
mod tests;
