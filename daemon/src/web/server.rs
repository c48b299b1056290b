//! The listener: few connections, small requests, deadlines on everything.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use lifeboat_config::{Environment, HttpSettings};
use lifeboat_vocabulary::{Clock, SystemClock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::base::alarms::board::{Alarm, AlarmBoard, Source, SourceKind, Wrongs};
use crate::base::supervisor::TaskContext;
use crate::model::snapshot::StatusSnapshot;
use crate::status::board::StatusBoard;
use crate::web::access::{Access, tls};
use crate::web::answers::{Answer, Path, answer, problem, refusal};

/// Connections that are served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may take from its beginning to its end: each carries one request.
const CONNECTION_MAX: Duration = Duration::from_secs(15);
/// How long the head of a request may take.
const HEAD_MAX: Duration = Duration::from_secs(5);
/// The longest head of a request, in **bytes**, and its most headers.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// The longest body of a request, in **bytes**; nothing here needs one.
const BODY_BYTES_MAX: u64 = 4096;
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

struct Front {
    access: Access,
    status: watch::Receiver<Arc<StatusSnapshot>>,
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
            Ok((listener, acceptor, front, url)) => {
                parts.alarms.forget(&source);
                tracing::info!(%url, "status and metrics are served");
                parts.board.serves(Some(url));
                accept(&context, listener, acceptor, Arc::new(front)).await;
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

type Begun = (TcpListener, Option<TlsAcceptor>, Front, String);

async fn begin(parts: &WebParts, address: SocketAddr) -> anyhow::Result<Begun> {
    let access = Access::read(&parts.settings, &parts.environment)?;
    let acceptor = tls(&parts.settings, &parts.environment)?;
    let listener = TcpListener::bind(address).await.context("listen")?;
    let scheme = if acceptor.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", listener.local_addr().context("ask for the port")?);
    Ok((listener, acceptor, Front { access, status: parts.board.watch() }, url))
}

async fn accept(context: &TaskContext, listener: TcpListener, acceptor: Option<TlsAcceptor>, front: Arc<Front>) {
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
                let (acceptor, front) = (acceptor.clone(), Arc::clone(&front));
                connections.spawn(async move {
                    let served = connection(stream, acceptor, front);
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

async fn connection(stream: TcpStream, acceptor: Option<TlsAcceptor>, front: Arc<Front>) {
    match acceptor {
        None => one_request(stream, front).await,
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => one_request(stream, front).await,
            Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
        },
    }
}

async fn one_request(stream: impl AsyncRead + AsyncWrite + Unpin, front: Arc<Front>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let front = Arc::clone(&front);
        async move { Ok::<_, Infallible>(front.respond(&request)) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).keep_alive(false);
    http.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX).half_close(false);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a request was not answered");
    }
}

impl Front {
    fn respond<B: Body>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let answer = self.answer(request);
        let status = answer.status;
        let mut response = Response::new(Full::new(Bytes::from(answer.body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"lifeboat\""));
        }
        response
    }

    fn answer<B: Body>(&self, request: &Request<B>) -> Answer {
        let path = Path::parse(request.uri().path());
        // Who may not ask does not learn what there is to ask for.
        if !path.is_some_and(Path::is_public) && !self.access.allows(request.headers()) {
            return problem(StatusCode::UNAUTHORIZED, "send the header Authorization: Bearer TOKEN");
        }
        if let Some(refused) = refusal(request.method(), request.uri().path()) {
            return refused;
        }
        if request.body().size_hint().lower() > BODY_BYTES_MAX {
            return problem(StatusCode::PAYLOAD_TOO_LARGE, "nothing here takes a body");
        }
        match path {
            Some(path) => {
                let latest = Arc::clone(&self.status.borrow());
                answer(path, &latest, SystemClock.now())
            }
            None => problem(StatusCode::NOT_FOUND, "there is no such page"),
        }
    }
}

#[cfg(test)]
mod tests;
