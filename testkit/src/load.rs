//! Load in the background, so that a backup has something to race with.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::PgServer;
use crate::account::as_postgres;
use crate::process::end;

const COUNT: &str = "select count(*) from pgbench_history";
const PATIENCE: Duration = Duration::from_secs(30);

/// A running `pgbench`; ended when dropped.
#[derive(Debug)]
pub struct Load {
    pgbench: Child,
    before: u64,
}

impl PgServer {
    /// Starts pgbench's standard transactions with this many clients, as fast as they go or at `per_second` in all.
    /// Needs [`PgServer::pgbench_init`].
    ///
    /// # Errors
    /// If the tables are missing or pgbench does not start.
    pub fn load(&self, clients: u32, per_second: Option<u32>) -> Result<Load> {
        let before = count(self)?;
        let mut pgbench = self.client("pgbench");
        pgbench.args(["-n", "-T", "86400", "-c", &clients.to_string()]);
        if let Some(rate) = per_second {
            pgbench.args(["-R", &rate.to_string()]);
        }
        as_postgres(pgbench.arg("postgres")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Load { pgbench: pgbench.spawn().context("start pgbench")?, before })
    }
}

impl Load {
    /// Ends the load, waits until its sessions are gone, and returns how many transactions were committed.
    ///
    /// # Errors
    /// If pgbench had ended before, or the server cannot be asked.
    pub fn stop(mut self, server: &PgServer) -> Result<u64> {
        if let Some(status) = self.pgbench.try_wait().context("ask for pgbench's state")? {
            bail!("pgbench had ended with {status}");
        }
        end(&mut self.pgbench, Signal::TERM, PATIENCE)?;
        let begun = Instant::now();
        let sessions = "select count(*) from pg_stat_activity where application_name = 'pgbench'";
        while server.psql("postgres", sessions)? != "0" {
            if begun.elapsed() > PATIENCE {
                bail!("sessions of pgbench are still there after {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(count(server)?.saturating_sub(self.before))
    }

    /// Transactions committed so far.
    ///
    /// # Errors
    /// If the server cannot be asked.
    pub fn transactions(&self, server: &PgServer) -> Result<u64> {
        Ok(count(server)?.saturating_sub(self.before))
    }
}

fn count(server: &PgServer) -> Result<u64> {
    server.psql("postgres", COUNT)?.parse().context("read the number of transactions")
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Err(error) = end(&mut self.pgbench, Signal::TERM, PATIENCE) {
            eprintln!("stop pgbench {}: {error:#}", self.pgbench.id());
        }
    }
}
