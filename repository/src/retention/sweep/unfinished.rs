//! Sweeps that were begun and not finished: decided anew, whoever began them.
//!
//! An intent says what its writer decided when he wrote it, and every key that may write it may be in other hands now. So
//! nothing goes because it stands there: of what it names goes what today's plan, holds and grace would let go, too. After a
//! crash that is all of it.

use std::collections::BTreeSet;

use lifeboat_vocabulary::{BackupId, UtcTime};

use crate::log::records::care::{SweepIntentRecord, WalFloor};
use crate::log::region_state::{OpenIntent, RegionState};
use crate::retention::model::RetentionPlan;
use crate::retention::reason::Reason;
use crate::retention::sweep::author::SweepRegion;
use crate::retention::sweep::error::SweepError;
use crate::retention::sweep::evidence::Needs;
use crate::retention::sweep::intent::{Decided, Settled, View, begins_below, decide, settle};
use crate::retention::sweep::listing::{Listing, list_region};
use crate::retention::sweep::settings::SweepSettings;

/// What is done about one open intent.
pub(crate) struct Agreed {
    pub(crate) open: OpenIntent,
    /// What of it goes.
    pub(crate) goes: SweepIntentRecord,
    /// Whether that is all that is left of it.
    pub(crate) rest: Rest,
}

/// Whether something of an intent stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    Nothing,
    /// The intent is not finished by this.
    Stays,
}

/// All that is decided about the open intents of a region.
#[derive(Default)]
pub(crate) struct Reviewed {
    pub(crate) intents: Vec<Agreed>,
    /// What they name and today's plan keeps, for a person.
    pub(crate) refused: Vec<String>,
    pub(crate) undecided: Vec<(BackupId, String)>,
    pub(crate) needs: Needs,
}

/// The state as if the open intents were not there: what they name is judged like everything else.
fn as_if_unswept(state: &RegionState) -> RegionState {
    let mut whole = state.clone();
    for open in std::mem::take(&mut whole.open_intents) {
        for name in open.intent.backups.iter().chain(&open.intent.leftovers) {
            whole.swept.remove(name);
        }
        whole.backups.extend(open.backups.into_iter().map(|backup| (backup.record.backup.clone(), backup)));
    }
    whole.adopt_holds(state.holds.clone());
    whole
}

/// Decides anew about every open intent. Writes nothing.
pub(crate) async fn review(
    region: &mut SweepRegion<'_>,
    settings: &SweepSettings,
    now: UtcTime,
) -> Result<Reviewed, SweepError> {
    let state = settings.state(region.log, now)?;
    if state.open_intents.is_empty() {
        return Ok(Reviewed::default());
    }
    let whole = as_if_unswept(&state);
    // The arrivals of the intents, too.
    region.evidence.look_at_arrivals(region.store, &state, now).await?;
    region.evidence.look(region.store, &whole, now).await?;
    let facts = region.evidence.facts(&whole, &settings.elsewhere);
    let plan = settings.plan(&whole, &facts, now)?;
    let listing = list_region(region.store, &whole, now).await?;
    let view = View { state: &whole, plan: &plan, listing: &listing, beside: Vec::new() };
    let due = decide(region, settings, &facts, &view).await?;
    let named = state.open_intents.iter().flat_map(|open| &open.intent.backups);
    let going = named.filter(|backup| due.intent.backups.contains(backup)).cloned().collect();
    // Others that are due today exist until an intent of their own names them, and until then have what they need.
    let Settled { going, undecided, needs } = settle(&region.evidence, going, whole.backups.values());
    let going: BTreeSet<BackupId> = going.into_iter().collect();
    let mut reviewed = Reviewed { undecided, needs, ..Reviewed::default() };
    let is_named = |backup: &BackupId| state.open_intents.iter().any(|open| open.intent.backups.contains(backup));
    reviewed.undecided.extend(due.undecided.iter().filter(|(backup, _)| is_named(backup)).cloned());
    for open in state.open_intents {
        let goes = agreed(&open.intent, &due, &going, &reviewed.needs);
        reviewed.refused.extend(refused(&open, &goes, &plan, &due));
        let Left { rest, refused } = left(region, &open, &goes, &listing).await?;
        reviewed.refused.extend(refused);
        reviewed.intents.push(Agreed { open, goes, rest });
    }
    Ok(reviewed)
}

/// What of `intent` goes today.
fn agreed(intent: &SweepIntentRecord, due: &Decided, going: &BTreeSet<BackupId>, needs: &Needs) -> SweepIntentRecord {
    let leftovers = intent.leftovers.iter().filter(|leftover| due.intent.leftovers.contains(leftover));
    let wal = intent.wal.iter().filter_map(|floor| {
        let today = due.intent.wal.iter().find(|today| today.timeline == floor.timeline)?;
        Some(WalFloor { before: floor.before.min(today.before), ..*floor })
    });
    let of_today = |floor: &&WalFloor| due.intent.slices.iter().any(|today| today.timeline == floor.timeline);
    SweepIntentRecord {
        backups: intent.backups.iter().filter(|backup| going.contains(*backup)).cloned().collect(),
        leftovers: leftovers.filter(|leftover| needs.may_need(leftover).is_none()).cloned().collect(),
        epochs: intent.epochs.iter().filter(|epoch| due.intent.epochs.contains(epoch)).copied().collect(),
        wal: wal.collect(),
        // Each slice is looked at before it goes.
        slices: intent.slices.iter().filter(of_today).copied().collect(),
    }
}

/// The backups that are named, and that today's plan keeps.
fn refused(open: &OpenIntent, goes: &SweepIntentRecord, plan: &RetentionPlan, due: &Decided) -> Vec<String> {
    let OpenIntent { seq, writer, intent, .. } = open;
    let stays = intent.backups.iter().filter(|backup| !goes.backups.contains(backup));
    let why = |backup: &BackupId| {
        if let Some((_, reasons)) = plan.kept.iter().find(|(kept, _)| kept == backup) {
            return Some(reasons.iter().map(Reason::to_string).collect::<Vec<_>>().join(", "));
        }
        let waits = due.waiting.iter().find(|(waits, _)| waits == backup);
        waits.map(|(_, until)| format!("its grace lasts until {until}"))
    };
    let text = |(backup, why)| {
        format!("record {seq}, by {writer}, orders the deletion of backup {backup}, which today's plan keeps ({why})")
    };
    stays.filter_map(|backup| Some((backup, why(backup)?))).map(text).collect()
}

/// What is left of an intent when what goes today is gone.
struct Left {
    rest: Rest,
    /// WAL that it names and that stays, for a person.
    refused: Vec<String>,
}

async fn left(
    region: &SweepRegion<'_>,
    open: &OpenIntent,
    goes: &SweepIntentRecord,
    listing: &Listing,
) -> Result<Left, SweepError> {
    let OpenIntent { seq, writer, intent, .. } = open;
    let (mut rest, mut refused) = (Rest::Nothing, Vec::new());
    for floor in intent.wal.iter().filter(|floor| !goes.wal.contains(floor)) {
        if begins_below(region.store, *floor).await? {
            let WalFloor { timeline, before } = floor;
            refused.push(format!(
                "record {seq}, by {writer}, orders the deletion of WAL of timeline {timeline} up to {before}, some of which \
                 today's plan keeps"
            ));
            rest = Rest::Stays;
        }
    }
    let is_there = |folder: &&BackupId| listing.folders.contains_key(*folder);
    let mut named = intent.backups.iter().chain(&intent.leftovers).filter(is_there);
    let folders: BTreeSet<&BackupId> = goes.backups.iter().chain(&goes.leftovers).collect();
    let mut epochs = intent.epochs.iter().filter(|epoch| listing.epochs.contains_key(epoch));
    if named.any(|name| !folders.contains(name)) || epochs.any(|epoch| !goes.epochs.contains(epoch)) {
        rest = Rest::Stays;
    }
    Ok(Left { rest, refused })
}
