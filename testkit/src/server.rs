//! A scratch cluster with its server.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::account::{as_postgres, private_dir, run_as_postgres};
use crate::process::{Launch, Running, Stop};

/// A PostgreSQL cluster of its own in a temporary directory. Dropping it stops the server at once and removes everything.
#[derive(Debug)]
pub struct PgServer {
    // Declared before `dir`: the server ends before its files are removed.
    running: Option<Running>,
    launch: Launch,
    dir: Option<TempDir>,
    major: u32,
}

impl PgServer {
    pub(crate) fn new(launch: Launch, running: Running, dir: Option<TempDir>, major: u32) -> Self {
        Self { running: Some(running), launch, dir, major }
    }

    /// The major version.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.launch.data_dir
    }

    /// The directory of the server's socket; only its own account and root can use it.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.launch.socket_dir
    }

    /// The port, on 127.0.0.1 and in the socket's name.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.launch.port
    }

    /// The directory with this version's programs.
    #[must_use]
    pub fn bin_dir(&self) -> &Path {
        &self.launch.bin_dir
    }

    /// The server's process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Running::pid)
    }

    /// Everything the server has logged since it was made.
    #[must_use]
    pub fn log_text(&self) -> String {
        self.launch.log_text()
    }

    /// libpq keywords for the superuser through the socket: `host=/tmp/… port=… user=postgres dbname=postgres`.
    #[must_use]
    pub fn connection_string(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.socket_dir().display(), self.port())
    }

    /// libpq keywords for the superuser through TCP.
    #[must_use]
    pub fn tcp_connection_string(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port())
    }

    /// One of this version's client programs with its connection arguments set, to be run as the servers' account.
    #[must_use]
    pub fn client(&self, tool: &str) -> Command {
        let mut command = Command::new(self.bin_dir().join(tool));
        command.arg("-h").arg(self.socket_dir()).arg("-p").arg(self.port().to_string()).args(["-U", "postgres"]);
        command
    }

    /// Runs SQL as the superuser, each statement in a transaction of its own, and returns what it printed: one line per
    /// row, columns apart by `|`, without the last line's end.
    ///
    /// # Errors
    /// With the server's message, at the first statement that fails.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String> {
        let mut psql = self.client("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"]);
        as_postgres(&mut psql).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = psql.spawn().context("start psql")?;
        let mut stdin = child.stdin.take().context("psql has no input")?;
        let sql = sql.to_owned();
        // A thread writes while we read, so that neither side waits for the other with a full pipe.
        let writer = std::thread::spawn(move || stdin.write_all(sql.as_bytes()));
        let output = child.wait_with_output().context("wait for psql")?;
        let written = writer.join();
        if !output.status.success() {
            bail!("psql {database}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        written.map_err(|_| anyhow::anyhow!("psql's writer panicked"))?.context("write to psql")?;
        let text = String::from_utf8(output.stdout).context("read psql's output")?;
        Ok(text.trim_end_matches('\n').to_owned())
    }

    /// Starts the server again after [`PgServer::stop`], on the same port.
    ///
    /// # Errors
    /// If it runs already, or does not start.
    pub fn start(&mut self) -> Result<()> {
        if self.running.is_some() {
            bail!("the server runs already");
        }
        self.running = Some(self.launch.start()?);
        Ok(())
    }

    /// Stops the server and waits for its end; nothing happens if it does not run.
    ///
    /// # Errors
    /// If it had to be killed.
    pub fn stop(&mut self, how: Stop) -> Result<()> {
        match self.running.take() {
            Some(mut running) => running.stop(how),
            None => Ok(()),
        }
    }

    /// Stops the server quickly but properly, and starts it again.
    ///
    /// # Errors
    /// As [`PgServer::stop`] and [`PgServer::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop(Stop::Fast)?;
        self.start()
    }

    /// Makes pgbench's tables in database `postgres`, `scale` times 100,000 accounts.
    ///
    /// # Errors
    /// If pgbench fails.
    pub fn pgbench_init(&self, scale: u32) -> Result<()> {
        let mut pgbench = self.client("pgbench");
        run_as_postgres(pgbench.args(["-i", "-q", "-s", &scale.to_string(), "postgres"]))?;
        Ok(())
    }

    /// Makes a standby the primary, and waits until it is.
    ///
    /// # Errors
    /// If it is none, or is still in recovery after a minute.
    pub fn promote(&self) -> Result<()> {
        self.psql("postgres", "select pg_promote(wait => false)")?;
        self.wait_until_promoted(Duration::from_secs(60))
    }

    /// Waits until the server is out of recovery and takes writes.
    ///
    /// # Errors
    /// If it is still in recovery after `patience`; the message holds the server's log.
    pub fn wait_until_promoted(&self, patience: Duration) -> Result<()> {
        let begun = Instant::now();
        while self.psql("postgres", "select pg_is_in_recovery()")? != "f" {
            if begun.elapsed() > patience {
                bail!("still in recovery after {patience:?}; the server's log:\n{}", self.log_text());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Makes an empty directory for a tablespace beside the cluster, and returns its absolute path.
    ///
    /// # Errors
    /// If it exists already.
    pub fn tablespace_dir(&self, name: &str) -> Result<PathBuf> {
        let Some(dir) = &self.dir else { bail!("the server has no scratch directory") };
        let path = dir.path().join(format!("tablespace_{name}"));
        private_dir(&path)?;
        Ok(path)
    }

    /// Gives up ownership: the server goes on and its directory stays after this process has ended. Returns the
    /// server's process id and the directory to remove once it has been stopped.
    ///
    /// # Errors
    /// If the server does not run or has no directory of its own.
    pub fn keep(mut self) -> Result<(u32, PathBuf)> {
        match (self.running.take(), self.dir.take()) {
            (Some(running), Some(dir)) => Ok((running.release(), dir.keep())),
            _ => bail!("there is no running server to keep"),
        }
    }
}
