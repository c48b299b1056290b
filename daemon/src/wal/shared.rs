//! What receiver, reporter and keeper of one cluster know together.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_vocabulary::{Clock, ClusterName, UtcTime, WalPosition};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::wal::backup_requests::BackupRequests;
use crate::wal::commit_clock::CommitClock;

/// The quorum's number in the commit clock; regions follow in the order of the configuration.
pub(crate) const QUORUM: usize = 0;

/// What is known about the way upstream.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReceiverState {
    /// The server, while a stream runs.
    pub(crate) host: Option<String>,
    /// Since when there is none, and why.
    pub(crate) waiting: Option<(Instant, String)>,
    /// When the last stream ended; `None` while one runs, and if there was none since the start.
    pub(crate) ended: Option<Instant>,
    /// Why the last server that was found is refused.
    pub(crate) refused: Option<String>,
    /// Why it is another server than the one that is to be protected, if it is.
    pub(crate) foreign: Option<String>,
    /// WAL that does not check out.
    pub(crate) damaged: Option<String>,
    /// When the spool was found full last.
    pub(crate) full: Option<Instant>,
}

struct Inner {
    receiver: ReceiverState,
    commits: CommitClock,
    /// The last commit that was noted: after a reconnect older ones come again.
    noted: Option<WalPosition>,
    /// The server's clock minus ours, in **microseconds**.
    clock_offset: i64,
}

/// Shared by the tasks of one cluster. No lock is held over an await.
pub(crate) struct Shared {
    cluster: ClusterName,
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
    requests: Arc<BackupRequests>,
}

impl Shared {
    /// For a cluster with this many regions.
    #[must_use]
    pub(crate) fn new(cluster: ClusterName, regions: usize, clock: Arc<dyn Clock>) -> Self {
        let waiting = Some((Instant::now(), "not connected yet".to_owned()));
        let inner = Inner {
            receiver: ReceiverState { waiting, ..ReceiverState::default() },
            commits: CommitClock::new(regions + 1),
            noted: None,
            clock_offset: 0,
        };
        Self { cluster, clock, inner: Mutex::new(inner), requests: Arc::default() }
    }

    /// The time, by this host's clock.
    #[must_use]
    pub(crate) fn now(&self) -> UtcTime {
        self.clock.now()
    }

    #[must_use]
    pub(crate) fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// What is known about the way upstream.
    #[must_use]
    pub(crate) fn receiver(&self) -> ReceiverState {
        self.inner.lock().receiver.clone()
    }

    /// A stream runs.
    pub(crate) fn connected(&self, host: &str) {
        let mut inner = self.inner.lock();
        inner.receiver = ReceiverState {
            host: Some(host.to_owned()),
            full: inner.receiver.full,
            damaged: inner.receiver.damaged.take(),
            ..ReceiverState::default()
        };
    }

    /// There is no stream.
    pub(crate) fn waiting(&self, why: String) {
        tracing::warn!(cluster = %self.cluster, why, "no WAL streams");
        let mut inner = self.inner.lock();
        if inner.receiver.host.take().is_some() {
            inner.receiver.ended = Some(Instant::now());
        }
        (inner.receiver.refused, inner.receiver.foreign) = (None, None);
        let since = inner.receiver.waiting.as_ref().map_or_else(Instant::now, |(since, _)| *since);
        inner.receiver.waiting = Some((since, why));
    }

    /// A server must not write into the repository.
    pub(crate) fn refused(&self, why: String) {
        self.waiting(why.clone());
        self.inner.lock().receiver.refused = Some(why);
    }

    /// The server that was reached is not the one that is to be protected.
    pub(crate) fn foreign(&self, why: String) {
        self.refused(why.clone());
        self.inner.lock().receiver.foreign = Some(why);
    }

    /// WAL does not check out.
    pub(crate) fn damaged(&self, why: String) {
        self.inner.lock().receiver.damaged = Some(why);
    }

    /// Bytes were taken: whatever was damaged or full before is over.
    pub(crate) fn received(&self) {
        let mut inner = self.inner.lock();
        inner.receiver.damaged = None;
        inner.receiver.full = None;
    }

    /// There is no room in the spool.
    pub(crate) fn full(&self) {
        self.waiting("the spool is full; the server keeps the WAL until a region takes some".to_owned());
        let mut inner = self.inner.lock();
        inner.receiver.full.get_or_insert_with(Instant::now);
    }

    /// WAL is missing: a base backup is needed.
    pub(crate) fn gap(&self, what: &str) {
        tracing::warn!(cluster = %self.cluster, what, "WAL is missing: recovery cannot cross it; a base backup is ordered");
        self.request_backup(format!("WAL is missing {what}"));
    }

    /// Requests a base backup.
    pub(crate) fn request_backup(&self, why: String) {
        self.requests.request(why);
    }

    /// Why a base backup is wanted, if it is.
    #[must_use]
    pub(crate) fn wanted_backup(&self) -> Option<String> {
        self.requests.reason()
    }

    /// The requests, for whoever makes backups.
    #[must_use]
    pub(crate) fn backup_requests(&self) -> Arc<BackupRequests> {
        Arc::clone(&self.requests)
    }

    /// The server told its time.
    pub(crate) fn server_time(&self, time: UtcTime) {
        let offset = time.as_unix_micros() - self.clock.now().as_unix_micros();
        self.inner.lock().clock_offset = offset;
    }

    /// A commit was received.
    pub(crate) fn committed(&self, end: WalPosition, time: UtcTime) {
        let mut inner = self.inner.lock();
        let again = inner.noted.is_some_and(|noted| noted.timeline == end.timeline && noted.lsn >= end.lsn);
        if !again {
            inner.noted = Some(end);
            inner.commits.committed(end, time);
        }
    }

    /// A holder has everything up to `durable`.
    pub(crate) fn durable(&self, holder: usize, durable: WalPosition) {
        let mut inner = self.inner.lock();
        let now = self.server_now(inner.clock_offset);
        inner.commits.durable(holder, durable, now);
    }

    /// The age of the oldest commit that a holder lacks, and how long the others took: p50, p99, longest, count.
    #[must_use]
    pub(crate) fn exposure(&self, holder: usize) -> (Duration, [Duration; 3], u64) {
        let inner = self.inner.lock();
        let now = self.server_now(inner.clock_offset);
        let exposure = inner.commits.exposure(holder, now);
        let Some(latencies) = inner.commits.latencies(holder) else { return (exposure, [Duration::ZERO; 3], 0) };
        let took = [latencies.percentile(50), latencies.percentile(99), latencies.max()];
        (exposure, took, latencies.count())
    }

    /// Now, by the server's clock.
    fn server_now(&self, offset: i64) -> UtcTime {
        let now = self.clock.now();
        UtcTime::from_unix_micros(now.as_unix_micros().saturating_add(offset)).unwrap_or(now)
    }
}
