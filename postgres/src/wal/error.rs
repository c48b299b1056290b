//! Why WAL cannot be streamed from a server, by meaning: the one place that reads what servers say about slots and WAL.

use lifeboat_vocabulary::{Lsn, TimelineId};

use crate::session::error::SessionError;
use crate::session::message::ServerMessage;

/// Why WAL cannot be streamed, or a slot cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalStreamError {
    /// The server has removed WAL that was asked for: without another source there is a gap.
    #[error("the server does not have the WAL any more: {message}")]
    SegmentRemoved {
        /// What the server said.
        message: Box<ServerMessage>,
    },
    /// The server has less WAL than it has sent before: it was restored from an older copy, lost what it had confirmed,
    /// or is another server. Going back silently would overwrite the past.
    #[error("the server's WAL ends before the position that was asked for: {message}")]
    AheadOfServer {
        /// What the server said.
        message: Box<ServerMessage>,
    },
    /// The position is on a branch that the server did not take.
    #[error("the server's history does not contain what was asked for: {message}")]
    TimelineNotInHistory {
        /// What the server said.
        message: Box<ServerMessage>,
    },
    /// The server has no history file for the timeline.
    #[error("the server has no history file of timeline {timeline}")]
    NoHistory {
        /// The timeline.
        timeline: TimelineId,
    },
    /// Another session uses the slot: ours of before, until the server notices that it is gone, or somebody else's.
    #[error("the replication slot is in use{}", .pid.map(|pid| format!(" by the server's process {pid}")).unwrap_or_default())]
    SlotActive {
        /// The server's process for that session.
        pid: Option<i32>,
    },
    /// The server has given the slot up, because it was too far behind or idle for too long.
    #[error("the replication slot is lost: {message}")]
    SlotLost {
        /// What the server said.
        message: Box<ServerMessage>,
    },
    /// There is no such slot.
    #[error("there is no such replication slot: {message}")]
    NoSlot {
        /// What the server said.
        message: Box<ServerMessage>,
    },
    /// There is such a slot already.
    #[error("there is such a replication slot already: {message}")]
    SlotExists {
        /// What the server said.
        message: Box<ServerMessage>,
    },
    /// The server cannot have or use slots as it is set up, or the slot is of another kind.
    #[error("the replication slot cannot be used: {message}")]
    SlotUnusable {
        /// What the server said.
        message: Box<ServerMessage>,
    },
    /// WAL must be asked for from the start of a segment.
    #[error("{at} is not the start of a WAL segment")]
    NotSegmentStart {
        /// What was asked for.
        at: Lsn,
    },
    /// The stream is not what the protocol says.
    #[error("the server sent {what}, which does not belong there")]
    Protocol {
        /// What came.
        what: String,
    },
    /// The session could not be opened, broke, or was refused a command for another reason.
    #[error("{doing}")]
    Session {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: SessionError,
    },
}

/// A word of 24 hexadecimal digits is the name of a WAL segment, in every language.
fn names_segment(text: &str) -> bool {
    text.split(|c: char| !c.is_ascii_hexdigit()).any(|word| word.len() == 24)
}

/// How many WAL positions a text names.
fn positions(text: &str) -> usize {
    text.split(|c: char| !c.is_ascii_hexdigit() && c != '/').filter(|word| word.parse::<Lsn>().is_ok()).count()
}

fn last_number(text: &str) -> Option<i32> {
    text.split(|c: char| !c.is_ascii_digit()).rfind(|word| !word.is_empty())?.parse().ok()
}

/// Whether the detail tells that the server has invalidated the slot; the words are those of
/// `pg_replication_slots.invalidation_reason`, in every language.
fn tells_invalidation(message: &ServerMessage) -> bool {
    let detail = message.detail.as_deref().unwrap_or_default();
    ["wal_removed", "idle_timeout"].iter().any(|reason| detail.contains(reason))
}

/// What a server was asked when it refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To send WAL from a position.
    ForWal,
    /// Anything else.
    Otherwise,
}

impl WalStreamError {
    pub(crate) fn session(doing: &'static str) -> impl FnOnce(SessionError) -> Self {
        move |source| match source {
            SessionError::Server(message) => Self::server(doing, Asked::Otherwise, *message),
            source => Self::Session { doing, source },
        }
    }

    /// The meaning of what the server said. It may speak any language: only codes, positions, and names of settings and
    /// files are the same in all of them.
    pub(crate) fn server(doing: &'static str, asked: Asked, message: ServerMessage) -> Self {
        let (code, text) = (message.code.clone(), message.message.clone());
        let message = Box::new(message);
        match (code.as_str(), asked) {
            ("58P01", _) if names_segment(&text) => Self::SegmentRemoved { message },
            // Both come without a code of their own; the first names where the server's WAL ends, too.
            ("XX000", Asked::ForWal) if positions(&text) >= 2 => Self::AheadOfServer { message },
            ("XX000", Asked::ForWal) if !text.contains(".history") => Self::TimelineNotInHistory { message },
            ("55006", _) => Self::SlotActive { pid: last_number(&text) },
            ("55000", _) if tells_invalidation(&message) => Self::SlotLost { message },
            ("42704", _) => Self::NoSlot { message },
            ("42710", _) => Self::SlotExists { message },
            ("55000" | "53400", _) => Self::SlotUnusable { message },
            _ => Self::Session { doing, source: SessionError::Server(message) },
        }
    }

    pub(crate) fn protocol(what: impl std::fmt::Debug) -> Self {
        Self::Protocol { what: format!("{what:?}").chars().take(200).collect() }
    }

    /// Whether the same attempt may succeed later without anybody's help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::SlotActive { .. } => true,
            Self::Session { source, .. } => source.is_transient(),
            _ => false,
        }
    }

    /// What the server itself said, where it is kept.
    #[must_use]
    pub fn server_message(&self) -> Option<&ServerMessage> {
        match self {
            Self::SegmentRemoved { message }
            | Self::AheadOfServer { message }
            | Self::TimelineNotInHistory { message }
            | Self::SlotLost { message }
            | Self::NoSlot { message }
            | Self::SlotExists { message }
            | Self::SlotUnusable { message } => Some(message),
            Self::Session { source, .. } => source.server_message(),
            _ => None,
        }
    }

    /// What an operator can do about it, where there is something.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(
            match self {
                Self::SegmentRemoved { .. } => {
                    "take a new base backup, and raise `max_slot_wal_keep_size` or free space for pg_wal so that the slot can \
                     hold WAL for longer"
                }
                Self::AheadOfServer { .. } => {
                    "find out whether this server was restored from an older copy, lost its disk's last writes, or is not the \
                     one that was meant; what is stored already must stay as it is"
                }
                Self::TimelineNotInHistory { .. } | Self::NoHistory { .. } => {
                    "see that all hosts of the connection string belong to one cluster: this one took another branch of history"
                }
                Self::SlotActive { .. } => {
                    "the session of before ends by itself after `wal_sender_timeout`; if it does not, something else uses the \
                     slot (`SELECT * FROM pg_catalog.pg_replication_slots`)"
                }
                Self::SlotLost { .. } => {
                    "drop the slot and let it be made again, take a new base backup, and raise `max_slot_wal_keep_size` (and \
                     `idle_replication_slot_timeout` from PostgreSQL 18 on)"
                }
                Self::NoSlot { .. } => "make the slot: SELECT pg_catalog.pg_create_physical_replication_slot('NAME', true)",
                Self::SlotExists { .. } => "choose another name for the slot, or use the one that is there",
                Self::SlotUnusable { .. } => {
                    "set `wal_level = replica` or higher, raise `max_replication_slots`, and restart the server; a slot of \
                     another kind with this name must be dropped"
                }
                Self::Session { source, .. } => return source.remedy(),
                Self::NotSegmentStart { .. } | Self::Protocol { .. } => return None,
            }
            .to_owned(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: &str, text: &str, detail: Option<&str>) -> WalStreamError {
        let (code, text) = (code.to_owned(), text.to_owned());
        let message =
            ServerMessage { code, message: text, detail: detail.map(str::to_owned), ..ServerMessage::default() };
        WalStreamError::server("stream WAL", Asked::ForWal, message)
    }

    #[test]
    fn what_the_server_says_is_understood_in_any_language() {
        use WalStreamError as E;
        type Is = fn(&WalStreamError) -> bool;
        let removed = "das angeforderte WAL-Segment 0000000A00000016000000B3 wurde schon entfernt";
        let ahead = "angeforderter Startpunkt 0/9000000 ist vor der WAL-Flush-Position dieses Servers 0/3000000";
        let invalid = "This replication slot has been invalidated due to \"wal_removed\".";
        for (code, text, detail, is) in [
            ("58P01", removed, None, (|e| matches!(e, E::SegmentRemoved { .. })) as Is),
            ("XX000", ahead, None, |e| matches!(e, E::AheadOfServer { .. })),
            ("XX000", "requested starting point 0/3000000 on timeline 1 is not in this server's history", None, |e| {
                matches!(e, E::TimelineNotInHistory { .. })
            }),
            ("XX000", "requested timeline 7 is not in this server's history", None, |e| {
                matches!(e, E::TimelineNotInHistory { .. })
            }),
            ("55006", "replication slot \"s9\" is active for PID 4711", None, |e| {
                matches!(e, E::SlotActive { pid: Some(4711) }) && e.is_transient()
            }),
            ("55000", "can no longer access replication slot \"s\"", Some(invalid), |e| {
                matches!(e, E::SlotLost { .. })
            }),
            ("55000", "cannot use a logical replication slot for physical replication", None, |e| {
                matches!(e, E::SlotUnusable { .. })
            }),
            ("42704", "replication slot \"s\" does not exist", None, |e| matches!(e, E::NoSlot { .. })),
            ("57P01", "terminating connection due to administrator command", None, |e| {
                matches!(e, E::Session { .. }) && e.is_transient()
            }),
        ] {
            let error = said(code, text, detail);
            assert!(is(&error), "{text}: {error:?}");
            assert!(error.remedy().is_some(), "{error:?}");
        }
    }
}
