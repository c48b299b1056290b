//! The only module that deletes: what the retention of a region keeps no longer, in two phases against the region's log.
//!
//! CRASH SAFETY, in each region by itself:
//! 1. [`forget`]: a `forget` record names the backups that no rule keeps. Nothing is deleted; they can still be restored.
//! 2. After their grace [`sweep_region`] decides anew, from the log as it stands and a listing that was made after it was read,
//!    and reads all that it has to know to carry that out: what cannot be read keeps what it may need, and stops nothing else.
//! 3. A `sweep-intent` record names everything that goes. It stands directly behind the last record that was read, or
//!    nowhere: if anything was committed or held meanwhile, this fails, and everything is decided again.
//! 4. What the intent names is deleted; wrapped keys last.
//! 5. A `sweep-done` record says that nothing of it is left.
//!
//! Crash before 3: nothing has happened. Crash or lost answer in 3: the record stands or not, and the next run reads which.
//! Crash in 4, or before 5: the next run finds the intent without its end, decides anew about what it names
//! ([`crate::retention::sweep::unfinished`]), and deletes what is left of it. All of 4 may be repeated. Hence: nothing is deleted that no record before it names, and a backup
//! whose record stands in a log and that no intent names has all its objects. The other half of that promise is kept where
//! records are appended: [`crate::log::region_log::RegionLog::try_append`] refuses one about a backup or a key that an intent has named.

use std::time::Duration;

use lifeboat_stores::Store;
use lifeboat_vocabulary::{BackupId, ByteCount, UtcTime};

use crate::format::ids::EpochId;
use crate::log::records::care::{
    BACKUPS_MAX, FORGOTTEN_MAX, ForgetRecord, Forgotten, KeepRecord, SweepDoneRecord, SweepIntentRecord, WalFloor,
};
use crate::log::records::record::RecordBody;
use crate::log::region_state::{OpenIntent, RegionState};
use crate::retention::model::RetentionPlan;
use crate::retention::sweep::author::SweepRegion;
use crate::retention::sweep::delete::{Sweeper, Swept};
use crate::retention::sweep::error::SweepError;
use crate::retention::sweep::evidence::Needs;
use crate::retention::sweep::intent::{Decided, View, decide};
use crate::retention::sweep::listing::{Listing, list_region};
use crate::retention::sweep::settings::{DeleteMode, SweepSettings};
use crate::retention::sweep::unfinished::{Agreed, Rest, Reviewed, review};

/// How far our clock and a region's may be apart before nothing is deleted there.
const SKEW_MAX: Duration = Duration::from_secs(3600);
/// How often others may be first before this run gives up.
const ATTEMPTS: u32 = 16;

/// What [`forget`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForgetReport {
    /// The plan that decided.
    pub plan: RetentionPlan,
    /// What was forgotten now, with the reason.
    pub forgotten: Vec<(BackupId, String)>,
    /// What was to leave, and stays after all.
    pub kept_again: Vec<BackupId>,
}

/// What [`sweep_region`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// The plan that decided.
    pub plan: RetentionPlan,
    /// Backups that do not exist here any more.
    pub swept: Vec<BackupId>,
    /// Remains of backups that never were complete.
    pub leftovers: Vec<BackupId>,
    /// Objects that were deleted, of every kind.
    pub objects: u64,
    /// Their size.
    pub bytes: ByteCount,
    /// Objects that the store does not let go yet, because they are locked. They are tried again.
    pub locked: u64,
    /// Forgotten backups whose grace lasts until then.
    pub waiting: Vec<(BackupId, UtcTime)>,
    /// Objects that stay although their backup was swept, because a backup that is kept refers to them.
    pub needed: u64,
    /// Deletions that somebody has ordered, and that today's plan does not agree with: they are not carried out.
    pub refused: Vec<String>,
    /// Backups that would go, and stay because it cannot be known whether others need their objects: why.
    pub undecided: Vec<(BackupId, String)>,
}

/// Writes down what the plan for this region keeps no longer, and what it keeps again although it was forgotten: a reader
/// sees what will be deleted, and what is forgotten later has its whole grace. Deletes nothing.
///
/// # Errors
/// [`SweepError`]; repeating is harmless.
pub async fn forget(
    region: &mut SweepRegion<'_>,
    settings: &SweepSettings,
    now: UtcTime,
) -> Result<ForgetReport, SweepError> {
    settings.check(region.store)?;
    let mut kept_again = Vec::new();
    for _ in 0..ATTEMPTS {
        region.author.check()?;
        region.refresh().await?;
        check_clock(region.store, now).await?;
        let state = settings.state(region.log, now)?;
        region.evidence.look(region.store, &state, now).await?;
        let facts = region.evidence.facts(&state, &settings.elsewhere);
        let plan = settings.plan(&state, &facts, now)?;
        let again = stays_after_all(&state, &plan);
        if !again.is_empty() {
            let body = RecordBody::Keep(KeepRecord { backups: again.clone() });
            if region.append(body, now).await?.is_some() {
                kept_again.extend(again);
            }
            continue;
        }
        let new = plan.dropped.iter().filter(|dropped| dropped.leaving.is_none()).take(FORGOTTEN_MAX);
        let backups: Vec<_> = new.map(|new| Forgotten { backup: new.backup.clone(), why: new.why.clone() }).collect();
        if backups.is_empty() {
            return Ok(ForgetReport { plan, forgotten: Vec::new(), kept_again });
        }
        let forgotten = backups.iter().map(|new| (new.backup.clone(), new.why.clone())).collect();
        let decided = facts.decided_at(&state).map_or(now, |last| last.max(now));
        let not_before = decided.plus(settings.grace);
        let body = RecordBody::Forget(ForgetRecord { backups, policy: settings.policy.text(), not_before });
        if region.append(body, now).await?.is_some() {
            return Ok(ForgetReport { plan, forgotten, kept_again });
        }
    }
    Err(SweepError::Contended { attempts: ATTEMPTS })
}

/// What the plan keeps although it is said to leave.
fn stays_after_all(state: &RegionState, plan: &RetentionPlan) -> Vec<BackupId> {
    let leaves = |backup: &&BackupId| state.backups.get(*backup).is_some_and(|backup| backup.leaving.is_some());
    plan.kept.iter().map(|(backup, _)| backup).filter(leaves).take(BACKUPS_MAX).cloned().collect()
}

/// Finishes what earlier sweeps have begun, then deletes what was forgotten, what crashed backups left, and WAL that no
/// backup needs any more.
///
/// # Errors
/// [`SweepError`]; what was deleted until then was named by a record before. Repeating goes on where this ended, and may
/// be done at any time. Dropping the future is a crash, which does no harm.
pub async fn sweep_region(
    region: &mut SweepRegion<'_>,
    settings: &SweepSettings,
    now: UtcTime,
) -> Result<SweepReport, SweepError> {
    settings.check(region.store)?;
    region.author.check()?;
    region.refresh().await?;
    check_clock(region.store, now).await?;
    let mut report = SweepReport::default();
    let Reviewed { intents, refused, undecided, needs } = review(region, settings, now).await?;
    (report.refused, report.undecided) = (refused, undecided);
    for agreed in intents {
        region.carry_out(&agreed, &needs, &mut report, now).await?;
    }
    for _ in 0..ATTEMPTS {
        region.author.check()?;
        region.refresh().await?;
        let state = settings.state(region.log, now)?;
        region.evidence.look(region.store, &state, now).await?;
        let facts = region.evidence.facts(&state, &settings.elsewhere);
        let plan = settings.plan(&state, &facts, now)?;
        let listing = list_region(region.store, &state, now).await?;
        let beside = state.open_intents.iter().flat_map(|open| &open.backups).collect();
        let view = View { state: &state, plan: &plan, listing: &listing, beside };
        let mut decided = decide(region, settings, &facts, &view).await?;
        without_open(&mut decided.intent, &state);
        report.note(&plan, &decided);
        if decided.intent.is_empty() {
            region.tidy(&decided, &listing, &mut report).await?;
            return Ok(report);
        }
        region.check_right(&decided.intent, &listing).await?;
        let body = RecordBody::SweepIntent(decided.intent.clone());
        if let Some(seq) = region.append(body, now).await? {
            if settings.mode == DeleteMode::SingleWriter {
                // A writer at the same place has replaced our intent: then nothing is deleted by it.
                region.refresh().await?;
            }
            report.swept.extend(decided.intent.backups.iter().cloned());
            report.leftovers.extend(decided.intent.leftovers.iter().cloned());
            let writer = region.author.signer.name().clone();
            let goes = decided.intent.clone();
            let open = OpenIntent { seq, writer, intent: goes.clone(), backups: Vec::new(), locked: None };
            // What it needs was read before it was written, and nothing has been committed in between.
            region.carry_out(&Agreed { open, goes, rest: Rest::Nothing }, &decided.needs, &mut report, now).await?;
            region.tidy(&decided, &listing, &mut report).await?;
            return Ok(report);
        }
    }
    Err(SweepError::Contended { attempts: ATTEMPTS })
}

/// What an open intent names already needs no other one.
fn without_open(intent: &mut SweepIntentRecord, state: &RegionState) {
    for open in &state.open_intents {
        let named = |epoch: &EpochId| open.intent.epochs.contains(epoch);
        intent.epochs.retain(|epoch| !named(epoch));
        let covers = |floor: &WalFloor| {
            open.intent.wal.iter().any(|named| named.timeline == floor.timeline && named.before >= floor.before)
        };
        intent.wal.retain(|floor| !covers(floor));
    }
}

/// The region's clock judges graces and ages, so ours must not be far from it.
async fn check_clock(store: &dyn Store, now: UtcTime) -> Result<(), SweepError> {
    let page = store.list(crate::format::layout::STATE_PREFIX, None).await.map_err(SweepError::List)?;
    match page.server_time {
        Some(theirs) if theirs.since(now).max(now.since(theirs)) > SKEW_MAX => {
            Err(SweepError::Clock { ours: now, theirs })
        }
        _ => Ok(()),
    }
}

impl SweepReport {
    fn note(&mut self, plan: &RetentionPlan, decided: &Decided) {
        self.plan = plan.clone();
        self.waiting.clone_from(&decided.waiting);
        let new =
            decided.undecided.iter().filter(|(backup, _)| self.undecided.iter().all(|(known, _)| known != backup));
        let new: Vec<_> = new.cloned().collect();
        self.undecided.extend(new);
    }

    fn add(&mut self, swept: &Swept) {
        self.objects += swept.objects;
        self.bytes = self.bytes.plus(swept.bytes);
        self.locked += swept.locked;
        self.needed += swept.needed;
    }
}

impl SweepRegion<'_> {
    /// Deletes what goes of an intent, and writes down that nothing of it is left, or how much is still locked.
    async fn carry_out(
        &mut self,
        Agreed { open, goes, rest }: &Agreed,
        needs: &Needs,
        report: &mut SweepReport,
        now: UtcTime,
    ) -> Result<(), SweepError> {
        let state = self.log.state(now);
        let swept = Sweeper::new(self, now).intent(goes, &state, needs).await?;
        report.add(&swept);
        // A log does not grow by one line a day only because a lock lasts. And nothing is said to be gone that stays.
        if *rest == Rest::Stays || open.locked == Some(swept.locked) && swept.locked > 0 {
            return Ok(());
        }
        let Swept { objects, bytes, locked, .. } = swept;
        let done = SweepDoneRecord { intent: open.seq, objects, bytes, locked };
        let draft = self.author.draft(self.log, now, RecordBody::SweepDone(done));
        // It depends on nothing that others may say meanwhile.
        self.log.append(self.store, &self.author.signer, &draft).await.map_err(SweepError::Log)?;
        Ok(())
    }

    /// What needs no new record: objects of backups that were swept and came late, and old probes.
    async fn tidy(&mut self, decided: &Decided, listing: &Listing, report: &mut SweepReport) -> Result<(), SweepError> {
        let state = self.log.state(listing.now);
        let sweeper = Sweeper::new(self, listing.now);
        let open = state.open_intents.iter().flat_map(|open| &open.backups);
        let needs = self.evidence.needs(state.backups.values().chain(open));
        let late = sweeper.late(&decided.late, &state, &needs).await?;
        report.add(&late);
        match sweeper.keys_of(&listing.probes).await {
            Ok(swept) => report.add(&swept),
            // They are a few bytes, and nothing depends on them: retention has not failed.
            Err(SweepError::Forbidden { key, source }) => {
                tracing::debug!(%key, %source, "trials of what the store can do stay: this role may not delete them");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether this role may delete at all, before anything is claimed: asked about a name that nothing has.
    async fn check_right(&self, intent: &SweepIntentRecord, listing: &Listing) -> Result<(), SweepError> {
        Sweeper::new(self, listing.now).check_right(intent).await
    }
}

#[cfg(test)]
mod evidence_tests;
#[cfg(test)]
mod tests;
