//! What is kept, and why: a plan for the backups of one region. Pure; nothing is deleted here.
//!
//! Days, weeks and months are counted by those that have a good backup, so that a week of failed backups does not shorten
//! history; the newest backup of each stands for it. Whatever else keeps a backup (the newest few, the point-in-time
//! window, holds, the last proof) comes on top and pushes nothing out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use lifeboat_vocabulary::{BackupId, ByteCount, UtcTime, WalPosition};

use crate::format::ids::HoldId;
use crate::log::records::backup::Integrity;
use crate::log::records::care::PolicyText;
use crate::log::region_state::{BackupState, RegionState};
use crate::retention::reason::{Guard, Reason};

/// How far clocks may be apart before anybody worries.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(3600);

/// What is to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct RetentionPolicy {
    /// Days, weeks and months are those of this time zone.
    pub timezone: TimeZone,
    /// Days.
    pub daily: u32,
    /// Weeks, as ISO 8601 counts them.
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
    /// The newest backups that are kept in any case.
    pub min_keep: u32,
    /// How far back every moment can be reached.
    pub window: Duration,
    /// What is too unusual to be done unasked.
    pub limits: RetentionLimits,
}

/// From where on a plan is so unusual that a person has to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionLimits {
    /// The longest time between two scheduled backups; `None` if there is no schedule.
    pub backup_every: Option<Duration>,
    /// The most that may go at once, of backups and of bytes, in **percent**. A single backup always may.
    pub share_max_percent: u8,
}

impl Default for RetentionLimits {
    fn default() -> Self {
        Self { backup_every: None, share_max_percent: 30 }
    }
}

/// A backup that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub backup: BackupId,
    /// When it was complete, by the writer's clock.
    pub stop_time: UtcTime,
    /// Where its recovery starts.
    pub start: WalPosition,
    /// What is known of its worth.
    pub verification: Verification,
    /// The holds on it that are in force.
    pub held: BTreeSet<HoldId>,
    /// Since when it may be swept, if it was forgotten already.
    pub leaving: Option<UtcTime>,
    /// The backup whose objects it may refer to.
    pub parent: Option<BackupId>,
    /// What it stored itself, and what its end would free.
    pub own_bytes: ByteCount,
}

/// What is known of a backup's worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verification {
    /// A drill has restored it.
    Drilled,
    /// No damage is known, and no drill has verified it.
    Undrilled,
    /// The database had damaged pages when it was made, or objects of it are damaged in this region.
    Damaged,
}

/// What is kept, what is not, and from where on WAL is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionPlan {
    /// The backups that are kept with all their reasons, newest first.
    pub kept: Vec<(BackupId, BTreeSet<Reason>)>,
    /// The backups that are not, newest first.
    pub dropped: Vec<Dropped>,
    /// The backup that recovery to the oldest moment of the point-in-time window starts from. While none is as old as the
    /// window, the oldest.
    pub anchor: Option<BackupId>,
    /// WAL is kept from here on, on this timeline and those that come from it. `None` keeps all: as long as nothing has
    /// left the window, no WAL has either.
    pub wal_from: Option<WalPosition>,
    /// Why only a person may carry this out; empty for an ordinary plan.
    pub unusual: Vec<Guard>,
}

/// A backup that is kept no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Its name.
    pub backup: BackupId,
    /// Why no rule keeps it: one line for a person.
    pub why: String,
    /// Since when it may be swept, if it was forgotten already.
    pub leaving: Option<UtcTime>,
    /// What its end frees.
    pub own_bytes: ByteCount,
}

impl RetentionPlan {
    /// Whether the backup is kept.
    #[must_use]
    pub fn keeps(&self, backup: &BackupId) -> bool {
        self.kept.iter().any(|(kept, _)| kept == backup)
    }
}

impl RetentionPolicy {
    /// The policy as a record says it.
    #[must_use]
    pub fn text(&self) -> PolicyText {
        let timezone = self.timezone.iana_name().unwrap_or("unknown").to_owned();
        let Self { daily, weekly, monthly, min_keep, window, .. } = *self;
        PolicyText { timezone, daily, weekly, monthly, min_keep, window_seconds: window.as_secs() }
    }

    /// The policy that a record says; `None` if this machine does not know its time zone.
    #[must_use]
    pub fn from_text(text: &PolicyText, limits: RetentionLimits) -> Option<Self> {
        let timezone = TimeZone::get(&text.timezone).ok()?;
        let PolicyText { daily, weekly, monthly, min_keep, window_seconds, .. } = *text;
        Some(Self { timezone, daily, weekly, monthly, min_keep, window: Duration::from_secs(window_seconds), limits })
    }
}

/// The backups of a region that a plan chooses from: all that exist in it.
#[must_use]
pub(crate) fn candidates(state: &RegionState) -> Vec<Candidate> {
    let candidate = |backup: &BackupState| {
        let BackupState { record, leaving, damaged, held, .. } = backup;
        let is_damaged = damaged.is_some() || record.integrity() == Integrity::Damaged;
        Candidate {
            backup: record.backup.clone(),
            stop_time: record.stop_time,
            start: record.start(),
            verification: if is_damaged { Verification::Damaged } else { Verification::Undrilled },
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
pub fn plan_region(state: &RegionState, policy: &RetentionPolicy, now: UtcTime) -> RetentionPlan {
    let decided = state.last_decision.unwrap_or(now);
    let mut plan = plan_candidates(&candidates(state), policy, now.max(decided));
    let is_known = plan.unusual.iter().any(|guard| matches!(guard, Guard::ClockBehind { .. }));
    if decided > now.plus(CLOCK_TOLERANCE) && !is_known {
        plan.unusual.push(Guard::ClockBehind { now, before: decided });
    }
    plan
}

/// Decides about all `candidates`; their order does not matter.
#[must_use]
pub fn plan_candidates(candidates: &[Candidate], policy: &RetentionPolicy, now: UtcTime) -> RetentionPlan {
    let mut newest_first: Vec<&Candidate> = candidates.iter().collect();
    newest_first.sort_by_cached_key(|candidate| std::cmp::Reverse(age(candidate)));
    let present = newest_first.first().map_or(now, |newest| now.max(newest.stop_time));
    let is_good = |candidate: &&Candidate| candidate.verification != Verification::Damaged;
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
        candidate.held.iter().for_each(|hold| add(Some(candidate), Reason::Hold(*hold)));
    }
    let spare = Buckets::of(&unmatched, policy).reasons().into_keys().collect::<BTreeSet<_>>();
    for (place, candidate) in unmatched.iter().enumerate() {
        if place < min_keep.max(1) || spare.contains(&candidate.backup) {
            add(Some(candidate), Reason::NothingBetter);
        }
    }
    keep_what_is_referenced(&newest_first, &mut reasons);

    let better = |candidate: &Candidate| good.first().filter(|good| age(good) > age(candidate));
    let why = |candidate: &Candidate| match (candidate.verification, better(candidate)) {
        (Verification::Damaged, Some(better)) => format!("it is damaged, and {} is newer and good", better.backup),
        (Verification::Damaged, None) => "it is damaged, and so are newer ones of its day, week and month".to_owned(),
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
    let newest_good = good.first().map(|newest| newest.stop_time);
    let wal = if beyond.is_some() { OldWal::Goes } else { OldWal::Stays };
    let unusual = guards(&Proposal { candidates, dropped: &dropped, newest_good, now, present, wal }, policy.limits);
    let anchor = anchor.map(|anchor| anchor.backup.clone());
    RetentionPlan { kept, dropped, anchor, wal_from: beyond.map(|anchor| anchor.start), unusual }
}

/// Order in time. The timeline is not looked at, because it starts anew with every major upgrade.
fn age(candidate: &Candidate) -> (UtcTime, u64, BackupId) {
    (candidate.stop_time, candidate.start.lsn.as_bytes(), candidate.backup.clone())
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

struct Proposal<'a> {
    candidates: &'a [Candidate],
    dropped: &'a [Dropped],
    newest_good: Option<UtcTime>,
    now: UtcTime,
    present: UtcTime,
    wal: OldWal,
}

/// Whether WAL has left the window: then it goes even where every backup stays.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OldWal {
    Goes,
    Stays,
}

fn guards(proposal: &Proposal<'_>, limits: RetentionLimits) -> Vec<Guard> {
    let Proposal { candidates, dropped, newest_good, now, present, wal } = *proposal;
    let mut guards = Vec::new();
    if present > now.plus(CLOCK_TOLERANCE) {
        guards.push(Guard::ClockBehind { now, before: present });
    }
    if dropped.is_empty() && wal == OldWal::Stays {
        return guards;
    }
    let expected = newest_good.zip(limits.backup_every).map(|(newest, every)| newest.plus(every.saturating_mul(2)));
    if newest_good.is_none() || expected.is_some_and(|expected| expected < present) {
        guards.push(Guard::NoFreshBackup { newest: newest_good, expected });
    }
    // What was forgotten before was measured then.
    let new: Vec<&Dropped> = dropped.iter().filter(|dropped| dropped.leaving.is_none()).collect();
    let percent = limits.share_max_percent;
    let exceeds = |part: u64, of: u64| u128::from(part) * 100 > u128::from(of) * u128::from(percent);
    if new.len() > 1 && exceeds(new.len() as u64, candidates.len() as u64) {
        guards.push(Guard::TooManyBackups { dropped: new.len(), of: candidates.len(), percent });
    }
    let bytes: ByteCount = new.iter().map(|dropped| dropped.own_bytes).sum();
    let of: ByteCount = candidates.iter().map(|candidate| candidate.own_bytes).sum();
    if new.len() > 1 && exceeds(bytes.as_bytes(), of.as_bytes()) {
        guards.push(Guard::TooManyBytes { dropped: bytes, of, percent });
    }
    guards
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
