//! Who deletes, where, and who may stop it.

use std::fmt;
use std::sync::Arc;

use lifeboat_stores::Store;
use lifeboat_vocabulary::UtcTime;
use parking_lot::Mutex;

use crate::log::append::{Attempt, Draft};
use crate::log::note::NoteSigner;
use crate::log::records::record::{Origin, RecordBody};
use crate::log::region_log::RegionLog;
use crate::retention::sweep::error::SweepError;
use crate::retention::sweep::evidence::Evidence;

/// Says whether anything may be deleted just now. Asked before every record and before every deletion.
pub trait DeleteGate: Send + Sync {
    /// `Err` says who or what has stopped deletion, and why.
    ///
    /// # Errors
    /// The reason, as one sentence for a person.
    fn check(&self) -> Result<(), String>;
}

/// A gate that is always open.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenGate;

impl DeleteGate for OpenGate {
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Who deletes: signs the records, and counts its events over all regions.
pub struct SweepAuthor {
    /// Signs.
    pub signer: Arc<NoteSigner>,
    /// The program and its version.
    pub tool: String,
    /// Stops everything.
    pub gate: Arc<dyn DeleteGate>,
    /// The last count that was used for any region: different events must not share one.
    last_count: Mutex<u64>,
}

impl SweepAuthor {
    /// One author serves all regions of a cluster.
    #[must_use]
    pub fn new(signer: Arc<NoteSigner>, tool: String, gate: Arc<dyn DeleteGate>) -> Self {
        Self { signer, tool, gate, last_count: Mutex::new(0) }
    }

    pub(crate) fn check(&self) -> Result<(), SweepError> {
        self.gate.check().map_err(|why| SweepError::Stopped { why })
    }

    pub(crate) fn draft(&self, log: &RegionLog, now: UtcTime, body: RecordBody) -> Draft {
        let writer = self.signer.name().clone();
        let mut last = self.last_count.lock();
        *last = Origin::next_count(Some(log.last_count(&writer).unwrap_or(0).max(*last)), now);
        Draft { origin: Origin { writer, wseq: *last, time: now, tool: self.tool.clone() }, body }
    }
}

impl fmt::Debug for SweepAuthor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SweepAuthor({})", self.signer.name())
    }
}

/// One region whose retention is carried out.
#[derive(Debug)]
pub struct SweepRegion<'a> {
    /// Its store.
    pub store: &'a dyn Store,
    /// Its log, as it was read last; it is brought up to date first.
    pub log: &'a mut RegionLog,
    /// Who deletes.
    pub author: &'a SweepAuthor,
    /// What the store says about the backups: empty at first, and completed by every step.
    pub evidence: Evidence,
}

impl SweepRegion<'_> {
    /// Reads what is new in the log. Asks whether it still ends where it ended, too: where conditions are ignored, nothing
    /// else would tell that another process has replaced a record.
    pub(crate) async fn refresh(&mut self) -> Result<(), SweepError> {
        self.log.confirm_head(self.store).await.map_err(SweepError::Log)?;
        self.log.refresh(self.store).await.map_err(SweepError::Log)?;
        Ok(())
    }

    /// Appends directly behind the last record that was read, and gives the place; `None` if others were first.
    pub(crate) async fn append(&mut self, body: RecordBody, now: UtcTime) -> Result<Option<u64>, SweepError> {
        let draft = self.author.draft(self.log, now, body);
        match self.log.try_append(self.store, &self.author.signer, &draft).await.map_err(SweepError::Log)? {
            Attempt::Written(head) => Ok(Some(head.seq)),
            Attempt::Overtaken { .. } => Ok(None),
        }
    }
}
