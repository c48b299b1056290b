//! Logs that were read and checked once, so that afterwards only what is new has to be read.
//!
//! A log grows for ever. A program that looks at it every day must not read all of it every day: one that keeps running
//! keeps what it has verified, asks whether the log still ends there, and goes on behind it. A program that starts anew
//! begins with what it has kept on its disk, if it keeps anything ([`KeepsLogs`]), and reads the rest once; whoever gives up meanwhile costs nothing, because the next one goes on where he was.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lifeboat_vocabulary::RegionName;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::log::bundle::kept::{self, KeepsLogs};
use crate::log::bundle::reading::LogReading;
use crate::log::error::LogError;
use crate::log::region_log::{LogTrust, RegionLog};
use crate::log::region_store::RegionStore;
use crate::log::room::LogLimits;

/// So many records are read again after a restart, so that not each of them is written to the disk by itself.
const UNKEPT_MAX: u64 = 32;
/// A note that is found gone, or another one, is asked again so much later before its log is refused: a store may answer with what it
/// had before, twice in a row.
const ASKED_AGAIN: Duration = Duration::from_secs(300);
/// Places that are doubted at the same time; whoever compares stops at the first.
const DOUBTS_MAX: usize = 16;

/// What one program knows of the logs of one cluster. It holds each log once, however many ask for it, and a log's records
/// take at most 1 GiB.
#[derive(Debug, Default)]
pub struct LogMemory {
    regions: Mutex<BTreeMap<RegionName, Region>>,
    /// Orders the calls of [`Self::read`], of all regions.
    calls: AtomicU64,
    /// Where logs are kept over a restart; nowhere if it was not said.
    kept: OnceLock<Arc<dyn KeepsLogs>>,
}

/// What is known of one region.
#[derive(Debug, Default)]
struct Region {
    known: Option<Arc<RegionLog>>,
    /// Changes whenever the log is forgotten: what was read before is not kept thereafter.
    forgotten: u64,
    /// Why the log is not read any more: a comparison has found that it is not what was read.
    refused: Option<Arc<LogError>>,
    /// Places whose notes were found gone, or others, and not right since; and when this was found first.
    doubts: BTreeMap<u64, Instant>,
    turn: Arc<tokio::sync::Mutex<Turn>>,
    looked_at: Arc<AtomicU64>,
    /// Whether what was kept over the last restart was asked for, or is not to be.
    is_kept_used: bool,
}

impl Region {
    /// A comparison has failed.
    fn doubt(&mut self, error: &Arc<LogError>) {
        let seq = match **error {
            LogError::RolledBack { found: seq, .. } | LogError::Forked { seq, .. } => seq,
            _ => return,
        };
        if self.doubts.len() >= DOUBTS_MAX && !self.doubts.contains_key(&seq) {
            self.doubts.clear();
        }
        let first = *self.doubts.entry(seq).or_insert_with(Instant::now);
        if first.elapsed() >= ASKED_AGAIN {
            self.refused = Some(Arc::clone(error));
        }
    }
}

/// What only one call at a time has in hand.
#[derive(Debug, Default)]
struct Turn {
    last: Option<LastRead>,
    /// A log that was not read to its end yet.
    first: Option<LogReading>,
}

/// A log that is being read on. What was learned is kept, also if the reading fails or nobody waits for it any more: otherwise
/// whoever puts many objects into a log would have them read for ever.
struct Reading<'a> {
    memory: &'a LogMemory,
    region: &'a RegionName,
    forgotten: u64,
    known: Arc<RegionLog>,
    log: RegionLog,
}

impl Reading<'_> {
    /// What was read; the same as before if nothing is new.
    fn taken(&mut self) -> Arc<RegionLog> {
        if self.log.differs_from(&self.known) || self.log.unkept() != self.known.unkept() {
            self.known = Arc::new(self.log.clone());
        }
        Arc::clone(&self.known)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let log = self.taken();
        self.memory.keep(self.region, &log, self.forgotten);
    }
}

/// The last request for a log, and what came of it.
#[derive(Debug)]
struct LastRead {
    /// Calls up to this number were made before anything was asked of the region.
    covers: u64,
    trust: LogTrust,
    /// What was read, and the log that was known by then.
    read: Result<Arc<RegionLog>, Arc<LogError>>,
}

impl LogMemory {
    /// From now on, what is read is kept there, and a first reading begins with what was kept. To be called once, before anything is read.
    pub fn keep_in(&self, kept: Arc<dyn KeepsLogs>) {
        if self.kept.set(kept).is_err() {
            tracing::debug!("logs are kept already");
        }
    }

    /// The log of `region` as it is now: two requests if nothing is new (and no strange objects lie behind it), and all of it
    /// the first time. Calls at the same time share the requests. `trust` must be of the same repository and keys every time.
    ///
    /// # Errors
    /// [`LogError`], by meaning. A log that does not continue what was read before is refused, also later on, until
    /// [`Self::forget`].
    pub async fn read(&self, region: &RegionStore, trust: &LogTrust) -> Result<Arc<RegionLog>, Arc<LogError>> {
        if let Some(refused) = self.refusal(&region.name) {
            return Err(refused);
        }
        let read = self.read_in_turn(region, trust).await;
        // It may have waited for long, and a comparison has found something meanwhile.
        match self.refusal(&region.name) {
            Some(refused) => Err(refused),
            None => read,
        }
    }

    async fn read_in_turn(&self, region: &RegionStore, trust: &LogTrust) -> Result<Arc<RegionLog>, Arc<LogError>> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let turn = Arc::clone(&self.regions.lock().entry(region.name.clone()).or_default().turn);
        let mut turn = turn.lock().await;
        if let Some(last) = turn.last.as_ref().filter(|last| last.covers >= call && last.trust == *trust) {
            return last.read.clone();
        }
        let covers = self.calls.load(Ordering::Relaxed).saturating_sub(1);
        let read = self.read_now(region, trust, &mut turn.first).await.map_err(Arc::new);
        turn.last = Some(LastRead { covers, trust: trust.clone(), read: read.clone() });
        read
    }

    async fn read_now(
        &self,
        region: &RegionStore,
        trust: &LogTrust,
        first: &mut Option<LogReading>,
    ) -> Result<Arc<RegionLog>, LogError> {
        let store = &*region.store;
        let (known, forgotten) = match self.regions.lock().get(&region.name) {
            Some(region) => (region.known.clone(), region.forgotten),
            None => (None, 0),
        };
        let log = match known.filter(|log| log.trusts_like(trust)) {
            Some(known) => {
                known.confirm_head(store).await?;
                let log = RegionLog::clone(&known);
                let mut reading = Reading { memory: self, region: &region.name, forgotten, known, log };
                reading.log.refresh(store).await?;
                reading.log.compare_with(trust.remembered)?;
                self.keep_on_disk(&region.name, &mut reading.log, UNKEPT_MAX);
                reading.taken()
            }
            None => Arc::new(self.read_first(region, trust, first).await?),
        };
        self.keep(&region.name, &log, forgotten);
        Ok(log)
    }

    /// Reads a log of which nothing is known, or goes on where somebody has given up, or failed.
    async fn read_first(
        &self,
        RegionStore { name: region, store }: &RegionStore,
        trust: &LogTrust,
        first: &mut Option<LogReading>,
    ) -> Result<RegionLog, LogError> {
        if first.as_ref().is_some_and(|reading| !reading.log().trusts_like(trust)) {
            *first = None;
        }
        let reading = match first {
            Some(reading) => reading,
            None => first.insert(LogReading::new(self.begin(region, trust).await)),
        };
        reading.go_on(&**store).await?;
        let mut log = reading.log().clone();
        log.compare_with(trust.remembered)?;
        self.keep_on_disk(region, &mut log, 0);
        *first = None;
        Ok(log)
    }

    /// What a first reading begins with: what was kept over the last restart, or nothing. A region that does not have that any more was
    /// set back, or has another history: then what was kept is the proof, and stays until a person has accepted it.
    async fn begin(&self, region: &RegionName, trust: &LogTrust) -> RegionLog {
        let unread = || RegionLog::unread(trust.clone(), LogLimits::default()).counting_on(self.counter(region));
        let Some(kept) = self.kept.get() else { return unread() };
        let is_used = self.regions.lock().entry(region.clone()).or_default().is_kept_used;
        if is_used {
            return unread().collecting();
        }
        // What may be whole is left alone: nothing is collected that would take its place.
        let Ok(loaded) = kept::load(&**kept, region, unread()).await else { return unread() };
        self.regions.lock().entry(region.clone()).or_default().is_kept_used = true;
        loaded.unwrap_or_else(unread).collecting()
    }

    /// Keeps what was read, if it is more than a few records: a restart reads those again. What the disk cannot take now it is given
    /// with what comes next.
    fn keep_on_disk(&self, region: &RegionName, log: &mut RegionLog, few: u64) {
        if let Some(kept) = self.kept.get().filter(|_| log.unkept() > few)
            && let Err(bundles) = kept.add(region, log.take_unkept())
        {
            log.give_back_unkept(bundles);
        }
    }

    /// Compares what is known of a log with the notes at its places: of at most `most` records from place `from` on. Returns the place to go
    /// on with, and `None` behind the last record, or if the log was not read yet.
    ///
    /// # Errors
    /// [`LogError::RolledBack`] or [`LogError::Forked`] if notes are gone or others: if that is found again five minutes later or more,
    /// the log is refused from then on, until [`Self::forget`]. [`LogError::Store`] if they cannot be read, [`LogError::Note`] if they are
    /// damaged on their way.
    pub async fn compare_notes(
        &self,
        region: &RegionStore,
        from: u64,
        most: usize,
    ) -> Result<Option<u64>, Arc<LogError>> {
        let (known, forgotten) = match self.regions.lock().get(&region.name) {
            Some(Region { known: Some(known), forgotten, .. }) => (Arc::clone(known), *forgotten),
            _ => return Ok(None),
        };
        let compared = known.compare_notes(&*region.store, from, most).await.map_err(Arc::new);
        let mut regions = self.regions.lock();
        // Somebody may have accepted it meanwhile.
        if let Some(region) = regions.get_mut(&region.name).filter(|region| region.forgotten == forgotten) {
            match &compared {
                Ok(next) => region.doubts.retain(|seq, _| *seq < from || next.is_some_and(|next| *seq >= next)),
                Err(error) => region.doubt(error),
            }
        }
        drop(regions);
        compared
    }

    /// Whether a comparison has found, and found again, that a log is not what was read.
    #[must_use]
    pub fn is_refused(&self, region: &RegionName) -> bool {
        self.refusal(region).is_some()
    }

    /// Why a log is not read any more.
    fn refusal(&self, region: &RegionName) -> Option<Arc<LogError>> {
        self.regions.lock().get(region)?.refused.clone()
    }

    /// Counts what is read of a log, so that whoever waits can tell slow from stuck.
    #[must_use]
    pub fn looked_at(&self, region: &RegionName) -> u64 {
        self.counter(region).load(Ordering::Relaxed)
    }

    fn counter(&self, region: &RegionName) -> Arc<AtomicU64> {
        Arc::clone(&self.regions.lock().entry(region.clone()).or_default().looked_at)
    }

    /// Keeps what was read, unless the log was forgotten after the reading began.
    fn keep(&self, region: &RegionName, log: &Arc<RegionLog>, forgotten: u64) {
        let mut regions = self.regions.lock();
        let region = regions.entry(region.clone()).or_default();
        if region.forgotten == forgotten {
            region.known = Some(Arc::clone(log));
        }
    }

    /// The log as it was read last, if it ever was.
    #[must_use]
    pub fn known(&self, region: &RegionName) -> Option<Arc<RegionLog>> {
        self.regions.lock().get(region)?.known.clone()
    }

    /// Forgets one log: it is read from its first record next time.
    pub fn forget(&self, region: &RegionName) {
        if let Some(region) = self.regions.lock().get_mut(region) {
            (region.known, region.refused) = (None, None);
            region.doubts.clear();
            region.is_kept_used = true;
            region.forgotten += 1;
            // Nobody joins a request that began before.
            region.turn = Arc::default();
        }
        if let Some(kept) = self.kept.get() {
            kept.forget(region);
        }
    }
}

#[cfg(test)]
mod tests;
