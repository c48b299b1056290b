//! What writes WAL: pgbench for some time, or as many bytes as are wanted.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use lifeboat_testkit::{PgServer, run_as_postgres};
use lifeboat_vocabulary::Lsn;
use serde::Serialize;

use super::exposure::Delays;

/// The database with pgbench's tables.
const DATABASE: &str = "bench";
/// What pgbench's files with the times of all transactions begin with.
const TIMES: &str = "times";
/// Rows of one random update at the most. Each mostly writes pages of its own into the WAL, so that this decides by how
/// much there is more than was asked for.
const ROWS_MAX: u64 = 5_000;
/// After so many updates the cluster does not write what it should.
const UPDATES_MAX: u32 = 100_000;

/// How pgbench works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Four clients as fast as they can.
    Full,
    /// One client, ten transactions a second.
    Quiet,
}

impl Load {
    /// For the reader of the report.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Full => "4 clients, full speed",
            Self::Quiet => "10 transactions/s",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Full => &["-c", "4"],
            Self::Quiet => &["-c", "1", "-R", "10"],
        }
    }
}

/// What pgbench has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Done {
    /// Transactions that were committed.
    pub(crate) transactions: u64,
    /// Of them in a second, without the time for connecting.
    pub(crate) tps: f64,
    /// The mean of their times, in **seconds**, as pgbench says it.
    pub(crate) mean_seconds: f64,
    /// How their times are spread; where they were to come at a rate, without their waiting for their turn.
    pub(crate) times: Delays,
}

/// Makes pgbench's history empty and its small tables small, as a fresh pgbench would, and writes everything to disk.
pub(crate) fn prepare(server: &PgServer) -> Result<()> {
    server
        .psql(DATABASE, "vacuum pgbench_branches;\nvacuum pgbench_tellers;\ntruncate pgbench_history;\ncheckpoint")?;
    Ok(())
}

/// Runs pgbench's standard transactions for some **seconds**; `home` is for its files and belongs to the servers' account.
pub(crate) fn run(server: &PgServer, home: &Path, load: Load, seconds: u32) -> Result<Done> {
    for file in times_files(home)? {
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
    }
    let mut pgbench = server.client("pgbench");
    pgbench.args(["-n", "-j", "1", "-T", &seconds.to_string(), "-l"]).args(load.arguments());
    pgbench.arg(format!("--log-prefix={}", home.join(TIMES).display())).arg(DATABASE);
    let said = run_as_postgres(&mut pgbench).context("run pgbench")?;
    let mut times = Vec::new();
    for file in times_files(home)? {
        let lines = BufReader::new(File::open(&file).with_context(|| format!("open {}", file.display()))?).lines();
        for line in lines {
            let line = line.with_context(|| format!("read {}", file.display()))?;
            times.push(parse_time(&line).with_context(|| format!("understand `{line}`"))?);
        }
    }
    let done = Done { times: Delays::of(times), ..parse(&said).with_context(|| format!("understand `{said}`"))? };
    ensure!(done.times.count == done.transactions, "pgbench lists {} of its {}", done.times.count, done.transactions);
    Ok(done)
}

/// How many transactions the cluster knows of.
pub(crate) fn transactions(server: &PgServer) -> Result<u64> {
    let count = server.psql(DATABASE, "select count(*) from pgbench_history")?;
    count.parse().context("read the number of transactions")
}

fn times_files(home: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(home).with_context(|| format!("list {}", home.display()))? {
        let path = entry.with_context(|| format!("list {}", home.display()))?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(TIMES)) {
            files.push(path);
        }
    }
    Ok(files)
}

/// What pgbench prints at its end.
fn parse(said: &str) -> Option<Done> {
    let value = |key: &str| {
        let rest = said.lines().find_map(|line| line.strip_prefix(key))?;
        rest.split_ascii_whitespace().next()
    };
    Some(Done {
        transactions: value("number of transactions actually processed:")?.parse().ok()?,
        tps: value("tps =")?.parse().ok()?,
        mean_seconds: value("latency average =")?.parse::<f64>().ok()? / 1000.0,
        times: Delays::default(),
    })
}

/// A line of pgbench's log (manual, pgbench, "Per-Transaction Logging"): client, number, time and script; with a rate
/// the time counts from when the transaction was due, and the seventh field says by how much it began later.
fn parse_time(line: &str) -> Option<f64> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let micros = |index: usize| fields.get(index).map(|field| field.parse::<f64>().ok());
    let late = micros(6).unwrap_or(Some(0.0))?;
    Some((micros(2)?? - late) / 1e6)
}

/// Updates random rows, each batch right behind a checkpoint, until the server has written this much WAL.
pub(crate) fn write_wal(server: &PgServer, bytes: u64) -> Result<()> {
    let accounts: u64 =
        server.psql(DATABASE, "select count(*) from pgbench_accounts")?.parse().context("count rows")?;
    let rows = ROWS_MAX.min(accounts / 10).max(1);
    let begun = flushed(server)?;
    for _ in 0..UPDATES_MAX {
        server.psql(
            DATABASE,
            &format!(
                "checkpoint;\nupdate pgbench_accounts set abalance = abalance + 1 where aid in \
                 (select 1 + (random() * {})::int from generate_series(1, {rows}))",
                accounts - 1
            ),
        )?;
        if flushed(server)? >= begun + bytes {
            return Ok(());
        }
    }
    bail!("{UPDATES_MAX} updates have not written {bytes} bytes of WAL")
}

/// Up to where the server has flushed its WAL.
pub(crate) fn flushed(server: &PgServer) -> Result<u64> {
    position(&server.psql("postgres", "select pg_current_wal_flush_lsn()")?)
}

/// Ends the current WAL segment, and tells where the WAL ends now.
pub(crate) fn switch(server: &PgServer) -> Result<u64> {
    position(&server.psql("postgres", "select pg_switch_wal()")?)
}

fn position(text: &str) -> Result<u64> {
    Ok(text.parse::<Lsn>().context("understand a position")?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "pgbench (15.18)\nscaling factor: 215\nnumber of clients: 4\n\
        number of transactions actually processed: 163732\nnumber of failed transactions: 0 (0.000%)\n\
        latency average = 1.466 ms\ninitial connection time = 7.1 ms\n\
        tps = 2728.866 (without initial connection time)\n";

    #[test]
    fn a_report_without_its_figures_is_not_understood() {
        for key in ["number of transactions actually processed:", "tps =", "latency average ="] {
            assert_eq!(parse(&SAID.replace(key, "something else")), None, "{key}");
        }
        let done = parse(SAID).unwrap();
        assert_eq!((done.transactions, done.tps), (163_732, 2728.866));
        assert!((done.mean_seconds - 0.001_466).abs() < 1e-9);
    }

    #[test]
    fn waiting_for_its_turn_is_no_part_of_a_transactions_time() {
        assert_eq!(parse_time("0 199 2241 0 1175850568 995598"), Some(0.002_241));
        assert_eq!(parse_time("0 81 4621 0 1412881037 912698 3005"), Some(0.001_616));
        for line in ["", "0 199", "0 199 skipped 0 1 2", "0 199 5 0 1 2 x"] {
            assert_eq!(parse_time(line), None, "{line}");
        }
    }

    #[test]
    fn random_updates_write_what_is_asked_for_and_every_transaction_is_listed() {
        let server = PgServer::builder(15).start().unwrap();
        server.psql("postgres", "create database bench").unwrap();
        let mut pgbench = server.client("pgbench");
        run_as_postgres(pgbench.args(["-i", "-q", "-s", "1", "bench"])).unwrap();
        let before = flushed(&server).unwrap();
        write_wal(&server, 8 << 20).unwrap();
        assert!(flushed(&server).unwrap() >= before + (8 << 20));
        prepare(&server).unwrap();
        let home = lifeboat_testkit::scratch_dir("lifeboat-bench-load-").unwrap();
        let done = run(&server, home.path(), Load::Quiet, 2).unwrap();
        assert_eq!(transactions(&server).unwrap(), done.transactions);
        let again = run(&server, home.path(), Load::Full, 1).unwrap();
        assert!(again.transactions > done.transactions && again.times.max >= again.times.p50, "{again:?}");
        assert!(switch(&server).unwrap() > before);
    }
}
