//! Whether a server has a record that was received before: it is read from the server's own WAL, before anything else is.

use std::time::Duration;

use anyhow::Context;
use lifeboat_postgres::{
    ConnectionSettings, ScanStart, TimelineHistory, WAL_PAGE_BYTES, WalConnection, WalConnectionOptions, WalEvent,
    WalScanner, WalStart, WalStreamError,
};
use lifeboat_vocabulary::{Lsn, RecordMark, SegmentSize, TimelineId, WalPosition};

/// A record has at most 1020 MiB, and most have a few bytes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a server said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has the record.
    Same,
    /// It has another one there, or none.
    Other,
    /// It has removed the WAL.
    Removed,
}

/// Where and how to look.
pub(crate) struct Look<'a> {
    pub(crate) connection: &'a ConnectionSettings,
    pub(crate) options: &'a WalConnectionOptions,
    /// The host that answered before: the look is of no use at another.
    pub(crate) host: &'a str,
    pub(crate) system_identifier: u64,
    pub(crate) segment_size: SegmentSize,
}

/// Whether the history of a server contains all of a record. If not, it lies on a branch that the server has left, and
/// nothing follows from it.
pub(crate) fn is_of_its_history(record: &RecordMark, server: TimelineId, history: &TimelineHistory) -> bool {
    record.timeline == server || history.switch_from(record.timeline).is_some_and(|fork| record.end <= fork)
}

/// Reads the place of a record from the server.
///
/// # Errors
/// If the server does not answer, or another one does: nothing is known then.
pub(crate) async fn look_for(record: RecordMark, look: &Look<'_>) -> anyhow::Result<Verdict> {
    let found = tokio::time::timeout(PATIENCE, read(record, look)).await;
    found.unwrap_or_else(|_| anyhow::bail!("it did not send the WAL at {} within {PATIENCE:?}", record.start))
}

async fn read(record: RecordMark, look: &Look<'_>) -> anyhow::Result<Verdict> {
    let wal = WalConnection::connect(look.connection, look.options).await.context("connect for a look at the WAL")?;
    anyhow::ensure!(wal.host() == look.host, "another host answered: {}, not {}", wal.host(), look.host);
    // A scan may begin at any page.
    let page = record.start.as_bytes() / WAL_PAGE_BYTES * WAL_PAGE_BYTES;
    let page = Lsn::from_bytes(page).context("there is no WAL there")?;
    let (timeline, segment_size) = (record.timeline, look.segment_size);
    let mut stream = match wal.look_at(WalPosition { timeline, lsn: page }).await {
        Ok(WalStart::Streaming(stream)) => stream,
        // The timeline ended before it.
        Ok(WalStart::EndOfTimeline(_)) => return Ok(Verdict::Other),
        Err(WalStreamError::SegmentRemoved { .. }) => return Ok(Verdict::Removed),
        Err(error) => return Err(anyhow::Error::new(error).context("look at the WAL")),
    };
    let start = ScanStart { timeline, system_identifier: look.system_identifier, segment_size, at: page };
    let mut scanner = WalScanner::new(start).continuing(record);
    let verdict = loop {
        match stream.next().await {
            Ok(WalEvent::Data { bytes, .. }) => {
                let fed = scanner.feed(&bytes, &mut |_| {});
                match fed {
                    _ if scanner.is_continued() => break Verdict::Same,
                    Ok(()) => {}
                    // What does not check out there is not what was received from there.
                    Err(fault) => {
                        tracing::warn!(%fault, %record, "the server's WAL is not what was received before");
                        break Verdict::Other;
                    }
                }
            }
            Ok(WalEvent::Keepalive { .. }) => {}
            Ok(WalEvent::EndOfTimeline(_)) => break Verdict::Other,
            Ok(WalEvent::Closed) => anyhow::bail!("the server ended the stream"),
            Err(WalStreamError::SegmentRemoved { .. }) => break Verdict::Removed,
            Err(error) => return Err(anyhow::Error::new(error).context("look at the WAL")),
        }
    };
    stream.close().await;
    Ok(verdict)
}
