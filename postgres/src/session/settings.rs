//! How to reach a server: a connection string, understood and checked.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_vocabulary::Secret;

use crate::session::conninfo::Values;
pub use crate::session::conninfo::{ConnInfoError, Place};
pub use crate::session::settings_words::{ChannelBinding, SslCertMode, SslMode, SslNegotiation, TargetSessionAttrs};
use crate::session::surroundings::Surroundings;

/// The most hosts that one connection string can name.
const HOSTS_MAX: usize = 64;
const PORT_DEFAULT: u16 = 5432;
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Where servers have their sockets: as Debian and Red Hat build them, and as PostgreSQL itself does.
pub(crate) const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];
const APPLICATION_NAME_DEFAULT: &str = "lifeboat";

/// What a session is for; this decides which commands the server takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// SQL.
    Sql,
    /// Replication commands only; `pg_hba.conf` judges it by lines for database `replication`.
    PhysicalReplication,
    /// Replication commands and SQL, in a database.
    DatabaseReplication,
}

/// One place where a server may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostSettings {
    /// Host name, address, or directory of the socket (`/...`, or `@...` in the abstract namespace). May be empty if
    /// `address` is given.
    pub(crate) name: String,
    /// Address that spares resolving the name.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
}

impl HostSettings {
    pub(crate) fn is_socket(&self) -> bool {
        self.address.is_none() && self.name.starts_with(['/', '@'])
    }

    /// How password files name it.
    pub(crate) fn password_file_name(&self) -> String {
        match self.address {
            Some(address) if self.name.is_empty() => address.to_string(),
            _ if SOCKET_DIRECTORIES.contains(&self.name.as_str()) => "localhost".to_owned(),
            _ => self.name.clone(),
        }
    }
}

impl fmt::Display for HostSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) if self.name.is_empty() => write!(f, "{}", std::net::SocketAddr::new(address, self.port)),
            _ if self.name.contains(':') => write!(f, "[{}]:{}", self.name, self.port),
            _ => write!(f, "{}:{}", self.name, self.port),
        }
    }
}

/// Everything about TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsSettings {
    pub(crate) mode: SslMode,
    pub(crate) negotiation: SslNegotiation,
    /// `None`: no authority is known. `Some("system")`: those of the system.
    pub(crate) root: Option<PathBuf>,
    /// Client certificate and key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    pub(crate) server_name: ServerNameIndication,
    pub(crate) oldest: OldestTls,
}

/// Whether the host's name is told in clear when TLS begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerNameIndication {
    Send,
    Hide,
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OldestTls {
    V12,
    V13,
}

/// How the system notices that the other side is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LineSettings {
    /// Probes on an idle connection: after how long, how often, how many may stay unanswered. `None`: no probes.
    pub(crate) keepalive: Option<(Duration, Duration, u32)>,
    /// How long sent bytes may stay unacknowledged, in milliseconds; 0: what the system does by itself.
    pub(crate) user_timeout_ms: u32,
}

/// How to reach a server: what libpq calls a connection string, understood, checked and completed from the environment.
///
/// Neither `Display` nor `Debug` shows the password. Source: PostgreSQL manual, chapter "libpq", section "Parameter Key
/// Words"; two defaults differ: `connect_timeout` is 10 s, and dead connections are noticed within about a minute.
#[derive(Clone)]
pub struct ConnectionSettings {
    pub(crate) hosts: Vec<HostSettings>,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) password: Option<Arc<Secret<String>>>,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) application_name: String,
    /// The startup packet's `options`.
    pub(crate) options: String,
    /// `None`: no limit.
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) target: TargetSessionAttrs,
    pub(crate) tls: TlsSettings,
    pub(crate) channel_binding: ChannelBinding,
    pub(crate) require_auth: Option<String>,
    pub(crate) require_peer: Option<String>,
    pub(crate) line: LineSettings,
}

impl ConnectionSettings {
    /// Understands `text`: `keyword=value ...` or `postgresql://...`. What it leaves open comes from `PG*` environment
    /// variables, then from libpq's defaults. No server is asked and no password file is read before a session is opened.
    ///
    /// # Errors
    /// [`ConnInfoError`] with the place and the nearest valid keyword.
    pub fn parse(text: &str) -> Result<Self, ConnInfoError> {
        Self::parse_in(text, &Surroundings::of_process())
    }

    pub(crate) fn parse_in(text: &str, surroundings: &Surroundings) -> Result<Self, ConnInfoError> {
        let mut values = Values::read(text, surroundings)?;
        let user = match values.take("user") {
            Some((user, _)) => user,
            None => surroundings.user.clone().ok_or(ConnInfoError::NoUser)?,
        };
        let named = values.take("application_name").or_else(|| values.take("fallback_application_name"));
        let tls = tls_settings(&mut values, surroundings)?;
        Ok(Self {
            hosts: hosts(&mut values)?,
            database: values.take("dbname").map_or_else(|| user.clone(), |(name, _)| name),
            user,
            password: values.take("password").map(|(password, _)| Arc::new(Secret::new(password))),
            password_file: path(&mut values, "passfile").or_else(|| in_home(surroundings, ".pgpass")),
            application_name: named.map_or_else(|| APPLICATION_NAME_DEFAULT.to_owned(), |(name, _)| name),
            options: values.take("options").map(|(options, _)| options).unwrap_or_default(),
            connect_timeout: match number(&mut values, "connect_timeout")? {
                None => Some(CONNECT_TIMEOUT_DEFAULT),
                Some(seconds) => u64::try_from(seconds).ok().filter(|s| *s > 0).map(Duration::from_secs),
            },
            target: word(&mut values, "target_session_attrs", TargetSessionAttrs::LIST, TargetSessionAttrs::of_word)?
                .unwrap_or(TargetSessionAttrs::Any),
            channel_binding: word(&mut values, "channel_binding", ChannelBinding::LIST, ChannelBinding::of_word)?
                .unwrap_or(ChannelBinding::Prefer),
            require_auth: require_auth(&mut values)?,
            require_peer: values.take("requirepeer").map(|(name, _)| name),
            line: line_settings(&mut values)?,
            tls,
        })
    }

    /// The same, under another name in `pg_stat_activity` and `synchronous_standby_names`.
    #[must_use]
    pub fn with_application_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.application_name);
        self
    }

    /// The same, with a server setting for the session, such as `wal_sender_timeout` and `30s`. A later one counts more.
    #[must_use]
    pub fn with_option(mut self, name: &str, value: &str) -> Self {
        if !self.options.is_empty() {
            self.options.push(' ');
        }
        self.options.push_str("-c ");
        // The server splits at blanks and takes the character behind a backslash as it is (pg_split_opts).
        for c in format!("{name}={value}").chars() {
            if c == '\\' || c.is_ascii_whitespace() {
                self.options.push('\\');
            }
            self.options.push(c);
        }
        self
    }

    /// The role that connects.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database for SQL.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }
}

/// Whether sessions would be opened in the same way. What is not shown, such as the password, counts too.
impl PartialEq for ConnectionSettings {
    fn eq(&self, other: &Self) -> bool {
        let password = |settings: &Self| settings.password.as_ref().map(|password| password.expose().clone());
        let Self { hosts, user, database, password: _, password_file, application_name, options, .. } = self;
        let Self { connect_timeout, target, tls, channel_binding, require_auth, require_peer, line, .. } = self;
        (hosts, user, database, password_file) == (&other.hosts, &other.user, &other.database, &other.password_file)
            && (application_name, options) == (&other.application_name, &other.options)
            && (connect_timeout, target, tls) == (&other.connect_timeout, &other.target, &other.tls)
            && (channel_binding, require_auth) == (&other.channel_binding, &other.require_auth)
            && (require_peer, line) == (&other.require_peer, &other.line)
            && password(self) == password(other)
    }
}

impl fmt::Display for ConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |item: fn(&HostSettings) -> String| self.hosts.iter().map(item).collect::<Vec<_>>().join(",");
        let host = list(|host| host.address.map_or_else(|| host.name.clone(), |address| address.to_string()));
        write!(f, "host={} port={}", quoted(&host), list(|host| host.port.to_string()))?;
        write!(f, " user={} dbname={}", quoted(&self.user), quoted(&self.database))?;
        write!(f, " application_name={} sslmode={}", quoted(&self.application_name), self.tls.mode)?;
        write!(f, " target_session_attrs={}", self.target)
    }
}

impl fmt::Debug for ConnectionSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionSettings({self})")
    }
}

fn quoted(value: &str) -> String {
    if !value.is_empty() && !value.contains(|c: char| c.is_ascii_whitespace() || c == '\'' || c == '\\') {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn path(values: &mut Values, keyword: &'static str) -> Option<PathBuf> {
    values.take(keyword).map(|(path, _)| PathBuf::from(path))
}

fn in_home(surroundings: &Surroundings, name: &str) -> Option<PathBuf> {
    surroundings.home.as_ref().map(|home| home.join(name))
}

fn word<T>(
    values: &mut Values,
    keyword: &'static str,
    allowed: &'static str,
    of_word: fn(&str) -> Option<T>,
) -> Result<Option<T>, ConnInfoError> {
    values
        .take(keyword)
        .map(|(value, place)| of_word(&value).ok_or(ConnInfoError::Value { keyword, place, allowed }))
        .transpose()
}

fn number(values: &mut Values, keyword: &'static str) -> Result<Option<i32>, ConnInfoError> {
    word(values, keyword, "a whole number", |value| value.trim().parse().ok())
}

/// The comma-separated values of a keyword; several hosts have as many, or one for all.
fn list(values: &mut Values, keyword: &'static str) -> Option<(Vec<String>, Place)> {
    values.take(keyword).map(|(text, place)| (text.split(',').map(|item| item.trim().to_owned()).collect(), place))
}

fn hosts(values: &mut Values) -> Result<Vec<HostSettings>, ConnInfoError> {
    let names = list(values, "host");
    let addresses = list(values, "hostaddr");
    let ports = list(values, "port");
    let count = match (&names, &addresses) {
        (Some((names, _)), Some((addresses, _))) if names.len() != addresses.len() => {
            return Err(ConnInfoError::Count { keyword: "hostaddr", hosts: names.len(), count: addresses.len() });
        }
        (Some((names, _)), _) => names.len(),
        (None, Some((addresses, _))) => addresses.len(),
        (None, None) => 1,
    };
    if count > HOSTS_MAX {
        return Err(ConnInfoError::Conflict("there are more than 64 hosts"));
    }
    let mut hosts = Vec::new();
    for number in 0..count {
        let port = port_of(ports.as_ref(), number, count)?;
        let name = names.as_ref().and_then(|(names, _)| names.get(number)).cloned().unwrap_or_default();
        let address = match &addresses {
            Some((list, place)) => address_of(list.get(number).map_or("", String::as_str), *place)?,
            None => None,
        };
        if name.is_empty() && address.is_none() {
            let default = SOCKET_DIRECTORIES.into_iter().chain(["localhost"]);
            hosts.extend(default.map(|name| HostSettings { name: name.to_owned(), address: None, port }));
        } else {
            hosts.push(HostSettings { name, address, port });
        }
    }
    Ok(hosts)
}

fn port_of(ports: Option<&(Vec<String>, Place)>, number: usize, hosts: usize) -> Result<u16, ConnInfoError> {
    let Some((ports, place)) = ports else { return Ok(PORT_DEFAULT) };
    let port = match ports.as_slice() {
        [one] => one,
        several if several.len() == hosts => several.get(number).map_or("", String::as_str),
        several => return Err(ConnInfoError::Count { keyword: "port", hosts, count: several.len() }),
    };
    if port.is_empty() {
        return Ok(PORT_DEFAULT);
    }
    let wrong = ConnInfoError::Value { keyword: "port", place: *place, allowed: "a number from 1 to 65535" };
    port.parse().ok().filter(|port| *port > 0).ok_or(wrong)
}

fn address_of(text: &str, place: Place) -> Result<Option<IpAddr>, ConnInfoError> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = ConnInfoError::Value { keyword: "hostaddr", place, allowed: "an IPv4 or IPv6 address" };
    text.parse().map(Some).map_err(|_| wrong)
}

fn tls_settings(values: &mut Values, surroundings: &Surroundings) -> Result<TlsSettings, ConnInfoError> {
    let negotiation = word(values, "sslnegotiation", SslNegotiation::LIST, SslNegotiation::of_word)?;
    let root = path(values, "sslrootcert");
    let system = root.as_ref().is_some_and(|root| root.as_os_str() == "system");
    let default = if system { SslMode::VerifyFull } else { SslMode::Prefer };
    let mode = word(values, "sslmode", SslMode::LIST, SslMode::of_word)?.unwrap_or(default);
    if system && mode != SslMode::VerifyFull {
        return Err(ConnInfoError::Conflict(
            "`sslrootcert=system` needs `sslmode=verify-full`: anybody can have a certificate",
        ));
    }
    let weak = matches!(mode, SslMode::Disable | SslMode::Allow | SslMode::Prefer);
    if weak && negotiation == Some(SslNegotiation::Direct) {
        return Err(ConnInfoError::Conflict("`sslnegotiation=direct` needs `sslmode=require` or more"));
    }
    let existing = |name: &str| in_home(surroundings, name).filter(|path| path.exists());
    let certificate = path(values, "sslcert").or_else(|| existing(".postgresql/postgresql.crt"));
    let key = path(values, "sslkey").or_else(|| in_home(surroundings, ".postgresql/postgresql.key"));
    let show = word(values, "sslcertmode", SslCertMode::LIST, SslCertMode::of_word)?.unwrap_or(SslCertMode::Allow);
    let hint = word(values, "sslsni", "0 or 1", |text| match text {
        "0" => Some(ServerNameIndication::Hide),
        "1" => Some(ServerNameIndication::Send),
        _ => None,
    })?;
    let oldest = word(values, "ssl_min_protocol_version", "TLSv1.2 or TLSv1.3", |text| match text {
        "TLSv1" | "TLSv1.1" | "TLSv1.2" => Some(OldestTls::V12),
        "TLSv1.3" => Some(OldestTls::V13),
        _ => None,
    })?;
    Ok(TlsSettings {
        mode,
        negotiation: negotiation.unwrap_or(SslNegotiation::Postgres),
        root: root.or_else(|| existing(".postgresql/root.crt")),
        identity: if show == SslCertMode::Allow { certificate.zip(key) } else { None },
        server_name: hint.unwrap_or(ServerNameIndication::Send),
        oldest: oldest.unwrap_or(OldestTls::V12),
    })
}

fn line_settings(values: &mut Values) -> Result<LineSettings, ConnInfoError> {
    let mut positive = |keyword, default: u32| {
        let given = number(values, keyword)?.and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
        Ok::<u32, ConnInfoError>(given.unwrap_or(default))
    };
    let idle = Duration::from_secs(positive("keepalives_idle", 30)?.into());
    let interval = Duration::from_secs(positive("keepalives_interval", 10)?.into());
    let count = positive("keepalives_count", 3)?;
    let keepalives = number(values, "keepalives")?.unwrap_or(1);
    let user_timeout = number(values, "tcp_user_timeout")?.unwrap_or(60_000);
    Ok(LineSettings {
        keepalive: (keepalives != 0).then_some((idle, interval, count)),
        user_timeout_ms: u32::try_from(user_timeout).unwrap_or(0),
    })
}

/// The methods that [`crate::session::startup`] can be asked for.
pub(crate) const AUTH_METHODS: [&str; 6] = ["none", "password", "md5", "scram-sha-256", "gss", "sspi"];

fn require_auth(values: &mut Values) -> Result<Option<String>, ConnInfoError> {
    let Some((text, place)) = values.take("require_auth") else { return Ok(None) };
    let negated = text.split(',').filter(|method| method.trim().starts_with('!')).count();
    let known = |method: &str| AUTH_METHODS.contains(&method.trim().trim_start_matches('!'));
    if text.split(',').all(known) && (negated == 0 || negated == text.split(',').count()) {
        return Ok(Some(text));
    }
    let allowed = "a list of none, password, md5 and scram-sha-256, either all or none of them with `!` before them";
    Err(ConnInfoError::Value { keyword: "require_auth", place, allowed })
}

#[cfg(test)]
mod tests;
