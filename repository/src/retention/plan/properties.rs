//! What holds for retention in every history: random backups, random policies, several time zones.

use super::tests::{candidate, policy, utc};
use super::*;
use crate::format::ids::HoldId;
use lifeboat_vocabulary::WalPosition;
use proptest::prelude::*;
use std::time::Duration;

const ZONES: [&str; 6] =
    ["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Asia/Kathmandu", "America/Sao_Paulo"];
const HOUR: Duration = Duration::from_secs(3600);

/// Backups, oldest first, one hour to 40 days apart.
fn histories() -> impl Strategy<Value = Vec<Candidate>> {
    let gap = prop_oneof![4 => 60..300u64, 4 => 1380..1500u64, 2 => 60..10_000u64, 1 => 10_000..57_600u64];
    let start = 0..3_000_000u64;
    (start, proptest::collection::vec(gap, 1..90)).prop_map(|(start, gaps)| {
        let mut at = utc("2018-09-01T02:00:00Z").plus(Duration::from_secs(60 * start));
        let next = |gap: u64| {
            at = at.plus(Duration::from_secs(60 * gap));
            candidate(at)
        };
        gaps.into_iter().map(next).collect()
    })
}

fn policies() -> impl Strategy<Value = RetentionPolicy> {
    (0..ZONES.len(), 0..9u32, 0..6u32, 0..14u32, 0..4u32, 0..40u32).prop_map(
        |(zone, daily, weekly, monthly, min_keep, days)| {
            let window = 24 * HOUR * days;
            RetentionPolicy { daily, weekly, monthly, min_keep, window, ..policy(ZONES[zone]) }
        },
    )
}

fn proofs() -> impl Strategy<Value = Vec<Verification>> {
    let proof = prop_oneof![1 => Just(Verification::Drilled), 4 => Just(Verification::Undrilled), 2 => Just(Verification::Damaged)];
    proptest::collection::vec(proof, 90)
}

fn ids(plan: &RetentionPlan) -> BTreeSet<BackupId> {
    plan.kept.iter().map(|(backup, _)| backup.clone()).collect()
}

fn retain(candidates: &mut Vec<Candidate>, plan: &RetentionPlan) {
    candidates.retain(|candidate| plan.keeps(&candidate.backup));
}

/// The times at which retention runs: an hour after each backup, by a clock that is up to so many hours slow.
fn run_at(candidate: &Candidate, slow: u64) -> UtcTime {
    let micros = i64::try_from(slow).unwrap() * 3_600_000_000;
    UtcTime::from_unix_micros(candidate.stop_time.plus(HOUR).as_unix_micros() - micros).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Pruning after every backup leaves what one plan over everything that ever was would leave.
    #[test]
    fn days_weeks_and_months_do_not_depend_on_earlier_prunings(history in histories(), policy in policies()) {
        // The anchor may be a backup that an earlier pruning has dropped: its own properties are below.
        let policy = RetentionPolicy { window: Duration::ZERO, ..policy };
        let mut pruned = Vec::new();
        for (place, newest) in history.iter().enumerate() {
            pruned.push(newest.clone());
            let now = run_at(newest, 0);
            let step = plan_candidates(&pruned, &policy, now);
            retain(&mut pruned, &step);
            let whole = plan_candidates(&history[..=place], &policy, now);
            prop_assert_eq!(ids(&step), ids(&whole));
        }
    }

    #[test]
    fn planning_again_drops_nothing_more(mut history in histories(), policy in policies(), proofs in proofs(), held in 0..90usize) {
        history.iter_mut().zip(proofs).for_each(|(candidate, proof)| candidate.verification = proof);
        history.iter_mut().skip(held).take(1).for_each(|one| one.held = BTreeSet::from([HoldId::from_bytes([1; 8])]));
        let now = run_at(history.last().unwrap(), 0);
        let first = plan_candidates(&history, &policy, now);
        retain(&mut history, &first);
        let second = plan_candidates(&history, &policy, now);
        prop_assert_eq!(&second.kept, &first.kept);
        prop_assert_eq!(second.dropped, []);
        prop_assert_eq!((second.anchor, second.wal_from), (first.anchor, first.wal_from));
    }

    #[test]
    fn the_plan_is_neither_too_small_nor_too_large(
        mut history in histories(), policy in policies(), proofs in proofs(), held in 0..90usize,
    ) {
        history.iter_mut().zip(proofs).for_each(|(candidate, proof)| candidate.verification = proof);
        history.iter_mut().skip(held).take(1).for_each(|one| one.held = BTreeSet::from([HoldId::from_bytes([1; 8])]));
        let now = run_at(history.last().unwrap(), 0);
        let plan = plan_candidates(&history, &policy, now);
        let good: Vec<_> = history.iter().rev().filter(|each| each.verification != Verification::Damaged).collect();
        prop_assert!(plan.keeps(&history.last().unwrap().backup), "the newest");
        prop_assert!(good.first().is_none_or(|newest| plan.keeps(&newest.backup)), "the newest good one");
        let drilled = good.iter().find(|each| each.verification == Verification::Drilled);
        prop_assert!(drilled.is_none_or(|newest| plan.keeps(&newest.backup)), "the newest that was drilled");
        let least = policy.min_keep as usize;
        prop_assert!(good.iter().take(least).all(|each| plan.keeps(&each.backup)), "the least number of good ones");
        prop_assert!(history.iter().filter(|each| !each.held.is_empty()).all(|each| plan.keeps(&each.backup)), "held");
        let counted = (policy.daily + policy.weekly + policy.monthly) as usize;
        let damaged = counted + least.max(1);
        let most = counted + least + 1 + 1 + 1 + 1;
        let (bad_kept, good_kept): (Vec<_>, Vec<_>) =
            plan.kept.iter().partition(|(_, reasons)| reasons.contains(&Reason::NothingBetter));
        prop_assert!(bad_kept.len() <= damaged && good_kept.len() <= most, "{} and {}", bad_kept.len(), good_kept.len());
        prop_assert_eq!(plan.kept.len() + plan.dropped.len(), history.len());
        prop_assert!(plan.kept.iter().all(|(_, reasons)| !reasons.is_empty()), "a reason for each");
        prop_assert!(plan.dropped.iter().all(|dropped| crate::log::records::care::is_plain_text(&dropped.why, 200)));
    }

    /// Once any backup is as old as the window, one that is kept is, and the one that the window starts from never moves
    /// back: also if the clock does, because no decision is made for an earlier time than the last one.
    #[test]
    fn the_anchor_of_the_window_never_moves_back(
        history in histories(), policy in policies(), slow in proptest::collection::vec(0..96u64, 90),
    ) {
        let mut pruned: Vec<Candidate> = Vec::new();
        let mut last_now = utc("2000-01-01T00:00:00Z");
        let (mut anchor, mut floor): (Option<Candidate>, Option<WalPosition>) = (None, None);
        for (newest, slow) in history.iter().zip(slow) {
            pruned.push(newest.clone());
            last_now = last_now.max(run_at(newest, slow));
            let step = plan_candidates(&pruned, &policy, last_now);
            let found = pruned.iter().find(|each| Some(&each.backup) == step.anchor.as_ref()).unwrap().clone();
            retain(&mut pruned, &step);
            let present = last_now.max(newest.stop_time);
            let first = history.first().unwrap().stop_time;
            if present.since(first) >= policy.window {
                prop_assert!(present.since(found.stop_time) >= policy.window, "the window has a hole");
                prop_assert_eq!(step.wal_from, Some(found.start));
            } else {
                prop_assert_eq!((&step.wal_from, found.stop_time), (&None, first), "nothing has left the window");
            }
            prop_assert!(anchor.is_none_or(|before| before.stop_time <= found.stop_time), "the anchor moved back");
            let at = |position: WalPosition| position.lsn;
            prop_assert!(step.wal_from.map(at) >= floor.map(at), "the floor of WAL moved back");
            (anchor, floor) = (Some(found), step.wal_from);
        }
    }

    /// Who asks for more keeps all that less would keep. Only a change for less, or of the time zone, drops anything.
    #[test]
    fn a_larger_policy_keeps_all_that_a_smaller_one_keeps(
        history in histories(), policy in policies(), more in (0..4u32, 0..4u32, 0..4u32, 0..3u32),
    ) {
        let (daily, weekly, monthly) = (policy.daily + more.0, policy.weekly + more.1, policy.monthly + more.2);
        let larger = RetentionPolicy { daily, weekly, monthly, min_keep: policy.min_keep + more.3, ..policy.clone() };
        let now = run_at(history.last().unwrap(), 0);
        prop_assert!(ids(&plan_candidates(&history, &policy, now)).is_subset(&ids(&plan_candidates(&history, &larger, now))));
    }

    /// What a plan over all regions together keeps, and a region has, the region's own plan keeps.
    #[test]
    fn a_region_keeps_what_all_regions_together_would(
        mut history in histories(), policy in policies(), proofs in proofs(), has in proptest::collection::vec(any::<bool>(), 90),
    ) {
        history.iter_mut().zip(proofs).for_each(|(candidate, proof)| candidate.verification = proof);
        let now = run_at(history.last().unwrap(), 0);
        let region: Vec<_> = history.iter().zip(has).filter(|(_, has)| *has).map(|(each, _)| each.clone()).collect();
        let all = ids(&plan_candidates(&history, &policy, now));
        let own = ids(&plan_candidates(&region, &policy, now));
        let lost: Vec<_> =
            region.iter().map(|each| &each.backup).filter(|id| all.contains(id) && !own.contains(id)).collect();
        prop_assert!(lost.is_empty(), "{:?}", lost);
    }

    /// Whatever is damaged changes nothing for what is good.
    #[test]
    fn damaged_backups_do_not_change_what_is_kept_of_good_ones(history in histories(), policy in policies(), proofs in proofs()) {
        let mut mixed = history;
        mixed.iter_mut().zip(proofs).for_each(|(candidate, proof)| candidate.verification = proof);
        let now = run_at(mixed.last().unwrap(), 0);
        let good: Vec<_> = mixed.iter().filter(|each| each.verification != Verification::Damaged).cloned().collect();
        let (with, without) = (plan_candidates(&mixed, &policy, now), plan_candidates(&good, &policy, now));
        let is_good = |id: &BackupId| good.iter().any(|each| each.backup == *id);
        let of_good: Vec<_> = with.kept.into_iter().filter(|(id, _)| is_good(id)).collect();
        prop_assert_eq!(of_good, without.kept);
        prop_assert_eq!((with.anchor, with.wal_from), (without.anchor, without.wal_from));
    }

    #[test]
    fn the_order_in_which_backups_are_given_does_not_matter(
        history in histories().prop_shuffle(), policy in policies(),
    ) {
        let mut sorted = history.clone();
        sorted.sort_by_key(|candidate| candidate.stop_time);
        let now = run_at(sorted.last().unwrap(), 0);
        prop_assert_eq!(plan_candidates(&history, &policy, now), plan_candidates(&sorted, &policy, now));
    }
}
