//! Brings records of other regions' logs into a log that has missed them.
//!
//! Where the key of whoever heals may not say what a record says, the note itself is copied, as its writer has signed it: so a
//! host that heals needs no writer's key, and can make nothing up.

use lifeboat_stores::Store;
use lifeboat_vocabulary::UtcTime;

use crate::heal::tools::HealRegion;
use crate::log::append::{Attempt, Draft, DraftCopy};
use crate::log::error::LogError;
use crate::log::note::NoteSigner;
use crate::log::records::record::Origin;
use crate::log::region_log::RegionLog;

/// How often a record is tried while others append.
pub(crate) const APPEND_ATTEMPTS: u32 = 32;

/// Who brings records, and from where.
#[derive(Clone, Copy)]
pub(crate) struct PassOn<'a> {
    pub(crate) signer: &'a NoteSigner,
    /// The regions that may have the record.
    pub(crate) sources: &'a [HealRegion],
    /// How records name the program.
    pub(crate) tool: &'a str,
    pub(crate) now: UtcTime,
}

impl PassOn<'_> {
    /// Tries once to bring a record that stands in the log of one of the sources.
    ///
    /// # Errors
    /// As [`RegionLog::append`]; what a source says if the note has to be copied and no source gives it.
    pub(crate) async fn once(
        &self,
        target: &mut RegionLog,
        store: &dyn Store,
        draft: &Draft,
    ) -> Result<Attempt, LogError> {
        if target.may_write(self.signer, draft) {
            return target.try_append(store, self.signer, draft).await;
        }
        let note = self.note_of(draft).await?;
        let copy = DraftCopy { original: draft.clone(), note, origin: self.origin(target) };
        target.try_append_copy(store, self.signer, &copy).await
    }

    /// Brings a record, whatever others append meanwhile.
    ///
    /// # Errors
    /// As [`Self::once`]; [`LogError::Contended`] if others were first every time.
    pub(crate) async fn bring(&self, target: &mut RegionLog, store: &dyn Store, draft: &Draft) -> Result<(), LogError> {
        for _ in 0..APPEND_ATTEMPTS {
            if let Attempt::Written(_) = self.once(target, store, draft).await? {
                return Ok(());
            }
        }
        Err(LogError::Contended { attempts: APPEND_ATTEMPTS })
    }

    fn origin(&self, target: &RegionLog) -> Origin {
        let writer = self.signer.name().clone();
        let logs = self.sources.iter().map(|source| &source.log).chain([target]);
        let last = logs.filter_map(|log| log.last_count(&writer)).max();
        Origin { wseq: Origin::next_count(last, self.now), writer, time: self.now, tool: self.tool.to_owned() }
    }

    /// The note of a record, from the first source that gives it.
    async fn note_of(&self, draft: &Draft) -> Result<String, LogError> {
        let mut failed = None;
        for source in self.sources {
            let Some(entry) = source.log.find_entry(draft) else { continue };
            match source.log.original_note(&*source.store.store, entry).await {
                Ok(note) => return Ok(note),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| LogError::NoOriginal { kind: draft.body.kind().to_owned() }))
    }
}
