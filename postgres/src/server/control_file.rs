//! `global/pg_control`: what a cluster is, and where its recovery begins.
//!
//! Source: PostgreSQL `src/include/catalog/pg_control.h` (`ControlFileData`), versions 13 to 18, on little-endian 64-bit
//! machines.

use lifeboat_vocabulary::{Lsn, SegmentSize, TimelineId, WalPosition};

/// The fewest bytes that hold everything, checksum included, in every version.
const PAYLOAD_MAX: usize = 296;
/// Written by every server as a number, to be read back the same by one with the same floating-point format.
const FLOAT_FORMAT: f64 = 1_234_567.0;

/// Why a `pg_control` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ControlFileError {
    /// Too few bytes.
    #[error("pg_control has only {found} bytes; at least {PAYLOAD_MAX} are needed")]
    TooShort {
        /// How many there are.
        found: usize,
    },
    /// The cluster was made on a machine of another kind.
    #[error("pg_control was written by a big-endian machine; only little-endian ones are supported")]
    BigEndian,
    /// Another floating-point format: another kind of machine too, though its integers can be read.
    #[error("pg_control was written by a machine with another floating-point format")]
    FloatFormat,
    /// A layout that is not known.
    #[error("pg_control has layout {found}; known are 1300 (PostgreSQL 13 to 16), 1700 (17) and 1800 (18)")]
    UnknownVersion {
        /// The number of the layout.
        found: u32,
    },
    /// The content is damaged, or was being written while it was read.
    #[error("pg_control has checksum {stored:08X}, its content {computed:08X}: damaged, or read while it was written")]
    Checksum {
        /// What the file says.
        stored: u32,
        /// What the content gives.
        computed: u32,
    },
    /// The checksum is right and a value is impossible.
    #[error("pg_control holds {found} as {field}, which cannot be")]
    Value {
        /// The field's name in PostgreSQL.
        field: &'static str,
        /// What it holds.
        found: u64,
    },
}

/// What the cluster was doing when the file was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Never started, or in the making.
    StartingUp,
    /// Shut down properly.
    ShutDown,
    /// A standby or a recovery, shut down properly.
    ShutDownInRecovery,
    /// Writing its last checkpoint.
    ShuttingDown,
    /// Replaying WAL after a crash.
    InCrashRecovery,
    /// Replaying WAL from an archive or a primary.
    InArchiveRecovery,
    /// Open, or ended by a crash.
    InProduction,
}

/// How much the cluster writes to its WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalLevel {
    /// Too little for a backup.
    Minimal,
    /// Enough for backups and standbys.
    Replica,
    /// With what logical decoding needs.
    Logical,
}

/// The settings that hot standby must have at least as high as the server that wrote the WAL.
///
/// Source: PostgreSQL `xlog.c`, `CheckRequiredParameterValues`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequiredSettings {
    /// `max_connections`
    pub max_connections: u32,
    /// `max_worker_processes`
    pub max_worker_processes: u32,
    /// `max_wal_senders`
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`
    pub max_locks_per_transaction: u32,
}

impl RequiredSettings {
    /// Names and values, as a configuration file wants them.
    #[must_use]
    pub fn as_settings(self) -> Vec<(String, String)> {
        [
            ("max_connections", self.max_connections),
            ("max_worker_processes", self.max_worker_processes),
            ("max_wal_senders", self.max_wal_senders),
            ("max_prepared_transactions", self.max_prepared_transactions),
            ("max_locks_per_transaction", self.max_locks_per_transaction),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_string()))
        .to_vec()
    }
}

/// The content of `global/pg_control`, its checksum verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// Unique to the cluster and its copies.
    pub system_identifier: u64,
    /// The layout: 1300, 1700 or 1800.
    pub pg_control_version: u32,
    /// The layout of the system catalogs; every major version has its own.
    pub catalog_version: u32,
    /// What the cluster was doing.
    pub state: ClusterState,
    /// Where the last checkpoint's record lies.
    pub checkpoint: Lsn,
    /// Where replay from that checkpoint begins, and on which timeline.
    pub redo: WalPosition,
    /// Replay must reach this before the data is consistent; `None` outside of archive recovery.
    pub min_recovery_point: Option<WalPosition>,
    /// Start of the backup that is being recovered.
    pub backup_start: Option<Lsn>,
    /// Where that backup is consistent, if it came from a standby.
    pub backup_end: Option<Lsn>,
    /// Its end, as a record in the WAL, is still to be met.
    pub backup_end_required: bool,
    /// How much is written to the WAL.
    pub wal_level: WalLevel,
    /// What hot standby asks for.
    pub required: RequiredSettings,
    /// Size of a data page in **bytes**.
    pub block_size: u32,
    /// Largest size of one file of a relation, in **pages**.
    pub relation_segment_pages: u32,
    /// Size of a WAL segment.
    pub wal_segment_size: SegmentSize,
    /// Version of the page checksums; 0 if pages have none.
    pub data_checksum_version: u32,
}

/// Values by offset; the length has been checked, and anything beyond it is 0.
struct Payload<'a>(&'a [u8]);

impl Payload<'_> {
    fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.0.get(offset..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.array(offset))
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.array(offset))
    }

    /// A count, which PostgreSQL keeps as a signed number.
    fn count(&self, offset: usize, field: &'static str) -> Result<u32, ControlFileError> {
        let found = self.u32(offset);
        if i32::try_from(found).is_ok() { Ok(found) } else { Err(value(field, found)) }
    }

    fn lsn(&self, offset: usize, field: &'static str) -> Result<Lsn, ControlFileError> {
        Lsn::from_bytes(self.u64(offset)).ok_or_else(|| value(field, 0u32))
    }

    fn timeline(&self, offset: usize, field: &'static str) -> Result<TimelineId, ControlFileError> {
        TimelineId::new(self.u32(offset)).ok_or_else(|| value(field, 0u32))
    }
}

fn value(field: &'static str, found: impl Into<u64>) -> ControlFileError {
    ControlFileError::Value { field, found: found.into() }
}

fn state(number: u32) -> Result<ClusterState, ControlFileError> {
    Ok(match number {
        0 => ClusterState::StartingUp,
        1 => ClusterState::ShutDown,
        2 => ClusterState::ShutDownInRecovery,
        3 => ClusterState::ShuttingDown,
        4 => ClusterState::InCrashRecovery,
        5 => ClusterState::InArchiveRecovery,
        6 => ClusterState::InProduction,
        other => return Err(value("state", other)),
    })
}

fn wal_level(number: u32) -> Result<WalLevel, ControlFileError> {
    Ok(match number {
        0 => WalLevel::Minimal,
        1 => WalLevel::Replica,
        2 => WalLevel::Logical,
        other => return Err(value("wal_level", other)),
    })
}

/// Where the checksum lies, which is also how many bytes it covers.
fn checksum_offset(version: u32) -> Result<usize, ControlFileError> {
    match version {
        1300 | 1700 => Ok(288),
        1800 => Ok(292),
        found if matches!(found.swap_bytes(), 1300 | 1700 | 1800) => Err(ControlFileError::BigEndian),
        found => Err(ControlFileError::UnknownVersion { found }),
    }
}

impl ControlFile {
    /// Understands the file's bytes: all 8192 of them, or at least those that carry content.
    ///
    /// # Errors
    /// [`ControlFileError`]; after [`ControlFileError::Checksum`] on a running cluster, read the file again.
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlFileError> {
        if bytes.len() < PAYLOAD_MAX {
            return Err(ControlFileError::TooShort { found: bytes.len() });
        }
        let payload = Payload(bytes);
        let pg_control_version = payload.u32(8);
        let end = checksum_offset(pg_control_version)?;
        let (stored, computed) = (payload.u32(end), crc32c::crc32c(bytes.get(..end).unwrap_or_default()));
        if stored != computed {
            return Err(ControlFileError::Checksum { stored, computed });
        }
        if f64::from_le_bytes(payload.array(208)).to_bits() != FLOAT_FORMAT.to_bits() {
            return Err(ControlFileError::FloatFormat);
        }
        let segment = payload.u32(228);
        Ok(Self {
            system_identifier: payload.u64(0),
            pg_control_version,
            catalog_version: payload.u32(12),
            state: state(payload.u32(16))?,
            checkpoint: payload.lsn(32, "checkPoint")?,
            redo: WalPosition { lsn: payload.lsn(40, "redo")?, timeline: payload.timeline(48, "ThisTimeLineID")? },
            min_recovery_point: match Lsn::from_bytes(payload.u64(136)) {
                Some(lsn) => Some(WalPosition { lsn, timeline: payload.timeline(144, "minRecoveryPointTLI")? }),
                None => None,
            },
            backup_start: Lsn::from_bytes(payload.u64(152)),
            backup_end: Lsn::from_bytes(payload.u64(160)),
            backup_end_required: payload.array::<1>(168) != [0],
            wal_level: wal_level(payload.u32(172))?,
            required: RequiredSettings {
                max_connections: payload.count(180, "MaxConnections")?,
                max_worker_processes: payload.count(184, "max_worker_processes")?,
                max_wal_senders: payload.count(188, "max_wal_senders")?,
                max_prepared_transactions: payload.count(192, "max_prepared_xacts")?,
                max_locks_per_transaction: payload.count(196, "max_locks_per_xact")?,
            },
            block_size: payload.u32(216),
            relation_segment_pages: payload.u32(220),
            wal_segment_size: SegmentSize::from_bytes(segment.into()).map_err(|_| value("xlog_seg_size", segment))?,
            data_checksum_version: payload.u32(252),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of the given layout in which `edits` (offset, bytes) were made before the checksum.
    fn fabricated(version: u32, edits: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0u8; 8192];
        let mut put = |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
        put(0, &0x1122_3344_5566_7788u64.to_le_bytes());
        put(8, &version.to_le_bytes());
        put(12, &202_209_061u32.to_le_bytes());
        put(16, &5u32.to_le_bytes());
        put(32, &0x0300_0060u64.to_le_bytes());
        put(40, &0x0300_0028u64.to_le_bytes());
        put(48, &7u32.to_le_bytes());
        put(172, &1u32.to_le_bytes());
        for (index, offset) in (180u32..=196).step_by(4).enumerate() {
            put(offset as usize, &(u32::try_from(index).unwrap() + 10).to_le_bytes());
        }
        put(208, &FLOAT_FORMAT.to_le_bytes());
        put(216, &8192u32.to_le_bytes());
        put(220, &131_072u32.to_le_bytes());
        put(228, &(16u32 << 20).to_le_bytes());
        put(252, &1u32.to_le_bytes());
        for (offset, value) in edits {
            put(*offset, value);
        }
        let end = if version == 1800 { 292 } else { 288 };
        let sum = crc32c::crc32c(&bytes[..end]).to_le_bytes();
        bytes[end..end + 4].copy_from_slice(&sum);
        bytes
    }

    #[test]
    fn files_that_cannot_be_used_say_why() {
        let value = |field, found| ControlFileError::Value { field, found };
        let big_endian = 1300u32.to_be_bytes();
        for (why, bytes, expected) in [
            ("empty", Vec::new(), ControlFileError::TooShort { found: 0 }),
            ("cut", fabricated(1300, &[])[..295].to_vec(), ControlFileError::TooShort { found: 295 }),
            ("PostgreSQL 12", fabricated(1201, &[]), ControlFileError::UnknownVersion { found: 1201 }),
            ("zeroes", vec![0; 8192], ControlFileError::UnknownVersion { found: 0 }),
            ("big-endian", fabricated(1300, &[(8, &big_endian)]), ControlFileError::BigEndian),
            ("float", fabricated(1300, &[(208, &[0; 8])]), ControlFileError::FloatFormat),
            ("no checkpoint", fabricated(1700, &[(32, &[0; 8])]), value("checkPoint", 0)),
            ("no timeline", fabricated(1700, &[(48, &[0; 4])]), value("ThisTimeLineID", 0)),
            ("state", fabricated(1300, &[(16, &[7])]), value("state", 7)),
            ("wal_level", fabricated(1300, &[(172, &[3])]), value("wal_level", 3)),
            ("negative", fabricated(1300, &[(180, &[0xff; 4])]), value("MaxConnections", 0xffff_ffff)),
            ("segments of 3 bytes", fabricated(1300, &[(228, &[3, 0, 0, 0])]), value("xlog_seg_size", 3)),
        ] {
            assert_eq!(ControlFile::parse(&bytes), Err(expected), "{why}");
        }
    }

    #[test]
    fn any_flipped_byte_of_the_content_is_noticed() {
        for version in [1300, 1700, 1800] {
            let good = fabricated(version, &[]);
            for offset in (0..288).filter(|offset| !(8..12).contains(offset)) {
                let mut bad = good.clone();
                bad[offset] ^= 0x40;
                assert!(matches!(ControlFile::parse(&bad), Err(ControlFileError::Checksum { .. })), "{offset}");
            }
        }
    }

    #[test]
    fn all_layouts_are_understood() {
        for version in [1300, 1700, 1800] {
            let recovery: [(usize, &[u8]); 5] = [(136, &[1, 2]), (144, &[6]), (152, &[3]), (160, &[4]), (168, &[1])];
            let control = ControlFile::parse(&fabricated(version, &recovery)).unwrap();
            assert_eq!(control.system_identifier, 0x1122_3344_5566_7788);
            assert_eq!((control.pg_control_version, control.state), (version, ClusterState::InArchiveRecovery));
            assert_eq!(control.redo.to_string(), "0/3000028 on timeline 7");
            assert_eq!(control.min_recovery_point.unwrap().to_string(), "0/201 on timeline 6");
            assert_eq!((control.backup_start, control.backup_end), (Lsn::from_bytes(3), Lsn::from_bytes(4)));
            assert!(control.backup_end_required);
            let required: Vec<String> =
                control.required.as_settings().iter().map(|(name, value)| format!("{name}={value}")).collect();
            assert_eq!(
                required.join(" "),
                "max_connections=10 max_worker_processes=11 max_wal_senders=12 max_prepared_transactions=13 \
                 max_locks_per_transaction=14"
            );
        }
        // Outside of recovery there is no such point, whatever the timeline beside it says.
        let open = ControlFile::parse(&fabricated(1300, &[(16, &[6])])).unwrap();
        assert_eq!((open.min_recovery_point, open.backup_start, open.backup_end), (None, None, None));
    }
}
