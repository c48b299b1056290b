//! The notes of records as their writers have signed them.

use lifeboat_stores::Store;

use crate::format::aead::sha256;
use crate::log::append::Draft;
use crate::log::error::LogError;
use crate::log::link::LogEntry;
use crate::log::note::{self, NoteError};
use crate::log::records::record::{Record, RecordBody};
use crate::log::region_log::{Fetched, RegionLog, fetch};

impl RegionLog {
    /// The record that says what a draft says.
    pub(crate) fn find_entry(&self, draft: &Draft) -> Option<&LogEntry> {
        let is_it = |entry: &&LogEntry| entry.record.origin == draft.origin && entry.record.body == draft.body;
        self.entries().iter().map(|entry| &**entry).find(is_it)
    }

    /// Reads the note of a record of this log; of one that was copied from another region, the note that it carries.
    ///
    /// # Errors
    /// [`LogError::Forked`] or [`LogError::RolledBack`] if it is not there any more; [`LogError::Store`] if it cannot be read.
    pub(crate) async fn original_note(&self, store: &dyn Store, entry: &LogEntry) -> Result<String, LogError> {
        let seq = entry.record.link.seq;
        let bytes = match fetch(store, seq).await? {
            Fetched::Note(bytes) => bytes,
            Fetched::Nothing => return Err(LogError::RolledBack { remembered: seq, found: seq }),
            Fetched::TooLarge(source) => return Err(LogError::Store { seq, source }),
        };
        if sha256(&bytes) != entry.sha256 {
            return Err(LogError::Forked { seq, remembered: entry.sha256, found: sha256(&bytes) });
        }
        let not_a_note = |source| LogError::Note { seq, source };
        let (text, _) = note::split(&bytes).map_err(not_a_note)?;
        if let Ok(Record { body: RecordBody::Copy(copy), .. }) = Record::parse(text) {
            return Ok(copy.note);
        }
        String::from_utf8(bytes.to_vec()).map_err(|_| not_a_note(NoteError::Text))
    }
}
