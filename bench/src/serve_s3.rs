//! One region as a process of its own: the project's S3 test server over TLS, which answers commands on its standard
//! input. It ends when that is closed, so it cannot outlive the benchmark.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use lifeboat_s3_testd::{Bucket, Config, Server, Tls};
use lifeboat_vocabulary::Secret;
use serde::{Deserialize, Serialize};

/// One region.
#[derive(Debug, Args)]
pub(crate) struct ServeS3 {
    /// Where to listen.
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// Buckets that exist from the start.
    #[arg(long = "bucket")]
    pub(crate) buckets: Vec<String>,
    /// PEM file with the certificate chain.
    #[arg(long)]
    pub(crate) tls_cert: PathBuf,
    /// PEM file with its key.
    #[arg(long)]
    pub(crate) tls_key: PathBuf,
}

/// The only access key of every region. The secret belongs to a server on this machine that lives for one run.
pub(crate) const ACCESS_KEY: &str = "bench-access-key";
/// Its secret key.
pub(crate) const SECRET_KEY: &str = "bench-secret-key";

/// What a bucket holds, and what was asked of the region.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Contents {
    /// Objects in the bucket.
    pub(crate) objects: u64,
    /// Bytes of these objects.
    pub(crate) bytes: u64,
    /// Requests since the count was reset, in all buckets.
    pub(crate) requests: u64,
}

/// An object, and when it was completely there.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Arrival {
    pub(crate) key: String,
    /// **Microseconds** since 1970 by the machine's clock.
    pub(crate) unix_micros: i64,
}

/// Serves until standard input ends.
pub(crate) fn run(arguments: ServeS3) -> Result<()> {
    let read = |path| std::fs::read_to_string(path).with_context(|| format!("read {path:?}"));
    let server = Server::start(Config {
        access_key: ACCESS_KEY.to_owned(),
        secret_key: Secret::new(SECRET_KEY.to_owned()),
        buckets: arguments.buckets.iter().map(|name| Bucket::plain(name)).collect(),
        tls: Some(Tls { certificate_pem: read(&arguments.tls_cert)?, key_pem: Secret::new(read(&arguments.tls_key)?) }),
        listen: arguments.listen,
        ..Config::default()
    })
    .context("start the region's server")?;
    // Nobody's MD5 is computed, although one tool sends it: on one machine the server's work is the tool's waiting.
    server.faults().change(|plan| (plan.etag_not_md5, plan.trust_content_md5) = (true, true));
    say(&server.port().to_string())?;
    for line in std::io::stdin().lines() {
        let line = line.context("read a command")?;
        say(&answer(&server, &line)?)?;
    }
    Ok(())
}

fn say(line: &str) -> Result<()> {
    let mut output = std::io::stdout();
    writeln!(output, "{line}").and_then(|()| output.flush()).context("answer a command")
}

fn answer(server: &Server, line: &str) -> Result<String> {
    match line.split_once(' ') {
        Some(("contents", bucket)) => {
            let contents = Contents {
                objects: server.keys(bucket).len() as u64,
                bytes: server.bytes_stored(bucket),
                requests: server.count_all(),
            };
            serde_json::to_string(&contents).context("write the contents as JSON")
        }
        Some(("arrivals", bucket)) => {
            let arrivals = server.arrivals(bucket).into_iter();
            let arrivals = arrivals.map(|(key, at)| Arrival { key, unix_micros: at.as_unix_micros() });
            serde_json::to_string(&arrivals.collect::<Vec<_>>()).context("write the arrivals as JSON")
        }
        Some(("empty", bucket)) => {
            for key in server.keys(bucket) {
                server.remove_raw(bucket, &key).with_context(|| format!("remove {key} from {bucket}"))?;
            }
            Ok("emptied".to_owned())
        }
        None if line == "count-from-0" => {
            server.forget_requests();
            Ok("counting".to_owned())
        }
        _ => bail!("`{line}` is not a command"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_vocabulary::{Clock, SystemClock};

    #[test]
    fn a_region_tells_what_it_holds_and_forgets_it_on_command() {
        let server = Server::start(Config::default()).unwrap();
        assert!(answer(&server, "burn lifeboat").is_err());
        assert!(answer(&server, "contents").is_err());
        for (key, body) in [("a", "12345"), ("b", "678")] {
            server.put_raw("lifeboat", key, body.into()).unwrap();
        }
        let contents = |server: &Server| -> Contents {
            serde_json::from_str(&answer(server, "contents lifeboat").unwrap()).unwrap()
        };
        assert_eq!(contents(&server), Contents { objects: 2, bytes: 8, requests: 0 });
        let later = SystemClock.now().as_unix_micros();
        server.put_raw("lifeboat", "a", "again".into()).unwrap();
        let arrivals: Vec<Arrival> = serde_json::from_str(&answer(&server, "arrivals lifeboat").unwrap()).unwrap();
        let at = |index: usize| arrivals[index].unix_micros;
        assert_eq!(arrivals.iter().map(|arrival| arrival.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(at(0) >= later && at(1) <= later, "{arrivals:?}");
        answer(&server, "empty lifeboat").unwrap();
        answer(&server, "count-from-0").unwrap();
        assert_eq!(contents(&server), Contents::default());
    }
}
