//! Every alarm that this program can raise: its rule, how grave it is, and what it means. For each of them there is a
//! runbook, `docs/runbooks/<rule>.md`.

/// How grave something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Look at it in working hours.
    Warning,
    /// Somebody has to act now: data would be lost, or protection has ended.
    Critical,
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, which stays the same over versions.
    pub name: &'static str,
    /// How grave it is.
    pub severity: Severity,
    /// What it means, in a sentence.
    pub summary: &'static str,
}

const fn critical(name: &'static str, summary: &'static str) -> Rule {
    Rule { name, severity: Severity::Critical, summary }
}

const fn warning(name: &'static str, summary: &'static str) -> Rule {
    Rule { name, severity: Severity::Warning, summary }
}

/// All rules, by name.
pub const RULES: &[Rule] = &[
    warning("backup-degraded", "The newest backup has not been in every region for more than an hour."),
    critical("backup-failed", "The last backup failed; it is tried again until one works."),
    critical("backup-overdue", "There has been no good backup for one and a half times as long as the schedule says."),
    critical(
        "backup-second-writer",
        "Another installation protects this cluster; this one makes no scheduled backups.",
    ),
    warning(
        "config-refused",
        "The configuration has faults or asks for what needs a restart; the old one stays in force.",
    ),
    critical("database-damaged", "Pages of the database are damaged, as the newest backup read them."),
    critical("deletion-frozen", "Deletion stopped by itself because something smells, until a person lifts it."),
    warning("http-unavailable", "Nothing answers where status and metrics should be served."),
    warning("heal-stuck", "Healing a region has not come to an end for more than an hour."),
    critical(
        "log-disagreement",
        "The regions' logs disagree, with each other or with what was seen before; deletion is frozen.",
    ),
    warning("override-stale", "An environment variable has overridden the configuration for more than a day."),
    warning("pause-stale", "Something has been paused for more than a day, or a pause has just ended by itself."),
    warning(
        "prune-forbidden",
        "This role may not delete in a region, so that nothing that retention drops goes there.",
    ),
    warning("prune-locked", "What retention has dropped stays locked in a region for longer than it was kept."),
    critical("prune-refused", "Retention cannot be carried out in a region, because something does not fit together."),
    warning("prune-unusual", "Retention would delete unusually much, or without a fresh backup: a person has to look."),
    warning("region-away", "A region does not answer; graver if too few are left."),
    critical("region-capability", "A region no longer does what everything relies on, such as conditional writes."),
    warning("region-clock-skew", "A region's clock and this host's are more than five minutes apart."),
    warning(
        "region-failing",
        "A quarter or more of the requests to a region fail; graver if too few regions are left.",
    ),
    warning("region-slow", "A region takes far longer than it used to."),
    warning("region-behind", "A region that answers has lacked backups that are kept, or WAL, for more than an hour."),
    critical("region-damaged", "Stored objects in a region are damaged, and no other region could replace them yet."),
    warning("scrub-late", "Stored objects have not been read back for longer than the period."),
    critical(
        "state-not-writable",
        "The state directory takes no writes; what is known now would not survive a restart.",
    ),
    warning("state-damaged", "A file of the state could not be read; work goes on without what it held."),
    warning("task-restarting", "A task fails again and again; it is begun anew each time."),
    critical("task-wedged", "A task has made no progress for longer than it may."),
    critical("wal-conflict", "Another writer has stored something else in a region, or holds it."),
    critical("wal-damaged", "The server's WAL does not check out."),
    critical("wal-disconnected", "No server can be reached, or the stream keeps breaking."),
    critical("wal-gap", "WAL is missing; a base backup has been ordered and is not there yet."),
    warning("wal-region", "A region does not take WAL."),
    critical("wal-rpo", "The oldest commit that the quorum does not hold is older than the objective."),
    critical("wal-server-refused", "The server that was reached must not write into this repository."),
    critical("wal-slot-at-risk", "The server keeps WAL for us, and its room comes to an end."),
    critical("wal-spool-full", "The spool has no room: the server keeps the WAL."),
];

/// The rule of that name.
#[must_use]
pub fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_name_of_its_own_that_can_stand_in_a_file_name() {
        let names: std::collections::BTreeSet<_> = RULES.iter().map(|rule| rule.name).collect();
        assert_eq!(names.len(), RULES.len());
        for rule in RULES {
            assert!(rule.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", rule.name);
            assert!(rule.summary.ends_with('.'), "{}", rule.name);
        }
    }
}
