//! Everything that knows PostgreSQL: its protocol and its files.

mod auth;
mod backup_label;
mod backup_manifest;
mod backup_stream;
#[cfg(test)]
mod backup_stream_tests;
mod base_backup;
mod certificate_hash;
mod connect;
mod conninfo;
mod conninfo_uri;
mod control_file;
mod local_overrides;
mod local_server;
mod manifest_lines;
mod message;
#[cfg(test)]
mod message_tests;
mod minimal_configuration;
mod not_copied;
mod page_checksum;
mod pgpass;
mod recovery;
mod run_directory;
mod server_bin;
mod server_clock;
mod server_facts;
mod session;
mod session_error;
mod settings;
#[cfg(test)]
mod settings_tests;
mod settings_words;
mod slot;
mod source;
mod source_error;
mod startup;
mod surroundings;
mod tar;
mod timeline_history;
mod tls;
mod transport;
mod wal_connection;
mod wal_page;
mod wal_record;
mod wal_scan;
#[cfg(test)]
mod wal_scan_tests;
mod wal_stream;
mod wal_stream_error;

pub use backup_label::{BackupFrom, BackupLabel, BackupLabelError};
pub use backup_manifest::{ManifestVersion, ManifestWriter, WalRange};
pub use base_backup::{BackupCheckpoint, BaseBackupOptions, ReplicationSource};
pub use certificate_hash::server_end_point;
pub use control_file::{ClusterState, ControlFile, ControlFileError, RequiredSettings, WalLevel};
pub use lifeboat_vocabulary::FileNumber;
pub use local_overrides::Listen;
pub use local_server::{LocalServer, LocalServerError, LocalServerSettings, StopMode};
pub use manifest_lines::{ManifestLineError, ManifestLines};
pub use message::{
    AuthRequest, BackendMessage, Decoded, MESSAGE_MAX, MessageError, ServerMessage, decode_message, message_length,
    split_message,
};
pub use minimal_configuration::{minimal_pg_hba_conf, minimal_pg_ident_conf, minimal_postgresql_conf};
pub use page_checksum::{PAGE_BYTES, PageFault, PageVerdict, check_pages, is_relation, judge_reread, page_checksum};
pub use recovery::{
    CopyRole, RECOVERY_SIGNAL, RecoverySettings, RecoverySettingsError, RecoveryTarget, RecoveryTimeline,
    STANDBY_SIGNAL, Subscriptions, TargetAction, TargetBound, recovered_copy_settings,
};
pub use run_directory::RunDirectoryError;
pub use server_bin::{ServerBinError, find_server_bin};
pub use server_facts::ServerFacts;
pub use session::{ANSWER_MAX, Rows, Session};
pub use session_error::{AuthError, HostFailure, ProtocolFault, SessionError, TlsError};
pub use settings::{ConnInfoError, ConnectionSettings, Place, Purpose, TargetSessionAttrs};
pub use slot::{
    ServerWal, SlotCondition, SlotName, SlotNameError, SlotStatus, create_slot, drop_slot, server_wal, slot_status,
};
pub use source::{BackupEnd, BackupSource, BackupStart, ManifestFile, PageChecks, SourceEvent};
pub use source_error::SourceError;
pub use tar::{TarError, TarEvent, TarHeader, TarKind, TarParser};
pub use timeline_history::{HISTORY_MAX, HistoryEntry, TimelineHistory, TimelineHistoryError};
pub use wal_connection::{ServerIdentity, WalConnection, WalConnectionOptions, WalStart};
pub use wal_scan::{ScanStart, WalFact, WalFactKind, WalFault, WalFaultKind, WalScanner};
pub use wal_stream::{EndOfTimeline, ReplyWanted, StandbyStatus, WalEvent, WalStream};
pub use wal_stream_error::WalStreamError;
