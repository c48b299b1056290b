//! Objects in, objects out. This crate knows nothing of backups.

mod breaker;
#[cfg(feature = "testing")]
pub mod contract;
mod error;
mod fan_out;
mod key;
mod local_dir;
mod local_files;
mod local_list;
mod memory;
mod metrics;
mod open;
mod probe;
mod profile;
mod ranking;
mod s3;
mod s3_body;
mod s3_client;
mod s3_credentials;
mod s3_error;
mod s3_lock;
mod settings;
mod sha256;
mod stack;
mod store;
mod url;
mod with_breaker;
#[cfg(feature = "testing")]
mod with_faults;
mod with_limit;
mod with_metrics;
mod with_retry;

pub use breaker::{Breaker, BreakerMemory, BreakerState, FAILURES_TO_OPEN};
pub use error::{Cause, StoreError};
pub use fan_out::{RegionResult, Verdict, put_everywhere, verdict};
pub use key::{KeyError, ObjectKey};
pub use local_dir::{LEFTOVER_AGE, LocalDir};
pub use memory::MemoryStore;
pub use metrics::{Averages, DURATION_BOUNDS, Durations, Metrics, MetricsSnapshot, Operation, OperationCounts};
pub use open::{CLUSTER_MARK, OpenError, clusters_in, list_folders, open, open_below};
pub use probe::{Check, Finding, ProbeReport, probe};
pub use profile::{Addressing, ChecksumHeader, EndpointRule, Profile, ProfileError, ProfileName};
pub use ranking::{Ranking, ranked, score};
pub use s3::S3Store;
pub use settings::{CONCURRENCY_MAX, ObjectLock, ObjectLockError, RegionSettings, RegionUrlError, SettingsFault};
pub use stack::{Stack, StackOptions, standard_stack};
pub use store::{
    ByteRange, Capabilities, Entry, ListPage, OBJECT_BYTES_MAX, ObjectMeta, ObjectVersion, PutMode, PutOutcome,
    SealedBody, Store, Support,
};
pub use url::{Endpoint, StoreUrl, Transport, UrlError};
pub use with_breaker::WithBreaker;
#[cfg(feature = "testing")]
pub use with_faults::{Chance, Fault, Rule, WithFaults};
pub use with_limit::{Limits, WithLimit};
pub use with_metrics::WithMetrics;
pub use with_retry::{FixedJitter, Jitter, KeyNature, RandomJitter, RetryPolicy, WithRetry};
