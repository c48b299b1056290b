//! Real connections to a real listener.

use super::*;
use crate::base::state::Loaded;
use crate::base::supervisor::{Supervisor, Watchdog};
use crate::deletion::freeze::Freezer;
use lifeboat_config::{SecretRef, TlsFiles};
use lifeboat_vocabulary::Clock;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

const TOKEN: &str = "correct-horse-battery-staple";

struct Scene {
    directory: tempfile::TempDir,
    parts: WebParts,
    stop: CancellationToken,
}

fn private(path: &std::path::Path, text: &str) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn scene() -> Scene {
    let directory = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (alarms, loaded) = AlarmBoard::open(directory.path(), Arc::clone(&clock));
    assert_eq!(loaded, Loaded::Fresh);
    let alarms = Arc::new(alarms);
    let freezer = Arc::new(Freezer::new(directory.path(), clock));
    let supervisor = Arc::new(Supervisor::new(Watchdog::Nobody));
    let board = Arc::new(StatusBoard::new(Arc::clone(&alarms), freezer, supervisor, Arc::new(SystemClock)));
    let settings = HttpSettings { listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))), token: None, tls: None };
    let parts = WebParts { settings, environment: Environment::default(), board, alarms };
    Scene { directory, parts, stop: CancellationToken::new() }
}

impl Scene {
    fn with_token(mut self) -> Self {
        let path = self.directory.path().join("token");
        private(&path, &format!("{TOKEN}\n"));
        self.parts.settings.token = Some(SecretRef::File(path));
        self
    }

    /// Begins to serve, and says where.
    async fn begin(&self) -> SocketAddr {
        tokio::spawn(serve(TaskContext::alone(&self.stop), self.parts.clone()));
        for _ in 0..500 {
            if let Some(url) = self.parts.board.gather(SystemClock.now()).daemon.http {
                return url.split_once("://").unwrap().1.parse().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("nothing is served: {:?}", self.parts.alarms.all());
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Says something and hears everything until the other side closes.
async fn said(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    // The server may close before it has read everything.
    let sent = stream.write_all(request.as_bytes()).await;
    let mut heard = Vec::new();
    let read = stream.read_to_end(&mut heard).await;
    assert!(!heard.is_empty() || sent.is_ok() && read.is_ok(), "{sent:?} {read:?}");
    String::from_utf8(heard).unwrap()
}

async fn ask(address: SocketAddr, request: &str) -> String {
    said(TcpStream::connect(address).await.unwrap(), request).await
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n")
}

fn code(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[tokio::test]
async fn each_path_answers_and_others_do_not() {
    let scene = scene();
    let address = scene.begin().await;
    for (path, expected) in [
        ("/", "200"),
        ("/healthz", "200"),
        ("/readyz", "503"),
        ("/metrics", "200"),
        ("/api/v1/status", "200"),
        ("/x", "404"),
    ] {
        let answer = ask(address, &get(path, "")).await;
        assert_eq!(code(&answer), expected, "{path}: {answer}");
        assert!(answer.contains("cache-control: no-store\r\n"), "{answer}");
    }
    let posted = ask(address, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
    assert!(code(&posted) == "405" && posted.contains("allow: GET, HEAD\r\n"), "{posted}");
    let head = ask(address, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(code(&head) == "200" && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn without_the_token_there_is_nothing_but_a_sign_of_life() {
    let scene = scene().with_token();
    let address = scene.begin().await;
    for (path, header, expected) in [
        ("/metrics", String::new(), "401"),
        ("/x", String::new(), "401"),
        ("/metrics", "Authorization: Bearer wrong\r\n".to_owned(), "401"),
        ("/metrics", format!("Authorization: Bearer {TOKEN}\r\n"), "200"),
        ("/api/v1/status", format!("Authorization: Bearer {TOKEN}\r\n"), "200"),
        ("/healthz", String::new(), "200"),
    ] {
        let answer = ask(address, &get(path, &header)).await;
        assert_eq!(code(&answer), expected, "{path} {header}: {answer}");
        assert!(!answer.contains(TOKEN), "{answer}");
        if expected == "401" {
            assert!(answer.contains("www-authenticate: Bearer") && answer.contains("problem+json"), "{answer}");
        }
    }
    let to = async |path: &str| {
        let answer = ask(address, &format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")).await;
        answer.lines().filter(|line| !line.starts_with("date:")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(to("/metrics").await, to("/nothing").await, "strangers do not learn which paths there are");
}

#[tokio::test]
async fn requests_that_are_too_large_are_refused() {
    let scene = scene();
    let address = scene.begin().await;
    let long = format!("X-Long: {}\r\n", "x".repeat(20 * 1024));
    assert_eq!(code(&ask(address, &get("/metrics", &long)).await), "431");
    let many: String = (0..100).map(|number| format!("X-{number}: x\r\n")).collect();
    assert_eq!(code(&ask(address, &get("/metrics", &many)).await), "431");
    assert_eq!(code(&ask(address, &get("/metrics", "Content-Length: 100000\r\n")).await), "413");
    assert_eq!(code(&ask(address, "garbage\r\n\r\n").await), "400");
}

#[tokio::test]
async fn those_who_connect_and_say_nothing_do_not_keep_others_out() {
    let scene = scene();
    let address = scene.begin().await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX + 5 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let answer = tokio::time::timeout(Duration::from_secs(20), ask(address, &get("/healthz", ""))).await;
    assert_eq!(code(&answer.unwrap()), "200");
    let mut first = silent.swap_remove(0);
    let mut heard = Vec::new();
    first.read_to_end(&mut heard).await.unwrap();
    assert!(heard.is_empty() || heard.starts_with(b"HTTP/1.1 408"), "it was closed");
}

#[tokio::test]
async fn elsewhere_it_speaks_tls() {
    let mut scene = scene().with_token();
    let made = rcgen::generate_simple_self_signed(vec!["backup.example".to_owned()]).unwrap();
    let (certificate, key) = (scene.directory.path().join("cert.pem"), scene.directory.path().join("key.pem"));
    private(&certificate, &made.cert.pem());
    private(&key, &made.signing_key.serialize_pem());
    let files = TlsFiles { certificate: certificate.clone(), key: SecretRef::File(key) };
    scene.parts.settings.tls = Some(files);
    let address = scene.begin().await;

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&certificate).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = connector.connect(ServerName::try_from("backup.example").unwrap(), stream).await.unwrap();
    let answer = said(stream, &get("/metrics", &format!("Authorization: Bearer {TOKEN}\r\n"))).await;
    assert_eq!(code(&answer), "200", "{answer}");

    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(get("/metrics", "").as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    if plain.read_to_end(&mut heard).await.is_ok() {
        assert!(!String::from_utf8_lossy(&heard).contains("HTTP"), "nothing is said in the clear");
    }
}

#[tokio::test]
async fn whatever_keeps_it_from_listening_is_an_alarm_and_no_end() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for fault in ["the port is taken", "the token is too short", "the certificate is none"] {
        let mut scene = scene().with_token();
        match fault {
            "the port is taken" => scene.parts.settings.listen = Some(taken.local_addr().unwrap()),
            "the token is too short" => {
                let path = scene.directory.path().join("short");
                private(&path, "short");
                scene.parts.settings.token = Some(SecretRef::File(path));
            }
            _ => {
                let path = scene.directory.path().join("none");
                private(&path, "none");
                scene.parts.settings.tls = Some(TlsFiles { certificate: path.clone(), key: SecretRef::File(path) });
            }
        }
        let serving = tokio::spawn(serve(TaskContext::alone(&scene.stop), scene.parts.clone()));
        let mut raised = Vec::new();
        for _ in 0..500 {
            raised = scene.parts.alarms.raised(None);
            if !raised.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(
            raised.iter().map(|alarm| alarm.id.to_string()).collect::<Vec<_>>(),
            ["http-unavailable"],
            "{fault}"
        );
        assert!(!serving.is_finished(), "{fault}");
        scene.stop.cancel();
        serving.await.unwrap().unwrap();
    }
}
