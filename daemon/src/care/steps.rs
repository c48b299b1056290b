//! Tells the supervisor that long work comes on.

use std::future::Future;
use std::time::Duration;

use lifeboat_repository::heal::HealProgress;
use tokio::time::{MissedTickBehavior, interval};

use crate::base::supervisor::TaskContext;

/// How often it is looked whether bytes move.
const LOOK: Duration = Duration::from_secs(2);

/// Does `work`, and counts as a step of the task whatever moves in `progress` meanwhile.
pub(crate) async fn stepping<T>(context: &TaskContext, progress: &HealProgress, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = progress.snapshot();
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = tick.tick() => {
                let now = progress.snapshot();
                if (now.objects, &now.doing) != (before.objects, &before.doing) {
                    context.progress.moved();
                }
                before = now;
            }
        }
    }
}
