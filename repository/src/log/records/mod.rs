//! What the log says: the kinds of records.

pub(crate) mod backup;
pub(crate) mod care;
pub(crate) mod record;
pub(crate) mod wal;

pub use self::backup::{
    BackupKind, BackupRecord, EpochRef, FilesFacts, Integrity, PacksRef, PageFacts, ServerFacts, ShardRef,
};
pub use self::care::{
    AuditRecord, BACKUPS_MAX, DamageRecord, EPOCHS_SWEPT_MAX, FORGOTTEN_MAX, ForgetRecord, Forgotten, FoundBy,
    HealedRecord, HoldRecord, KeepRecord, OBJECTS_NAMED_MAX, OWNER_BYTES_MAX, PolicyText, REASON_BYTES_MAX,
    ReleaseRecord, SUBJECT_BYTES_MAX, SweepDoneRecord, SweepIntentRecord, WHY_BYTES_MAX, WalFloor, is_plain_text,
};
pub use self::record::{InitRecord, Link, Origin, Record, RecordBody, RecordError, TOOL_BYTES_MAX};
pub use self::wal::{GapReason, GapScope, IncarnationRecord, WalEpochRecord, WalGapRecord};
