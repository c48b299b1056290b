//! How far a log may grow, and what is let in when it has.
//!
//! Whoever holds a key that may write can fill a log up. It must not keep the owner from revoking that key, nor the pruner
//! from its work.

use lifeboat_vocabulary::ByteCount;

use crate::log::error::LogError;
use crate::log::link::Linked;
use crate::log::records::record::{LOG_BYTES_MAX, LOG_RECORDS_MAX};
use crate::log::roles::{Right, Role};
use crate::log::signers::Signers;

/// The share of the limits that is kept beside them.
const RESERVE: u64 = 16;

/// Whether more objects are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Left,
    /// As many that are no records as are read at all. What stands before them stays readable.
    Full,
}

/// What a log may grow to. Nothing is appended beyond it: a log that no reader accepts would be worse than none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogLimits {
    pub(crate) records: u64,
    /// A log is kept in memory while it is followed.
    pub(crate) bytes: u64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { records: LOG_RECORDS_MAX, bytes: LOG_BYTES_MAX }
    }
}

impl LogLimits {
    /// Whether `records` with `bytes` in all are within the limits.
    pub(crate) fn check(self, records: u64, bytes: u64) -> Result<(), LogError> {
        match records {
            records if records > self.records => Err(LogError::TooLong { max: self.records }),
            _ if bytes > self.bytes => Err(LogError::TooLarge { max: ByteCount::from_bytes(self.bytes) }),
            _ => Ok(()),
        }
    }

    pub(crate) fn with_reserve(self) -> Self {
        let more = |limit: u64| limit.saturating_add((limit / RESERVE).max(1));
        Self { records: more(self.records), bytes: more(self.bytes) }
    }
}

impl Linked {
    /// Whether it is what only the pruner or the root key says. A statement that is known already is not: any key may pass it on, as
    /// often as it likes.
    pub(crate) fn is_let_into_a_full_log(&self, signers: &Signers) -> bool {
        match &self.statement {
            Some(statement) => {
                let mut after = signers.clone();
                after.adopt(statement);
                after != *signers
            }
            None => self.entry.record.body.right() == Right::Roles(&[Role::Pruner]),
        }
    }
}
