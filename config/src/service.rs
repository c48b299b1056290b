//! What the daemon does and where it is seen: `[daemon]`, `[heal]`, `[scrub]` and `[http]`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use lifeboat_vocabulary::ByteCount;

use crate::SecretRef;
use crate::kind::{self, Fit, Wrong};
use crate::reader::{Reader, Section, preset};
use crate::tree::Node;

const DAY: Duration = Duration::from_secs(86_400);
const STOP_DEFAULT: Duration = Duration::from_secs(60);
const HEAL_DEFAULT: ByteCount = ByteCount::from_mib(50);
const BANDWIDTH_MIN: ByteCount = ByteCount::from_bytes(64 << 10);
const PERIOD_DEFAULT: Duration = Duration::from_secs(30 * 86_400);
const PORT_DEFAULT: u16 = 9432;

/// One of the things that a daemon does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Makes backups by the schedule, and those that WAL needs.
    Backup,
    /// Receives WAL.
    Wal,
    /// Forgets and deletes what is no longer kept.
    Prune,
    /// Copies to a region what it missed.
    Heal,
    /// Reads back and proves what is stored.
    Scrub,
    /// Watches regions and their agreement.
    Watch,
}

impl Role {
    /// Every role with its name in the configuration.
    pub const ALL: [(&'static str, Self); 6] = [
        ("backup", Self::Backup),
        ("wal", Self::Wal),
        ("prune", Self::Prune),
        ("heal", Self::Heal),
        ("scrub", Self::Scrub),
        ("watch", Self::Watch),
    ];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, role)| role == self).map_or("", |(name, _)| *name);
        f.pad(name)
    }
}

/// What the daemon does: `[daemon]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonSettings {
    /// Its part of the work; never empty.
    pub roles: BTreeSet<Role>,
    /// How long it may take to stop in order.
    pub stop_timeout: Duration,
}

/// How regions are brought up to date: `[heal]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealSettings {
    /// The most **bytes per second** that are copied, all regions together.
    pub max_bandwidth: ByteCount,
}

/// How what is stored is verified: `[scrub]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubSettings {
    /// The time in which every object of a region is read once.
    pub period: Duration,
}

/// Where the daemon is seen: `[http]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// The address; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// What a request must carry as a bearer token.
    pub token: Option<SecretRef>,
    /// With what TLS is spoken.
    pub tls: Option<TlsFiles>,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM file with the chain of certificates, the server's own first.
    pub certificate: PathBuf,
    /// Where the private key is, as PEM.
    pub key: SecretRef,
}

impl DaemonSettings {
    pub(crate) fn read(reader: &mut Reader<'_>, mut section: Section<'_>) -> Self {
        let all: Vec<String> = Role::ALL.iter().map(|(name, _)| format!("{name:?}")).collect();
        let every = Role::ALL.iter().map(|(_, role)| *role).collect();
        let roles = section.or_default(reader, "roles", roles, preset(every, &format!("[{}]", all.join(", "))));
        let range = Duration::from_secs(1)..=Duration::from_secs(3600);
        let timeout = |node| kind::duration(node, &range);
        let stop_timeout = section.or_default(reader, "stop_timeout", timeout, preset(STOP_DEFAULT, "\"60s\""));
        section.finish(reader);
        Self { roles, stop_timeout }
    }

    /// Whether the daemon does this.
    #[must_use]
    pub fn does(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

fn roles(node: &Node) -> Fit<BTreeSet<Role>> {
    let roles: BTreeSet<Role> =
        kind::list(node)?.iter().map(|node| kind::word(node, &Role::ALL)).collect::<Fit<_>>()?;
    if roles.is_empty() {
        return Err(Wrong::new("a daemon without a role does nothing", "name at least one role, or leave the key out"));
    }
    Ok(roles)
}

impl HealSettings {
    pub(crate) fn read(reader: &mut Reader<'_>, mut section: Section<'_>) -> Self {
        let range = BANDWIDTH_MIN..=ByteCount::from_mib(1 << 20);
        let rate = |node| kind::amount(node, &range);
        let max_bandwidth = section.or_default(reader, "max_bandwidth", rate, preset(HEAL_DEFAULT, "\"50MiB\""));
        section.finish(reader);
        Self { max_bandwidth }
    }
}

impl ScrubSettings {
    pub(crate) fn read(reader: &mut Reader<'_>, mut section: Section<'_>) -> Self {
        let range = Duration::from_secs(60)..=DAY * 366;
        let period = |node| kind::duration(node, &range);
        let period = section.or_default(reader, "period", period, preset(PERIOD_DEFAULT, "\"30d\""));
        section.finish(reader);
        Self { period }
    }
}

impl HttpSettings {
    pub(crate) fn read(reader: &mut Reader<'_>, mut section: Section<'_>) -> Self {
        let default = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT_DEFAULT));
        let shown = format!("\"{default}\"");
        let listen = section.or_default(reader, "listen", listen, preset(Some(default), &shown));
        let secret = |node| kind::parsed::<SecretRef>(node).map(Some);
        let token = section.or_default(reader, "token", secret, preset(None, "(not set)"));
        let file = |node| kind::absolute_path(node).map(Some);
        let certificate = section.or_default(reader, "tls_certificate", file, preset(None, "(not set)"));
        let key = section.or_default(reader, "tls_key", secret, preset(None, "(not set)"));
        section.finish(reader);
        let tls = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            (Some(_), None) => {
                alone(reader, "tls_certificate", "tls_key");
                None
            }
            (None, Some(_)) => {
                alone(reader, "tls_key", "tls_certificate");
                None
            }
        };
        Self { listen, token, tls }
    }
}

fn alone(reader: &mut Reader<'_>, given: &str, missing: &str) {
    let problem = format!("`http.{given}` is given without `http.{missing}`");
    reader.fault_at(&format!("http.{given}"), Wrong::new(problem, "give both, or neither"));
}

fn listen(node: &Node) -> Fit<Option<SocketAddr>> {
    let text = kind::text(node)?;
    if text == "off" {
        return Ok(None);
    }
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numeric.as_deref().unwrap_or(text).parse().map(Some).map_err(|_| {
        Wrong::new(
            format!("`{text}` is not an address with a port"),
            "give one such as 127.0.0.1:9432 or [::1]:9432, or \"off\"",
        )
    })
}
