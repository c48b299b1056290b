//! Why a base backup could not be taken.

use crate::backup::manifest_lines::ManifestLineError;
use crate::backup::tar::TarError;
use crate::session::error::SessionError;
use crate::session::message::ServerMessage;

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
    /// WAL that the backup needs is gone: the copy could never become consistent.
    #[error("the server removed WAL that the backup needs: {message} ({REMEDY_WAL})")]
    WalRemoved {
        /// What the server said.
        message: Box<ServerMessage>,
    },
    /// The standby became a primary while it was copied.
    #[error("the standby was promoted during the backup: {message} ({REMEDY_PROMOTED})")]
    StandbyPromoted {
        /// What the server said.
        message: Box<ServerMessage>,
    },
    /// The server is too old.
    #[error("the server runs PostgreSQL {major}; 13 is the oldest that can be backed up")]
    TooOld {
        /// Its major version.
        major: u32,
    },
    /// The server would silently leave out tablespaces.
    #[error(
        "PostgreSQL {major} leaves tablespaces inside of the data directory out of its base backups, and there is {names}; \
         move what is in it to another tablespace and drop it, or upgrade to PostgreSQL 16"
    )]
    TablespaceInside {
        /// The server's major version.
        major: u32,
        /// The names of the tablespaces, with commas between.
        names: String,
    },
    /// The connections of one backup ended up on different servers.
    #[error(
        "{first} and {second} both answered; name one host, or use target_session_attrs, so that all connections of a \
         backup reach the same server"
    )]
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
    /// More than any server has, and than is kept in memory for one.
    #[error("the server sent more {what} than are taken (at most {limit})")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The most that is taken.
        limit: u64,
    },
    /// The server says that it is done, and something did not come.
    #[error("the server ended the backup without {what}")]
    Incomplete {
        /// What is missing.
        what: &'static str,
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

const REMEDY_WAL: &str =
    "see that nothing ends the backup's sessions, raise max_slot_wal_keep_size, run the backup again";
const REMEDY_PROMOTED: &str = "run the backup again";

/// Whether a text names a WAL segment, whatever language it is in.
fn names_segment(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_hexdigit()).any(|word| word.len() == 24)
}

impl SourceError {
    pub(crate) fn session(doing: &'static str) -> impl FnOnce(SessionError) -> Self {
        move |source| match source {
            SessionError::Server(message) => Self::server(doing, *message),
            source => Self::Session { doing, source },
        }
    }

    /// The meaning of what the server said. It may speak any language: only codes, names of settings and of files are
    /// the same in all of them.
    pub(crate) fn server(doing: &'static str, message: ServerMessage) -> Self {
        let (text, message) = (message.message.clone(), Box::new(message));
        let remedy = match message.code.as_str() {
            "53300" => Some(
                "raise max_wal_senders and max_connections: a backup needs three connections, two of them replicate",
            ),
            "53400" => Some("raise max_replication_slots by one: a backup needs a temporary slot"),
            "42501" => Some("give the role the attribute REPLICATION: ALTER ROLE ... REPLICATION"),
            "55000" if text.contains("full_page_writes") => {
                Some("set full_page_writes = on at the primary, and try again")
            }
            "55000" if text.contains("wal_level") || text.contains("max_replication_slots") => {
                Some("set wal_level = replica or higher and max_replication_slots above 0, and restart the server")
            }
            "55000" if text.contains("promoted") => return Self::StandbyPromoted { message },
            "58P01" | "XX000" if names_segment(&text) => return Self::WalRemoved { message },
            _ => None,
        };
        Self::Server { doing, message, remedy }
    }

    pub(crate) fn protocol(what: impl std::fmt::Debug) -> Self {
        Self::Protocol { what: format!("{what:?}").chars().take(200).collect() }
    }

    /// What an operator can do about it, where that is not in the message already.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Session { source, .. } => source.remedy(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: &str, message: &str) -> SourceError {
        let message = ServerMessage {
            severity: "ERROR".to_owned(),
            code: code.to_owned(),
            message: message.to_owned(),
            ..ServerMessage::default()
        };
        SourceError::server("take a base backup", message)
    }

    #[test]
    fn what_the_server_says_is_understood_by_its_meaning() {
        let removed = "requested WAL segment 0000000A00000016000000B3 has already been removed";
        assert!(matches!(said("58P01", removed), SourceError::WalRemoved { .. }));
        let german = "WAL-Datei »0000000A00000016000000B3« nicht gefunden";
        assert!(matches!(said("XX000", german), SourceError::WalRemoved { .. }));
        let gone = said("58P01", "could not open file \"base/5/16384\": No such file or directory");
        assert!(matches!(gone, SourceError::Server { remedy: None, .. }), "{gone:?}");
        let promoted = said("55000", "the standby was promoted during online backup");
        assert!(matches!(promoted, SourceError::StandbyPromoted { .. }));
        for (code, text, fix) in [
            ("55000", "replication slots can only be used if max_replication_slots > 0", "wal_level = replica"),
            ("55000", "WAL generated with \"full_page_writes=off\" was replayed", "full_page_writes = on"),
            ("53400", "all replication slots are in use", "max_replication_slots"),
        ] {
            assert!(said(code, text).to_string().contains(fix), "{text}");
        }
    }
}
