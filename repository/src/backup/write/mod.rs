//! From positioned bytes to packs in every region, and the record that makes them a backup.

pub(crate) mod commit;
pub(crate) mod cpu_share;
pub(crate) mod error;
pub(crate) mod line_rate;
pub(crate) mod manifest_check;
pub(crate) mod memory_plan;
pub(crate) mod packer;
pub(crate) mod upload;
pub(crate) mod worker;
pub(crate) mod writer;

pub use self::commit::{BackupDetails, CommitAuthority, CommitError, CommitReport};
pub use self::cpu_share::{CpuShare, CpuShares, ShareTimes};
pub use self::error::BackupError;
pub use self::manifest_check::ManifestMismatch;
pub use self::memory_plan::{BudgetTooSmall, MemoryPlan};
pub use self::packer::{Packed, StoredObject};
pub use self::upload::ExclusionReason;
pub use self::worker::{Checked, FrameCheck, SuspectPage};
pub use self::writer::{BackupSettings, BackupWriter, SealedBackup};
