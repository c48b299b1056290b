//! What records say about the care for what is stored: what is kept no longer and why, what is deleted, what is held, what
//! was found damaged and healed, and what people did.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use lifeboat_stores::ObjectKey;
use lifeboat_vocabulary::{BackupId, ByteCount, Lsn, RegionName, TimelineId, UtcTime};
use serde::{Deserialize, Serialize};

use crate::format::ids::{EpochId, HoldId};
use crate::format::json_text::{as_optional_text, as_text, as_texts, bytes, timeline};

/// Backups that one `forget` record names at most.
pub(crate) const FORGOTTEN_MAX: usize = 1000;
/// Backups that a list of any other record names at most.
pub const BACKUPS_MAX: usize = 4096;
/// Epochs that one `sweep-intent` record names at most.
pub(crate) const EPOCHS_SWEPT_MAX: usize = 10_000;
/// Timelines that a list of a `sweep-intent` record names at most.
const FLOORS_MAX: usize = 1000;
/// Objects that a `damage` record names at most; it counts all.
pub(crate) const OBJECTS_NAMED_MAX: usize = 100;
/// Places of `damage` records that one `healed` record settles at most.
pub(crate) const SETTLED_MAX: usize = 10_000;
/// The longest reason that a person gives, in **bytes**.
pub const REASON_BYTES_MAX: usize = 500;
/// The longest name of a person, in **bytes**.
pub const OWNER_BYTES_MAX: usize = 100;
/// The longest sentence about one backup that is forgotten, in **bytes**.
pub(crate) const WHY_BYTES_MAX: usize = 200;
/// The longest subject of an `audit` record, in **bytes**.
pub const SUBJECT_BYTES_MAX: usize = 200;
const ACTION_BYTES_MAX: usize = 40;
const ZONE_BYTES_MAX: usize = 100;

/// Backups that leave the kept set of this region. They can be restored until a `sweep-intent` names them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetRecord {
    /// Which, and why each of them.
    pub backups: Vec<Forgotten>,
    /// The policy that decided.
    pub policy: PolicyText,
    /// Before this time no sweep takes them, by the clock of the sweeper.
    #[serde(with = "as_text")]
    pub not_before: UtcTime,
}

/// A backup that is kept no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// Its name.
    #[serde(with = "as_text")]
    pub backup: BackupId,
    /// Why no rule keeps it, for a person: at most `WHY_BYTES_MAX` bytes.
    pub why: String,
}

/// Backups of which a `forget` record says that they leave, and that are kept again: by another policy, or because the
/// point-in-time window starts from them. To leave, they have to be forgotten anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepRecord {
    /// Which.
    #[serde(with = "as_texts")]
    pub backups: Vec<BackupId>,
}

/// A retention policy as it stood when it decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyText {
    /// The time zone that days, weeks and months are counted in, by its IANA name.
    pub timezone: String,
    /// Days.
    pub daily: u32,
    /// Weeks.
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
    /// The newest backups that are kept in any case.
    pub min_keep: u32,
    /// How far back every moment can be reached, in **seconds**.
    pub window_seconds: u64,
}

/// What is deleted in this region from here on. After this record, what it names does not exist here any more, whether
/// it is deleted already or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepIntentRecord {
    /// Backups of which a record stands in this log: everything below their folder.
    #[serde(with = "as_texts", default, skip_serializing_if = "Vec::is_empty")]
    pub backups: Vec<BackupId>,
    /// Backups of which no record stands in this log: everything below their folder. None can be written any more.
    #[serde(with = "as_texts", default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<BackupId>,
    /// Epochs under whose keys nothing is left in this region: their slots.
    #[serde(with = "as_texts", default, skip_serializing_if = "Vec::is_empty")]
    pub epochs: Vec<EpochId>,
    /// WAL, pieces and slices, that ends at or below these positions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wal: Vec<WalFloor>,
    /// Slices that end at or below these positions, where this region has the pieces that they are parts of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<WalFloor>,
}

/// Where the WAL of a timeline begins that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WalFloor {
    /// The timeline.
    #[serde(rename = "tli", with = "timeline")]
    pub timeline: TimelineId,
    /// Position of the first byte that is kept.
    #[serde(with = "as_text")]
    pub before: Lsn,
}

/// How a sweep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepDoneRecord {
    /// Place of the `sweep-intent` in this log.
    pub intent: u64,
    /// Objects that were deleted.
    pub objects: u64,
    /// Their size in **bytes**.
    #[serde(with = "bytes")]
    pub bytes: ByteCount,
    /// Objects that the store does not let go yet. If there are any, the intent is not finished, and is tried again.
    pub locked: u64,
}

/// A backup is not forgotten, and not swept, as long as the hold stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRecord {
    /// The hold.
    #[serde(with = "as_text")]
    pub hold: HoldId,
    /// The backup.
    #[serde(with = "as_text")]
    pub backup: BackupId,
    /// Why, at most [`REASON_BYTES_MAX`] bytes.
    pub reason: String,
    /// Who says so, at most [`OWNER_BYTES_MAX`] bytes.
    pub owner: String,
    /// When it ends by itself; absent if only a release ends it.
    #[serde(with = "as_optional_text", default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UtcTime>,
}

/// A hold has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseRecord {
    /// The hold.
    #[serde(with = "as_text")]
    pub hold: HoldId,
    /// Why, at most [`REASON_BYTES_MAX`] bytes.
    pub reason: String,
    /// Who says so, at most [`OWNER_BYTES_MAX`] bytes.
    pub owner: String,
}

/// Objects of this region that are missing or are not what was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamageRecord {
    /// The backup that cannot be restored from this region alone; absent if it is the stream of WAL.
    #[serde(with = "as_optional_text", default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupId>,
    /// The first `OBJECTS_NAMED_MAX` of them.
    #[serde(with = "as_texts", default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<ObjectKey>,
    /// How many they are.
    pub count: u64,
    /// Who found them.
    #[serde(with = "as_text")]
    pub found_by: FoundBy,
}

/// Who found damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FoundBy {
    /// The scrub that reads everything in turn.
    Scrub,
    /// A check that was requested.
    Verify,
    /// A restore.
    Restore,
    /// A finder that another version knows.
    Other,
}

/// Objects of this region were restored from another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealedRecord {
    /// The backups that it was done for.
    #[serde(with = "as_texts", default, skip_serializing_if = "Vec::is_empty")]
    pub backups: Vec<BackupId>,
    /// Places in this log of the `damage` records that are mended, at most `SETTLED_MAX`. No other is: what was found while
    /// the healing ran stays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settles: Vec<u64>,
    /// Objects that were copied.
    pub objects: u64,
    /// Their size in **bytes**.
    #[serde(with = "bytes")]
    pub bytes: ByteCount,
    /// The region that had them; the region itself where there is no other one and all was intact in its place.
    #[serde(with = "as_text")]
    pub from: RegionName,
}

/// What was done by hand, or by the program on its own, beside backing up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// What: a word such as `pause`, `resume`, `freeze`, `thaw`, `override`, `key-change`, `adopt`, `retention-apply`.
    pub action: String,
    /// What it was done to, at most [`SUBJECT_BYTES_MAX`] bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Why, at most [`REASON_BYTES_MAX`] bytes.
    pub reason: String,
    /// Who, at most [`OWNER_BYTES_MAX`] bytes.
    pub owner: String,
    /// When it ends by itself; absent if it does not.
    #[serde(with = "as_optional_text", default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UtcTime>,
}

/// Whether a text from outside may stand in a record: not blank, at most `max` **bytes**, one line, nothing that steers
/// a terminal.
#[must_use]
pub fn is_plain_text(text: &str, max: usize) -> bool {
    !text.trim().is_empty() && text.len() <= max && !text.chars().any(char::is_control)
}

fn each_once<T: Ord>(values: impl IntoIterator<Item = T>) -> bool {
    let mut seen = BTreeSet::new();
    values.into_iter().all(|value| seen.insert(value))
}

fn check_person(reason: &str, owner: &str) -> Result<(), &'static str> {
    if !is_plain_text(reason, REASON_BYTES_MAX) {
        return Err("its reason is empty, too long, or not one line of text");
    }
    if !is_plain_text(owner, OWNER_BYTES_MAX) {
        return Err("its owner is empty, too long, or not one line of text");
    }
    Ok(())
}

impl ForgetRecord {
    /// What contradicts itself, if anything does.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.backups.is_empty() || self.backups.len() > FORGOTTEN_MAX {
            return Err("it forgets nothing, or too many backups at once");
        }
        if !each_once(self.backups.iter().map(|forgotten| &forgotten.backup)) {
            return Err("it forgets a backup twice");
        }
        if self.backups.iter().any(|forgotten| !is_plain_text(&forgotten.why, WHY_BYTES_MAX)) {
            return Err("it does not say why it forgets a backup, or not in one short line");
        }
        if is_plain_text(&self.policy.timezone, ZONE_BYTES_MAX) { Ok(()) } else { Err("its time zone has no name") }
    }
}

impl KeepRecord {
    /// What contradicts itself, if anything does.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.backups.is_empty() || self.backups.len() > BACKUPS_MAX || !each_once(&self.backups) {
            return Err("it keeps nothing, too many backups at once, or one twice");
        }
        Ok(())
    }
}

impl SweepIntentRecord {
    /// Whether it names nothing at all: such a record is not written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { backups, leftovers, epochs, wal, slices } = self;
        backups.is_empty() && leftovers.is_empty() && epochs.is_empty() && wal.is_empty() && slices.is_empty()
    }

    /// What contradicts itself, if anything does.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.is_empty() {
            return Err("it sweeps nothing");
        }
        if self.backups.len() > BACKUPS_MAX
            || self.leftovers.len() > BACKUPS_MAX
            || self.epochs.len() > EPOCHS_SWEPT_MAX
            || self.wal.len() > FLOORS_MAX
            || self.slices.len() > FLOORS_MAX
        {
            return Err("it sweeps too much at once");
        }
        if !each_once(self.backups.iter().chain(&self.leftovers)) || !each_once(&self.epochs) {
            return Err("it sweeps something twice");
        }
        if !each_once(self.wal.iter().map(|floor| floor.timeline))
            || !each_once(self.slices.iter().map(|floor| floor.timeline))
        {
            return Err("it has two floors for one timeline");
        }
        Ok(())
    }
}

impl SweepDoneRecord {
    /// What contradicts itself, if anything does; `seq` is its place in the log.
    pub(crate) fn check(self, seq: u64) -> Result<(), &'static str> {
        if (1..seq).contains(&self.intent) { Ok(()) } else { Err("it ends a sweep that was not begun before it") }
    }
}

impl HoldRecord {
    /// Whether it has not ended by itself at `now`.
    #[must_use]
    pub(crate) fn lasts_at(&self, now: UtcTime) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    /// What contradicts itself, if anything does.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        check_person(&self.reason, &self.owner)
    }
}

impl ReleaseRecord {
    /// What contradicts itself, if anything does.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        check_person(&self.reason, &self.owner)
    }
}

impl DamageRecord {
    /// What contradicts itself, if anything does.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.objects.len() > OBJECTS_NAMED_MAX {
            return Err("it names too many damaged objects");
        }
        if self.count == 0 || self.count < self.objects.len() as u64 {
            return Err("it counts fewer damaged objects than it has");
        }
        Ok(())
    }
}

impl HealedRecord {
    /// What contradicts itself, if anything does; `seq` is its place in the log.
    pub(crate) fn check(&self, seq: u64) -> Result<(), &'static str> {
        if self.backups.len() > BACKUPS_MAX || !each_once(&self.backups) {
            return Err("it heals a backup twice, or too many at once");
        }
        if self.settles.len() > SETTLED_MAX || !each_once(&self.settles) {
            return Err("it settles a record twice, or too many at once");
        }
        if self.settles.iter().any(|place| !(1..seq).contains(place)) {
            return Err("it settles damage that was not recorded before it");
        }
        Ok(())
    }
}

impl AuditRecord {
    /// What contradicts itself, if anything does.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let is_word = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        if self.action.is_empty() || self.action.len() > ACTION_BYTES_MAX || !is_word(&self.action) {
            return Err("its action is not a word");
        }
        if self.subject.as_ref().is_some_and(|subject| !is_plain_text(subject, SUBJECT_BYTES_MAX)) {
            return Err("its subject is empty, too long, or not one line of text");
        }
        check_person(&self.reason, &self.owner)
    }
}

impl fmt::Display for PolicyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { timezone, daily, weekly, monthly, min_keep, window_seconds } = self;
        let (amount, unit) = match window_seconds {
            seconds if seconds % 86_400 == 0 => (seconds / 86_400, "d"),
            seconds if seconds % 3600 == 0 => (seconds / 3600, "h"),
            seconds => (*seconds, "s"),
        };
        write!(f, "{daily} daily, {weekly} weekly, {monthly} monthly, every moment of {amount}{unit}, ")?;
        write!(f, "at least {min_keep}, in time zone {timezone}")
    }
}

impl FoundBy {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Scrub, Self::Verify, Self::Restore, Self::Other];
}

impl fmt::Display for FoundBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Scrub => "scrub",
            Self::Verify => "verify",
            Self::Restore => "restore",
            Self::Other => "other",
        })
    }
}

impl FromStr for FoundBy {
    type Err = std::convert::Infallible;

    /// A word that is not known is [`Self::Other`]: damage stays damage, whatever found it.
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Ok(Self::ALL.into_iter().find(|found_by| found_by.to_string() == word).unwrap_or(Self::Other))
    }
}

#[cfg(test)]
mod tests;
