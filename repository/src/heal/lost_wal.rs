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
use crate::log::region_store::{RegionReadError, RegionStore};
use crate::log::signers::KeyStanding;
use crate::wal::head::Head;
use crate::wal::name::{PieceSize, WalObject};
use crate::wal::records::WalRecords;

pub(crate) mod expected;

pub use self::expected::ServerTimelines;

/// Ranges that are named of one region, or of all, at the most: whoever can delete objects must not fill this machine's memory.
const RANGES_MAX: usize = 1000;

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
    /// What none of the regions has that answered.
    pub lost: Vec<WalRange>,
    /// Regions that could not be looked at, and why: they may have it.
    pub silent: Vec<(RegionName, String)>,
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
    /// Of what a region lacks, that which no other one has.
    #[must_use]
    pub fn lost_in(&self, region: &RegionName) -> Vec<WalRange> {
        let missing = self.missing.get(region).into_iter().flatten();
        let cut = |missing: &WalRange| {
            let lost = self.lost.iter().filter(|lost| lost.overlaps(missing)).map(|lost| WalRange {
                start: lost.start.max(missing.start),
                end: lost.end.min(missing.end),
                ..*lost
            });
            lost.collect::<Vec<_>>()
        };
        missing.flat_map(cut).collect()
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
        let records = states.iter().flat_map(|state| state.backups.values()).map(|there| &there.record);
        let in_order = |at: WalPosition| (at.timeline, at.lsn);
        let leads_on = records.filter(|record| {
            let is_behind = self.wal_from.is_none_or(|from| in_order(record.start()) >= in_order(from));
            self.backups.contains(&record.backup) && record.integrity() == Integrity::Intact && is_behind
        });
        let oldest = leads_on.map(|record| record.stop()).min_by_key(|stop| in_order(*stop))?;
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
    present: WalSet,
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
                let heads: Vec<Head> = heads.into_iter().filter_map(|found| found.head.ok()).collect();
                has_head |= !heads.is_empty();
                let claims = heads.into_iter().filter_map(|head| head.durable).collect();
                let (region, log, present) = (store.clone(), log.clone(), WalSet::default());
                looked.push(Looked { region, log, claims, present });
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
        let listed = list(&looked, from, &timelines, needs.progress).await;
        let refreshed = match listed {
            Ok(present) => {
                looked.present = present;
                looked.log.refresh(&*looked.region.store).await.map(drop).map_err(RegionReadError::from)
            }
            Err(error) => Err(error),
        };
        match refreshed {
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

/// The timelines that any region must have WAL of: no more of them are listed, whoever makes up names.
fn timelines(looked: &[Looked], from: WalPosition, server: Option<&ServerTimelines>) -> BTreeSet<TimelineId> {
    let claimed = looked.iter().flat_map(|looked| &looked.claims).map(|claim| claim.timeline);
    let of_server = server.into_iter().flat_map(|server| server.left_at.keys().copied());
    claimed.chain(of_server).filter(|timeline| *timeline >= from.timeline).collect()
}

async fn list(
    looked: &Looked,
    from: WalPosition,
    timelines: &BTreeSet<TimelineId>,
    progress: &HealProgress,
) -> Result<WalSet, RegionReadError> {
    let store = &*looked.region.store;
    let damaged: BTreeSet<ObjectKey> = damaged_wal(&looked.log).into_values().flatten().collect();
    let mut present = WalSet::default();
    for form in [WalForm::Slice, WalForm::Piece] {
        for timeline in timelines {
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
                    if let Some(object) =
                        object.filter(|_| entry.meta.size > ByteCount::ZERO && !damaged.contains(&entry.key))
                    {
                        present.add(object.range);
                    }
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
    let mut lost = WalSet::default();
    for looked in looked {
        let mut expected = known.expected(&looked.claims, &floors);
        records.gaps_of_all().for_each(|gap| known.without_gap(&mut expected, gap));
        // What this region has missed others may have: if none has, it is lost nevertheless.
        lost.add_all(&expected);
        let told = looked.log.gaps_as_told().filter(|told| told.standing == KeyStanding::InForce).map(|told| told.gap);
        let missed = told.filter(|gap| gap.scope == GapScope::Region || gap.reason == GapReason::RegionMissed);
        missed.for_each(|gap| known.without_gap(&mut expected, gap));
        expected.remove_all(&looked.present);
        let missing: Vec<WalRange> = expected.ranges().take(RANGES_MAX).collect();
        if !missing.is_empty() {
            check.missing.insert(looked.region.name.clone(), missing);
        }
    }
    lost.remove_all(&present);
    // What a region has not come to yet it may still get: from the spool of its writer.
    for looked in looked {
        let Some(claim) = looked.claims.iter().max_by_key(|claim| (claim.timeline, claim.lsn)) else { continue };
        lost.remove(claim.timeline, claim.lsn.as_bytes(), u64::MAX);
        lost.remove_behind(claim.timeline);
    }
    check.lost = lost.ranges().take(RANGES_MAX).collect();
}

#[cfg(test)]
mod tests;
