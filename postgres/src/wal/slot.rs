//! Physical replication slots, and how long the server can hold WAL for them: asked by SQL on PostgreSQL 13 to 18.
//!
//! Sources: PostgreSQL manual, chapters "System Views: pg_replication_slots", "Replication: Sending Servers";
//! `src/backend/replication/slotfuncs.c`, `syncrep.c`, `syncrep_gram.y`.

use std::fmt;
use std::str::FromStr;

use lifeboat_vocabulary::{ByteCount, ClusterName, Lsn, UtcTime};

use crate::session::commands::Session;
use crate::wal::error::WalStreamError;

/// A text that does not name a replication slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not the name of a replication slot (1 to 63 of a-z, 0-9 and _)")]
pub struct SlotNameError {
    text: String,
}

/// The name of a replication slot: 1 to 63 of `a`-`z`, `0`-`9` and `_`. Source: PostgreSQL `slot.c`,
/// `ReplicationSlotValidateName`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SlotName(String);

impl SlotName {
    /// The name that a cluster's slot has unless somebody chooses another: clusters are named with `a-z`, `0-9` and `-`, in
    /// at most 40 bytes.
    #[must_use]
    pub fn of_cluster(cluster: Option<&ClusterName>) -> Self {
        Self(format!("lifeboat_{}", cluster.map_or("main", ClusterName::as_str).replace('-', "_")))
    }

    /// The name as text. It needs no quoting anywhere.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for SlotName {
    type Err = SlotNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        if (1..=63).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(SlotNameError { text: text.to_owned() })
        }
    }
}

/// What a slot is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotCondition {
    /// It holds WAL from its position on.
    Holds,
    /// It may lose its WAL at the next checkpoint: more has been written than `max_slot_wal_keep_size` allows.
    AtRisk,
    /// It was never told to hold anything.
    Empty,
    /// The server has given it up: drop it and make it again. Using it as it is may fail (18), protect nothing (16, 17),
    /// or bring it back to life (13 to 15) with a hole in the WAL.
    Lost,
    /// It is a logical slot.
    Logical,
}

/// What the server says of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotStatus {
    /// What it is worth. Judge it **before** the slot is used: while it is in use, 16 says `unreserved` of a lost one.
    pub condition: SlotCondition,
    /// The server's process for the session that uses it.
    pub active_pid: Option<i32>,
    /// From where on it holds WAL.
    pub restart: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: Option<String>,
    /// How much can be written before it may be lost; negative once it is at risk. `None` without a limit.
    pub safe_wal_size: Option<i64>,
    /// Why it was given up, from 17 on.
    pub invalidation_reason: Option<String>,
    /// Since when nobody has used it, from 17 on.
    pub inactive_since: Option<UtcTime>,
}

fn asked(doing: &'static str) -> impl FnOnce(crate::session::error::SessionError) -> WalStreamError {
    WalStreamError::session(doing)
}

type Row = Vec<Option<String>>;

async fn first_row(session: &mut Session, doing: &'static str, sql: &str) -> Result<Option<Row>, WalStreamError> {
    let answer = session.query(sql).await.map_err(asked(doing))?;
    Ok(answer.into_iter().next().and_then(|answer| answer.rows.into_iter().next()))
}

/// What the server says of a slot; `None` if there is none of this name. The session must be one for SQL.
///
/// # Errors
/// [`WalStreamError::Session`].
pub async fn slot_status(session: &mut Session, slot: &SlotName) -> Result<Option<SlotStatus>, WalStreamError> {
    let newer = if session.server_version_num() >= 170_000 {
        "invalidation_reason, (pg_catalog.date_part('epoch', inactive_since) OPERATOR(pg_catalog.*) 1000000)::bigint"
    } else {
        "NULL, NULL"
    };
    let sql = format!(
        "SELECT slot_type, active_pid, restart_lsn, wal_status, safe_wal_size, {newer} \
         FROM pg_catalog.pg_replication_slots WHERE slot_name OPERATOR(pg_catalog.=) '{slot}'::pg_catalog.name"
    );
    let Some(row) = first_row(session, "ask for the replication slot", &sql).await? else { return Ok(None) };
    let mut values = row.into_iter();
    let mut next = || values.next().flatten();
    let (kind, active_pid, restart) = (next(), next(), next());
    let (wal_status, safe_wal_size, invalidation_reason, inactive_since) = (next(), next(), next(), next());
    let restart = restart.and_then(|text| text.parse::<Lsn>().ok());
    let condition = if kind.as_deref() == Some("logical") {
        SlotCondition::Logical
    } else if invalidation_reason.is_some() {
        SlotCondition::Lost
    } else {
        match (wal_status.as_deref(), restart) {
            (Some("lost"), _) => SlotCondition::Lost,
            (Some("unreserved"), _) => SlotCondition::AtRisk,
            (_, None) => SlotCondition::Empty,
            (_, Some(_)) => SlotCondition::Holds,
        }
    };
    Ok(Some(SlotStatus {
        condition,
        active_pid: active_pid.and_then(|text| text.parse().ok()),
        restart,
        wal_status,
        safe_wal_size: safe_wal_size.and_then(|text| text.parse().ok()),
        invalidation_reason,
        inactive_since: inactive_since.and_then(|text| text.parse().ok()).and_then(UtcTime::from_unix_micros),
    }))
}

/// Makes a physical slot that holds WAL from the last checkpoint's redo position on, and returns that position. It is not
/// the start of a segment, and what was written before it may be gone.
///
/// # Errors
/// [`WalStreamError::SlotExists`], [`WalStreamError::SlotUnusable`], [`WalStreamError::Session`].
pub async fn create_slot(session: &mut Session, slot: &SlotName) -> Result<Lsn, WalStreamError> {
    let sql = format!("SELECT lsn FROM pg_catalog.pg_create_physical_replication_slot('{slot}', true)");
    let row = first_row(session, "make the replication slot", &sql).await?;
    let lsn = row.and_then(|row| row.into_iter().next().flatten()).unwrap_or_default();
    lsn.parse().map_err(|_| WalStreamError::protocol(&lsn))
}

/// Drops a slot that is not in use.
///
/// # Errors
/// [`WalStreamError::SlotActive`], [`WalStreamError::NoSlot`], [`WalStreamError::Session`].
pub async fn drop_slot(session: &mut Session, slot: &SlotName) -> Result<(), WalStreamError> {
    let sql = format!("SELECT pg_catalog.pg_drop_replication_slot('{slot}')");
    first_row(session, "drop the replication slot", &sql).await.map(drop)
}

/// What tells how long the server can hold WAL for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerWal {
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Up to where WAL is written durably; on a standby, received or replayed.
    pub end: Option<Lsn>,
    /// `max_slot_wal_keep_size`: how far a slot may fall behind before it is lost. `None`: no limit but the disk.
    pub slot_limit: Option<ByteCount>,
    /// Size of all files in `pg_wal`; `None` if the role may not see them (`pg_monitor` may).
    pub pg_wal: Option<ByteCount>,
    /// Whether `synchronous_standby_names` names us: then commits wait for our reports.
    pub synchronous: bool,
}

/// Asks for [`ServerWal`], for a receiver that goes by `application_name`. The session must be one for SQL.
///
/// # Errors
/// [`WalStreamError::Session`].
pub async fn server_wal(session: &mut Session, application_name: &str) -> Result<ServerWal, WalStreamError> {
    let doing = "ask how much WAL the server holds";
    let sql = "SELECT pg_catalog.pg_is_in_recovery(), \
        CASE WHEN pg_catalog.pg_is_in_recovery() \
             THEN GREATEST(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn()) \
             ELSE pg_catalog.pg_current_wal_flush_lsn() END, \
        (SELECT setting FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) 'max_slot_wal_keep_size'), \
        pg_catalog.current_setting('synchronous_standby_names'), \
        pg_catalog.has_function_privilege('pg_catalog.pg_ls_waldir()', 'execute')";
    let mut values = first_row(session, doing, sql).await?.unwrap_or_default().into_iter();
    let mut next = || values.next().flatten().unwrap_or_default();
    let (in_recovery, end, limit, names, may_list) = (next() == "t", next(), next(), next(), next() == "t");
    let mut pg_wal = None;
    if may_list {
        let sum = session.query_one_text("SELECT pg_catalog.sum(size) FROM pg_catalog.pg_ls_waldir()").await;
        pg_wal = sum.map_err(asked(doing))?.and_then(|text| text.parse().ok()).map(ByteCount::from_bytes);
    }
    Ok(ServerWal {
        in_recovery,
        end: end.parse().ok(),
        // In MiB; -1 is no limit.
        slot_limit: limit.parse().ok().map(ByteCount::from_mib),
        pg_wal,
        synchronous: names_standby(&names, application_name),
    })
}

/// Whether a value of `synchronous_standby_names` names this standby: the grammar of `syncrep_gram.y`, compared without
/// regard to case (`pg_strcasecmp`).
fn names_standby(setting: &str, application_name: &str) -> bool {
    let words = words(setting);
    // `FIRST`, `ANY` and the number stand before the bracket.
    let begin = words.iter().position(|word| *word == Word::Bracket).map_or(0, |bracket| bracket + 1);
    words.iter().skip(begin).any(|word| match word {
        Word::Name(name) => name.eq_ignore_ascii_case(application_name),
        Word::Star => true,
        Word::Bracket => false,
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Word {
    Name(String),
    Star,
    Bracket,
}

fn words(setting: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut rest = setting.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '(' => words.push(Word::Bracket),
            '*' => words.push(Word::Star),
            '"' => {
                let mut name = String::new();
                while let Some(c) = rest.next() {
                    // Two quotes stand for one.
                    if c == '"' && rest.next_if_eq(&'"').is_none() {
                        break;
                    }
                    name.push(c);
                }
                words.push(Word::Name(name));
            }
            c if c == ')' || c == ',' || c.is_ascii_whitespace() => {}
            c => {
                let mut name = c.to_string();
                let ends = |c: &char| matches!(c, '(' | ')' | ',' | '"') || c.is_ascii_whitespace();
                while let Some(c) = rest.next_if(|c| !ends(c)) {
                    name.push(c);
                }
                words.push(Word::Name(name));
            }
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_server_takes_are_refused() {
        for text in ["", "A", "a-b", "a b", "a\"b", "ä", &"a".repeat(64)] {
            assert!(text.parse::<SlotName>().is_err(), "{text}");
        }
        assert_eq!("lifeboat_1".parse::<SlotName>().unwrap().as_str(), "lifeboat_1");
    }

    #[test]
    fn the_names_of_synchronous_standbys_are_read_as_the_server_reads_them() {
        for (setting, name, expected) in [
            ("", "lifeboat", false),
            ("lifeboat", "lifeboat", true),
            ("other, Lifeboat", "lifeboat", true),
            ("lifeboats", "lifeboat", false),
            ("*", "lifeboat", true),
            ("FIRST 1 (a, b)", "first", false),
            ("ANY 2 (a,lifeboat)", "lifeboat", true),
            ("2 (a, b)", "2", false),
            ("ANY 1 (\"life boat\", \"q\"\"q\")", "life boat", true),
            ("ANY 1 (\"life boat\", \"q\"\"q\")", "q\"q", true),
            ("any 1(lifeboat)", "any", false),
            ("first", "first", true),
        ] {
            assert_eq!(names_standby(setting, name), expected, "{setting} {name}");
        }
    }
}
