//! What a backup is on storage: sealed objects, keys, signed records, the index, and the way in and out.
//!
//! `docs/FORMAT.md` describes every stored byte for somebody without this code.

// the way out and back
mod aligned_buffer;
mod backup_error;
mod backup_reader;
mod backup_writer;
mod commit;
mod fair_share;
mod frame_worker;
mod manifest_check;
mod memory_plan;
mod packer;
mod progress;
mod read_engine;
mod read_error;
mod read_plan;
mod upload;
#[cfg(test)]
mod upload_tests;

pub use backup_error::BackupError;
pub use backup_reader::{BackupReader, Damage, ReadError};
pub use backup_writer::{BackupSettings, BackupWriter, SealedBackup};
pub use commit::{BackupDetails, CommitAuthority, CommitError, CommitReport};
pub use fair_share::{FairShare, Seat, ShareTimes};
pub use frame_worker::{Checked, FrameCheck, SuspectPage};
pub use manifest_check::ManifestMismatch;
pub use memory_plan::{BudgetTooSmall, MemoryPlan};
pub use packer::{Packed, StoredObject};
pub use progress::{Progress, ProgressSnapshot};
pub use read_engine::{FileSink, ReadSettings, SinkFile, read_backup, read_facts};
pub use read_error::ReadBackupError;
pub use read_plan::Ranges;
pub use upload::{LeftReason, RegionStore};

// the care for what is stored
mod agreement;
mod damage;
mod heal;
mod heal_backup;
mod heal_copy;
mod heal_guard;
mod heal_plan;
mod heal_progress;
mod heal_run;
#[cfg(test)]
mod heal_samples;
mod heal_scope;
mod heal_stream;
mod heal_wal;
mod pace;
mod presence;
mod scrub;
mod scrub_round;
mod wal_stretches;

pub use agreement::{Disagreement, RememberedHeads, Testimony, Witness, disagreements, remember};
pub use damage::{DamageReporter, FoundDamage};
pub use heal::{
    HealEnd, HealError, HealRegion, HealReport, HealSurvey, HealTools, LeftUnhealed, SETTLED_AFTER, heal, survey,
};
pub use heal_plan::{BackupTask, CanRestore, Completeness, Lack, RecordPlan, plan_records};
pub use heal_progress::{HealProgress, HealSnapshot};
pub use heal_scope::HealScope;
pub use pace::Pace;
pub use presence::{PresenceReport, check_presence};
pub use scrub::{ScrubError, ScrubWalk, Scrubbed};
pub use scrub_round::ScrubState;

// sealed objects
pub mod aead;
pub mod compression;
pub mod crc;
pub mod derive;
mod extents;
pub mod frame;
pub mod header;
pub mod ids;
pub mod index;
mod index_error;
mod index_item;
mod index_read;
pub mod pack;
pub mod seal;
pub mod trailer;
pub mod unseal;
pub mod varint;

// the stream of WAL
mod head;
mod lease;
mod wal_assembly;
mod wal_epoch;
mod wal_keys;
mod wal_list;
mod wal_log;
mod wal_map;
mod wal_name;
mod wal_object;
mod wal_reader;
mod wal_record;
#[cfg(test)]
mod wal_samples;
mod wal_source;

pub use head::{EarlierHead, HEADS_MAX, Head, HeadError, HeadFile};
pub use ids::{HoldId, Incarnation, InstanceId};
pub use lease::{
    LEASE_TTL, Lease, LeaseAnswer, LeaseError, LeaseHolder, LeaseJudgement, LeaseRenewal, LeaseTerms, LeaseText, judge,
    other_holder,
};
pub use wal_epoch::{WalEpoch, WalEpochError};
pub use wal_keys::{WalKeyError, WalOpeners, WalRegion};
pub use wal_list::{TIMELINES_MAX, WalPages, contiguous_end, objects_in, timelines};
pub use wal_log::{CurrentIncarnation, KnownGap, WalRecords};
pub use wal_map::{HeldWal, WalChoice, WalMap};
pub use wal_name::{PIECE_BYTES_MAX, PieceSize, WalObject};
pub use wal_object::{
    HISTORY_BYTES_MAX, OpenWalError, SealWalError, SealedWal, WalLevels, WalSealer, WalTrust, stored_bytes_max,
};
pub use wal_reader::{HistoryRead, READ_BYTES_MAX, WalHistories, WalRead, WalReader, WalSurvey};
pub use wal_record::{GapReason, GapScope, IncarnationRecord, WalEpochRecord, WalGapRecord};
pub use wal_source::WalTrouble;

// keys and records
mod backup_record;
mod care_record;
mod catalog;
mod command_slot;
mod create_once;
mod descriptor;
mod hpke_seal;
mod identity;
mod json_text;
mod key_file;
mod key_text;
pub mod layout;
mod log;
mod log_error;
mod log_guard;
mod log_memory;
pub mod note;
mod packs_list;
mod passphrase;
mod recipient;
mod record;
mod retention;
mod retention_reason;
#[cfg(test)]
mod samples;
mod signing;
mod slots;
mod standing;
mod sweep;
mod sweep_delete;
mod sweep_epochs;
mod sweep_error;
mod sweep_floor;
mod sweep_intent;
#[cfg(test)]
mod sweep_model_tests;
mod sweep_retain;
#[cfg(test)]
mod sweep_samples;
mod sweep_slices;
mod sweep_survey;
#[cfg(test)]
mod sweep_wal_tests;

pub use backup_record::{
    BackupKind, BackupRecord, EpochRef, FRAME_BYTES, FilesFacts, PacksRef, PageFacts, ServerFacts, ShardRef, Soundness,
};
pub use care_record::{
    AuditRecord, BACKUPS_MAX, DamageRecord, EPOCHS_SWEPT_MAX, FORGOTTEN_MAX, ForgetRecord, Forgotten, FoundBy,
    HealedRecord, HoldRecord, KeepRecord, OBJECTS_NAMED_MAX, OWNER_BYTES_MAX, PolicyText, REASON_BYTES_MAX,
    ReleaseRecord, SUBJECT_BYTES_MAX, SweepDoneRecord, SweepIntentRecord, WHY_BYTES_MAX, WalFloor, is_plain_text,
};
pub use catalog::{Catalog, CatalogRow, Finding, Presence, RegionAnswer, RegionView};
pub use command_slot::{BLOB_BYTES_MAX, COMMAND_TIMEOUT, KeyCommand, KeyCommandError};
pub use descriptor::{Descriptor, DescriptorError, FORMAT_MAJOR};
pub use hpke_seal::HpkeSealError;
pub use identity::{IDENTITIES_MAX, Identity, IdentityFileError, parse_file as parse_identity_file};
pub use key_file::{KEY_FILE_BYTES_MAX, KeyFileError, read_private_file, write_private_file};
pub use key_text::{KeyKind, KeyTextError};
pub use log::{Attempt, Draft, LOG_RECORDS_MAX, LogEntry, LogHead, LogTrust, RegionLog};
pub use log_error::LogError;
pub use log_memory::LogMemory;
pub use note::{KeyName, KeyNameError, NoteSigner};
pub use packs_list::{PacksList, PacksListError};
pub use passphrase::{LockCost, PassphraseError};
pub use recipient::{Recipient, RecipientId, RecipientIdError};
pub use record::{InitRecord, Link, Origin, Record, RecordBody, RecordError, TOOL_BYTES_MAX};
pub use retention::{
    Candidate, Dropped, Proof, RetentionLimits, RetentionPlan, RetentionPolicy, candidates, plan, plan_region,
};
pub use retention_reason::{Guard, Reason};
pub use signing::{SIGNATURE_BYTES, SigningKey, SigningKeyError, VerifyKey};
pub use slots::{EpochPlace, Holders, Openers, SLOTS_BYTES_MAX, SLOTS_MAX, SlotsError, open_slots, seal_slots};
pub use standing::{Leaving, OpenIntent, RegionStanding, StandingBackup, holds_in_force};
pub use sweep::{
    DeleteGate, DeleteMode, Elsewhere, Force, ForgetReport, OpenGate, Others, SINGLE_WRITER_GRACE, SweepAuthor,
    SweepRegion, SweepReport, SweepSettings, forget, sweep,
};
pub use sweep_error::SweepError;
pub use sweep_retain::{RetainReport, retain};
