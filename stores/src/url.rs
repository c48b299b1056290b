//! Where a region keeps its objects, and how to reach a server: the two kinds of address.

use std::fmt;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use crate::key::ObjectKey;

/// Where a region keeps its objects: `s3://bucket/prefix` or `file:///directory`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// A bucket, and the folder in it below which everything lies.
    S3 {
        /// The bucket's name: 3 to 63 of `a-z 0-9 . -`.
        bucket: String,
        /// The folder, without a leading or trailing `/`.
        prefix: Option<ObjectKey>,
    },
    /// An absolute directory on this machine.
    Directory(PathBuf),
}

/// A text that is not the address of a store. Texts that may hold a password are not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Neither of the known schemes.
    #[error("`{text}` is not the address of a store (s3://bucket/prefix or file:///directory)")]
    Scheme {
        /// What was given.
        text: String,
    },
    /// A kind of store that this version has no driver for.
    #[error("stores at {scheme}:// are not available in this version (s3:// and file:/// are)")]
    NotAvailable {
        /// `gs` or `az`.
        scheme: &'static str,
    },
    /// Credentials inside the address.
    #[error("the address of a store holds an `@`: credentials do not belong there, name a credentials file instead")]
    Credentials,
    /// Not the name of a bucket.
    #[error("`{text}` is not the name of a bucket (3 to 63 of a-z, 0-9, `.` and -)")]
    Bucket {
        /// What was given.
        text: String,
    },
    /// Not a folder inside a bucket.
    #[error("`{text}` is not a folder in a bucket (at most 200 of a-z, A-Z, 0-9, `.`, _, - and /)")]
    Prefix {
        /// What was given.
        text: String,
    },
    /// Not an absolute directory.
    #[error("`{text}` is not an absolute directory without `..` (three slashes: file:///var/backups)")]
    Directory {
        /// What was given.
        text: String,
    },
    /// Parameters after `?` where none are read.
    #[error("`?` and what follows are understood on the command line only; in a file each has a key of its own")]
    Query,
    /// A `%` that is not followed by two hexadecimal digits, or bytes that are not UTF-8.
    #[error("`{text}` has a `%` that does not stand for a character")]
    Percent {
        /// What was given.
        text: String,
    },
    /// Not the address of a server.
    #[error("`{text}` is not the address of a server (https://host or https://host:port, nothing after it)")]
    Endpoint {
        /// What was given.
        text: String,
    },
}

/// The longest folder below a bucket, so that with any key the 1024 bytes of S3 are never reached.
const PREFIX_BYTES_MAX: usize = 200;

impl FromStr for StoreUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('@') {
            return Err(UrlError::Credentials);
        }
        if text.contains('?') {
            return Err(UrlError::Query);
        }
        match text.split_once("://") {
            Some(("s3", rest)) => s3(rest),
            Some(("file", rest)) => directory(rest),
            Some(("gs", _)) => Err(UrlError::NotAvailable { scheme: "gs" }),
            Some(("az", _)) => Err(UrlError::NotAvailable { scheme: "az" }),
            _ => Err(UrlError::Scheme { text: text.to_owned() }),
        }
    }
}

fn s3(rest: &str) -> Result<StoreUrl, UrlError> {
    let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(allowed) || bucket.starts_with(['.', '-']) {
        return Err(UrlError::Bucket { text: bucket.to_owned() });
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    let prefix = match path {
        "" => None,
        path if path.len() <= PREFIX_BYTES_MAX => {
            Some(path.parse().map_err(|_| UrlError::Prefix { text: path.to_owned() })?)
        }
        path => return Err(UrlError::Prefix { text: path.to_owned() }),
    };
    Ok(StoreUrl::S3 { bucket: bucket.to_owned(), prefix })
}

fn directory(rest: &str) -> Result<StoreUrl, UrlError> {
    let decoded = percent_decoded(rest)?;
    let holds_nul = decoded.contains('\0');
    let path = PathBuf::from(decoded);
    let inside = |path: &Path| !path.components().any(|part| matches!(part, Component::ParentDir | Component::CurDir));
    if path.is_absolute() && inside(&path) && !holds_nul {
        Ok(StoreUrl::Directory(path))
    } else {
        Err(UrlError::Directory { text: rest.to_owned() })
    }
}

/// Turns `%20` into a blank, and so on. Source: RFC 3986 section 2.1.
pub(crate) fn percent_decoded(text: &str) -> Result<String, UrlError> {
    let fault = || UrlError::Percent { text: text.to_owned() };
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or("").as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or_else(fault)?;
        let decoded = data_encoding::HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| fault())?;
        bytes.extend_from_slice(&decoded);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).map_err(|_| fault())
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, prefix: None } => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix: Some(prefix) } => write!(f, "s3://{bucket}/{prefix}"),
            Self::Directory(path) => write!(f, "file://{}", path.display()),
        }
    }
}

/// The address of a server that speaks S3: `https://host`, `https://host:port`, or the same with `http`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    text: String,
    host: String,
    transport: Transport,
}

/// Whether the way to a server is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `https`.
    Tls,
    /// `http`: anybody on the way can read and change what is sent.
    Plain,
}

impl Endpoint {
    /// The address as text, without a trailing `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the way there is encrypted.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The host as an address, where it is one and not a name.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.host.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }

    /// Whether what is sent there stays on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.address().is_some_and(|address| address.is_loopback())
    }
}

impl FromStr for Endpoint {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains('@') {
            return Err(UrlError::Credentials);
        }
        let fault = || UrlError::Endpoint { text: text.to_owned() };
        let text = text.strip_suffix('/').unwrap_or(text);
        let (transport, authority) = match text.split_once("://") {
            Some(("https", rest)) => (Transport::Tls, rest),
            Some(("http", rest)) => (Transport::Plain, rest),
            _ => return Err(fault()),
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let in_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host_fits = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => (1..=253).contains(&host.len()) && host.bytes().all(in_name),
        };
        let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
        if host_fits && port_fits {
            Ok(Self { text: text.to_owned(), host: host.to_owned(), transport })
        } else {
            Err(fault())
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_text_makes_the_readers_panic_and_what_they_accept_reads_back(text in "(s3://|file:///|https?://)?\\PC{0,40}") {
            if let Ok(url) = text.parse::<StoreUrl>() && !matches!(url, StoreUrl::Directory(_)) {
                prop_assert_eq!(url.to_string().parse::<StoreUrl>().unwrap(), url);
            }
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.as_str().parse::<Endpoint>().unwrap(), endpoint.clone());
            }
        }
    }

    #[test]
    fn addresses_that_mean_nothing_or_leave_the_folder_are_refused() {
        for text in [
            "",
            "/var/backups",
            "http://bucket/x",
            "s3://",
            "s3://ab",
            "s3://Bucket",
            "s3://-bucket",
            "s3://bucket//x",
            "s3://bucket/../x",
            "s3://bucket/a b",
            "file://relative",
            "file:///a/../b",
            "file:///a%2",
            "file:///%00",
            "file:///a%zz",
            "s3://bucket/x?region=y",
        ] {
            assert!(text.parse::<StoreUrl>().is_err(), "{text}");
        }
        assert_eq!("gs://bucket".parse::<StoreUrl>(), Err(UrlError::NotAvailable { scheme: "gs" }));
        assert_eq!("az://account/c".parse::<StoreUrl>(), Err(UrlError::NotAvailable { scheme: "az" }));
    }

    #[test]
    fn an_address_with_a_password_is_refused_without_repeating_it() {
        let error = "s3://key:hunter2@bucket/x".parse::<StoreUrl>().unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
        let error = "https://key:hunter2@host".parse::<Endpoint>().unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn an_address_is_shown_as_it_was_given() {
        for (text, shown) in [
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://acme.backups/pg/main/", "s3://acme.backups/pg/main"),
            ("file:///var/my%20backups", "file:///var/my backups"),
        ] {
            assert_eq!(text.parse::<StoreUrl>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn an_endpoint_is_a_scheme_a_host_and_perhaps_a_port() {
        for text in [
            "",
            "host",
            "ftp://host",
            "https://",
            "https://host/path",
            "https://host:0",
            "https://host:x",
            "https://ho st",
            "http://[::1",
            "http://[zz]:9000",
            "https://host:99999",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
        for (text, transport, loopback) in [
            ("https://s3.example.com", Transport::Tls, false),
            ("http://127.0.0.1:9000/", Transport::Plain, true),
            ("http://127.0.1.2:9000", Transport::Plain, true),
            ("http://[::1]:9000", Transport::Plain, true),
            ("http://localhost", Transport::Plain, true),
            ("http://localhost.example.com", Transport::Plain, false),
            ("http://10.0.0.1", Transport::Plain, false),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.transport(), endpoint.is_loopback()), (transport, loopback), "{text}");
        }
    }
}
