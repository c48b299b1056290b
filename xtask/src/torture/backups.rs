//! `cargo xtask torture backups`: backups that are killed at random moments, over and over.

use lifeboat_vocabulary::counted;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use lifeboat_testkit::SeededRandom;

use crate::scene::scenario::{BALANCES, LEDGER_SUM, Programs, Scenario, Wal};
use crate::steps::{self, output_of, seconds};

/// How long to go on.
#[derive(Debug, Args)]
pub(crate) struct TortureArgs {
    /// How many backups to kill.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,
    /// Decides the moments; a run with the same seed tries the same ones.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// Kills `rounds` backups, each time followed by a whole one, and restores the last.
pub(crate) fn run(args: &TortureArgs) -> Result<()> {
    torture(args, Programs::Build)
}

/// A few rounds with the programs that the tests have built.
pub(crate) fn short() -> Result<()> {
    torture(&TortureArgs { rounds: 2, seed: 1 }, Programs::AsTested)
}

fn torture(args: &TortureArgs, programs: Programs) -> Result<()> {
    let scenario = Scenario::start(10, programs, Wal::Asynchronous)?;
    let ledger = scenario.server.psql("postgres", LEDGER_SUM)?;
    let load = scenario.server.load(2, Some(200))?;
    let begun = Instant::now();
    steps::run(scenario.lifeboatd().arg("backup"))?;
    let whole = begun.elapsed();
    println!("a whole backup takes {}; seed {}", seconds(whole), args.seed);
    let mut random = SeededRandom::new(args.seed);
    let (mut killed, mut finished) = (0_u64, 1);
    for round in 1..=args.rounds {
        let moment = whole.mul_f64(random.fraction() * 1.1);
        println!("\nround {round} of {}: a backup that is killed after {}", args.rounds, seconds(moment));
        match kill_after(&scenario, moment)? {
            Ended::Killed => killed += 1,
            Ended::Finished => finished += 1,
        }
        let listed = listed_backups(&scenario)?;
        // Killed after its last record was written, a backup exists all the same, and may be listed.
        ensure!(listed >= finished, "{listed} backups are listed, and {finished} were finished");
        finished = listed;
        steps::run(scenario.lifeboat_restore().arg("verify"))?;
    }
    steps::run(scenario.lifeboatd().arg("backup"))?;
    load.stop(&scenario.server)?;
    let restored = scenario.restore("restored", &[])?;
    ensure!(restored.psql(LEDGER_SUM)? == ledger, "the restored table is not the one that was backed up");
    ensure!(restored.psql(BALANCES)? == "t", "the restored balances do not agree with each other");
    let killed = counted(killed, "backup", "backups");
    println!("\nPASSED: {killed} killed, {} made, the last one restored and compared", finished + 1);
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Killed,
    Finished,
}

fn kill_after(scenario: &Scenario, moment: Duration) -> Result<Ended> {
    let mut backup = scenario.lifeboatd();
    let mut backup =
        backup.arg("backup").stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start a backup")?;
    std::thread::sleep(moment);
    if backup.try_wait().context("ask for the backup's state")?.is_none() {
        backup.kill().context("kill the backup")?;
    }
    let status = backup.wait().context("wait for the backup")?;
    Ok(if status.success() { Ended::Finished } else { Ended::Killed })
}

/// Lines of the list that name a backup: its id ends with eight hexadecimal digits after `Z-`.
fn listed_backups(scenario: &Scenario) -> Result<usize> {
    let list = output_of(scenario.lifeboat_restore().arg("list"))?;
    Ok(list.lines().filter(|line| line.contains("Z-")).count())
}
