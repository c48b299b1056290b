//! What the log says: the kinds of records.

pub(crate) mod backup;
pub(crate) mod bundle;
pub(crate) mod care;
pub(crate) mod omissions;
pub(crate) mod record;
pub(crate) mod trust;
pub(crate) mod wal;

pub use self::backup::{
    BackupKind, BackupRecord, EpochRef, FilesFacts, Integrity, PacksRef, PageFacts, ServerFacts, ShardRef,
};
pub use self::bundle::BundleRecord;
pub use self::care::{
    AuditRecord, BACKUPS_MAX, DamageRecord, ForgetRecord, Forgotten, FoundBy, HealedRecord, HoldRecord, KeepRecord,
    OWNER_BYTES_MAX, PolicyText, REASON_BYTES_MAX, ReleaseRecord, SUBJECT_BYTES_MAX, SweepDoneRecord,
    SweepIntentRecord, WalFloor, is_plain_text,
};
pub use self::omissions::{OMISSION_BYTES_MAX, OMISSIONS_NAMED_MAX, Omission, Omissions, OmittedPart};
pub use self::record::{InitRecord, Link, Origin, Record, RecordBody, RecordError};
pub use self::trust::{CopyRecord, SignerRecord};
pub use self::wal::{GapReason, GapScope, IncarnationRecord, WalEpochRecord, WalGapRecord};
