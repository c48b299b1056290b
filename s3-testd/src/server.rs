//! The server as tests see it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lifeboat_vocabulary::UtcTime;
use parking_lot::Mutex;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use s3s::auth::SimpleAuth;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::dto::Checksum;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;

use crate::background::Background;
use crate::body::StoredBody;
use crate::clock;
use crate::config::{Config, Tls};
use crate::faults::Faults;
use crate::objects::{Condition, NewVersion, Objects, Refusal};
use crate::request_log::{LoggedRequest, Operation, RequestLog};
use crate::s3::Backend;
use crate::service::Front;
use crate::shared::Shared;
use crate::uploads::Uploads;

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;

/// A running S3 server. Dropping it closes the port and all connections.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    scheme: &'static str,
    log: Arc<RequestLog>,
    shared: Arc<Shared>,
    _background: Background,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address is taken or not ours.
    #[error("listen on {address}")]
    Listen {
        /// Where it should listen.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The certificate or its key cannot be used.
    #[error("read the TLS certificate and key: {why}")]
    Tls {
        /// What is wrong with it.
        why: String,
    },
    /// No thread, or no event queue.
    #[error("start the server's thread")]
    Thread {
        /// What the system says.
        source: std::io::Error,
    },
}

impl Server {
    /// Starts a server on a thread of its own; it answers as soon as this returns.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let Config { access_key, secret_key, buckets, page_size, tls, listen, storage } = config;
        let acceptor = tls.as_ref().map(acceptor).transpose()?;
        let listener = bind(listen).map_err(|source| StartError::Listen { address: listen, source })?;
        let address = listener.local_addr().map_err(|source| StartError::Listen { address: listen, source })?;
        let shared = Arc::new(Shared {
            objects: Mutex::new(Objects::new(buckets)),
            uploads: Mutex::new(Uploads::default()),
            faults: Faults::default(),
            page_size: page_size.clamp(1, 1000),
            storage,
            random_etags: AtomicU64::new(1),
        });

        // The library compares signatures with the machine's clock; ours may be off, so it must not judge them.
        let mut s3_config = S3Config::default();
        s3_config.presigned_url_max_skew_time_secs = u32::MAX;
        let mut builder = S3ServiceBuilder::new(Backend(Arc::clone(&shared)));
        builder.set_auth(SimpleAuth::from_single(access_key, secret_key.expose().as_str()));
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(s3_config))));
        let log = Arc::new(RequestLog::default());
        let front = Front { s3: builder.build(), faults: shared.faults.clone(), log: Arc::clone(&log) };

        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let background = Background::run("s3-testd", serve(listener, Arc::new(front), acceptor))
            .map_err(|source| StartError::Thread { source })?;
        Ok(Self { address, scheme, log, shared, _background: background })
    }

    /// The endpoint, such as `http://127.0.0.1:40213`. Clients must use path-style addressing.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Where the server listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The port that the server listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The switches.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// The latest 20,000 requests that were answered or dropped, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.log.requests()
    }

    /// How many requests of this kind arrived, answered or not.
    #[must_use]
    pub fn count(&self, operation: Operation) -> u64 {
        self.log.count(operation)
    }

    /// How many requests of all kinds arrived, answered or not.
    #[must_use]
    pub fn count_all(&self) -> u64 {
        self.log.total()
    }

    /// The most requests that were ever running at the same time.
    #[must_use]
    pub fn in_flight_max(&self) -> usize {
        self.log.in_flight_max()
    }

    /// Forgets the log and its counters.
    pub fn forget_requests(&self) {
        self.log.clear();
    }

    /// The current content of a key, past all switches; `None` if there is none, or if its body was not kept.
    #[must_use]
    pub fn object(&self, bucket: &str, key: &str) -> Option<Bytes> {
        self.shared
            .objects
            .lock()
            .get(bucket, key, None)
            .ok()
            .and_then(|(_, content)| content.body.clone())
            .map(StoredBody::join)
    }

    /// The keys that have a current content, ascending.
    #[must_use]
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        let objects = self.shared.objects.lock();
        let Ok(bucket) = objects.bucket(bucket) else { return Vec::new() };
        let lives = |versions: &[crate::objects::Version]| versions.last().is_some_and(|last| last.content.is_some());
        bucket.keys.iter().filter(|(_, versions)| lives(versions)).map(|(key, _)| key.clone()).collect()
    }

    /// The keys that have a current content, ascending, and when each was completely there by the server's clock.
    #[must_use]
    pub fn arrivals(&self, bucket: &str) -> Vec<(String, UtcTime)> {
        let objects = self.shared.objects.lock();
        let Ok(bucket) = objects.bucket(bucket) else { return Vec::new() };
        let arrival = |versions: &[crate::objects::Version]| {
            versions.last().filter(|last| last.content.is_some()).map(|last| last.modified)
        };
        bucket.keys.iter().filter_map(|(key, versions)| Some((key.clone(), arrival(versions)?))).collect()
    }

    /// Sizes of all current contents together, in bytes; also of those whose bodies were not kept.
    #[must_use]
    pub fn bytes_stored(&self, bucket: &str) -> u64 {
        let objects = self.shared.objects.lock();
        let Ok(bucket) = objects.bucket(bucket) else { return 0 };
        bucket.keys.values().filter_map(|versions| Some(versions.last()?.content.as_ref()?.size)).sum()
    }

    /// Puts an object behind the clients' back. Fails if there is no such bucket.
    pub fn put_raw(&self, bucket: &str, key: &str, body: Bytes) -> Result<(), NoSuchBucket> {
        let content = self.shared.content(body, Checksum::default());
        let new = NewVersion { content, retention: None, condition: Condition::None };
        let at = clock::moment(&self.shared.faults);
        self.shared.objects.lock().put(bucket, key, new, at).map(drop).map_err(|_: Refusal| NoSuchBucket)
    }

    /// Removes all versions of a key, locked or not. Gives whether there was one; fails if there is no such bucket.
    pub fn remove_raw(&self, bucket: &str, key: &str) -> Result<bool, NoSuchBucket> {
        self.shared.objects.lock().erase(bucket, key).map_err(|_: Refusal| NoSuchBucket)
    }
}

/// The test names a bucket that it never made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no such bucket")]
pub struct NoSuchBucket;

pub(crate) fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor, StartError> {
    let fault = |error: &dyn std::fmt::Display| StartError::Tls { why: error.to_string() };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(tls.certificate_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| fault(&error))?;
    let key = PrivateKeyDer::from_pem_slice(tls.key_pem.expose().as_bytes()).map_err(|error| fault(&error))?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| fault(&error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(listener: TcpListener, front: Arc<Front>, acceptor: Option<TlsAcceptor>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the server cannot watch its port");
            return;
        }
    };
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                continue;
            }
        };
        let (front, acceptor) = (Arc::clone(&front), acceptor.clone());
        tokio::spawn(async move {
            if let Err(error) = connection(stream, front, acceptor).await {
                tracing::debug!(%error, "a connection ended");
            }
            drop(slot);
        });
    }
}

async fn connection(stream: TcpStream, front: Arc<Front>, acceptor: Option<TlsAcceptor>) -> Result<(), s3s::StdError> {
    // Small answers must not wait for the client's next packet: benchmarks would measure the wait.
    stream.set_nodelay(true)?;
    let service = service_fn(move |request| Arc::clone(&front).handle(request));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(None);
    match acceptor {
        Some(acceptor) => {
            let stream = acceptor.accept(stream).await?;
            http.serve_connection(TokioIo::new(stream), service).await?;
        }
        None => http.serve_connection(TokioIo::new(stream), service).await?,
    }
    Ok(())
}
