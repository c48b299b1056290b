//! The retention policy of a cluster, from its configuration and its schedule.

use lifeboat_config::ClusterSettings;
use lifeboat_repository::retention::{RetentionLimits, RetentionPolicy};
use lifeboat_vocabulary::UtcTime;

use crate::settings::timetable::Timetable;

/// The retention policy of a cluster: what the configuration says, in the time zone of its schedule.
#[must_use]
pub(crate) fn policy(cluster: &ClusterSettings, now: UtcTime) -> RetentionPolicy {
    let settings = cluster.retention;
    let timetable = Timetable::new(cluster.name.clone(), cluster.schedule.clone());
    let limits = RetentionLimits { backup_every: timetable.longest_interval(now), ..RetentionLimits::default() };
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
