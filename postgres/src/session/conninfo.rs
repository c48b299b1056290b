//! Connection strings as libpq reads them: `keyword=value ...`, or a `postgresql://` address.
//!
//! Source: PostgreSQL manual, chapter "libpq", section "Connection Strings".

use lifeboat_vocabulary::counted;
use std::collections::HashMap;
use std::fmt;

/// The longest connection string, in bytes.
pub(crate) const TEXT_MAX: usize = 64 << 10;

/// Where a value was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the text, at this character, counted from 1.
    Character(usize),
    /// In this environment variable.
    Environment(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Character(number) => write!(f, "at character {number}"),
            Self::Environment(name) => write!(f, "in environment variable {name}"),
        }
    }
}

/// A connection string that cannot be understood. Texts never hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnInfoError {
    /// It is too long to be one.
    #[error("the connection string has {bytes} bytes, more than {TEXT_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A zero byte, which the protocol cannot carry.
    #[error("there is a zero byte at character {position}")]
    ZeroByte {
        /// Character, from 1.
        position: usize,
    },
    /// A word without `=`.
    #[error("`=` is missing after the word at character {position}")]
    MissingEquals {
        /// Character, from 1.
        position: usize,
    },
    /// A quote without its end.
    #[error("the quote at character {position} is not closed")]
    OpenQuote {
        /// Character, from 1.
        position: usize,
    },
    /// No such keyword.
    #[error("{} at character {position} is not a connection keyword{}", Quoted(.keyword), Nearest(.nearest))]
    UnknownKeyword {
        /// What was given; empty if it may be a piece of a password.
        keyword: String,
        /// Character, from 1.
        position: usize,
        /// The keyword that was probably meant.
        nearest: Option<&'static str>,
    },
    /// A keyword of libpq that does something which is not done here.
    #[error("`{keyword}` {place} is not supported: {why}")]
    Unsupported {
        /// The keyword.
        keyword: &'static str,
        /// Where it is.
        place: Place,
        /// Why not, or what to use instead.
        why: &'static str,
    },
    /// A value that the keyword cannot have.
    #[error("`{keyword}` {place} must be {allowed}")]
    Value {
        /// The keyword.
        keyword: &'static str,
        /// Where its value is.
        place: Place,
        /// What it can be.
        allowed: &'static str,
    },
    /// Lists whose lengths differ.
    #[error(
        "{}, but {} of `{keyword}`: give one for all, or one for each",
        counted(*hosts as u64, "host", "hosts"),
        counted(*count as u64, "value", "values")
    )]
    Count {
        /// `port` or `hostaddr`.
        keyword: &'static str,
        /// How many hosts there are.
        hosts: usize,
        /// How many values the keyword has.
        count: usize,
    },
    /// Settings that contradict one another.
    #[error("{0}")]
    Conflict(&'static str),
    /// An address that is none.
    #[error("the address is wrong at character {position}: {why}")]
    Address {
        /// Character, from 1.
        position: usize,
        /// What is wrong there.
        why: &'static str,
    },
    /// Nobody said who connects, and the system has no name for this user.
    #[error("no role is given and the system has no name for this user: add `user=`")]
    NoUser,
}

struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("the word") } else { write!(f, "`{}`", self.0) }
    }
}

struct Nearest<'a>(&'a Option<&'static str>);

impl fmt::Display for Nearest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|name| write!(f, " (did you mean `{name}`?)"))
    }
}

/// What is done with a keyword.
enum Support {
    Used,
    /// It has no effect here that anybody could miss.
    Ignored,
    /// Only these values are what is done anyway; others would be lies, so they are refused.
    Only(&'static [&'static str], &'static str),
}

pub(crate) struct Keyword {
    pub(crate) name: &'static str,
    pub(crate) variable: Option<&'static str>,
    support: Support,
}

const fn used(name: &'static str, variable: Option<&'static str>) -> Keyword {
    Keyword { name, variable, support: Support::Used }
}

const fn ignored(name: &'static str) -> Keyword {
    Keyword { name, variable: None, support: Support::Ignored }
}

const fn only(
    name: &'static str,
    variable: Option<&'static str>,
    values: &'static [&'static str],
    why: &'static str,
) -> Keyword {
    Keyword { name, variable, support: Support::Only(values, why) }
}

const NO_GSS: &str = "there is no GSSAPI; use TLS";
const NO_SERVICE: &str = "write the service's keywords out";
const NO_OAUTH: &str = "there is no OAuth; use scram-sha-256, cert or peer";

pub(crate) const KEYWORDS: &[Keyword] = &[
    used("host", Some("PGHOST")),
    used("hostaddr", Some("PGHOSTADDR")),
    used("port", Some("PGPORT")),
    used("dbname", Some("PGDATABASE")),
    used("user", Some("PGUSER")),
    used("password", Some("PGPASSWORD")),
    used("passfile", Some("PGPASSFILE")),
    used("require_auth", Some("PGREQUIREAUTH")),
    used("channel_binding", Some("PGCHANNELBINDING")),
    used("connect_timeout", Some("PGCONNECT_TIMEOUT")),
    used("options", Some("PGOPTIONS")),
    used("application_name", Some("PGAPPNAME")),
    used("fallback_application_name", None),
    used("keepalives", None),
    used("keepalives_idle", None),
    used("keepalives_interval", None),
    used("keepalives_count", None),
    used("tcp_user_timeout", None),
    used("sslmode", Some("PGSSLMODE")),
    used("sslnegotiation", Some("PGSSLNEGOTIATION")),
    used("sslcert", Some("PGSSLCERT")),
    used("sslkey", Some("PGSSLKEY")),
    used("sslrootcert", Some("PGSSLROOTCERT")),
    used("sslcertmode", Some("PGSSLCERTMODE")),
    used("sslsni", Some("PGSSLSNI")),
    used("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION")),
    used("requirepeer", Some("PGREQUIREPEER")),
    used("target_session_attrs", Some("PGTARGETSESSIONATTRS")),
    ignored("client_encoding"),
    ignored("sslcompression"),
    ignored("krbsrvname"),
    ignored("gsslib"),
    ignored("gssdelegation"),
    ignored("max_protocol_version"),
    only("gssencmode", Some("PGGSSENCMODE"), &["disable", "prefer"], NO_GSS),
    only("load_balance_hosts", Some("PGLOADBALANCEHOSTS"), &["disable"], "hosts are tried in the order given"),
    only("min_protocol_version", Some("PGMINPROTOCOLVERSION"), &["3.0"], "protocol 3.0 is spoken"),
    only(
        "ssl_max_protocol_version",
        Some("PGSSLMAXPROTOCOLVERSION"),
        &["TLSv1.3"],
        "the newest common version is used",
    ),
    only("replication", None, &[], "replication is chosen by what the session is for"),
    only("sslcrl", Some("PGSSLCRL"), &[], "revocation lists are not read"),
    only("sslcrldir", Some("PGSSLCRLDIR"), &[], "revocation lists are not read"),
    only("sslpassword", None, &[], "give a key without a passphrase, mode 0600"),
    only("sslkeylogfile", None, &[], "keys are never written to a file"),
    only("service", Some("PGSERVICE"), &[], NO_SERVICE),
    only("servicefile", None, &[], NO_SERVICE),
    only("scram_client_key", None, &[], "give the password"),
    only("scram_server_key", None, &[], "give the password"),
    only("oauth_issuer", None, &[], NO_OAUTH),
    only("oauth_client_id", None, &[], NO_OAUTH),
    only("oauth_client_secret", None, &[], NO_OAUTH),
    only("oauth_scope", None, &[], NO_OAUTH),
];

/// The values of a connection string and of the environment, by keyword.
pub(crate) struct Values(pub(crate) HashMap<&'static str, (String, Place)>);

impl Values {
    /// Takes the value of a keyword out, if it has one that is not empty.
    pub(crate) fn take(&mut self, keyword: &'static str) -> Option<(String, Place)> {
        self.0.remove(keyword).filter(|(value, _)| !value.is_empty())
    }

    /// Sets a keyword by the name that a text gives, which stands at character `position`; the last one counts.
    pub(crate) fn set(&mut self, name: &str, value: String, position: usize) -> Result<(), ConnInfoError> {
        match KEYWORDS.iter().find(|keyword| keyword.name == name) {
            Some(keyword) => self.put(keyword, value, Place::Character(position)),
            None => Err(unknown(name, position)),
        }
    }

    pub(crate) fn put(&mut self, keyword: &Keyword, value: String, place: Place) -> Result<(), ConnInfoError> {
        match keyword.support {
            Support::Only(values, why) if !value.is_empty() && !values.contains(&value.as_str()) => {
                Err(ConnInfoError::Unsupported { keyword: keyword.name, place, why })
            }
            Support::Only(..) | Support::Ignored => Ok(()),
            Support::Used => {
                self.0.insert(keyword.name, (value, place));
                Ok(())
            }
        }
    }
}

fn unknown(name: &str, position: usize) -> ConnInfoError {
    // A password with a space that nobody quoted ends up here too: what does not look like a keyword is not shown.
    let harmless = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let (distance, nearest) = KEYWORDS
        .iter()
        .map(|keyword| (strsim::damerau_levenshtein(keyword.name, name), keyword.name))
        .min()
        .unwrap_or((usize::MAX, ""));
    let near = harmless && distance <= 1 + name.len() / 4;
    ConnInfoError::UnknownKeyword {
        // A misspelt keyword is close to a real one; anything else may be a secret.
        keyword: if near { name.to_owned() } else { String::new() },
        position,
        nearest: near.then_some(nearest),
    }
}

/// Reads `keyword = value` pairs: blanks around `=` are free, values with blanks are quoted with `'`, a backslash takes the
/// next character as it is.
pub(crate) fn read_keywords(text: &str, values: &mut Values) -> Result<(), ConnInfoError> {
    let mut rest = text.chars().enumerate().map(|(index, c)| (index + 1, c)).peekable();
    loop {
        while rest.next_if(|(_, c)| c.is_ascii_whitespace()).is_some() {}
        let Some(&(position, _)) = rest.peek() else {
            return Ok(());
        };
        let mut keyword = String::new();
        while let Some((_, c)) = rest.next_if(|(_, c)| *c != '=' && !c.is_ascii_whitespace()) {
            keyword.push(c);
        }
        while rest.next_if(|(_, c)| c.is_ascii_whitespace()).is_some() {}
        if rest.next_if(|(_, c)| *c == '=').is_none() {
            return Err(ConnInfoError::MissingEquals { position });
        }
        while rest.next_if(|(_, c)| c.is_ascii_whitespace()).is_some() {}
        let quote = rest.next_if(|(_, c)| *c == '\'');
        let mut value = String::new();
        let mut closed = quote.is_none();
        while let Some((_, c)) = rest.next_if(|(_, c)| quote.is_some() || !c.is_ascii_whitespace()) {
            match c {
                '\'' if quote.is_some() => {
                    closed = true;
                    break;
                }
                '\\' => value.extend(rest.next().map(|(_, c)| c)),
                c => value.push(c),
            }
        }
        if let (Some((position, _)), false) = (quote, closed) {
            return Err(ConnInfoError::OpenQuote { position });
        }
        values.set(&keyword, value, position)?;
    }
}
