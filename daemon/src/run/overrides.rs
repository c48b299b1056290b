//! Environment variables that override the configuration: since when each has been in force. Nobody sees them in the file,
//! so one that is forgotten has to be reported.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use lifeboat_config::Override;
use lifeboat_vocabulary::{ClusterName, UtcTime};
use serde::{Deserialize, Serialize};

use crate::base::alarms::board::{Alarm, Wrongs};
use crate::base::state::{Durable, StateError, time_text};
use crate::deletion::audit::{AuditEntry, AuditTrail, Responsible};

/// One that is older is reported.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// An override that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ActiveOverride {
    pub(crate) variable: String,
    /// The setting's path.
    pub(crate) setting: String,
    /// The value, unless it may hold a secret.
    pub(crate) shown: String,
    /// Since when a daemon has seen it.
    #[serde(with = "time_text")]
    pub(crate) since: UtcTime,
}

/// By variable.
type Ages = BTreeMap<String, ActiveOverride>;

/// Remembers since when overrides have been in force.
#[derive(Clone, Debug)]
pub(crate) struct Overrides {
    ages: Durable<Ages>,
}

impl Overrides {
    /// Below the state directory of the daemon.
    #[must_use]
    pub(crate) fn open(state_directory: &Path) -> Self {
        Self { ages: Durable::open(state_directory.join("overrides.json")).0 }
    }

    /// These are in force now; whatever else was is no more. New ones are audited.
    ///
    /// # Errors
    /// If it could not be saved; it is in force in this process nevertheless.
    pub(crate) fn seen(
        &self,
        overrides: &[Override],
        now: UtcTime,
        trail: &AuditTrail,
        clusters: &[ClusterName],
    ) -> Result<(), StateError> {
        let before = self.ages.read();
        let ages: Ages = overrides.iter().map(|found| (found.variable.clone(), active(found, &before, now))).collect();
        for new in ages.values().filter(|new| before.get(&new.variable) != Some(new)) {
            let subject = format!("{} = {}", new.setting, new.shown);
            let reason = format!("environment variable {} was set", new.variable);
            let who = Responsible::new(&reason, "environment");
            trail.note_for(&AuditEntry::new(now, None, "override", subject, &who), clusters);
        }
        if ages == before {
            return Ok(());
        }
        self.ages.change(|kept| *kept = ages)
    }

    /// All that are in force, by variable.
    #[must_use]
    pub(crate) fn active(&self) -> Vec<ActiveOverride> {
        self.ages.read().into_values().collect()
    }

    /// Which of them somebody may have forgotten.
    #[must_use]
    pub(crate) fn look(&self, now: UtcTime) -> Wrongs {
        let mut wrong = Wrongs::default();
        for ActiveOverride { variable, setting, shown, since } in self.active() {
            // One from a future that the clock has left is as old as nobody knows.
            if since > now.plus(STALE) || now.since(since) > STALE {
                let text = format!(
                    "environment variable {variable} has set {setting} to {shown} since {since}; write it into the \
                     configuration, or remove it"
                );
                wrong.add(Alarm::OverrideStale.about(variable), text);
            }
        }
        wrong
    }
}

/// The same variable with another value is another override.
fn active(found: &Override, before: &Ages, now: UtcTime) -> ActiveOverride {
    let (variable, setting, shown) = (found.variable.clone(), found.path.clone(), found.shown.clone());
    let same = before.get(&variable).filter(|before| before.shown == shown);
    ActiveOverride { variable, setting, shown, since: same.map_or(now, |before| before.since.min(now)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> UtcTime {
        UtcTime::from_unix_micros((1_800_000_000 + hours * 3600) * 1_000_000).unwrap()
    }

    fn quorum(value: &str) -> Override {
        let (variable, path) = ("LIFEBOAT_DURABILITY__WAL_QUORUM".to_owned(), "durability.wal_quorum".to_owned());
        Override { variable, path, shown: value.to_owned() }
    }

    #[test]
    fn an_override_ages_over_restarts_until_it_is_gone_or_another() {
        let dir = tempfile::tempdir().unwrap();
        let trail = AuditTrail::new(dir.path());
        let clusters = ["main".parse().unwrap()];
        let seen = |overrides: &[Override], hours| {
            let kept = Overrides::open(dir.path());
            kept.seen(overrides, at(hours), &trail, &clusters).unwrap();
            kept.look(at(hours)).iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>()
        };
        let told = ["override-stale/LIFEBOAT_DURABILITY__WAL_QUORUM"];
        for (why, overrides, hours, expected) in [
            ("new", vec![quorum("1")], 0, vec![]),
            ("a day", vec![quorum("1")], 24, vec![]),
            ("longer", vec![quorum("1")], 25, told.to_vec()),
            ("another value", vec![quorum("2")], 26, vec![]),
            ("gone", vec![], 60, vec![]),
            ("back", vec![quorum("2")], 61, vec![]),
        ] {
            assert_eq!(seen(&overrides, hours), expected, "{why}");
        }
        let audited = std::fs::read_to_string(trail.file()).unwrap();
        assert_eq!(audited.lines().count(), 3, "each time that it was set: {audited}");
        assert_eq!(trail.queue(&clusters[0]).read().waiting.len(), 3, "the regions hear of it too");
    }
}
