//! What a sweep would delete, decided from the log, the plan and a listing that was made after the log was read.

use std::collections::BTreeSet;
use std::time::Duration;

use lifeboat_stores::Store;
use lifeboat_vocabulary::{BackupId, Lsn, UtcTime};

use crate::format::ids::EpochId;
use crate::format::layout::WalForm;
use crate::log::records::care::{SweepIntentRecord, WalFloor};
use crate::log::records::record::Record;
use crate::log::region_state::{BackupState, RegionState};
use crate::retention::model::RetentionPlan;
use crate::retention::plan::StoreFacts;
use crate::retention::sweep::author::SweepRegion;
use crate::retention::sweep::epochs::{WalEpochs, epochs_in_use};
use crate::retention::sweep::error::SweepError;
use crate::retention::sweep::evidence::{Evidence, Needs};
use crate::retention::sweep::floor::{Kept, KeptWal, KeptWindow};
use crate::retention::sweep::listing::Listing;
use crate::retention::sweep::settings::{Elsewhere, SweepSettings};
use crate::retention::sweep::slices::slices_floor;
use crate::wal::list::{WalPages, timelines};
use crate::wal::object::WalTrust;

/// What a crashed backup left is not touched before everything of it is this old, by the region's clock: no backup takes
/// longer, and one that does is refused when it commits.
pub(crate) const LEFTOVER_GRACE: Duration = Duration::from_secs(72 * 3600);
/// A wrapped key that no record names. It may belong to WAL whose record is still on its way into a region that was long
/// away, so it waits much longer; it is small.
pub(crate) const KEY_GRACE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Leftovers, and epochs, that one intent names at the most; the others follow in the next run.
const NAMED_MAX: usize = 500;
/// Timelines whose floors one intent raises at the most.
const TIMELINES_SWEPT_MAX: usize = 500;

/// What was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decided {
    /// What goes; may be empty.
    pub(crate) intent: SweepIntentRecord,
    /// Forgotten backups whose grace is not over.
    pub(crate) waiting: Vec<(BackupId, UtcTime)>,
    /// Backups that would go, and stay because it cannot be known whether others need their objects: why.
    pub(crate) undecided: Vec<(BackupId, String)>,
    /// Backups that were swept before, and of which something lies there nevertheless.
    pub(crate) late: BTreeSet<BackupId>,
    /// What the backups need that stay.
    pub(crate) needs: Needs,
}

/// What is decided about.
pub(crate) struct View<'a> {
    pub(crate) state: &'a RegionState,
    pub(crate) plan: &'a RetentionPlan,
    /// Made after `state` was read.
    pub(crate) listing: &'a Listing,
    /// Backups that do not exist any more and whose objects are still there: sweeps of them are not finished.
    pub(crate) beside: Vec<&'a BackupState>,
}

/// Decides what goes. Writes nothing, and reads all that carrying it out has to know.
pub(crate) async fn decide(
    region: &SweepRegion<'_>,
    settings: &SweepSettings,
    facts: &StoreFacts,
    view: &View<'_>,
) -> Result<Decided, SweepError> {
    let View { state, plan, listing, beside } = view;
    let mut decided = Decided::default();
    for dropped in &plan.dropped {
        let leaving = state.backups.get(&dropped.backup).and_then(|backup| backup.leaving.as_ref());
        let Some(leaving) = leaving else { continue };
        // A record can say that it is old; by the store's clock it is as old as it is.
        let arrived = region.evidence.arrived(leaving.seq).map(|arrived| arrived.plus(settings.grace));
        let until = arrived.map_or(leaving.not_before, |arrived| leaving.not_before.max(arrived));
        if until <= listing.now {
            decided.intent.backups.push(dropped.backup.clone());
        } else {
            decided.waiting.push((dropped.backup.clone(), until));
        }
    }
    decided.intent.backups.truncate(crate::log::records::care::BACKUPS_MAX);
    let going = std::mem::take(&mut decided.intent.backups);
    let Settled { going, undecided, needs } =
        settle(&region.evidence, going, state.backups.values().chain(beside.iter().copied()));
    (decided.intent.backups, decided.undecided, decided.needs) = (going, undecided, needs);
    decided.intent.leftovers = leftovers(state, listing, &settings.elsewhere);
    decided.intent.leftovers.retain(|leftover| decided.needs.may_need(leftover).is_none());
    let open = state.open_intents.iter();
    let open: BTreeSet<_> = open.flat_map(|open| open.intent.backups.iter().chain(&open.intent.leftovers)).collect();
    let swept = listing.folders.keys().filter(|backup| state.swept.contains_key(*backup) && !open.contains(backup));
    decided.late = swept.cloned().collect();
    let window = KeptWindow::of(region.log, settings, listing.now);
    let kept = KeptWal::of(state, &window.plan(state, facts, settings, listing.now));
    wal(region, kept, listing, &mut decided.intent).await?;
    decided.intent.epochs = epochs(region, settings, view, kept.as_ref(), &decided.intent).await?;
    Ok(decided)
}

/// What goes, and what is known of what the others need.
pub(crate) struct Settled {
    pub(crate) going: Vec<BackupId>,
    pub(crate) undecided: Vec<(BackupId, String)>,
    pub(crate) needs: Needs,
}

/// Takes out of `going` what others may need whose lists cannot be read: those stay, and then what they need stays too.
pub(crate) fn settle<'a>(
    evidence: &Evidence,
    mut going: Vec<BackupId>,
    backups: impl Iterator<Item = &'a BackupState> + Clone,
) -> Settled {
    let mut undecided = Vec::new();
    loop {
        let goes: BTreeSet<&BackupId> = going.iter().collect();
        let needs = evidence.needs(backups.clone().filter(|backup| !goes.contains(&backup.record.backup)));
        let before = going.len();
        going.retain(|backup| match needs.may_need(backup) {
            Some((by, why)) => {
                undecided.push((backup.clone(), format!("backup {by} may need its objects, and {why}")));
                false
            }
            None => true,
        });
        if going.len() == before {
            return Settled { going, undecided, needs };
        }
    }
}

/// Folders of backups that no record names here, nor in any other region.
fn leftovers(state: &RegionState, listing: &Listing, elsewhere: &Elsewhere) -> Vec<BackupId> {
    let Elsewhere::Known(others) = elsewhere else { return Vec::new() };
    let is_known = |backup: &BackupId| {
        state.backups.contains_key(backup) || state.swept.contains_key(backup) || others.backups.contains(backup)
    };
    let old = listing.folders.iter().filter(|(_, age)| **age >= LEFTOVER_GRACE);
    old.map(|(backup, _)| backup).filter(|backup| !is_known(backup)).take(NAMED_MAX).cloned().collect()
}

/// The floors of WAL that rise, and of slices.
async fn wal(
    region: &SweepRegion<'_>,
    kept: Option<KeptWal>,
    listing: &Listing,
    intent: &mut SweepIntentRecord,
) -> Result<(), SweepError> {
    let (store, trust) = (region.store, WalTrust::of(region.log.trust()));
    let timelines = timelines(store).await.map_err(SweepError::List)?;
    for timeline in timelines {
        if intent.wal.len() >= TIMELINES_SWEPT_MAX || intent.slices.len() >= TIMELINES_SWEPT_MAX {
            return Ok(());
        }
        let floor = match kept.as_ref().map_or(Kept::All, |kept| kept.of_timeline(timeline)) {
            Kept::All => None,
            Kept::From(floor) => Some(floor),
            Kept::Nothing => highest_end(store, timeline).await?,
        };
        // Not from the floor that the log names: what is to go today is decided today.
        if let Some(before) = floor
            && begins_below(store, WalFloor { timeline, before }).await?
        {
            intent.wal.push(WalFloor { timeline, before });
        }
        if let Some(before) = slices_floor(store, timeline, &trust, listing.now).await.map_err(SweepError::List)? {
            intent.slices.push(WalFloor { timeline, before });
        }
    }
    Ok(())
}

/// Where the WAL of a timeline ends that is stored here.
async fn highest_end(store: &dyn Store, timeline: lifeboat_vocabulary::TimelineId) -> Result<Option<Lsn>, SweepError> {
    let mut end = None;
    for form in [WalForm::Piece, WalForm::Slice] {
        let mut pages = WalPages::all(store, form, timeline);
        while let Some(object) = pages.next().await.map_err(SweepError::List)? {
            end = end.max(Some(object.range.end));
        }
    }
    Ok(end)
}

/// Whether there is anything below a floor.
pub(crate) async fn begins_below(store: &dyn Store, floor: WalFloor) -> Result<bool, SweepError> {
    for form in [WalForm::Piece, WalForm::Slice] {
        let first = WalPages::all(store, form, floor.timeline).next().await.map_err(SweepError::List)?;
        if first.is_some_and(|first| first.range.end <= floor.before) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Wrapped keys under which nothing is left that is kept.
async fn epochs(
    region: &SweepRegion<'_>,
    settings: &SweepSettings,
    View { state, listing, beside, .. }: &View<'_>,
    kept_wal: Option<&KeptWal>,
    intent: &SweepIntentRecord,
) -> Result<Vec<EpochId>, SweepError> {
    let goes: BTreeSet<&BackupId> = intent.backups.iter().collect();
    let there = state.backups.values().chain(beside.iter().copied());
    let kept = there.filter(|backup| !goes.contains(&backup.record.backup));
    let kept: BTreeSet<EpochId> = kept.flat_map(|kept| &kept.record.epochs).map(|epoch| epoch.id).collect();
    let records = region.log.entries().iter().filter_map(|entry| Record::backup(&entry.record));
    let of_backups: BTreeSet<EpochId> = records.flat_map(|record| &record.epochs).map(|epoch| epoch.id).collect();
    let wal = WalEpochs::of(region.log, kept_wal);
    let mut going = Vec::new();
    for (epoch, age) in &listing.epochs {
        let goes = match (kept.contains(epoch), wal.is_of_wal(*epoch), of_backups.contains(epoch)) {
            (true, _, _) => false,
            (false, true, _) => wal.is_over(*epoch),
            (false, false, true) => true,
            (false, false, false) => match &settings.elsewhere {
                Elsewhere::Known(others) => *age >= KEY_GRACE && !others.epochs.contains(epoch),
                Elsewhere::Unknown => false,
            },
        };
        if goes {
            going.push(*epoch);
        }
    }
    if going.iter().any(|epoch| wal.is_of_wal(*epoch)) {
        // The log says that nothing is left under these; the objects that are left have the last word.
        let in_use = epochs_in_use(region.store, &intent.wal).await?;
        going.retain(|epoch| !wal.is_of_wal(*epoch) || in_use.as_ref().is_some_and(|used| !used.contains(epoch)));
    }
    going.truncate(NAMED_MAX);
    Ok(going)
}
