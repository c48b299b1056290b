//! The program for the demo and for benchmarks.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aws_smithy_http_client::tls::TrustStore;

use crate::common::{client_with, get, http, put, refusal};

fn program(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat-s3-testd"));
    command.args(["--listen", "127.0.0.1:0"]).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn url(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    line.trim().to_owned()
}

fn end(mut child: Child) {
    let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match child.try_wait().unwrap() {
            Some(status) => break assert!(status.success(), "SIGTERM is an orderly end: {status}"),
            None => assert!(Instant::now() < deadline),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn it_serves_the_buckets_and_keys_it_was_given_until_sigterm() {
    let arguments = ["--bucket", "lifeboat", "--bucket", "two", "--locked-bucket", "locked", "--secret-key", "other"];
    let mut child = program(&arguments);
    let url = url(&mut child);
    let stranger = client_with(&url, "test-secret-key", http(TrustStore::default()));
    assert_eq!(refusal(stranger.list_objects_v2().bucket("two").send().await).0, "SignatureDoesNotMatch");
    let client = client_with(&url, "other", http(TrustStore::default()));
    put(&client, "k", b"content").await;
    assert_eq!(get(&client, "k").await, b"content");
    for bucket in ["two", "locked"] {
        client.head_bucket().bucket(bucket).send().await.unwrap();
    }
    end(child);
}

#[tokio::test]
async fn it_serves_https_with_a_certificate_from_files() {
    let directory = tempfile::tempdir().unwrap();
    let issued = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let file = |name: &str, text: String| {
        let path = directory.path().join(name);
        std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), text.as_bytes()).unwrap();
        path.display().to_string()
    };
    let (certificate, key) = (file("cert.pem", issued.cert.pem()), file("key.pem", issued.signing_key.serialize_pem()));
    assert!(!program(&["--tls-cert", &certificate]).wait().unwrap().success(), "a certificate needs its key");
    let mut child = program(&["--tls-cert", &certificate, "--tls-key", &key, "--etag-not-md5"]);
    let url = url(&mut child);
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let trust = TrustStore::empty().with_pem_certificate(issued.cert.pem());
    let client = client_with(&url, "test-secret-key", http(trust));
    put(&client, "k", b"content").await;
    assert_eq!(get(&client, "k").await, b"content");
    end(child);
}
