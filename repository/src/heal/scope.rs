//! What every region is to have: what retention keeps, looking at all regions together. Pure.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_vocabulary::{BackupId, UtcTime, WalPosition};

use crate::log::region_log::RegionLog;
use crate::log::region_state::{RegionState, holds_in_force};
use crate::retention::model::{Candidate, RetentionPolicy};
use crate::retention::plan::{StoreFacts, candidates, plan_candidates};

/// What a region that was unavailable is healed to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealScope {
    /// These backups.
    pub backups: BTreeSet<BackupId>,
    /// WAL from here on; `None` for all that there is.
    pub wal_from: Option<WalPosition>,
}

impl HealScope {
    /// What `policy` keeps of everything that exists anywhere. A backup is as good as the best copy of it. `arrived` says when
    /// records arrived in the first region that has them.
    #[must_use]
    pub fn planned(
        logs: &[&RegionLog],
        policy: &RetentionPolicy,
        arrived: &BTreeMap<BackupId, UtcTime>,
        now: UtcTime,
    ) -> Self {
        let facts = StoreFacts { arrived: arrived.clone(), ..StoreFacts::default() };
        let states = states(logs, now);
        let mut all: BTreeMap<BackupId, Candidate> = BTreeMap::new();
        for candidate in states.iter().flat_map(|state| candidates(state, &facts)) {
            match all.get_mut(&candidate.backup) {
                Some(known) if !known.verification.is_good() => known.verification = candidate.verification,
                Some(_) => {}
                None => {
                    all.insert(candidate.backup.clone(), candidate);
                }
            }
        }
        let decided = states.iter().filter_map(|state| state.last_decision).max();
        let all: Vec<Candidate> = all.into_values().collect();
        let plan = plan_candidates(&all, policy, decided.map_or(now, |decided| now.max(decided)));
        let backups = plan.kept.into_iter().map(|(backup, _)| backup).collect();
        Self { backups, wal_from: plan.wal_from }
    }
}

/// What stands in each region; a hold in one of them counts in all.
fn states(logs: &[&RegionLog], now: UtcTime) -> Vec<RegionState> {
    let holds = holds_in_force(logs.iter().copied(), now);
    let state = |log: &&RegionLog| {
        let mut state = log.state(now);
        state.adopt_holds(holds.clone());
        state
    };
    logs.iter().map(state).collect()
}
