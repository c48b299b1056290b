//! What a server sends after `BASE_BACKUP`, understood message by message, without any I/O.
//!
//! Order: start position; tablespaces; archives with the data directory as the last one, then the manifest; stop position.
//! Source: PostgreSQL manual, section "Streaming Replication Protocol", `BASE_BACKUP`; `basebackup_copy.c`.

use std::collections::{BTreeSet, VecDeque};

use bytes::{Buf, Bytes};
use lifeboat_vocabulary::{
    ByteCount, EntryKind, FileEntry, FileNumber, Lsn, RelativePath, Tablespace, TimelineId, WalPosition,
};

use crate::backup::error::SourceError;
use crate::backup::left_out::{LeftOut, MissingPart, Warned, judge_warning, part_of};
use crate::backup::manifest_lines::ManifestLines;
use crate::backup::not_copied::belongs_to_a_copy;
use crate::backup::source::{BackupEnd, BackupStart, PageChecks, SourceEvent};
use crate::backup::tar::{TarEvent, TarHeader, TarKind, TarParser};
use crate::session::message::{BackendMessage, ServerMessage};

/// How many warnings of the server, and how many damaged pages, are reported one by one.
const TOLD_MAX: usize = 1000;
/// The most tablespaces that a cluster may have, and the longest path of one in **bytes** (`MAXPGPATH`).
const TABLESPACES_MAX: usize = 10_000;
const LOCATION_MAX: usize = 1024;
/// The most files, directories and links. What is kept for each while the backup runs has to fit into memory.
const FILES_MAX: u32 = 1 << 25;

/// How the archives are told apart in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Up to PostgreSQL 14: one copy for each archive, and one for the manifest.
    CopyEach,
    /// From 15 on: one copy for everything, in which the first byte of a message says what it is.
    OneCopy,
}

/// Which part of the stream comes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

enum Archive {
    None,
    Tar { tablespace: Option<u32>, parser: TarParser },
    Manifest(Box<ManifestLines>),
}

/// The file that comes now, unless it is one that is not passed on.
#[derive(Debug)]
struct Current {
    number: FileNumber,
    offset: u64,
}

/// The state of a running base backup.
pub(crate) struct BackupStream {
    framing: Framing,
    page_checks: PageChecks,
    phase: Phase,
    start: Option<WalPosition>,
    stop: Option<WalPosition>,
    tablespaces: Vec<Tablespace>,
    estimated: u64,
    /// The archives that have not begun, in order: `None` is the data directory.
    expected: VecDeque<Option<u32>>,
    archive: Archive,
    /// Whether the last file of the data directory has come.
    control_file: bool,
    manifest: bool,
    next_file: u32,
    files_max: u32,
    current: Option<Current>,
    events: VecDeque<SourceEvent>,
    /// What was reported already: the server warns when it estimates its size, and again when it sends.
    findings: BTreeSet<String>,
    /// Likewise.
    left_out: BTreeSet<LeftOut>,
    damaged: Vec<String>,
    damaged_untold: usize,
    checksum_error: bool,
}

impl BackupStream {
    pub(crate) fn new(framing: Framing, page_checks: PageChecks) -> Self {
        Self {
            framing,
            page_checks,
            phase: Phase::Start,
            start: None,
            stop: None,
            tablespaces: Vec::new(),
            estimated: 0,
            expected: VecDeque::new(),
            archive: Archive::None,
            control_file: false,
            manifest: false,
            next_file: 0,
            files_max: FILES_MAX,
            current: None,
            events: VecDeque::new(),
            findings: BTreeSet::new(),
            left_out: BTreeSet::new(),
            damaged: Vec::new(),
            damaged_untold: 0,
            checksum_error: false,
        }
    }

    /// What has been understood and not been told yet. The start comes first: a server that estimates its size may warn
    /// before.
    pub(crate) fn pop(&mut self) -> Option<SourceEvent> {
        if matches!(self.phase, Phase::Start | Phase::Tablespaces) { None } else { self.events.pop_front() }
    }

    /// Takes the server's next message. Returns how the backup ended, once it has; everything else is to be had from
    /// [`BackupStream::pop`], and should be before the next message is taken.
    pub(crate) fn push(&mut self, message: BackendMessage) -> Result<Option<BackupEnd>, SourceError> {
        match (message, self.phase) {
            (BackendMessage::Notice(notice), _) => self.notice(&notice),
            (BackendMessage::Error(message), _) => self.error(message)?,
            (BackendMessage::RowDescription(_), Phase::Start | Phase::Tablespaces | Phase::Stop) => {}
            (BackendMessage::DataRow(row), Phase::Start) => self.start = Some(position(&row)?),
            (BackendMessage::DataRow(row), Phase::Tablespaces) => self.tablespace(&row)?,
            (BackendMessage::DataRow(row), Phase::Stop) => self.stop = Some(position(&row)?),
            (BackendMessage::CommandComplete(_), Phase::Start) => self.phase = Phase::Tablespaces,
            (BackendMessage::CommandComplete(_), Phase::Tablespaces) => self.started()?,
            (BackendMessage::CommandComplete(_), Phase::Stop) => {}
            (BackendMessage::CopyOut, Phase::Data | Phase::Stop) => self.copy_begins(),
            (BackendMessage::CopyData(bytes), Phase::Data) => self.copy_data(bytes)?,
            (BackendMessage::CopyDone, Phase::Data) => {
                self.archive_ends()?;
                self.phase = Phase::Stop;
            }
            (BackendMessage::ReadyForQuery, Phase::Stop) => return self.finished().map(Some),
            (other, phase) => return Err(SourceError::protocol((other, phase))),
        }
        Ok(None)
    }

    /// Passes on something that an operator has to know, once; floods are cut.
    pub(crate) fn finding(&mut self, text: String) {
        if self.findings.len() < TOLD_MAX - 1 {
            if self.findings.insert(text.clone()) {
                self.events.push_back(SourceEvent::Finding(text));
            }
        } else if !self.findings.contains(&text) && self.findings.insert("...".to_owned()) {
            let last = "the server gave more warnings than are kept; its log has all of them".to_owned();
            self.events.push_back(SourceEvent::Finding(last));
        }
    }

    /// Passes on what is not in the backup, once. Beyond the bound, what the copy can do without makes room for data: that
    /// something is missing must not be lost among ten thousand links to log files.
    fn leave_out(&mut self, left_out: LeftOut) {
        if self.left_out.contains(&left_out) {
            return;
        }
        let (told, is_data) = (self.left_out.len(), left_out.part == MissingPart::Data);
        if told < TOLD_MAX || is_data && told < 2 * TOLD_MAX {
            self.left_out.insert(left_out.clone());
            self.events.push_back(SourceEvent::LeftOut(left_out));
        } else {
            self.finding("the server left out more than is told one by one; its log has all of it".to_owned());
        }
    }

    fn notice(&mut self, notice: &ServerMessage) {
        let text = &notice.message;
        // Only warnings of a backup count; notices and the server's debugging are for its log.
        if notice.severity != "WARNING" {
            tracing::debug!(%notice, "the server says");
            return;
        }
        match judge_warning(notice) {
            Warned::Damage if self.damaged.len() < TOLD_MAX => self.damaged.push(text.clone()),
            Warned::Damage => self.damaged_untold += 1,
            Warned::LeftOut(left_out) => self.leave_out(left_out),
            Warned::Said => self.finding(format!("the server warns: {text}")),
            Warned::DamageCount | Warned::OfTheServer => tracing::debug!(%notice, "the server says"),
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
        let kilobytes = size.and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0);
        self.estimated = self.estimated.saturating_add(kilobytes.saturating_mul(1024));
        if self.expected.len() >= TABLESPACES_MAX {
            return Err(SourceError::TooMuch { what: "tablespaces", limit: TABLESPACES_MAX as u64 });
        }
        match (oid, location) {
            (None, _) => self.expected.push_back(None),
            (Some(oid), Some(location)) => {
                let oid = oid.parse().map_err(|_| SourceError::protocol(oid))?;
                if location.len() > LOCATION_MAX {
                    return Err(SourceError::TooMuch {
                        what: "bytes of a tablespace's path",
                        limit: LOCATION_MAX as u64,
                    });
                }
                self.expected.push_back(Some(oid));
                // One that lies in the data directory itself is a plain directory there, and needs no link.
                if location.starts_with('/') {
                    self.tablespaces.push(Tablespace { oid, location: location.to_owned() });
                }
            }
            (Some(oid), None) => return Err(SourceError::protocol(oid)),
        }
        Ok(())
    }

    fn started(&mut self) -> Result<(), SourceError> {
        let position = self.start.ok_or(SourceError::Incomplete { what: "its start position" })?;
        self.phase = Phase::Data;
        self.events.push_front(SourceEvent::Started(BackupStart {
            position,
            tablespaces: std::mem::take(&mut self.tablespaces),
            estimated: (self.estimated > 0).then_some(ByteCount::from_bytes(self.estimated)),
            page_checks: self.page_checks,
        }));
        Ok(())
    }

    fn copy_begins(&mut self) {
        self.phase = Phase::Data;
        if self.framing == Framing::CopyEach {
            self.archive = match self.expected.pop_front() {
                Some(tablespace) => Archive::Tar { tablespace, parser: TarParser::default() },
                None => Archive::Manifest(Box::default()),
            };
        }
    }

    fn copy_data(&mut self, mut bytes: Bytes) -> Result<(), SourceError> {
        if self.framing == Framing::CopyEach {
            return self.content(bytes);
        }
        match bytes.try_get_u8() {
            Ok(b'd') => self.content(bytes),
            Ok(b'n') => {
                self.archive_ends()?;
                let tablespace = archive_tablespace(&bytes)?;
                match self.expected.iter().position(|expected| *expected == tablespace) {
                    Some(at) => self.expected.remove(at),
                    None => return Err(SourceError::protocol(bytes)),
                };
                self.archive = Archive::Tar { tablespace, parser: TarParser::default() };
                Ok(())
            }
            Ok(b'm') => {
                self.archive_ends()?;
                self.archive = Archive::Manifest(Box::default());
                Ok(())
            }
            // How much was sent.
            Ok(b'p') => Ok(()),
            other => Err(SourceError::protocol(other)),
        }
    }

    fn content(&mut self, bytes: Bytes) -> Result<(), SourceError> {
        match &mut self.archive {
            Archive::None => Err(SourceError::protocol("content before the first archive")),
            Archive::Manifest(lines) => {
                let events = &mut self.events;
                lines.feed(&bytes, |file| {
                    // What was not passed on must not count as missing.
                    if belongs_to_a_copy(&file.path) {
                        events.push_back(SourceEvent::ManifestFile(file));
                    }
                })?;
                Ok(())
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
            TarEvent::Begin(header) => self.member_begins(tablespace, header),
            TarEvent::Data(bytes) => {
                if let Some(current) = &mut self.current {
                    let (file, offset) = (current.number, current.offset);
                    current.offset += bytes.len() as u64;
                    self.events.push_back(SourceEvent::Data { file, offset, bytes });
                }
                Ok(())
            }
            TarEvent::End => {
                if let Some(Current { number, offset }) = self.current.take() {
                    self.events.push_back(SourceEvent::FileEnd { file: number, size: offset });
                }
                Ok(())
            }
        }
    }

    fn member_begins(&mut self, tablespace: Option<u32>, header: TarHeader) -> Result<(), SourceError> {
        let TarHeader { name, kind, mode, size, modified } = header;
        let name = match tablespace {
            None => name.strip_prefix(b"./").map_or(name.clone(), <[u8]>::to_vec),
            Some(oid) => [format!("pg_tblspc/{oid}/").as_bytes(), &name].concat(),
        };
        let path = RelativePath::new(&name).map_err(|error| SourceError::protocol(error.to_string()))?;
        let kind = match kind {
            TarKind::File => EntryKind::File,
            TarKind::Directory => EntryKind::Directory,
            TarKind::Symlink(target) => {
                let target = String::from_utf8_lossy(&target).into_owned();
                let (path, why) = (path.to_string(), format!("it is a link to {target}"));
                self.leave_out(LeftOut { part: part_of(&path), path, why });
                return Ok(());
            }
        };
        self.control_file |= path.as_bytes() == b"global/pg_control";
        if !belongs_to_a_copy(&path) {
            return Ok(());
        }
        let number = FileNumber(self.next_file);
        if self.next_file == self.files_max {
            return Err(SourceError::TooMuch { what: "files", limit: self.files_max.into() });
        }
        self.next_file += 1;
        if kind == EntryKind::File {
            self.current = Some(Current { number, offset: 0 });
        }
        self.events.push_back(SourceEvent::FileBegin(number, FileEntry { path, kind, mode, size, modified }));
        Ok(())
    }

    fn archive_ends(&mut self) -> Result<(), SourceError> {
        match std::mem::replace(&mut self.archive, Archive::None) {
            Archive::None => Ok(()),
            Archive::Tar { tablespace, mut parser } => {
                parser.finish().map_err(|source| SourceError::Tar { archive: archive_name(tablespace), source })
            }
            Archive::Manifest(lines) => {
                self.manifest = true;
                Ok(lines.finish()?)
            }
        }
    }

    fn finished(&mut self) -> Result<BackupEnd, SourceError> {
        let missing = |what| SourceError::Incomplete { what };
        let position = self.stop.ok_or_else(|| missing("its stop position"))?;
        // Without these a copy would look whole and could not be opened, or not be checked.
        for (there, what) in [
            (self.expected.is_empty(), "an archive"),
            (self.control_file, "the file global/pg_control"),
            (self.manifest, "its manifest"),
        ] {
            if !there {
                return Err(missing(what));
            }
        }
        if self.checksum_error && self.damaged.is_empty() {
            self.damaged.push("the server found damaged pages and did not say which".to_owned());
        }
        if self.damaged_untold > 0 {
            self.damaged.push(format!("{} more; the server's log has all of them", self.damaged_untold));
        }
        self.phase = Phase::Over;
        Ok(BackupEnd { position, damaged: std::mem::take(&mut self.damaged) })
    }
}

/// `16384.tar` is a tablespace, `base.tar` the data directory; a zero byte and the path on the server follow.
fn archive_tablespace(message: &[u8]) -> Result<Option<u32>, SourceError> {
    let name = message.split(|byte| *byte == 0).next().unwrap_or_default();
    let wrong = || SourceError::protocol(String::from_utf8_lossy(name));
    match name.strip_suffix(b".tar").ok_or_else(wrong)? {
        b"base" => Ok(None),
        oid => std::str::from_utf8(oid).ok().and_then(|oid| oid.parse().ok()).map(Some).ok_or_else(wrong),
    }
}

fn archive_name(tablespace: Option<u32>) -> String {
    tablespace.map_or_else(|| "the data directory".to_owned(), |oid| format!("tablespace {oid}"))
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

#[cfg(test)]
mod tests;
