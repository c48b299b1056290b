//! How a scratch cluster is made.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::account::{private_dir, private_file, run_as_postgres, scratch_dir};
use crate::process::{Launch, free_port};
use crate::{PgServer, bin_dir};

/// Whether data pages carry checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// They do.
    On,
    /// They do not.
    Off,
}

/// `sun_path` holds 108 bytes with the NUL at the end (`unix(7)`); PostgreSQL adds `/.s.PGSQL.65535`.
const SOCKET_DIR_MAX: usize = 107 - 15;
const START_PATIENCE: Duration = Duration::from_secs(60);
const PORT_TRIES: u32 = 5;

/// What a scratch cluster is to look like; see [`PgServer::builder`].
#[derive(Clone, Debug)]
pub struct PgServerBuilder {
    major: u32,
    checksums: Checksums,
    wal_segsize_mb: u32,
    locale: String,
    settings: Vec<(String, String)>,
    hba: Option<String>,
    tls: Option<(Vec<u8>, Vec<u8>)>,
}

impl PgServerBuilder {
    pub(crate) fn new(major: u32) -> Self {
        Self {
            major,
            checksums: Checksums::On,
            wal_segsize_mb: 16,
            locale: "C.UTF-8".to_owned(),
            settings: Vec::new(),
            hba: None,
            tls: None,
        }
    }

    /// Whether data pages carry checksums. Default: on.
    #[must_use]
    pub fn checksums(mut self, checksums: Checksums) -> Self {
        self.checksums = checksums;
        self
    }

    /// The size of WAL segments in **MiB**: a power of two from 1 to 1024. Default: 16.
    #[must_use]
    pub fn wal_segsize_mb(mut self, mib: u32) -> Self {
        self.wal_segsize_mb = mib;
        self
    }

    /// The cluster's locale. Default: `C.UTF-8`.
    #[must_use]
    pub fn locale(mut self, name: &str) -> Self {
        name.clone_into(&mut self.locale);
        self
    }

    /// A line for `postgresql.conf`; the last one given for a name wins, also over this crate's defaults.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Lines for `pg_hba.conf` in place of "trust everybody". The superuser may always come through the socket.
    #[must_use]
    pub fn hba(mut self, lines: &str) -> Self {
        self.hba = Some(lines.to_owned());
        self
    }

    /// Switches TLS on with a certificate (chain) and its key, both PEM.
    #[must_use]
    pub fn tls(mut self, cert: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        self.tls = Some((cert.as_ref().to_vec(), key.as_ref().to_vec()));
        self
    }

    /// Makes the cluster in a temporary directory and starts it, on a free port of 127.0.0.1 and a private socket.
    ///
    /// # Errors
    /// If the version cannot be had, `initdb` fails, or the server does not start within a minute.
    pub fn start(self) -> Result<PgServer> {
        let dir = scratch_dir("lifeboat-pg-")?;
        let launch = launch_in(dir.path(), self.major)?;
        self.initdb(&launch.bin_dir, &launch.data_dir)?;
        private_file(&launch.data_dir.join("postgresql.conf"), self.configuration().as_bytes())?;
        if let Some(lines) = &self.hba {
            let hba = format!("local all postgres trust\nlocal replication postgres trust\n{lines}\n");
            private_file(&launch.data_dir.join("pg_hba.conf"), hba.as_bytes())?;
        }
        if let Some((cert, key)) = &self.tls {
            private_file(&launch.data_dir.join("server.crt"), cert)?;
            private_file(&launch.data_dir.join("server.key"), key)?;
        }
        start_on_free_port(launch, dir, self.major)
    }

    fn initdb(&self, bin_dir: &Path, data_dir: &Path) -> Result<()> {
        let mut initdb = Command::new(bin_dir.join("initdb"));
        initdb.arg("-D").arg(data_dir).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "-N"]);
        initdb.arg(format!("--locale={}", self.locale)).arg(format!("--wal-segsize={}", self.wal_segsize_mb));
        match self.checksums {
            Checksums::On => initdb.arg("--data-checksums"),
            Checksums::Off if self.major >= 18 => initdb.arg("--no-data-checksums"),
            Checksums::Off => &mut initdb,
        };
        run_as_postgres(&mut initdb).context("make a scratch cluster")?;
        Ok(())
    }

    /// Small and quick, but honest: `fsync` stays on unless a test switches it off.
    fn configuration(&self) -> String {
        let segment = self.wal_segsize_mb;
        let mut lines = vec![
            "max_connections = 40".to_owned(),
            "shared_buffers = 16MB".to_owned(),
            "wal_level = replica".to_owned(),
            "max_wal_senders = 10".to_owned(),
            "max_replication_slots = 10".to_owned(),
            "hot_standby = on".to_owned(),
            "log_checkpoints = off".to_owned(),
            "timezone = 'UTC'".to_owned(),
            "log_timezone = 'UTC'".to_owned(),
            format!("min_wal_size = {}MB", segment * 2),
            format!("max_wal_size = {}MB", (segment * 2).max(256)),
        ];
        if self.tls.is_some() {
            lines.push("ssl = on".to_owned());
        }
        lines.extend(self.settings.iter().map(|(name, value)| format!("{name} = '{}'", value.replace('\'', "''"))));
        lines.join("\n") + "\n"
    }
}

/// Where everything of one server lies below its scratch directory.
pub(crate) fn launch_in(dir: &Path, major: u32) -> Result<Launch> {
    let socket_dir = dir.join("s");
    if socket_dir.as_os_str().as_bytes().len() > SOCKET_DIR_MAX {
        bail!("{} is too long for a socket: set TMPDIR to a shorter directory", socket_dir.display());
    }
    private_dir(&socket_dir)?;
    Ok(Launch {
        bin_dir: bin_dir(major)?,
        data_dir: dir.join("data"),
        socket_dir,
        port: free_port()?,
        log: dir.join("server.log"),
        overrides: vec!["listen_addresses=127.0.0.1".to_owned()],
        patience: START_PATIENCE,
    })
}

/// Somebody else may take a free port before our server does: then another one is tried.
pub(crate) fn start_on_free_port(mut launch: Launch, dir: tempfile::TempDir, major: u32) -> Result<PgServer> {
    for _ in 1..PORT_TRIES {
        match launch.start() {
            Err(_) if launch.log_text().contains("could not create any TCP/IP sockets") => {
                fs::remove_file(&launch.log).context("begin a new log")?;
                launch.port = free_port()?;
            }
            other => return Ok(PgServer::new(launch, other?, Some(dir), major)),
        }
    }
    let running = launch.start()?;
    Ok(PgServer::new(launch, running, Some(dir), major))
}

impl PgServer {
    /// A cluster of this major version, described step by step and made by [`PgServerBuilder::start`].
    #[must_use]
    pub fn builder(major: u32) -> PgServerBuilder {
        PgServerBuilder::new(major)
    }

    /// A streaming standby of this server: `pg_basebackup -R`, started and ready for queries. Tablespaces are copied
    /// into directories of its own.
    ///
    /// # Errors
    /// If the copy fails or does not start.
    pub fn standby(&self) -> Result<Self> {
        let dir = scratch_dir("lifeboat-standby-")?;
        let launch = launch_in(dir.path(), self.major())?;
        let mut copy = self.client("pg_basebackup");
        copy.arg("-D").arg(&launch.data_dir).args(["-R", "-X", "stream", "-c", "fast", "--no-sync"]);
        let tablespaces = self.psql(
            "postgres",
            "select oid, pg_tablespace_location(oid) from pg_tablespace where pg_tablespace_location(oid) <> ''",
        )?;
        for (oid, location) in tablespaces.lines().filter_map(|line| line.split_once('|')) {
            copy.arg("-T").arg(format!("{location}={}", dir.path().join(format!("ts_{oid}")).display()));
        }
        run_as_postgres(&mut copy).context("copy the primary")?;
        start_on_free_port(launch, dir, self.major())
    }
}
