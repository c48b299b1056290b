//! What a region has been seen to do, probe by probe: an ability that vanishes is worse than one that never was. Pure.

use std::collections::BTreeMap;

use lifeboat_stores::{Check, Finding, ProbeReport};
use lifeboat_vocabulary::UtcTime;
use serde::{Deserialize, Serialize};

use crate::base::state::time_text;

/// How many may write into a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Conditional writes are exact there: the log orders everybody.
    Many,
    /// They are not: this daemon must be the only one, and deletion keeps its full grace.
    One,
}

/// So many probes in a row must find an ability again before it is relied on.
const PROOFS: u32 = 2;

/// What a probe found of one ability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ability {
    /// The region does it.
    Holds,
    /// The role may not; right or wrong depends on the role.
    NotAllowed,
    /// The region does not do it.
    Lacks,
}

/// What is remembered of a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// When the last probe was made.
    #[serde(with = "time_text")]
    probed: UtcTime,
    /// By the names of [`name`].
    found: BTreeMap<String, Ability>,
    /// Abilities that vanished, and how many probes in a row have found them again.
    lost: BTreeMap<String, u32>,
}

/// A change between two probes, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbilityChange {
    /// Which ability.
    pub name: String,
    /// What it was.
    pub before: Ability,
    /// What it is.
    pub now: Ability,
}

impl Capabilities {
    /// Takes a probe. The first one has nothing to be compared with.
    pub fn learn(earlier: Option<Self>, report: &ProbeReport, now: UtcTime) -> (Self, Vec<AbilityChange>) {
        let first = Self { probed: now, found: BTreeMap::new(), lost: BTreeMap::new() };
        let mut known = Self { probed: now, ..earlier.unwrap_or(first) };
        let mut changes = Vec::new();
        for (check, finding) in &report.findings {
            let ability = match finding {
                Finding::Holds => Ability::Holds,
                Finding::NotAllowed { .. } => Ability::NotAllowed,
                Finding::Lacks { .. } => Ability::Lacks,
                Finding::Unclear { .. } => continue,
            };
            changes.extend(known.learn_one(name(*check), ability));
        }
        (known, changes)
    }

    fn learn_one(&mut self, name: &str, now: Ability) -> Option<AbilityChange> {
        match (now, self.lost.get_mut(name)) {
            (Ability::Holds, Some(proofs)) => {
                *proofs += 1;
                if *proofs >= PROOFS {
                    self.lost.remove(name);
                }
            }
            (_, Some(proofs)) => *proofs = 0,
            (_, None) => {}
        }
        let before = self.found.insert(name.to_owned(), now)?;
        if (before, now) == (Ability::Holds, Ability::Lacks) {
            self.lost.entry(name.to_owned()).or_insert(0);
        }
        (before != now).then(|| AbilityChange { name: name.to_owned(), before, now })
    }

    /// When the last probe was made.
    #[must_use]
    pub fn probed(&self) -> UtcTime {
        self.probed
    }

    /// What vanished and is not verified again.
    pub fn lost(&self) -> impl Iterator<Item = &str> {
        self.lost.keys().map(String::as_str)
    }

    /// Whether what vanished makes it unsafe that several write there.
    #[must_use]
    pub fn lost_conditional_writes(&self) -> bool {
        CONDITIONAL.iter().any(|check| self.lost.contains_key(name(*check)))
    }

    /// How many may write there.
    #[must_use]
    pub fn writers(&self) -> Writers {
        let lacks = |check: &Check| self.found.get(name(*check)) == Some(&Ability::Lacks);
        if CONDITIONAL.iter().any(lacks) || self.lost_conditional_writes() { Writers::One } else { Writers::Many }
    }
}

/// What orders several writers.
pub(crate) const CONDITIONAL: [Check; 2] = [Check::CreateOnce, Check::ReplaceOnce];

/// The name of a check that stays the same over versions.
fn name(check: Check) -> &'static str {
    match check {
        Check::Create => "create",
        Check::CreateOnce => "create-once",
        Check::RefuseDamage => "refuse-damage",
        Check::ReadBack => "read-back",
        Check::List => "list",
        Check::ReplaceOnce => "replace-once",
        Check::Delete => "delete",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(day: u64) -> UtcTime {
        UtcTime::from_unix_micros(1_800_000_000_000_000).unwrap().plus(Duration::from_secs(day * 86_400))
    }

    fn probe(create_once: Finding, delete: Finding) -> ProbeReport {
        let findings = vec![
            (Check::Create, Finding::Holds),
            (Check::CreateOnce, create_once),
            (Check::ReplaceOnce, Finding::NotAllowed { said: "403".to_owned() }),
            (Check::Delete, delete),
        ];
        ProbeReport { findings, clock_skew_micros: None, first_write: Duration::ZERO }
    }

    fn lacks() -> Finding {
        Finding::Lacks { what: "it was created twice".to_owned() }
    }

    #[test]
    fn lost_conditional_writes_leave_one_writer_until_they_are_verified_twice() {
        let good = probe(Finding::Holds, Finding::Holds);
        let bad = probe(lacks(), Finding::Holds);
        let unclear = probe(Finding::Unclear { why: "reset".to_owned() }, Finding::Holds);
        let (mut known, changes) = Capabilities::learn(None, &good, at(0));
        assert_eq!((known.writers(), changes), (Writers::Many, vec![]));
        for (day, report, writers, changed) in [
            (1, &unclear, Writers::Many, 0),
            (2, &bad, Writers::One, 1),
            (3, &unclear, Writers::One, 0),
            (4, &good, Writers::One, 1),
            (5, &bad, Writers::One, 1),
            (6, &good, Writers::One, 1),
            (7, &good, Writers::Many, 0),
            (8, &good, Writers::Many, 0),
        ] {
            let (next, changes) = Capabilities::learn(Some(known), report, at(day));
            assert_eq!((next.writers(), changes.len(), next.probed()), (writers, changed, at(day)), "day {day}");
            assert_eq!(next.lost_conditional_writes(), writers == Writers::One, "day {day}");
            known = next;
        }
    }

    #[test]
    fn what_a_region_never_had_is_not_lost() {
        let (known, changes) = Capabilities::learn(None, &probe(lacks(), Finding::Holds), at(0));
        assert_eq!((known.writers(), known.lost().count(), changes), (Writers::One, 0, vec![]));
    }

    #[test]
    fn a_right_that_is_granted_or_withdrawn_is_reported_and_is_no_lost_capability() {
        let refused = Finding::NotAllowed { said: "403".to_owned() };
        let (known, _) = Capabilities::learn(None, &probe(Finding::Holds, refused), at(0));
        let (known, changes) = Capabilities::learn(Some(known), &probe(Finding::Holds, Finding::Holds), at(1));
        let told = AbilityChange { name: "delete".to_owned(), before: Ability::NotAllowed, now: Ability::Holds };
        assert_eq!((changes, known.lost().count()), (vec![told], 0));
    }

    #[test]
    fn what_is_known_outlives_a_restart() {
        let (known, _) = Capabilities::learn(None, &probe(Finding::Holds, Finding::Holds), at(0));
        let (known, _) = Capabilities::learn(Some(known), &probe(lacks(), Finding::Holds), at(1));
        let text = serde_json::to_string(&known).unwrap();
        assert_eq!(serde_json::from_str::<Capabilities>(&text).unwrap(), known);
    }
}
