//! Why a base backup could not be taken.

use crate::manifest_lines::ManifestLineError;
use crate::message::ServerMessage;
use crate::session_error::SessionError;
use crate::tar::TarError;

/// Why a source could not go on. The backup on the server has ended with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A session could not be opened or broke.
    #[error("{doing}")]
    Session {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: SessionError,
    },
    /// The server refused or ended the backup.
    #[error("{doing}: {message}{}", .remedy.map(|remedy| format!(" ({remedy})")).unwrap_or_default())]
    Server {
        /// What was being done.
        doing: &'static str,
        /// What the server said.
        message: Box<ServerMessage>,
        /// What to do about it, where we know.
        remedy: Option<&'static str>,
    },
    /// The server is too old.
    #[error("the server runs PostgreSQL {major}; 13 is the oldest that can be backed up")]
    TooOld {
        /// Its major version.
        major: u32,
    },
    /// The connections of one backup ended up on different servers.
    #[error("{first} and {second} both answered; name one host, or use target_session_attrs, so that all connections of a backup reach the same server")]
    DifferentHosts {
        /// The host of the first connection.
        first: String,
        /// The host of a later one.
        second: String,
    },
    /// The stream is not what the protocol says.
    #[error("the server sent {what}, which does not belong there")]
    Protocol {
        /// What came.
        what: String,
    },
    /// An archive in the stream is damaged.
    #[error("read the archive of {archive}")]
    Tar {
        /// Which one.
        archive: String,
        /// What is wrong.
        source: TarError,
    },
    /// The server's manifest cannot be used.
    #[error("read the server's manifest")]
    Manifest(#[from] ManifestLineError),
}

impl SourceError {
    pub(crate) fn session(doing: &'static str) -> impl FnOnce(SessionError) -> Self {
        move |source| Self::Session { doing, source }
    }

    pub(crate) fn server(doing: &'static str, message: ServerMessage) -> Self {
        let remedy = match message.code.as_str() {
            "53300" => Some("raise max_wal_senders and max_connections, a backup needs two connections of each"),
            "53400" => Some("raise max_replication_slots by one: a backup needs a temporary slot"),
            "42501" => Some("give the role the attribute REPLICATION: ALTER ROLE ... REPLICATION"),
            "55000" if message.message.contains("promoted") => Some("the standby became a primary; run the backup again"),
            "55000" => Some("set wal_level = replica or higher and restart the server"),
            "58P01" => Some("the server removed WAL that the backup needs; raise max_slot_wal_keep_size"),
            _ => None,
        };
        Self::Server { doing, message: Box::new(message), remedy }
    }

    pub(crate) fn protocol(what: impl std::fmt::Debug) -> Self {
        Self::Protocol { what: format!("{what:?}").chars().take(200).collect() }
    }
}
