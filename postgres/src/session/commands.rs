//! A session with a server: commands out, messages in.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use postgres_protocol::message::frontend;

use crate::session::error::{ProtocolFault, SessionError};
use crate::session::message::{BackendMessage, Decoded, MESSAGE_MAX, decode_message};
use crate::session::settings::Purpose;
use crate::session::settings_words::TargetSessionAttrs;
use crate::session::startup::{PARAMETERS_MAX, Welcome};
use crate::session::transport::Transport;

/// The largest answer of [`Session::query`], in **bytes** of values.
pub const ANSWER_MAX: usize = 16 << 20;
/// The first statement of every session for SQL.
const EMPTY_SEARCH_PATH: &str = "SELECT pg_catalog.set_config('search_path', '', false)";
const QUERY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// How long [`Session::close`] and the last words of a dying server may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// The answer to one statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// The columns' names; empty if the statement returns no rows.
    pub columns: Vec<String>,
    /// Each row's values in text form, `None` for NULL.
    pub rows: Vec<Vec<Option<String>>>,
    /// The command tag, such as `SELECT 1`.
    pub tag: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The server awaits a command.
    Ready,
    /// A command runs.
    Busy,
    /// What the server will say next is unknown.
    Broken,
}

/// A session with one server. Dropping it closes the connection at once; the server ends what it was doing.
///
/// It speaks the simple query protocol with values in text form, UTF-8, ISO dates. Source: PostgreSQL manual, chapters
/// "Frontend/Backend Protocol" and "Streaming Replication Protocol".
pub struct Session {
    transport: Transport,
    parameters: HashMap<String, String>,
    process_id: i32,
    version: u32,
    purpose: Purpose,
    state: State,
    query_timeout: Duration,
}

impl Session {
    pub(crate) fn new(transport: Transport, welcome: Welcome, purpose: Purpose) -> Result<Self, SessionError> {
        let Welcome { parameters, process_id } = welcome;
        let Some(version) = parameters.get("server_version").and_then(|text| version_number(text)) else {
            return Err(transport.fault(ProtocolFault::Unexpected("a server without a version".to_owned())));
        };
        let (state, query_timeout) = (State::Ready, QUERY_TIMEOUT_DEFAULT);
        Ok(Self { transport, parameters, process_id, version, purpose, state, query_timeout })
    }

    /// The host that answered, as the settings name it, and its port.
    #[must_use]
    pub fn host(&self) -> &str {
        self.transport.host()
    }

    /// The server's version as `SHOW server_version_num` gives it: 150020 is 15.20.
    #[must_use]
    pub fn server_version_num(&self) -> u32 {
        self.version
    }

    /// The newest value of a setting that the server reports by itself, such as `server_version`, `in_hot_standby` (from 14 on).
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The server's process for this session (`pg_stat_activity.pid`).
    #[must_use]
    pub fn process_id(&self) -> i32 {
        self.process_id
    }

    /// Sets how long [`Session::query`] may take. Default: 60 s.
    pub fn set_query_timeout(&mut self, timeout: Duration) {
        self.query_timeout = timeout;
    }

    /// Sends SQL (several statements too) or a replication command, and gathers the answer.
    ///
    /// # Errors
    /// [`SessionError::Server`] if the server refuses; the session can be used again then, unless the severity is `FATAL`.
    /// After any other error it cannot: [`SessionError::TimedOut`], an answer of more than [`ANSWER_MAX`] bytes or with text
    /// that is not UTF-8, a lost connection. Cancelled, it cannot be used again either.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Rows>, SessionError> {
        self.check_ready()?;
        let after = self.query_timeout;
        let result = match tokio::time::timeout(after, self.run(sql)).await {
            Ok(result) => result,
            Err(_) => {
                self.state = State::Broken;
                Err(SessionError::TimedOut { doing: format!("a query on {}", self.host()), after })
            }
        };
        if matches!(&result, Err(error) if self.state == State::Busy && !matches!(error, SessionError::Server(_))) {
            self.state = State::Broken;
        }
        result
    }

    /// The first column of the first row of the first answer; `None` if there is no row, or for NULL.
    ///
    /// # Errors
    /// As [`Session::query`].
    pub async fn query_one_text(&mut self, sql: &str) -> Result<Option<String>, SessionError> {
        let first = self.query(sql).await?.into_iter().next();
        Ok(first.and_then(|answer| answer.rows.into_iter().next()?.into_iter().next()?))
    }

    async fn run(&mut self, sql: &str) -> Result<Vec<Rows>, SessionError> {
        self.send_query(sql).await?;
        let mut answer = Answer::default();
        let mut refusal = None;
        loop {
            match self.next_message().await {
                Ok(BackendMessage::ReadyForQuery) => break,
                Ok(BackendMessage::Error(message)) => {
                    refusal.get_or_insert(SessionError::Server(Box::new(message)));
                }
                Ok(BackendMessage::Notice(notice)) => tracing::info!(host = self.host(), %notice, "notice"),
                Ok(message) => answer.take(message).map_err(|fault| self.transport.fault(fault))?,
                // A server that goes away first says why.
                Err(lost) => return Err(refusal.unwrap_or(lost)),
            }
        }
        match refusal {
            Some(refusal) => Err(refusal),
            None => Ok(answer.complete),
        }
    }

    /// Sends SQL or a replication command; the answer is up to [`Session::next_message`].
    ///
    /// # Errors
    /// [`SessionError::Protocol`] if another command has not been answered to its end, or if `sql` cannot be sent;
    /// [`SessionError::Lost`]; [`SessionError::Server`] if the server has ended the session meanwhile and says why.
    pub async fn send_query(&mut self, sql: &str) -> Result<(), SessionError> {
        self.check_ready()?;
        if sql.len() > ANSWER_MAX || sql.contains('\0') {
            let why = "it is longer than 16 MiB or has a zero byte".to_owned();
            return Err(self.transport.fault(ProtocolFault::Command(why)));
        }
        let written = frontend::query(sql, self.transport.outgoing());
        written.map_err(|error| self.transport.fault(ProtocolFault::Command(error.to_string())))?;
        self.state = State::Busy;
        match self.transport.flush().await {
            Err(lost) => Err(self.last_words().await.unwrap_or(lost)),
            sent => sent,
        }
    }

    /// What the server said before it ended the connection, if it did.
    async fn last_words(&mut self) -> Option<SessionError> {
        self.state = State::Broken;
        let listening = async {
            loop {
                let (tag, body) = self.transport.next().await.ok()?;
                if let Ok(Decoded::Message(BackendMessage::Error(message))) = decode_message(tag, body) {
                    return Some(SessionError::Server(Box::new(message)));
                }
            }
        };
        tokio::time::timeout(FAREWELL, listening).await.unwrap_or(None)
    }

    /// The next message. There is **no time limit**: a base backup is silent during its checkpoint; dead connections are
    /// noticed by TCP. Cancel-safe: a cancelled call loses nothing.
    ///
    /// Settings that the server reports are kept ([`Session::parameter`]) and not returned; nor are notifications.
    ///
    /// # Errors
    /// [`SessionError::Lost`] if the connection ends, [`SessionError::Protocol`] for what is not in the protocol.
    /// An error of the server is a message, not an error of this function.
    pub async fn next_message(&mut self) -> Result<BackendMessage, SessionError> {
        if self.state == State::Broken {
            return Err(self.transport.fault(ProtocolFault::Unusable));
        }
        loop {
            let message = match self.next_decoded().await {
                Ok(message) => message,
                Err(error) => {
                    self.state = State::Broken;
                    return Err(error);
                }
            };
            match message {
                Decoded::Parameter(name, value) => {
                    if self.parameters.len() < PARAMETERS_MAX || self.parameters.contains_key(&name) {
                        self.parameters.insert(name, value);
                    }
                }
                Decoded::Message(message) => {
                    match message {
                        BackendMessage::ReadyForQuery => self.state = State::Ready,
                        BackendMessage::CopyOut | BackendMessage::CopyBoth => self.transport.expect_bulk(),
                        _ => {}
                    }
                    return Ok(message);
                }
                Decoded::Ignored | Decoded::ProcessId(_) => {}
                Decoded::Authentication(_) => {
                    self.state = State::Broken;
                    let what = "a request for authentication in an open session".to_owned();
                    return Err(self.transport.fault(ProtocolFault::Unexpected(what)));
                }
            }
        }
    }

    async fn next_decoded(&mut self) -> Result<Decoded, SessionError> {
        let (tag, body) = self.transport.next().await?;
        decode_message(tag, body).map_err(|fault| self.transport.fault(fault.into()))
    }

    /// Sends copy data, such as a standby status. Cancel-safe: what was not sent goes out with the next call that sends.
    ///
    /// # Errors
    /// [`SessionError::Lost`]; [`SessionError::Protocol`] if `data` is longer than [`MESSAGE_MAX`] or no command runs.
    pub async fn send_copy_data(&mut self, data: &[u8]) -> Result<(), SessionError> {
        self.check_busy()?;
        let length = u32::try_from(data.len() + 4).ok().filter(|_| data.len() < MESSAGE_MAX - 5);
        let Some(length) = length else {
            return Err(self.transport.fault(ProtocolFault::Command("too much copy data in one piece".to_owned())));
        };
        // A rest of an earlier call goes first, so that a cancelled sender cannot fill the memory.
        self.flush().await?;
        let outgoing = self.transport.outgoing();
        outgoing.put_u8(b'd');
        outgoing.put_u32(length);
        outgoing.put_slice(data);
        self.flush().await
    }

    /// Ends our side of the copy.
    ///
    /// # Errors
    /// As [`Session::send_copy_data`].
    pub async fn send_copy_done(&mut self) -> Result<(), SessionError> {
        self.put_copy_done()?;
        self.flush().await
    }

    /// Puts the end of our side of the copy behind what is to be sent; [`Session::flush`] sends it.
    pub(crate) fn put_copy_done(&mut self) -> Result<(), SessionError> {
        self.check_busy()?;
        frontend::copy_done(self.transport.outgoing());
        Ok(())
    }

    fn check_ready(&self) -> Result<(), SessionError> {
        match self.state {
            State::Ready => Ok(()),
            State::Busy => Err(self.transport.fault(ProtocolFault::Busy)),
            State::Broken => Err(self.transport.fault(ProtocolFault::Unusable)),
        }
    }

    fn check_busy(&self) -> Result<(), SessionError> {
        match self.state {
            State::Busy => Ok(()),
            State::Ready => Err(self.transport.fault(ProtocolFault::Command("no copy is under way".to_owned()))),
            State::Broken => Err(self.transport.fault(ProtocolFault::Unusable)),
        }
    }

    /// Sends what is collected. Cancel-safe: the rest goes out with the next call.
    pub(crate) async fn flush(&mut self) -> Result<(), SessionError> {
        self.transport.flush().await
    }

    /// Says goodbye and closes the connection. A server that does not listen any more is not an error: it is closed all the same.
    pub async fn close(mut self) {
        frontend::terminate(self.transport.outgoing());
        let farewell = async {
            self.transport.flush().await?;
            self.transport.shut_down().await.map_err(|source| self.transport.lost(source))
        };
        match tokio::time::timeout(FAREWELL, farewell).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "close session"),
            Err(_) => tracing::debug!("close session: the server does not listen"),
        }
    }

    /// Lets names lead to nothing but PostgreSQL's own objects, whatever role, database and settings say. Who may make
    /// functions or operators in a schema of the search path could otherwise have them run with our rights, by giving them
    /// the name of one of PostgreSQL's and arguments that fit better.
    ///
    /// Source: PostgreSQL manual, "Usage Patterns" of schemas; CVE-2018-1058.
    pub(crate) async fn empty_search_path(&mut self) -> Result<(), SessionError> {
        // A physical replication session takes no SQL.
        if self.purpose == Purpose::PhysicalReplication {
            return Ok(());
        }
        let left = self.query_one_text(EMPTY_SEARCH_PATH).await?;
        match left.as_deref() {
            Some("") => Ok(()),
            other => {
                let other: Option<String> = other.map(|text| text.chars().take(100).collect());
                let what = format!("the search path {other:?}, which was to be empty");
                Err(self.transport.fault(ProtocolFault::Unexpected(what)))
            }
        }
    }

    /// Whether this server is one that the settings want.
    pub(crate) async fn check_role(&mut self, wanted: TargetSessionAttrs) -> Result<(), SessionError> {
        if wanted == TargetSessionAttrs::Any {
            return Ok(());
        }
        let (recovery, writes) = self.role().await?;
        let found = match (wanted, recovery, writes) {
            (TargetSessionAttrs::Primary, Recovery::Standby, _) => "a standby",
            (TargetSessionAttrs::Standby, Recovery::Primary, _) => "a primary",
            (TargetSessionAttrs::ReadWrite, _, Writes::Refused) => "read-only",
            (TargetSessionAttrs::ReadOnly, _, Writes::Taken) => "read-write",
            _ => return Ok(()),
        };
        Err(SessionError::UnwantedRole { host: self.host().to_owned(), wanted, found })
    }

    async fn role(&mut self) -> Result<(Recovery, Writes), SessionError> {
        let recovery = |on: bool| if on { Recovery::Standby } else { Recovery::Primary };
        let writes = |on: bool| if on { Writes::Refused } else { Writes::Taken };
        if let (Some(standby), Some(default)) =
            (self.parameter("in_hot_standby"), self.parameter("default_transaction_read_only"))
        {
            return Ok((recovery(standby == "on"), writes(standby == "on" || default == "on")));
        }
        // Before 14 nothing of this is reported.
        let read_only = self.query_one_text("SHOW transaction_read_only").await?.as_deref() == Some("on");
        let standby = match self.purpose {
            // No SQL here; a primary that is read-only by default is taken for a standby.
            Purpose::PhysicalReplication => read_only,
            Purpose::Sql | Purpose::DatabaseReplication => {
                self.query_one_text("SELECT pg_catalog.pg_is_in_recovery()").await?.as_deref() == Some("t")
            }
        };
        Ok((recovery(standby), writes(read_only)))
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Session");
        out.field("host", &self.host()).field("purpose", &self.purpose).field("state", &self.state);
        out.finish_non_exhaustive()
    }
}

enum Recovery {
    Primary,
    Standby,
}

enum Writes {
    Taken,
    Refused,
}

/// An answer that is being gathered.
#[derive(Default)]
struct Answer {
    complete: Vec<Rows>,
    current: Rows,
    bytes: usize,
}

impl Answer {
    fn take(&mut self, message: BackendMessage) -> Result<(), ProtocolFault> {
        match message {
            BackendMessage::RowDescription(columns) => {
                self.count(columns.iter().map(String::len).sum())?;
                self.current.columns = columns;
            }
            BackendMessage::DataRow(values) => {
                self.count(values.iter().map(|value| value.as_ref().map_or(0, Bytes::len)).sum())?;
                // The list itself takes memory too, even if all its values are empty.
                self.count(values.len() * size_of::<Option<String>>() + size_of::<Rows>())?;
                let row = values.into_iter().map(|value| value.map(text).transpose());
                self.current.rows.push(row.collect::<Result<_, _>>()?);
            }
            BackendMessage::CommandComplete(tag) => {
                self.count(size_of::<Rows>())?;
                self.current.tag = tag;
                self.complete.push(std::mem::take(&mut self.current));
            }
            BackendMessage::EmptyQuery => {}
            _ => return Err(ProtocolFault::Unexpected("copy data in answer to a query".to_owned())),
        }
        Ok(())
    }

    fn count(&mut self, bytes: usize) -> Result<(), ProtocolFault> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > ANSWER_MAX { Err(ProtocolFault::TooLarge { limit: ANSWER_MAX }) } else { Ok(()) }
    }
}

fn text(value: Bytes) -> Result<String, ProtocolFault> {
    let text = String::from_utf8(value.into());
    text.map_err(|_| ProtocolFault::Unexpected("text that is not UTF-8".to_owned()))
}

/// `15.20 (Debian 15.20-1)` as 150020; development and beta versions count as `.0`.
fn version_number(text: &str) -> Option<u32> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().ok());
    let major = numbers.next()??;
    let dotted = text.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with('.');
    let minor = if dotted { numbers.next().flatten().unwrap_or(0) } else { 0 };
    major.checked_mul(10_000)?.checked_add(minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        for (text, expected) in [
            ("", None),
            ("devel", None),
            ("99999999", None),
            ("15.20 (Debian 15.20-0+deb12u1)", Some(150_020)),
            ("18.6", Some(180_006)),
            ("19devel", Some(190_000)),
            ("17beta1", Some(170_000)),
            ("17rc2", Some(170_000)),
        ] {
            assert_eq!(version_number(text), expected, "{text}");
        }
    }
}
