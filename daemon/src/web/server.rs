//! The listener: few connections, small requests, deadlines on everything.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use lifeboat_config::{Environment, HttpSettings};
use lifeboat_vocabulary::SystemClock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::base::alarms::board::{Alarm, AlarmBoard, Source, SourceKind, Wrongs};
use crate::base::supervisor::TaskContext;
use crate::status::board::StatusBoard;
use crate::web::access::{Access, tls};
use crate::web::router::router;

/// Connections that are served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may take from its beginning to its end: each carries one request.
const CONNECTION_MAX: Duration = Duration::from_secs(15);
/// How long the head of a request may take.
const HEAD_MAX: Duration = Duration::from_secs(5);
/// The longest head of a request, in **bytes**, and its most headers.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// When a listener that could not begin is tried again.
const PAUSE: Duration = Duration::from_secs(15);

/// What the server works with.
#[derive(Clone)]
pub struct WebParts {
    /// Where it listens, and who may ask.
    pub settings: HttpSettings,
    /// Where secrets are.
    pub environment: Environment,
    /// What is served.
    pub board: Arc<StatusBoard>,
    /// Where it is told what is wrong.
    pub alarms: Arc<AlarmBoard>,
}

/// Serves until it is told to stop. Whatever keeps it from listening is an alarm and is tried again: backups do not depend on
/// it.
///
/// # Errors
/// None so far; the supervisor wants to know.
pub async fn serve(context: TaskContext, parts: WebParts) -> anyhow::Result<()> {
    let source = Source::daemon(SourceKind::Http);
    let Some(address) = parts.settings.listen else {
        parts.alarms.forget(&source);
        context.progress.waiting("the end: nothing is served");
        context.stop.cancelled().await;
        return Ok(());
    };
    loop {
        match begin(&parts, address).await {
            Ok((listener, acceptor, router, url)) => {
                parts.alarms.forget(&source);
                tracing::info!(%url, "status and metrics are served");
                parts.board.serves(Some(url));
                accept(&context, listener, acceptor, router).await;
                parts.board.serves(None);
                return Ok(());
            }
            Err(error) => {
                let text = format!("status and metrics are not served at {address}: {error:#}; it is tried again");
                let mut wrong = Wrongs::default();
                wrong.add(Alarm::HttpUnavailable, text);
                parts.alarms.report(&source, wrong);
            }
        }
        context.progress.waiting("another try to listen");
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

type Begun = (TcpListener, Option<TlsAcceptor>, Router, String);

async fn begin(parts: &WebParts, address: SocketAddr) -> anyhow::Result<Begun> {
    let access = Access::read(&parts.settings, &parts.environment)?;
    let acceptor = tls(&parts.settings, &parts.environment)?;
    let listener = TcpListener::bind(address).await.context("listen")?;
    let scheme = if acceptor.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", listener.local_addr().context("ask for the port")?);
    let router = router(access, parts.board.watch(), Arc::new(SystemClock));
    Ok((listener, acceptor, router, url))
}

async fn accept(context: &TaskContext, listener: TcpListener, acceptor: Option<TlsAcceptor>, router: Router) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        context.progress.waiting("a request");
        let accepted = tokio::select! {
            () = context.stop.cancelled() => break,
            accepted = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, listener.accept().await)
            } => accepted,
            // A connection that is over is forgotten.
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            (Ok(permit), Ok((stream, _))) => {
                let (acceptor, router) = (acceptor.clone(), router.clone());
                connections.spawn(async move {
                    let served = connection(stream, acceptor, router);
                    if tokio::time::timeout(CONNECTION_MAX, served).await.is_err() {
                        tracing::debug!("a connection took too long");
                    }
                    drop(permit);
                });
            }
            // Too many open files, most likely: the next ones wait in the kernel's queue meanwhile.
            (_, Err(error)) => {
                tracing::debug!(%error, "no connection can be taken just now");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            (Err(_), _) => break,
        }
    }
    connections.shutdown().await;
}

async fn connection(stream: TcpStream, acceptor: Option<TlsAcceptor>, router: Router) {
    match acceptor {
        None => one_request(stream, router).await,
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => one_request(stream, router).await,
            Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
        },
    }
}

async fn one_request(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).keep_alive(false);
    http.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX).half_close(false);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await {
        tracing::debug!(%error, "a request was not answered");
    }
}

#[cfg(test)]
mod tests;
