//! Why a session could not be opened or could not go on, by meaning.

use std::fmt;
use std::io;
use std::time::Duration;

use lifeboat_vocabulary::error_chain;

use crate::session::message::{MessageError, ServerMessage};
use crate::session::settings::Purpose;
use crate::session::settings_words::TargetSessionAttrs;

/// Why a session could not be opened or could not go on. Texts hold no password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The server could not be reached.
    #[error("connect to {host}")]
    Connect {
        /// Host or socket directory, and port.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// There is no encryption, or not with the server that was meant.
    #[error("encrypt the connection to {host}")]
    Tls {
        /// Host and port.
        host: String,
        /// What is wrong.
        source: TlsError,
    },
    /// The server did not let the role in, or could not prove itself.
    #[error("log in to {host} as role \"{user}\"")]
    Authentication {
        /// Host or socket directory, and port.
        host: String,
        /// The role.
        user: String,
        /// What the session was for.
        purpose: Purpose,
        /// What went wrong.
        source: AuthError,
    },
    /// The server refused a command, or the session.
    #[error("the server answered {0}")]
    Server(Box<ServerMessage>),
    /// The server said something that the protocol does not allow, or a caller asked out of turn.
    #[error("speak with {host}: {what}")]
    Protocol {
        /// Host or socket directory, and port.
        host: String,
        /// What was wrong.
        what: ProtocolFault,
    },
    /// The connection broke.
    #[error("connection to {host} is lost")]
    Lost {
        /// Host or socket directory, and port.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// It took too long.
    #[error("{doing} took more than {after:?}")]
    TimedOut {
        /// What was being done.
        doing: String,
        /// The limit.
        after: Duration,
    },
    /// A server that answers, but not one of the kind that was asked for.
    #[error("{host} is {found}, not {wanted} as `target_session_attrs` asks")]
    UnwantedRole {
        /// Host or socket directory, and port.
        host: String,
        /// What the settings ask for.
        wanted: TargetSessionAttrs,
        /// What the server is.
        found: &'static str,
    },
    /// Several hosts were tried, and none will do.
    #[error("none of the hosts will do: {}", Reasons(.failures))]
    NoSuitableHost {
        /// Why, in the order of the attempts.
        failures: Vec<HostFailure>,
    },
}

/// One host that will not do.
#[derive(Debug)]
pub struct HostFailure {
    /// Host or socket directory, port, and how it was tried.
    pub host: String,
    /// Why not.
    pub error: Box<SessionError>,
}

/// A conversation that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolFault {
    /// A malformed message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A message that has no place here.
    #[error("{0}")]
    Unexpected(String),
    /// An answer that is larger than any that is asked for.
    #[error("the answer is larger than {limit} bytes")]
    TooLarge {
        /// The bound in bytes.
        limit: usize,
    },
    /// A command that cannot be sent.
    #[error("the command cannot be sent ({0})")]
    Command(String),
    /// The session is in the middle of another command.
    #[error("the session is busy with another command")]
    Busy,
    /// The session failed before.
    #[error("the session failed before and cannot be used any more")]
    Unusable,
}

/// Why there is no encryption.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The server does not offer it.
    #[error("the server does not offer TLS, and `sslmode` asks for it")]
    NotOffered,
    /// A file of certificates or keys.
    #[error("read {what} {path}: {why}")]
    File {
        /// Which file.
        what: &'static str,
        /// Where.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The settings contradict one another.
    #[error("{0}")]
    Settings(&'static str),
    /// The handshake failed; this names bad certificates too.
    #[error("{0}")]
    Handshake(#[from] rustls::Error),
    /// The connection broke during the handshake.
    #[error("the connection broke during the handshake")]
    Io(#[source] io::Error),
}

/// Why the role was not let in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The server said no.
    #[error("{0}")]
    Refused(Box<ServerMessage>),
    /// A password is asked for, and there is none.
    #[error("the server asks for a password and none is given{}", .note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default())]
    NoPassword {
        /// Why a password file was left aside.
        note: Option<String>,
    },
    /// The server wants the password itself, and anybody on the line could read it.
    #[error("the server asks for the password in clear over an unencrypted connection")]
    ClearOnPlainLine,
    /// A method that is not spoken here.
    #[error("the server asks for {0}, which is not supported")]
    Method(String),
    /// A method that `require_auth` excludes.
    #[error("the server asks for {0}, which `require_auth` excludes")]
    Excluded(&'static str),
    /// `channel_binding=require`, and the server cannot.
    #[error("`channel_binding` is required, but {0}")]
    ChannelBinding(&'static str),
    /// The server let us in without proving that it knows the password.
    #[error("the server did not prove that it knows the password")]
    NotProven,
    /// The exchange of proofs failed.
    #[error("the SCRAM exchange failed")]
    Scram(#[source] io::Error),
    /// What the server asks for cannot be written, such as a password with a zero byte.
    #[error("the answer to the server cannot be sent")]
    Send(#[source] io::Error),
    /// The owner of the server's socket is not the one that `requirepeer` names.
    #[error("the server behind the socket runs as {found}, not as \"{wanted}\" as `requirepeer` asks")]
    Peer {
        /// Whom the settings name.
        wanted: String,
        /// Who it is.
        found: String,
    },
}

struct Reasons<'a>(&'a [HostFailure]);

impl fmt::Display for Reasons<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, failure) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            // The chain of the whole error cannot branch, so each host's causes are reported here.
            write!(f, "{separator}{}: {}", failure.host, error_chain(failure.error.as_ref()))?;
        }
        Ok(())
    }
}

impl SessionError {
    /// What the server itself said, if it did.
    #[must_use]
    pub fn server_message(&self) -> Option<&ServerMessage> {
        match self {
            Self::Server(message) | Self::Authentication { source: AuthError::Refused(message), .. } => Some(message),
            _ => None,
        }
    }

    /// Whether the same attempt may succeed later without anybody's help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Lost { .. } | Self::TimedOut { .. } | Self::UnwantedRole { .. } => true,
            Self::Tls { source, .. } => matches!(source, TlsError::Io(_)),
            // Connection exceptions, too many connections, shutdown, start-up, a slot in use.
            Self::Server(message) => {
                message.code.starts_with("08")
                    || matches!(message.code.as_str(), "53300" | "57P01" | "57P02" | "57P03" | "57P05" | "55006")
            }
            Self::NoSuitableHost { failures } => failures.iter().any(|failure| failure.error.is_transient()),
            Self::Authentication { .. } | Self::Protocol { .. } => false,
        }
    }

    /// What an operator can do about it, where there is something.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Connect { source, .. } => Some(connect_remedy(source.kind()).to_owned()),
            Self::Tls { source, .. } => tls_remedy(source).map(str::to_owned),
            Self::Authentication { user, purpose, source, .. } => auth_remedy(source, user, *purpose),
            Self::Server(message) => server_remedy(message),
            Self::TimedOut { .. } => Some(
                "see whether the server is overloaded or a firewall drops packets; `connect_timeout` sets the limit for \
                 connecting, in seconds"
                    .to_owned(),
            ),
            Self::UnwantedRole { .. } => {
                Some("list the hosts of every server of the cluster, or relax `target_session_attrs`".to_owned())
            }
            Self::NoSuitableHost { failures } => failures.iter().find_map(|failure| failure.error.remedy()),
            Self::Protocol { .. } | Self::Lost { .. } => None,
        }
    }
}

fn connect_remedy(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => {
            "no server has its socket there: start PostgreSQL, or give `host` the directory that `SHOW unix_socket_directories` \
             names, and the right `port`"
        }
        io::ErrorKind::ConnectionRefused => {
            "no server listens there: start PostgreSQL, and see `listen_addresses` and `port` in postgresql.conf"
        }
        io::ErrorKind::PermissionDenied => {
            "this user may not use the socket: see `unix_socket_permissions` and `unix_socket_group` in postgresql.conf"
        }
        _ => {
            "check `host` and `port` in the connection settings, name resolution, and firewalls between the two machines"
        }
    }
}

fn tls_remedy(error: &TlsError) -> Option<&'static str> {
    use rustls::CertificateError as Cert;
    match error {
        TlsError::NotOffered => Some("set `ssl = on` with a certificate in postgresql.conf, or relax `sslmode`"),
        TlsError::Handshake(rustls::Error::InvalidCertificate(fault)) => Some(match fault {
            Cert::UnknownIssuer | Cert::BadSignature => {
                "`sslrootcert` must name the PEM file of the authority that signed the server's certificate"
            }
            Cert::NotValidForName | Cert::NotValidForNameContext { .. } => {
                "connect by a name that is among the certificate's subjectAltName, renew the certificate with this name, or \
                 use `sslmode=verify-ca`"
            }
            Cert::Expired | Cert::ExpiredContext { .. } | Cert::NotValidYet | Cert::NotValidYetContext { .. } => {
                "renew the server's certificate, and check the clocks of both machines"
            }
            _ => "give the server an X.509 version 3 certificate with a subjectAltName",
        }),
        TlsError::Handshake(rustls::Error::AlertReceived(_)) => Some(
            "the server ended the handshake: if it asks for client certificates, see `sslcert` and `sslkey`, and its own log",
        ),
        _ => None,
    }
}

fn auth_remedy(error: &AuthError, user: &str, purpose: Purpose) -> Option<String> {
    let database = match purpose {
        Purpose::PhysicalReplication => "replication",
        Purpose::Sql | Purpose::DatabaseReplication => "all",
    };
    Some(match error {
        AuthError::Refused(message) if message.code == "28P01" => {
            format!("check the password of role \"{user}\" (`password`, PGPASSWORD or the password file)")
        }
        AuthError::Refused(message) if message.code.starts_with("28") => format!(
            "see that role \"{user}\" exists and has LOGIN, add a line such as `host {database} {user} ADDRESS/32 scram-sha-256` \
             (`local {database} {user} peer` for a socket) to pg_hba.conf, and run `SELECT pg_catalog.pg_reload_conf()`"
        ),
        AuthError::Refused(message) => return server_remedy(message),
        AuthError::NoPassword { .. } => {
            "put the password into a password file (`passfile`, PGPASSFILE or ~/.pgpass, mode 0600), or use `peer` on a socket"
                .to_owned()
        }
        AuthError::ClearOnPlainLine => {
            "use `sslmode=verify-full`, or `scram-sha-256` in pg_hba.conf; a password is never sent in clear".to_owned()
        }
        AuthError::Method(_) | AuthError::Excluded(_) => {
            format!("let pg_hba.conf ask role \"{user}\" for scram-sha-256, cert or peer")
        }
        AuthError::ChannelBinding(_) => {
            "use `sslmode=verify-full` and `scram-sha-256` in pg_hba.conf, or `channel_binding=prefer`".to_owned()
        }
        AuthError::Send(_) => return None,
        AuthError::NotProven | AuthError::Scram(_) => {
            "check the password; if it is right, something between the two machines pretends to be the server".to_owned()
        }
        AuthError::Peer { .. } => "see who runs a server on this socket before you trust it".to_owned(),
    })
}

fn server_remedy(message: &ServerMessage) -> Option<String> {
    Some(
        match message.code.as_str() {
            "42501" => "grant what is missing: `ALTER ROLE ... REPLICATION` for replication, `GRANT pg_monitor TO ...` for settings",
            "53300" => "raise `max_connections`, or `max_wal_senders` for replication, or close sessions that are not needed",
            "57P03" => "wait until the server has started; its log tells how far it is",
            "57P01" | "57P02" => "the server was stopped or the session was ended by an administrator",
            "3D000" => "name a database that exists with `dbname`",
            "55006" => "something else uses it: wait for the old session to end (`SELECT * FROM pg_catalog.pg_replication_slots`)",
            _ => return None,
        }
        .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str) -> SessionError {
        SessionError::Server(Box::new(ServerMessage { code: code.to_owned(), ..ServerMessage::default() }))
    }

    fn refused(code: &str, purpose: Purpose) -> SessionError {
        let message = ServerMessage { code: code.to_owned(), ..ServerMessage::default() };
        let (host, user) = ("db:5432".to_owned(), "lifeboat".to_owned());
        SessionError::Authentication { host, user, purpose, source: AuthError::Refused(Box::new(message)) }
    }

    #[test]
    fn errors_that_need_a_person_are_not_transient_and_name_the_fix() {
        for (why, error, remedy) in [
            ("no line for replication", refused("28000", Purpose::PhysicalReplication), "`host replication lifeboat "),
            ("no line for SQL", refused("28000", Purpose::Sql), "`host all lifeboat "),
            ("wrong password", refused("28P01", Purpose::Sql), "check the password of role \"lifeboat\""),
            ("no right", server("42501"), "ALTER ROLE"),
            ("no database", server("3D000"), "dbname"),
        ] {
            assert!(!error.is_transient(), "{why}");
            let found = error.remedy().unwrap();
            assert!(found.contains(remedy), "{why}: {found}");
        }
        assert_eq!(server("XX000").remedy(), None);
    }

    #[test]
    fn errors_that_pass_by_themselves_are_transient() {
        for code in ["57P03", "57P01", "53300", "55006", "08006"] {
            assert!(server(code).is_transient(), "{code}");
        }
        let failure = |code| HostFailure { host: "db".to_owned(), error: Box::new(server(code)) };
        assert!(!SessionError::NoSuitableHost { failures: vec![failure("42501")] }.is_transient());
        let several = SessionError::NoSuitableHost { failures: vec![failure("42501"), failure("57P03")] };
        assert!(several.is_transient(), "one of the hosts may answer again");
    }

    #[test]
    fn every_host_is_listed_with_all_its_causes() {
        let source = io::Error::other("no route");
        let error = Box::new(SessionError::Connect { host: "a:1".to_owned(), source });
        let failures = vec![
            HostFailure { host: "a:1 (192.0.2.1, TLS)".to_owned(), error },
            HostFailure { host: "b:1".to_owned(), error: Box::new(server("57P03")) },
        ];
        assert_eq!(
            SessionError::NoSuitableHost { failures }.to_string(),
            "none of the hosts will do: a:1 (192.0.2.1, TLS): connect to a:1: no route; b:1: the server answered  57P03: "
        );
    }
}
