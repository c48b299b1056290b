//! `cargo xtask torture wal`: the host is lost at random moments, over and over; what was acknowledged and is gone is
//! counted after a recovery from the regions alone.

use lifeboat_vocabulary::counted;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use lifeboat_testkit::{SeededRandom, Stop};

use crate::scene::daemon::Daemon;
use crate::scene::scenario::{BALANCES, Programs, Restored, Scenario, Wal};
use crate::torture::clients::{Acknowledged, Clients};

/// What may be lost in the default mode: commits that are younger.
const LOSS_MAX: Duration = Duration::from_secs(2);
const CLIENTS: u32 = 4;

/// How long to go on.
#[derive(Debug, Args)]
pub(crate) struct WalTortureArgs {
    /// How many times to lose the host, in each mode.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    kills: u32,
    /// Recoveries to random moments and positions afterwards.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=1000))]
    targets: u32,
    /// Decides the moments; a run with the same seed tries the same ones.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// Loses the host `kills` times in both modes, and prints what it cost.
pub(crate) fn run(args: &WalTortureArgs) -> Result<()> {
    torture(args, Programs::Build)
}

/// A few kills with the programs that the tests have built.
pub(crate) fn short() -> Result<()> {
    torture(&WalTortureArgs { kills: 2, targets: 2, seed: 1 }, Programs::AsTested)
}

fn torture(args: &WalTortureArgs, programs: Programs) -> Result<()> {
    let default = lose_the_host(args, Wal::Asynchronous, programs)?;
    let synchronous = lose_the_host(args, Wal::Synchronous, Programs::AsTested)?;
    println!("\n--- what the loss of the host cost, over {} each ---", counted(args.kills.into(), "kill", "kills"));
    println!("{:<14} {:>13} {:>8} {:>12} {:>12}", "mode", "acknowledged", "lost", "oldest lost", "median lost");
    for (mode, losses) in [("default", &default), ("synchronous", &synchronous)] {
        let (oldest, median) = (losses.oldest(), losses.median());
        println!(
            "{mode:<14} {:>13} {:>8} {:>12} {:>12}",
            losses.acknowledged,
            losses.lost.len(),
            shown(oldest),
            shown(median)
        );
    }
    ensure!(default.oldest() < Some(LOSS_MAX), "a commit older than {LOSS_MAX:?} was lost in the default mode");
    ensure!(synchronous.lost.is_empty(), "an acknowledged commit was lost in the synchronous mode");
    println!("PASSED: default mode lost nothing older than {LOSS_MAX:?}, synchronous mode lost nothing");
    Ok(())
}

fn shown(age: Option<Duration>) -> String {
    age.map_or_else(|| "-".to_owned(), |age| format!("{:.0} ms", age.as_secs_f64() * 1000.0))
}

/// What all kills of one mode cost.
#[derive(Debug, Default)]
struct Losses {
    acknowledged: usize,
    /// How old each lost commit was when the host was lost, from its acknowledgement.
    lost: Vec<Duration>,
}

impl Losses {
    fn oldest(&self) -> Option<Duration> {
        self.lost.iter().max().copied()
    }

    fn median(&self) -> Option<Duration> {
        let mut sorted = self.lost.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }
}

fn lose_the_host(args: &WalTortureArgs, wal: Wal, programs: Programs) -> Result<Losses> {
    println!("\n--- {wal:?} mode ---");
    let mut scenario = Scenario::start(2, programs, wal)?;
    scenario.server.psql("postgres", Clients::TABLE)?;
    let mut daemon = Daemon::start(&scenario)?;
    daemon.wait_until_protected()?;
    if wal == Wal::Synchronous {
        scenario.server.psql("postgres", "alter system set synchronous_standby_names = 'ANY 1 (lifeboat)'")?;
        scenario.server.psql("postgres", "select pg_reload_conf()")?;
    }
    let (mut random, mut losses) = (SeededRandom::new(args.seed), Losses::default());
    let mut history = Vec::new();
    for kill in 1..=args.kills {
        let clients = Clients::start(&scenario.server, CLIENTS, kill)?;
        let load = scenario.server.load(2, Some(100))?;
        std::thread::sleep(Duration::from_millis(500) + Duration::from_secs(3).mul_f64(random.fraction()));
        // Which of the two dies first must not matter.
        if random.fraction() < 0.5 {
            daemon.kill()?;
            scenario.server.stop(Stop::Kill)?;
        } else {
            scenario.server.stop(Stop::Kill)?;
            daemon.kill()?;
        }
        let lost_at = Instant::now();
        drop(load);
        let acknowledged = clients.join()?;
        let name = format!("{wal:?}-{kill}");
        let restored = scenario.restore(&name, &[])?;
        ensure!(restored.psql(BALANCES)? == "t", "the restored balances do not agree with each other");
        let lost = missing(&restored, kill, &acknowledged)?;
        drop(restored);
        scenario.remove(&name)?;
        let oldest = lost.iter().map(|commit| lost_at.duration_since(commit.when)).max();
        println!(
            "kill {kill:>3}: {:>5} acknowledged, {:>3} lost, oldest {}",
            acknowledged.len(),
            lost.len(),
            shown(oldest)
        );
        losses.acknowledged += acknowledged.len();
        losses.lost.extend(lost.iter().map(|commit| lost_at.duration_since(commit.when)));
        history.extend(acknowledged);
        scenario.server.start()?;
        daemon = Daemon::start(&scenario)?;
        daemon.wait_until_streaming()?;
    }
    let end = scenario.server.psql("postgres", "select pg_current_wal_flush_lsn()")?;
    daemon.wait_until_durable(&end)?;
    for _ in 0..args.targets {
        to_a_random_commit(&scenario, &history, &mut random)?;
    }
    daemon.kill()?;
    Ok(losses)
}

/// Commits that were acknowledged and are not there. What is there of each client must be a prefix of what it did.
fn missing<'a>(restored: &Restored, run: u32, acknowledged: &'a [Acknowledged]) -> Result<Vec<&'a Acknowledged>> {
    let last = last_of_each(restored, run)?;
    Ok(acknowledged
        .iter()
        .filter(|commit| commit.number > last.get(commit.client as usize).copied().unwrap_or(0))
        .collect())
}

/// The last number of each client in a run; fails if one before it is missing.
fn last_of_each(restored: &Restored, run: u32) -> Result<Vec<u64>> {
    let mut last = vec![0; CLIENTS as usize];
    let sql = format!("select client, max(number), count(*) from commits where run = {run} group by client");
    for line in restored.psql(&sql)?.lines() {
        let fields: Vec<u64> = line.split('|').filter_map(|field| field.parse().ok()).collect();
        let [client, max, count] = fields.as_slice() else { anyhow::bail!("understand {line}") };
        ensure!(max == count, "client {client} has {count} commits, and the last one is number {max}");
        if let Some(slot) = usize::try_from(*client).ok().and_then(|client| last.get_mut(client)) {
            *slot = *max;
        }
    }
    Ok(last)
}

/// Recovers to just behind a random commit, by position or by time, and compares with what the clients know.
fn to_a_random_commit(scenario: &Scenario, history: &[Acknowledged], random: &mut SeededRandom) -> Result<()> {
    let target = random.choose(history).context("nothing was committed")?;
    let by_position = random.fraction() < 0.5;
    let arguments = match by_position {
        true => vec!["--target-lsn".to_owned(), target.position.clone(), "--exclusive".to_owned()],
        false => vec!["--target-time".to_owned(), target.server_time.clone()],
    };
    let restored = scenario.restore("target", &arguments)?;
    let last = last_of_each(&restored, target.run)?;
    let found = last.get(target.client as usize).copied().unwrap_or(0);
    ensure!(
        found == target.number,
        "recovered {arguments:?}: client {} is at {found}, and should be at {}",
        target.client,
        target.number
    );
    let later = restored.psql(&format!("select count(*) from commits where run > {}", target.run))?;
    ensure!(later == "0", "recovered {arguments:?}: there are commits of later runs");
    ensure!(restored.psql(BALANCES)? == "t", "the restored balances do not agree with each other");
    println!("recovered {}: exactly the committed prefix", arguments.join(" "));
    drop(restored);
    scenario.remove("target")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_commits_are_counted_by_age() {
        let mut losses = Losses::default();
        assert_eq!((losses.oldest(), losses.median()), (None, None));
        losses.lost = [30, 10, 20].map(Duration::from_millis).to_vec();
        assert_eq!(
            (losses.oldest(), losses.median()),
            (Some(Duration::from_millis(30)), Some(Duration::from_millis(20)))
        );
        assert!(None < Some(LOSS_MAX), "no loss is less than any");
        assert_eq!(shown(losses.oldest()), "30 ms");
    }
}
