//! Puts the records of the regions' logs together, a thousand in one object, so that whoever reads a log of years needs few requests.

use std::time::Duration;

use futures_util::future::join_all;
use lifeboat_repository::log::{BundleWriter, BundlesWritten, RegionLog, RegionStore};
use lifeboat_vocabulary::error_chain;

use crate::base::supervisor::TaskContext;
use crate::care::parts::CareParts;
use crate::deletion::standstill::Action;
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
    loop {
        context.progress.waiting("records that can be put together");
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        pause = EVERY;
        // Whoever signs a bundle says that this is the history. While a person has to look at it, nobody says so.
        if parts.context.freezer.check(&parts.cluster.name, Action::Delete).is_err() {
            continue;
        }
        // Stores have deadlines of their own.
        context.progress.waiting("the regions, where records are put together");
        let stores = parts.context.regions.stores();
        tokio::select! {
            // A crash anywhere in it leaves what the next round uses.
            () = context.stop.cancelled() => return Ok(()),
            _ = join_all(stores.iter().map(|region| bundle(&parts, region, turn))) => {}
        }
        turn = turn.wrapping_add(1);
    }
}

async fn bundle(parts: &CareParts, region: &RegionStore, turn: usize) {
    let cluster = &parts.cluster.name;
    match write(parts, region, turn).await {
        Ok(BundlesWritten { new: 0, again: 0, left: 0 }) => {}
        Ok(BundlesWritten { new, again, left }) => {
            tracing::info!(%cluster, region = %region.name, new, again, left, "records of the log were put together");
        }
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(%cluster, region = %region.name, error, "records of the log cannot be put together now");
        }
    }
}

/// Writes what is due, and reads one bundle back: in some days it has been every one's turn.
async fn write(parts: &CareParts, region: &RegionStore, turn: usize) -> anyhow::Result<BundlesWritten> {
    let (logs, signer) = (parts.context.regions.logs(), &parts.context.signer);
    let (_, log) = logs.read(region, &signer.root()).await?;
    let mut log = RegionLog::clone(&log);
    let writer = BundleWriter::new(signer, &*parts.context.clock, wiring::TOOL);
    let written = writer.write_due(&*region.store, &mut log).await;
    // Everybody hears of the records. One that cannot be read now is read in its turn.
    if let Err(error) = logs.read(region, &signer.root()).await {
        tracing::debug!(region = %region.name, error = %error_chain(&*error), "the log is not read again");
    }
    let (written, checked) = (written?, writer.check_one(&*region.store, &mut log, turn).await?);
    Ok(BundlesWritten { again: written.again.saturating_add(checked.again), ..written })
}

#[cfg(test)]
mod tests;
