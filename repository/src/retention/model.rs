//! What retention decides about, and what it decides: plain values.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::tz::TimeZone;
use lifeboat_vocabulary::{BackupId, ByteCount, UtcTime, WalPosition};

use crate::format::ids::HoldId;
use crate::log::records::care::PolicyText;
use crate::retention::reason::{Guard, Reason};

/// How far clocks may be apart before anybody worries.
pub(crate) const CLOCK_TOLERANCE: Duration = Duration::from_secs(3600);
/// A record arrives so long after its backup was complete at the most, unless a region was away or is a copy.
const ARRIVAL_TOLERANCE: Duration = Duration::from_secs(24 * 3600);

/// What is to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct RetentionPolicy {
    /// Days, weeks and months are those of this time zone.
    pub timezone: TimeZone,
    /// Days.
    pub daily: u32,
    /// Weeks, as ISO 8601 counts them.
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
    /// The newest backups that are kept in any case.
    pub min_keep: u32,
    /// How far back every moment can be reached.
    pub window: Duration,
    /// What is too unusual to be done unasked.
    pub limits: RetentionLimits,
}

/// From where on a plan is so unusual that a person has to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionLimits {
    /// The longest time between two scheduled backups; `None` if there is no schedule.
    pub backup_every: Option<Duration>,
    /// The most that may go at once, of backups and of bytes, in **percent**. A single backup always may.
    pub share_max_percent: u8,
}

impl Default for RetentionLimits {
    fn default() -> Self {
        Self { backup_every: None, share_max_percent: 30 }
    }
}

/// A backup that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub backup: BackupId,
    /// When it was complete, by the writer's clock.
    pub stop_time: UtcTime,
    /// When its record arrived, by the clock of the store that had it first; `None` if no store says.
    pub arrived: Option<UtcTime>,
    /// Where its recovery starts.
    pub start: WalPosition,
    /// What is known of its worth.
    pub verification: Verification,
    /// The holds on it that are in force.
    pub held: BTreeSet<HoldId>,
    /// Since when it may be swept, if it was forgotten already.
    pub leaving: Option<UtcTime>,
    /// The backup whose objects it may refer to.
    pub parent: Option<BackupId>,
    /// What it stored itself, and what its end would free.
    pub own_bytes: ByteCount,
}

/// What is known of a backup's worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verification {
    /// A drill has restored it.
    Drilled,
    /// No damage is known, and no drill has verified it.
    Undrilled,
    /// The database had damaged pages when it was made, or objects of it are damaged in this region.
    Damaged,
    /// Objects of it are not in this region, or are cut: a listing says so, and perhaps no record does yet.
    Lacking,
    /// Nobody could look whether its objects are there. It pushes no other backup out, and is kept as if it were good.
    Unknown,
}

impl Verification {
    /// Whether the backup counts as one of its day, week and month.
    #[must_use]
    pub(crate) fn is_good(self) -> bool {
        match self {
            Self::Drilled | Self::Undrilled => true,
            Self::Damaged | Self::Lacking | Self::Unknown => false,
        }
    }
}

impl Candidate {
    /// Whether the store's clock bears out when it is said to have been made. Whoever holds a writer's key can claim any
    /// time, and so be the newest of any day.
    #[must_use]
    pub(crate) fn is_borne_out(&self) -> bool {
        let plausible = |arrived: UtcTime| {
            self.stop_time <= arrived.plus(CLOCK_TOLERANCE) && arrived <= self.stop_time.plus(ARRIVAL_TOLERANCE)
        };
        self.arrived.is_none_or(plausible)
    }

    /// Order in time. The timeline is not looked at, because it starts anew with every major upgrade.
    #[must_use]
    pub(crate) fn age(&self) -> (UtcTime, u64, BackupId) {
        (self.stop_time, self.start.lsn.as_bytes(), self.backup.clone())
    }

    /// Since when it has existed, as far as anybody else than its writer can tell.
    #[must_use]
    pub(crate) fn existed_since(&self) -> UtcTime {
        self.arrived.unwrap_or(self.stop_time)
    }
}

/// What is kept, what is not, and from where on WAL is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionPlan {
    /// The backups that are kept with all their reasons, newest first.
    pub kept: Vec<(BackupId, BTreeSet<Reason>)>,
    /// The backups that are not, newest first.
    pub dropped: Vec<Dropped>,
    /// The backup that recovery to the oldest moment of the point-in-time window starts from. While none is as old as the
    /// window, the oldest.
    pub anchor: Option<BackupId>,
    /// WAL is kept from here on, on this timeline and those that come from it. `None` keeps all: as long as nothing has
    /// left the window, no WAL has either.
    pub wal_from: Option<WalPosition>,
    /// Why only a person may carry this out; empty for an ordinary plan.
    pub unusual: Vec<Guard>,
}

/// A backup that is kept no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Its name.
    pub backup: BackupId,
    /// Why no rule keeps it: one line for a person.
    pub why: String,
    /// Since when it may be swept, if it was forgotten already.
    pub leaving: Option<UtcTime>,
    /// What its end frees.
    pub own_bytes: ByteCount,
}

impl RetentionPlan {
    /// Whether the backup is kept.
    #[must_use]
    pub fn keeps(&self, backup: &BackupId) -> bool {
        self.kept.iter().any(|(kept, _)| kept == backup)
    }
}

impl RetentionPolicy {
    /// The policy as a record says it.
    #[must_use]
    pub fn text(&self) -> PolicyText {
        let timezone = self.timezone.iana_name().unwrap_or("unknown").to_owned();
        let Self { daily, weekly, monthly, min_keep, window, .. } = *self;
        PolicyText { timezone, daily, weekly, monthly, min_keep, window_seconds: window.as_secs() }
    }

    /// The policy that a record says; `None` if this machine does not know its time zone.
    #[must_use]
    pub fn from_text(text: &PolicyText, limits: RetentionLimits) -> Option<Self> {
        let timezone = TimeZone::get(&text.timezone).ok()?;
        let PolicyText { daily, weekly, monthly, min_keep, window_seconds, .. } = *text;
        Some(Self { timezone, daily, weekly, monthly, min_keep, window: Duration::from_secs(window_seconds), limits })
    }
}
