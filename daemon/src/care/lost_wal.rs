//! Looks once a day, and after each start, whether the WAL that must be there is there: what none of the regions has any more, nobody
//! else would notice before a restore does.
//!
//! No gap is put on record: a region that comes back may still have it, and then nothing was lost. So the alarm and the window stand
//! as long as listings say so. A base backup is ordered where none was begun behind the loss.

use std::time::Duration;

use lifeboat_config::Role;
use lifeboat_repository::catalog::Catalog;
use lifeboat_repository::heal::{
    self, HealProgress, HealRegion, HealScope, Reach, WalCheck, WalNeeds, ranges_in_words,
};
use lifeboat_repository::log::LogTrust;
use lifeboat_vocabulary::WalPosition;

use crate::base::alarms::board::{Alarm, Source, SourceKind, Wrongs};
use crate::base::supervisor::TaskContext;
use crate::care::parts::CareParts;
use crate::care::steps::stepping;
use crate::regions::readings::read_all;
use crate::wal::backup_need::lies_behind;
use crate::wal::server_memory::ServerMemory;

/// After the start everything else goes first.
const FIRST_AFTER: Duration = Duration::from_secs(30);
const EVERY: Duration = Duration::from_secs(86_400);
/// While something is lost, or is not known.
const AGAIN: Duration = Duration::from_secs(600);

/// Compares the WAL of a cluster's regions until it is told to stop.
///
/// # Errors
/// None: what fails is tried again.
pub(crate) async fn lost_wal_task(context: TaskContext, parts: CareParts) -> anyhow::Result<()> {
    let mut pause = FIRST_AFTER;
    loop {
        context.progress.waiting("the next comparison of the WAL of the regions");
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        context.progress.working("a comparison of the WAL of the regions");
        let cluster = &parts.cluster.name;
        let round = tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            round = round(&context, &parts) => round,
        };
        pause = match round {
            Ok(pause) => pause,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(%cluster, error, "the WAL of the regions cannot be compared now");
                AGAIN
            }
        };
    }
}

/// Compares, reports, and says when to do so again. Where a region does not answer, what was reported before stands.
async fn round(context: &TaskContext, parts: &CareParts) -> anyhow::Result<Duration> {
    let read = read_all(&parts.context.regions, &parts.context.signer).await?;
    let regions = read.readable(&[]);
    let scope = parts.scope(&regions).await;
    let progress = HealProgress::default();
    let check = stepping(context, &progress, compare(parts, &read.trust, &regions, &scope, &progress)).await;
    let cluster = &parts.cluster.name;
    let silent: Vec<String> = read
        .unreadable()
        .into_iter()
        .chain(check.silent.clone())
        .map(|(region, why)| format!("{region}: {why}"))
        .collect();
    if !silent.is_empty() {
        let silent = silent.join("; ");
        tracing::info!(%cluster, silent, "whether WAL is lost is not known while a region does not answer");
        return Ok(AGAIN);
    }
    if check.reach == Reach::Unknown {
        tracing::warn!(%cluster, "no region has a sign of life of a writer: how far WAL must reach is not known");
        return Ok(AGAIN);
    }
    let newest = Catalog::merge(&read.views()).newest_intact(parts.now()).map(|row| row.record.start());
    report(parts, &check, newest);
    Ok(if check.lost.is_empty() { EVERY } else { AGAIN })
}

fn report(parts: &CareParts, check: &WalCheck, newest: Option<WalPosition>) {
    let cluster = &parts.cluster.name;
    let mut wrong = Wrongs::default();
    if !check.lost.is_empty() {
        let what = format!("WAL is gone from all regions: {}", ranges_in_words(&check.lost));
        let is_uncrossed = check.lost.iter().any(|lost| newest.is_none_or(|newest| lies_behind(newest, lost)));
        let then = match (is_uncrossed, parts.config.daemon.does(Role::Backup)) {
            (true, true) => {
                parts.requests.request(what.clone());
                "a base backup from behind it is ordered"
            }
            (true, false) => "make a base backup now: this daemon makes none",
            (false, _) => "a backup from behind it exists",
        };
        let text =
            format!("{what}. No restore crosses that; {then}. Has a lifecycle rule, or a hand, deleted objects?");
        wrong.add(Alarm::WalLost, text);
    }
    parts.context.facts.lost_wal(check.lost.clone());
    parts.context.alarms.report(&Source::of(cluster, SourceKind::LostWal), wrong);
}

/// Compares the WAL of these regions with what must be there, as far as this host knows it.
pub(crate) async fn compare(
    parts: &CareParts,
    trust: &LogTrust,
    regions: &[HealRegion],
    scope: &HealScope,
    progress: &HealProgress,
) -> WalCheck {
    let server = ServerMemory::open(&parts.context.directory).read().timelines();
    let clock = &*parts.context.clock;
    heal::check_wal(regions, &WalNeeds { scope, server: server.as_ref(), trust, progress, clock }).await
}
