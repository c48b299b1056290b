//! What freezes deletion by itself, judged from what the logs say. Pure: records and the time come in, findings come out.
//!
//! The words of a finding name what it was found in and nothing that changes from look to look, so that a finding that a
//! person has lifted is known again.

use std::time::Duration;

use lifeboat_repository::log::records::{BackupKind, BackupRecord};
use lifeboat_repository::log::{OpenDamage, OpenRecord, RegionLog, VoidSweep};
use lifeboat_vocabulary::{BackupId, ByteCount, RegionName, UtcTime};

use crate::deletion::standstill::Trigger;

/// Backups that a new one is measured against.
const COMPARED: usize = 5;
/// With fewer than this before it, nothing can be said about a backup.
const COMPARED_MIN: usize = 3;
/// Stored bytes per raw byte that hardly anything but encrypted data comes to.
const INCOMPRESSIBLE: f64 = 0.9;
/// How far clocks may be apart.
const CLOCK_PATIENCE: Duration = Duration::from_secs(300);
/// So many objects that do not verify are no accident.
const FAILURES_MAX: u64 = 3;
/// What another region can heal is healed by then.
const HEALING_PATIENCE: Duration = Duration::from_secs(3600);

/// What was found: by which trigger, and in what.
pub(crate) type Finding = (Trigger, String);

/// A backup, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenBackup {
    pub(crate) backup: BackupId,
    /// How it was made.
    pub(crate) kind: BackupKind,
    /// Its files, before compression.
    pub(crate) raw: ByteCount,
    /// Its objects.
    pub(crate) stored: ByteCount,
    /// When its data was complete.
    pub(crate) stop_time: UtcTime,
    /// Pages that are damaged in the database itself.
    pub(crate) damaged: u64,
}

impl From<&BackupRecord> for SeenBackup {
    fn from(record: &BackupRecord) -> Self {
        Self {
            backup: record.backup.clone(),
            kind: record.kind,
            raw: record.files.raw_bytes,
            stored: record.packs.bytes,
            stop_time: record.stop_time,
            damaged: record.pages.map_or(0, |pages| pages.damaged),
        }
    }
}

/// Stored objects of a region that did not verify, whoever looked, and that nothing has healed since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenDamage {
    pub(crate) region: RegionName,
    /// How many objects.
    pub(crate) objects: u64,
    /// When the first of them was put on record.
    pub(crate) since: UtcTime,
}

impl SeenDamage {
    /// What is left of the damage in a region's log. Damage of a backup that is gone concerns nobody.
    #[must_use]
    pub(crate) fn of(region: &RegionName, log: &RegionLog, now: UtcTime) -> Option<Self> {
        let state = log.state(now);
        let concerns =
            |open: &OpenRecord<'_>| open.damage.backup.as_ref().is_none_or(|id| state.backups.contains_key(id));
        let damage = OpenDamage::of(log);
        let open: Vec<OpenRecord<'_>> = damage.iter().filter(concerns).collect();
        let since = open.first()?.time;
        let objects = open.iter().fold(0, |sum: u64, open| sum.saturating_add(open.damage.count));
        Some(Self { region: region.clone(), objects, since })
    }
}

/// Everything that a look at the logs tells about a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    /// All backups, oldest first.
    pub(crate) backups: Vec<SeenBackup>,
    /// The newest record of each region's log that could be read, by its writer's clock.
    pub(crate) newest_records: Vec<(RegionName, UtcTime)>,
    /// Damage in the regions that is not healed.
    pub(crate) damage: Vec<SeenDamage>,
    /// When backups arrived, by the clocks of the regions where they have been asked, else as their records say.
    pub(crate) arrivals: Vec<UtcTime>,
    /// So many backups in a day are explained: by the schedule, and by hand.
    pub(crate) explained_per_day: u64,
    /// Records that order the deletion of what was not to go.
    pub(crate) void_sweeps: Vec<(RegionName, VoidSweep)>,
    /// The time between two backups by the schedule.
    pub(crate) interval: Option<Duration>,
    pub(crate) now: UtcTime,
}

/// Every reason to freeze that the logs give.
#[must_use]
pub(crate) fn judge(observed: &Observed) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(size_collapsed(&observed.backups));
    findings.extend(compression_collapsed(&observed.backups));
    findings.extend(
        observed.newest_records.iter().filter_map(|(region, time)| clock_backwards(region, *time, observed.now)),
    );
    findings.extend(observed.damage.iter().filter_map(|damage| verify_failures(damage, observed.now)));
    findings.extend(no_good_backup(observed));
    findings.extend(too_many_backups(observed));
    findings.extend(observed.void_sweeps.iter().map(sweep_not_due));
    findings
}

/// Whether today, or yesterday, has more backups than anybody has asked for: false ones could push out real ones. Of the days
/// before, a look of those days has judged.
fn too_many_backups(observed: &Observed) -> Option<Finding> {
    let day = |time: &UtcTime| time.as_unix_seconds().div_euclid(86_400);
    let today = day(&observed.now);
    let on = |wanted: i64| observed.arrivals.iter().filter(|time| day(time) == wanted).count() as u64;
    let too_many = [today - 1, today].into_iter().find(|wanted| on(*wanted) > observed.explained_per_day)?;
    let date = UtcTime::from_unix_micros(too_many.saturating_mul(86_400_000_000))?.to_string();
    let date = date.split('T').next().unwrap_or_default();
    let why = format!(
        "there are more than {} backups of {date} (UTC): more than the schedule explains, and more than is made by hand",
        observed.explained_per_day
    );
    Some((Trigger::TooManyBackups, why))
}

fn sweep_not_due((region, void): &(RegionName, VoidSweep)) -> Finding {
    let VoidSweep { seq, writer, backups } = void;
    let first = backups.first().map_or_else(String::new, ToString::to_string);
    let others = match backups.len() {
        0 | 1 => String::new(),
        more => format!(" and {} more", more - 1),
    };
    let why = format!(
        "record {seq} of the log of region {region}, by {writer}, orders the deletion of backup {first}{others}, which nobody \
         had forgotten, or whose grace was not over: it counts for nothing, and whoever wrote it may be an intruder"
    );
    (Trigger::SweepNotDue, why)
}

/// The newest backup, and those of the same kind before it that it is measured against.
fn newest(backups: &[SeenBackup]) -> Option<(&SeenBackup, Vec<&SeenBackup>)> {
    let newest = backups.last()?;
    let before = backups.iter().rev().skip(1).filter(|backup| backup.kind == newest.kind).take(COMPARED);
    let before: Vec<_> = before.collect();
    (before.len() >= COMPARED_MIN).then_some((newest, before))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len() % 2, values.get(middle), middle.checked_sub(1).and_then(|below| values.get(below))) {
        (0, Some(above), Some(below)) => f64::midpoint(*above, *below),
        (_, Some(middle), _) => *middle,
        (_, None, _) => 0.0,
    }
}

fn raw(backup: &SeenBackup) -> f64 {
    backup.raw.as_bytes() as f64
}

/// Stored bytes per raw byte.
fn ratio(backup: &SeenBackup) -> f64 {
    backup.stored.as_bytes() as f64 / raw(backup).max(1.0)
}

fn size_collapsed(backups: &[SeenBackup]) -> Option<Finding> {
    let (newest, before) = newest(backups)?;
    let usual = median(before.iter().map(|backup| raw(backup)).collect());
    (raw(newest) < usual / 2.0).then(|| {
        let (id, size) = (&newest.backup, newest.raw);
        let why = format!("the database in backup {id} has {size}, less than half of what it had in the ones before");
        (Trigger::SizeCollapsed, why)
    })
}

fn compression_collapsed(backups: &[SeenBackup]) -> Option<Finding> {
    let (newest, before) = newest(backups)?;
    let usual = median(before.iter().map(|backup| ratio(backup)).collect());
    let now = ratio(newest);
    (now > INCOMPRESSIBLE && now > 2.0 * usual).then(|| {
        let id = &newest.backup;
        let why = format!(
            "the data in backup {id} can hardly be compressed ({:.0} % of its size; before: {:.0} %): somebody may have \
             encrypted it",
            now * 100.0,
            usual * 100.0
        );
        (Trigger::CompressionCollapsed, why)
    })
}

fn clock_backwards(region: &RegionName, newest: UtcTime, now: UtcTime) -> Option<Finding> {
    (now.plus(CLOCK_PATIENCE) < newest).then(|| {
        let why = format!("this host's clock is behind the newest record of region {region}, which is of {newest}");
        (Trigger::ClockBackwards, why)
    })
}

fn no_good_backup(observed: &Observed) -> Option<Finding> {
    // One that is dated later than now was made while the clock was ahead: how old it is, nobody knows.
    let latest = observed.now.plus(CLOCK_PATIENCE);
    let counts = |backup: &&SeenBackup| backup.damaged == 0 && backup.stop_time <= latest;
    let good = observed.backups.iter().filter(counts).max_by_key(|backup| backup.stop_time)?;
    let interval = observed.interval?;
    (observed.now.since(good.stop_time) > interval * 2).then(|| {
        let why = format!(
            "there has been no good backup since {}, for more than twice the time of the schedule",
            good.backup
        );
        (Trigger::NoGoodBackup, why)
    })
}

fn verify_failures(damage: &SeenDamage, now: UtcTime) -> Option<Finding> {
    let SeenDamage { region, objects, since } = damage;
    (*objects >= FAILURES_MAX && now.since(*since) > HEALING_PATIENCE).then(|| {
        let why = format!(
            "{FAILURES_MAX} or more stored objects of region {region} do not verify, the first since {since}, and nothing \
             has healed them"
        );
        (Trigger::VerifyFailures, why)
    })
}

#[cfg(test)]
mod tests;
