//! What a restored copy is told about its recovery: where it gets WAL, where it stops, and what of the original it must
//! stay away from.
//!
//! Sources: PostgreSQL manual, chapters "Write Ahead Log: Archive Recovery, Recovery Target" and "Replication";
//! `src/backend/access/transam/xlogrecovery.c` (before 15 `xlog.c`), `src/backend/utils/misc/guc_tables.c`.

use std::fmt;
use std::ops::Range;

use lifeboat_vocabulary::{Lsn, TimelineId, UtcTime};

use crate::server::minimal_configuration::quoted;

/// The file in the data directory that makes the server recover and then open on a new timeline.
///
/// Without it the copy would go on with the timeline of the original, and two clusters would write different WAL under the
/// same names.
pub const RECOVERY_SIGNAL: &str = "recovery.signal";
/// The file in the data directory that makes the server recover for as long as nobody promotes it.
pub const STANDBY_SIGNAL: &str = "standby.signal";

/// The longest name of a restore point in bytes (`MAXFNAMELEN` - 1).
const NAME_MAX: usize = 63;

/// Which branch of history recovery follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryTimeline {
    /// That of the backup, whatever came after it.
    Current,
    /// The newest one that `restore_command` has a history of, counting without a gap.
    Latest,
    /// This one.
    Number(TimelineId),
}

/// Where recovery stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// At the end of the WAL.
    Latest,
    /// As soon as the copy is consistent.
    Immediate,
    /// At the first commit or abort after this time, or with [`TargetBound::Exclusive`] not before it.
    Time(UtcTime),
    /// At the first record that begins at or after this position: behind it, or with [`TargetBound::Exclusive`] before
    /// it. To stop right behind a record, give its end and `Exclusive`.
    Lsn(Lsn),
    /// At the end of this transaction: behind it, or with [`TargetBound::Exclusive`] before it.
    Xid(u32),
    /// Behind the first restore point of this name; the bound does not count.
    Name(String),
}

/// Whether what is at the target is part of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetBound {
    /// It is.
    Inclusive,
    /// It is not.
    Exclusive,
}

/// What the server does at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetAction {
    /// Opens for writes, on a new timeline.
    Promote,
    /// Lets people look, and waits for `pg_wal_replay_resume()`. Without hot standby it shuts down.
    Pause,
    /// Shuts down; the next start stops at the same place.
    Shutdown,
}

/// What becomes of the copy's logical replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscriptions {
    /// Subscriptions stay idle: they would use up the changes that are meant for the original.
    Off,
    /// They go on where the original's were: only for a copy that takes its place.
    Kept,
}

/// What the copy is to be.
#[derive(Clone, PartialEq, Eq)]
pub enum CopyRole {
    /// A cluster of its own.
    Primary,
    /// A standby that follows by `restore_command`, and from a primary if one is given.
    Standby {
        /// The primary's connection string, which may hold a password.
        primary_conninfo: Option<String>,
        /// A slot at the primary.
        slot: Option<String>,
    },
}

impl fmt::Debug for CopyRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("Primary"),
            Self::Standby { primary_conninfo, slot } => {
                let given = primary_conninfo.as_ref().map(|_| "..");
                f.debug_struct("Standby").field("primary_conninfo", &given).field("slot", slot).finish()
            }
        }
    }
}

/// What cannot be written as recovery settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverySettingsError {
    /// A name that no restore point has.
    #[error("`{name}` is not the name of a restore point (1 to 63 bytes)")]
    Name {
        /// What was given.
        name: String,
    },
    /// A value with a zero byte.
    #[error("the value of `{setting}` has a zero byte")]
    ZeroByte {
        /// The setting.
        setting: &'static str,
    },
}

/// Everything that a restored copy is told. [`RecoverySettings::carried`] gives the usual start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverySettings {
    /// The server's version as `SHOW server_version_num` gives it, such as 150020.
    pub version_num: u32,
    /// The command that fetches WAL and histories: `%f` the file, `%p` where to put it.
    pub restore_command: String,
    /// Which branch of history to follow.
    pub timeline: RecoveryTimeline,
    /// Where to stop.
    pub target: RecoveryTarget,
    /// Whether what is there is part of it.
    pub bound: TargetBound,
    /// What to do there.
    pub action: TargetAction,
    /// The copy's incarnation: it is another cluster now, although its system identifier is the original's. `None` leaves
    /// it as it is, which is right for a standby of the same cluster.
    pub incarnation: Option<String>,
    /// What becomes of logical replication.
    pub subscriptions: Subscriptions,
    /// What the copy is to be.
    pub role: CopyRole,
}

/// A setting, the versions that have it, and why it is set.
struct Line {
    name: &'static str,
    value: &'static str,
    versions: Range<u32>,
    why: &'static str,
}

const EVERY: Range<u32> = 0..u32::MAX;

const fn line(name: &'static str, value: &'static str, why: &'static str) -> Line {
    Line { name, value, versions: EVERY, why }
}

const fn line_for(versions: Range<u32>, name: &'static str, value: &'static str, why: &'static str) -> Line {
    Line { name, value, versions, why }
}

/// What keeps every copy away from the original.
const GUARDS: [Line; 12] = [
    line("recovery_min_apply_delay", "0", "a delayed standby's delay would hold up this recovery too"),
    line("recovery_end_command", "", "it was written for the original and may act on its machines"),
    line("archive_cleanup_command", "", "it would delete from the original's archive"),
    line("archive_mode", "off", "the copy must not write into the original's archive"),
    line("archive_command", "", "likewise"),
    line_for(15..u32::MAX, "archive_library", "", "likewise"),
    line_for(0..16, "promote_trigger_file", "", "a file of the original must not open the copy early"),
    line_for(0..15, "stats_temp_directory", "pg_stat_tmp", "the original writes its own there"),
    line("synchronous_standby_names", "", "no standby follows the copy yet: commits would wait for ever"),
    line("max_logical_replication_workers", "0", "subscriptions would use up the changes meant for the original"),
    line_for(17..u32::MAX, "sync_replication_slots", "off", "there is no primary to take slots from"),
    line_for(17..u32::MAX, "synchronized_standby_slots", "", "the slots that it names are not in the copy"),
];

/// All settings that are targets.
const TARGETS: [&str; 5] =
    ["recovery_target", "recovery_target_name", "recovery_target_time", "recovery_target_xid", "recovery_target_lsn"];

const HEADLINE: &str = "
# ---- added by lifeboat: this directory is a restored copy ----
# Each line keeps the copy away from something that belongs to the original, or tells it how to recover. Once the copy is
# to take the original's place, give each its own value again with ALTER SYSTEM SET, or ALTER SYSTEM RESET for that of
# postgresql.conf, and restart the server.
";

/// Name, value, and why.
type Setting = (&'static str, String, &'static str);

impl RecoverySettings {
    /// For a copy that carries all WAL that it needs in `pg_wal`: it recovers to the end of that on the timeline of the
    /// backup, and opens.
    #[must_use]
    pub fn carried(version_num: u32) -> Self {
        Self {
            version_num,
            restore_command: "false".to_owned(),
            timeline: RecoveryTimeline::Current,
            target: RecoveryTarget::Latest,
            bound: TargetBound::Inclusive,
            action: TargetAction::Promote,
            incarnation: None,
            subscriptions: Subscriptions::Off,
            role: CopyRole::Primary,
        }
    }

    /// The name of the empty file that must lie in the data directory before the copy is started.
    #[must_use]
    pub fn signal_file(&self) -> &'static str {
        match self.role {
            CopyRole::Primary => RECOVERY_SIGNAL,
            CopyRole::Standby { .. } => STANDBY_SIGNAL,
        }
    }

    /// A block to append to the copy's `postgresql.auto.conf`, whatever that ends with. It may hold the password of
    /// [`CopyRole::Standby`]: like the file itself it is for the server's account alone.
    ///
    /// # Errors
    /// [`RecoverySettingsError`] for values that no file can hold, or that mean nothing to the server.
    pub fn text(&self) -> Result<String, RecoverySettingsError> {
        match &self.target {
            RecoveryTarget::Name(name) if !(1..=NAME_MAX).contains(&name.len()) => {
                return Err(RecoverySettingsError::Name { name: name.clone() });
            }
            _ => {}
        }
        let settings = self.settings();
        match settings.iter().find(|(_, value, _)| value.contains('\0')) {
            Some((setting, _, _)) => Err(RecoverySettingsError::ZeroByte { setting }),
            None => Ok(block(&settings)),
        }
    }

    fn settings(&self) -> Vec<Setting> {
        let mut settings = vec![
            ("restore_command", self.restore_command.clone(), self.why_command()),
            ("recovery_target_timeline", self.timeline_value(), self.why_timeline()),
            ("recovery_target_inclusive", self.bound_value().to_owned(), "whether what is at the target is part of it"),
            ("recovery_target_action", self.action_value().to_owned(), self.why_action()),
        ];
        let target = self.target_setting();
        let is_target = |name: &str| target.as_ref().is_some_and(|(target, _, _)| *target == name);
        for name in TARGETS.into_iter().filter(|name| !is_target(name)) {
            settings.push((
                name,
                String::new(),
                "no target of the original's last recovery; two of them stop the start",
            ));
        }
        settings.extend(self.primary_settings());
        let major = self.version_num / 10_000;
        let fits = |line: &&Line| {
            let kept = line.name == "max_logical_replication_workers" && self.subscriptions == Subscriptions::Kept;
            line.versions.contains(&major) && !kept
        };
        settings.extend(GUARDS.iter().filter(fits).map(|line| (line.name, line.value.to_owned(), line.why)));
        if let Some(incarnation) = &self.incarnation {
            settings.push(("lifeboat.incarnation", incarnation.clone(), "the copy is not the original"));
        }
        // Behind the emptied ones: emptying one target once another one is set is taken for two targets.
        settings.extend(target);
        settings
    }

    fn why_command(&self) -> &'static str {
        match self.restore_command.as_str() {
            "false" => "the copy carries all WAL that it needs; a command is demanded all the same",
            _ => "fetches the WAL that the copy does not carry",
        }
    }

    fn timeline_value(&self) -> String {
        match self.timeline {
            RecoveryTimeline::Current => "current".to_owned(),
            RecoveryTimeline::Latest => "latest".to_owned(),
            RecoveryTimeline::Number(timeline) => timeline.to_string(),
        }
    }

    fn why_timeline(&self) -> &'static str {
        match self.timeline {
            RecoveryTimeline::Current => "stay on the timeline of the backup, whatever came after it",
            RecoveryTimeline::Latest => "follow the newest branch of history",
            RecoveryTimeline::Number(_) => "follow this branch of history",
        }
    }

    fn bound_value(&self) -> &'static str {
        match self.bound {
            TargetBound::Inclusive => "on",
            TargetBound::Exclusive => "off",
        }
    }

    fn action_value(&self) -> &'static str {
        match self.action {
            TargetAction::Promote => "promote",
            TargetAction::Pause => "pause",
            TargetAction::Shutdown => "shutdown",
        }
    }

    fn why_action(&self) -> &'static str {
        match self.action {
            TargetAction::Promote => "open for writes at the end instead of waiting for somebody",
            TargetAction::Pause => "wait at the target for pg_wal_replay_resume()",
            TargetAction::Shutdown => "stop at the target, at every start again",
        }
    }

    fn target_setting(&self) -> Option<Setting> {
        let (name, value) = match &self.target {
            RecoveryTarget::Latest => return None,
            RecoveryTarget::Immediate => ("recovery_target", "immediate".to_owned()),
            RecoveryTarget::Time(time) => ("recovery_target_time", with_offset(*time)),
            RecoveryTarget::Lsn(lsn) => ("recovery_target_lsn", lsn.to_string()),
            RecoveryTarget::Xid(xid) => ("recovery_target_xid", xid.to_string()),
            RecoveryTarget::Name(name) => ("recovery_target_name", name.clone()),
        };
        Some((name, value, "where recovery stops"))
    }

    fn primary_settings(&self) -> [Setting; 2] {
        let (conninfo, slot) = match &self.role {
            CopyRole::Primary => (None, None),
            CopyRole::Standby { primary_conninfo, slot } => (primary_conninfo.clone(), slot.clone()),
        };
        let why = match conninfo {
            None => ["the copy must not stream from the original's primary", "nor use up its slot"],
            Some(_) => ["the primary to follow", "the slot that the primary holds for this standby"],
        };
        let [why_conninfo, why_slot] = why;
        [
            ("primary_conninfo", conninfo.unwrap_or_default(), why_conninfo),
            ("primary_slot_name", slot.unwrap_or_default(), why_slot),
        ]
    }
}

fn block(settings: &[Setting]) -> String {
    settings
        .iter()
        .fold(HEADLINE.to_owned(), |text, (name, value, why)| format!("{text}{name} = {}    # {why}\n", quoted(value)))
}

/// A time as every version reads it, whatever its `timezone` and `datestyle`.
fn with_offset(time: UtcTime) -> String {
    format!("{}.{:06}+00", time.for_tables(), time.as_unix_micros().rem_euclid(1_000_000))
}

/// The block of [`RecoverySettings::carried`].
#[must_use]
pub fn recovered_copy_settings(version_num: u32) -> String {
    block(&RecoverySettings::carried(version_num).settings())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a block as names and values, the last one of a name alone: what the server takes.
    fn lines(text: &str) -> Vec<(String, String)> {
        let settings = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = '"));
        settings.map(|(name, rest)| (name.to_owned(), rest.rsplit_once("'    # ").unwrap().0.to_owned())).collect()
    }

    #[test]
    fn values_that_cannot_be_written_are_refused() {
        let settings = RecoverySettings::carried(150_020);
        let name = |name: &str| RecoverySettings { target: RecoveryTarget::Name(name.to_owned()), ..settings.clone() };
        for (why, settings, expected) in [
            ("empty means no target", name(""), RecoverySettingsError::Name { name: String::new() }),
            ("too long", name(&"x".repeat(64)), RecoverySettingsError::Name { name: "x".repeat(64) }),
            ("zero byte", name("a\0b"), RecoverySettingsError::ZeroByte { setting: "recovery_target_name" }),
            (
                "zero byte in a command",
                RecoverySettings { restore_command: "a\0".to_owned(), ..settings.clone() },
                RecoverySettingsError::ZeroByte { setting: "restore_command" },
            ),
        ] {
            assert_eq!(settings.text(), Err(expected), "{why}");
        }
    }

    #[test]
    fn a_version_is_given_only_settings_that_it_has() {
        for (version, has, has_not) in [
            (130_023, vec!["promote_trigger_file"], vec!["archive_library", "sync_replication_slots"]),
            (150_020, vec!["promote_trigger_file", "archive_library"], vec!["sync_replication_slots"]),
            (160_014, vec!["archive_library"], vec!["promote_trigger_file", "sync_replication_slots"]),
            (180_006, vec!["archive_library", "sync_replication_slots"], vec!["promote_trigger_file"]),
        ] {
            let text = recovered_copy_settings(version);
            let sets = |name: &&str| text.contains(&format!("\n{name} = "));
            assert!(has.iter().all(sets), "{version}: {text}");
            assert!(!has_not.iter().any(sets), "{version}: {text}");
        }
    }

    #[test]
    fn every_line_of_the_block_tells_why_and_none_comes_twice() {
        let text = recovered_copy_settings(180_000);
        // The file before may not end with a line's end.
        assert!(text.starts_with('\n') && text.ends_with('\n'));
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(" = ")).collect();
        assert_eq!(lines.len(), 4 + TARGETS.len() + 2 + GUARDS.len() - 2);
        assert!(lines.iter().all(|line| line.contains("'    # ")), "{text}");
        let names: std::collections::HashSet<&str> =
            lines.iter().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name).collect();
        assert_eq!(names.len(), lines.len());
    }

    #[test]
    fn the_target_setting_comes_after_the_emptied_ones() {
        let time: UtcTime = "2026-11-20T03:41:07.00005+01:00".parse().unwrap();
        for (target, name, value) in [
            (RecoveryTarget::Immediate, "recovery_target", "immediate"),
            (RecoveryTarget::Time(time), "recovery_target_time", "2026-11-20 02:41:07.000050+00"),
            (RecoveryTarget::Lsn("16/B374D848".parse().unwrap()), "recovery_target_lsn", "16/B374D848"),
            (RecoveryTarget::Xid(4_000_000_000), "recovery_target_xid", "4000000000"),
            (RecoveryTarget::Name("it's\nover".to_owned()), "recovery_target_name", "it''s\\nover"),
        ] {
            let text = RecoverySettings { target, ..RecoverySettings::carried(140_000) }.text().unwrap();
            let lines = lines(&text);
            assert_eq!(lines.last().unwrap(), &(name.to_owned(), value.to_owned()));
            let set = lines.iter().filter(|(name, value)| TARGETS.contains(&name.as_str()) && !value.is_empty());
            assert_eq!((set.count(), lines.iter().filter(|(n, _)| n == name).count()), (1, 1), "{text}");
        }
    }

    #[test]
    fn the_primary_of_a_standby_is_set_and_its_password_is_never_printed() {
        let role =
            CopyRole::Standby { primary_conninfo: Some("password=hunter2".to_owned()), slot: Some("s".to_owned()) };
        let settings = RecoverySettings {
            role,
            timeline: RecoveryTimeline::Number(TimelineId::new(10).unwrap()),
            subscriptions: Subscriptions::Kept,
            incarnation: Some("00ff".to_owned()),
            ..RecoverySettings::carried(180_000)
        };
        assert!(!format!("{settings:?}").contains("hunter2"));
        assert_eq!(settings.signal_file(), STANDBY_SIGNAL);
        let lines = lines(&settings.text().unwrap());
        for (name, value) in [
            ("primary_conninfo", "password=hunter2"),
            ("primary_slot_name", "s"),
            ("recovery_target_timeline", "10"),
            ("lifeboat.incarnation", "00ff"),
        ] {
            assert!(lines.contains(&(name.to_owned(), value.to_owned())), "{name}: {lines:?}");
        }
        assert!(!lines.iter().any(|(name, _)| name == "max_logical_replication_workers"));
    }
}
