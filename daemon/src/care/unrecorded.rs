//! Damage goes on record in the log of its region. What cannot be recorded is not forgotten, and is told.

use std::fmt;

use lifeboat_repository::heal::HealRegion;
use lifeboat_repository::log::FoundDamage;
use lifeboat_repository::log::records::FoundBy;
use lifeboat_vocabulary::{counted, error_chain};

use crate::care::parts::CareParts;

/// What is kept for the next attempt at the most; the rest is found anew.
const KEPT_MAX: usize = 1000;

/// Damage that could not be put on record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unrecorded {
    /// What was found.
    pub(crate) damage: Vec<FoundDamage>,
    /// Why it is on no record, by region.
    pub(crate) why: Vec<String>,
}

impl Unrecorded {
    /// Puts damage on record in the logs of these regions, and keeps the rest. Has it healed in its turn.
    pub(crate) async fn record(parts: &CareParts, regions: &[HealRegion], damage: Vec<FoundDamage>) -> Self {
        let reporter = parts.damage_reporter(FoundBy::Verify);
        let mut left = Self { damage, why: Vec::new() };
        for region in regions {
            let name = &region.store.name;
            if !left.damage.iter().any(|found| found.region == *name) {
                continue;
            }
            let mut log = region.log.clone();
            match reporter.record(&region.store, &mut log, &left.damage).await {
                Ok(new) => {
                    left.damage.retain(|found| found.region != *name);
                    if new > 0 {
                        parts.board.wake_healing();
                    }
                }
                Err(error) => left.why.push(format!("region {name}: {}", error_chain(&error))),
            }
        }
        left.damage.truncate(KEPT_MAX);
        left
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.damage.is_empty()
    }
}

impl fmt::Display for Unrecorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let objects = counted(self.damage.len() as u64, "damaged object", "damaged objects");
        let why = if self.why.is_empty() { "its region does not answer".to_owned() } else { self.why.join("; ") };
        write!(f, "{objects} could not be put on record: {why}")
    }
}
