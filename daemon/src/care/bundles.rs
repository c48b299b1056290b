//! Puts the records of the regions' logs together, a thousand in one object, so that whoever reads a log of years needs few requests.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use lifeboat_repository::log::{
    BundleWriteError, BundleWriter, BundlesWritten, LogError, ReadSingly, RegionLog, RegionStore,
};
use lifeboat_vocabulary::{RegionName, error_chain};

use crate::base::supervisor::TaskContext;
use crate::care::agreement::judge;
use crate::care::parts::CareParts;
use crate::deletion::standstill::Action;
use crate::regions::readings::read_all;
use crate::settings::wiring;

/// After the start everything else goes first.
const FIRST_AFTER: Duration = Duration::from_secs(300);
/// A busy cluster writes some dozen records in an hour.
const EVERY: Duration = Duration::from_secs(3600);

/// Writes the bundles that the logs lack until it is told to stop. A key that may not say that it has read a log writes none.
///
/// # Errors
/// None: what fails is tried again, and costs readers time and nothing else.
pub(crate) async fn bundles_task(context: TaskContext, parts: CareParts) -> anyhow::Result<()> {
    let mut pause = FIRST_AFTER;
    let mut turn = 0_usize;
    let mut read: BTreeMap<RegionName, ReadSingly> = BTreeMap::new();
    loop {
        context.progress.waiting("records that can be put together");
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        pause = EVERY;
        // Whoever signs a bundle says that this is the history. While a person has to look at it, nobody says so.
        let (freezer, cluster) = (&parts.context.freezer, &parts.cluster.name);
        if freezer.check(cluster, Action::Delete).is_err() || freezer.may_have_forgotten(cluster) {
            continue;
        }
        // Stores have deadlines of their own.
        context.progress.waiting("the regions, where records are put together");
        tokio::select! {
            // A crash anywhere in it leaves what the next round uses.
            () = context.stop.cancelled() => return Ok(()),
            () = round(&parts, turn, &mut read) => {}
        }
        turn = turn.wrapping_add(1);
    }
}

/// Puts together what is due in all regions, if they agree with each other and with what is remembered of them.
async fn round(parts: &CareParts, turn: usize, read: &mut BTreeMap<RegionName, ReadSingly>) {
    match read_all(&parts.context.regions, &parts.context.signer).await {
        // The regions that could not be read are not written to either.
        Ok(readings) if judge(parts, &readings).await.is_empty() => {}
        Ok(_) => return,
        Err(error) => {
            let error = format!("{error:#}");
            tracing::debug!(cluster = %parts.cluster.name, error, "the regions are not compared, and nothing is put together");
            return;
        }
    }
    let stores = parts.context.regions.stores();
    for region in &stores {
        read.entry(region.name.clone()).or_default();
    }
    let of = |name: &RegionName| stores.iter().find(|region| region.name == *name);
    let each = read.iter_mut().filter_map(|(name, read)| Some(bundle(parts, of(name)?, turn, read)));
    join_all(each).await;
}

async fn bundle(parts: &CareParts, region: &RegionStore, turn: usize, read: &mut ReadSingly) {
    let cluster = &parts.cluster.name;
    match write(parts, region, turn, read).await {
        Ok(BundlesWritten { new: 0, again: 0, left: 0 }) => {}
        Ok(BundlesWritten { new, again, left }) => {
            tracing::info!(%cluster, region = %region.name, new, again, left, "records of the log were put together");
        }
        Err(error) => {
            compare_again(parts, region, &error).await;
            let error = format!("{error:#}");
            tracing::warn!(%cluster, region = %region.name, error, "records of the log cannot be put together now");
        }
    }
}

/// A note that is gone, or another one, is compared as the scrub does: if it still is at the next round, or for the scrub, the log is
/// refused to everybody.
async fn compare_again(parts: &CareParts, region: &RegionStore, error: &anyhow::Error) {
    let Some(BundleWriteError::Log(error)) = error.downcast_ref() else { return };
    let seq = match *error {
        LogError::RolledBack { found: seq, .. } | LogError::Forked { seq, .. } | LogError::Gap { seq } => seq,
        _ => return,
    };
    if let Err(error) = parts.context.regions.logs().compare_notes(region, seq, 1).await {
        tracing::warn!(region = %region.name, error = %error_chain(&*error), "the log is not what was read of it");
    }
}

/// Writes what is due, and reads one bundle back: in some days it has been every one's turn.
async fn write(
    parts: &CareParts,
    region: &RegionStore,
    turn: usize,
    read: &mut ReadSingly,
) -> anyhow::Result<BundlesWritten> {
    let (logs, signer) = (parts.context.regions.logs(), &parts.context.signer);
    let (_, log) = logs.read(region, &signer.root()).await?;
    let mut log = RegionLog::clone(&log);
    let writer = BundleWriter::new(signer, &*parts.context.clock, wiring::TOOL);
    let written = writer.write_due(&*region.store, &mut log, read).await;
    // Everybody hears of the records. One that cannot be read now is read in its turn.
    if let Err(error) = logs.read(region, &signer.root()).await {
        tracing::debug!(region = %region.name, error = %error_chain(&*error), "the log is not read again");
    }
    let (written, checked) = (written?, writer.check_one(&*region.store, &mut log, turn).await?);
    Ok(BundlesWritten { again: written.again.saturating_add(checked.again), ..written })
}

#[cfg(test)]
mod tests;
