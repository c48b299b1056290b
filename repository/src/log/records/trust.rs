//! Records that carry what others have signed: statements of the root key, and records of other regions.

use serde::{Deserialize, Serialize};

use crate::log::note::NOTE_BYTES_MAX;

/// The longest statement, with its signature, in **bytes**.
pub(crate) const STATEMENT_BYTES_MAX: usize = 4096;

/// A statement of the root key, see [`crate::log::Statement`]. Who writes the record does not matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignerRecord {
    /// The note, as the root key has signed it.
    pub statement: String,
}

/// A record of another region's log, that this region has missed: the note as its writer has signed it. It counts as
/// that record, at this place. So who heals need not have the key of who backs up, and can invent nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRecord {
    /// The note.
    pub note: String,
}

impl SignerRecord {
    /// What contradicts itself, if anything does.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.statement.len() > STATEMENT_BYTES_MAX { Err("its statement is too long") } else { Ok(()) }
    }
}

impl CopyRecord {
    /// What contradicts itself, if anything does.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.note.len() > NOTE_BYTES_MAX { Err("the record in it is too large") } else { Ok(()) }
    }
}
