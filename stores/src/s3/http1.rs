//! HTTP/1.1 over the network: a connection carries one request at a time.
//!
//! Over HTTP/2 WAL and packs would share one connection: what stops one stops all. And a request that is given up would end its stream
//! alone, so that the next attempt would go into the same dead connection. The SDK's own client offers HTTP/2 to every server, and has no
//! switch for it.

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use hyper::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::{self, Client, connect};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tower_service::Service;

use crate::error::TimedOut;

/// S3 closes idle connections after some 20 s; one that is reused a moment too late costs a failed request.
const POOL_IDLE: Duration = Duration::from_secs(15);
const POOL_IDLE_PER_HOST: usize = 32;
/// A connection and its TLS. On a line that our own uploads fill, a packet waits for seconds in the queue of a router.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Of that for all addresses of a name together, each the same share: one that does not answer leaves time for the next, and for TLS.
const ADDRESSES_TIMEOUT: Duration = Duration::from_secs(15);
/// How long what was sent may stay without an acknowledgement. A request that was given up leaves its connection to the system, with what
/// its buffers hold; by itself that tries for a quarter of an hour. Twice as long as a request waits for its body to move.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(120);
/// When a connection on which nothing moves is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Makes connections, with TLS where the address says so.
#[derive(Clone)]
struct Connect(HttpsConnector<connect::HttpConnector>);

impl Service<Uri> for Connect {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let connecting = self.0.call(address);
        Box::pin(async move {
            let why = || format!("no connection within {} s", CONNECT_TIMEOUT.as_secs());
            tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| TimedOut { why: why() })?
        })
    }
}

#[derive(Clone, Debug)]
struct Http1(Client<Connect, SdkBody>);

/// A client that trusts `roots`.
///
/// # Errors
/// If TLS cannot be prepared.
pub(crate) fn client(roots: RootCertStore) -> Result<SharedHttpClient, rustls::Error> {
    Ok(SharedHttpClient::new(Http1::new(roots)?))
}

impl Http1 {
    fn new(roots: RootCertStore) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut tls = tls.with_root_certificates(roots).with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut tcp = connect::HttpConnector::new();
        tcp.enforce_http(false);
        // A small request does not wait until an earlier one is confirmed.
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(ADDRESSES_TIMEOUT));
        tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX));
        tcp.set_keepalive(Some(KEEPALIVE));
        let connect = Connect(HttpsConnector::from((tcp, tls)));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_IDLE_PER_HOST)
            .build(connect);
        Ok(Self(client))
    }
}

impl HttpClient for Http1 {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Http1 {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let mut request = match request.try_into_http1x() {
            Ok(request) => request,
            Err(error) => return HttpConnectorFuture::ready(Err(ConnectorError::user(error.into()))),
        };
        let connection = connect::capture_connection(&mut request);
        let answer = self.0.request(request);
        HttpConnectorFuture::new(async move {
            let answer = answer.await.map_err(classified)?;
            if answer.status().is_server_error()
                && let Some(connected) = connection.connection_metadata().as_ref()
            {
                // It leads to a server that is ill: the next attempt takes another one, which may lead to a healthy server.
                connected.poison();
            }
            let answer = HttpResponse::try_from(answer.map(SdkBody::from_body_1_x));
            answer.map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// What the SDK tells apart.
fn classified(error: legacy::Error) -> ConnectorError {
    let first: &(dyn Error + 'static) = &error;
    let causes = || std::iter::successors(Some(first), |error| (*error).source());
    let of_hyper = causes().find_map(|cause| cause.downcast_ref::<hyper::Error>());
    if causes().any(|cause| cause.is::<TimedOut>()) {
        ConnectorError::timeout(error.into())
    } else if of_hyper.is_some_and(hyper::Error::is_user) {
        ConnectorError::user(error.into())
    } else if error.is_connect()
        || of_hyper.is_some_and(|error| error.is_closed() || error.is_canceled())
        || causes().any(|cause| cause.is::<io::Error>())
    {
        ConnectorError::io(error.into())
    } else {
        ConnectorError::other(error.into(), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use rustls::ServerConfig;
    use rustls_pki_types::PrivatePkcs8KeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    #[tokio::test]
    async fn a_server_that_would_speak_http_2_is_spoken_to_in_http_1() {
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut tls = tls.with_no_client_auth().with_single_cert(vec![issued.cert.der().clone()], key.into()).unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut connection = TlsAcceptor::from(Arc::new(tls)).accept(tcp).await.unwrap();
            let chosen = connection.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
            let mut request = [0; 16];
            connection.read_exact(&mut request).await.unwrap();
            connection.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            (chosen, request, connection)
        };
        let mut roots = RootCertStore::empty();
        roots.add(issued.cert.der().clone()).unwrap();
        let request = HttpRequest::get(format!("https://localhost:{port}/x")).unwrap();
        let client = Http1::new(roots).unwrap();
        let ((chosen, request, _connection), answer) = tokio::join!(server, client.call(request));
        assert_eq!(chosen.as_deref(), Some(&b"http/1.1"[..]));
        assert!(request.starts_with(b"GET /x HTTP/1.1"), "{request:?}");
        assert_eq!(answer.unwrap().status().as_u16(), 204);
    }

    #[tokio::test]
    async fn after_an_error_of_the_server_the_next_request_takes_another_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = Http1::new(RootCertStore::empty()).unwrap();
        let get = || client.call(HttpRequest::get(format!("http://127.0.0.1:{port}/")).unwrap());
        let mut connections = Vec::new();
        for status in ["503 Slow Down", "200 OK"] {
            let server = async {
                let (mut connection, _) = listener.accept().await.unwrap();
                connection.read_exact(&mut [0; 16]).await.unwrap();
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                connection.write_all(answer.as_bytes()).await.unwrap();
                connection
            };
            let both = async { tokio::join!(server, get()) };
            let (connection, answer) = tokio::time::timeout(Duration::from_secs(10), both).await.expect(status);
            assert!(status.starts_with(&answer.unwrap().status().as_u16().to_string()));
            // It stays open: the client decides.
            connections.push(connection);
        }
        assert_eq!(connections.len(), 2);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_a_fault_of_the_way() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let request = HttpRequest::get(format!("http://127.0.0.1:{port}/")).unwrap();
        let error = Http1::new(RootCertStore::empty()).unwrap().call(request).await.unwrap_err();
        assert!(error.is_io(), "{error:?}");
    }
}
