//! Looks at the agreement of the logs every few minutes, whoever heals.

use std::time::Duration;

use crate::base::supervisor::TaskContext;
use crate::care::agree::judge;
use crate::care::ask::ask;
use crate::care::parts::CareParts;

const EVERY: Duration = Duration::from_secs(300);

/// Compares the logs with each other and with what is remembered, until it is told to stop.
///
/// # Errors
/// None; a region that does not answer says nothing.
pub async fn agreement_task(context: TaskContext, parts: CareParts) -> anyhow::Result<()> {
    let stores = parts.context.regions.stores();
    loop {
        context.progress.working("the agreement of the logs");
        let asked = tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            asked = ask(&stores, &parts.context.signer, parts.board.logs()) => asked,
        };
        match asked {
            Ok(roundup) => drop(judge(&parts, &roundup).await),
            Err(error) => {
                tracing::debug!(cluster = %parts.cluster.name, error = %format!("{error:#}"), "nothing to compare")
            }
        }
        context.progress.waiting("the next look");
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
