//! Every alarm that this program can raise: one row here, and one page in `docs/runbooks`.

use std::fmt;

use lifeboat_vocabulary::RegionName;

/// How urgent something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Look at it in working hours.
    Warning,
    /// Somebody has to act now: data would be lost, or protection has ended.
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

/// Makes the enum, the list of its variants and its attributes from the same rows, so that none can lack in one of them.
macro_rules! alarms {
    ($($variant:ident: $severity:ident, $name:literal, $meaning:literal;)+) => {
        /// An alarm that this program can raise. Sorts as its name does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Alarm {
            $(#[doc = $meaning] $variant,)+
        }

        impl Alarm {
            /// Every alarm, sorted by name.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As users and stored files know it: it stays the same over versions.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// How urgent it is, unless whoever raises it knows better.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self {
                    $(Self::$variant => Severity::$severity,)+
                }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $meaning,)+
                }
            }

            /// The page of the documentation that says what to do.
            #[must_use]
            pub const fn runbook(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("docs/runbooks/", $name, ".md"),)+
                }
            }
        }
    };
}

alarms! {
    BackupDegraded: Warning, "backup-degraded",
        "The newest backup has not been in every region for more than an hour.";
    BackupFailed: Critical, "backup-failed",
        "The last backup failed; it is tried again until one works.";
    BackupIncomplete: Critical, "backup-incomplete",
        "Data of the cluster is missing in the newest backup; it does not count.";
    BackupOverdue: Critical, "backup-overdue",
        "There has been no good backup for one and a half times as long as the schedule says.";
    BackupSecondWriter: Critical, "backup-second-writer",
        "Another installation protects this cluster; this one makes no scheduled backups.";
    ClockWrong: Warning, "clock-wrong",
        "Something that was noted here is dated later than now: this host's clock was wrong then, or is wrong now.";
    ConfigRefused: Warning, "config-refused",
        "The configuration has faults or asks for what needs a restart; the old one stays in force.";
    DatabaseDamaged: Critical, "database-damaged",
        "Pages of the database are damaged, as the newest backup read them.";
    DeletionFrozen: Critical, "deletion-frozen",
        "Deletion stopped by itself because something is suspicious, until a person lifts it.";
    HealStuck: Warning, "heal-stuck",
        "Healing a region has not come to an end for more than an hour.";
    HttpUnavailable: Warning, "http-unavailable",
        "Nothing answers where status and metrics should be served.";
    LogDisagreement: Critical, "log-disagreement",
        "The regions' logs disagree, with each other or with what was seen before; deletion is frozen.";
    OverrideStale: Warning, "override-stale",
        "An environment variable has overridden the configuration for more than a day.";
    PauseStale: Warning, "pause-stale",
        "Something has been paused for more than a day, or a pause has just ended by itself.";
    PruneDisputed: Critical, "prune-disputed",
        "Somebody has ordered deletions that today's plan does not agree with; they are not carried out.";
    PruneForbidden: Warning, "prune-forbidden",
        "This role may not delete in a region, so that nothing that retention drops goes there.";
    PruneIncomplete: Warning, "prune-incomplete",
        "Backups that retention drops stay, because it cannot be known whether others need their objects.";
    PruneLocked: Warning, "prune-locked",
        "What retention has dropped stays locked in a region for longer than it was kept.";
    PruneRefused: Critical, "prune-refused",
        "Retention cannot be carried out in a region, because something does not fit together.";
    PruneUnusual: Warning, "prune-unusual",
        "Retention would delete unusually much, or without a fresh backup: a person has to look.";
    RegionAway: Warning, "region-away",
        "A region does not answer; critical if too few are left.";
    RegionBehind: Warning, "region-behind",
        "A region that answers has lacked backups that are kept, or WAL, for more than an hour.";
    RegionCapability: Critical, "region-capability",
        "A region no longer does what everything relies on, such as conditional writes.";
    RegionClockSkew: Warning, "region-clock-skew",
        "A region's clock and this host's are more than five minutes apart.";
    RegionDamaged: Critical, "region-damaged",
        "Stored objects in a region are damaged or missing and have not been replaced yet, or cannot be read.";
    RegionFailing: Warning, "region-failing",
        "A quarter or more of the requests to a region fail; critical if too few regions are left.";
    RegionSlow: Warning, "region-slow",
        "A region takes far longer than it used to.";
    ScrubLate: Warning, "scrub-late",
        "Stored objects have not been read back for longer than the period.";
    StateDamaged: Warning, "state-damaged",
        "A file of the state could not be read; work goes on without what it held.";
    StateNotWritable: Critical, "state-not-writable",
        "The state directory takes no writes; what is known now would not survive a restart.";
    TaskRestarting: Warning, "task-restarting",
        "A task fails again and again; it is restarted each time.";
    TaskWedged: Critical, "task-wedged",
        "A task has made no progress for longer than it may.";
    WalConflict: Critical, "wal-conflict",
        "Another writer has stored something else in a region, or holds it.";
    WalDamaged: Critical, "wal-damaged",
        "The server's WAL does not check out.";
    WalDisconnected: Critical, "wal-disconnected",
        "No server can be reached, or the stream keeps breaking.";
    WalGap: Critical, "wal-gap",
        "WAL is missing; a base backup has been ordered and is not there yet.";
    WalLost: Critical, "wal-lost",
        "WAL that was stored is gone from all regions: no restore crosses that.";
    WalRegion: Warning, "wal-region",
        "A region does not take WAL.";
    WalRpo: Critical, "wal-rpo",
        "The oldest commit that the quorum does not hold is older than the objective.";
    WalServerRefused: Critical, "wal-server-refused",
        "The server that was reached must not write into this repository.";
    WalSlotAtRisk: Critical, "wal-slot-at-risk",
        "The server keeps WAL for us, and its room comes to an end.";
    WalSpoolFull: Critical, "wal-spool-full",
        "The spool has no room: the server keeps the WAL.";
    WalUnverified: Critical, "wal-unverified",
        "An object under a name of WAL or of its keys is not signed by this repository's keys.";
}

impl Alarm {
    /// The alarm of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|alarm| alarm.name() == name)
    }

    /// This alarm about one thing, such as a task.
    #[must_use]
    pub fn about(self, subject: impl Into<String>) -> AlarmId {
        AlarmId { kind: self, subject: Some(subject.into()) }
    }

    /// This alarm about one region.
    #[must_use]
    pub fn of_region(self, region: &RegionName) -> AlarmId {
        self.about(region.as_str())
    }
}

/// Tells apart alarms of a kind that can be raised several times at once. Shown and stored as `wal-region/frankfurt`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AlarmId {
    /// Which alarm.
    pub kind: Alarm,
    /// What it concerns, such as a region, a task or a file; `None` if there is only one of its kind.
    pub subject: Option<String>,
}

impl AlarmId {
    /// Reads what [`fmt::Display`] writes; `None` if this version has no such alarm.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (name, subject) = match text.split_once('/') {
            Some((name, subject)) => (name, Some(subject.to_owned())),
            None => (text, None),
        };
        Some(Self { kind: Alarm::by_name(name)?, subject })
    }
}

impl From<Alarm> for AlarmId {
    fn from(kind: Alarm) -> Self {
        Self { kind, subject: None }
    }
}

impl fmt::Display for AlarmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Some(subject) => write!(f, "{}/{subject}", self.kind.name()),
            None => f.pad(self.kind.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_sort_by_a_name_of_their_own_that_can_stand_in_a_file_name() {
        for pair in Alarm::ALL.windows(2) {
            assert!(pair[0].name() < pair[1].name() && pair[0] < pair[1], "{pair:?}");
        }
        for alarm in Alarm::ALL {
            assert!(alarm.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{alarm:?}");
            assert!(alarm.meaning().ends_with('.'), "{alarm:?}");
            assert_eq!(alarm.runbook(), format!("docs/runbooks/{}.md", alarm.name()));
        }
    }

    #[test]
    fn an_alarm_id_is_read_back_from_its_text() {
        for &alarm in Alarm::ALL {
            let name = alarm.name();
            let subjects = [AlarmId::from(alarm), alarm.about("eu1"), alarm.about("main/runs.json"), alarm.about("")];
            let texts = [name.to_owned(), format!("{name}/eu1"), format!("{name}/main/runs.json"), format!("{name}/")];
            for (id, text) in subjects.into_iter().zip(texts) {
                assert_eq!(id.to_string(), text);
                assert_eq!(AlarmId::parse(&text), Some(id));
            }
        }
        for unknown in ["", "/", "wal", "wal-gap ", "Wal-Gap", "future-alarm", "future-alarm/eu1"] {
            assert_eq!(AlarmId::parse(unknown), None, "{unknown:?}");
        }
    }
}
