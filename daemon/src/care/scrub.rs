//! Reads back and verifies everything that every region stores, a little all the time; checks presence once a day.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::anyhow;
use futures_util::future::join_all;
use lifeboat_repository::format::layout;
use lifeboat_repository::heal::{self, HealProgress, Pace, ScrubRegion};
use lifeboat_repository::log::records::FoundBy;
use lifeboat_repository::log::{Descriptor, FoundDamage, LogTrust, RegionLog, RegionReadError, RegionStore, Signers};
use lifeboat_repository::scrub::{ScrubState, ScrubWalk, Scrubbed};
use lifeboat_stores::with_lanes;
use lifeboat_vocabulary::{ByteCount, RegionName, counted, error_chain};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::base::alarms::board::{Alarm, Source, SourceKind, Wrongs};
use crate::base::state::Durable;
use crate::base::supervisor::TaskContext;
use crate::care::parts::CareParts;
use crate::care::steps::stepping;
use crate::care::trouble::spoken;
use crate::deletion::standstill::Action;
use crate::model::snapshot::ScrubStatus;
use crate::regions::log_follower::has_changed;

/// `scrub.json`: how far each region has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ScrubFile(BTreeMap<String, ScrubState>);

/// After the start everything else goes first.
const FIRST_AFTER: Duration = Duration::from_secs(60);
/// Presence is checked this often, and so are the notes of the log compared.
const LIST_EVERY: Duration = Duration::from_secs(86_400);
/// While nothing is due.
const REST: Duration = Duration::from_secs(600);
/// After a failure of the region.
const RETRY: Duration = Duration::from_secs(60);
/// The log is read anew after this long: backups have come and gone.
const WALK: Duration = Duration::from_secs(1800);
/// Notes of a log that are compared at once, and the pause behind them: a hundred thousand take a few minutes, and nobody waits.
const NOTES_AT_ONCE: usize = 256;
const NOTES_PAUSE: Duration = Duration::from_secs(1);
/// A crash costs at most what was read since the last save.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Scrubs the regions of one cluster until it is told to stop.
///
/// # Errors
/// None: what fails is tried again, and alarmed when the period is exceeded.
pub(crate) async fn scrub_task(context: TaskContext, parts: CareParts) -> anyhow::Result<()> {
    let stores = parts.context.regions.stores();
    let file: Durable<ScrubFile> = Durable::open(parts.context.directory.join("scrub.json")).0;
    let wrong = Mutex::new(BTreeMap::new());
    context.progress.waiting("the start of everything else");
    tokio::select! {
        () = context.stop.cancelled() => return Ok(()),
        () = tokio::time::sleep(FIRST_AFTER) => {}
    }
    let scrubs = stores.iter().map(|store| {
        let others = stores.iter().filter(|other| other.name != store.name).cloned().collect();
        let scrub = RegionScrub { context: &context, parts: &parts, store, others, file: &file, wrong: &wrong };
        scrub.run()
    });
    join_all(scrubs).await;
    Ok(())
}

/// The scrub of one region. Each goes at its own pace.
struct RegionScrub<'a> {
    context: &'a TaskContext,
    parts: &'a CareParts,
    store: &'a RegionStore,
    others: Vec<RegionStore>,
    file: &'a Durable<ScrubFile>,
    /// What is wrong, by region: the alarms of all regions are stated together.
    wrong: &'a Mutex<BTreeMap<RegionName, Wrong>>,
}

/// What is wrong with the scrub of one region.
#[derive(Clone, Debug, Default)]
struct Wrong {
    /// It does not keep to its period.
    late: Option<String>,
    /// It has found damage, and nobody can read that in the log.
    unrecorded: Option<String>,
    /// What it could not read.
    unread: Option<String>,
    /// What the check of presence has found and could not record.
    pending: Option<Pending>,
}

/// A check of presence whose findings are not on record yet. It is not repeated for that: nothing else would come of it.
#[derive(Clone, Debug)]
struct Pending {
    damage: Vec<FoundDamage>,
    stored: ByteCount,
    unread: Option<String>,
    checked: Instant,
}

impl RegionScrub<'_> {
    async fn run(self) {
        let name = self.store.name.to_string();
        let mut state = self.file.read().0.remove(&name).unwrap_or_else(|| ScrubState::new(self.parts.now()));
        while !self.context.stop.is_cancelled() {
            state.forget_future(self.parts.now());
            let pause = match self.parts.context.freezer.check(&self.parts.cluster.name, Action::Scrub) {
                Err(_) => REST,
                Ok(()) => match with_lanes(layout::readers_lane, self.turn(&mut state)).await {
                    Ok(()) if state.is_due(self.period(), self.parts.now()) => Duration::ZERO,
                    Ok(()) => REST,
                    Err(error) => {
                        let (region, error) = (&self.store.name, format!("{error:#}"));
                        tracing::warn!(%region, error, "the scrub cannot go on now");
                        // A key that may not sign it has no right a minute later either, and what was found is found again at each turn.
                        if self.is_unrecorded() { REST } else { RETRY }
                    }
                },
            };
            self.save(&state).await;
            self.show(&state);
            self.context.progress.waiting("the next object to verify");
            tokio::select! {
                () = self.context.stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn period(&self) -> Duration {
        self.parts.config.scrub.period
    }

    /// The log and presence if they are due, then contents for a while.
    async fn turn(&self, state: &mut ScrubState) -> anyhow::Result<()> {
        self.context.progress.working(&format!("the scrub of region {}", self.store.name));
        let store = &*self.store.store;
        let root = self.parts.context.signer.root();
        let (descriptor, _) = Descriptor::read(store, Some(&root)).await?;
        let name = Some(self.store.name.clone());
        let trust =
            LogTrust { repository: descriptor.repo, signers: Signers::root_only(root), region: name, remembered: None };
        let pending = self.pending();
        let is_checked = pending.as_ref().is_some_and(|pending| pending.checked.elapsed() < LIST_EVERY);
        let is_due = !is_checked && state.listed_ago(self.parts.now()).is_none_or(|ago| ago >= LIST_EVERY);
        let read = self.parts.context.regions.logs().read_log(self.store, &trust).await;
        if read.as_ref().is_err_and(|error| has_changed(error)) {
            state.forget_comparison();
        }
        let mut log = RegionLog::clone(&*read?);
        // By itself: a check of presence that fails and is tried again would have all of a long log compared each time.
        let is_compared = state.compared_ago(self.parts.now()).is_some_and(|ago| ago < LIST_EVERY);
        if !is_compared && !self.compare_log(state).await? {
            return Ok(());
        }
        if is_due {
            let (trust, progress) = (log.trust().clone(), HealProgress::default());
            let pace = Pace::new(Some(self.parts.bandwidth()));
            let scrubbed = self.scrubbed(&trust, &pace, &progress);
            let check = stepping(self.context, &progress, heal::check_presence(scrubbed, &mut log));
            let report = tokio::select! {
                () = self.context.stop.cancelled() => return Ok(()),
                report = check => report?,
            };
            let unread = report.unread.text();
            let pending = Pending { damage: report.damage, stored: report.bytes, unread, checked: Instant::now() };
            self.record_presence(state, &mut log, pending).await?;
        } else if let Some(pending) = pending {
            self.record_presence(state, &mut log, pending).await?;
        }
        if state.is_due(self.period(), self.parts.now()) {
            let trust = log.trust().clone();
            self.read_on(state, log, &trust).await?;
        }
        Ok(())
    }

    /// Puts on record what a check of presence has found; before that, the check does not count as done.
    async fn record_presence(
        &self,
        state: &mut ScrubState,
        log: &mut RegionLog,
        pending: Pending,
    ) -> anyhow::Result<()> {
        self.change(|wrong| wrong.pending = Some(pending.clone()));
        self.record(log, &pending.damage).await?;
        self.change(|wrong| wrong.pending = None);
        state.was_listed(pending.stored, self.parts.now());
        state.listing_left(pending.unread);
        Ok(())
    }

    /// Reads the notes of the log one by one, and compares them with what was read of it, by bundles perhaps, or before a restart: who
    /// deletes a record, or puts another one in its place, would be seen by nobody else. Returns whether it was done.
    async fn compare_log(&self, state: &mut ScrubState) -> anyhow::Result<bool> {
        let logs = self.parts.context.regions.logs();
        loop {
            // Accepted as another one meanwhile: it is read first.
            if logs.known(&self.store.name).is_none() {
                return Ok(false);
            }
            let next = tokio::select! {
                () = self.context.stop.cancelled() => return Ok(false),
                next = logs.compare_notes(self.store, state.to_compare(), NOTES_AT_ONCE) => next?,
            };
            self.context.progress.moved();
            state.was_compared(next, self.parts.now());
            if next.is_none() {
                return Ok(true);
            }
            tokio::select! {
                () = self.context.stop.cancelled() => return Ok(false),
                () = tokio::time::sleep(NOTES_PAUSE) => {}
            }
        }
    }

    fn scrubbed<'a>(&'a self, trust: &'a LogTrust, pace: &'a Pace, progress: &'a HealProgress) -> ScrubRegion<'a> {
        let clock = &*self.parts.context.clock;
        ScrubRegion { region: self.store, others: &self.others, trust, pace, progress, clock }
    }

    async fn read_on(&self, state: &mut ScrubState, log: RegionLog, trust: &LogTrust) -> anyhow::Result<()> {
        let (period, progress) = (self.period(), HealProgress::default());
        let pace = Pace::new(Some(state.rate(period, Some(self.parts.bandwidth()))));
        let after = state.after().cloned();
        let mut walk = ScrubWalk::new(self.scrubbed(trust, &pace, &progress), log, after.as_ref());
        if let Some(key) = state.passes_over() {
            walk.pass_over(key.clone());
        }
        let (begun, mut saved) = (Instant::now(), Instant::now());
        while begun.elapsed() < WALK {
            let next = tokio::select! {
                () = self.context.stop.cancelled() => return Ok(()),
                next = walk.next() => next,
            };
            if let Err(RegionReadError::Store { key, .. }) = &next {
                state.gave_no_answer(key);
            }
            let next = next?;
            self.context.progress.moved();
            let Some(Scrubbed { key, bytes, damage, unread }) = next else {
                state.finish();
                let (objects, bytes, damaged) = state.so_far();
                tracing::info!(region = %self.store.name, objects, %bytes, damaged, "everything in the region was read back");
                return Ok(());
            };
            if let Some(damage) = damage {
                let mut log = walk.log().clone();
                // Before the scrub moves on: it comes back here only after a period.
                self.record(&mut log, &[damage]).await?;
                state.damaged();
            }
            match unread {
                Some(why) => {
                    tracing::warn!(region = %self.store.name, %key, why, "an object could not be read back; the next round tries again");
                    state.passed_over(&key, &why, self.parts.now());
                }
                None => {
                    state.verified(&key, bytes, period, self.parts.now());
                    self.change(|wrong| wrong.unrecorded = None);
                }
            }
            if saved.elapsed() >= SAVE_EVERY {
                self.save(state).await;
                self.show(state);
                saved = Instant::now();
            }
        }
        Ok(())
    }

    /// Puts damage on record, and has it healed. What cannot be recorded is found again, and told at once: nobody else knows of it.
    async fn record(&self, log: &mut RegionLog, damage: &[FoundDamage]) -> anyhow::Result<()> {
        for found in damage {
            tracing::warn!(region = %found.region, key = %found.key, what = found.what, "an object is damaged; it is healed from another region if one has it");
        }
        let mut recorded = Ok(());
        if let Some(first) = damage.first() {
            let reporter = self.parts.damage_reporter(FoundBy::Scrub);
            recorded = reporter.record(self.store, log, damage).await.map(drop).map_err(|error| {
                let objects = counted(damage.len() as u64, "damaged object", "damaged objects");
                let (region, key, why) = (&self.store.name, &first.key, error_chain(&error));
                anyhow!("region {region} has {objects}, such as {key}, which cannot be put on record: {why}")
            });
            self.parts.board.wake_healing();
        }
        let unrecorded = recorded.as_ref().err().map(ToString::to_string);
        self.change(|wrong| wrong.unrecorded = unrecorded);
        recorded
    }

    fn change(&self, change: impl FnOnce(&mut Wrong)) {
        change(self.wrong.lock().entry(self.store.name.clone()).or_default());
    }

    fn pending(&self) -> Option<Pending> {
        self.wrong.lock().get(&self.store.name).and_then(|wrong| wrong.pending.clone())
    }

    fn is_unrecorded(&self) -> bool {
        self.wrong.lock().get(&self.store.name).is_some_and(|wrong| wrong.unrecorded.is_some())
    }

    async fn save(&self, state: &ScrubState) {
        let (name, state) = (self.store.name.to_string(), state.clone());
        let saved = self.file.change_in_background(move |file| drop(file.0.insert(name, state))).await;
        if let Err(error) = saved {
            tracing::warn!(region = %self.store.name, error = %error_chain(&error), "how far the scrub is would not survive a restart");
        }
    }

    fn show(&self, state: &ScrubState) {
        let (parts, name) = (self.parts, &self.store.name);
        let oldest = state.oldest(parts.now());
        let (objects, bytes, _) = state.so_far();
        let stored = state.stored();
        let share_done = if stored == ByteCount::ZERO { 0.0 } else { share(bytes, stored) };
        let oldest_seconds = Some(oldest.as_secs_f64());
        let scrub = ScrubStatus { share_done: Some(share_done), oldest_unverified_seconds: oldest_seconds, damaged: 0 };
        parts.context.facts.scrubbed(name, scrub);
        let late = (oldest > self.period()).then(|| {
            let objects = counted(objects, "object", "objects");
            format!(
                "objects in region {name} have not been read back for {} (the period is {}); {objects}, {bytes} of \
                 {stored} in this round. Is the region there, may the role read it, is heal.max_bandwidth too low?",
                spoken(oldest),
                spoken(self.period())
            )
        });
        // While the findings of a listing wait to be recorded, what it could not read is not in the state yet.
        let pending = self.pending().and_then(|pending| pending.unread);
        let unread = state.unread_text().into_iter().chain(pending).collect::<Vec<_>>().join("; ");
        let mut all = self.wrong.lock();
        let own = all.entry(name.clone()).or_default();
        (own.late, own.unread) = (late, Some(unread).filter(|text| !text.is_empty()));
        let mut wrong = Wrongs::default();
        for (region, Wrong { late, unrecorded, unread, .. }) in &*all {
            if let Some(text) = late {
                wrong.add(Alarm::ScrubLate.of_region(region), text.clone());
            }
            let unread = unread.as_ref().map(|text| {
                format!("in region {region}, {text}; may the role read them, and are they in a storage class that can be read at once?")
            });
            let texts: Vec<String> = unrecorded.iter().cloned().chain(unread).collect();
            if !texts.is_empty() {
                wrong.add(Alarm::RegionDamaged.of_region(region), texts.join("; "));
            }
        }
        drop(all);
        parts.context.alarms.report(&Source::of(&parts.cluster.name, SourceKind::Scrub), wrong);
    }
}

/// `part` of `whole`, 0 to 1.
#[must_use]
pub(crate) fn share(part: ByteCount, whole: ByteCount) -> f64 {
    let kib = |bytes: ByteCount| f64::from(u32::try_from(bytes.as_bytes() / 1024).unwrap_or(u32::MAX));
    (kib(part) / kib(whole).max(1.0)).min(1.0)
}

#[cfg(test)]
mod tests;
