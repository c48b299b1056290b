//! Why retention keeps a backup, and what makes it hesitate: words for a person.

use std::fmt;

use jiff::civil::Date;
use lifeboat_vocabulary::{BackupId, ByteCount, UtcTime};

use crate::format::ids::HoldId;

/// Why a backup is kept. It may have several reasons, and loses them as it ages.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// It is the newest of a day that counts.
    Daily {
        /// The day, in the policy's time zone.
        day: Date,
    },
    /// It is the newest of a week that counts.
    Weekly {
        /// The year that the week belongs to (ISO 8601): not always that of the day.
        year: i16,
        /// Number of the week, from 1.
        week: i8,
    },
    /// It is the newest of a month that counts.
    Monthly {
        /// The year.
        year: i16,
        /// The month, from 1.
        month: i8,
    },
    /// It is among the newest, which are kept in any case.
    Newest {
        /// How many those are.
        of: u32,
    },
    /// Recovery to the oldest moment of the point-in-time window starts here.
    Anchor,
    /// A hold is on it.
    Hold(HoldId),
    /// It is the newest that a drill has verified.
    LastDrilled,
    /// It is the newest without known damage.
    LastGood,
    /// It is damaged, and there is no good one that is as new.
    NothingBetter,
    /// A backup that is kept refers to its objects.
    Referenced {
        /// The backup.
        by: BackupId,
    },
}

impl Reason {
    /// The letter that stands for it in a calendar.
    #[must_use]
    pub fn mark(&self) -> char {
        match self {
            Self::Daily { .. } => 'D',
            Self::Weekly { .. } => 'W',
            Self::Monthly { .. } => 'M',
            Self::Newest { .. } => 'N',
            Self::Anchor => 'A',
            Self::Hold(_) => 'H',
            Self::LastDrilled => 'P',
            Self::LastGood => 'G',
            Self::NothingBetter => '!',
            Self::Referenced { .. } => 'R',
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daily { day } => write!(f, "day {day}"),
            Self::Weekly { year, week } => write!(f, "week {year}-W{week:02}"),
            Self::Monthly { year, month } => write!(f, "month {year}-{month:02}"),
            Self::Newest { of } => write!(f, "newest {of}"),
            Self::Anchor => f.write_str("anchor of the point-in-time window"),
            Self::Hold(hold) => write!(f, "hold {hold}"),
            Self::LastDrilled => f.write_str("newest that a drill verified"),
            Self::LastGood => f.write_str("newest good one"),
            Self::NothingBetter => f.write_str("damaged, but there is no good one as new"),
            Self::Referenced { by } => write!(f, "{by} refers to it"),
        }
    }
}

/// What is so unusual about a plan that only a person may have it carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Guard {
    /// Backups have stopped coming: what is there may be the last.
    NoFreshBackup {
        /// When the newest good backup was complete; `None` if there is none.
        newest: Option<UtcTime>,
        /// The latest time at which the next one was expected.
        expected: Option<UtcTime>,
    },
    /// A large part of the backups would go at once.
    TooManyBackups {
        /// How many would go.
        dropped: usize,
        /// Of how many.
        of: usize,
        /// The most that may go at once, in **percent**.
        percent: u8,
    },
    /// A large part of the data would go at once.
    TooManyBytes {
        /// How much would go.
        dropped: ByteCount,
        /// Of how much.
        of: ByteCount,
        /// The most that may go at once, in **percent**.
        percent: u8,
    },
    /// The clock is behind what it, or another one, has shown before.
    ClockBehind {
        /// What it shows.
        now: UtcTime,
        /// What was shown before.
        before: UtcTime,
    },
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFreshBackup { newest: None, .. } => f.write_str("there is no good backup"),
            Self::NoFreshBackup { newest: Some(newest), expected } => {
                write!(f, "the newest good backup is of {newest}")?;
                expected.map_or(Ok(()), |expected| write!(f, ", and another was due by {expected}"))
            }
            Self::TooManyBackups { dropped, of, percent } => {
                write!(f, "{dropped} of {of} backups would go at once, which is more than {percent} %")
            }
            Self::TooManyBytes { dropped, of, percent } => {
                write!(f, "{dropped} of {of} would go at once, which is more than {percent} %")
            }
            Self::ClockBehind { now, before } => {
                write!(f, "the clock shows {now}, and {before} has been before")
            }
        }
    }
}
