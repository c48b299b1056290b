//! `restore --start`: a server on the restored directory, for a first look.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use lifeboat_postgres::{Listen, LocalServer, LocalServerSettings};
use tokio::time::Instant;

use crate::facts::BackupFacts;
use crate::run::Recovered;

/// How long recovery from a backup's own WAL may take.
const RECOVERY_MAX: Duration = Duration::from_secs(3600);

/// Starts the restored server with a private socket, waits until it takes writes, and leaves it running.
///
/// # Errors
/// If the server does not start; with the end of its log.
pub async fn start_server(data_dir: &Path, bin_dir: PathBuf, facts: &BackupFacts) -> anyhow::Result<Recovered> {
    let begun = Instant::now();
    let mut run_directory = data_dir.as_os_str().to_owned();
    run_directory.push("-run");
    // Asked of the system, so that no running server has it.
    let port =
        TcpListener::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr()).context("find a free port")?;
    let settings = LocalServerSettings {
        bin_dir: bin_dir.clone(),
        data_dir: data_dir.to_owned(),
        extra: Vec::new(),
        run_directory: run_directory.into(),
        port: port.port(),
        timeout: RECOVERY_MAX,
        listen: Listen::SocketOnly,
        user: facts.server.bootstrap_role.clone(),
    };
    let server = LocalServer::start(settings).await.context("start the restored server")?;
    let connection = server.connection_string();
    let stop_command = format!("{} -D {} stop", bin_dir.join("pg_ctl").display(), data_dir.display());
    let pid = server.leave_running();
    tracing::debug!(pid, "the restored server runs");
    Ok(Recovered { connection, stop_command, took: begun.elapsed() })
}
