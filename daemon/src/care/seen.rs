//! How far healing and scrub are, in the words of the status.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_vocabulary::RegionName;

use crate::base::supervisor::TaskContext;
use crate::care::board::CareBoard;
use crate::model::facts::ClusterFacts;
use crate::model::snapshot::{HealStatus, ScrubStatus};

const EVERY: Duration = Duration::from_secs(2);

/// What is told.
#[derive(Clone)]
pub struct SeenCare {
    /// The regions.
    pub regions: Vec<RegionName>,
    /// Where healing and scrub write how far they are.
    pub care: Arc<CareBoard>,
    /// Where it is told.
    pub facts: Arc<ClusterFacts>,
}

/// Tells until it is told to stop.
///
/// # Errors
/// None so far; the supervisor wants to know.
pub async fn tell(context: TaskContext, seen: SeenCare) -> anyhow::Result<()> {
    while !context.stop.is_cancelled() {
        context.progress.working("how far healing and scrub are");
        for region in &seen.regions {
            let heal = seen.care.healing_of(region).map(|now| HealStatus {
                objects_done: now.objects,
                objects_total: now.objects_total,
                bytes_done: now.done.as_bytes(),
                bytes_total: now.total.as_bytes(),
                doing: now.doing,
            });
            seen.facts.healing(region, heal);
            if let Some(scrub) = seen.care.scrub_of(region) {
                let oldest = Some(scrub.oldest.as_secs_f64());
                let (share_done, damaged) = (Some(scrub.share_done), scrub.damaged);
                seen.facts.scrubbed(region, ScrubStatus { share_done, oldest_unverified_seconds: oldest, damaged });
            }
        }
        context.progress.waiting("the next look");
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
    Ok(())
}
