//! What a backup is on storage: sealed objects, keys, signed records, the index, and the way in and out.
//!
//! `docs/FORMAT.md` describes every stored byte for somebody without this code.

// the way out and back
mod aligned_buffer;
mod backup_error;
mod backup_reader;
mod backup_writer;
mod commit;
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
pub use frame_worker::{Checked, FrameCheck, SuspectPage};
pub use manifest_check::ManifestMismatch;
pub use memory_plan::{BudgetTooSmall, MemoryPlan};
pub use packer::{Packed, StoredObject};
pub use progress::{Progress, ProgressSnapshot};
pub use read_engine::{FileSink, ReadSettings, SinkFile, read_backup, read_facts};
pub use read_error::ReadBackupError;
pub use read_plan::Ranges;
pub use upload::{LeftReason, RegionStore};

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
mod region_health;
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
pub use ids::{Incarnation, InstanceId};
pub use lease::{
    LEASE_TTL, Lease, LeaseAnswer, LeaseError, LeaseHolder, LeaseJudgement, LeaseRenewal, LeaseTerms, LeaseText, judge,
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
pub mod note;
mod packs_list;
mod passphrase;
mod recipient;
mod record;
#[cfg(test)]
mod samples;
mod signing;
mod slots;

pub use backup_record::{
    BackupKind, BackupRecord, EpochRef, FRAME_BYTES, FilesFacts, PacksRef, PageFacts, ServerFacts, ShardRef, Soundness,
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
pub use note::{KeyName, KeyNameError, NoteSigner};
pub use packs_list::{PacksList, PacksListError};
pub use passphrase::{LockCost, PassphraseError};
pub use recipient::{Recipient, RecipientId, RecipientIdError};
pub use record::{InitRecord, Link, Origin, Record, RecordBody, RecordError, TOOL_BYTES_MAX};
pub use signing::{SIGNATURE_BYTES, SigningKey, SigningKeyError, VerifyKey};
pub use slots::{EpochPlace, Holders, Openers, SLOTS_BYTES_MAX, SLOTS_MAX, SlotsError, open_slots, seal_slots};
