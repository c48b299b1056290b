//! A server over a directory that a restore has made.

use std::fs::{self, Permissions};
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::account::{give_to_postgres, let_postgres_pass, private_file, scratch_dir};
use crate::builder::{launch_in, start_on_free_port};
use crate::{PgServer, Stop};

/// A throw-away server over a restored data directory. It behaves like a [`PgServer`], but is kept from everything that
/// the restored configuration could reach: archive, standbys, publishers, preloaded libraries, TLS files.
///
/// Dropping it stops the server; the data directory is the caller's and stays.
#[derive(Debug)]
pub struct RestoredServer(PgServer);

/// Replay may take a while, and the load of other tests beside it too.
const PATIENCE: Duration = Duration::from_secs(180);

/// Settings of a restored cluster that must not take effect, because they name what belongs to the original.
const DISARMED: [&str; 19] = [
    "external_pid_file=",
    "archive_mode=off",
    "archive_command=",
    "archive_cleanup_command=",
    "recovery_end_command=",
    "synchronous_standby_names=",
    "primary_conninfo=",
    "primary_slot_name=",
    "shared_preload_libraries=",
    "session_preload_libraries=",
    "local_preload_libraries=",
    "max_logical_replication_workers=0",
    "logging_collector=off",
    "log_destination=stderr",
    "cluster_name=restored",
    "huge_pages=off",
    "ssl=off",
    "jit=off",
    "fsync=off",
];

impl RestoredServer {
    /// Starts `postgres` over `data_dir` and waits until it answers, at the latest after three minutes. As root, the
    /// directory is given to the servers' account first. Recovery settings of the directory stay in force, and
    /// everybody may log in through the socket.
    ///
    /// # Errors
    /// If it does not start; the message holds the server's log.
    pub fn start(data_dir: &Path, major: u32) -> Result<Self> {
        let data_dir = data_dir.canonicalize().with_context(|| format!("find {}", data_dir.display()))?;
        let_postgres_pass(&data_dir)?;
        give_to_postgres(&data_dir)?;
        give_tablespaces(&data_dir)?;
        fs::set_permissions(&data_dir, Permissions::from_mode(0o700)).context("close the data directory")?;
        let dir = scratch_dir("lifeboat-restored-")?;
        let hba = dir.path().join("pg_hba.conf");
        let ident = dir.path().join("pg_ident.conf");
        private_file(&hba, b"local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 trust\n")?;
        private_file(&ident, b"")?;
        let mut launch = launch_in(dir.path(), major)?;
        launch.overrides.extend(DISARMED.map(str::to_owned));
        launch.overrides.push(format!("data_directory={}", data_dir.display()));
        launch.overrides.push(format!("hba_file={}", hba.display()));
        launch.overrides.push(format!("ident_file={}", ident.display()));
        launch.data_dir = data_dir;
        launch.patience = PATIENCE;
        start_on_free_port(launch, dir, major).map(Self)
    }

    /// Stops the server; see [`PgServer::stop`].
    ///
    /// # Errors
    /// If it had to be killed.
    pub fn stop(&mut self, how: Stop) -> Result<()> {
        self.0.stop(how)
    }

    /// Starts it again after [`RestoredServer::stop`].
    ///
    /// # Errors
    /// If it runs already, or does not start.
    pub fn start_again(&mut self) -> Result<()> {
        self.0.start()
    }
}

/// The directories behind the links in `pg_tblspc`, which lie outside the data directory.
fn give_tablespaces(data_dir: &Path) -> Result<()> {
    let links = fs::read_dir(data_dir.join("pg_tblspc")).context("look for tablespaces")?;
    for link in links {
        let link = link.context("look for tablespaces")?.path();
        if let Ok(location) = link.canonicalize() {
            let_postgres_pass(&location)?;
            give_to_postgres(&location)?;
        }
    }
    Ok(())
}

impl Deref for RestoredServer {
    type Target = PgServer;

    fn deref(&self) -> &PgServer {
        &self.0
    }
}
