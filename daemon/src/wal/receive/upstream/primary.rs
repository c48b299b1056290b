//! Whether a server is the primary: the end of what a standby sends says nothing of what the cluster has written.

use lifeboat_postgres::Session;
use lifeboat_vocabulary::TimelineId;

/// What a stream ends at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sends {
    /// The end of what the cluster has written: a primary sends its own timeline.
    AllOfCluster,
    /// What a standby has received, or a timeline that has ended.
    Part,
}

/// The timeline that a server writes; `None` if it is a standby.
pub(super) async fn written_timeline(sql: &mut Session, timeline: TimelineId) -> anyhow::Result<Option<TimelineId>> {
    let in_recovery = sql.query_one_text("SELECT pg_catalog.pg_is_in_recovery()").await?;
    Ok((in_recovery.as_deref() == Some("f")).then_some(timeline))
}
