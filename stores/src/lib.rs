//! Objects in, objects out. This crate knows nothing of backups.

#[cfg(feature = "testing")]
pub mod contract;
mod error;
mod fan_out;
mod key;
mod lane;
mod local;
mod memory;
mod open;
mod probe;
mod profile;
mod ranking;
mod s3;
mod settings;
mod sha256;
mod stack;
mod store;
mod transfer;
mod url;
mod wrappers;

pub use crate::error::{Cause, StoreError, TimedOut};
pub use crate::fan_out::{RegionResult, Verdict, put_everywhere, verdict};
pub use crate::key::{KeyError, ObjectKey};
pub use crate::lane::{Lane, Precedence, with_lanes};
pub use crate::local::dir::{LEFTOVER_AGE, LocalDir};
pub use crate::memory::MemoryStore;
pub use crate::open::{CLUSTER_MARK, OpenError, list_folders, open, open_below};
pub use crate::probe::{Check, Finding, ProbeReport, probe};
pub use crate::profile::{Addressing, ChecksumHeader, EndpointRule, Profile, ProfileError, ProfileName};
pub use crate::ranking::Ranking;
pub use crate::s3::store::S3Store;
pub use crate::settings::{
    CONCURRENCY_MAX, ObjectLock, ObjectLockError, RegionSettings, RegionUrlError, SettingsFault,
};
pub use crate::stack::{Stack, StackOptions, standard_stack, standard_stack_with};
pub use crate::store::{
    ByteRange, Capabilities, Entry, ListPage, OBJECT_BYTES_MAX, ObjectMeta, ObjectVersion, PutMode, PutOutcome,
    SealedBody, Store, Support,
};
pub use crate::transfer::{TransferState, TransferWatch};
pub use crate::url::{Endpoint, StoreUrl, Transport, UrlError};
pub use crate::wrappers::breaker::WithBreaker;
pub use crate::wrappers::breaker_state::{Breaker, BreakerMemory, BreakerState, FAILURES_TO_OPEN};
pub use crate::wrappers::counters::{
    Averages, DURATION_BOUNDS, Durations, Metrics, MetricsSnapshot, Operation, OperationCounts,
};
#[cfg(feature = "testing")]
pub use crate::wrappers::faults::{Chance, Fault, Rule, WithFaults};
#[cfg(feature = "testing")]
pub use crate::wrappers::hooks::{Hooks, Request, Step, WithHooks};
pub use crate::wrappers::limit::{Limits, WithLimit};
pub use crate::wrappers::metrics::WithMetrics;
pub use crate::wrappers::retry::{FixedJitter, Jitter, KeyNature, RandomJitter, RetryPolicy, WithRetry};
