//! 400 days of backups, retention and deletion against real stores with a clock of their own: missed days, failed runs,
//! a region that is away and is healed afterwards, clocks that jump, and another policy in the middle.

#![allow(clippy::unwrap_used, reason = "a scene that cannot be set up is a failed test")]

mod cluster;
mod panics;
mod region;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use lifeboat_repository::heal::{self, HealProgress, HealRegion, HealScope, HealTools, Look, Pace};
use lifeboat_repository::log::{self, LogTrust};
use lifeboat_repository::retention::sweep::{
    self, DeleteMode, Elsewhere, Evidence, Force, Others, SweepError, SweepRegion, SweepSettings,
};
use lifeboat_repository::retention::{self, Candidate, RetentionLimits, RetentionPolicy, StoreFacts};
use lifeboat_vocabulary::{BackupId, ManualClock, UtcTime};
use tokio_util::sync::CancellationToken;

use cluster::{Cluster, Ending};
use region::Region;

const DAY: Duration = Duration::from_secs(24 * 3600);
const DAYS: u32 = 400;
/// From this day on another policy is in force.
const POLICY_CHANGES: u32 = 250;
const GRACE: Duration = Duration::from_secs(72 * 3600);

fn policy(day: u32) -> RetentionPolicy {
    let limits = RetentionLimits { backup_every: Some(3 * DAY), share_max_percent: 30 };
    let timezone = TimeZone::get("Europe/Berlin").unwrap();
    let usual = RetentionPolicy { timezone, daily: 7, weekly: 4, monthly: 12, min_keep: 2, window: 7 * DAY, limits };
    if day < POLICY_CHANGES { usual } else { RetentionPolicy { daily: 5, weekly: 3, monthly: 4, ..usual } }
}

/// 02:00 UTC of the day.
fn at(day: u32) -> UtcTime {
    "2026-01-01T02:00:00Z".parse::<UtcTime>().unwrap().plus(DAY * day)
}

/// What happens on a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Today {
    Usual,
    /// The host is off.
    Missed,
    /// The backup is killed before its end; its objects stay.
    Fails,
    /// The clock of the host is wrong by so many days, after the backup.
    Clock(i64),
}

fn today(day: u32) -> Today {
    match day {
        40 | 41 | 130 | 222 | 223 | 224 => Today::Missed,
        55 | 56 | 180 | 301 => Today::Fails,
        77 | 160 => Today::Clock(-40),
        90 | 260 => Today::Clock(200),
        _ => Today::Usual,
    }
}

/// Whether the region in the bucket is away.
fn is_away(day: u32) -> bool {
    matches!(day, 100..=103 | 200..=208 | 330)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_year_of_retention_keeps_what_the_plan_says_and_nothing_else() {
    let cluster = Cluster::new();
    let mut regions = [Region::directory("disk", &cluster).await, Region::bucket("eu", &cluster).await];
    let mut requests = Vec::new();
    let (mut restored, mut healed) = (0, 0);
    for day in 0..DAYS {
        let now = at(day);
        for region in &regions {
            region.set_clock(now);
            region.set_away(region.is_bucket() && is_away(day));
        }
        let counted = regions[1].requests();
        let what = today(day);
        if what != Today::Missed {
            let ending = if what == Today::Fails { Ending::Killed } else { Ending::Done };
            cluster.back_up(&mut regions, day, now, ending).await;
        }
        let ours = match what {
            Today::Clock(days) => off_by(now, days),
            _ => now,
        };
        if let Today::Clock(_) = what {
            refuse_wrong_clock(&cluster, &mut regions, day, ours).await;
        }
        if day > 0 && is_away(day - 1) && !is_away(day) {
            healed += heal_bucket(&cluster, &mut regions, day, now).await;
        }
        retain_all(&cluster, &mut regions, day, now).await;
        if !is_away(day) {
            let [disk, bucket] = [0, 1].map(|index| staying(&regions[index], now));
            assert_eq!(disk, bucket, "day {day}: a region that was away ends up with what it would have had");
        }
        requests.push(regions[1].requests() - counted);
        for region in &mut regions {
            if !(region.is_bucket() && is_away(day)) {
                check(region, day, now).await;
                if day % 25 == 24 {
                    restored += cluster.restore_some(region, day).await;
                }
            }
        }
    }
    assert!(healed >= 10, "backups that a region had missed were brought to it: {healed}");
    assert!(restored > 30, "sampled backups were restored: {restored}");
    let mean = |days: std::ops::Range<usize>| requests[days.clone()].iter().sum::<u64>() / days.len() as u64;
    let (early, late) = (mean(230..245), mean(385..400));
    eprintln!("requests a day: {early} before day 245, {late} before day 400");
    assert!(late <= early + early / 5, "a day costs {late} requests after a year, and cost {early}");
}

/// The backups of a region that are not about to leave.
fn staying(region: &Region, now: UtcTime) -> BTreeSet<BackupId> {
    let state = region.log.state(now);
    let staying = state.backups.iter().filter(|(_, backup)| backup.leaving.is_none());
    staying.map(|(backup, _)| backup.clone()).collect()
}

/// Brings the bucket what it has missed, from the directory. Returns how many backups that were.
async fn heal_bucket(cluster: &Cluster, regions: &mut [Region; 2], day: u32, now: UtcTime) -> usize {
    regions[1].read_log(cluster).await.unwrap();
    let region = |index: usize| HealRegion { store: (*regions[index].store).clone(), log: regions[index].log.clone() };
    let (mut target, source) = (region(1), region(0));
    let scope = HealScope::planned(&[&source.log, &target.log], &policy(day), &BTreeMap::new(), now);
    let trust = LogTrust { region: None, ..cluster.trust(&source.store.name) };
    let (pace, progress, stop) = (Pace::new(None), HealProgress::default(), CancellationToken::new());
    let clock = ManualClock::at(now);
    let (signer, settled) = (&*cluster.signer, Duration::ZERO);
    let (trust, pace, progress, stop) = (&trust, &pace, &progress, &stop);
    let tools =
        HealTools { signer, trust, pace, progress, stop, clock: &clock, tool: "test", settled, look: Look::AtRecords };
    let report = heal::heal_region(&mut target, std::slice::from_ref(&source), &scope, &tools).await.unwrap();
    assert!(report.is_complete(), "day {day}: {report:?}");
    regions[1].read_log(cluster).await.unwrap();
    let records = source.log.entries().iter().filter_map(|entry| entry.record.backup());
    for record in records.filter(|record| report.backups.contains(&record.backup)) {
        regions[1].remember(record);
    }
    report.backups.len()
}

/// A clock that is wrong deletes nothing, and forgets nothing where the region knows better.
async fn refuse_wrong_clock(cluster: &Cluster, regions: &mut [Region; 2], day: u32, ours: UtcTime) {
    let settings = settings(regions, day, ours, &BTreeMap::new());
    let before = regions[1].keys("data/").await;
    let region = &mut regions[1];
    let (store, log) = (Arc::clone(&region.store), &mut region.log);
    let mut target = SweepRegion { store: &*store.store, log, author: &cluster.author, evidence: Evidence::default() };
    for result in [
        sweep::forget(&mut target, &settings, ours).await.map(|_| ()),
        sweep::sweep_region(&mut target, &settings, ours).await.map(|_| ()),
    ] {
        assert!(matches!(result, Err(SweepError::Clock { .. })), "day {day}: {result:?}");
    }
    assert_eq!(regions[1].keys("data/").await, before);
    // A directory has no clock of its own, but it has a history.
    let before = regions[0].keys("data/").await;
    let region = &mut regions[0];
    let (store, log) = (Arc::clone(&region.store), &mut region.log);
    let mut target = SweepRegion { store: &*store.store, log, author: &cluster.author, evidence: Evidence::default() };
    for result in [
        sweep::forget(&mut target, &settings, ours).await.map(|_| ()),
        sweep::sweep_region(&mut target, &settings, ours).await.map(|_| ()),
    ] {
        assert!(matches!(result, Err(SweepError::Unusual { .. })), "day {day}: {result:?}");
    }
    assert_eq!(regions[0].keys("data/").await, before);
}

/// When records arrived in the first region that has them.
async fn arrivals(regions: &[Region; 2], now: UtcTime) -> BTreeMap<BackupId, UtcTime> {
    let mut first = Others::default();
    for region in regions {
        // One that is away does not say.
        if let Ok(arrived) = sweep::arrivals(&*region.store.store, &region.log, now).await {
            first.add_arrivals(&arrived);
        }
    }
    first.arrived
}

fn settings(regions: &[Region; 2], day: u32, now: UtcTime, arrived: &BTreeMap<BackupId, UtcTime>) -> SweepSettings {
    let logs = || regions.iter().map(|region| &region.log);
    let mut others = Others::of(logs(), now);
    others.add_arrivals(arrived);
    SweepSettings {
        policy: policy(day),
        grace: GRACE,
        mode: DeleteMode::LogOrdered,
        // A person has looked at the new policy, on the day of the change.
        force: if day == POLICY_CHANGES { Force::Yes } else { Force::No },
        elsewhere: Elsewhere::Known(others),
        holds: log::holds_in_force(logs(), now),
    }
}

async fn retain_all(cluster: &Cluster, regions: &mut [Region; 2], day: u32, now: UtcTime) {
    regions.iter().for_each(Region::set_file_times);
    let arrived = arrivals(regions, now).await;
    let settings = settings(regions, day, now, &arrived);
    for region in regions.iter_mut() {
        let read = region.read_log(cluster).await;
        let away = region.is_bucket() && is_away(day);
        assert_eq!(read.is_err(), away, "day {day}: {read:?}");
        if away {
            continue;
        }
        let (store, log) = (Arc::clone(&region.store), &mut region.log);
        let mut target =
            SweepRegion { store: &*store.store, log, author: &cluster.author, evidence: Evidence::default() };
        sweep::forget(&mut target, &settings, now).await.unwrap_or_else(|error| panic!("day {day}: {error}"));
        sweep::sweep_region(&mut target, &settings, now).await.unwrap_or_else(|error| panic!("day {day}: {error}"));
    }
}

/// The kept set is the plan; nothing lies there that nobody needs, beyond its grace.
async fn check(region: &mut Region, day: u32, now: UtcTime) {
    let state = region.log.state(now);
    let of_plan = retention::plan_region(&state, &StoreFacts::default(), &policy(day), now);
    let kept: BTreeSet<BackupId> = of_plan.kept.iter().map(|(backup, _)| backup.clone()).collect();
    // Also where a backup that was forgotten has become the anchor: with fewer days than the window is long, it may.
    assert_eq!(staying(region, now), kept, "day {day}, {}", region.name());
    if day < POLICY_CHANGES {
        // The same as if nothing had ever been deleted.
        let all: Vec<Candidate> = region.history();
        let never_pruned = retention::plan_candidates(&all, &policy(day), now);
        let expected: BTreeSet<BackupId> = never_pruned.kept.into_iter().map(|(backup, _)| backup).collect();
        assert_eq!(kept, expected, "day {day}, {}: history independence", region.name());
    }
    for (backup, leaving) in state.backups.iter().filter_map(|(id, backup)| Some((id, backup.leaving.as_ref()?))) {
        let due = now.since(leaving.not_before);
        assert!(due < 2 * DAY, "day {day}: {backup} should be gone");
    }
    let known: BTreeSet<String> = state.backups.keys().map(ToString::to_string).collect();
    for key in region.keys("data/").await {
        let folder = key.split('/').nth(1).unwrap().to_owned();
        let young = || now.since(region::start_of(&folder)) < GRACE + DAY;
        assert!(known.contains(&folder) || young(), "day {day}, {}: {key} is an orphan", region.name());
    }
    let epochs = state.backups.values().flat_map(|backup| &backup.record.epochs);
    let epochs: BTreeSet<String> = epochs.map(|epoch| epoch.id.to_string()).collect();
    for key in region.keys("keys/").await {
        assert!(epochs.contains(key.split('/').nth(1).unwrap()), "day {day}, {}: {key} is an orphan", region.name());
    }
}

/// A clock that is wrong by so many days.
fn off_by(now: UtcTime, days: i64) -> UtcTime {
    UtcTime::from_unix_micros(now.as_unix_micros() + days * 86_400 * 1_000_000).unwrap()
}
