//! Looks at the agreement of the logs every few minutes, whoever heals.

use std::time::Duration;

use crate::base::supervisor::TaskContext;
use crate::care::agree::judge;
use crate::care::parts::CareParts;
use crate::regions::readings::read_all;

const EVERY: Duration = Duration::from_secs(300);

/// Compares the logs with each other and with what is remembered, until it is told to stop.
///
/// # Errors
/// None; a region that does not answer says nothing.
pub async fn agreement_task(context: TaskContext, parts: CareParts) -> anyhow::Result<()> {
    loop {
        context.progress.working("the agreement of the logs");
        let read = tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            read = read_all(&parts.context.regions, &parts.context.signer) => read,
        };
        match read {
            Ok(read) => drop(judge(&parts, &read).await),
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
