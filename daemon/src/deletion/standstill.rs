//! What is frozen and paused for one cluster, as values: actions, triggers, freezes, pauses. Pure.

use std::fmt;
use std::time::Duration;

use lifeboat_vocabulary::{ClusterName, UtcTime};
use serde::{Deserialize, Serialize};

use crate::base::state::{optional_time_text, time_text};

/// A pause that is older is reported.
const STALE: Duration = Duration::from_secs(24 * 3600);
/// Findings that were lifted, and of one trigger at a time, that are kept: the oldest go first.
pub(crate) const FINDINGS_MAX: usize = 100;

/// What can be stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Removing backups and WAL that retention has dropped.
    Delete,
    /// Scheduled backups.
    Backup,
    /// Copying from region to region.
    Heal,
    /// Reading back what is stored.
    Scrub,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Delete, Self::Backup, Self::Heal, Self::Scrub];
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Delete => "delete",
            Self::Backup => "backup",
            Self::Heal => "heal",
            Self::Scrub => "scrub",
        })
    }
}

/// What froze deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// Verification failed several times in a row.
    VerifyFailures,
    /// A signature or the chain of a log does not check out, or a log is shorter than it was.
    LogMismatch,
    /// The logs of two regions contradict each other.
    RegionsDisagree,
    /// The database became much smaller.
    SizeCollapsed,
    /// The data can hardly be compressed any more: somebody may have encrypted it.
    CompressionCollapsed,
    /// The clock shows an earlier time than what is already recorded.
    ClockBackwards,
    /// There has been no good backup for too long.
    NoGoodBackup,
    /// The file that says what is frozen was damaged.
    StateLost,
    /// There are more backups of a day than the schedule explains.
    TooManyBackups,
    /// A record orders the deletion of backups that were not to go.
    SweepNotDue,
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::VerifyFailures => "verify-failures",
            Self::LogMismatch => "log-mismatch",
            Self::RegionsDisagree => "regions-disagree",
            Self::SizeCollapsed => "size-collapsed",
            Self::CompressionCollapsed => "compression-collapsed",
            Self::ClockBackwards => "clock-backwards",
            Self::NoGoodBackup => "no-good-backup",
            Self::StateLost => "state-lost",
            Self::TooManyBackups => "too-many-backups",
            Self::SweepNotDue => "sweep-not-due",
        })
    }
}

/// Deletion, frozen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// By what.
    pub trigger: Trigger,
    /// The finding, in words that stay the same while it is the same finding.
    pub why: String,
    /// Since when.
    #[serde(with = "time_text")]
    pub since: UtcTime,
}

impl Frozen {
    /// What it stops.
    pub(crate) fn stops(&self, cluster: &ClusterName) -> Stopped {
        let (who, why) = (self.trigger.to_string(), self.why.clone());
        Stopped { cluster: cluster.clone(), what: Action::Delete, since: self.since, who, why, expires: None }
    }
}

/// An action, paused by a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Which.
    pub action: Action,
    /// Why.
    pub reason: String,
    /// Who.
    pub owner: String,
    /// Since when.
    #[serde(with = "time_text")]
    pub since: UtcTime,
    /// When it ends by itself.
    #[serde(with = "optional_time_text", default)]
    pub expires: Option<UtcTime>,
}

impl Pause {
    /// Whether it has not ended by itself.
    #[must_use]
    pub fn in_force(&self, now: UtcTime) -> bool {
        self.expires.is_none_or(|end| now < end)
    }

    /// What it stops.
    pub(crate) fn stops(&self, cluster: &ClusterName) -> Stopped {
        let Self { action, reason, owner, since, expires } = self.clone();
        Stopped { cluster: cluster.clone(), what: action, since, who: owner, why: reason, expires }
    }

    /// What there is to say about it if somebody may have forgotten it.
    pub(crate) fn stale(&self, now: UtcTime) -> Option<String> {
        let Self { action, reason, owner, since, expires } = self;
        match expires {
            Some(end) if *end <= now => Some(format!(
                "the pause of {action} by {owner} since {since} ({reason}) ended by itself at {end}: it goes on"
            )),
            // One from a future that the clock has left is as old as nobody knows.
            _ if now.since(*since) > STALE || *since > now.plus(STALE) => {
                Some(format!("{action} has been paused by {owner} since {since}: {reason}. Is that still meant?"))
            }
            _ => None,
        }
    }
}

/// What is frozen and paused for one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standstill {
    /// Why deletion is frozen; empty if it is not.
    #[serde(default)]
    pub frozen: Vec<Frozen>,
    /// What persons have paused, also what has just ended by itself.
    #[serde(default)]
    pub pauses: Vec<Pause>,
    /// Findings that a person has lifted.
    #[serde(default)]
    lifted: Vec<(Trigger, String)>,
    /// Whether the regions' logs have been asked what was frozen and paused before this file was there.
    #[serde(default)]
    recalled: bool,
}

impl Standstill {
    /// Whether the finding is frozen, or was lifted.
    pub(crate) fn knows(&self, trigger: Trigger, why: &str) -> bool {
        let frozen = self.frozen.iter().map(|frozen| (frozen.trigger, frozen.why.as_str()));
        let lifted = self.lifted.iter().map(|(trigger, why)| (*trigger, why.as_str()));
        frozen.chain(lifted).any(|finding| finding == (trigger, why))
    }

    /// Freezes because of a finding; `false` if it is known, or there are too many.
    pub(crate) fn add(&mut self, finding: &Frozen) -> bool {
        let is_new = !self.knows(finding.trigger, &finding.why) && self.frozen.len() < FINDINGS_MAX;
        if is_new {
            self.frozen.push(finding.clone());
        }
        is_new
    }

    /// Everything that is frozen has been looked into; returns what it was.
    pub(crate) fn lift(&mut self) -> Vec<Frozen> {
        let thawed = std::mem::take(&mut self.frozen);
        self.lifted.extend(thawed.iter().map(|frozen| (frozen.trigger, frozen.why.clone())));
        let old = self.lifted.len().saturating_sub(FINDINGS_MAX);
        self.lifted.drain(..old);
        thawed
    }

    /// Whether a person has lifted this finding.
    pub(crate) fn was_lifted(&self, trigger: Trigger, why: &str) -> bool {
        self.lifted.iter().any(|(of, known)| *of == trigger && known == why)
    }

    /// Whether the regions' logs have been asked.
    pub(crate) fn is_recalled(&self) -> bool {
        self.recalled
    }

    /// Adds what the logs of the regions say; what is known here counts more.
    pub(crate) fn recall(&mut self, logged: Self) {
        let known = |lifted: &(Trigger, String)| self.knows(lifted.0, &lifted.1);
        let lifted: Vec<_> = logged.lifted.into_iter().filter(|lifted| !known(lifted)).collect();
        self.lifted.splice(..0, lifted);
        for frozen in &logged.frozen {
            self.add(frozen);
        }
        for pause in logged.pauses {
            if !self.pauses.iter().any(|known| known.action == pause.action) {
                self.pauses.push(pause);
            }
        }
        self.recalled = true;
    }
}

/// Why an action must not be done now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Stopped {
    /// Of which cluster.
    pub cluster: ClusterName,
    /// Which action.
    pub what: Action,
    /// Since when.
    pub since: UtcTime,
    /// The person, or the trigger of the freeze.
    pub who: String,
    /// Why.
    pub why: String,
    /// When it ends by itself; a freeze never does.
    pub expires: Option<UtcTime>,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, what, since, who, why, expires } = self;
        write!(f, "{what} of cluster {cluster} has been stopped by {who} since {since}: {why}")?;
        match expires {
            Some(expires) => write!(f, "; it goes on at {expires}"),
            None => write!(f, "; lift it with `lifeboatd resume --cluster {cluster} --action {what}`"),
        }
    }
}

/// What a resume has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resumed {
    /// Freezes.
    pub thawed: Vec<Frozen>,
    /// Pauses.
    pub ended: Vec<Pause>,
}
