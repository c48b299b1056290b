//! The signed log of a region: records, in order, each with the digest of the one before.

pub(crate) mod create_once;
pub(crate) mod damage;
pub(crate) mod descriptor;
pub(crate) mod error;
pub(crate) mod guard;
pub(crate) mod memory;
pub mod note;
pub mod records;
pub(crate) mod region_log;
pub(crate) mod region_state;
pub(crate) mod region_store;

pub use self::damage::{Completeness, FoundDamage};
pub use self::descriptor::{Descriptor, DescriptorError};
pub use self::error::LogError;
pub use self::memory::LogMemory;
pub use self::note::NoteSigner;
pub use self::region_log::{Attempt, Draft, LogEntry, LogHead, LogTrust, RegionLog};
pub use self::region_state::{BackupState, Leaving, OpenIntent, RegionState, holds_in_force};
pub use self::region_store::RegionStore;
