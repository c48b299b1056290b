//! Why nothing, or not everything, was deleted in a region.

use std::time::Duration;

use lifeboat_stores::{ObjectKey, StoreError};
use lifeboat_vocabulary::{BackupId, UtcTime};

use crate::format::packs_list::PacksListError;
use crate::log::error::LogError;
use crate::retention::reason::Guard;

/// Why the retention of a region was not carried out, or not to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// Deletion is stopped.
    #[error("deletion is stopped: {why}")]
    Stopped {
        /// Who or what, and why.
        why: String,
    },
    /// The plan is not like others before it; a person has to look.
    #[error("the plan is unusual: {}", guards.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Unusual {
        /// In what.
        guards: Vec<Guard>,
    },
    /// The clocks disagree: grace and age cannot be judged.
    #[error("our clock says {ours}, the region's says {theirs}: nothing is deleted while they differ")]
    Clock {
        /// Ours.
        ours: UtcTime,
        /// The region's.
        theirs: UtcTime,
    },
    /// The store ignores conditions, and no single writer is guaranteed.
    #[error("the region ignores conditional writes: only the one daemon of the cluster may delete there")]
    NotExact,
    /// Where writers are not ordered, only time keeps them apart.
    #[error("a grace of {grace:?} is too short for a region that ignores conditional writes: at least {least:?}")]
    GraceTooShort {
        /// What was asked for.
        grace: Duration,
        /// What is needed.
        least: Duration,
    },
    /// A newer version has written something that may need what this one would delete.
    #[error("record {seq} of the log is of kind {kind}, which this version does not know: nothing is deleted by it")]
    UnknownRecord {
        /// Its place.
        seq: u64,
        /// What it calls itself.
        kind: String,
    },
    /// The log cannot be read or written.
    #[error("use the region's log")]
    Log(#[source] LogError),
    /// The region cannot be listed.
    #[error("list the region's objects")]
    List(#[source] StoreError),
    /// The list of objects of a backup that is kept cannot be read, so it is unknown what it needs.
    #[error("read which objects backup {backup} needs")]
    Needs {
        /// The backup.
        backup: BackupId,
        /// What the store said.
        source: StoreError,
    },
    /// That list is not the one that the backup's record names.
    #[error("the list of objects of backup {backup} is not the one that its record names")]
    OtherList {
        /// The backup.
        backup: BackupId,
    },
    /// That list says what no list says.
    #[error("read the list of objects of backup {backup}")]
    BadList {
        /// The backup.
        backup: BackupId,
        /// What is wrong.
        source: PacksListError,
    },
    /// This role may not delete here.
    #[error("delete {key}: this role may not delete here")]
    Forbidden {
        /// What was to be deleted.
        key: ObjectKey,
        /// What the store said.
        source: StoreError,
    },
    /// The store did not delete.
    #[error("delete {key}")]
    Delete {
        /// What was to be deleted.
        key: ObjectKey,
        /// What the store said.
        source: StoreError,
    },
    /// The store did not lock.
    #[error("lock {key}")]
    Retain {
        /// What was to be locked.
        key: ObjectKey,
        /// What the store said.
        source: StoreError,
    },
    /// Others append all the time.
    #[error("others were first {attempts} times in a row")]
    Contended {
        /// How often it was tried.
        attempts: u32,
    },
}

impl SweepError {
    /// Whether the same may succeed later without anybody's help: the region was away, or others were faster.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        let away = |error: &StoreError| {
            error.is_transient()
                || matches!(error, StoreError::BreakerOpen { .. } | StoreError::DeadlineExceeded { .. })
        };
        match self {
            Self::Contended { .. } | Self::Log(LogError::Contended { .. }) => true,
            Self::Log(LogError::List(source) | LogError::Store { source, .. })
            | Self::List(source)
            | Self::Needs { source, .. }
            | Self::Delete { source, .. }
            | Self::Retain { source, .. } => away(source),
            _ => false,
        }
    }

    pub(crate) fn of_delete(key: ObjectKey, source: StoreError) -> Self {
        match source {
            StoreError::Misconfigured { .. } => Self::Forbidden { key, source },
            _ => Self::Delete { key, source },
        }
    }
}
