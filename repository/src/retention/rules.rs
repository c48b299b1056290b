//! The rules: which backups they keep, each with its reasons, and which they do not. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use lifeboat_vocabulary::{BackupId, UtcTime};

use crate::retention::model::{Candidate, Dropped, RetentionPlan, RetentionPolicy, Verification};
use crate::retention::reason::Reason;

/// What the rules say about all `candidates`; their order does not matter. Nothing in it is called unusual yet.
#[must_use]
pub(crate) fn apply_rules(candidates: &[&Candidate], policy: &RetentionPolicy, now: UtcTime) -> RetentionPlan {
    let mut newest_first: Vec<&Candidate> = candidates.to_vec();
    newest_first.sort_by_cached_key(|candidate| std::cmp::Reverse(candidate.age()));
    let present = present_of(candidates, now);
    let is_good = |candidate: &&Candidate| candidate.verification.is_good();
    let good: Vec<&Candidate> = newest_first.iter().copied().filter(is_good).collect();
    // Damaged backups count for nothing as long as a good one is as new. The newest data there is stays nevertheless.
    let unmatched: Vec<&Candidate> = newest_first.iter().copied().take_while(|each| !is_good(each)).collect();

    let buckets = Buckets::of(&good, policy);
    let is_old = |candidate: &&&Candidate| present.since(candidate.stop_time) >= policy.window;
    let beyond = good.iter().find(is_old).copied();
    let anchor = beyond.or(good.last().copied());
    let mut reasons = buckets.reasons();
    let mut add = |candidate: Option<&Candidate>, reason: Reason| {
        if let Some(candidate) = candidate {
            reasons.entry(candidate.backup.clone()).or_default().insert(reason);
        }
    };
    let min_keep = usize::try_from(policy.min_keep).unwrap_or(usize::MAX);
    good.iter().take(min_keep).for_each(|each| add(Some(each), Reason::Newest { of: policy.min_keep }));
    add(anchor, Reason::Anchor);
    add(good.first().copied(), Reason::LastGood);
    add(good.iter().find(|each| each.verification == Verification::Drilled).copied(), Reason::LastDrilled);
    for candidate in candidates {
        candidate.held.iter().for_each(|hold| add(Some(*candidate), Reason::Hold(*hold)));
    }
    let is_likely = |candidate: &&Candidate| is_good(candidate) || candidate.verification == Verification::Unknown;
    let likely: Vec<&Candidate> = newest_first.iter().copied().filter(is_likely).collect();
    let of_likely = Buckets::of(&likely, policy).reasons();
    let likely_anchor = likely.iter().find(is_old).copied();
    add(likely_anchor.filter(|candidate| !is_good(candidate)), Reason::Anchor);
    for (place, candidate) in likely.iter().enumerate().filter(|(_, candidate)| !is_good(candidate)) {
        if place < min_keep {
            add(Some(candidate), Reason::Newest { of: policy.min_keep });
        }
        for reason in of_likely.get(&candidate.backup).into_iter().flatten() {
            add(Some(candidate), reason.clone());
        }
    }
    let spare = Buckets::of(&unmatched, policy).reasons().into_keys().collect::<BTreeSet<_>>();
    for (place, candidate) in unmatched.iter().enumerate() {
        if place < min_keep.max(1) || spare.contains(&candidate.backup) {
            add(Some(candidate), Reason::NothingBetter);
        }
    }
    keep_what_is_referenced(&newest_first, &mut reasons);

    let better = |candidate: &Candidate| good.first().filter(|good| good.age() > candidate.age());
    let why = |candidate: &Candidate| match (candidate.verification, better(candidate)) {
        (Verification::Lacking, Some(better)) => {
            format!("objects of it are missing here, and {} is newer and good", better.backup)
        }
        (Verification::Lacking, None) => {
            "objects of it are missing here, and newer ones of its day, week and month are no better".to_owned()
        }
        (Verification::Damaged, Some(better)) => {
            format!("it is damaged or incomplete, and {} is newer and good", better.backup)
        }
        (Verification::Damaged, None) => {
            "it is damaged or incomplete, and so are newer ones of its day, week and month".to_owned()
        }
        _ => buckets.why_not(candidate, policy),
    };
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for candidate in &newest_first {
        let Candidate { backup, leaving, own_bytes, .. } = candidate;
        match reasons.remove(backup) {
            Some(reasons) => kept.push((backup.clone(), reasons)),
            None => {
                let (backup, why) = (backup.clone(), why(candidate));
                dropped.push(Dropped { backup, why, leaving: *leaving, own_bytes: *own_bytes });
            }
        }
    }
    let anchor = anchor.map(|anchor| anchor.backup.clone());
    RetentionPlan { kept, dropped, anchor, wal_from: beyond.map(|anchor| anchor.start), unusual: Vec::new() }
}

/// The latest time that anybody has shown.
#[must_use]
pub(crate) fn present_of(candidates: &[&Candidate], now: UtcTime) -> UtcTime {
    candidates.iter().map(|candidate| candidate.stop_time).max().map_or(now, |newest| now.max(newest))
}

/// A backup that refers to objects of another keeps it, and so on up the line.
fn keep_what_is_referenced(newest_first: &[&Candidate], reasons: &mut BTreeMap<BackupId, BTreeSet<Reason>>) {
    let all: BTreeMap<&BackupId, &Candidate> = newest_first.iter().map(|each| (&each.backup, *each)).collect();
    let mut open: Vec<BackupId> = reasons.keys().cloned().collect();
    while let Some(by) = open.pop() {
        let parent = all.get(&by).and_then(|candidate| candidate.parent.as_ref());
        let Some(parent) = parent.filter(|parent| all.contains_key(parent)) else { continue };
        if !reasons.contains_key(parent) {
            open.push(parent.clone());
        }
        reasons.entry(parent.clone()).or_default().insert(Reason::Referenced { by });
    }
}

/// Days, weeks and months, and the backup that stands for each of them.
struct Buckets<'a> {
    days: Vec<(Reason, &'a Candidate)>,
    weeks: Vec<(Reason, &'a Candidate)>,
    months: Vec<(Reason, &'a Candidate)>,
}

impl<'a> Buckets<'a> {
    fn of(newest_first: &[&'a Candidate], policy: &RetentionPolicy) -> Self {
        let fill = |count: u32, bucket: fn(Date) -> Reason| {
            let mut filled: Vec<(Reason, &Candidate)> = Vec::new();
            for candidate in newest_first {
                if filled.len() as u64 >= u64::from(count) {
                    break;
                }
                let bucket = bucket(day_of(candidate, policy));
                // Not only the last one is compared: where clocks are set back over midnight, a day comes twice.
                if filled.iter().all(|(known, _)| *known != bucket) {
                    filled.push((bucket, candidate));
                }
            }
            filled
        };
        Self { days: fill(policy.daily, day), weeks: fill(policy.weekly, week), months: fill(policy.monthly, month) }
    }

    fn reasons(&self) -> BTreeMap<BackupId, BTreeSet<Reason>> {
        let mut reasons: BTreeMap<BackupId, BTreeSet<Reason>> = BTreeMap::new();
        for (reason, candidate) in self.days.iter().chain(&self.weeks).chain(&self.months) {
            reasons.entry(candidate.backup.clone()).or_default().insert(reason.clone());
        }
        reasons
    }

    fn why_not(&self, candidate: &Candidate, policy: &RetentionPolicy) -> String {
        let date = day_of(candidate, policy);
        let fate =
            |filled: &[(Reason, &Candidate)], bucket: Reason| match filled.iter().find(|(known, _)| *known == bucket) {
                Some((_, newer)) => format!("{bucket} has {}", newer.backup),
                None => format!("{bucket} is not among the last {}", filled.len()),
            };
        [fate(&self.days, day(date)), fate(&self.weeks, week(date)), fate(&self.months, month(date))].join("; ")
    }
}

fn day_of(candidate: &Candidate, policy: &RetentionPolicy) -> Date {
    candidate.stop_time.civil_in(&policy.timezone).date()
}

fn day(day: Date) -> Reason {
    Reason::Daily { day }
}

fn week(day: Date) -> Reason {
    let week = day.iso_week_date();
    Reason::Weekly { year: week.year(), week: week.week() }
}

fn month(day: Date) -> Reason {
    Reason::Monthly { year: day.year(), month: day.month() }
}
