//! Regions that answer and nevertheless lack what they should have: backups that are kept, or WAL. What is being healed
//! is not reported for a while; what is not healed by then is. Pure.

use std::time::Duration;

use lifeboat_cli::terminal::spoken;
use lifeboat_vocabulary::{ByteCount, RegionName, UtcTime, counted};
use serde::{Deserialize, Serialize};

use crate::base::state::time_text;
use crate::model::snapshot::HealStatus;

/// So long a region may lack something before it is reported.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Between two rounds of healing nobody knows what is missing: so long nothing may be, before all is well again.
const GATHER: Duration = Duration::from_secs(15 * 60);

/// What a region lacks at one moment, as far as it can be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lack {
    /// Backups that others keep and it has not.
    pub backups: usize,
    /// Objects that are to be copied into it, of WAL too.
    pub objects: u64,
    /// Their **bytes**.
    pub bytes: u64,
}

impl Lack {
    /// What is missing by the logs, and what healing still has to copy.
    #[must_use]
    pub fn of(missing: usize, heal: Option<&HealStatus>) -> Self {
        let objects = heal.map_or(0, |heal| heal.objects_total.saturating_sub(heal.objects_done));
        let bytes = heal.map_or(0, |heal| heal.bytes_total.saturating_sub(heal.bytes_done));
        Self { backups: missing, objects, bytes }
    }

    fn is_nothing(&self) -> bool {
        self.backups == 0 && self.objects == 0
    }

    fn in_words(&self) -> String {
        let backups = counted(self.backups as u64, "backup", "backups");
        let backups = (self.backups > 0).then(|| format!("{backups} of those that are kept"));
        let (objects, bytes) = (counted(self.objects, "object", "objects"), ByteCount::from_bytes(self.bytes));
        let objects = (self.objects > 0).then(|| format!("{objects} of backups or WAL ({bytes})"));
        [backups, objects].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// Since when a region has lacked something while it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    #[serde(with = "time_text")]
    since: UtcTime,
    /// When something was seen missing last.
    #[serde(with = "time_text")]
    seen: UtcTime,
}

/// Takes a look, and says what there is to tell. A region that is away has an alarm of its own; its time begins when it is
/// back.
pub fn look(behind: &mut Option<Behind>, lack: Option<&Lack>, name: &RegionName, now: UtcTime) -> Option<String> {
    let Some(lack) = lack else {
        *behind = None;
        return None;
    };
    // What is dated later than now was noted while the clock was ahead.
    let known = behind.filter(|known| known.since <= now && known.seen <= now && now.since(known.seen) < GATHER);
    *behind = match (known, lack.is_nothing()) {
        (Some(known), true) => Some(known),
        (Some(known), false) => Some(Behind { seen: now, ..known }),
        (None, true) => None,
        (None, false) => Some(Behind { since: now, seen: now }),
    };
    let lasts = behind.map(|behind| now.since(behind.since)).filter(|lasts| *lasts > PATIENCE)?;
    let what = if lack.is_nothing() { "something that was copied to it just now".to_owned() } else { lack.in_words() };
    Some(format!("region {name} has lacked what others have for {}: {what}", spoken(lasts)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: u64) -> UtcTime {
        UtcTime::from_unix_micros(1_800_000_000_000_000).unwrap().plus(Duration::from_secs(minutes * 60))
    }

    #[test]
    fn a_region_that_lacks_something_for_long_is_reported_and_one_that_is_away_is_not() {
        let name: RegionName = "r1".parse().unwrap();
        let heal = |done, total| HealStatus {
            doing: "WAL".to_owned(),
            objects_done: done,
            objects_total: total,
            bytes_done: done << 20,
            bytes_total: total << 20,
        };
        let wal = || Some(Lack::of(0, Some(&heal(3, 10))));
        let backups = || Some(Lack::of(2, None));
        let nothing = || Some(Lack::of(0, Some(&heal(10, 10))));
        let mut behind: Option<Behind> = None;
        for (why, minutes, lack, told) in [
            ("all is there", 0, nothing(), None),
            ("WAL is being copied", 1, wal(), None),
            ("between two rounds", 8, nothing(), None),
            ("it still is, in time", 60, None, None),
            ("it is back after it was away", 61, wal(), None),
            ("the next round", 70, wal(), None),
            ("and so on", 80, wal(), None),
            ("and so on", 90, wal(), None),
            ("and so on", 100, wal(), None),
            ("and so on", 110, wal(), None),
            ("an hour", 121, wal(), None),
            ("longer", 122, wal(), Some("1 h 01 min: 7 objects of backups or WAL (7.0 MiB)")),
            ("backups", 123, backups(), Some("1 h 02 min: 2 backups of those that are kept")),
            ("no flapping", 130, nothing(), Some("1 h 09 min: something that was copied to it just now")),
            ("over", 138, nothing(), None),
            ("again, from the beginning", 139, backups(), None),
            ("by a clock that is a year ahead", 525_600, wal(), None),
            ("the clock is right", 140, wal(), None),
            ("the next round", 154, wal(), None),
            ("and so on", 168, wal(), None),
            ("and so on", 182, wal(), None),
            ("and so on", 196, wal(), None),
            ("longer", 201, wal(), Some("1 h 01 min: 7 objects of backups or WAL (7.0 MiB)")),
        ] {
            let text = serde_json::to_string(&behind).unwrap();
            behind = serde_json::from_str(&text).unwrap();
            let said = look(&mut behind, lack.as_ref(), &name, at(minutes));
            let expected = told.map(|told| format!("region r1 has lacked what others have for {told}"));
            assert_eq!(said, expected, "{why} ({minutes} min)");
        }
    }
}
