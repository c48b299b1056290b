//! WAL as it is written, by physical streaming replication from PostgreSQL 13 to 18.
//!
//! Sources: PostgreSQL manual, section "Streaming Replication Protocol"; `src/backend/replication/walsender.c`
//! (`StartReplication`, `XLogSendPhysical`, `WalSndDone`, `ProcessStandbyReplyMessage`).

use std::time::Duration;

use bytes::{Buf, Bytes};
use lifeboat_vocabulary::{ByteCount, Lsn, UtcTime, WalPosition};

use crate::session::message::BackendMessage;
use crate::wal::clock::{from_server, to_server};
use crate::wal::connection::{Answer, AnswerEnd, WalConnection, within, within_time};
use crate::wal::error::{Asked, WalStreamError};
use crate::wal::slot::SlotName;

/// What came of the wish for a stream.
#[derive(Debug)]
pub enum WalStart {
    /// WAL flows.
    Streaming(WalStream),
    /// All WAL of the timeline was before the position.
    EndOfTimeline(EndOfTimeline),
}

impl WalConnection {
    /// Asks for WAL from the start of a segment on, and for the slot to hold what we have not confirmed.
    ///
    /// That the WAL is gone, or that the server does not have so much, comes with [`WalStream::next`].
    ///
    /// # Errors
    /// [`WalStreamError`], by its meaning. The connection is closed then.
    pub async fn start(mut self, slot: &SlotName, from: WalPosition) -> Result<WalStart, WalStreamError> {
        let size = self.segment_size().await?;
        if !from.lsn.as_bytes().is_multiple_of(size.as_bytes()) {
            return Err(WalStreamError::NotSegmentStart { at: from.lsn });
        }
        self.begin(&format!("SLOT \"{slot}\" "), from).await
    }

    /// Asks for WAL from any position on, to look at it: no slot holds anything, and nothing is to be reported.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn look_at(self, from: WalPosition) -> Result<WalStart, WalStreamError> {
        self.begin("", from).await
    }

    async fn begin(mut self, slot: &str, from: WalPosition) -> Result<WalStart, WalStreamError> {
        let doing = "ask for WAL";
        // Up to 14 a standby must have been asked in this session who it is (walsender.c, StartReplication).
        self.identify().await?;
        let WalPosition { timeline, lsn } = from;
        let command = format!("START_REPLICATION {slot}PHYSICAL {lsn} TIMELINE {timeline}");
        let answer = within(doing, async {
            self.session.send_query(&command).await.map_err(WalStreamError::session(doing))?;
            Answer::read(&mut self.session, doing).await
        });
        let answer = answer.await?;
        match answer.refusal {
            Some(message) => return Err(WalStreamError::server(doing, Asked::ForWal, message)),
            None if answer.end == AnswerEnd::CopyBoth => {}
            None => return Ok(WalStart::EndOfTimeline(EndOfTimeline { next: answer.next()?, connection: self })),
        }
        Ok(WalStart::Streaming(WalStream::new(self, lsn)))
    }
}

/// How long a status may take to leave: it is small, and a server that streams reads what it is told.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// A timeline has been sent to its end.
#[derive(Debug)]
pub struct EndOfTimeline {
    /// The timeline that goes on, and where it does: the switch point, not the start of a segment.
    pub next: WalPosition,
    /// The connection, for the next timeline's history and its WAL.
    pub connection: WalConnection,
}

/// Something came.
#[derive(Debug)]
pub enum WalEvent {
    /// WAL, which follows that of the event before.
    Data {
        /// The first byte's position.
        start: Lsn,
        /// The WAL, never empty. It shares the receive buffer (blocks of 1 MiB).
        bytes: Bytes,
        /// Up to where the server could send.
        server_end: Option<Lsn>,
        /// The server's clock.
        server_time: Option<UtcTime>,
    },
    /// The server is there.
    Keepalive {
        /// Up to where it has sent.
        server_end: Option<Lsn>,
        /// The server's clock.
        server_time: Option<UtcTime>,
        /// Whether it wants a report at once.
        reply: ReplyWanted,
    },
    /// The timeline goes on under another name. The stream is over.
    EndOfTimeline(Box<EndOfTimeline>),
    /// The server ends in good order, and everything that it wrote has come. The stream is over.
    Closed,
}

/// Whether an answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyWanted {
    /// At once.
    Now,
    /// In its own time.
    Whenever,
}

/// What we have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandbyStatus {
    /// Received up to here.
    pub write: Lsn,
    /// Durable up to here: the server may remove WAL before it, and commits may wait for it. `None` makes no promise and
    /// leaves the slot where it is.
    pub flush: Option<Lsn>,
    /// Claimed to be applied; only for `synchronous_commit = remote_apply`.
    pub apply: Option<Lsn>,
    /// Our clock.
    pub now: UtcTime,
    /// Whether the server is to answer with a keepalive.
    pub ask_reply: ReplyWanted,
}

/// A stream of WAL. Dropping it closes the connection.
///
/// It must be read without pause: a server whose session cannot be written to can hang in its checkpoint and its shutdown
/// (`slot.c`, `InvalidatePossiblyObsoleteSlot`). Whoever cannot take more closes it instead.
#[derive(Debug)]
pub struct WalStream {
    /// `None` once the stream is over.
    connection: Option<WalConnection>,
    begin: Lsn,
    position: Lsn,
    /// The largest position that was reported as durable.
    flushed: Option<Lsn>,
    /// The server has ended its side: what it said since.
    ending: Option<Answer>,
}

const STREAM: &str = "receive WAL";

impl WalStream {
    /// A stream that has been granted, and begins at `begin`.
    pub(crate) fn new(connection: WalConnection, begin: Lsn) -> Self {
        Self { connection: Some(connection), begin, position: begin, flushed: None, ending: None }
    }

    /// The next byte that will come.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Waits for what comes next, without a time limit. Cancel-safe: a cancelled call loses nothing.
    ///
    /// # Errors
    /// [`WalStreamError`]; the stream is over then. [`WalStreamError::SegmentRemoved`] and
    /// [`WalStreamError::AheadOfServer`] come here, too.
    pub async fn next(&mut self) -> Result<WalEvent, WalStreamError> {
        let event = self.receive().await;
        if matches!(event, Err(_) | Ok(WalEvent::Closed)) {
            self.connection = None;
        }
        event
    }

    fn over() -> WalStreamError {
        WalStreamError::protocol("nothing after the end of the stream")
    }

    async fn receive(&mut self) -> Result<WalEvent, WalStreamError> {
        loop {
            let session = &mut self.connection.as_mut().ok_or_else(Self::over)?.session;
            if self.ending.is_some() {
                // Our own end may still be on its way out.
                session.flush().await.map_err(WalStreamError::session(STREAM))?;
            }
            let message = session.next_message().await.map_err(WalStreamError::session(STREAM))?;
            if let Some(answer) = &mut self.ending {
                if answer.take(message)? {
                    return self.end_of_timeline();
                }
                continue;
            }
            match message {
                BackendMessage::CopyData(data) => match self.copied(data)? {
                    Some(event) => return Ok(event),
                    None => continue,
                },
                BackendMessage::CopyDone => {
                    session.put_copy_done().map_err(WalStreamError::session(STREAM))?;
                    self.ending = Some(Answer::default());
                }
                // The last words of a server that shuts down (walsender.c, WalSndDone): no CopyDone before them.
                BackendMessage::CommandComplete(_) => return Ok(WalEvent::Closed),
                BackendMessage::Error(message) => {
                    let asked = if self.position == self.begin { Asked::ForWal } else { Asked::Otherwise };
                    return Err(WalStreamError::server(STREAM, asked, message));
                }
                BackendMessage::Notice(notice) => tracing::info!(%notice, "notice"),
                other => return Err(WalStreamError::protocol(other)),
            }
        }
    }

    fn end_of_timeline(&mut self) -> Result<WalEvent, WalStreamError> {
        let answer = self.ending.take().unwrap_or_default();
        if let Some(message) = answer.refusal {
            return Err(WalStreamError::server(STREAM, Asked::Otherwise, message));
        }
        let next = answer.next()?;
        let connection = self.connection.take().ok_or_else(Self::over)?;
        Ok(WalEvent::EndOfTimeline(Box::new(EndOfTimeline { next, connection })))
    }

    /// A message of the stream; `None` if it says nothing.
    fn copied(&mut self, mut data: Bytes) -> Result<Option<WalEvent>, WalStreamError> {
        let malformed = |_| WalStreamError::protocol("a malformed message in the stream");
        match data.try_get_u8().map_err(malformed)? {
            b'w' => {
                let start = data.try_get_u64().map_err(malformed)?;
                let server_end = Lsn::from_bytes(data.try_get_u64().map_err(malformed)?);
                let server_time = from_server(data.try_get_i64().map_err(malformed)?);
                let expected = self.position;
                if start != expected.as_bytes() {
                    let what = format!("WAL from {start:#x} on instead of {expected}");
                    return Err(WalStreamError::Protocol { what });
                }
                let beyond = || WalStreamError::protocol("WAL beyond the last position that there is");
                self.position = expected.advanced_by(ByteCount::from_bytes(data.len() as u64)).ok_or_else(beyond)?;
                let event = WalEvent::Data { start: expected, bytes: data, server_end, server_time };
                Ok((self.position > expected).then_some(event))
            }
            b'k' => {
                let server_end = Lsn::from_bytes(data.try_get_u64().map_err(malformed)?);
                let server_time = from_server(data.try_get_i64().map_err(malformed)?);
                let reply = match data.try_get_u8().map_err(malformed)? {
                    0 => ReplyWanted::Whenever,
                    _ => ReplyWanted::Now,
                };
                Ok(Some(WalEvent::Keepalive { server_end, server_time, reply }))
            }
            other => Err(WalStreamError::Protocol { what: format!("message {other:#04x} in the stream") }),
        }
    }

    /// Tells the server what we have.
    ///
    /// No position goes out that this stream has not come to: the server believes everything, moves the slot there, and
    /// removes the WAL before it. Where a stream begins before what is durable already, the flushed position is left out
    /// until the stream has caught up; it never moves back. Cancel-safe: what was not sent goes out with the next call.
    ///
    /// # Errors
    /// [`WalStreamError::Session`], also if the server does not take the report within 10 s.
    pub async fn report(&mut self, status: StandbyStatus) -> Result<(), WalStreamError> {
        let reached = |lsn: &Lsn| *lsn <= self.position;
        self.flushed = status.flush.filter(reached).max(self.flushed);
        let number = |lsn: Option<Lsn>| lsn.map_or(0, Lsn::as_bytes).to_be_bytes();
        let mut message = Vec::with_capacity(34);
        message.push(b'r');
        message.extend_from_slice(&number(Some(status.write.min(self.position))));
        message.extend_from_slice(&number(self.flushed));
        message.extend_from_slice(&number(status.apply.filter(reached)));
        message.extend_from_slice(&to_server(status.now).to_be_bytes());
        message.push(u8::from(status.ask_reply == ReplyWanted::Now));
        // The server has ended its side, and reads nothing but our own end.
        if self.ending.is_some() {
            return Ok(());
        }
        let session = &mut self.connection.as_mut().ok_or_else(Self::over)?.session;
        let doing = "report what is durable";
        within_time(REPORT_TIMEOUT, doing, async {
            session.send_copy_data(&message).await.map_err(WalStreamError::session(doing))
        })
        .await
    }

    /// Ends the stream from our side and waits until the server has, too. WAL that comes meanwhile is left out: ask for it
    /// again.
    ///
    /// # Errors
    /// [`WalStreamError`]; the connection is closed then.
    pub async fn finish(mut self) -> Result<WalConnection, WalStreamError> {
        let doing = "end the stream of WAL";
        let mut connection = self.connection.take().ok_or_else(Self::over)?;
        let session = &mut connection.session;
        within(doing, async {
            if self.ending.is_none() {
                session.put_copy_done().map_err(WalStreamError::session(doing))?;
            }
            session.flush().await.map_err(WalStreamError::session(doing))?;
            loop {
                match session.next_message().await.map_err(WalStreamError::session(doing))? {
                    BackendMessage::ReadyForQuery => return Ok(()),
                    BackendMessage::Error(message) => {
                        return Err(WalStreamError::server(doing, Asked::Otherwise, message));
                    }
                    _ => {}
                }
            }
        })
        .await?;
        Ok(connection)
    }

    /// Says goodbye at once, whatever the server is doing.
    pub async fn close(mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
    }
}
