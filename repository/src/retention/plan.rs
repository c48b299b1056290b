//! What is kept, and why: a plan for the backups of one region. Pure; nothing is deleted here.
//!
//! Days, weeks and months are counted by those that have a good backup, so that a week of failed backups does not shorten
//! history; the newest backup of each stands for it. Whatever else keeps a backup (the newest few, the point-in-time
//! window, holds, the last proof) comes on top and pushes nothing out.
//!
//! A backup whose time the store's clock does not bear out pushes nothing out either: what the rules keep without it stays.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_vocabulary::{BackupId, UtcTime};

use crate::log::records::backup::Integrity;
use crate::log::region_state::{BackupState, RegionState};
use crate::retention::guards::{became_due_daily, guards};
use crate::retention::model::{CLOCK_TOLERANCE, Candidate, RetentionPlan, RetentionPolicy, Verification};
use crate::retention::reason::{Guard, Reason};
use crate::retention::rules::apply_rules;

/// What stores say about backups, beside what logs claim. Empty where nobody has asked them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreFacts {
    /// When records of backups arrived, by the clock of the store that had them first.
    pub arrived: BTreeMap<BackupId, UtcTime>,
    /// Backups of which objects are missing here.
    pub lacking: BTreeSet<BackupId>,
    /// Backups of which nobody could see whether their objects are here.
    pub unknown: BTreeSet<BackupId>,
    /// When the record of the last decision arrived here.
    pub decided: Option<UtcTime>,
}

impl StoreFacts {
    /// When anything was decided last: by the log, and not later than its record arrived.
    pub(crate) fn decided_at(&self, state: &RegionState) -> Option<UtcTime> {
        let latest = self.decided.map(|arrived| arrived.plus(CLOCK_TOLERANCE));
        state.last_decision.map(|decided| latest.map_or(decided, |latest| decided.min(latest)))
    }
}

/// The backups of a region that a plan chooses from: all that exist in it.
#[must_use]
pub(crate) fn candidates(state: &RegionState, facts: &StoreFacts) -> Vec<Candidate> {
    let candidate = |backup: &BackupState| {
        let BackupState { record, leaving, damaged, held, .. } = backup;
        let verification = match () {
            () if damaged.is_some() || record.integrity() != Integrity::Intact => Verification::Damaged,
            () if facts.lacking.contains(&record.backup) => Verification::Lacking,
            () if facts.unknown.contains(&record.backup) => Verification::Unknown,
            () => Verification::Undrilled,
        };
        Candidate {
            backup: record.backup.clone(),
            stop_time: record.stop_time,
            arrived: facts.arrived.get(&record.backup).copied(),
            start: record.start(),
            verification,
            held: held.clone(),
            leaving: leaving.as_ref().map(|leaving| leaving.not_before),
            parent: record.parent.clone(),
            own_bytes: record.packs.own_bytes,
        }
    };
    state.backups.values().map(candidate).collect()
}

/// The plan of a region. A clock that runs behind what decided before does not bring anything back.
#[must_use]
pub fn plan_region(state: &RegionState, facts: &StoreFacts, policy: &RetentionPolicy, now: UtcTime) -> RetentionPlan {
    let decided = facts.decided_at(state).unwrap_or(now);
    let candidates = candidates(state, facts);
    let mut plan = plan_candidates(&candidates, policy, now.max(decided));
    let is_known = plan.unusual.iter().any(|guard| matches!(guard, Guard::ClockBehind { .. }));
    if decided > now.plus(CLOCK_TOLERANCE) && !is_known {
        plan.unusual.push(Guard::ClockBehind { now, before: decided });
    }
    let is_share = |guard: &Guard| matches!(guard, Guard::TooManyBackups { .. } | Guard::TooManyBytes { .. });
    if plan.unusual.iter().any(is_share) {
        let same = state.policy.as_ref().filter(|(text, _)| *text == policy.text());
        let candidates: Vec<&Candidate> = candidates.iter().collect();
        // A region that was away has much to catch up on; another policy is what a person has to look at.
        if same.is_some_and(|(_, since)| became_due_daily(&candidates, policy, *since, now)) {
            plan.unusual.retain(|guard| !is_share(guard));
        }
    }
    plan
}

/// Decides about all `candidates`; their order does not matter.
#[must_use]
pub fn plan_candidates(candidates: &[Candidate], policy: &RetentionPolicy, now: UtcTime) -> RetentionPlan {
    let judged: Vec<Candidate> = candidates.iter().map(not_ahead_of_the_store).collect();
    let all: Vec<&Candidate> = judged.iter().collect();
    let borne_out: BTreeSet<&BackupId> =
        candidates.iter().filter(|candidate| candidate.is_borne_out()).map(|candidate| &candidate.backup).collect();
    let mut plan = apply_rules(&all, policy, now);
    if borne_out.len() < all.len() && !borne_out.is_empty() {
        let without = all.iter().filter(|candidate| borne_out.contains(&candidate.backup)).copied();
        plan = keep_also(plan, apply_rules(&without.collect::<Vec<_>>(), policy, now), &all);
    }
    plan.unusual = guards(&plan, &all, policy.limits, now);
    plan
}

/// Nothing was complete after its record had arrived: a time in the future makes no backup the newest for years.
fn not_ahead_of_the_store(candidate: &Candidate) -> Candidate {
    let latest = candidate.arrived.map(|arrived| arrived.plus(CLOCK_TOLERANCE));
    let stop_time = latest.map_or(candidate.stop_time, |latest| candidate.stop_time.min(latest));
    Candidate { stop_time, ..candidate.clone() }
}

/// What either plan keeps is kept, and WAL is kept from where the one begins that has only what is borne out.
fn keep_also(plan: RetentionPlan, without: RetentionPlan, all: &[&Candidate]) -> RetentionPlan {
    let mut reasons: BTreeMap<BackupId, BTreeSet<Reason>> = plan.kept.into_iter().collect();
    for (backup, more) in without.kept {
        reasons.entry(backup).or_default().extend(more);
    }
    let mut newest_first: Vec<&&Candidate> = all.iter().collect();
    newest_first.sort_by_cached_key(|candidate| std::cmp::Reverse(candidate.age()));
    let kept = newest_first.iter().filter_map(|candidate| reasons.remove_entry(&candidate.backup)).collect::<Vec<_>>();
    let stays = |backup: &BackupId| kept.iter().any(|(kept, _)| kept == backup);
    let dropped = plan.dropped.into_iter().filter(|dropped| !stays(&dropped.backup)).collect();
    let RetentionPlan { anchor, wal_from, .. } = without;
    RetentionPlan { kept, dropped, anchor, wal_from, unusual: Vec::new() }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
