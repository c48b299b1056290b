//! The receiver: keeps one stream alive, checks every byte, hands it to the shipper, and tells the server how far the
//! regions are.
//!
//! Three rules bind it. What is reported as flushed is what the shipper has confirmed, and nothing else. The socket is
//! always read: when there is no room, the connection is closed and the slot keeps the WAL, because a server whose
//! receiver does not read can hang in its checkpoints. And a server that shuts down is not kept waiting: after a few
//! seconds without the regions' answer the connection is closed.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_config::ApplyReport;
use lifeboat_postgres::{
    EndOfTimeline, ReplyWanted, ScanStart, StandbyStatus, WalEvent, WalFactKind, WalFaultKind, WalScanner, WalStream,
    WalStreamError,
};
use lifeboat_repository::wal::PieceSize;
use lifeboat_vocabulary::{ByteCount, Lsn, SegmentSize, UtcTime, WalPosition, error_chain};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::base::progress::Progress;
use crate::wal::complete_times::EndOfWal;
use crate::wal::receive::upstream::{Belonging, Finder, NoStream, Sends, Upstream};
use crate::wal::server_memory::{LostWal, ServerMemory};
use crate::wal::shared::Shared;
use crate::wal::ship::positions::{Offer, Positions, ShipError};
use crate::wal::ship::shipper::Shipper;
use crate::wal::ship::state::CheckedWal;

/// How often the server hears from us at least; it drops us after a minute of silence.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(250);
/// How long a server that shuts down waits for the regions.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A server that was refused is looked at again this often.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// How a stream ended.
enum Ended {
    NextTimeline(Box<EndOfTimeline>),
    Removed,
    Closed,
    Full,
    Refused(String),
    /// The server sends other WAL than before.
    Changed(String),
    Damaged(String),
    Lost(anyhow::Error),
    LeftToShutDown,
    Stopped,
}

fn broken(error: WalStreamError) -> Ended {
    match error {
        WalStreamError::SegmentRemoved { .. } => Ended::Removed,
        error => Ended::Lost(error.into()),
    }
}

/// Receives the WAL of one cluster.
pub(crate) struct Receiver {
    /// Finds servers and places to go on.
    pub(crate) finder: Finder,
    /// What the repository demands of a server.
    pub(crate) belonging: Belonging,
    /// Where bytes go.
    pub(crate) shipper: Arc<Shipper>,
    /// What is remembered of the server over restarts.
    pub(crate) memory: ServerMemory,
    /// What others see.
    pub(crate) shared: Arc<Shared>,
    /// What is reported as applied.
    pub(crate) apply: ApplyReport,
    /// Whether WAL that has arrived is taken care of.
    pub(crate) progress: Progress,
    /// How long the regions may take for what was received before an orderly stop.
    pub(crate) drain: Duration,
}

impl Receiver {
    /// Receives until it is told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut pause = PAUSE_MIN;
        while !stop.is_cancelled() {
            self.progress.waiting("a server");
            let found = tokio::select! {
                () = stop.cancelled() => break,
                found = self.finder.connect() => found,
            };
            let wait = match self.follow(found, &stop).await {
                Ok(()) => {
                    pause = PAUSE_MIN;
                    PAUSE_MIN
                }
                Err(NoStream::Gap(what)) => {
                    self.shared.gap(&what);
                    Duration::ZERO
                }
                Err(NoStream::Refused(why)) => {
                    self.shared.refused(why);
                    REFUSED_PAUSE
                }
                Err(NoStream::LostWal(lost)) => {
                    self.refuse(*lost).await;
                    REFUSED_PAUSE
                }
                Err(NoStream::Foreign(why)) => {
                    self.shared.foreign(why);
                    REFUSED_PAUSE
                }
                Err(NoStream::Retry(error)) => {
                    self.shared.waiting(format!("{error:#}"));
                    pause = (pause * 2).min(PAUSE_MAX);
                    pause
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// A server that has lost WAL is refused over restarts, until a person has decided or it was the wrong one.
    async fn refuse(&self, lost: LostWal) {
        let why = lost.why.clone();
        if let Err(error) = self.memory.refuse(lost).await {
            let error = error_chain(&error);
            tracing::warn!(error, "the refusal of the server holds until a restart only");
        }
        self.shared.foreign(why);
    }

    /// Follows a stream over all its timelines. `Ok` if it ran and ended.
    async fn follow(&mut self, found: Result<Upstream, NoStream>, stop: &CancellationToken) -> Result<(), NoStream> {
        let mut upstream = found?;
        loop {
            let Upstream { host, start, .. } = &upstream;
            tracing::info!(cluster = %self.shared.cluster(), %host, at = %start, "WAL streams");
            self.shared.connected(host);
            let wanted = WalPosition { lsn: upstream.from, ..upstream.start };
            let mut pump = Pump::new(self, &upstream);
            match pump.run(upstream.stream, stop).await {
                Ended::NextTimeline(end) => {
                    tracing::info!(cluster = %self.shared.cluster(), next = %end.next, "the timeline ended");
                    upstream = self.finder.next_timeline(*end).await?;
                }
                Ended::Removed => {
                    let at = WalPosition { lsn: wanted.lsn.max(pump.at.lsn), ..wanted };
                    return Err(self.finder.gap(at).await);
                }
                Ended::Stopped => return Ok(()),
                Ended::Closed => {
                    self.shared.waiting("the server ended the stream: it shuts down or was told to".to_owned());
                    return Ok(());
                }
                Ended::LeftToShutDown => {
                    self.shared.waiting("the server shuts down and the regions do not answer: left alone".to_owned());
                    return Ok(());
                }
                Ended::Full => {
                    self.shared.full();
                    self.room(stop).await;
                    return Ok(());
                }
                Ended::Refused(why) => return Err(NoStream::Refused(why)),
                Ended::Changed(why) => return Err(self.finder.changed(&why, wanted)),
                Ended::Damaged(why) => {
                    self.shared.damaged(why.clone());
                    return Err(NoStream::Retry(anyhow::anyhow!("{why}")));
                }
                Ended::Lost(error) => return Err(NoStream::Retry(error)),
            }
        }
    }

    /// Waits until the shipper has got something out of the way. It takes bytes again by itself when there is room.
    async fn room(&self, stop: &CancellationToken) {
        let mut positions = self.shipper.watch();
        let before = positions.borrow_and_update().spool_bytes;
        let less = positions.wait_for(|now| now.spool_bytes < before);
        tokio::select! {
            () = stop.cancelled() => {}
            _ = less => {}
            () = tokio::time::sleep(PAUSE_MAX) => {}
        }
    }
}

/// One stream, from its first byte to its end.
struct Pump<'r> {
    receiver: &'r Receiver,
    scanner: WalScanner,
    segment: SegmentSize,
    /// Where the shipper is to begin. A server says only after it has agreed to stream that it has removed the segment, so the
    /// first message decides. Source: PostgreSQL `walsender.c`, `StartReplication` and `XLogSendPhysical`.
    begins: Option<WalPosition>,
    positions: watch::Receiver<Positions>,
    timer: Interval,
    at: WalPosition,
    /// Commits up to here have been counted before.
    from: Lsn,
    reported: Instant,
    confirmed: Option<Lsn>,
    /// The server has written its last record: it waits for us.
    shutdown: Option<Instant>,
    /// We were told to stop: the regions have until then.
    draining: Option<Instant>,
    /// What the server says of the end of its WAL; `None` where that is not the end of what the cluster has written.
    end_of_wal: Option<EndOfWal>,
    /// Whether the server was asked for a keepalive that has not come.
    is_asked: bool,
}

impl<'r> Pump<'r> {
    fn new(receiver: &'r Receiver, upstream: &Upstream) -> Self {
        let mut timer = tokio::time::interval(TICK);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let scanner = WalScanner::new(ScanStart {
            timeline: upstream.start.timeline,
            system_identifier: receiver.belonging.system_identifier,
            segment_size: upstream.segment,
            at: upstream.start.lsn,
        });
        let scanner = match upstream.continues {
            Some(record) => scanner.continuing(record),
            None => scanner,
        };
        let segment = upstream.segment;
        Self {
            receiver,
            scanner,
            segment,
            begins: Some(upstream.start),
            positions: receiver.shipper.watch(),
            timer,
            at: upstream.start,
            from: upstream.from,
            reported: Instant::now(),
            confirmed: None,
            shutdown: None,
            draining: None,
            end_of_wal: (upstream.sends == Sends::AllOfCluster).then(EndOfWal::default),
            is_asked: false,
        }
    }

    async fn run(&mut self, mut stream: WalStream, stop: &CancellationToken) -> Ended {
        let ended = self.stream(&mut stream, stop).await;
        match ended {
            Ok(WalEvent::EndOfTimeline(end)) => Ended::NextTimeline(end),
            Ok(_) => Ended::Closed,
            Err(ended) => {
                // What was confirmed in the last moment saves the server keeping it.
                if self.report(&mut stream).await.is_err() {
                    tracing::debug!("the last status was not heard");
                }
                stream.close().await;
                ended
            }
        }
    }

    /// Works until the stream ends by itself (`Ok`) or is to be left.
    async fn stream(&mut self, stream: &mut WalStream, stop: &CancellationToken) -> Result<WalEvent, Ended> {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled(), if self.draining.is_none() => {
                    self.receiver.shipper.flush();
                    self.draining = Some(Instant::now() + self.receiver.drain);
                }
                Ok(()) = self.positions.changed() => self.moved(stream).await?,
                _ = self.timer.tick() => self.tick(stream).await?,
                event = stream.next() => match event.map_err(broken)? {
                    WalEvent::Data { start, bytes, server_end, server_time } => {
                        self.server_time(server_time);
                        let received = start.advanced_by(ByteCount::of(&bytes)).unwrap_or(start);
                        let end = self.end_of_wal.as_mut().and_then(|end| end.data(server_time, received, server_end));
                        self.flushed_by_server(end);
                        if self.draining.is_none() {
                            self.receiver.progress.working("WAL that has arrived");
                            let taken = self.data(stream, start, bytes).await;
                            self.receiver.progress.waiting("WAL from the server");
                            taken?;
                        }
                    }
                    WalEvent::Keepalive { server_end, server_time, reply } => {
                        self.server_time(server_time);
                        let end = self.end_of_wal.as_mut().and_then(|end| end.keepalive(server_time, server_end));
                        self.flushed_by_server(end);
                        self.is_asked = false;
                        // The server has looked for WAL to send.
                        self.begin()?;
                        if reply == ReplyWanted::Now {
                            self.report(stream).await?;
                        }
                    }
                    end => return Ok(end),
                },
            }
        }
    }

    fn flushed_by_server(&self, end: Option<(UtcTime, Lsn)>) {
        if let Some((time, lsn)) = end {
            self.receiver.shipper.flushed(WalPosition { lsn, ..self.at }, time);
        }
    }

    fn server_time(&self, time: Option<UtcTime>) {
        if let Some(time) = time {
            self.receiver.shared.server_time(time);
        }
    }

    /// Takes a message, in parts that end where pieces do: so an object's last record is always known.
    async fn data(&mut self, stream: &mut WalStream, mut start: Lsn, mut bytes: bytes::Bytes) -> Result<(), Ended> {
        let piece = PieceSize::of(self.segment);
        while !bytes.is_empty() {
            let room = piece.start_of(start).saturating_add(piece.as_bytes()) - start.as_bytes();
            let part = bytes.split_to(usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len()));
            let length = ByteCount::of(&part);
            self.part(stream, start, part).await?;
            let Some(next) = start.advanced_by(length) else { return Ok(()) };
            start = next;
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Ended> {
        let Some(at) = self.begins.take() else { return Ok(()) };
        self.receiver.shipper.begin(at, self.segment).map_err(|error| Ended::Refused(error.to_string()))
    }

    async fn part(&mut self, stream: &mut WalStream, start: Lsn, bytes: bytes::Bytes) -> Result<(), Ended> {
        self.begin()?;
        self.shutdown = None;
        let timeline = self.at.timeline;
        let (shared, from, mut shut_down) = (&self.receiver.shared, self.from, false);
        let mut levels = Vec::new();
        let mut note = |fact: &lifeboat_postgres::WalFact| match fact.kind {
            WalFactKind::Commit { .. } if fact.end <= from => {}
            WalFactKind::Commit { time, .. } => shared.committed(WalPosition { timeline, lsn: fact.end }, time),
            WalFactKind::ParameterChange { wal_level, .. } if fact.end > from => {
                levels.push((wal_level, WalPosition { timeline, lsn: fact.start }, fact.end));
                shut_down = false;
            }
            WalFactKind::ShutdownCheckpoint => shut_down = true,
            _ => shut_down = false,
        };
        if let Err(fault) = self.scanner.feed(&bytes, &mut note) {
            if matches!(fault.what, WalFaultKind::OtherRecord { .. }) {
                return Err(Ended::Changed(fault.to_string()));
            }
            let error = anyhow::Error::new(fault);
            return Err(Ended::Damaged(format!("the WAL at {start} does not check out: {error:#}; it was not stored")));
        }
        for (level, start, end) in levels {
            self.wal_level(level, start, end).await?;
        }
        self.at.lsn = self.scanner.position();
        let at = WalPosition { timeline, lsn: start };
        let last_record = self.scanner.last_record();
        let offer = self.receiver.shipper.offer(at, CheckedWal { bytes, last_record });
        tokio::pin!(offer);
        let offered = loop {
            tokio::select! {
                biased;
                offered = &mut offer => break offered,
                // While there is no room for a moment, the server still hears from us.
                _ = self.timer.tick() => {
                    if self.reported.elapsed() >= STATUS_EVERY {
                        let status = self.status();
                        stream.report(status).await.map_err(broken)?;
                        self.reported = Instant::now();
                    }
                }
            }
        };
        match offered {
            Ok(Offer::Taken) => {}
            Ok(Offer::Full) => return Err(Ended::Full),
            Err(error @ ShipError::Changed { .. }) => return Err(Ended::Changed(error.to_string())),
            Err(error) => return Err(Ended::Refused(error.to_string())),
        }
        self.receiver.shared.received();
        if shut_down {
            self.receiver.shipper.flush();
            self.shutdown = Some(Instant::now() + SHUTDOWN_PATIENCE);
        }
        Ok(())
    }

    /// Under `wal_level = minimal`, changes of whole tables are not in the WAL, and a server that recovers from an archive
    /// refuses to go on there: that is a gap, although every byte is stored.
    async fn wal_level(&self, level: i32, start: WalPosition, end: Lsn) -> Result<(), Ended> {
        let noted = self.receiver.memory.wal_level(level, start, end).await;
        let noted =
            noted.map_err(|error| Ended::Lost(anyhow::Error::new(error).context("remember the level of WAL")))?;
        if let Some(range) = noted {
            self.receiver.shipper.record_minimal_wal(range);
            self.receiver.shared.request_backup(format!(
                "wal_level was minimal from {} to {} on timeline {}, and recovery cannot cross that",
                range.start, range.end, range.timeline
            ));
        }
        Ok(())
    }

    /// The shipper has got further.
    async fn moved(&mut self, stream: &mut WalStream) -> Result<(), Ended> {
        if self.status().flush != self.confirmed {
            self.report(stream).await?;
        }
        self.drained()
    }

    async fn tick(&mut self, stream: &mut WalStream) -> Result<(), Ended> {
        if self.reported.elapsed() >= STATUS_EVERY {
            let ask_reply = self.ask();
            self.report_and(stream, ask_reply).await?;
        }
        if self.shutdown.is_some_and(|deadline| Instant::now() >= deadline) && self.flushed() < Some(self.at.lsn) {
            return Err(Ended::LeftToShutDown);
        }
        self.drained()
    }

    /// Ends an orderly stop once the regions have everything, or have had their time.
    fn drained(&self) -> Result<(), Ended> {
        match self.draining {
            // Nothing has come over this connection.
            Some(_) if self.begins.is_some() => Err(Ended::Stopped),
            Some(deadline) if self.flushed() >= Some(self.at.lsn) || Instant::now() >= deadline => Err(Ended::Stopped),
            _ => Ok(()),
        }
    }

    /// What the server may hear as flushed on the timeline that it sends.
    fn flushed(&self) -> Option<Lsn> {
        let confirmed = self.positions.borrow().confirmed?;
        (confirmed.timeline == self.at.timeline).then_some(confirmed.lsn)
    }

    fn status(&self) -> StandbyStatus {
        // The server moves a slot back as well: one that was made after a gap would stand before it, at WAL that is gone.
        let restart = self.receiver.finder.restart().map(|restart| restart.lsn);
        let flush = self.flushed().filter(|flushed| restart.is_none_or(|restart| *flushed >= restart));
        let apply = match self.receiver.apply {
            ApplyReport::Nothing => None,
            ApplyReport::AsFlushed => flush,
        };
        StandbyStatus {
            write: self.at.lsn,
            flush,
            apply,
            now: self.receiver.shared.now(),
            ask_reply: ReplyWanted::Whenever,
        }
    }

    /// A server that has nothing to send says nothing by itself, as long as it hears from us. It is asked, once at a time: two
    /// questions would get two answers in a row, of which the second was not written after all WAL before it. The connection loses
    /// no answer, so a question is not repeated.
    fn ask(&mut self) -> ReplyWanted {
        if self.end_of_wal.is_none() || self.is_asked {
            return ReplyWanted::Whenever;
        }
        self.is_asked = true;
        ReplyWanted::Now
    }

    async fn report(&mut self, stream: &mut WalStream) -> Result<(), Ended> {
        self.report_and(stream, ReplyWanted::Whenever).await
    }

    async fn report_and(&mut self, stream: &mut WalStream, ask_reply: ReplyWanted) -> Result<(), Ended> {
        let status = StandbyStatus { ask_reply, ..self.status() };
        self.confirmed = status.flush;
        self.reported = Instant::now();
        stream.report(status).await.map_err(broken)
    }
}
