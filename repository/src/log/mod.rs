//! The signed log of a region: records, in order, each with the digest of the one before.

pub(crate) mod append;
pub(crate) mod create_once;
pub(crate) mod damage;
pub(crate) mod descriptor;
pub(crate) mod error;
pub(crate) mod guard;
pub(crate) mod link;
pub(crate) mod memory;
pub mod note;
pub(crate) mod original;
pub(crate) mod outside;
pub mod records;
pub(crate) mod region_log;
pub(crate) mod region_state;
pub(crate) mod region_store;
pub(crate) mod rights;
pub(crate) mod roles;
pub(crate) mod room;
pub(crate) mod signers;
pub(crate) mod statement;
pub(crate) mod witness;

pub use self::append::{Attempt, Draft};
pub use self::damage::{Completeness, FoundDamage, OpenDamage, OpenRecord};
pub use self::descriptor::{Descriptor, DescriptorError};
pub use self::error::LogError;
pub use self::link::{LogEntry, LogHead};
pub use self::memory::LogMemory;
pub use self::note::NoteSigner;
pub use self::outside::{Outside, Refused};
pub use self::region_log::{LogTrust, RegionLog};
pub use self::region_state::{BackupState, Leaving, OpenIntent, RegionState, VoidSweep, holds_in_force};
pub use self::region_store::{RegionReadError, RegionStore};
pub use self::roles::{Role, UnknownRole};
pub use self::signers::{KeyStanding, NotAllowed, Signer, Signers};
pub use self::statement::{Delegation, Revocation, Statement, StatementError};
