//! WAL that is gone: every region has less than its writers have said, and none of the others has it either.
//!
//! A region's listing is compared with what must be there: from the end of the oldest backup that is kept with its WAL up to where the
//! region's signs of life say that everything is stored, without what retention has deleted and without gaps on record. What one region lacks
//! and another has is healed. What none has is lost, and nobody has to have put a record of it anywhere: a region that comes back
//! may still have it.
//!
//! Names are compared, as the daily check does; a name without the right bytes is found by the scrub, and goes on record as damage. What is
//! on record as damaged counts as missing here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::{ByteCount, Clock, Lsn, RegionName, TimelineId, UtcTime, WalPosition, error_chain};

use crate::format::layout::{WalForm, WalRange};
use crate::heal::lost_wal::expected::Known;
use crate::heal::progress::HealProgress;
use crate::heal::scope::HealScope;
use crate::heal::stretches::WalSet;
use crate::heal::tools::HealRegion;
use crate::log::damage::damaged_wal;
use crate::log::records::backup::Integrity;
use crate::log::records::wal::{GapReason, GapScope};
use crate::log::region_log::{LogTrust, RegionLog};
use crate::log::region_state::BackupState;
use crate::log::region_store::{RegionReadError, RegionStore};
use crate::log::signers::KeyStanding;
use crate::wal::head::Head;
use crate::wal::name::{PieceSize, WalObject};
use crate::wal::records::WalRecords;

pub(crate) mod expected;

pub use self::expected::ServerTimelines;

/// Ranges that are named of one region, or of all, at the most: whoever can delete objects must not fill this machine's memory.
const RANGES_MAX: usize = 1000;
/// Stretches of WAL that are remembered of one region at the most: whoever can write names must not fill this machine's memory.
const STRETCHES_MAX: usize = 100_000;
/// Whoever has given no sign of life in a region for as long brings nothing there any more.
const BRINGS_FOR: Duration = Duration::from_secs(86_400);

/// What the WAL of the regions is compared with.
#[derive(Clone, Copy)]
pub struct WalNeeds<'a> {
    /// What every region is to have.
    pub scope: &'a HealScope,
    /// The history of the server's timeline, if it is known.
    pub server: Option<&'a ServerTimelines>,
    /// What signs of life are measured against.
    pub trust: &'a LogTrust,
    /// Where it says what it lists.
    pub progress: &'a HealProgress,
    /// The machine's clock.
    pub clock: &'a dyn Clock,
}

/// What a comparison of all regions has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalCheck {
    /// What each region lacks of what it must have, whoever else has it; regions that lack nothing are not named.
    pub missing: BTreeMap<RegionName, Vec<WalRange>>,
    /// What none of the regions has that answered: of more than a thousand ranges the last ones, because those lie behind the newest backup.
    pub lost: Vec<WalRange>,
    /// What none of them has either, and what the writer of a region may still bring there: it has not come so far, and has given a sign of
    /// life within a day.
    pub pending: Vec<WalRange>,
    /// What is absent everywhere and stands on record as a gap only by keys that were revoked; a backup was begun behind it.
    pub told_by_revoked: Vec<WalRange>,
    /// Regions that could not be looked at, and why: they may have it.
    pub silent: Vec<(RegionName, String)>,
    /// Regions with a sign of life that cannot be read, and why: what only it says to be there is missed by nobody. They were looked at.
    pub unread_heads: Vec<(RegionName, String)>,
    /// Whether it is known how far WAL must reach.
    pub reach: Reach,
}

/// Whether it is known how far WAL must reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// A sign of life says so; or there is no WAL to be had.
    #[default]
    Known,
    /// Keys for WAL are on record, and no region has a sign of life of whoever writes it.
    Unknown,
}

impl WalCheck {
    /// Of what a region lacks, that which no other one has, be it that one may still get it.
    #[must_use]
    pub fn lost_in(&self, region: &RegionName) -> Vec<WalRange> {
        let mut found = WalSet::default();
        for missing in self.missing.get(region).into_iter().flatten() {
            for lost in self.lost.iter().chain(&self.pending).filter(|lost| lost.overlaps(missing)) {
                let (start, end) = (lost.start.max(missing.start), lost.end.min(missing.end));
                found.add(WalRange { start, end, ..*lost });
            }
        }
        found.ranges().collect()
    }
}

/// Ranges in a few words: the first three of them.
#[must_use]
pub fn ranges_in_words(ranges: &[WalRange]) -> String {
    let words = |range: &WalRange| format!("{} to {} on timeline {}", range.start, range.end, range.timeline);
    let first: Vec<String> = ranges.iter().take(3).map(words).collect();
    let more = ranges.len().saturating_sub(3);
    if more == 0 { first.join(", ") } else { format!("{}, and {more} more", first.join(", ")) }
}

impl HealScope {
    /// From where on all WAL has to be there: the end of the oldest intact backup that is kept with its WAL. A backup carries itself what
    /// it needs up to there.
    pub(crate) fn wal_begins(&self, logs: &[&RegionLog], now: UtcTime) -> Option<WalPosition> {
        let states: Vec<_> = logs.iter().map(|log| log.state(now)).collect();
        let in_order = |at: WalPosition| (at.timeline, at.lsn);
        let leads_on = |there: &&BackupState| {
            let record = &there.record;
            let is_behind = self.wal_from.is_none_or(|from| in_order(record.start()) >= in_order(from));
            self.backups.contains(&record.backup) && record.integrity() == Integrity::Intact && is_behind
        };
        let kept = || states.iter().flat_map(|state| state.backups.values()).filter(leads_on);
        let oldest = |there: &mut dyn Iterator<Item = &BackupState>| {
            there.map(|there| there.record.stop()).min_by_key(|stop| in_order(*stop))
        };
        // One that is damaged in every region leads nowhere. If all are, damage must not hide what is lost as well.
        let oldest = oldest(&mut kept().filter(|there| there.damaged.is_none())).or_else(|| oldest(&mut kept()))?;
        // WAL may have begun later than the oldest backup: with the first key that is on record.
        let epochs = logs.iter().flat_map(|log| log.wal_epochs());
        let began = epochs.map(|epoch| WalPosition { timeline: epoch.timeline, lsn: epoch.start });
        let began = began.min_by_key(|at| in_order(*at))?;
        Some([oldest, began].into_iter().max_by_key(|at| in_order(*at)).unwrap_or(oldest))
    }
}

/// One region, as far as it was looked at.
struct Looked {
    region: RegionStore,
    log: RegionLog,
    claims: Vec<WalPosition>,
    /// When one of those was made last.
    heard: Option<UtcTime>,
    present: WalSet,
}

/// Why it is not known what a region has.
#[derive(Debug, thiserror::Error)]
enum NotSeen {
    #[error(transparent)]
    Read(#[from] RegionReadError),
    #[error(
        "its WAL lies in more than {STRETCHES_MAX} separate stretches, which no writer leaves behind: look for objects that are not ours below wal/ and slices/"
    )]
    Scattered,
}

/// Compares the WAL of all regions with what must be there.
///
/// The order matters: first the signs of life, so that WAL that arrives meanwhile is no hole; then the listings, slices before the pieces that
/// replace them; then the logs once more, so that what was deleted or given up meanwhile is not missed.
pub async fn check_wal(regions: &[HealRegion], needs: &WalNeeds<'_>) -> WalCheck {
    let mut check = WalCheck::default();
    let (mut looked, mut has_head) = (Vec::new(), false);
    for HealRegion { store, log } in regions {
        needs.progress.doing(format!("signs of life in {}", store.name));
        let trust = LogTrust { region: Some(store.name.clone()), remembered: None, ..needs.trust.clone() };
        match Head::read_all(&*store.store, &trust).await {
            Ok(heads) => {
                // It may say that there was more.
                let mut may_bring = None;
                let hiding = heads.iter().filter_map(|found| found.head.as_ref().err());
                if let Some(error) = hiding.filter(|error| error.may_hide_a_head()).min_by_key(|e| e.stays_unreadable())
                {
                    let unread = (store.name.clone(), error_chain(error));
                    if !error.stays_unreadable() {
                        check.silent.push(unread);
                        continue;
                    }
                    // Whoever puts one there must not keep what the others say from being compared.
                    check.unread_heads.push(unread);
                    may_bring = Some(needs.clock.now());
                }
                let heads: Vec<Head> = heads.into_iter().filter_map(|found| found.head.ok()).collect();
                has_head |= !heads.is_empty();
                let claimed = heads.into_iter().filter_map(|head| Some((head.durable?, head.time)));
                let (claims, times): (Vec<WalPosition>, Vec<UtcTime>) = claimed.unzip();
                let (region, log, present) = (store.clone(), log.clone(), WalSet::default());
                looked.push(Looked { region, log, claims, heard: times.into_iter().chain(may_bring).max(), present });
            }
            Err(error) => check.silent.push((store.name.clone(), error_chain(&error))),
        }
    }
    let begins = |looked: &[Looked]| {
        let logs: Vec<&RegionLog> = looked.iter().map(|looked| &looked.log).collect();
        needs.scope.wal_begins(&logs, needs.clock.now())
    };
    let Some(from) = begins(&looked) else { return check };
    if !has_head {
        check.reach = Reach::Unknown;
        return check;
    }
    let timelines = timelines(&looked, from, needs.server);
    let mut answered = Vec::new();
    for mut looked in looked {
        match look(&mut looked, from, &timelines, needs.progress).await {
            Ok(()) => answered.push(looked),
            Err(error) => check.silent.push((looked.region.name.clone(), error_chain(&error))),
        }
    }
    // What was forgotten meanwhile may have been the oldest.
    if let Some(from) = begins(&answered) {
        compare(&mut check, &answered, from, needs);
    }
    check
}

/// The timelines that any region must have WAL of, and up to where: no more of it is listed, whoever makes up names.
fn timelines(looked: &[Looked], from: WalPosition, server: Option<&ServerTimelines>) -> BTreeMap<TimelineId, Lsn> {
    let claimed = looked.iter().flat_map(|looked| &looked.claims).map(|claim| (claim.timeline, claim.lsn));
    let of_server =
        server.into_iter().flat_map(|server| server.left_at.iter().map(|(timeline, left)| (*timeline, *left)));
    let mut ends = BTreeMap::new();
    for (timeline, end) in claimed.chain(of_server).filter(|(timeline, _)| *timeline >= from.timeline) {
        let highest = ends.entry(timeline).or_insert(end);
        *highest = end.max(*highest);
    }
    ends
}

/// The log first: what was healed since it was read is no damage any more.
async fn look(
    looked: &mut Looked,
    from: WalPosition,
    timelines: &BTreeMap<TimelineId, Lsn>,
    progress: &HealProgress,
) -> Result<(), NotSeen> {
    looked.log.refresh(&*looked.region.store).await.map_err(RegionReadError::from)?;
    looked.present = list(looked, from, timelines, progress).await?;
    looked.log.refresh(&*looked.region.store).await.map_err(RegionReadError::from)?;
    Ok(())
}

async fn list(
    looked: &Looked,
    from: WalPosition,
    timelines: &BTreeMap<TimelineId, Lsn>,
    progress: &HealProgress,
) -> Result<WalSet, NotSeen> {
    let store = &*looked.region.store;
    let damaged: BTreeSet<ObjectKey> = damaged_wal(&looked.log).into_values().flatten().collect();
    let mut present = WalSet::default();
    for form in [WalForm::Slice, WalForm::Piece] {
        for (timeline, end) in timelines {
            let folder = form.folder(*timeline);
            let start = if *timeline == from.timeline { PieceSize::LARGEST.start_of(from.lsn) } else { 0 };
            let mut after = Some(form.before(*timeline, start));
            while let Some(last) = after {
                progress.doing(format!("WAL in {} behind {last}", looked.region.name));
                let page = store.list(&folder, Some(&last)).await;
                let page = page.map_err(|source| RegionReadError::List { prefix: folder.clone(), source })?;
                after = page.entries.last().filter(|_| page.more).map(|last| last.key.clone());
                for entry in page.entries {
                    let object = WalObject::of_key(&entry.key).filter(|object| object.form == form);
                    // Of no bytes there is no WAL.
                    let object = object.filter(|_| entry.meta.size > ByteCount::ZERO && !damaged.contains(&entry.key));
                    if let Some(WalObject { range, .. }) = object.filter(|object| object.range.start < *end) {
                        present.add(WalRange { end: range.end.min(*end), ..range });
                    }
                }
                if present.stretches() > STRETCHES_MAX {
                    return Err(NotSeen::Scattered);
                }
            }
        }
    }
    Ok(present)
}

/// Fills in what is missing and what is lost.
fn compare(check: &mut WalCheck, looked: &[Looked], from: WalPosition, needs: &WalNeeds<'_>) {
    let mut present = WalSet::default();
    looked.iter().for_each(|looked| present.add_all(&looked.present));
    let epochs = looked.iter().flat_map(|looked| looked.log.wal_epochs());
    let segment = epochs.map(|epoch| u64::from(epoch.wal_segment_bytes)).max().unwrap_or(1);
    let known = Known { from, server: needs.server, present: &present, segment };
    // What retention has deleted anywhere it needs nowhere: a region that was added later never had it.
    let mut floors: BTreeMap<TimelineId, Lsn> = BTreeMap::new();
    for (timeline, floor) in looked.iter().flat_map(|looked| looked.log.state(needs.clock.now()).wal_floors) {
        let highest = floors.entry(timeline).or_insert(floor);
        *highest = (*highest).max(floor);
    }
    let records = WalRecords::of(looked.iter().map(|looked| (&looked.region.name, &looked.log)));
    let (mut lost, mut lacks) = (WalSet::default(), Vec::new());
    for looked in looked {
        let mut expected = known.expected(&looked.claims, &floors);
        records.gaps_of_all().for_each(|gap| known.without_gap(&mut expected, gap));
        // What this region has missed others may have: if none has, it is lost nevertheless.
        lost.add_all(&expected);
        let told = looked.log.gaps_as_told().filter(|told| told.standing == KeyStanding::InForce).map(|told| told.gap);
        let missed = told.filter(|gap| gap.scope == GapScope::Region || gap.reason == GapReason::RegionMissed);
        missed.for_each(|gap| known.without_gap(&mut expected, gap));
        expected.remove_all(&looked.present);
        lacks.push((&looked.region.name, expected));
    }
    lost.remove_all(&present);
    let mut told = WalSet::default();
    told_by_revoked(&lost, &records, &known, looked, needs).into_iter().for_each(|range| told.add(range));
    lost.remove_all(&told);
    for (name, mut lacks) in lacks {
        lacks.remove_all(&told);
        let missing = last_ranges(&lacks);
        if !missing.is_empty() {
            check.missing.insert(name.clone(), missing);
        }
    }
    // What a region has not come to yet it may still get: from the spool of its writer, as long as that gives signs of life.
    let mut pending = lost.clone();
    for looked in looked {
        let Some(claim) = looked.claims.iter().max_by_key(|claim| (claim.timeline, claim.lsn)) else { continue };
        if looked.heard.is_none_or(|heard| needs.clock.now().since(heard) > BRINGS_FOR) {
            continue;
        }
        lost.remove(claim.timeline, claim.lsn.as_bytes(), u64::MAX);
        lost.remove_behind(claim.timeline);
    }
    pending.remove_all(&lost);
    (check.lost, check.pending, check.told_by_revoked) =
        (last_ranges(&lost), last_ranges(&pending), last_ranges(&told));
}

/// Of what no region has, that which only gaps by revoked keys cover, and behind which a backup was begun by a key in force. Behind the
/// newest backup such a gap counts for nothing: whoever has the key could hide there that the present cannot be recovered.
fn told_by_revoked(
    lost: &WalSet,
    records: &WalRecords,
    known: &Known<'_>,
    looked: &[Looked],
    needs: &WalNeeds<'_>,
) -> Vec<WalRange> {
    let mut others = lost.clone();
    let revoked = records.gaps.iter().filter(|told| told.standing == KeyStanding::Revoked).map(|told| &told.gap);
    let of_all = revoked.filter(|gap| gap.scope == GapScope::Everywhere || gap.reason != GapReason::RegionMissed);
    of_all.for_each(|gap| known.without_gap(&mut others, gap));
    let mut told = lost.clone();
    told.remove_all(&others);
    let newest = looked.iter().filter_map(|looked| newest_start(&looked.log, needs.clock.now()));
    let Some(newest) = newest.max_by_key(|start| (start.timeline, start.lsn)) else { return Vec::new() };
    let is_before = |range: &WalRange| (range.timeline, range.end) <= (newest.timeline, newest.lsn);
    told.ranges().filter(is_before).collect()
}

/// Where the newest backup begins that is intact in a region and was signed by a key in force.
fn newest_start(log: &RegionLog, now: UtcTime) -> Option<WalPosition> {
    let state = log.state(now);
    let is_whole = |there: &&BackupState| there.damaged.is_none() && there.record.integrity() == Integrity::Intact;
    let places: BTreeMap<u64, WalPosition> =
        state.backups.values().filter(is_whole).map(|there| (there.seq, there.record.start())).collect();
    let signers = &log.trust().signers;
    let in_force = log.entries().iter().filter(|entry| signers.standing(&entry.signer) == KeyStanding::InForce);
    let starts = in_force.filter_map(|entry| places.get(&entry.record.link.seq).copied());
    starts.max_by_key(|start| (start.timeline, start.lsn))
}

/// The last of the ranges, in order: those that lie behind the newest backup must not be cut off by older ones.
fn last_ranges(set: &WalSet) -> Vec<WalRange> {
    let mut ranges: Vec<WalRange> = set.ranges().rev().take(RANGES_MAX).collect();
    ranges.reverse();
    ranges
}

#[cfg(test)]
mod tests;
