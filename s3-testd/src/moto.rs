//! A second opinion: moto, a S3 server that others wrote, from the Python package index.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

/// What pip is asked for, in this order: the release that the tests were written against, then its successors.
const REQUIREMENTS: [&str; 2] = ["moto[server]==5.2.5", "moto[server]>=5.2,<5.3"];

/// How long the server may take until it answers; a cold start reads a few thousand Python files.
const START_MAX: Duration = Duration::from_secs(60);

/// Bytes of an answer that we read.
const ANSWER_MAX: u64 = 64 * 1024;

/// A running moto server with one bucket. Dropping it ends the process. Calls block: from asynchronous code, start it
/// on a blocking thread. It takes any credentials.
#[derive(Debug)]
pub struct Moto {
    process: Child,
    address: SocketAddr,
}

/// Why moto is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MotoError {
    /// There is nowhere to install it.
    #[error("find a cache directory: set LIFEBOAT_TEST_CACHE or HOME")]
    NoCache,
    /// The cache cannot be written, or a process cannot be started.
    #[error("{doing}")]
    System {
        /// What was being done.
        doing: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// Python itself, or its module for virtual environments, is missing.
    #[error("make a Python environment: install the Debian packages python3 and python3-venv ({said})")]
    NoPython {
        /// What Python said, or why it could not be started.
        said: String,
    },
    /// The package index does not give us moto.
    #[error("install moto with pip: {said}")]
    Install {
        /// The end of what pip said.
        said: String,
    },
    /// It started and then did not answer as a S3 server.
    #[error("start moto: {why}")]
    NoAnswer {
        /// What happened instead.
        why: String,
    },
}

impl Moto {
    /// Installs moto on first use (below `LIFEBOAT_TEST_CACHE`, or `~/.cache/lifeboat-test`), starts it on a free port
    /// of 127.0.0.1, waits until it answers, and makes `bucket`.
    pub fn start(bucket: &str) -> Result<Self, MotoError> {
        let bin = install(&cache()?.join("moto"))?;
        let address = free_port().map_err(|source| system("find a free port", source))?;
        let process = Command::new(bin.join("moto_server"))
            .args(["-H", "127.0.0.1", "-p", &address.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| system("start moto_server", source))?;
        let mut moto = Self { process, address };
        moto.wait_until_it_answers()?;
        match request(address, "PUT", &format!("/{bucket}")) {
            Ok(200) => Ok(moto),
            Ok(status) => Err(MotoError::NoAnswer { why: format!("making the bucket was answered with {status}") }),
            Err(source) => Err(system("make a bucket in moto", source)),
        }
    }

    /// The endpoint, such as `http://127.0.0.1:40213`. Clients must use path-style addressing.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where moto listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    fn wait_until_it_answers(&mut self) -> Result<(), MotoError> {
        let deadline = Instant::now() + START_MAX;
        loop {
            let ended = self.process.try_wait().map_err(|source| system("watch moto_server", source))?;
            if let Some(status) = ended {
                return Err(MotoError::NoAnswer { why: format!("moto_server ended with {status}") });
            }
            match request(self.address, "GET", "/moto-api/") {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(MotoError::NoAnswer { why: format!("no answer within {START_MAX:?}: {error}") });
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait()) {
            tracing::warn!(%error, "moto_server could not be ended");
        }
    }
}

fn system(doing: &str, source: std::io::Error) -> MotoError {
    MotoError::System { doing: doing.to_owned(), source }
}

fn cache() -> Result<PathBuf, MotoError> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("LIFEBOAT_TEST_CACHE")
        .or_else(|| set("HOME").map(|home| home.join(".cache/lifeboat-test")))
        .ok_or(MotoError::NoCache)
}

/// Makes the environment unless it is complete, one process at a time, and gives its directory of programs.
fn install(home: &Path) -> Result<PathBuf, MotoError> {
    fs::create_dir_all(home).map_err(|source| system(&format!("make {}", home.display()), source))?;
    let lock = OpenOptions::new().create(true).append(true).open(home.join("lock"));
    let lock = lock.and_then(|file| file.lock().map(|()| file));
    let _lock = lock.map_err(|source| system(&format!("lock {}", home.display()), source))?;

    let environment = home.join("venv");
    let (bin, complete) = (environment.join("bin"), environment.join("complete"));
    if complete.exists() {
        return Ok(bin);
    }
    let made = Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment).output();
    match made {
        Ok(output) if output.status.success() => {}
        Ok(output) => return Err(MotoError::NoPython { said: tail(&[output.stdout, output.stderr].concat()) }),
        Err(error) => return Err(MotoError::NoPython { said: error.to_string() }),
    }
    let mut said = String::new();
    for requirement in REQUIREMENTS {
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement];
        let output = Command::new(bin.join("python3")).args(pip).output();
        let output = output.map_err(|source| system("start pip", source))?;
        if output.status.success() {
            // Only this file says that the environment is whole: an interrupted installation begins anew.
            File::create(&complete).map_err(|source| system(&format!("make {}", complete.display()), source))?;
            return Ok(bin);
        }
        said = tail(&output.stderr);
    }
    Err(MotoError::Install { said })
}

/// The last 400 characters, which is where programs say what went wrong.
fn tail(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let text = text.trim();
    let skipped = text.chars().count().saturating_sub(400);
    text.chars().skip(skipped).collect()
}

fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// One request without body; gives the status of the answer.
fn request(address: SocketAddr, method: &str, path: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
    let status = String::from_utf8_lossy(&answer).split_ascii_whitespace().nth(1).and_then(|text| text.parse().ok());
    status.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_where_nothing_listens_is_an_error_and_not_an_answer() {
        let address = free_port().unwrap();
        assert!(request(address, "GET", "/").is_err());
    }

    #[test]
    fn the_end_of_a_long_output_is_what_an_error_shows() {
        let output = format!("{}cause", "x".repeat(1000));
        assert!(tail(output.as_bytes()).ends_with("cause"));
        assert_eq!(tail(output.as_bytes()).len(), 400);
    }
}
