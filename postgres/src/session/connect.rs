//! Which host, which address, encrypted or not: the search for a server that will do.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::session::commands::Session;
use crate::session::error::{AuthError, HostFailure, ProtocolFault, SessionError, TlsError};
use crate::session::settings::{ConnectionSettings, HostSettings, Purpose};
use crate::session::settings_words::{SslMode, SslNegotiation, TargetSessionAttrs};
use crate::session::startup::{Login, log_in};
use crate::session::surroundings::Account;
use crate::session::tls;
use crate::session::transport::{Stream, Transport, connect_tcp};

/// The most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// Where a host answers.
enum Endpoint {
    Socket(PathBuf),
    Tcp(SocketAddr),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Plain,
    Tls,
}

impl Session {
    /// Opens a session with the first host that will do, in the order of the settings.
    ///
    /// `connect_timeout` bounds each attempt: name, connection, encryption, log-in, and the question what the server is.
    ///
    /// # Errors
    /// [`SessionError`] of the one attempt, or [`SessionError::NoSuitableHost`] with the reason of each.
    pub async fn connect(settings: &ConnectionSettings, purpose: Purpose) -> Result<Self, SessionError> {
        open(settings, purpose).await
    }
}

async fn open(settings: &ConnectionSettings, purpose: Purpose) -> Result<Session, SessionError> {
    let passes = match settings.target {
        TargetSessionAttrs::PreferStandby => vec![TargetSessionAttrs::Standby, TargetSessionAttrs::Any],
        target => vec![target],
    };
    let mut failures = Vec::new();
    for wanted in passes {
        for host in &settings.hosts {
            let attempt = Attempt { settings, host, purpose, wanted };
            if let Some(session) = attempt.host(&mut failures).await? {
                return Ok(session);
            }
        }
    }
    Err(all_failed(failures))
}

/// The error for these failures: the failure itself if there is but one.
fn all_failed(mut failures: Vec<HostFailure>) -> SessionError {
    match failures.pop() {
        Some(only) if failures.is_empty() => *only.error,
        last => {
            failures.extend(last);
            SessionError::NoSuitableHost { failures }
        }
    }
}

/// One host, and what is wanted of it.
struct Attempt<'a> {
    settings: &'a ConnectionSettings,
    host: &'a HostSettings,
    purpose: Purpose,
    wanted: TargetSessionAttrs,
}

impl Attempt<'_> {
    /// Tries a host by all its addresses; why they fail is added to `failures`. An error ends the search: a wrong password
    /// is not tried on the next server, because it would count against the role there too.
    async fn host(&self, failures: &mut Vec<HostFailure>) -> Result<Option<Session>, SessionError> {
        let endpoints = match self.endpoints().await {
            Ok(endpoints) => endpoints,
            Err(error) => {
                failures.push(HostFailure { host: self.host.to_string(), error: Box::new(error) });
                return Ok(None);
            }
        };
        for endpoint in endpoints {
            for encryption in self.encryptions(&endpoint) {
                let error = match self.limited("connecting to", self.session(&endpoint, *encryption)).await {
                    Ok(session) => return Ok(Some(session)),
                    Err(error) => error,
                };
                let (ends, other_may_do) = (ends_search(&error), other_encryption_may_do(&error));
                failures.push(HostFailure { host: self.describe(&endpoint, *encryption), error: Box::new(error) });
                if ends {
                    return Err(all_failed(std::mem::take(failures)));
                }
                if !other_may_do {
                    break;
                }
            }
        }
        Ok(None)
    }

    async fn limited<T>(
        &self,
        doing: &str,
        work: impl Future<Output = Result<T, SessionError>>,
    ) -> Result<T, SessionError> {
        let Some(after) = self.settings.connect_timeout else { return work.await };
        let late = |_| SessionError::TimedOut { doing: format!("{doing} {}", self.host), after };
        tokio::time::timeout(after, work).await.map_err(late)?
    }

    async fn endpoints(&self) -> Result<Vec<Endpoint>, SessionError> {
        let (name, port) = (self.host.name.as_str(), self.host.port);
        if self.host.is_socket() {
            // A zero byte in front is how the system spells the abstract namespace.
            let directory = name.strip_prefix('@').map_or_else(|| name.to_owned(), |name| format!("\0{name}"));
            return Ok(vec![Endpoint::Socket(PathBuf::from(directory).join(format!(".s.PGSQL.{port}")))]);
        }
        if let Some(address) = self.host.address {
            return Ok(vec![Endpoint::Tcp(SocketAddr::new(address, port))]);
        }
        let looking = async {
            let found = tokio::net::lookup_host((name, port)).await.map_err(|error| self.unreachable(error))?;
            Ok(found.take(ADDRESSES_MAX).map(Endpoint::Tcp).collect())
        };
        self.limited("looking up", looking).await
    }

    fn encryptions(&self, endpoint: &Endpoint) -> &'static [Encryption] {
        match (endpoint, self.settings.tls.mode) {
            (Endpoint::Socket(_), _) | (_, SslMode::Disable) => &[Encryption::Plain],
            (_, SslMode::Allow) => &[Encryption::Plain, Encryption::Tls],
            (_, SslMode::Prefer) => &[Encryption::Tls, Encryption::Plain],
            (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Encryption::Tls],
        }
    }

    fn describe(&self, endpoint: &Endpoint, encryption: Encryption) -> String {
        match (endpoint, encryption) {
            (Endpoint::Socket(_), _) => self.host.to_string(),
            (Endpoint::Tcp(address), Encryption::Plain) => format!("{} ({}, unencrypted)", self.host, address.ip()),
            (Endpoint::Tcp(address), Encryption::Tls) => format!("{} ({}, TLS)", self.host, address.ip()),
        }
    }

    async fn session(&self, endpoint: &Endpoint, encryption: Encryption) -> Result<Session, SessionError> {
        let stream = match endpoint {
            #[cfg(feature = "testing")]
            Endpoint::Socket(path) if crate::session::memory_server::listens(path) => {
                let connected = crate::session::memory_server::connect(path);
                Stream::Memory(connected.map_err(|error| self.unreachable(error))?)
            }
            Endpoint::Socket(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| self.unreachable(error))?;
                self.check_peer(&stream)?;
                Stream::Unix(stream)
            }
            Endpoint::Tcp(address) => {
                let stream =
                    connect_tcp(*address, self.settings.line).await.map_err(|error| self.unreachable(error))?;
                match encryption {
                    Encryption::Plain => Stream::Tcp(stream),
                    Encryption::Tls => self.encrypt(stream, address.ip()).await?,
                }
            }
        };
        let mut transport = Transport::new(stream, self.host.to_string());
        let login = Login { settings: self.settings, host: self.host, purpose: self.purpose };
        let welcome = log_in(&mut transport, login).await?;
        let mut session = Session::new(transport, welcome, self.purpose)?;
        session.empty_search_path().await?;
        session.check_role(self.wanted).await?;
        Ok(session)
    }

    fn unreachable(&self, source: io::Error) -> SessionError {
        SessionError::Connect { host: self.host.to_string(), source }
    }

    fn check_peer(&self, stream: &UnixStream) -> Result<(), SessionError> {
        let Some(wanted) = &self.settings.require_peer else { return Ok(()) };
        let owner = stream.peer_cred().map_err(|error| self.unreachable(error))?.uid();
        let found = Account::of_user(owner).map_or_else(|| format!("user number {owner}"), |account| account.name);
        if found == *wanted {
            return Ok(());
        }
        Err(SessionError::Authentication {
            host: self.host.to_string(),
            user: self.settings.user.clone(),
            purpose: self.purpose,
            source: AuthError::Peer { wanted: wanted.clone(), found },
        })
    }

    async fn encrypt(&self, mut stream: TcpStream, peer: IpAddr) -> Result<Stream, SessionError> {
        let settings = &self.settings.tls;
        let failed = |source| SessionError::Tls { host: self.host.to_string(), source };
        let config = tls::client_config(settings).map_err(failed)?;
        let name = if self.host.name.is_empty() { peer.to_string() } else { self.host.name.clone() };
        let name = tls::server_name(&name, settings.mode, peer).map_err(failed)?;
        if settings.negotiation == SslNegotiation::Postgres {
            self.request_encryption(&mut stream).await?;
        }
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
            let fault = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned();
            failed(fault.map_or_else(|| TlsError::Io(error), TlsError::Handshake))
        })?;
        if settings.negotiation == SslNegotiation::Direct && stream.get_ref().1.alpn_protocol() != Some(tls::ALPN) {
            return Err(failed(TlsError::Settings("the server does not know `sslnegotiation=direct`")));
        }
        Ok(Stream::Tls(Box::new(stream)))
    }

    async fn request_encryption(&self, stream: &mut TcpStream) -> Result<(), SessionError> {
        let failed = |source| SessionError::Tls { host: self.host.to_string(), source };
        let mut request = bytes::BytesMut::new();
        frontend::ssl_request(&mut request);
        // Exactly one byte is read: whatever a stranger on the line put behind it reaches TLS, which refuses it.
        let mut answer = [0];
        stream.write_all(&request).await.map_err(|error| failed(TlsError::Io(error)))?;
        stream.read_exact(&mut answer).await.map_err(|error| failed(TlsError::Io(error)))?;
        match answer {
            [b'S'] => Ok(()),
            [b'N'] => Err(failed(TlsError::NotOffered)),
            [other] => {
                let what = format!("answer `{}` to the request for TLS", other.escape_ascii());
                Err(SessionError::Protocol { host: self.host.to_string(), what: ProtocolFault::Unexpected(what) })
            }
        }
    }
}

/// Whether the other hosts need not be asked.
fn ends_search(error: &SessionError) -> bool {
    match error {
        SessionError::Authentication { source, .. } => match source {
            AuthError::Refused(message) => message.code == "28P01",
            AuthError::NoPassword { .. } | AuthError::NotProven | AuthError::Scram(_) => true,
            _ => false,
        },
        _ => false,
    }
}

/// Whether the same address may answer otherwise with encryption, or without.
fn other_encryption_may_do(error: &SessionError) -> bool {
    matches!(error, SessionError::Tls { .. } | SessionError::Authentication { .. } | SessionError::Protocol { .. })
}
