//! A restored server: started where the tool does not do that itself, waited for, asked, stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lifeboat_testkit::run_as_postgres;
use rustix::process::{Pid, WaitOptions, waitpid};

use super::watch::postmaster;
use crate::meter::log_tail;
use crate::stage::Stage;

/// How often the server's state is looked at.
const POLL: Duration = Duration::from_millis(10);
/// A recovery that takes longer is given up, and a server that does not end too.
const PATIENCE: Duration = Duration::from_secs(3600);
/// How long a server may take until it has written its `postmaster.pid`.
const LAUNCH: Duration = Duration::from_secs(30);
/// What must not reach the original or anything of it. Nobody may look before it is open, so that its state says when.
const SETTINGS: [&str; 7] = [
    "hot_standby=off",
    "archive_mode=off",
    "listen_addresses=",
    "jit=off",
    "ssl=off",
    "huge_pages=try",
    "cluster_name=restored",
];

/// Starts a server over the restored directory and waits until it takes writes.
pub(crate) fn start_and_wait(stage: &Stage) -> Result<Duration> {
    let begun = Instant::now();
    let home = stage.home("recovered")?;
    let (log, target) = (home.join("server.log"), stage.target());
    let options = SETTINGS.map(|setting| format!("-c {setting}")).join(" ");
    let mut pg_ctl = Command::new(stage.cluster().bin_dir().join("pg_ctl"));
    pg_ctl.args(["start", "-W", "-s", "-D"]).arg(&target).arg("-l").arg(&log);
    pg_ctl.arg("-o").arg(format!("{options} -p 5432 -k {}", home.display()));
    run_as_postgres(&mut pg_ctl).context("start the restored server")?;
    while !is_open(&target) {
        let is_there = postmaster(&target).is_some() || begun.elapsed() < LAUNCH;
        ensure!(is_there, "the restored server has ended; its log:\n{}", log_tail(&log));
        ensure!(begun.elapsed() < PATIENCE, "the restored server does not open; its log:\n{}", log_tail(&log));
        std::thread::sleep(POLL);
    }
    Ok(begun.elapsed())
}

/// The eighth line of `postmaster.pid` is the state (PostgreSQL `utils/pidfile.h`).
fn is_open(data_dir: &Path) -> bool {
    let text = fs::read_to_string(data_dir.join("postmaster.pid")).unwrap_or_default();
    text.lines().nth(7).is_some_and(|state| state.trim() == "ready")
}

/// A server that runs over the restored directory; stopped when dropped.
#[derive(Debug)]
pub(crate) struct Recovered {
    bin_dir: PathBuf,
    data_dir: PathBuf,
    pid: u32,
    port: String,
    socket_dir: String,
}

impl Recovered {
    /// Finds the running server.
    pub(crate) fn find(stage: &Stage) -> Result<Self> {
        let data_dir = stage.target();
        let path = data_dir.join("postmaster.pid");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let [pid, _, _, port, socket_dir, ..] = lines.as_slice() else { bail!("understand {}", path.display()) };
        let bin_dir = stage.cluster().bin_dir().to_owned();
        let pid = pid.parse().context("understand the server's process id")?;
        Ok(Self { bin_dir, data_dir, pid, port: (*port).to_owned(), socket_dir: (*socket_dir).to_owned() })
    }

    /// Runs SQL and returns what it prints, as [`lifeboat_testkit::PgServer::psql`] does.
    pub(crate) fn psql(&self, database: &str, sql: &str) -> Result<String> {
        let mut psql = Command::new(self.bin_dir.join("psql"));
        psql.args(["-h", &self.socket_dir, "-p", &self.port, "-U", "postgres", "-XAtq", "-v", "ON_ERROR_STOP=1"]);
        Ok(run_as_postgres(psql.args(["-d", database, "-c", sql]))?.trim_end_matches('\n').to_owned())
    }

    fn stop(&self) -> Result<()> {
        let mut pg_ctl = Command::new(self.bin_dir.join("pg_ctl"));
        pg_ctl.args(["stop", "-s", "-m", "immediate", "-t", "120", "-D"]).arg(&self.data_dir);
        run_as_postgres(&mut pg_ctl).context("stop the restored server")?;
        // Its parent has left it to us, who have adopted it.
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).context("process id out of range")?;
        let begun = Instant::now();
        while waitpid(Some(pid), WaitOptions::NOHANG).is_ok_and(|ended| ended.is_none()) {
            ensure!(begun.elapsed() < LAUNCH, "the restored server does not end");
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Recovered {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
    }
}
