//! The server's messages: from bytes to values, without I/O.
//!
//! Source: PostgreSQL manual, chapter "Frontend/Backend Protocol", section "Message Formats" (protocol 3.0).

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

/// The longest message that is accepted, in **bytes** with its header. PostgreSQL sends copy data in pieces of at most a
/// few hundred KiB; a longer message is a fault of the line, or hostile.
pub const MESSAGE_MAX: usize = 64 << 20;

/// The longest text that is kept of what a server says, in **bytes**: a message, a detail, a setting. They go into logs,
/// alarms and records of backups, which a hostile server must not fill.
pub(crate) const TEXT_MAX: usize = 4096;
const CUT: &str = "...";
/// The most mechanisms of authentication that are read; PostgreSQL has three.
const MECHANISMS_MAX: usize = 32;

/// Tag and length.
const HEADER: usize = 5;

/// Bytes that are not a message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// A length below the minimum, or above [`MESSAGE_MAX`].
    #[error("message `{}` claims a length of {length} bytes", char::from(*tag).escape_default())]
    Length {
        /// The message's first byte.
        tag: u8,
        /// The length that it claims.
        length: u32,
    },
    /// The content does not fit the message's kind.
    #[error("message `{}` is malformed: {what}", char::from(*tag).escape_default())]
    Malformed {
        /// The message's first byte.
        tag: u8,
        /// Which part of it.
        what: &'static str,
    },
    /// No such message exists, or not in anything that was asked for.
    #[error("message `{}` is not expected here", char::from(*tag).escape_default())]
    Unexpected {
        /// The message's first byte.
        tag: u8,
    },
}

/// What a server has to say about a command or about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerMessage {
    /// `ERROR`, `FATAL`, `PANIC`, `WARNING`, `NOTICE`, ... in English whatever the server's language.
    pub severity: String,
    /// The SQLSTATE: five letters or digits. Source: PostgreSQL manual, appendix "PostgreSQL Error Codes".
    pub code: String,
    /// The message, in the server's language.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What the server advises.
    pub hint: Option<String>,
    /// The routine of the server's source that says it; never translated.
    pub routine: Option<String>,
}

impl fmt::Display for ServerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.code, self.message)?;
        self.detail.iter().try_for_each(|detail| write!(f, " ({detail})"))?;
        self.hint.iter().try_for_each(|hint| write!(f, " (hint: {hint})"))
    }
}

/// One message of the server, as far as a caller has to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendMessage {
    /// Rows follow; these are the names of their columns.
    RowDescription(Vec<String>),
    /// A row: each column's text form, `None` for NULL. The bytes share the receive buffer: copy what is kept for long.
    DataRow(Vec<Option<Bytes>>),
    /// A command is done; its tag, such as `SELECT 1`.
    CommandComplete(String),
    /// The server begins to send copy data.
    CopyOut,
    /// The server awaits copy data.
    CopyIn,
    /// Both: a replication stream begins.
    CopyBoth,
    /// Copy data. The bytes share the receive buffer (blocks of 1 MiB): let them go soon.
    CopyData(Bytes),
    /// The server's copy data is complete.
    CopyDone,
    /// Something that does not stop the command.
    Notice(ServerMessage),
    /// The command failed; after severity `FATAL` or `PANIC` the connection ends too.
    Error(ServerMessage),
    /// The server awaits the next command.
    ReadyForQuery,
    /// The command was empty.
    EmptyQuery,
}

/// What a server asks for before it lets a client in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthRequest {
    /// Nothing (more).
    Ok,
    /// The password itself.
    CleartextPassword,
    /// The password, hashed with this salt.
    Md5Password([u8; 4]),
    /// One of these mechanisms.
    Sasl(Vec<String>),
    /// The next step of the mechanism.
    SaslContinue(Bytes),
    /// The mechanism's last step: the server's own proof.
    SaslFinal(Bytes),
    /// A method that is not spoken here, by its number in the protocol.
    Other(i32),
}

/// A decoded message: for the caller, or for the session itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// For the caller.
    Message(BackendMessage),
    /// Authentication.
    Authentication(AuthRequest),
    /// A setting that the server reports, and its value.
    Parameter(String, String),
    /// The process that serves this session.
    ProcessId(i32),
    /// Of no interest: notifications, negotiation of newer protocols.
    Ignored,
}

/// Cuts the first whole message off `buffer`: its tag and its content, which shares the buffer. `None` if more bytes are needed.
///
/// # Errors
/// [`MessageError::Length`] if the length cannot be right; nothing is consumed then.
pub fn split_message(buffer: &mut BytesMut) -> Result<Option<(u8, Bytes)>, MessageError> {
    match (message_length(buffer)?, buffer.first().copied()) {
        (Some(length), Some(tag)) if buffer.len() >= length => {
            let mut whole = buffer.split_to(length).freeze();
            whole.advance(HEADER);
            Ok(Some((tag, whole)))
        }
        _ => Ok(None),
    }
}

/// How many **bytes** the first message in `buffer` has with its header; `None` while the header is incomplete.
///
/// # Errors
/// [`MessageError::Length`] if the length cannot be right.
pub(crate) fn message_length(buffer: &[u8]) -> Result<Option<usize>, MessageError> {
    let Some((&[tag, a, b, c, d], _)) = buffer.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]);
    match usize::try_from(length) {
        // The length counts itself, but not the tag.
        Ok(bytes) if (4..MESSAGE_MAX).contains(&bytes) => Ok(Some(bytes + 1)),
        _ => Err(MessageError::Length { tag, length }),
    }
}

/// Decodes one message's content. Any bytes are safe to give.
///
/// # Errors
/// [`MessageError::Malformed`] if the content does not fit the tag, [`MessageError::Unexpected`] for tags that answer
/// nothing that is ever asked here.
pub fn decode_message(tag: u8, body: Bytes) -> Result<Decoded, MessageError> {
    let mut fields = Fields { tag, body };
    let message = match tag {
        b'd' => BackendMessage::CopyData(fields.body),
        b'D' => BackendMessage::DataRow(fields.row()?),
        b'T' => BackendMessage::RowDescription(fields.columns()?),
        b'C' => BackendMessage::CommandComplete(fields.text("command tag")?),
        b'H' => BackendMessage::CopyOut,
        b'G' => BackendMessage::CopyIn,
        b'W' => BackendMessage::CopyBoth,
        b'c' => BackendMessage::CopyDone,
        b'N' => BackendMessage::Notice(fields.server_message()?),
        b'E' => BackendMessage::Error(fields.server_message()?),
        b'Z' => BackendMessage::ReadyForQuery,
        b'I' => BackendMessage::EmptyQuery,
        b'R' => return fields.auth_request().map(Decoded::Authentication),
        b'S' => return Ok(Decoded::Parameter(fields.text("name")?, fields.text("value")?)),
        b'K' => return fields.int("process id").map(Decoded::ProcessId),
        b'A' | b'v' => return Ok(Decoded::Ignored),
        _ => return Err(MessageError::Unexpected { tag }),
    };
    Ok(Decoded::Message(message))
}

/// The content of a message, read from its front.
struct Fields {
    tag: u8,
    body: Bytes,
}

impl Fields {
    fn malformed(&self, what: &'static str) -> MessageError {
        MessageError::Malformed { tag: self.tag, what }
    }

    fn int(&mut self, what: &'static str) -> Result<i32, MessageError> {
        self.body.try_get_i32().map_err(|_| self.malformed(what))
    }

    fn short(&mut self, what: &'static str) -> Result<u16, MessageError> {
        self.body.try_get_u16().map_err(|_| self.malformed(what))
    }

    fn take(&mut self, length: usize, what: &'static str) -> Result<Bytes, MessageError> {
        if length > self.body.len() {
            return Err(self.malformed(what));
        }
        Ok(self.body.split_to(length))
    }

    /// Bytes up to a zero byte.
    fn zero_ended(&mut self, what: &'static str) -> Result<Bytes, MessageError> {
        let end = self.body.iter().position(|byte| *byte == 0).ok_or_else(|| self.malformed(what))?;
        let text = self.body.split_to(end);
        self.body.advance(1);
        Ok(text)
    }

    /// Text up to a zero byte, cut to [`TEXT_MAX`]. What a server says before the encoding is agreed may be in any; it is
    /// for people.
    fn text(&mut self, what: &'static str) -> Result<String, MessageError> {
        let bytes = self.zero_ended(what)?;
        // Three bytes take the place of one that is not UTF-8: cut before and after.
        let kept = bytes.get(..TEXT_MAX).unwrap_or(&bytes);
        let mut text = String::from_utf8_lossy(kept).into_owned();
        if bytes.len() > TEXT_MAX || text.len() > TEXT_MAX {
            let mut end = TEXT_MAX - CUT.len();
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            text.push_str(CUT);
        }
        Ok(text)
    }

    fn row(&mut self) -> Result<Vec<Option<Bytes>>, MessageError> {
        let count = self.short("column count")?;
        // Every column takes four bytes at least, so that a lie about their number costs no memory.
        if usize::from(count) * 4 > self.body.len() {
            return Err(self.malformed("column count"));
        }
        (0..count)
            .map(|_| match self.int("column length")? {
                -1 => Ok(None),
                length => {
                    let length = usize::try_from(length).map_err(|_| self.malformed("column length"))?;
                    self.take(length, "column").map(Some)
                }
            })
            .collect()
    }

    fn columns(&mut self) -> Result<Vec<String>, MessageError> {
        /// Table, column number, type, its size, its modifier, format.
        const AFTER_NAME: usize = 4 + 2 + 4 + 2 + 4 + 2;
        let count = self.short("column count")?;
        if usize::from(count) * (1 + AFTER_NAME) > self.body.len() {
            return Err(self.malformed("column count"));
        }
        (0..count)
            .map(|_| {
                let name = self.text("column name")?;
                self.take(AFTER_NAME, "column type")?;
                Ok(name)
            })
            .collect()
    }

    fn server_message(&mut self) -> Result<ServerMessage, MessageError> {
        let mut message = ServerMessage::default();
        loop {
            match self.body.try_get_u8().map_err(|_| self.malformed("field kind"))? {
                0 => return Ok(message),
                // `V` is never translated; `S` may be, and stands in where a server older than 9.6 sends no `V`.
                b'V' => message.severity = self.text("severity")?,
                b'S' => {
                    let severity = self.text("severity")?;
                    if message.severity.is_empty() {
                        message.severity = severity;
                    }
                }
                b'C' => message.code = self.text("code")?,
                b'M' => message.message = self.text("message")?,
                b'D' => message.detail = Some(self.text("detail")?),
                b'H' => message.hint = Some(self.text("hint")?),
                b'R' => message.routine = Some(self.text("routine")?),
                _ => drop(self.zero_ended("field")?),
            }
        }
    }

    fn auth_request(&mut self) -> Result<AuthRequest, MessageError> {
        Ok(match self.int("authentication method")? {
            0 => AuthRequest::Ok,
            3 => AuthRequest::CleartextPassword,
            5 => {
                let salt = self.take(4, "salt")?;
                AuthRequest::Md5Password(salt.as_ref().try_into().map_err(|_| self.malformed("salt"))?)
            }
            10 => AuthRequest::Sasl(self.mechanisms()?),
            11 => AuthRequest::SaslContinue(self.body.split_off(0)),
            12 => AuthRequest::SaslFinal(self.body.split_off(0)),
            other => AuthRequest::Other(other),
        })
    }

    fn mechanisms(&mut self) -> Result<Vec<String>, MessageError> {
        let mut mechanisms = Vec::new();
        loop {
            let name = self.text("mechanism")?;
            if name.is_empty() {
                return Ok(mechanisms);
            }
            if mechanisms.len() == MECHANISMS_MAX {
                return Err(self.malformed("number of mechanisms"));
            }
            mechanisms.push(name);
        }
    }
}

#[cfg(test)]
mod tests;
