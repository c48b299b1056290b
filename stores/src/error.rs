//! What a store can say, by meaning and not by provider.

use std::time::Duration;

use lifeboat_vocabulary::UtcTime;

use crate::key::ObjectKey;

/// A boxed cause from a provider's library.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// An attempt was given up because nothing moved any more: the cause of a [`StoreError::Transient`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct TimedOut {
    /// What did not move, and for how long.
    pub(crate) why: String,
}

/// Why a store did not do what it was asked. Foreign texts are translated once, in the provider's file; nobody else
/// looks inside a message. Messages never contain credentials or signed URLs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no such object.
    #[error("there is no object {key}")]
    NotFound {
        /// The object asked for.
        key: ObjectKey,
    },
    /// `CreateOnly` found an object, or `IfUnchanged` found another version. An answer, not a failure.
    #[error("object {key} exists already, or is no longer the version that was read")]
    Conflict {
        /// The object that was to be written.
        key: ObjectKey,
    },
    /// The network, the server or a time-out; the same request may succeed later.
    #[error("{doing}")]
    Transient {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: Cause,
    },
    /// The server asks for less.
    #[error("{doing}: the store asks to slow down")]
    Throttled {
        /// What was being done.
        doing: String,
        /// How long the server wants us to wait, where it says so.
        retry_after: Option<Duration>,
    },
    /// The bytes were changed on the way, or the store holds other bytes than it said.
    #[error("{doing}: the bytes did not arrive as they were sent")]
    Corrupted {
        /// What was being done.
        doing: String,
        /// What the store or our own check said.
        source: Cause,
    },
    /// Credentials, bucket, region or rights are wrong: a person has to change something.
    #[error("{doing}: {advice}")]
    Misconfigured {
        /// What was being done.
        doing: String,
        /// What to change.
        advice: String,
        /// What the store said.
        source: Cause,
    },
    /// The store has no room left (a full disk, a quota).
    #[error("{doing}: no space left")]
    Full {
        /// What was being done.
        doing: String,
        /// What the store said.
        source: Cause,
    },
    /// The object is under Object Lock or a legal hold: it goes when that has ended, and not before. An answer.
    #[error("object {key} is locked{}", until.map_or_else(|| " by a legal hold".to_owned(), |until| format!(" until {until}")))]
    Locked {
        /// The object that was to be deleted.
        key: ObjectKey,
        /// When the lock ends, where the store says so; a legal hold has no end of its own.
        until: Option<UtcTime>,
    },
    /// The circuit breaker is open: the region failed repeatedly and is not being asked just now.
    #[error("the region failed {failures} times in a row and is not asked again before {wait:?} have passed")]
    BreakerOpen {
        /// Transient failures in a row.
        failures: u32,
        /// Time until the next probe.
        wait: Duration,
    },
    /// The caller's deadline passed.
    #[error("{doing}: gave up after {after:?}")]
    DeadlineExceeded {
        /// What was being done.
        doing: String,
        /// How long it took.
        after: Duration,
    },
    /// The request makes no sense for this store (a bug, or a feature that the store lacks).
    #[error("{doing}: not supported: {why}")]
    Unsupported {
        /// What was being done.
        doing: String,
        /// Why not.
        why: String,
    },
}

impl StoreError {
    /// Whether the same request may succeed if it is simply sent again soon.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient { .. } | Self::Throttled { .. } | Self::Corrupted { .. })
    }

    /// Whether time ran out: the region, or the line to it, may be asked for more at once than it can carry.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::DeadlineExceeded { .. } => true,
            Self::Transient { source, .. } => source.is::<TimedOut>(),
            _ => false,
        }
    }
}
