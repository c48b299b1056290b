//! The retention policy of a cluster, from its configuration and its schedule.

use std::time::Duration;

use lifeboat_config::ClusterSettings;
use lifeboat_repository::retention::{RetentionLimits, RetentionPolicy};
use lifeboat_vocabulary::UtcTime;

use crate::settings::timetable::Timetable;

/// Planned runs that are looked at to find the longest time between two of them: more than five weeks of every schedule
/// that is meant seriously.
const RUNS_LOOKED_AT: usize = 2000;
const SCHEDULE_SPAN: Duration = Duration::from_secs(40 * 86_400);

/// The retention policy of a cluster: what the configuration says, in the time zone of its schedule.
#[must_use]
pub fn policy(cluster: &ClusterSettings, now: UtcTime) -> RetentionPolicy {
    let settings = cluster.retention;
    let timetable = Timetable::new(cluster.name.clone(), cluster.schedule.clone());
    let limits = RetentionLimits { backup_every: longest_interval(&timetable, now), ..RetentionLimits::default() };
    RetentionPolicy {
        timezone: cluster.schedule.timezone.clone(),
        daily: settings.daily,
        weekly: settings.weekly,
        monthly: settings.monthly,
        min_keep: settings.min_keep,
        window: settings.pitr_window,
        limits,
    }
}

/// The longest time between two runs that are planned in the next weeks.
fn longest_interval(timetable: &Timetable, now: UtcTime) -> Option<Duration> {
    let mut last = timetable.next_after(now)?;
    let mut longest = None;
    for _ in 0..RUNS_LOOKED_AT {
        let Some(next) = timetable.next_after(last) else { break };
        longest = longest.max(Some(timetable.start_of(next).since(timetable.start_of(last))));
        last = next;
        if last.since(now) > SCHEDULE_SPAN {
            break;
        }
    }
    longest
}
