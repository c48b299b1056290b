//! `lifeboat-s3-testd`: the test server by itself, for the demo and for benchmarks.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use lifeboat_s3_testd::{Bucket, Config, Server, Storage, Tls};
use lifeboat_vocabulary::Secret;
use tokio::signal::unix::{SignalKind, signal};

/// A S3 server in memory. It forgets everything when it ends, and is for tests only.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// A bucket that exists from the start; may be given several times
    #[arg(long = "bucket", value_name = "NAME", default_value = "lifeboat")]
    buckets: Vec<String>,
    /// A bucket with versions and Object Lock; may be given several times
    #[arg(long = "locked-bucket", value_name = "NAME")]
    locked_buckets: Vec<String>,
    /// The only access key
    #[arg(long, env = "LIFEBOAT_S3_ACCESS_KEY", default_value = "test-access-key")]
    access_key: String,
    /// Its secret key
    #[arg(long, env = "LIFEBOAT_S3_SECRET_KEY", default_value = "test-secret-key", hide_env_values = true)]
    secret_key: String,
    /// PEM file with the certificate chain; serves HTTPS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Receive and check bodies of more than this many bytes, but do not keep them
    #[arg(long, value_name = "BYTES")]
    discard_larger_than: Option<usize>,
    /// Spare the MD5 in `ETag`, as servers with KMS encryption do
    #[arg(long)]
    etag_not_md5: bool,
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    let tls = match (&arguments.tls_cert, &arguments.tls_key) {
        (Some(certificate), Some(key)) => {
            Some(Tls { certificate_pem: read(certificate)?, key_pem: Secret::new(read(key)?) })
        }
        _ => None,
    };
    let plain = arguments.buckets.iter().map(|name| Bucket::plain(name));
    let locked = arguments.locked_buckets.iter().map(|name| Bucket::locked(name));
    let server = Server::start(Config {
        access_key: arguments.access_key,
        secret_key: Secret::new(arguments.secret_key),
        buckets: plain.chain(locked).collect(),
        tls,
        listen: arguments.listen,
        storage: arguments.discard_larger_than.map_or(Storage::Memory, Storage::DiscardLargerThan),
        ..Config::default()
    })?;
    server.faults().change(|plan| plan.etag_not_md5 = arguments.etag_not_md5);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
        let mut interrupted = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
        let mut output = std::io::stdout();
        writeln!(output, "{}", server.url()).and_then(|()| output.flush()).context("print the URL")?;
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        Ok(())
    })
}

fn read(path: &PathBuf) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}
