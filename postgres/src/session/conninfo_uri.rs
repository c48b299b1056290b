//! `postgresql://` addresses.
//!
//! Source: PostgreSQL manual, chapter "libpq", section "Connection URIs"; percent encoding by RFC 3986 section 2.1.

use crate::session::conninfo::{ConnInfoError, Values};

/// A piece of an address, and where it begins.
#[derive(Clone, Copy)]
struct Piece<'a> {
    text: &'a str,
    /// Character in the whole address, from 1.
    position: usize,
}

impl<'a> Piece<'a> {
    /// What lies before and behind the first of `marks`.
    fn split(self, marks: &[char]) -> (Self, Option<Self>) {
        match self.text.find(marks) {
            Some(at) => (self.before(at), Some(self.after(at))),
            None => (self, None),
        }
    }

    fn before(self, at: usize) -> Self {
        Self { text: self.text.get(..at).unwrap_or_default(), position: self.position }
    }

    /// What lies behind the (one-byte) mark at byte `at`.
    fn after(self, at: usize) -> Self {
        let passed = self.before(at).text.chars().count() + 1;
        Self { text: self.text.get(at + 1..).unwrap_or_default(), position: self.position + passed }
    }

    fn wrong(self, why: &'static str) -> ConnInfoError {
        ConnInfoError::Address { position: self.position, why }
    }

    fn decoded(self) -> Result<String, ConnInfoError> {
        let mut bytes = Vec::with_capacity(self.text.len());
        let mut rest = self.text.bytes();
        while let Some(byte) = rest.next() {
            if byte != b'%' {
                bytes.push(byte);
                continue;
            }
            let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
            let (Some(high), Some(low)) = (digit(), digit()) else {
                return Err(self.wrong("`%` must be followed by two hexadecimal digits"));
            };
            match u8::try_from(high * 16 + low) {
                Ok(byte) if byte != 0 => bytes.push(byte),
                _ => return Err(self.wrong("`%00` cannot be sent")),
            }
        }
        String::from_utf8(bytes).map_err(|_| self.wrong("the decoded text is not UTF-8"))
    }
}

/// Reads `postgresql://[user[:password]@][host[:port]][,...][/dbname][?keyword=value&...]` into `values`.
pub(crate) fn read_uri(text: &str, values: &mut Values) -> Result<(), ConnInfoError> {
    let scheme = text.find("://").unwrap_or_default();
    let whole = Piece { text, position: 1 }.after(scheme + 2);
    let (before_query, query) = whole.split(&['?']);
    let (authority, path) = before_query.split(&['/']);
    let hosts = match authority.text.rfind('@') {
        Some(at) => {
            let (user, password) = authority.before(at).split(&[':']);
            set(values, "user", user)?;
            password.map_or(Ok(()), |password| set(values, "password", password))?;
            authority.after(at)
        }
        None => authority,
    };
    read_hosts(hosts, values)?;
    path.map_or(Ok(()), |name| set(values, "dbname", name))?;
    let mut rest = query;
    while let Some(parameters) = rest {
        let (parameter, behind) = parameters.split(&['&']);
        rest = behind;
        if parameter.text.is_empty() && rest.is_none() {
            break;
        }
        let (name, Some(value)) = parameter.split(&['=']) else {
            return Err(parameter.wrong("a parameter needs `=` and a value"));
        };
        let (key, decoded) = (name.decoded()?, value.decoded()?);
        match (key.as_str(), decoded.as_str()) {
            // The JDBC driver's spelling, which libpq takes too.
            ("ssl", "true") => values.set("sslmode", "require".to_owned(), name.position)?,
            _ => values.set(&key, decoded, name.position)?,
        }
    }
    Ok(())
}

fn set(values: &mut Values, keyword: &str, piece: Piece<'_>) -> Result<(), ConnInfoError> {
    if piece.text.is_empty() { Ok(()) } else { values.set(keyword, piece.decoded()?, piece.position) }
}

fn read_hosts(hosts: Piece<'_>, values: &mut Values) -> Result<(), ConnInfoError> {
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    let mut rest = Some(hosts);
    while let Some(list) = rest {
        let (host, behind) = if list.text.starts_with('[') {
            let end = list.text.find(']').ok_or_else(|| list.wrong("`[` is not closed"))?;
            (list.before(end).after(0), list.after(end))
        } else {
            let end = list.text.find([':', ',']).unwrap_or(list.text.len());
            (list.before(end), Piece { text: list.text.get(end..).unwrap_or_default(), position: list.position + end })
        };
        let (between, next) = behind.split(&[',']);
        let port = match between.text.strip_prefix(':') {
            Some(_) => between.after(0).decoded()?,
            None if between.text.is_empty() => String::new(),
            None => return Err(between.wrong("only `:` and a port, `,` or `/` can follow a host")),
        };
        names.push(host.decoded()?);
        ports.push(port);
        rest = next;
    }
    if names.iter().any(|name| !name.is_empty()) {
        values.set("host", names.join(","), hosts.position)?;
    }
    if ports.iter().any(|port| !port.is_empty()) {
        values.set("port", ports.join(","), hosts.position)?;
    }
    Ok(())
}
