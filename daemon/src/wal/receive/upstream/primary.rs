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

/// The timeline that the server at the other end of a connection for WAL writes; `None` if it is a standby, or if the session has
/// ended at another server than that connection: behind a balancer, or at an address that has just moved, one host name is several
/// servers. `sender` is the process of the connection for WAL.
///
/// Source: PostgreSQL manual, `pg_stat_replication`; its `pid` is shown to every role.
pub(super) async fn written_timeline(
    sql: &mut Session,
    sender: i32,
    timeline: TimelineId,
) -> anyhow::Result<Option<TimelineId>> {
    let in_recovery = sql.query_one_text("SELECT pg_catalog.pg_is_in_recovery()").await?;
    if in_recovery.as_deref() != Some("f") {
        return Ok(None);
    }
    let has_sender = format!(
        "SELECT pg_catalog.count(*) OPERATOR(pg_catalog.=) 1 FROM pg_catalog.pg_stat_replication WHERE pid OPERATOR(pg_catalog.=) {sender}"
    );
    let is_same = sql.query_one_text(&has_sender).await?.as_deref() == Some("t");
    if !is_same {
        tracing::info!(host = sql.host(), sender, "the session and the connection for WAL are not at the same server");
    }
    Ok(is_same.then_some(timeline))
}
