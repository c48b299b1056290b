//! How often backups are made in a simulation, and how long they stay.

use std::time::Duration;

use crate::outcome::Kind;

/// How often backups are made, and how long they stay. What are days elsewhere are minutes here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Minutes between two backups.
    pub minutes: u32,
    /// How far back every moment can be restored, in **minutes**.
    pub window: u32,
    /// How long what was forgotten stays, in **minutes**.
    pub grace: u32,
    /// Backups that stay in any case. So few may go at once that a region which misses a round needs many that stay.
    pub min_keep: u32,
    /// How long faults may happen.
    pub troubled: Duration,
    /// How long everything works before the account: healing looks every ten minutes, and when a daemon begins.
    pub calm: Duration,
    /// A backup may be so old once everything has worked for a while.
    pub age_max: Duration,
    /// One event in so many is that retention is carried out; 0 for none.
    pub retention_one_in: u64,
}

impl Schedule {
    /// Some backups, of which the last ones stay.
    pub const ORDINARY: Self = Self {
        minutes: 5,
        window: 5,
        grace: 3,
        min_keep: 3,
        troubled: Duration::from_secs(14 * 60),
        calm: Duration::from_secs(13 * 60),
        age_max: Duration::from_secs(12 * 60),
        retention_one_in: 0,
    };
    /// Many backups, of which most are deleted.
    pub const BUSY: Self = Self {
        minutes: 1,
        window: 3,
        grace: 1,
        min_keep: 8,
        troubled: Duration::from_secs(9 * 60),
        calm: Duration::from_secs(6 * 60),
        age_max: Duration::from_secs(8 * 60),
        retention_one_in: 1,
    };

    /// For what is to happen.
    #[must_use]
    pub fn of(kind: Kind, is_busy: bool) -> Self {
        match kind {
            Kind::Retention => Self::BUSY,
            _ if is_busy => Self::BUSY,
            _ => Self::ORDINARY,
        }
    }

    /// Backups of a day that it explains, each twice, with one by hand: the hour of the simulation is the only one that has any.
    #[must_use]
    pub fn explained(self) -> u32 {
        60 / self.minutes * 2 + Self::BY_HAND
    }

    /// Backups by hand that a day may have.
    pub const BY_HAND: u32 = 1;
}
