//! Everything that knows PostgreSQL: its protocol and its files.

mod auth;
mod certificate_hash;
mod connect;
mod conninfo;
mod conninfo_uri;
mod message;
#[cfg(test)]
mod message_tests;
mod pgpass;
mod session;
mod session_error;
mod settings;
#[cfg(test)]
mod settings_tests;
mod settings_words;
mod source;
mod startup;
mod surroundings;
mod tls;
mod transport;

pub use certificate_hash::server_end_point;
pub use lifeboat_vocabulary::FileNumber;
pub use message::{
    AuthRequest, BackendMessage, Decoded, MESSAGE_MAX, MessageError, ServerMessage, decode_message, message_length,
    split_message,
};
pub use session::{ANSWER_MAX, Rows, Session};
pub use session_error::{AuthError, HostFailure, ProtocolFault, SessionError, TlsError};
pub use settings::{ConnInfoError, ConnectionSettings, Place, Purpose, TargetSessionAttrs};
pub use source::{BackupEnd, BackupSource, BackupStart, ManifestFile, PageChecks, SourceEvent};

/// Why a source could not go on.
#[derive(Debug, thiserror::Error)]
#[error("placeholder")]
pub struct SourceError;
