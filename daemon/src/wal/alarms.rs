//! What is wrong right now: raised once, told again until it is cured, cleared once. Pure: conditions and the time come
//! in, what to tell comes out.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use lifeboat_vocabulary::{RegionName, UtcTime};

/// How often an alarm that goes on is told again.
const REPEAT: Duration = Duration::from_secs(15 * 60);

/// What can be wrong with continuous WAL. Its `Display` is the name that stays the same while the alarm lasts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// No server can be reached, or the stream keeps breaking.
    Disconnected,
    /// The server that was reached must not write into this repository.
    ServerRefused,
    /// WAL is missing; a base backup has been ordered and is not there yet.
    Gap,
    /// The server's WAL does not check out.
    DamagedWal,
    /// The oldest commit that the quorum does not hold is older than the objective.
    Rpo,
    /// The spool has no room: the server keeps the WAL.
    SpoolFull,
    /// The server keeps WAL for us, and its room comes to an end.
    SlotAtRisk,
    /// A region does not take WAL.
    Region(RegionName),
    /// Another writer has stored something else, or holds the region.
    Conflict(RegionName),
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => f.write_str("wal-disconnected"),
            Self::ServerRefused => f.write_str("wal-server-refused"),
            Self::Gap => f.write_str("wal-gap"),
            Self::DamagedWal => f.write_str("wal-damaged"),
            Self::Rpo => f.write_str("wal-rpo"),
            Self::SpoolFull => f.write_str("wal-spool-full"),
            Self::SlotAtRisk => f.write_str("wal-slot-at-risk"),
            Self::Region(region) => write!(f, "wal-region/{region}"),
            Self::Conflict(region) => write!(f, "wal-conflict/{region}"),
        }
    }
}

/// An alarm that lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raised {
    /// Since when.
    pub since: UtcTime,
    /// When it was told last.
    pub told: UtcTime,
    /// What is wrong and what to do.
    pub text: String,
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It began, or goes on and is told again.
    Firing(Alarm, Raised),
    /// It is cured.
    Cleared(Alarm, Raised),
}

/// All alarms that last.
#[derive(Clone, Debug, Default)]
pub struct Alarms {
    raised: BTreeMap<Alarm, Raised>,
}

impl Alarms {
    /// Compares what is wrong now with what was, and returns what to tell.
    pub fn update(&mut self, wrong: BTreeMap<Alarm, String>, now: UtcTime) -> Vec<Change> {
        let mut changes = Vec::new();
        let cured: Vec<Alarm> = self.raised.keys().filter(|alarm| !wrong.contains_key(alarm)).cloned().collect();
        for alarm in cured {
            if let Some(raised) = self.raised.remove(&alarm) {
                changes.push(Change::Cleared(alarm, raised));
            }
        }
        for (alarm, text) in wrong {
            match self.raised.get_mut(&alarm) {
                Some(raised) => {
                    raised.text = text;
                    if now.since(raised.told) >= REPEAT {
                        raised.told = now;
                        changes.push(Change::Firing(alarm, raised.clone()));
                    }
                }
                None => {
                    let raised = Raised { since: now, told: now, text };
                    self.raised.insert(alarm.clone(), raised.clone());
                    changes.push(Change::Firing(alarm, raised));
                }
            }
        }
        changes
    }

    /// What lasts.
    pub fn raised(&self) -> impl Iterator<Item = (&Alarm, &Raised)> {
        self.raised.iter()
    }
}

/// Tells of changes. An ERROR is something that a person must act on.
pub fn tell(changes: &[Change], cluster: &str) {
    for change in changes {
        match change {
            Change::Firing(alarm, raised) => {
                tracing::error!(cluster, %alarm, since = %raised.since, "{}", raised.text);
            }
            Change::Cleared(alarm, raised) => {
                tracing::info!(cluster, %alarm, since = %raised.since, "cured: {}", raised.text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> UtcTime {
        UtcTime::from_unix_micros((1_800_000_000 + seconds) * 1_000_000).unwrap()
    }

    fn wrong(alarms: &[(Alarm, &str)]) -> BTreeMap<Alarm, String> {
        alarms.iter().map(|(alarm, text)| (alarm.clone(), (*text).to_owned())).collect()
    }

    #[test]
    fn an_alarm_is_told_once_then_repeated_then_cleared_once() {
        let mut alarms = Alarms::default();
        let full = || wrong(&[(Alarm::SpoolFull, "full")]);
        assert_eq!(alarms.update(BTreeMap::new(), at(0)), []);
        assert!(matches!(alarms.update(full(), at(1)).as_slice(), [Change::Firing(Alarm::SpoolFull, _)]));
        assert_eq!(alarms.update(full(), at(2)), [], "it has been told");
        let again = alarms.update(wrong(&[(Alarm::SpoolFull, "fuller")]), at(1 + 900));
        let [Change::Firing(_, raised)] = again.as_slice() else { panic!("{again:?}") };
        assert_eq!((raised.since, raised.text.as_str()), (at(1), "fuller"));
        assert!(matches!(alarms.update(BTreeMap::new(), at(950)).as_slice(), [Change::Cleared(Alarm::SpoolFull, _)]));
        assert_eq!(alarms.update(BTreeMap::new(), at(951)), []);
        assert_eq!(alarms.raised().count(), 0);
    }

    #[test]
    fn regions_have_alarms_of_their_own() {
        let mut alarms = Alarms::default();
        let region = |name: &str| Alarm::Region(name.parse().unwrap());
        assert_eq!(alarms.update(wrong(&[(region("a"), "x"), (region("b"), "y")]), at(0)).len(), 2);
        let changes = alarms.update(wrong(&[(region("b"), "y"), (Alarm::Rpo, "z")]), at(1));
        let names: Vec<String> = changes
            .iter()
            .map(|change| match change {
                Change::Firing(alarm, _) => format!("+{alarm}"),
                Change::Cleared(alarm, _) => format!("-{alarm}"),
            })
            .collect();
        assert_eq!(names, ["-wal-region/a", "+wal-rpo"]);
    }
}
