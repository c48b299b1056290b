//! Where everything lies: every object key is built and parsed here, nowhere else.
//!
//! A repository is one folder; all keys are relative to it. Numbers are padded with zeros, so that keys sort like what
//! they name. No key carries the name of a database, a table or a host.

use std::fmt;

use lifeboat_stores::{Lane, ObjectKey};
use lifeboat_vocabulary::{BackupId, Lsn, Sha256Digest, TimelineId};

use crate::format::ids::{EpochId, ObjectId};
use crate::format::key_name::KeyName;

/// All records of a region's log begin with this.
pub(crate) const LOG_PREFIX: &str = "log/";
/// All bundles of records of a region's log begin with this. It lies below [`LOG_PREFIX`], and behind all records there, so that
/// whoever may read or write the log may read or write them too.
pub(crate) const BUNDLES_PREFIX: &str = "log/bundles/";
/// All objects of all backups begin with this.
pub(crate) const DATA_PREFIX: &str = "data/";
/// All wrapped epoch keys begin with this.
pub(crate) const KEYS_PREFIX: &str = "keys/";

/// All lines of WAL in whole pieces, and all timeline histories, begin with this.
pub(crate) const WAL_PREFIX: &str = "wal/";
/// All slices of WAL begin with this.
pub(crate) const SLICES_PREFIX: &str = "slices/";
/// Everything that is overwritten or tried out begins with this: leases, heads, probes.
pub(crate) const STATE_PREFIX: &str = "state/";
/// The signs of life of all writers begin with this.
pub(crate) const HEADS_PREFIX: &str = "state/head-";

/// What a key names. `Display` gives the key; [`parse`] reads it back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoredName {
    /// The repository's descriptor.
    Descriptor,
    /// A record of the region's log.
    LogNote {
        /// Its place in the log, from 0.
        seq: u64,
    },
    /// Many records of the region's log in one object.
    LogBundle {
        /// Place of its first record.
        first: u64,
        /// Place of its last record.
        last: u64,
        /// SHA-256 of the object: nobody can take its name with other content.
        sha256: Sha256Digest,
    },
    /// The wrapped key of an epoch.
    Slots {
        /// The epoch.
        epoch: EpochId,
        /// 0 for the set that was written with the epoch; each re-wrapping adds one.
        number: u32,
    },
    /// A pack of a backup.
    Pack {
        /// The backup that wrote it.
        backup: BackupId,
        /// From 0, in the order of the backup's data.
        number: u32,
        /// The id in the pack's header.
        object: ObjectId,
    },
    /// A part of a backup's index.
    IndexShard {
        /// The backup.
        backup: BackupId,
        /// From 0.
        number: u32,
    },
    /// The list of all objects that a backup needs.
    PacksList {
        /// The backup.
        backup: BackupId,
    },
    /// A whole WAL segment, or a whole piece of a large one.
    WalSegment(WalRange),
    /// A timeline history file.
    TimelineHistory {
        /// The timeline that the file describes.
        timeline: TimelineId,
    },
    /// A part of a WAL segment, stored before it was complete.
    WalSlice(WalRange),
    /// A writer's lease.
    Lease {
        /// The writer.
        writer: KeyName,
    },
    /// A writer's signed sign of life.
    Head {
        /// The writer.
        writer: KeyName,
    },
    /// A trial of what the store can do.
    Probe {
        /// Drawn at random for each trial.
        id: ObjectId,
    },
}

/// A piece of WAL on one timeline: from `start` up to, but not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// Position of the first byte.
    pub start: Lsn,
    /// Position after the last byte.
    pub end: Lsn,
}

/// In which of the two folders a part of the WAL lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalForm {
    /// A whole piece: an aligned part of a segment, mostly all of it.
    Piece,
    /// What was new when it was stored: a part of a piece.
    Slice,
}

impl WalForm {
    /// What the keys of all objects of this form begin with.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Piece => WAL_PREFIX,
            Self::Slice => SLICES_PREFIX,
        }
    }

    /// What the keys of this form on one timeline begin with.
    #[must_use]
    pub(crate) fn folder(self, timeline: TimelineId) -> String {
        format!("{}{:08x}/", self.prefix(), timeline.get())
    }

    /// List after this to get the objects of `timeline` that begin at `start` **bytes** or later.
    #[must_use]
    pub(crate) fn before(self, timeline: TimelineId, start: u64) -> ObjectKey {
        key_of(&format!("{}{start:016x}", self.folder(timeline)))
    }

    /// List after this to get the timelines behind `timeline`; `None` behind the last that there can be.
    #[must_use]
    pub(crate) fn behind(self, timeline: TimelineId) -> Option<ObjectKey> {
        let next = timeline.get().checked_add(1)?;
        Some(key_of(&format!("{}{next:08x}", self.prefix())))
    }
}

impl fmt::Display for WalRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}/{:016x}-{:016x}", self.timeline.get(), self.start.as_bytes(), self.end.as_bytes())
    }
}

impl fmt::Display for StoredName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptor => f.write_str("lifeboat.json"),
            Self::LogNote { seq } => write!(f, "{LOG_PREFIX}{seq:020}.note"),
            Self::LogBundle { first, last, sha256 } => {
                write!(f, "{BUNDLES_PREFIX}{first:020}-{last:020}-{sha256}.bundle")
            }
            Self::Slots { epoch, number } => write!(f, "{KEYS_PREFIX}{epoch}/{number}.json"),
            Self::Pack { backup, number, object } => write!(f, "{DATA_PREFIX}{backup}/p{number:06}-{object}.lbp"),
            Self::IndexShard { backup, number } => write!(f, "{DATA_PREFIX}{backup}/index-{number:04}.lbx"),
            Self::PacksList { backup } => write!(f, "{DATA_PREFIX}{backup}/packs.sha256"),
            Self::WalSegment(range) => write!(f, "wal/{range}.lbw"),
            Self::TimelineHistory { timeline } => write!(f, "wal/{:08x}/history.lbb", timeline.get()),
            Self::WalSlice(range) => write!(f, "slices/{range}.lbs"),
            Self::Lease { writer } => write!(f, "state/lease-{}.json", writer.as_key_part()),
            Self::Head { writer } => write!(f, "state/head-{}.note", writer.as_key_part()),
            Self::Probe { id } => write!(f, "state/probe-{id}"),
        }
    }
}

impl StoredName {
    /// The key of the object.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        key_of(&self.to_string())
    }
}

fn key_of(text: &str) -> ObjectKey {
    match text.parse() {
        Ok(key) => key,
        // Every part is made of characters that keys may have; the tests below cover all of them.
        Err(error) => unreachable!("{error}"),
    }
}

/// What `key` names, or `None` if nothing of ours has such a key.
#[must_use]
pub fn parse(key: &ObjectKey) -> Option<StoredName> {
    let text = key.as_str();
    let (folder, rest) = text.split_once('/').unwrap_or(("", text));
    let name = match folder {
        "" if rest == "lifeboat.json" => Some(StoredName::Descriptor),
        "log" => match rest.strip_prefix("bundles/") {
            Some(file) => parse_bundle(file),
            None => decimal(rest.strip_suffix(".note")?).map(|seq| StoredName::LogNote { seq }),
        },
        "keys" => {
            let (epoch, file) = rest.split_once('/')?;
            let number = decimal(file.strip_suffix(".json")?)?;
            Some(StoredName::Slots { epoch: epoch.parse().ok()?, number: u32::try_from(number).ok()? })
        }
        "data" => parse_data(rest),
        "wal" => match rest.split_once('/')? {
            (timeline, "history.lbb") => Some(StoredName::TimelineHistory { timeline: hex_timeline(timeline)? }),
            _ => wal_range(rest.strip_suffix(".lbw")?).map(StoredName::WalSegment),
        },
        "slices" => wal_range(rest.strip_suffix(".lbs")?).map(StoredName::WalSlice),
        "state" => parse_state(rest),
        _ => None,
    }?;
    // One name, one key: other paddings and letter cases name nothing.
    (name.to_string() == text).then_some(name)
}

fn parse_bundle(file: &str) -> Option<StoredName> {
    let (first, rest) = file.strip_suffix(".bundle")?.split_once('-')?;
    let (last, sha256) = rest.split_once('-')?;
    Some(StoredName::LogBundle { first: decimal(first)?, last: decimal(last)?, sha256: sha256.parse().ok()? })
}

fn parse_data(rest: &str) -> Option<StoredName> {
    let (backup, file) = rest.split_once('/')?;
    let backup = backup.parse().ok()?;
    if file == "packs.sha256" {
        return Some(StoredName::PacksList { backup });
    }
    if let Some(number) = file.strip_prefix("index-") {
        let number = u32::try_from(decimal(number.strip_suffix(".lbx")?)?).ok()?;
        return Some(StoredName::IndexShard { backup, number });
    }
    let (number, object) = file.strip_prefix('p')?.strip_suffix(".lbp")?.split_once('-')?;
    let number = u32::try_from(decimal(number)?).ok()?;
    Some(StoredName::Pack { backup, number, object: object.parse().ok()? })
}

fn parse_state(rest: &str) -> Option<StoredName> {
    if let Some(id) = rest.strip_prefix("probe-") {
        return Some(StoredName::Probe { id: id.parse().ok()? });
    }
    if let Some(writer) = rest.strip_prefix("lease-") {
        return Some(StoredName::Lease { writer: KeyName::from_key_part(writer.strip_suffix(".json")?)? });
    }
    let writer = rest.strip_prefix("head-")?.strip_suffix(".note")?;
    Some(StoredName::Head { writer: KeyName::from_key_part(writer)? })
}

fn decimal(digits: &str) -> Option<u64> {
    if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

fn hex(digits: &str) -> Option<u64> {
    if digits.bytes().all(|b| b.is_ascii_hexdigit()) { u64::from_str_radix(digits, 16).ok() } else { None }
}

fn hex_timeline(digits: &str) -> Option<TimelineId> {
    TimelineId::new(u32::try_from(hex(digits)?).ok()?)
}

fn wal_range(text: &str) -> Option<WalRange> {
    let (timeline, range) = text.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (Lsn::from_bytes(hex(start)?)?, Lsn::from_bytes(hex(end)?)?);
    Some(WalRange { timeline: hex_timeline(timeline)?, start, end })
}

/// The lane of a key, or of the prefix of a listing, for who writes: the data of backups is bulk, and for everything else somebody
/// waits.
#[must_use]
pub fn writers_lane(about: &str) -> Lane {
    if about.starts_with(DATA_PREFIX) { Lane::Bulk } else { Lane::Urgent }
}

/// The same for who reads, heals or scrubs: WAL that is stored is data like all other.
#[must_use]
pub fn readers_lane(about: &str) -> Lane {
    let is_bulk = [DATA_PREFIX, WAL_PREFIX, SLICES_PREFIX].iter().any(|prefix| about.starts_with(prefix));
    if is_bulk { Lane::Bulk } else { Lane::Urgent }
}

/// The key of the repository's descriptor.
#[must_use]
pub fn descriptor() -> ObjectKey {
    StoredName::Descriptor.key()
}

/// The key of record `seq` (from 0) of a region's log.
#[must_use]
pub fn log_note(seq: u64) -> ObjectKey {
    StoredName::LogNote { seq }.key()
}

/// List after this to get the bundles that begin at place `first` or later.
#[must_use]
pub(crate) fn bundles_before(first: u64) -> ObjectKey {
    key_of(&format!("{BUNDLES_PREFIX}{first:020}"))
}

/// The key of set `number` (from 0) of an epoch's slots.
#[must_use]
pub fn slots(epoch: EpochId, number: u32) -> ObjectKey {
    StoredName::Slots { epoch, number }.key()
}

/// The key of a backup's pack `number` (from 0) with the id `object`.
#[must_use]
pub fn pack(backup: &BackupId, number: u32, object: ObjectId) -> ObjectKey {
    StoredName::Pack { backup: backup.clone(), number, object }.key()
}

/// The key of part `number` (from 0) of a backup's index.
#[must_use]
pub fn index_shard(backup: &BackupId, number: u32) -> ObjectKey {
    StoredName::IndexShard { backup: backup.clone(), number }.key()
}

/// The key of the list of all objects that a backup needs.
#[must_use]
pub fn packs_list(backup: &BackupId) -> ObjectKey {
    StoredName::PacksList { backup: backup.clone() }.key()
}

/// What the keys of all objects that a backup wrote begin with.
#[must_use]
pub(crate) fn backup_prefix(backup: &BackupId) -> String {
    format!("{DATA_PREFIX}{backup}/")
}

/// What the keys of all sets of an epoch's slots begin with.
#[must_use]
pub(crate) fn epoch_prefix(epoch: EpochId) -> String {
    format!("{KEYS_PREFIX}{epoch}/")
}

/// The backup below whose folder the key lies, whether it names anything of ours there or not.
#[must_use]
pub(crate) fn folder_of(key: &ObjectKey) -> Option<BackupId> {
    key.as_str().strip_prefix(DATA_PREFIX)?.split_once('/')?.0.parse().ok()
}

/// List after this to get what lies behind a backup's folder: `z` is the greatest character that keys may have.
#[must_use]
pub(crate) fn behind_backup(backup: &BackupId) -> ObjectKey {
    let folder = backup_prefix(backup);
    let rest = "z".repeat(512_usize.saturating_sub(folder.len()));
    key_of(&format!("{folder}{rest}"))
}

/// The key of a pack that no backup has written: to ask whether it could be deleted.
#[must_use]
pub(crate) fn no_pack(backup: &BackupId) -> ObjectKey {
    pack(backup, u32::MAX, ObjectId::from_bytes([0; 16]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(numbers: (u64, u32, u32, [u8; 16]), writer: &str, start: (u64, u64, u32)) -> Vec<StoredName> {
        let (seq, number, random, id) = numbers;
        let backup = BackupId::new("2026-11-20T02:00:03Z".parse().unwrap(), random);
        let (object, epoch) = (ObjectId::from_bytes(id), EpochId::from_bytes(id));
        let writer: KeyName = writer.parse().unwrap();
        let lsn = |bytes| Lsn::from_bytes(bytes).unwrap();
        let timeline = TimelineId::new(start.2).unwrap();
        let range = WalRange { timeline, start: lsn(start.0), end: lsn(start.1) };
        vec![
            StoredName::Descriptor,
            StoredName::LogNote { seq },
            StoredName::LogBundle { first: seq, last: seq | 0xFF, sha256: Sha256Digest::from_bytes([id[0]; 32]) },
            StoredName::Slots { epoch, number },
            StoredName::Pack { backup: backup.clone(), number, object },
            StoredName::IndexShard { backup: backup.clone(), number },
            StoredName::PacksList { backup },
            StoredName::WalSegment(range),
            StoredName::TimelineHistory { timeline },
            StoredName::WalSlice(range),
            StoredName::Lease { writer: writer.clone() },
            StoredName::Head { writer },
            StoredName::Probe { id: object },
        ]
    }

    proptest! {
        #[test]
        fn every_name_is_read_back_from_its_key(
            numbers in any::<(u64, u32, u32, [u8; 16])>(),
            writer in "[a-z0-9][a-z0-9.-]{0,30}(/[a-z0-9][a-z0-9.-]{0,30})?",
            start in (1u64.., 1u64.., 1u32..),
        ) {
            for name in names(numbers, &writer, start) {
                prop_assert_eq!(parse(&name.key()), Some(name));
            }
        }

        #[test]
        fn any_key_is_parsed_without_panic(text in "(log|log/bundles|data|keys|wal|slices|state)?/?[a-z0-9./_-]{0,80}") {
            if let Ok(key) = text.parse::<ObjectKey>() && let Some(name) = parse(&key) {
                prop_assert_eq!(name.key(), key);
            }
        }
    }

    #[test]
    fn foreign_keys_are_no_names() {
        for text in [
            "log/1.note",
            "log/00000000000000000001.note.bak",
            "log/000000000000000000001.note",
            "log/0000000000000000000a.note",
            "log/99999999999999999999.note",
            "log/bundles/1-2-abababababababababababababababababababababababababababababababab.bundle",
            "log/bundles/00000000000000000001-00000000000000000002-abab.bundle",
            "lifeboat.jso",
            "data/20261120T020003Z-5f1c09ab/p00001-00000000000000000000000000000000.lbp",
            "data/20261120T020003Z-5f1c09ab/p000001-0000000000000000000000000000000A.lbp",
            "data/20261120T020003Z-5f1c09ab/p000001-0000000000000000000000000000000.lbp",
            "data/x/packs.sha256",
            "keys/00/0.json",
            "keys/00000000000000000000000000000000/00.json",
            "wal/00000001/0000000a00000028-0000000a00001028.lbs",
            "wal/00000000/0000000a00000028-0000000a00001028.lbw",
            "wal/0000000a0000000000000028-0000000a00001028.lbw",
            "wal/0000000A/0000000a00000028-0000000a00001028.lbw",
            "wal/00000001/0000000a00000028.lbw",
            "state/lease-.json",
            "state/other",
        ] {
            assert_eq!(parse(&text.parse().unwrap()), None, "{text}");
        }
    }

    #[test]
    fn wal_and_records_have_a_lane_of_their_own_beside_the_data_of_backups() {
        let data = "data/20261120T020003Z-5f1c09ab/index-0007.lbx";
        for about in [data, "data/", "wal/", "slices/", "log/00000000000000000001.note", "state/", "lifeboat.json", ""]
        {
            let is_data = about.starts_with("data/");
            let is_wal = about.starts_with("wal/") || about.starts_with("slices/");
            let lane = |is_bulk: bool| if is_bulk { Lane::Bulk } else { Lane::Urgent };
            assert_eq!(writers_lane(about), lane(is_data), "{about}");
            assert_eq!(readers_lane(about), lane(is_data || is_wal), "{about}");
        }
    }

    #[test]
    fn keys_look_as_documented() {
        let names = names((42, 7, 0x5f1c_09ab, [0xab; 16]), "db1.example/main", (0xA_0000_0028, 0xA_0000_1028, 7));
        let keys: Vec<String> = names.iter().map(|name| name.key().to_string()).collect();
        assert_eq!(
            keys,
            [
                "lifeboat.json",
                "log/00000000000000000042.note",
                "log/bundles/00000000000000000042-00000000000000000255-\
                 abababababababababababababababababababababababababababababababab.bundle",
                "keys/abababababababababababababababab/7.json",
                "data/20261120T020003Z-5f1c09ab/p000007-abababababababababababababababab.lbp",
                "data/20261120T020003Z-5f1c09ab/index-0007.lbx",
                "data/20261120T020003Z-5f1c09ab/packs.sha256",
                "wal/00000007/0000000a00000028-0000000a00001028.lbw",
                "wal/00000007/history.lbb",
                "slices/00000007/0000000a00000028-0000000a00001028.lbs",
                "state/lease-db1.example_main.json",
                "state/head-db1.example_main.note",
                "state/probe-abababababababababababababababab",
            ]
        );
    }
}
