//! WAL records: their headers, and what is read from the few that matter here.
//!
//! Sources: PostgreSQL `src/include/access/xlogrecord.h`, `xact.h`, `xlog_internal.h`, `catalog/pg_control.h`,
//! `commands/tablespace.h`; `src/backend/access/rmgrdesc/xactdesc.c` (`ParseCommitRecord`); versions 13 to 18.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use lifeboat_vocabulary::{Lsn, UtcTime};

use crate::wal::clock::from_server;
use crate::wal::page::{WalFaultKind, array};

/// Header of a record, in bytes.
pub(crate) const RECORD_HEADER: usize = 24;
/// The same, as a record's smallest length.
const RECORD_MIN: u32 = 24;
/// The largest record: `XLogRecordMaxSize`, enforced by writers from 16 on.
const RECORD_MAX: u32 = 1020 << 20;
/// Up to this byte the header counts for the checksum, which follows.
const CHECKSUM_OFFSET: usize = 20;
/// The longest content that is gathered whole, in bytes: a path has at most 1024 (`MAXPGPATH`).
const KEPT_MAX: u32 = 2048;

/// Something in the WAL that others need to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalFact {
    /// Where the record begins.
    pub start: Lsn,
    /// Where the next one can begin: whoever has the WAL up to here has the record. After [`WalFactKind::Switch`] this is
    /// the next segment.
    pub end: Lsn,
    /// The transaction that wrote it; 0 if none did.
    pub xid: u32,
    /// What happened.
    pub kind: WalFactKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WalFactKind {
    /// A transaction was committed, prepared before or not.
    Commit {
        /// When, by the server's clock.
        time: UtcTime,
        /// Which transaction: that of `recovery_target_xid`.
        xid: u32,
    },
    /// A transaction was rolled back, prepared before or not.
    Abort {
        /// When, by the server's clock.
        time: UtcTime,
        /// Which transaction.
        xid: u32,
    },
    /// The rest of the segment is empty.
    Switch,
    /// The server was shut down.
    ShutdownCheckpoint,
    /// A checkpoint of a running server.
    OnlineCheckpoint,
    /// The server left recovery, and this is the first record of its new timeline.
    EndOfRecovery,
    /// A name that recovery can stop at.
    RestorePoint {
        /// The name; bytes that are not UTF-8 are replaced.
        name: String,
        /// When it was made.
        time: UtcTime,
    },
    /// A tablespace was made. Replay makes it at the same place again.
    CreateTablespace {
        /// Its OID.
        oid: u32,
        /// Its directory.
        path: PathBuf,
    },
    /// Settings that a standby must have at least as high changed. Source: `xl_parameter_change`.
    ParameterChange {
        /// 0 minimal, 1 replica, 2 logical.
        wal_level: i32,
        /// `max_connections`
        max_connections: i32,
        /// `max_worker_processes`
        max_worker_processes: i32,
        /// `max_wal_senders`
        max_wal_senders: i32,
        /// `max_prepared_transactions`
        max_prepared_xacts: i32,
        /// `max_locks_per_transaction`
        max_locks_per_xact: i32,
    },
}

/// The header of a record, as it came.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RecordHeader(pub(crate) [u8; RECORD_HEADER]);

impl RecordHeader {
    fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(array(&self.0, offset))
    }

    /// The whole record's bytes, once four of the header are there.
    pub(crate) fn length(&self) -> Result<u32, WalFaultKind> {
        match self.u32(0) {
            length @ RECORD_MIN..=RECORD_MAX => Ok(length),
            found => Err(WalFaultKind::RecordLength { found }),
        }
    }

    pub(crate) fn xid(&self) -> u32 {
        self.u32(4)
    }

    pub(crate) fn previous(&self) -> u64 {
        u64::from_le_bytes(array(&self.0, 8))
    }

    /// The checksum that the record carries.
    pub(crate) fn checksum(&self) -> u32 {
        self.u32(CHECKSUM_OFFSET)
    }

    /// Compares the checksum; `content` is that of everything behind the header.
    pub(crate) fn check(&self, content: u32) -> Result<(), WalFaultKind> {
        let covered = self.0.get(..CHECKSUM_OFFSET).unwrap_or_default();
        let (stored, computed) = (self.checksum(), crc32c::crc32c_append(content, covered));
        if stored == computed { Ok(()) } else { Err(WalFaultKind::Checksum { stored, computed }) }
    }

    /// What kind of interest there is in the record. The numbers are those of `rmgrlist.h` and of the records' own headers.
    pub(crate) fn interest(&self) -> Interest {
        let [info, manager] = array(&self.0, 16);
        let with_info = info & 0x80 != 0;
        match (manager, info & 0xf0) {
            (0, 0x00) => Interest::Bare(Bare::ShutdownCheckpoint),
            (0, 0x10) => Interest::Bare(Bare::OnlineCheckpoint),
            (0, 0x40) => Interest::Bare(Bare::Switch),
            (0, 0x60) => Interest::Kept(Kept::ParameterChange),
            (0, 0x70) => Interest::Kept(Kept::RestorePoint),
            (0, 0x90) => Interest::Bare(Bare::EndOfRecovery),
            (0, 0xd0) => Interest::Kept(Kept::Overwrite),
            (1, _) => match info & 0x70 {
                0x00 | 0x30 => Interest::Ending { how: Ending::Commit, with_info },
                0x20 | 0x40 => Interest::Ending { how: Ending::Abort, with_info },
                _ => Interest::None,
            },
            (5, 0x00) => Interest::Kept(Kept::CreateTablespace),
            _ => Interest::None,
        }
    }
}

/// What has to be known of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Nothing.
    None,
    /// That it is there.
    Bare(Bare),
    /// All of its main data, which is short.
    Kept(Kept),
    /// Time and transaction.
    Ending { how: Ending, with_info: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bare {
    ShutdownCheckpoint,
    OnlineCheckpoint,
    EndOfRecovery,
    Switch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    ParameterChange,
    RestorePoint,
    CreateTablespace,
    Overwrite,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Commit,
    Abort,
}

/// What a record has told.
pub(crate) enum Told {
    Nothing,
    Fact(WalFactKind),
    /// The record takes the place of the one that began here and was never finished.
    Overwritten(u64),
}

/// The next part of a record's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The kind of a fragment.
    Fragment,
    /// How long the main data is.
    Length,
    /// All of the main data.
    Main,
    Time,
    Info,
    /// How many entries a list has, of so many bytes each.
    List {
        entry: u32,
    },
    Xid,
    /// What follows does not matter.
    Rest,
    /// There is no such layout.
    Unknown,
}

/// Reads the content of a record of interest as it comes by, in pieces of any size and with next to no memory: a commit
/// may list a million relations.
#[derive(Clone, Debug)]
pub(crate) struct ContentReader {
    interest: Interest,
    part: Part,
    /// Bytes to leave out before the part.
    skip: u64,
    /// Bytes that the part has.
    need: u32,
    gathered: Vec<u8>,
    statistics_entry: u32,
    time: i64,
    xid: u32,
    /// `xinfo` of the transaction, whose lists that were read are taken out.
    info: u32,
}

const DATABASE: u32 = 0x1;
const PREPARED: u32 = 0x10;

impl ContentReader {
    pub(crate) fn new() -> Self {
        Self {
            interest: Interest::None,
            part: Part::Rest,
            skip: 0,
            need: 0,
            gathered: Vec::with_capacity(64),
            statistics_entry: 0,
            time: 0,
            xid: 0,
            info: 0,
        }
    }

    /// A record begins.
    pub(crate) fn begin(&mut self, header: &RecordHeader, statistics_entry: u32) {
        self.interest = header.interest();
        self.statistics_entry = statistics_entry;
        (self.xid, self.info, self.skip) = (header.xid(), 0, 0);
        match self.interest {
            Interest::Kept(_) | Interest::Ending { .. } => self.expect(Part::Fragment, 1),
            Interest::None | Interest::Bare(_) => self.expect(Part::Rest, 0),
        }
    }

    fn expect(&mut self, part: Part, need: u32) {
        (self.part, self.need) = (part, need);
        self.gathered.clear();
    }

    /// The next bytes.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !matches!(self.part, Part::Rest | Part::Unknown) {
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
            self.skip -= skipped as u64;
            let missing = self.need as usize - self.gathered.len();
            let (now, later) = bytes.split_at(skipped).1.split_at(missing.min(bytes.len() - skipped));
            self.gathered.extend_from_slice(now);
            bytes = later;
            if self.skip == 0 && self.gathered.len() == self.need as usize {
                self.advance();
            }
        }
    }

    /// The part as a number, of one byte or of four.
    fn gathered_u32(&self) -> u32 {
        self.gathered.iter().rev().fold(0, |number, byte| (number << 8) | u32::from(*byte))
    }

    /// A part is complete.
    fn advance(&mut self) {
        match self.part {
            Part::Fragment => match self.gathered.first() {
                Some(255) => self.expect(Part::Length, 1),
                Some(254) => self.expect(Part::Length, 4),
                // Origin of a replicated change, top-level transaction.
                Some(253) => self.leave_out(Part::Fragment, 2, 1),
                Some(252) => self.leave_out(Part::Fragment, 4, 1),
                _ => self.part = Part::Unknown,
            },
            Part::Length => match self.interest {
                Interest::Ending { .. } => self.expect(Part::Time, 8),
                _ if self.gathered_u32() > KEPT_MAX => self.part = Part::Unknown,
                _ => self.expect(Part::Main, self.gathered_u32()),
            },
            Part::Time => {
                self.time = i64::from_le_bytes(array(&self.gathered, 0));
                match self.interest {
                    Interest::Ending { with_info: true, .. } => self.expect(Part::Info, 4),
                    _ => self.part = Part::Rest,
                }
            }
            Part::Info => {
                self.info = self.gathered_u32();
                self.next_list(if self.info & DATABASE != 0 { 8 } else { 0 });
            }
            Part::List { entry } => self.next_list(u64::from(self.gathered_u32()) * u64::from(entry)),
            Part::Xid => {
                self.xid = self.gathered_u32();
                self.part = Part::Rest;
            }
            Part::Main => self.part = Part::Rest,
            Part::Rest | Part::Unknown => {}
        }
    }

    fn leave_out(&mut self, part: Part, skip: u64, need: u32) {
        self.expect(part, need);
        self.skip = skip;
    }

    /// Goes on to the next list that the transaction has, `skip` bytes further on: subtransactions, relations, dropped
    /// statistics, invalidations. Behind all of them comes the prepared transaction.
    fn next_list(&mut self, skip: u64) {
        let lists = [(0x2, 4), (0x4, 12), (0x100, self.statistics_entry), (0x8, 16)];
        match lists.into_iter().find(|(bit, _)| self.info & bit != 0) {
            Some((bit, entry)) => {
                self.info &= !bit;
                self.leave_out(Part::List { entry }, skip, 4);
            }
            None if self.info & PREPARED != 0 => self.leave_out(Part::Xid, skip, 4),
            None => self.part = Part::Rest,
        }
    }

    /// What the record tells, now that it is complete and its checksum is right.
    pub(crate) fn finish(&self) -> Result<Told, WalFaultKind> {
        if self.part != Part::Rest {
            return Err(WalFaultKind::Content);
        }
        Ok(match self.interest {
            Interest::None => Told::Nothing,
            Interest::Bare(bare) => Told::Fact(match bare {
                Bare::ShutdownCheckpoint => WalFactKind::ShutdownCheckpoint,
                Bare::OnlineCheckpoint => WalFactKind::OnlineCheckpoint,
                Bare::EndOfRecovery => WalFactKind::EndOfRecovery,
                Bare::Switch => WalFactKind::Switch,
            }),
            Interest::Ending { how, .. } => {
                let (time, xid) = (from_server(self.time).ok_or(WalFaultKind::Content)?, self.xid);
                Told::Fact(match how {
                    Ending::Commit => WalFactKind::Commit { time, xid },
                    Ending::Abort => WalFactKind::Abort { time, xid },
                })
            }
            Interest::Kept(kept) => self.kept(kept)?,
        })
    }

    fn kept(&self, kept: Kept) -> Result<Told, WalFaultKind> {
        let main = self.gathered.as_slice();
        let long_enough = match kept {
            Kept::ParameterChange => 24,
            Kept::RestorePoint => 72,
            Kept::CreateTablespace => 5,
            Kept::Overwrite => 8,
        };
        if main.len() < long_enough {
            return Err(WalFaultKind::Content);
        }
        let number = |offset| i32::from_le_bytes(array(main, offset));
        Ok(match kept {
            Kept::Overwrite => Told::Overwritten(u64::from_le_bytes(array(main, 0))),
            Kept::RestorePoint => Told::Fact(WalFactKind::RestorePoint {
                time: from_server(i64::from_le_bytes(array(main, 0))).ok_or(WalFaultKind::Content)?,
                name: zero_ended(main, 8),
            }),
            Kept::CreateTablespace => Told::Fact(WalFactKind::CreateTablespace {
                oid: u32::from_le_bytes(array(main, 0)),
                path: PathBuf::from(OsString::from_vec(until_zero(main, 4).to_vec())),
            }),
            Kept::ParameterChange => Told::Fact(WalFactKind::ParameterChange {
                max_connections: number(0),
                max_worker_processes: number(4),
                max_wal_senders: number(8),
                max_prepared_xacts: number(12),
                max_locks_per_xact: number(16),
                wal_level: number(20),
            }),
        })
    }
}

fn zero_ended(bytes: &[u8], offset: usize) -> String {
    String::from_utf8_lossy(until_zero(bytes, offset)).into_owned()
}

fn until_zero(bytes: &[u8], offset: usize) -> &[u8] {
    bytes.get(offset..).unwrap_or_default().split(|byte| *byte == 0).next().unwrap_or_default()
}
