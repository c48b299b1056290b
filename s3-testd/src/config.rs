//! What a test server is made of.

use std::net::{Ipv4Addr, SocketAddr};

use lifeboat_vocabulary::Secret;

/// Everything that [`crate::Server::start`] needs to know. `Config::default()` is one unversioned bucket `lifeboat` on
/// a free port of 127.0.0.1, with pages of 1000 keys.
#[derive(Debug)]
pub struct Config {
    /// The only access key that the server knows.
    pub access_key: String,
    /// The secret key that belongs to it.
    pub secret_key: Secret<String>,
    /// Buckets that exist from the start; clients may create more.
    pub buckets: Vec<Bucket>,
    /// Keys on one page of a listing at the most, whatever the client asks for: 1 to 1000. Small pages make clients
    /// prove that they ask for the next one.
    pub page_size: usize,
    /// Serve HTTPS with this certificate; plain HTTP without.
    pub tls: Option<Tls>,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What happens to the bodies of objects.
    pub storage: Storage,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            access_key: "test-access-key".to_owned(),
            secret_key: Secret::new("test-secret-key".to_owned()),
            buckets: vec![Bucket::plain("lifeboat")],
            page_size: 1000,
            tls: None,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            storage: Storage::Memory,
        }
    }
}

/// A bucket that exists from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// 3 to 63 bytes of `a-z 0-9 . -`.
    pub name: String,
    /// What it remembers.
    pub history: History,
}

impl Bucket {
    /// A bucket that keeps the newest content of each key only.
    #[must_use]
    pub fn plain(name: &str) -> Self {
        Self { name: name.to_owned(), history: History::Latest }
    }

    /// A bucket that keeps all versions and hides deleted keys behind delete markers.
    #[must_use]
    pub fn versioned(name: &str) -> Self {
        Self { name: name.to_owned(), history: History::Versions }
    }

    /// A versioned bucket whose objects may carry a retention.
    #[must_use]
    pub fn locked(name: &str) -> Self {
        Self { name: name.to_owned(), history: History::ObjectLock }
    }
}

/// What a bucket remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// The newest content of each key.
    Latest,
    /// Every version, and delete markers.
    Versions,
    /// Every version; Object Lock is enabled.
    ObjectLock,
}

/// A certificate chain and its key, both as PEM text.
#[derive(Debug)]
pub struct Tls {
    /// The server's certificate, followed by the intermediate ones.
    pub certificate_pem: String,
    /// The private key.
    pub key_pem: Secret<String>,
}

/// What happens to the bodies of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Kept in memory.
    Memory,
    /// Bodies of more than this many bytes are received, checked, counted and dropped; reading one is answered with
    /// 403 `InvalidObjectState`. For benchmarks that write more than the machine has memory.
    DiscardLargerThan(usize),
}
