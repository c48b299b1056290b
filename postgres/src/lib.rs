//! Everything that knows PostgreSQL: its protocol and its files.

mod backup;
mod server;
mod session;
mod wal;

pub use crate::backup::backup_facts::{BackupFacts, TablespaceFact};
pub use crate::backup::base_backup::{BackupCheckpoint, BaseBackupOptions, ReplicationSource};
pub use crate::backup::config_files::{KeptConfig, KeptFile, KeptValue};
pub use crate::backup::config_place::ConfigPlace;
pub use crate::backup::config_text::ConfigKind;
pub use crate::backup::config_walk::{ConfigSource, Members, MissingConfig, WalkedConfig, walk};
pub use crate::backup::error::SourceError;
pub use crate::backup::facts::ServerFacts;
pub use crate::backup::label::{BackupFrom, BackupLabel, BackupLabelError};
pub use crate::backup::left_out::{LeftOut, MissingPart};
pub use crate::backup::manifest::{ManifestVersion, ManifestWriter, WalRange};
pub use crate::backup::manifest_lines::ManifestFile;
pub use crate::backup::manifest_lines::{ManifestLineError, ManifestLines};
pub use crate::backup::not_copied::belongs_to_a_copy;
pub use crate::backup::page_checksum::{PAGE_BYTES, PageFault, PageVerdict, check_pages, is_relation, judge_reread};
pub use crate::backup::source::{BackupEnd, BackupSource, BackupStart, PageChecks, SourceEvent};
pub use crate::backup::tar::{TarError, TarEvent, TarHeader, TarKind, TarParser};
pub use crate::server::control_file::{ClusterState, ControlFile, ControlFileError, RequiredSettings, WalLevel};
pub use crate::server::copied_config::{CopiedConfig, CopiedFiles, copied_config, missing_config};
pub use crate::server::local_server::{LocalServer, LocalServerError, StopMode};
pub use crate::server::minimal_configuration::{minimal_pg_hba_conf, minimal_pg_ident_conf, minimal_postgresql_conf};
pub use crate::server::owned_files::{
    Owner, give_new_directory, not_private, open_file, open_or_make_file, open_to_read, read_small,
};
pub use crate::server::recovery::{
    CopyRole, RECOVERY_SIGNAL, RecoverySettings, RecoverySettingsError, RecoveryTarget, RecoveryTimeline,
    STANDBY_SIGNAL, Subscriptions, TargetAction, TargetBound, recovered_copy_settings,
};
pub use crate::server::run_directory::RunDirectoryError;
pub use crate::server::run_directory::SOCKET_DIRECTORY_MAX;
pub use crate::server::server_bin::{ServerBinError, find_server_bin};
pub use crate::server::server_settings::Listen;
pub use crate::server::server_settings::LocalServerSettings;
pub use crate::session::certificate_hash::server_end_point;
pub use crate::session::commands::{ANSWER_MAX, Rows, Session};
pub use crate::session::conninfo::{ConnInfoError, Place};
pub use crate::session::error::{AuthError, HostFailure, ProtocolFault, SessionError, TlsError};
#[cfg(feature = "testing")]
pub use crate::session::memory_server::MemoryListener;
pub use crate::session::message::{
    AuthRequest, BackendMessage, Decoded, MESSAGE_MAX, MessageError, ServerMessage, decode_message, split_message,
};
pub use crate::session::settings::{ConnectionSettings, Purpose};
pub use crate::session::settings_words::TargetSessionAttrs;
pub use crate::wal::connection::{ServerIdentity, WalConnection, WalConnectionOptions};
pub use crate::wal::error::WalStreamError;
pub use crate::wal::page::{WAL_PAGE_BYTES, WalFault, WalFaultKind};
pub use crate::wal::record::{WalFact, WalFactKind};
pub use crate::wal::scan::{ScanStart, WalScanner};
pub use crate::wal::slot::{
    ServerWal, SlotCondition, SlotName, SlotNameError, SlotStatus, create_slot, drop_slot, server_wal, slot_status,
};
pub use crate::wal::stream::WalStart;
pub use crate::wal::stream::{EndOfTimeline, ReplyWanted, StandbyStatus, WalEvent, WalStream};
pub use crate::wal::timeline_history::{HISTORY_MAX, HistoryEntry, TimelineHistory, TimelineHistoryError};
pub use lifeboat_vocabulary::FileNumber;
