//! `lifeboatd backup`: one backup by hand.

use std::path::Path;

use lifeboat_cli::errln;
use lifeboat_cli::exit_code::{Ending, Exit};
use lifeboat_cli::terminal::Output;
use lifeboat_stores::Verdict;
use lifeboat_vocabulary::{Clock, SystemClock, error_chain};
use tokio_util::sync::CancellationToken;

use crate::backup::history::{RunHistory, RunKind};
use crate::backup::report;
use crate::backup::run::{Shown, make, result_of};
use crate::base::guard::{GuardError, RunGuard};
use crate::regions::open::OpenRegions;
use crate::settings::wiring::ClusterConfig;
use crate::wal::server_memory::ServerMemory;

/// Makes a full backup and prints what became of it. A daemon beside it makes none meanwhile, and remembers this one.
///
/// # Errors
/// Whatever stopped it. Nothing that looks like a backup is left behind then.
pub async fn run(chosen: ClusterConfig<'_>, output: Output, stop: &CancellationToken) -> anyhow::Result<Ending> {
    let ClusterConfig { config, cluster } = chosen;
    let directory = chosen.state_directory();
    let _guard = by_hand(&directory)?;
    refuse_lost_wal(&directory)?;
    let (history, _) = RunHistory::open(&directory);
    let (number, begun) = history.begin(RunKind::ByHand, None, SystemClock.now()).await;
    let regions = OpenRegions::open(config, &cluster.name).await?;
    let outcome = make(chosen, &regions, &SystemClock, Shown::To(output), stop).await;
    let ended = history.end(number, SystemClock.now(), result_of(&outcome, stop)).await;
    if let Err(error) = begun.and(ended) {
        errln!("warning: the daemon will not know of this backup until it reads the regions: {}", error_chain(&error));
    }
    if stop.is_cancelled() && outcome.is_err() {
        errln!("the backup was stopped; nothing that looks like a backup is left behind");
        return Ok(Ending::Stopped);
    }
    let outcome = outcome?;
    report::print(&outcome, config.durability.backup_quorum, output);
    Ok(match outcome.verdict {
        Verdict::Failed => Ending::BelowQuorum,
        _ if !outcome.damaged.is_empty() || !outcome.commit.record.is_complete() => Ending::Damaged,
        Verdict::Degraded => Ending::Degraded,
        Verdict::Ok => Ending::Done,
    })
}

/// A backup of a server that was set back would be followed, in a restore, by the WAL that it has lost.
fn refuse_lost_wal(directory: &Path) -> anyhow::Result<()> {
    match ServerMemory::open(directory).read().refused {
        Some(lost) => {
            let text = format!("no backup of a server that has lost WAL, refused since {}: {}", lost.since, lost.why);
            Err(Exit::error(Ending::Failed, text))
        }
        None => Ok(()),
    }
}

/// Only one backup of a cluster at a time, whoever makes it.
fn by_hand(directory: &Path) -> anyhow::Result<RunGuard> {
    match RunGuard::try_acquire(directory, "a backup by hand", &SystemClock) {
        Ok(guard) => Ok(guard),
        Err(busy @ GuardError::Busy(_)) => {
            let text =
                format!("{busy}; `lifeboatd status` shows how it goes, and it can be asked for again afterwards");
            Err(Exit::error(Ending::Busy, text))
        }
        Err(error) => Err(anyhow::Error::new(error)
            .context("the state directory is needed, so that two backups never run at once (key state.directory)")),
    }
}
