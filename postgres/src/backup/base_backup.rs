//! A base backup by the replication protocol, on PostgreSQL 13 to 18.
//!
//! Three connections to one server: SQL (facts, second looks at pages), a replication session that only holds a
//! temporary slot (so that the server keeps the WAL of the backup until it has been sent), and the one that runs
//! `BASE_BACKUP`. Source: PostgreSQL manual, section "Streaming Replication Protocol"; `basebackup.c`.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use lifeboat_vocabulary::RelativePath;

use crate::backup::config_files::quoted;
use crate::backup::error::SourceError;
use crate::backup::facts::ServerFacts;
use crate::backup::page_checksum::PAGE_BYTES;
use crate::backup::source::{BackupEnd, BackupSource, PageChecks, SourceEvent};
use crate::backup::stream::{BackupStream, Framing};
use crate::session::commands::Session;
use crate::session::error::SessionError;
use crate::session::settings::{ConnectionSettings, Purpose};

/// How long the session that keeps the WAL may take to answer whether it is still there.
const ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a question may take: asking for the size of all databases walks through all their files.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(900);

/// How the checkpoint at the start of a backup is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupCheckpoint {
    /// At once.
    Fast,
    /// Spread over time.
    Spread,
}

/// What to ask the server for.
#[derive(Clone, Debug)]
pub struct BaseBackupOptions {
    /// Goes into `backup_label`, as one line of at most 1024 bytes.
    pub label: String,
    /// The checkpoint at the start.
    pub checkpoint: BackupCheckpoint,
    /// The most the server sends, in **kB per second** (32 to 1048576).
    pub max_rate: Option<u32>,
}

/// A running base backup.
pub struct ReplicationSource {
    settings: ConnectionSettings,
    main: Session,
    /// Lost, or not needed any more, if `None`.
    sql: Option<Session>,
    /// Holds the slot that keeps the WAL; `None` once the backup is over.
    slot: Option<Session>,
    facts: ServerFacts,
    stream: BackupStream,
    /// The last word, while findings are reported before it.
    end: Option<BackupEnd>,
}

impl ReplicationSource {
    /// Opens the connections, makes sure that the server keeps the WAL, and asks for the backup. The first event comes
    /// after the checkpoint.
    ///
    /// # Errors
    /// [`SourceError`], with what to do about it.
    pub async fn start(settings: &ConnectionSettings, options: &BaseBackupOptions) -> Result<Self, SourceError> {
        let mut sql = sql_session(settings).await?;
        let version = sql.server_version_num();
        if version < 130_000 {
            return Err(SourceError::TooOld { major: version / 10_000 });
        }
        let facts = ServerFacts::ask(&mut sql).await.map_err(SourceError::session("ask the server for facts"))?;
        refuse_tablespaces_inside(&mut sql).await?;
        let slot = reserve_wal(settings, &sql).await?;
        let mut main = replication(settings, &sql, "connect for the backup").await?;
        let checks = page_checks(&facts);
        let command = command(version, options, checks);
        main.send_query(&command).await.map_err(SourceError::session("ask for a base backup"))?;
        let framing = if version >= 150_000 { Framing::OneCopy } else { Framing::CopyEach };
        Ok(Self {
            settings: settings.clone(),
            main,
            sql: Some(sql),
            slot: Some(slot),
            facts,
            stream: BackupStream::new(framing, checks),
            end: None,
        })
    }

    /// What the server said of itself.
    #[must_use]
    pub fn facts(&self) -> &ServerFacts {
        &self.facts
    }

    /// Everything has come. Whether the slot was there to the end is worth telling: without it the WAL could have been
    /// removed, and next time it may be. The server itself has made sure that this backup has all of it.
    async fn ended(&mut self, end: BackupEnd) {
        if let Some(mut slot) = self.slot.take() {
            slot.set_query_timeout(ALIVE_TIMEOUT);
            match slot.query("IDENTIFY_SYSTEM").await {
                Ok(_) => slot.close().await,
                Err(error) => self.stream.finding(format!(
                    "the session that kept the WAL of this backup was lost on the way ({error}); the backup has all of its WAL"
                )),
            }
        }
        self.end = Some(end);
    }

    /// The databases that there are now, by OID. Those that are being dropped, or whose creation or end was cut short, do not
    /// count: their directories come and go.
    ///
    /// # Errors
    /// [`SourceError`] if the server does not answer.
    pub async fn databases(&mut self) -> Result<BTreeSet<u32>, SourceError> {
        let question = "SELECT pg_catalog.string_agg(oid::pg_catalog.text, ',') FROM pg_catalog.pg_database \
            WHERE datconnlimit OPERATOR(pg_catalog.<>) '-2'";
        let answer = self.ask(question).await?;
        let oids = answer.map_err(SourceError::session("ask for databases"))?.unwrap_or_default();
        Ok(oids.split(',').filter_map(|oid| oid.parse().ok()).collect())
    }

    /// Asks a question, and once more in a new session if this one was lost.
    ///
    /// # Errors
    /// [`SourceError`] if there is no session to be had; what the server answers is for the caller to judge.
    async fn ask(&mut self, question: &str) -> Result<Result<Option<String>, SessionError>, SourceError> {
        let answer = self.sql().await?.query_one_text(question).await;
        if !answer.as_ref().is_err_and(is_lost) {
            return Ok(answer);
        }
        self.sql = None;
        Ok(self.sql().await?.query_one_text(question).await)
    }

    /// The session for SQL, opened again if it was lost in the hours that a backup may take.
    async fn sql(&mut self) -> Result<&mut Session, SourceError> {
        let session = match self.sql.take() {
            Some(session) => session,
            None => {
                let session = sql_session(&self.settings).await?;
                same_host(&self.main, &session)?;
                session
            }
        };
        Ok(self.sql.insert(session))
    }
}

#[async_trait]
impl BackupSource for ReplicationSource {
    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        loop {
            if let Some(event) = self.stream.pop() {
                return Ok(event);
            }
            if let Some(end) = self.end.take() {
                return Ok(SourceEvent::Finished(end));
            }
            if self.slot.is_none() {
                return Err(SourceError::protocol("nothing after the end"));
            }
            let message = self.main.next_message().await.map_err(SourceError::session("receive the backup"))?;
            if let Some(end) = self.stream.push(message)? {
                self.ended(end).await;
            }
        }
    }

    async fn reread_page(&mut self, path: &RelativePath, offset: u64) -> Result<Option<Bytes>, SourceError> {
        if !self.facts.may_reread {
            return Ok(None);
        }
        let name = quoted(&path.to_string());
        let question = format!(
            "SELECT pg_catalog.encode(pg_catalog.pg_read_binary_file({name}, {offset}, {PAGE_BYTES}, true), 'hex')"
        );
        let answer = self.ask(&question).await?;
        let hex = answer.map_err(SourceError::session("read a page again"))?.unwrap_or_default();
        let page = HEXLOWER.decode(hex.as_bytes()).map_err(|error| SourceError::protocol(error.to_string()))?;
        // Less than a page: the file is gone or was cut, and with it the page.
        Ok((page.len() == PAGE_BYTES).then(|| Bytes::from(page)))
    }
}

/// Whether the session cannot be used any more.
fn is_lost(error: &SessionError) -> bool {
    error.server_message().is_none_or(|message| message.severity == "FATAL" || message.severity == "PANIC")
}

fn page_checks(facts: &ServerFacts) -> PageChecks {
    match (facts.setting("data_checksums"), facts.setting("block_size"), facts.may_reread) {
        (Some("off"), _, _) => PageChecks::None,
        (Some("on"), Some("8192"), true) => PageChecks::Receiver,
        _ => PageChecks::Server,
    }
}

/// A session without any of the limits that would end it while it waits.
async fn sql_session(settings: &ConnectionSettings) -> Result<Session, SourceError> {
    let mut session =
        Session::connect(settings, Purpose::Sql).await.map_err(SourceError::session("connect for SQL"))?;
    session.set_query_timeout(QUESTION_TIMEOUT);
    let mut limits = "SET statement_timeout = 0; SET lock_timeout = 0".to_owned();
    if session.server_version_num() >= 140_000 {
        limits.push_str("; SET idle_session_timeout = 0");
    }
    session.query(&limits).await.map_err(SourceError::session("set up the SQL session"))?;
    Ok(session)
}

async fn replication(
    settings: &ConnectionSettings,
    sql: &Session,
    doing: &'static str,
) -> Result<Session, SourceError> {
    // The server notices that we are gone only by TCP: a base backup knows no other time limit.
    let mut options =
        vec![("wal_sender_timeout", "0"), ("tcp_keepalives_idle", "60"), ("tcp_keepalives_interval", "10")];
    if sql.server_version_num() >= 140_000 {
        options.push(("idle_session_timeout", "0"));
    }
    let add = |settings: ConnectionSettings, (name, value): (&str, &str)| settings.with_option(name, value);
    let settings = options.into_iter().fold(settings.clone(), add);
    let session =
        Session::connect(&settings, Purpose::PhysicalReplication).await.map_err(SourceError::session(doing))?;
    same_host(sql, &session)?;
    Ok(session)
}

fn same_host(first: &Session, second: &Session) -> Result<(), SourceError> {
    if first.host() == second.host() {
        return Ok(());
    }
    Err(SourceError::DifferentHosts { first: first.host().to_owned(), second: second.host().to_owned() })
}

/// A temporary slot: the server keeps all WAL from its last checkpoint on while this session lives.
async fn reserve_wal(settings: &ConnectionSettings, sql: &Session) -> Result<Session, SourceError> {
    let mut session = replication(settings, sql, "connect to reserve WAL").await?;
    // The name of a temporary slot must be free on the whole server: the process id of its session is.
    let name = format!("lifeboat_backup_{}", session.process_id());
    let command = format!("CREATE_REPLICATION_SLOT \"{name}\" TEMPORARY PHYSICAL RESERVE_WAL");
    let doing = "reserve WAL with a temporary replication slot";
    session.query(&command).await.map_err(SourceError::session(doing))?;
    Ok(session)
}

/// Up to PostgreSQL 15 the server takes only links for tablespaces (`xlog.c`, `do_pg_backup_start`), while a directory in
/// place of one (`allow_in_place_tablespaces`) is not part of the data directory's archive either.
async fn refuse_tablespaces_inside(sql: &mut Session) -> Result<(), SourceError> {
    let version = sql.server_version_num();
    if version >= 160_000 {
        return Ok(());
    }
    let question = "SELECT pg_catalog.string_agg(spcname::pg_catalog.text, ', ') FROM pg_catalog.pg_tablespace \
        WHERE spcname OPERATOR(pg_catalog.<>) ALL (ARRAY['pg_default', 'pg_global']::pg_catalog.name[]) \
        AND NOT pg_catalog.starts_with(pg_catalog.pg_tablespace_location(oid), '/')";
    let names = sql.query_one_text(question).await.map_err(SourceError::session("ask for tablespaces"))?;
    names.map_or(Ok(()), |names| Err(SourceError::TablespaceInside { major: version / 10_000, names }))
}

/// The command, in the grammar of the server's version. WAL is never waited for: the slot keeps it.
fn command(version: u32, options: &BaseBackupOptions, checks: PageChecks) -> String {
    let one_line = |c: char| if c.is_control() { ' ' } else { c };
    let label = options.label.chars().map(one_line).collect::<String>().replace('\'', "''");
    let rate = options.max_rate.map(|rate| format!("MAX_RATE {rate}"));
    let mut parts = vec![format!("LABEL '{label}'"), "PROGRESS".to_owned()];
    let (fast, no_wait, no_verify) = if version >= 150_000 {
        ("CHECKPOINT 'fast'", "WAIT 0", "VERIFY_CHECKSUMS 0")
    } else {
        ("FAST", "NOWAIT", "NOVERIFY_CHECKSUMS")
    };
    if options.checkpoint == BackupCheckpoint::Fast {
        parts.push(fast.to_owned());
    }
    parts.extend(["WAL", no_wait, "TABLESPACE_MAP"].map(str::to_owned));
    parts.extend(rate);
    if checks != PageChecks::Server {
        parts.push(no_verify.to_owned());
    }
    parts.extend(["MANIFEST 'yes'", "MANIFEST_CHECKSUMS 'CRC32C'"].map(str::to_owned));
    if version >= 150_000 {
        format!("BASE_BACKUP ({})", parts.join(", "))
    } else {
        format!("BASE_BACKUP {}", parts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_in_the_grammar_of_the_version() {
        let fast = BaseBackupOptions {
            label: "it's\nmine".to_owned(),
            checkpoint: BackupCheckpoint::Fast,
            max_rate: Some(32),
        };
        let spread = BaseBackupOptions { label: "l".to_owned(), checkpoint: BackupCheckpoint::Spread, max_rate: None };
        for (version, options, checks, expected) in [
            (
                140_023,
                &fast,
                PageChecks::Receiver,
                "BASE_BACKUP LABEL 'it''s mine' PROGRESS FAST WAL NOWAIT TABLESPACE_MAP MAX_RATE 32 NOVERIFY_CHECKSUMS \
                 MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'",
            ),
            (
                130_000,
                &spread,
                PageChecks::Server,
                "BASE_BACKUP LABEL 'l' PROGRESS WAL NOWAIT TABLESPACE_MAP MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'",
            ),
            (
                150_000,
                &fast,
                PageChecks::None,
                "BASE_BACKUP (LABEL 'it''s mine', PROGRESS, CHECKPOINT 'fast', WAL, WAIT 0, TABLESPACE_MAP, MAX_RATE 32, \
                 VERIFY_CHECKSUMS 0, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C')",
            ),
        ] {
            assert_eq!(command(version, options, checks), expected);
        }
    }
}
