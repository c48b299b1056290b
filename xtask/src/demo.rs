//! `cargo xtask demo`: a live database under load, two regions, a lost table, a lost host, and the second before.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use lifeboat_testkit::Stop;

use crate::scene::daemon::Daemon;
use crate::scene::scenario::{BALANCES, LEDGER_SUM, Programs, Restored, Scenario, TRANSACTIONS, Wal, size_of};
use crate::steps::{self, seconds};

/// The server's clock, as a target of a recovery is given.
const NOW: &str = "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";

/// How to show it.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Leave both servers and the regions, and say how to look at them and how to remove them.
    #[arg(long)]
    keep: bool,
    /// Size of the database, in units of 100,000 accounts (about 16 MB each).
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    scale: u32,
}

/// What was measured on the way.
struct Measured {
    database: u64,
    regions: Vec<(&'static str, u64)>,
    /// From a commit's record to the object with it in both regions, in seconds: 99 of 100 took no longer.
    latency: f64,
    /// The longest.
    latency_max: f64,
    verify: Duration,
    restore: Duration,
    /// Transactions before the mistake, and how many of them were restored.
    before: u64,
    back: u64,
}

/// Shows it, and fails if the restored database is not that of the second before the mistake.
fn show(args: &DemoArgs) -> Result<(Scenario, Restored)> {
    let mut scenario = Scenario::start(args.scale, Programs::Build, Wal::Asynchronous)?;
    let ledger = scenario.server.psql("postgres", LEDGER_SUM)?;
    // Old WAL lies about in proportion to the load, not to the data; only a little of it belongs to a backup.
    let data_dir = scenario.server.data_dir();
    let database = size_of(data_dir)?.saturating_sub(size_of(&data_dir.join("pg_wal"))?);

    println!("\n--- protected: a base backup and the WAL of every second, while four clients write ---");
    let load = scenario.server.load(4, None)?;
    let mut daemon = Daemon::start(&scenario)?;
    daemon.wait_until_protected()?;
    std::thread::sleep(Duration::from_secs(5));
    steps::run(scenario.lifeboatd().arg("status"))?;

    println!("\n--- a mistake: drop table ledger ---");
    let moment = scenario.server.psql("postgres", NOW)?;
    let before: u64 = scenario.server.psql("postgres", TRANSACTIONS)?.parse()?;
    scenario.server.psql("postgres", "drop table ledger")?;
    ensure!(scenario.server.psql("postgres", LEDGER_SUM).is_err(), "the table is still there");
    std::thread::sleep(Duration::from_secs(2));
    let (latency, latency_max) = (daemon.largest("latency_p99"), daemon.largest("latency_max"));

    println!("\n--- and then the host burns: every process is killed ---");
    scenario.server.stop(Stop::Kill)?;
    daemon.kill()?;
    drop(load);

    println!("\n--- everything that is stored, read and decrypted ---");
    let begun = Instant::now();
    steps::run(scenario.lifeboat_restore().arg("verify"))?;
    let verify = begun.elapsed();

    println!("\n--- back to the second before, from nothing but the regions and a key ---");
    steps::run(scenario.lifeboat_restore().arg("window"))?;
    let begun = Instant::now();
    let restored = scenario.restore("restored", &["--target-time".to_owned(), moment])?;
    let restore = begun.elapsed();
    compare(&restored, &ledger)?;
    let back: u64 = restored.psql(TRANSACTIONS)?.parse()?;
    // The two questions before the mistake were asked one after the other.
    ensure!(back <= before, "there are {back} transactions, and before the mistake there were {before}");
    let regions = scenario.region_sizes()?;
    report(&Measured { database, regions, latency, latency_max, verify, restore, before, back });
    scenario.server.start()?;
    Ok((scenario, restored))
}

/// Runs the demonstration, and leaves or removes everything.
pub(crate) fn run(args: &DemoArgs) -> Result<()> {
    let (scenario, mut restored) = show(args)?;
    if !args.keep {
        return Ok(());
    }
    restored.leave_running();
    let psql = scenario.server.bin_dir().join("psql").display().to_string();
    let live = format!("{psql} '{}'", scenario.server.connection_string());
    let (pid, data) = scenario.server.keep()?;
    let dir = scenario.dir.keep();
    println!("\nBoth servers go on. Look at them (as root or as the account that they run as):");
    println!("  the live one:      {live}");
    println!("  the restored one:  {psql} -h {} -p {} -U postgres", restored.socket_dir.display(), restored.port);
    println!("  the regions:       {}", dir.display());
    println!("Stop them and remove everything:");
    println!("  kill -INT {pid} {}; sleep 2; rm -r {} {}", restored.pid, data.display(), dir.display());
    Ok(())
}

fn compare(restored: &Restored, ledger: &str) -> Result<()> {
    println!("\n--- is it the same? ---");
    let back = restored.psql(LEDGER_SUM)?;
    println!("table ledger before:    {ledger}\ntable ledger restored:  {back}");
    ensure!(back == ledger, "the restored table is not the one that was lost");
    let consistent = restored.psql(BALANCES)?;
    println!("balances agree with the history of payments: {}", if consistent == "t" { "yes" } else { "NO" });
    ensure!(consistent == "t", "the restored balances do not agree with each other");
    Ok(())
}

fn report(measured: &Measured) {
    println!("\n--- report ---");
    println!("database       {:>10}", mib(measured.database));
    for (name, size) in &measured.regions {
        println!("region {name:<7} {:>10}   1 : {:.1}", mib(*size), ratio(measured.database, *size));
    }
    let rate = |took: Duration| format!("{:.0} MiB/s", as_mib(measured.database) / took.as_secs_f64().max(0.001));
    println!("verify         {:>10}   {}", seconds(measured.verify), rate(measured.verify));
    println!(
        "RPO            {:>10}   99 of 100 commits were in both regions within it, the slowest within {:.2} s",
        format!("{:.2} s", measured.latency),
        measured.latency_max
    );
    println!("RTO            {:>10}   {}, restored, replayed, open", seconds(measured.restore), rate(measured.restore));
    println!("{} transactions were committed before the mistake; {} of them are back,", measured.before, measured.back);
    println!("all those that were committed before the moment that was asked for");
}

fn as_mib(bytes: u64) -> f64 {
    // Exact up to 8 PiB, which is more than a demonstration has.
    f64::from(u32::try_from(bytes >> 20).unwrap_or(u32::MAX))
        + f64::from(u32::try_from(bytes & 0xf_ffff).unwrap_or(0)) / f64::from(1 << 20)
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", as_mib(bytes))
}

fn ratio(large: u64, small: u64) -> f64 {
    as_mib(large) / as_mib(small).max(0.001)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_in_mib_and_ratios_survive_an_empty_region() {
        assert_eq!(mib(0), "0.0 MiB");
        assert_eq!(mib(1_572_864), "1.5 MiB");
        assert_eq!(mib(5 << 30), "5120.0 MiB");
        assert!((ratio(3 << 20, 1 << 20) - 3.0).abs() < 1e-9);
        assert!(ratio(1 << 20, 0).is_finite());
    }
}
