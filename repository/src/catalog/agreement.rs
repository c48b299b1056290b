//! Whether the logs of all regions agree: with each other, and with what was seen before. Pure.
//!
//! A region that has *less* was away, and is healed. A region that says something *else*, or has less than it had, was
//! tampered with, was set back, or has a writer that it should not have: then nothing is deleted until a person has
//! looked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lifeboat_vocabulary::{BackupId, RegionName, Sha256Digest, counted, error_chain};

use crate::format::key_name::KeyName;
use crate::log::error::LogError;
use crate::log::link::LogHead;
use crate::log::note::NoteError;
use crate::log::records::record::{Record, RecordBody};
use crate::log::records::wal::GapScope;
use crate::log::region_log::RegionLog;

/// So many objects and records of each kind are named for one region; whoever looks at the first finds the others.
const INTRUSIONS_NAMED: usize = 20;

/// The log of one region, as it was read.
#[derive(Debug)]
pub struct LogReading<'a> {
    /// The region.
    pub region: &'a RegionName,
    /// Its log, or why it could not be read.
    pub log: Result<&'a RegionLog, &'a LogError>,
    /// The end of its log as its writers saw it, from their heads in this region. Read before the log, which only grows.
    pub heads: Vec<(KeyName, LogHead)>,
}

/// The ends of all logs as this installation has seen them.
pub type RememberedHeads = BTreeMap<RegionName, LogHead>;

/// Where it is known from that a log was different.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Observer {
    /// This installation remembers it.
    Memory,
    /// A writer has signed it.
    Head(KeyName),
}

impl fmt::Display for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("this installation has seen it"),
            Self::Head(writer) => write!(f, "{writer} has signed it"),
        }
    }
}

/// Who made an object that is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorship {
    /// Nobody who has a key of the repository.
    Strange,
    /// Whoever has one of its keys.
    Ours,
}

/// Something that a person has to explain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Disagreement {
    /// A log is shorter than it was.
    #[error("the log of {region} was set back: it had a record {remembered} ({observer}), and now has {}", counted(*.found, "record", "records"))]
    RolledBack {
        /// The region.
        region: RegionName,
        /// The last place that was seen.
        remembered: u64,
        /// How many records there are.
        found: u64,
        /// Where that is known from.
        observer: Observer,
    },
    /// Another record, just as validly signed, stands where one was seen before.
    #[error("the log of {region} was forked: record {seq} had SHA-256 {remembered} ({observer}) and now has {found}")]
    Forked {
        /// The region.
        region: RegionName,
        /// The place.
        seq: u64,
        /// What was seen.
        remembered: Sha256Digest,
        /// What is there.
        found: Sha256Digest,
        /// Where that is known from.
        observer: Observer,
    },
    /// A record is signed by an unknown key.
    #[error("record {seq} of the log of {region} is not signed by a key of this repository")]
    UnknownSigner {
        /// The region.
        region: RegionName,
        /// The place.
        seq: u64,
    },
    /// An object lies at a place of the log, and is no record of it.
    #[error("the object at place {seq} of the log of {region} is no record: {why}")]
    Outside {
        /// The region.
        region: RegionName,
        /// The place.
        seq: u64,
        /// SHA-256 of the object; `None` if it is larger than any record.
        sha256: Option<Sha256Digest>,
        /// Whether a key of the repository has signed it.
        authorship: Authorship,
        /// Why it is none.
        why: String,
    },
    /// A record stands in the log that its key may not write; nobody counts it.
    #[error("record {seq} of the log of {region}, of kind {kind}, does not count: {why}")]
    Refused {
        /// The region.
        region: RegionName,
        /// The place.
        seq: u64,
        /// What it calls itself.
        kind: String,
        /// Why it does not count.
        why: String,
    },
    /// A log contradicts itself.
    #[error("the log of {region} is not what was written: {what}")]
    Broken {
        /// The region.
        region: RegionName,
        /// How.
        what: String,
    },
    /// Two signed records of one backup.
    #[error("backup {backup} is not the same in {first} and {second}: two signed records disagree")]
    Backup {
        /// The backup.
        backup: BackupId,
        /// A region.
        first: RegionName,
        /// Another one.
        second: RegionName,
    },
    /// Two signed records about one event.
    #[error(
        "{writer} says two things under one count ({wseq}) in {first} and {second}: two programs write under one name"
    )]
    Event {
        /// The writer.
        writer: KeyName,
        /// Its count.
        wseq: u64,
        /// A region.
        first: RegionName,
        /// Another one.
        second: RegionName,
    },
}

impl Disagreement {
    /// The finding in words that stay the same from look to look, however the logs grow.
    #[must_use]
    pub fn finding(&self) -> String {
        match self {
            Self::RolledBack { region, remembered, observer: Observer::Memory, .. } => {
                format!("the log of {region} was set back behind record {remembered}")
            }
            Self::RolledBack { region, observer: Observer::Head(writer), .. } => {
                format!("the log of {region} was set back behind what {writer} has signed")
            }
            Self::Forked { region, observer: Observer::Head(writer), .. } => {
                format!("the log of {region} was forked from what {writer} has signed")
            }
            // Why it is none depends on how far the log has come.
            Self::Outside { region, seq, sha256, .. } => {
                let object = sha256.map_or_else(|| "a large object".to_owned(), |sha256| format!("SHA-256 {sha256}"));
                format!("the object at place {seq} of the log of {region} is no record ({object})")
            }
            other => other.to_string(),
        }
    }

    /// Whether the log of the region is not what it was. What only lies in it, or only stands in it without counting, changes
    /// nothing about the rest.
    #[must_use]
    pub fn changes_history(&self) -> bool {
        match self {
            Self::RolledBack { .. } | Self::Forked { .. } | Self::UnknownSigner { .. } | Self::Broken { .. } => true,
            Self::Outside { authorship, .. } => *authorship == Authorship::Ours,
            Self::Refused { .. } | Self::Backup { .. } | Self::Event { .. } => false,
        }
    }

    /// The region whose log is not to be trusted, if it is one alone.
    #[must_use]
    pub fn region(&self) -> Option<&RegionName> {
        match self {
            Self::RolledBack { region, .. }
            | Self::Forked { region, .. }
            | Self::UnknownSigner { region, .. }
            | Self::Outside { region, .. }
            | Self::Refused { region, .. }
            | Self::Broken { region, .. } => Some(region),
            Self::Backup { .. } | Self::Event { .. } => None,
        }
    }
}

/// Compares the logs with each other and with what is remembered. Regions that do not answer are left out.
#[must_use]
pub fn disagreements(readings: &[LogReading<'_>], remembered: &RememberedHeads) -> Vec<Disagreement> {
    let mut found = Vec::new();
    for LogReading { region, log, heads } in readings {
        match log {
            Ok(log) => {
                let seen = remembered.get(*region).map(|head| (Observer::Memory, *head));
                let signed = heads.iter().map(|(writer, head)| (Observer::Head(writer.clone()), *head));
                found.extend(
                    seen.into_iter()
                        .chain(signed)
                        .filter_map(|(observer, seen)| contradiction(region, log, observer, seen)),
                );
                found.extend(intrusions(region, log));
            }
            Err(error) => found.extend(evidence(region, error)),
        }
    }
    between_regions(readings, &mut found);
    found
}

/// What to remember from now on: never less than before. A region that disagrees with what is remembered stays as it was
/// remembered, until a person has decided.
#[must_use]
pub fn remember(readings: &[LogReading<'_>], remembered: &RememberedHeads) -> RememberedHeads {
    let mut heads = remembered.clone();
    for LogReading { region, log, .. } in readings {
        let Ok(log) = log else { continue };
        let agrees =
            remembered.get(*region).is_none_or(|head| contradiction(region, log, Observer::Memory, *head).is_none());
        if let Some(head) = log.head().filter(|_| agrees) {
            heads.insert(RegionName::clone(region), head);
        }
    }
    heads
}

fn contradiction(region: &RegionName, log: &RegionLog, observer: Observer, seen: LogHead) -> Option<Disagreement> {
    let region = region.clone();
    match log.at(seen.seq) {
        None => {
            let found = log.places();
            Some(Disagreement::RolledBack { region, remembered: seen.seq, found, observer })
        }
        Some(entry) if entry.sha256 != seen.sha256 => {
            let (seq, remembered, found) = (seen.seq, seen.sha256, entry.sha256);
            Some(Disagreement::Forked { region, seq, remembered, found, observer })
        }
        Some(_) => None,
    }
}

/// What lies in a log and does not belong there, and what stands in it and must not.
fn intrusions(region: &RegionName, log: &RegionLog) -> impl Iterator<Item = Disagreement> {
    let outside = log.outside().iter().take(INTRUSIONS_NAMED).map(|outside| Disagreement::Outside {
        region: region.clone(),
        seq: outside.seq,
        sha256: outside.sha256,
        authorship: if outside.signed_by.is_some() { Authorship::Ours } else { Authorship::Strange },
        why: outside.why.clone(),
    });
    let refused = log.refused().take(INTRUSIONS_NAMED).map(|refused| Disagreement::Refused {
        region: region.clone(),
        seq: refused.seq,
        kind: refused.kind,
        why: refused.why,
    });
    outside.chain(refused)
}

/// The disagreement that an unusable log is evidence of; an outage is evidence of none.
fn evidence(region: &RegionName, error: &LogError) -> Option<Disagreement> {
    let region = region.clone();
    match error {
        LogError::List(_)
        | LogError::Store { .. }
        | LogError::Witness(_)
        | LogError::Nameless
        | LogError::Contended { .. } => None,
        LogError::Note { seq, source: NoteError::UnknownSigner } => {
            Some(Disagreement::UnknownSigner { region, seq: *seq })
        }
        LogError::RolledBack { remembered, found } => {
            let (remembered, found) = (*remembered, *found);
            Some(Disagreement::RolledBack { region, remembered, found, observer: Observer::Memory })
        }
        LogError::Forked { seq, remembered, found } => {
            let (seq, remembered, found) = (*seq, *remembered, *found);
            Some(Disagreement::Forked { region, seq, remembered, found, observer: Observer::Memory })
        }
        error => Some(Disagreement::Broken { region, what: error_chain(error) }),
    }
}

/// Records about the whole repository are the same wherever they stand. What is said about one region alone may share a
/// count with something that was said about another one.
fn between_regions(readings: &[LogReading<'_>], found: &mut Vec<Disagreement>) {
    let mut backups: BTreeMap<&BackupId, (&RegionName, &Record)> = BTreeMap::new();
    let mut events: BTreeMap<(&KeyName, u64), (&RegionName, &Record)> = BTreeMap::new();
    for LogReading { region, log, .. } in readings {
        let Ok(log) = log else { continue };
        let mut here = BTreeSet::new();
        for record in log.entries().iter().map(|entry| &entry.record) {
            // Of several records in one log the first counts.
            if let Some(backup) = record.backup().filter(|backup| here.insert(&backup.backup)) {
                let (first, known) = *backups.entry(&backup.backup).or_insert((region, record));
                let disagreement = Disagreement::Backup {
                    backup: backup.backup.clone(),
                    first: first.clone(),
                    second: RegionName::clone(region),
                };
                if known.body != record.body && !found.contains(&disagreement) {
                    found.push(disagreement);
                }
            }
            if is_common(&record.body) {
                let (writer, wseq) = (&record.origin.writer, record.origin.wseq);
                let (first, known) = *events.entry((writer, wseq)).or_insert((region, record));
                if known.body != record.body {
                    let (writer, first, second) = (writer.clone(), first.clone(), RegionName::clone(region));
                    found.push(Disagreement::Event { writer, wseq, first, second });
                }
            }
        }
    }
}

fn is_common(body: &RecordBody) -> bool {
    match body {
        RecordBody::Init(_)
        | RecordBody::WalEpoch(_)
        | RecordBody::Incarnation(_)
        | RecordBody::Hold(_)
        | RecordBody::Release(_) => true,
        RecordBody::WalGap(gap) => gap.scope == GapScope::Everywhere,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
