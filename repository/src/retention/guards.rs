//! What makes a plan so unusual that only a person may have it carried out. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use lifeboat_vocabulary::{BackupId, ByteCount, UtcTime};

use crate::retention::model::{CLOCK_TOLERANCE, Candidate, Dropped, RetentionLimits, RetentionPlan, RetentionPolicy};
use crate::retention::reason::Guard;
use crate::retention::rules::{apply_rules, present_of};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// What is younger than this does not count where shares are measured: whoever can write could make any share small.
const SETTLED: Duration = Duration::from_secs(2 * 24 * 3600);
/// Steps in which it is found out what became due day by day; longer times have longer steps.
const STEPS_MAX: u64 = 400;

/// What is unusual about a plan for all `candidates`.
pub(crate) fn guards(
    plan: &RetentionPlan,
    candidates: &[&Candidate],
    limits: RetentionLimits,
    now: UtcTime,
) -> Vec<Guard> {
    let present = present_of(candidates, now);
    let mut guards = Vec::new();
    if present > now.plus(CLOCK_TOLERANCE) {
        guards.push(Guard::ClockBehind { now, before: present });
    }
    if plan.dropped.is_empty() && plan.wal_from.is_none() {
        return guards;
    }
    let good = candidates.iter().filter(|candidate| candidate.verification.is_good());
    let newest = good.map(|candidate| candidate.stop_time).max();
    let expected = newest.zip(limits.backup_every).map(|(newest, every)| newest.plus(every.saturating_mul(2)));
    if newest.is_none() || expected.is_some_and(|expected| expected < present) {
        guards.push(Guard::NoFreshBackup { newest, expected });
    }
    guards.extend(shares(&plan.dropped, candidates, limits, present));
    guards
}

/// Whether a large part of what existed before the last days would go at once.
fn shares(
    dropped: &[Dropped],
    candidates: &[&Candidate],
    limits: RetentionLimits,
    present: UtcTime,
) -> impl Iterator<Item = Guard> {
    let settled = candidates.iter().filter(|candidate| present.since(candidate.existed_since()) >= SETTLED);
    let mut measured: Vec<&Candidate> = settled.copied().collect();
    // A repository of the last two days is measured as it is.
    if measured.is_empty() {
        measured = candidates.to_vec();
    }
    let names: BTreeSet<&BackupId> = measured.iter().map(|candidate| &candidate.backup).collect();
    // What was forgotten before was measured then.
    let is_new = |dropped: &&Dropped| dropped.leaving.is_none() && names.contains(&dropped.backup);
    let new: Vec<&Dropped> = dropped.iter().filter(is_new).collect();
    let percent = limits.share_max_percent;
    let exceeds = |part: u64, of: u64| u128::from(part) * 100 > u128::from(of) * u128::from(percent);
    let (count, total) = (new.len(), measured.len());
    let bytes: ByteCount = new.iter().map(|dropped| dropped.own_bytes).sum();
    let of: ByteCount = measured.iter().map(|candidate| candidate.own_bytes).sum();
    let backups = Guard::TooManyBackups { dropped: count, of: total, percent };
    let too_many = (count > 1 && exceeds(count as u64, total as u64)).then_some(backups);
    let too_much = count > 1 && exceeds(bytes.as_bytes(), of.as_bytes());
    let too_much = too_much.then_some(Guard::TooManyBytes { dropped: bytes, of, percent });
    too_many.into_iter().chain(too_much)
}

/// Whether everything that a plan for `now` drops became due little by little since `since`, by the same policy: had
/// retention been carried out every day, no day would have been unusual.
pub(crate) fn became_due_daily(
    candidates: &[&Candidate],
    policy: &RetentionPolicy,
    since: UtcTime,
    now: UtcTime,
) -> bool {
    let days = now.since(since).as_secs() / DAY.as_secs();
    let step = DAY.saturating_mul(u32::try_from(days / STEPS_MAX + 1).unwrap_or(u32::MAX));
    let mut left: Vec<&Candidate> = candidates.to_vec();
    let mut at = since;
    loop {
        let there: Vec<&Candidate> = left.iter().filter(|candidate| candidate.stop_time <= at).copied().collect();
        let plan = apply_rules(&there, policy, at);
        if shares(&plan.dropped, &there, policy.limits, at).next().is_some() {
            return false;
        }
        let gone: BTreeSet<&BackupId> = plan.dropped.iter().map(|dropped| &dropped.backup).collect();
        left.retain(|candidate| !gone.contains(&candidate.backup));
        if at >= now {
            return true;
        }
        at = at.plus(step).min(now);
    }
}
