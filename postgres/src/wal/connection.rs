//! A session for physical replication: who the server is, what it is made of, and the request for its WAL.
//!
//! Sources: PostgreSQL manual, section "Streaming Replication Protocol"; `src/backend/replication/walsender.c`
//! (`IdentifySystem`, `SendTimeLineHistory`, `StartReplication`).

use std::fmt;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use lifeboat_vocabulary::{Lsn, SegmentSize, TimelineId, WalPosition};

use crate::session::commands::Session;
use crate::session::error::SessionError;
use crate::session::message::{BackendMessage, ServerMessage};
use crate::session::settings::{ConnectionSettings, Purpose};
use crate::wal::error::{Asked, WalStreamError};
use crate::wal::timeline_history::HISTORY_MAX;

/// How long a server may take to answer a command, to start a stream, or to end one that we end.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// SQLSTATE of a setting that is not known.
const UNKNOWN_SETTING: &str = "42704";
/// SQLSTATE of a file that is not there.
const NO_FILE: &str = "58P01";

/// How a server is to treat the connection.
#[derive(Clone, Debug)]
pub struct WalConnectionOptions {
    /// The name in `pg_stat_replication` and `synchronous_standby_names`.
    pub application_name: String,
    /// `wal_sender_timeout`: the server ends a stream that has not reported for so long, and asks for a report after half of it.
    pub sender_timeout: Duration,
}

/// What a server says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerIdentity {
    /// Unique to the cluster, its standbys and its copies.
    pub system_identifier: u64,
    /// The timeline that it writes, or replays.
    pub timeline: TimelineId,
    /// Up to where it can send: what it has written durably, or received and replayed.
    ///
    /// Whoever has durable WAL of the same timeline **beyond** this must not go on: a stream begins at the start of a
    /// segment, which the server may well have, so that the stream itself does not tell.
    pub flush: Lsn,
}

/// A session for physical replication with one server, awaiting commands.
///
/// Cancelled in the middle of a command, it cannot be used again.
pub struct WalConnection {
    pub(crate) session: Session,
    segment_size: Option<SegmentSize>,
}

impl WalConnection {
    /// Connects to the first server that will do.
    ///
    /// # Errors
    /// [`WalStreamError::Session`].
    pub async fn connect(
        settings: &ConnectionSettings,
        options: &WalConnectionOptions,
    ) -> Result<Self, WalStreamError> {
        let timeout = format!("{}ms", options.sender_timeout.as_millis());
        let settings = settings.clone().with_application_name(&options.application_name);
        let settings = settings.with_option("wal_sender_timeout", &timeout);
        let session = Session::connect(&settings, Purpose::PhysicalReplication).await;
        let mut session = session.map_err(WalStreamError::session("connect for WAL"))?;
        session.set_query_timeout(COMMAND_TIMEOUT);
        Ok(Self { session, segment_size: None })
    }

    /// The host that answered, as the settings name it, and its port.
    #[must_use]
    pub fn host(&self) -> &str {
        self.session.host()
    }

    /// The server's version as `SHOW server_version_num` gives it.
    #[must_use]
    pub fn server_version_num(&self) -> u32 {
        self.session.server_version_num()
    }

    /// The server's process for this connection (`pg_stat_replication.pid`).
    #[must_use]
    pub fn process_id(&self) -> i32 {
        self.session.process_id()
    }

    /// Asks who the server is.
    ///
    /// # Errors
    /// [`WalStreamError::Session`]; [`WalStreamError::Protocol`] for an answer that names no cluster.
    pub async fn identify(&mut self) -> Result<ServerIdentity, WalStreamError> {
        let doing = "ask the server who it is";
        let answer = self.session.query("IDENTIFY_SYSTEM").await.map_err(WalStreamError::session(doing))?;
        let row = answer.into_iter().next().and_then(|answer| answer.rows.into_iter().next()).unwrap_or_default();
        let [Some(system), Some(timeline), Some(flush)] = row.get(..3).unwrap_or_default() else {
            return Err(WalStreamError::protocol(row));
        };
        let identity = || {
            let timeline = TimelineId::new(timeline.parse().ok()?)?;
            Some(ServerIdentity { system_identifier: system.parse().ok()?, timeline, flush: flush.parse().ok()? })
        };
        identity().ok_or_else(|| WalStreamError::protocol(&row))
    }

    /// The cluster's segment size; asked once.
    ///
    /// # Errors
    /// As [`WalConnection::identify`].
    pub async fn segment_size(&mut self) -> Result<SegmentSize, WalStreamError> {
        if let Some(size) = self.segment_size {
            return Ok(size);
        }
        let answer = self.session.query_one_text("SHOW wal_segment_size").await;
        let text = answer.map_err(WalStreamError::session("ask for the WAL segment size"))?.unwrap_or_default();
        let size = text.parse().map_err(|_| WalStreamError::protocol(&text))?;
        Ok(*self.segment_size.insert(size))
    }

    /// The value of `lifeboat.incarnation`, which a restored copy carries; `None` in an original.
    ///
    /// # Errors
    /// [`WalStreamError::Session`].
    pub async fn incarnation(&mut self) -> Result<Option<String>, WalStreamError> {
        match self.session.query_one_text("SHOW lifeboat.incarnation").await {
            Ok(text) => Ok(text.filter(|text| !text.is_empty())),
            Err(SessionError::Server(message)) if message.code == UNKNOWN_SETTING => Ok(None),
            Err(error) => Err(WalStreamError::session("ask for the incarnation")(error)),
        }
    }

    /// The content of a timeline's history file, byte for byte. Timeline 1 has none.
    ///
    /// # Errors
    /// [`WalStreamError::NoHistory`]; [`WalStreamError::Protocol`] if it is longer than [`HISTORY_MAX`];
    /// [`WalStreamError::Session`].
    pub async fn timeline_history(&mut self, timeline: TimelineId) -> Result<Bytes, WalStreamError> {
        let doing = "ask for the history of a timeline";
        // The server would begin an answer before it finds that there is no file.
        if timeline.get() == 1 {
            return Err(WalStreamError::NoHistory { timeline });
        }
        let command = format!("TIMELINE_HISTORY {timeline}");
        let answer = within(doing, async {
            self.session.send_query(&command).await.map_err(WalStreamError::session(doing))?;
            Answer::read(&mut self.session, doing).await
        });
        let answer = answer.await?;
        match answer.refusal {
            Some(message) if message.code == NO_FILE => return Err(WalStreamError::NoHistory { timeline }),
            Some(message) => return Err(WalStreamError::server(doing, Asked::Otherwise, message)),
            None => {}
        }
        let content = answer.row.into_iter().nth(1).flatten();
        content.ok_or_else(|| WalStreamError::protocol("a history without content"))
    }

    /// Says goodbye.
    pub async fn close(self) {
        self.session.close().await;
    }
}

impl fmt::Debug for WalConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalConnection").field("session", &self.session).finish_non_exhaustive()
    }
}

pub(crate) async fn within<T>(
    doing: &'static str,
    work: impl Future<Output = Result<T, WalStreamError>>,
) -> Result<T, WalStreamError> {
    within_time(COMMAND_TIMEOUT, doing, work).await
}

pub(crate) async fn within_time<T>(
    after: Duration,
    doing: &'static str,
    work: impl Future<Output = Result<T, WalStreamError>>,
) -> Result<T, WalStreamError> {
    let late = |_| {
        let source = SessionError::TimedOut { doing: doing.to_owned(), after };
        WalStreamError::Session { doing, source }
    };
    tokio::time::timeout(after, work).await.map_err(late)?
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AnswerEnd {
    /// The server awaits the next command.
    #[default]
    Ready,
    /// A stream begins.
    CopyBoth,
}

/// The answer to a replication command: one row of values as they are, whatever their encoding.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    row: Vec<Option<Bytes>>,
    pub(crate) refusal: Option<ServerMessage>,
    pub(crate) end: AnswerEnd,
}

impl Answer {
    pub(crate) async fn read(session: &mut Session, doing: &'static str) -> Result<Self, WalStreamError> {
        let mut answer = Self::default();
        loop {
            match session.next_message().await {
                Ok(message) => {
                    if answer.take(message)? {
                        return Ok(answer);
                    }
                }
                // A server that goes away first says why.
                Err(_) if answer.refusal.is_some() => return Ok(answer),
                Err(error) => return Err(WalStreamError::session(doing)(error)),
            }
        }
    }

    /// Takes a message; whether it was the last one.
    pub(crate) fn take(&mut self, message: BackendMessage) -> Result<bool, WalStreamError> {
        match message {
            BackendMessage::ReadyForQuery => return Ok(true),
            BackendMessage::CopyBoth => {
                self.end = AnswerEnd::CopyBoth;
                return Ok(true);
            }
            BackendMessage::DataRow(values) if self.row.is_empty() => {
                if values.iter().flatten().map(Bytes::len).sum::<usize>() > HISTORY_MAX + 4096 {
                    return Err(WalStreamError::protocol("an answer of more than 1 MiB"));
                }
                // What is kept must not hold on to the receive buffer.
                self.row = values.into_iter().map(|value| value.map(|value| Bytes::copy_from_slice(&value))).collect();
            }
            BackendMessage::Error(message) => {
                self.refusal.get_or_insert(message);
            }
            BackendMessage::Notice(notice) => tracing::info!(%notice, "notice"),
            BackendMessage::RowDescription(_) | BackendMessage::CommandComplete(_) => {}
            other => return Err(WalStreamError::protocol(other)),
        }
        Ok(false)
    }

    /// The row `next_tli, next_tli_startpos`.
    pub(crate) fn next(&self) -> Result<WalPosition, WalStreamError> {
        let text = |value: &Option<Bytes>| String::from_utf8(value.as_ref()?.to_vec()).ok();
        let position = || {
            let [timeline, lsn] = self.row.get(..2)? else { return None };
            let timeline = TimelineId::new(text(timeline)?.parse().ok()?)?;
            Some(WalPosition { timeline, lsn: text(lsn)?.parse().ok()? })
        };
        position().ok_or_else(|| WalStreamError::protocol("the end of a stream without the next timeline"))
    }
}
