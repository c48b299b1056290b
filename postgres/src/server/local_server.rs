//! A PostgreSQL server over a restored data directory, started and stopped by this process.
//!
//! Sources: PostgreSQL manual, chapters "Server Setup and Operation" and "Setting Parameters";
//! `src/backend/utils/init/miscinit.c` (`AddToDataDirLockFile`) for `postmaster.pid`.

use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::server::local_overrides::{overrides, own_session_options};
use crate::server::owned_files::{open_to_read, read_small};
use crate::server::run_directory::{RunDirectoryError, prepare};
use crate::server::server_settings::{LocalServerSettings, RunAs};
use crate::session::commands::Session;
use crate::session::error::SessionError;
use crate::session::settings::{ConnectionSettings, Purpose};
use crate::session::surroundings::Surroundings;

/// How much of the log's end goes into errors, in bytes.
const TAIL_MAX: u64 = 4096;
/// The longest of the files that a server writes for others, in **bytes**.
const SMALL_FILE_MAX: u64 = 64 << 10;
/// How often the server is looked at while it starts or stops.
const POLL: Duration = Duration::from_millis(50);
/// How long the question whether recovery has ended may take.
const QUESTION: Duration = Duration::from_secs(5);
/// How long a dropped server may take to end; it kills its own processes after 5 s.
const DROP_PATIENCE: Duration = Duration::from_secs(15);

/// Why a server did not start or stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalServerError {
    /// PostgreSQL does not run as root, and nothing says as whom else.
    #[error(
        "start PostgreSQL in {data_dir}: the directory belongs to root, and PostgreSQL refuses to run as root; give it to \
         the account of the server, such as with `chown -R postgres {data_dir}`"
    )]
    OwnedByRoot {
        /// The data directory.
        data_dir: String,
    },
    /// The directory is no data directory.
    #[error("{path} does not tell the version of a data directory")]
    NoVersion {
        /// The file that should.
        path: String,
    },
    /// The directory for socket and log cannot be used.
    #[error(transparent)]
    RunDirectory(#[from] RunDirectoryError),
    /// The system refused something.
    #[error("{doing}")]
    System {
        /// What was being done.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server did not answer a question.
    #[error("ask PostgreSQL")]
    Question(#[source] SessionError),
    /// The server ended by itself.
    #[error("PostgreSQL ended with {status} before it was open; the end of its log:\n{log_tail}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// The end of its log.
        log_tail: String,
    },
    /// The server is not open yet.
    #[error("PostgreSQL was not open after {after:?}; the end of its log:\n{log_tail}")]
    NotOpen {
        /// The limit.
        after: Duration,
        /// The end of its log.
        log_tail: String,
    },
    /// The server does not stop.
    #[error("PostgreSQL (process {pid}) had not stopped after {after:?}; the end of its log:\n{log_tail}")]
    NotStopped {
        /// Its process id.
        pid: u32,
        /// The limit.
        after: Duration,
        /// The end of its log.
        log_tail: String,
    },
}

fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> LocalServerError {
    |source| LocalServerError::System { doing: doing.into(), source }
}

impl LocalServerError {
    /// Whether the server has refused a question for good, for what a role or a database is like.
    #[must_use]
    pub fn is_lasting_refusal(&self) -> bool {
        let Self::Question(error) = self else { return false };
        error.server_message().is_some_and(|message| !is_passing(&message.code))
    }
}

/// How to stop a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Roll back what is open, write a checkpoint, end.
    Fast,
    /// End at once, as a crash would; the next start has to recover.
    Immediate,
}

/// As whom a server over this directory runs.
fn run_as(data_dir: &Path) -> Result<RunAs, LocalServerError> {
    let about = data_dir.metadata().map_err(system(format!("look at {}", data_dir.display())))?;
    if !rustix::process::geteuid().is_root() {
        return Ok(RunAs::Same);
    }
    match about.uid() {
        0 => Err(LocalServerError::OwnedByRoot { data_dir: data_dir.display().to_string() }),
        uid => Ok(RunAs::Other { uid, gid: about.gid() }),
    }
}

/// A running server. Dropping it stops the server as [`StopMode::Immediate`] does and waits for its end, mostly some
/// milliseconds; [`LocalServer::leave_running`] lets it live.
///
/// The server belongs to the process group of this program: an interrupt from the terminal stops both.
#[derive(Debug)]
pub struct LocalServer {
    /// `None` once it has ended or is to be left alone.
    child: Option<Child>,
    pid: u32,
    major: u32,
    settings: LocalServerSettings,
    log: PathBuf,
}

impl LocalServer {
    /// Starts a server and waits until it has ended recovery and takes writes.
    ///
    /// The data directory needs `postgresql.conf`, and with [`Listen::Loopback`] `pg_hba.conf` and `pg_ident.conf`. What
    /// could reach beyond the copy is switched off on the command line: archiving, replication, subscriptions, files that
    /// the configuration names outside of the directory. `restore_command` and recovery targets stay in force.
    ///
    /// # Errors
    /// [`LocalServerError`]; if the server ended or is still in recovery, with the end of its log. It has ended then.
    pub async fn start(settings: LocalServerSettings) -> Result<Self, LocalServerError> {
        let mut server = Self::launch(settings)?;
        server.wait_until_open().await?;
        Ok(server)
    }

    /// Starts a server without waiting for it, for callers that show how far it has come.
    ///
    /// # Errors
    /// [`LocalServerError`], if there is no process.
    pub fn launch(mut settings: LocalServerSettings) -> Result<Self, LocalServerError> {
        // The server changes its directory, and a relative path would mean something else then.
        let find = |path: &Path| path.canonicalize().map_err(system(format!("find {}", path.display())));
        settings.data_dir = find(&settings.data_dir)?;
        settings.bin_dir = find(&settings.bin_dir)?;
        let run_as = run_as(&settings.data_dir)?;
        let major = major_of(&settings.data_dir)?;
        let run = prepare(&settings.run_directory, run_as)?;
        settings.run_directory = run.path;
        let mut command = Command::new(settings.bin_dir.join("postgres"));
        command.arg("-D").arg(&settings.data_dir);
        for (name, value) in overrides(&settings, major) {
            command.arg("-c").arg([name.as_os_str(), value.as_os_str()].join("=".as_ref()));
        }
        // Our own settings as a client are not for the server and the commands that it runs.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        if let RunAs::Other { uid, gid } = run_as {
            // The standard library drops root's supplementary groups together with the user.
            command.uid(uid).gid(gid);
        }
        let errors = run.log.try_clone().map_err(system("share the log"))?;
        command.current_dir("/").stdin(Stdio::null()).stdout(run.log).stderr(errors);
        let program = settings.bin_dir.join("postgres");
        let child = command.spawn().map_err(system(format!("start {}", program.display())))?;
        tracing::info!(pid = child.id(), data_dir = %settings.data_dir.display(), "started PostgreSQL");
        Ok(Self { pid: child.id(), child: Some(child), major, settings, log: run.log_path })
    }

    /// Waits until recovery has ended and the server takes writes.
    ///
    /// # Errors
    /// [`LocalServerError::Ended`], [`LocalServerError::NotOpen`] after the time-out of the settings.
    pub async fn wait_until_open(&mut self) -> Result<(), LocalServerError> {
        let begun = Instant::now();
        while !self.is_open().await? {
            if begun.elapsed() > self.settings.timeout {
                return Err(LocalServerError::NotOpen { after: self.settings.timeout, log_tail: self.log_tail() });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn is_open(&mut self) -> Result<bool, LocalServerError> {
        let ended = match &mut self.child {
            Some(child) => child.try_wait().map_err(system("ask for the state of PostgreSQL"))?,
            None => None,
        };
        if let Some(status) = ended {
            self.child = None;
            return Err(LocalServerError::Ended { status, log_tail: self.log_tail() });
        }
        // Asking earlier would only fill the log with refusals, in which the reason of a failure gets lost.
        if !self.says_ready() {
            return Ok(false);
        }
        let settings = self.own_settings()?;
        let question = async {
            let mut session = Session::connect(&settings, Purpose::Sql).await?;
            let answer = session.query_one_text("SELECT pg_catalog.pg_is_in_recovery()").await;
            session.close().await;
            answer
        };
        match tokio::time::timeout(QUESTION, question).await {
            Ok(Ok(answer)) => Ok(answer.as_deref() == Some("f")),
            // It may let nobody in, for what a role, a database or a library is like: its own word has to do.
            Ok(Err(error)) => Ok(error.server_message().is_some_and(|message| !is_passing(&message.code))),
            Err(_) => Ok(false),
        }
    }

    fn own_settings(&self) -> Result<ConnectionSettings, LocalServerError> {
        let text = self.connection_string();
        // Not the environment of this process: its PGHOSTADDR could lead to another server.
        let nothing = Surroundings { variables: std::collections::HashMap::new(), user: None, home: None };
        let settings = ConnectionSettings::parse_in(&text, &nothing)
            .map_err(|error| system("understand our own connection string")(io::Error::other(error)))?;
        Ok(own_session_options(self.major).fold(settings, |all, (name, value)| all.with_option(name, value)))
    }

    /// Asks one question in a session of its own; the server may still be in recovery, as long as it lets people look.
    ///
    /// # Errors
    /// If nobody is let in, the statement fails, or five seconds have passed.
    pub async fn ask(&self, sql: &str) -> Result<Option<String>, LocalServerError> {
        let settings = self.own_settings()?;
        let question = async {
            let mut session = Session::connect(&settings, Purpose::Sql).await?;
            let answer = session.query_one_text(sql).await;
            session.close().await;
            answer
        };
        let answer = tokio::time::timeout(QUESTION, question).await;
        let answer = answer.map_err(|_| system("ask PostgreSQL")(io::ErrorKind::TimedOut.into()))?;
        answer.map_err(LocalServerError::Question)
    }

    /// Whether the server says that recovery is over.
    fn says_ready(&self) -> bool {
        self.says("ready")
    }

    /// Whether the server says that it lets people look while it recovers.
    #[must_use]
    pub fn says_standby(&self) -> bool {
        self.says("standby")
    }

    /// Hot standby is `standby`, anything earlier `starting`.
    fn says(&self, state: &str) -> bool {
        // The file comes late and goes early; a file that is not there says nothing.
        let path = self.settings.data_dir.join("postmaster.pid");
        let Ok(content) = read_small(&path, SMALL_FILE_MAX) else { return false };
        let content = String::from_utf8_lossy(&content);
        let lines: Vec<&str> = content.lines().map(str::trim).collect();
        lines.first() == Some(&self.pid.to_string().as_str()) && lines.get(7) == Some(&state)
    }

    /// The end of the log, from the begin of a line.
    fn log_tail(&self) -> String {
        tail_of(&self.log).unwrap_or_else(|error| format!("(read {}: {error})", self.log.display()))
    }

    /// libpq keywords for the database `postgres`, through the socket.
    #[must_use]
    pub fn connection_string(&self) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
        let host = quoted(&self.settings.run_directory.to_string_lossy());
        format!("host={host} port={} user={} dbname=postgres", self.settings.port, quoted(&self.settings.user))
    }

    /// The server's log.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The server's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Stops the server and waits for its end.
    ///
    /// # Errors
    /// [`LocalServerError::NotStopped`] after the time-out of the settings; the server is ended as if dropped then.
    pub async fn stop(mut self, mode: StopMode) -> Result<(), LocalServerError> {
        self.signal(match mode {
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        })?;
        let begun = Instant::now();
        while !self.has_ended().map_err(system("wait for PostgreSQL"))? {
            if begun.elapsed() > self.settings.timeout {
                let (pid, after) = (self.pid, self.settings.timeout);
                return Err(LocalServerError::NotStopped { pid, after, log_tail: self.log_tail() });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Lets the server live on after this program, with the settings of its command line until it is started again.
    /// Returns its process id.
    #[must_use]
    pub fn leave_running(mut self) -> u32 {
        self.child = None;
        self.pid
    }

    fn signal(&mut self, signal: Signal) -> Result<(), LocalServerError> {
        if self.has_ended().map_err(system("ask for the state of PostgreSQL"))? {
            return Ok(());
        }
        // Nobody has waited for the process, so its number cannot belong to another one.
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
        kill_process(pid, signal).map_err(|error| system("signal PostgreSQL")(error.into()))
    }

    fn has_ended(&mut self) -> io::Result<bool> {
        let ended = match &mut self.child {
            Some(child) => child.try_wait()?.is_some(),
            None => true,
        };
        if ended {
            self.child = None;
        }
        Ok(ended)
    }

    fn end_at_once(&mut self) -> Result<(), LocalServerError> {
        self.signal(Signal::QUIT)?;
        let begun = Instant::now();
        while !self.has_ended().map_err(system("wait for PostgreSQL"))? {
            if begun.elapsed() > DROP_PATIENCE {
                let (pid, after) = (self.pid, DROP_PATIENCE);
                return Err(LocalServerError::NotStopped { pid, after, log_tail: self.log_tail() });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        if let Err(error) = self.end_at_once() {
            tracing::warn!(pid = self.pid, %error, "PostgreSQL may still run");
        }
    }
}

/// Whether a refusal passes by itself: the server starts or stops, or has no room. Source: PostgreSQL manual, appendix "Error
/// Codes", classes 53 and 57.
fn is_passing(code: &str) -> bool {
    code.starts_with("53") || code.starts_with("57")
}

/// The major version of a data directory, from its `PG_VERSION`.
fn major_of(data_dir: &Path) -> Result<u32, LocalServerError> {
    let path = data_dir.join("PG_VERSION");
    let content = read_small(&path, SMALL_FILE_MAX).map_err(system(format!("read {}", path.display())))?;
    let text = String::from_utf8_lossy(&content);
    text.trim().parse().map_err(|_| LocalServerError::NoVersion { path: path.display().to_string() })
}

fn tail_of(path: &Path) -> io::Result<String> {
    let mut file = open_to_read(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_MAX)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let whole_lines = if length > TAIL_MAX { text.split_once('\n').map_or(&*text, |(_, rest)| rest) } else { &text };
    Ok(whole_lines.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_tail_of_a_log_is_short_and_begins_with_a_whole_line() {
        let mut log = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(tail_of(log.path()).unwrap(), "");
        for number in 0..10_000 {
            writeln!(log, "line {number}").unwrap();
        }
        let tail = tail_of(log.path()).unwrap();
        assert!(tail.len() < 4096 && tail.starts_with("line ") && tail.ends_with("line 9999"), "{tail}");
        assert!(tail_of(Path::new("/nowhere/log")).is_err());
    }

    #[test]
    fn a_refusal_that_stays_comes_from_an_open_server() {
        for code in ["28P01", "28000", "3D000", "55000", "58P01", "42501"] {
            assert!(!is_passing(code), "{code}");
        }
        for code in ["57P03", "57P01", "53300", "53200"] {
            assert!(is_passing(code), "{code}");
        }
    }

    #[test]
    fn a_directory_without_a_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(major_of(dir.path()), Err(LocalServerError::System { .. })));
        std::fs::File::create(dir.path().join("PG_VERSION")).unwrap().write_all(b"nine").unwrap();
        assert!(matches!(major_of(dir.path()), Err(LocalServerError::NoVersion { .. })));
        std::fs::File::create(dir.path().join("PG_VERSION")).unwrap().write_all(b"15\n").unwrap();
        assert_eq!(major_of(dir.path()).unwrap(), 15);
    }
}
