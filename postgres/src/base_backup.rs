//! A base backup by the replication protocol, on PostgreSQL 13 to 18.
//!
//! Three connections to one server: SQL (facts, second looks at pages), a replication session that only holds a
//! temporary slot (so that the server keeps the WAL of the backup until it has been sent), and the one that runs
//! `BASE_BACKUP`. Source: PostgreSQL manual, section "Streaming Replication Protocol"; `basebackup_copy.c`.

use std::collections::VecDeque;

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use lifeboat_vocabulary::{
    ByteCount, EntryKind, FileEntry, FileNumber, Lsn, RelativePath, Tablespace, TimelineId, WalPosition,
};

use crate::manifest_lines::ManifestLines;
use crate::message::{BackendMessage, ServerMessage};
use crate::server_facts::{ServerFacts, quoted};
use crate::session::Session;
use crate::settings::{ConnectionSettings, Purpose};
use crate::source::{BackupEnd, BackupSource, BackupStart, PageChecks, SourceEvent};
use crate::source_error::SourceError;
use crate::tar::{TarEvent, TarKind, TarParser};

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
    /// Goes into `backup_label`; letters, digits, blanks and punctuation.
    pub label: String,
    /// The checkpoint at the start.
    pub checkpoint: BackupCheckpoint,
    /// The most the server sends, in **kB per second** (32 to 1048576).
    pub max_rate: Option<u32>,
}

/// Members of a data directory that belong to the running server and not to a copy. The server leaves out most of them
/// itself; signal files and leftovers of a standby come through.
const NOT_COPIED: [&str; 10] = [
    "backup_label.old",
    "backup_manifest",
    "backup_manifest.tmp",
    "postmaster.opts",
    "postmaster.pid",
    "recovery.done",
    "recovery.signal",
    "standby.signal",
    "tablespace_map",
    "tablespace_map.old",
];

fn is_copied(path: &RelativePath) -> bool {
    !NOT_COPIED.iter().any(|name| name.as_bytes() == path.as_bytes())
}

/// Which part of the stream comes now.
#[derive(Debug)]
enum Phase {
    /// The position at which the backup starts.
    Start,
    /// The tablespaces.
    Tablespaces,
    /// Archives, and the manifest.
    Data,
    /// The position at which it stopped.
    Stop,
    /// All is said.
    Over,
}

/// The member of an archive that comes now.
#[derive(Debug)]
struct Current {
    number: FileNumber,
    offset: u64,
}

/// A running base backup.
pub struct ReplicationSource {
    main: Session,
    sql: Session,
    _slot: Session,
    facts: ServerFacts,
    phase: Phase,
    start: Option<WalPosition>,
    stop: Option<WalPosition>,
    tablespaces: Vec<Tablespace>,
    estimated: u64,
    /// Where archives of PostgreSQL 13 and 14 belong, in order: `None` is the data directory.
    order: VecDeque<Option<u32>>,
    archive: Archive,
    next_file: u32,
    current: Option<Current>,
    events: VecDeque<SourceEvent>,
    damaged: Vec<String>,
    checksum_error: bool,
}

enum Archive {
    None,
    Tar { tablespace: Option<u32>, parser: TarParser },
    Manifest(ManifestLines),
}

impl ReplicationSource {
    /// Opens the connections, makes sure that the server keeps the WAL, and asks for the backup. The first event comes
    /// after the checkpoint.
    ///
    /// # Errors
    /// [`SourceError`], with what to do about it.
    pub async fn start(settings: &ConnectionSettings, options: &BaseBackupOptions) -> Result<Self, SourceError> {
        let mut sql = Session::connect(settings, Purpose::Sql).await.map_err(SourceError::session("connect for SQL"))?;
        let version = sql.server_version_num();
        if version < 130_000 {
            return Err(SourceError::TooOld { major: version / 10_000 });
        }
        let mut quiet = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0".to_owned();
        if version >= 140_000 {
            quiet.push_str("; SET idle_session_timeout = 0");
        }
        sql.query(&quiet).await.map_err(SourceError::session("set up the SQL session"))?;
        let facts = ServerFacts::ask(&mut sql).await.map_err(SourceError::session("ask the server for facts"))?;
        let slot = reserve_wal(settings, &sql).await?;
        let mut main = replication(settings, "connect for the backup").await?;
        same_host(&sql, &main)?;
        let command = command(version, options, page_checks(&facts));
        main.send_query(&command).await.map_err(SourceError::session("ask for a base backup"))?;
        Ok(Self {
            main,
            sql,
            _slot: slot,
            facts,
            phase: Phase::Start,
            start: None,
            stop: None,
            tablespaces: Vec::new(),
            estimated: 0,
            order: VecDeque::new(),
            archive: Archive::None,
            next_file: 0,
            current: None,
            events: VecDeque::new(),
            damaged: Vec::new(),
            checksum_error: false,
        })
    }

    /// What the server said of itself.
    #[must_use]
    pub fn facts(&self) -> &ServerFacts {
        &self.facts
    }

    async fn step(&mut self) -> Result<(), SourceError> {
        let message = self.main.next_message().await.map_err(SourceError::session("receive the backup"))?;
        match (message, &self.phase) {
            (BackendMessage::Notice(notice), _) => self.notice(&notice),
            (BackendMessage::Error(message), _) => return self.error(message),
            (BackendMessage::RowDescription(_), _) => {}
            (BackendMessage::DataRow(row), Phase::Start) => self.start = Some(position(&row)?),
            (BackendMessage::DataRow(row), Phase::Tablespaces) => self.tablespace(&row)?,
            (BackendMessage::DataRow(row), Phase::Stop) => self.stop = Some(position(&row)?),
            (BackendMessage::CommandComplete(_), Phase::Start) => self.phase = Phase::Tablespaces,
            (BackendMessage::CommandComplete(_), Phase::Tablespaces) => self.started()?,
            (BackendMessage::CommandComplete(_), Phase::Stop) => {}
            (BackendMessage::CopyOut, Phase::Data | Phase::Stop) => self.copy_begins(),
            (BackendMessage::CopyData(bytes), Phase::Data) => self.copy_data(bytes)?,
            (BackendMessage::CopyDone, Phase::Data) => self.copy_ends()?,
            (BackendMessage::ReadyForQuery, Phase::Stop) => self.finished()?,
            (other, phase) => return Err(SourceError::protocol((other, phase))),
        }
        Ok(())
    }

    fn notice(&mut self, notice: &ServerMessage) {
        let text = &notice.message;
        if text.contains("checksum verification failed") || text.contains("checksum mismatch") {
            if self.damaged.len() < 1024 {
                self.damaged.push(text.clone());
            }
        } else if notice.severity == "WARNING" {
            self.events.push_back(SourceEvent::Finding(text.clone()));
        } else {
            tracing::debug!(%notice, "the server says");
        }
    }

    /// Checksum failures are reported at the very end, after everything was sent: the backup is whole and damaged.
    fn error(&mut self, message: ServerMessage) -> Result<(), SourceError> {
        if message.code == "XX001" && self.stop.is_some() {
            self.checksum_error = true;
            return Ok(());
        }
        Err(SourceError::server("take a base backup", message))
    }

    fn tablespace(&mut self, row: &[Option<Bytes>]) -> Result<(), SourceError> {
        let (oid, location, size) = (cell(row, 0), cell(row, 1), cell(row, 2));
        self.estimated += size.and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0) * 1024;
        match (oid, location) {
            (None, _) => self.order.push_back(None),
            (Some(oid), Some(location)) => {
                let oid = oid.parse().map_err(|_| SourceError::protocol(oid))?;
                self.order.push_back(Some(oid));
                self.tablespaces.push(Tablespace { oid, location: location.to_owned() });
            }
            (Some(oid), None) => return Err(SourceError::protocol(oid)),
        }
        Ok(())
    }

    fn started(&mut self) -> Result<(), SourceError> {
        let position = self.start.ok_or_else(|| SourceError::protocol("no start position"))?;
        self.phase = Phase::Data;
        self.events.push_back(SourceEvent::Started(BackupStart {
            position,
            tablespaces: self.tablespaces.clone(),
            estimated: (self.estimated > 0).then_some(ByteCount::from_bytes(self.estimated)),
            page_checks: page_checks(&self.facts),
        }));
        Ok(())
    }

    fn is_new_framing(&self) -> bool {
        self.facts.version_num >= 150_000
    }

    /// Up to PostgreSQL 14 every archive has a copy of its own, and the manifest comes in the last one.
    fn copy_begins(&mut self) {
        self.phase = Phase::Data;
        if !self.is_new_framing() {
            self.archive = match self.order.pop_front() {
                Some(tablespace) => Archive::Tar { tablespace, parser: TarParser::default() },
                None => Archive::Manifest(ManifestLines::default()),
            };
        }
    }

    fn copy_data(&mut self, mut bytes: Bytes) -> Result<(), SourceError> {
        if !self.is_new_framing() {
            return self.content(bytes);
        }
        if bytes.is_empty() {
            return Err(SourceError::protocol("an empty message in the copy"));
        }
        match bytes.get_u8() {
            b'd' => self.content(bytes),
            b'n' => {
                self.archive_ends()?;
                let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                let stem = name.strip_suffix(b".tar").unwrap_or(name);
                let tablespace = match stem {
                    b"base" => None,
                    oid => {
                        let oid = std::str::from_utf8(oid).ok().and_then(|oid| oid.parse().ok());
                        Some(oid.ok_or_else(|| SourceError::protocol(String::from_utf8_lossy(name)))?)
                    }
                };
                self.archive = Archive::Tar { tablespace, parser: TarParser::default() };
                Ok(())
            }
            b'm' => {
                self.archive_ends()?;
                self.archive = Archive::Manifest(ManifestLines::default());
                Ok(())
            }
            b'p' => Ok(()),
            other => Err(SourceError::protocol(other)),
        }
    }

    fn content(&mut self, bytes: Bytes) -> Result<(), SourceError> {
        match &mut self.archive {
            Archive::None => Err(SourceError::protocol("content before the first archive")),
            Archive::Manifest(lines) => {
                let events = &mut self.events;
                let listed = |file: crate::ManifestFile| {
                    if is_copied(&file.path) {
                        events.push_back(SourceEvent::ManifestFile(file));
                    }
                };
                Ok(lines.feed(&bytes, listed)?)
            }
            Archive::Tar { tablespace, parser } => {
                let tablespace = *tablespace;
                parser.feed(bytes);
                let fault = |source| SourceError::Tar { archive: archive_name(tablespace), source };
                while let Archive::Tar { parser, .. } = &mut self.archive {
                    let Some(event) = parser.next_event().map_err(fault)? else { break };
                    self.member(tablespace, event)?;
                }
                Ok(())
            }
        }
    }

    fn member(&mut self, tablespace: Option<u32>, event: TarEvent) -> Result<(), SourceError> {
        match event {
            TarEvent::Begin(header) => {
                let name = match tablespace {
                    None => header.name.strip_prefix(b"./").unwrap_or(&header.name).to_vec(),
                    Some(oid) => [format!("pg_tblspc/{oid}/").as_bytes(), &header.name].concat(),
                };
                let path = RelativePath::new(&name).map_err(|error| SourceError::protocol(error.to_string()))?;
                let kind = match header.kind {
                    TarKind::File => EntryKind::File,
                    TarKind::Directory => EntryKind::Directory,
                    TarKind::Symlink(target) => {
                        let target = String::from_utf8_lossy(&target).into_owned();
                        let text = format!("the link {path} -> {target} is not part of the backup");
                        self.events.push_back(SourceEvent::Finding(text));
                        return Ok(());
                    }
                };
                if !is_copied(&path) {
                    return Ok(());
                }
                let number = FileNumber(self.next_file);
                self.next_file = self.next_file.checked_add(1).ok_or_else(|| SourceError::protocol("2^32 files"))?;
                if kind == EntryKind::File {
                    self.current = Some(Current { number, offset: 0 });
                }
                let TarFields { mode, size, modified } = TarFields::of(&header);
                let entry = FileEntry { path, kind, mode, size, modified };
                self.events.push_back(SourceEvent::FileBegin(number, entry));
            }
            TarEvent::Data(bytes) => {
                if let Some(current) = &mut self.current {
                    let (file, offset) = (current.number, current.offset);
                    current.offset += bytes.len() as u64;
                    self.events.push_back(SourceEvent::Data { file, offset, bytes });
                }
            }
            TarEvent::End => {
                if let Some(Current { number, offset }) = self.current.take() {
                    self.events.push_back(SourceEvent::FileEnd { file: number, size: offset });
                }
            }
        }
        Ok(())
    }

    fn archive_ends(&mut self) -> Result<(), SourceError> {
        match std::mem::replace(&mut self.archive, Archive::None) {
            Archive::None => Ok(()),
            Archive::Tar { tablespace, mut parser } => {
                parser.finish().map_err(|source| SourceError::Tar { archive: archive_name(tablespace), source })
            }
            Archive::Manifest(lines) => Ok(lines.finish()?),
        }
    }

    fn copy_ends(&mut self) -> Result<(), SourceError> {
        self.archive_ends()?;
        self.phase = Phase::Stop;
        Ok(())
    }

    fn finished(&mut self) -> Result<(), SourceError> {
        let position = self.stop.ok_or_else(|| SourceError::protocol("no stop position"))?;
        if self.checksum_error && self.damaged.is_empty() {
            self.damaged.push("the server found damaged pages and did not say which".to_owned());
        }
        self.phase = Phase::Over;
        let damaged = std::mem::take(&mut self.damaged);
        self.events.push_back(SourceEvent::Finished(BackupEnd { position, damaged }));
        Ok(())
    }
}

struct TarFields {
    mode: u32,
    size: u64,
    modified: i64,
}

impl TarFields {
    fn of(header: &crate::tar::TarHeader) -> Self {
        Self { mode: header.mode, size: header.size, modified: header.modified }
    }
}

#[async_trait]
impl BackupSource for ReplicationSource {
    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            if matches!(self.phase, Phase::Over) {
                return Err(SourceError::protocol("a question after the end"));
            }
            self.step().await?;
        }
    }

    async fn reread_page(&mut self, path: &RelativePath, offset: u64) -> Result<Option<Bytes>, SourceError> {
        if !self.facts.may_reread {
            return Ok(None);
        }
        let path = quoted(&path.to_string());
        let sql = format!("SELECT encode(pg_read_binary_file({path}, {offset}, 8192, true), 'hex')");
        let hex = self.sql.query_one_text(&sql).await.map_err(SourceError::session("read a page again"))?;
        let decoded = hex.and_then(|hex| data_encoding::HEXLOWER.decode(hex.as_bytes()).ok());
        Ok(decoded.map(Bytes::from))
    }
}

fn archive_name(tablespace: Option<u32>) -> String {
    tablespace.map_or_else(|| "the data directory".to_owned(), |oid| format!("tablespace {oid}"))
}

fn page_checks(facts: &ServerFacts) -> PageChecks {
    match (facts.setting("data_checksums"), facts.may_reread) {
        (Some("on"), true) => PageChecks::Receiver,
        (Some("off"), _) => PageChecks::None,
        _ => PageChecks::Server,
    }
}

async fn replication(settings: &ConnectionSettings, doing: &'static str) -> Result<Session, SourceError> {
    let settings = settings.clone().with_option("wal_sender_timeout", "0");
    Session::connect(&settings, Purpose::PhysicalReplication).await.map_err(SourceError::session(doing))
}

fn same_host(first: &Session, second: &Session) -> Result<(), SourceError> {
    if first.host() == second.host() {
        return Ok(());
    }
    Err(SourceError::DifferentHosts { first: first.host().to_owned(), second: second.host().to_owned() })
}

/// A temporary slot: the server keeps all WAL from its last checkpoint on while this session lives.
async fn reserve_wal(settings: &ConnectionSettings, sql: &Session) -> Result<Session, SourceError> {
    let mut session = replication(settings, "connect to reserve WAL").await?;
    same_host(sql, &session)?;
    // The name of a temporary slot must be free on the whole server: the process id of its session is.
    let name = format!("lifeboat_backup_{}", session.process_id());
    let command = format!("CREATE_REPLICATION_SLOT \"{name}\" TEMPORARY PHYSICAL RESERVE_WAL");
    match session.query(&command).await {
        Ok(_) => Ok(session),
        Err(crate::SessionError::Server(message)) => {
            Err(SourceError::server("reserve WAL with a temporary replication slot", *message))
        }
        Err(source) => Err(SourceError::Session { doing: "reserve WAL with a temporary replication slot", source }),
    }
}

/// The command, in the grammar of the server's version. WAL is never waited for: the slot keeps it.
fn command(version: u32, options: &BaseBackupOptions, checks: PageChecks) -> String {
    let label = options.label.replace('\'', "''");
    let mut parts: Vec<String> = Vec::new();
    if version >= 150_000 {
        let checkpoint = match options.checkpoint {
            BackupCheckpoint::Fast => "fast",
            BackupCheckpoint::Spread => "spread",
        };
        parts.push(format!("LABEL '{label}', PROGRESS, CHECKPOINT '{checkpoint}', WAL, WAIT 0, TABLESPACE_MAP"));
        parts.push("MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C'".to_owned());
        parts.extend(options.max_rate.map(|rate| format!("MAX_RATE {rate}")));
        if checks != PageChecks::Server {
            parts.push("VERIFY_CHECKSUMS 0".to_owned());
        }
        return format!("BASE_BACKUP ( {} )", parts.join(", "));
    }
    parts.push(format!("LABEL '{label}' PROGRESS"));
    if options.checkpoint == BackupCheckpoint::Fast {
        parts.push("FAST".to_owned());
    }
    parts.push("WAL NOWAIT".to_owned());
    parts.extend(options.max_rate.map(|rate| format!("MAX_RATE {rate}")));
    parts.push("TABLESPACE_MAP".to_owned());
    if checks != PageChecks::Server {
        parts.push("NOVERIFY_CHECKSUMS".to_owned());
    }
    parts.push("MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'".to_owned());
    format!("BASE_BACKUP {}", parts.join(" "))
}

fn cell(row: &[Option<Bytes>], index: usize) -> Option<&str> {
    std::str::from_utf8(row.get(index)?.as_ref()?).ok()
}

fn position(row: &[Option<Bytes>]) -> Result<WalPosition, SourceError> {
    let lsn: Option<Lsn> = cell(row, 0).and_then(|text| text.parse().ok());
    let timeline = cell(row, 1).and_then(|text| text.parse().ok()).and_then(TimelineId::new);
    match (timeline, lsn) {
        (Some(timeline), Some(lsn)) => Ok(WalPosition { timeline, lsn }),
        _ => Err(SourceError::protocol(row)),
    }
}
