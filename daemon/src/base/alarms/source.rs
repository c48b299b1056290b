//! Who raises and clears alarms.

use std::fmt;

use lifeboat_vocabulary::ClusterName;

/// What part of the daemon reports. Sorts as its stored word does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SourceKind {
    /// Comparing the logs of a cluster's regions.
    Agreement,
    /// Reloading the configuration.
    Config,
    /// The search for state files that were put aside as damaged.
    Damage,
    /// Freezes and pauses of a cluster.
    Freeze,
    /// Healing a cluster's regions.
    Heal,
    /// The web server.
    Http,
    /// The comparison of the WAL of a cluster's regions with what must be there.
    LostWal,
    /// Settings overridden by environment variables.
    Overrides,
    /// Retention of a cluster.
    Prune,
    /// The health of a cluster's regions.
    Regions,
    /// Scheduled backups of a cluster.
    Schedule,
    /// Reading a cluster's stored objects back.
    Scrub,
    /// Whether the state directory takes writes.
    State,
    /// The supervisor of tasks, per cluster and for the daemon as a whole.
    Supervisor,
    /// Continuous WAL of a cluster.
    Wal,
}

impl SourceKind {
    /// The word in the file of alarms; it stays the same over versions.
    #[must_use]
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Agreement => "agreement",
            Self::Config => "config",
            Self::Damage => "damage",
            Self::Freeze => "freeze",
            Self::Heal => "heal",
            Self::Http => "http",
            Self::LostWal => "lost-wal",
            Self::Overrides => "overrides",
            Self::Prune => "prune",
            Self::Regions => "regions",
            Self::Schedule => "schedule",
            Self::Scrub => "scrub",
            Self::State => "state",
            Self::Supervisor => "supervisor",
            Self::Wal => "wal",
        }
    }
}

/// Who reports. Stored as `cluster|word`, the cluster empty for the daemon.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source {
    /// About which cluster; `None`: about the daemon as a whole.
    pub(crate) cluster: Option<ClusterName>,
    /// Which part of the daemon.
    pub(crate) kind: SourceKind,
}

impl Source {
    /// A source for one cluster.
    #[must_use]
    pub(crate) fn of(cluster: &ClusterName, kind: SourceKind) -> Self {
        Self { cluster: Some(cluster.clone()), kind }
    }

    /// A source for the daemon as a whole.
    #[must_use]
    pub(crate) fn daemon(kind: SourceKind) -> Self {
        Self { cluster: None, kind }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cluster = self.cluster.as_ref().map_or("", ClusterName::as_str);
        write!(f, "{cluster}|{}", self.kind.word())
    }
}
