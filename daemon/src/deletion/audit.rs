//! What persons and the daemon did that somebody may ask about one day: freezes, pauses, resumes, overrides, holds,
//! deletions. Append-only lines of JSON in `audit.log` of the state directory, each flushed before anybody goes on; and
//! records in the signed log of every region, which a queue brings there when the regions can take them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_vocabulary::{ClusterName, UtcTime, error_chain};
use parking_lot::Mutex;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::base::state::{self, Durable, StateError, optional_time_text, time_text};

/// More than this many entries that no region takes are not kept for the regions; the file has them all.
const QUEUE_MAX: usize = 1000;

/// Who does something, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Responsible {
    /// Why.
    pub reason: String,
    /// Who.
    pub owner: String,
}

impl Responsible {
    /// `owner` does it because of `reason`.
    #[must_use]
    pub fn new(reason: &str, owner: &str) -> Self {
        Self { reason: reason.to_owned(), owner: owner.to_owned() }
    }
}

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When.
    #[serde(with = "time_text")]
    pub time: UtcTime,
    /// To which cluster; absent: to the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// What: `freeze`, `thaw`, `pause`, `resume`, `override`.
    pub action: String,
    /// To what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Why.
    pub reason: String,
    /// By whom.
    pub owner: String,
    /// Until when.
    #[serde(with = "optional_time_text", default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UtcTime>,
}

impl AuditEntry {
    /// Without an end.
    #[must_use]
    pub fn new(time: UtcTime, cluster: Option<&ClusterName>, action: &str, subject: String, who: &Responsible) -> Self {
        Self {
            time,
            cluster: cluster.map(ToString::to_string),
            action: action.to_owned(),
            subject: Some(subject),
            reason: who.reason.clone(),
            owner: who.owner.clone(),
            expires: None,
        }
    }
}

/// An entry on its way into the regions' logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Its number in the queue, from 1.
    pub number: u64,
    /// The writer's count of the event, the same in every region's log; chosen before the first of them gets it.
    #[serde(default)]
    pub wseq: Option<u64>,
    /// What was done.
    pub entry: AuditEntry,
    /// Regions that have it.
    #[serde(default)]
    pub written: BTreeSet<String>,
}

/// The queue of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Numbers the entries.
    #[serde(default)]
    pub last: u64,
    /// Oldest first.
    #[serde(default)]
    pub waiting: Vec<Waiting>,
}

/// Where it is written down. Clones share what the disk did not take yet.
#[derive(Clone, Debug)]
pub struct AuditTrail {
    state_directory: PathBuf,
    queues: Arc<Mutex<BTreeMap<ClusterName, Durable<Queue>>>>,
    unwritten: Arc<Mutex<VecDeque<AuditEntry>>>,
}

impl AuditTrail {
    /// Below the state directory of the daemon.
    #[must_use]
    pub fn new(state_directory: &Path) -> Self {
        Self { state_directory: state_directory.to_owned(), queues: Arc::default(), unwritten: Arc::default() }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.state_directory.join("audit.log")
    }

    /// The entries of a cluster that some region does not have yet.
    #[must_use]
    pub(crate) fn queue(&self, cluster: &ClusterName) -> Durable<Queue> {
        let path = || self.state_directory.join(cluster.as_str()).join("audit-queue.json");
        self.queues.lock().entry(cluster.clone()).or_insert_with(|| Durable::open(path()).0).clone()
    }

    /// Writes down what was done. What cannot be written now is written later: what was done is done.
    pub fn note(&self, entry: &AuditEntry) {
        let cluster: Option<ClusterName> = entry.cluster.as_ref().and_then(|cluster| cluster.parse().ok());
        self.note_for(entry, cluster.as_slice());
    }

    /// As [`AuditTrail::note`], for what the logs of the regions say by themselves.
    pub fn write_down(&self, entry: &AuditEntry) {
        self.note_for(entry, &[]);
    }

    /// As [`AuditTrail::note`], for the regions of these clusters.
    pub fn note_for(&self, entry: &AuditEntry, clusters: &[ClusterName]) {
        let mut unwritten = self.unwritten.lock();
        unwritten.push_back(entry.clone());
        if let Err(error) = self.write_waiting(&mut unwritten) {
            let line = serde_json::to_string(entry).unwrap_or_default();
            tracing::error!(file = %self.file().display(), %error, entry = line, "the audit log takes no entries now");
        }
        drop(unwritten);
        for cluster in clusters {
            if let Err(error) = self.enqueue(cluster, entry) {
                tracing::warn!(%cluster, error = %error_chain(&error), "an audit entry may not reach the regions");
            }
        }
    }

    /// Writes what could not be written before.
    ///
    /// # Errors
    /// If it still cannot be.
    pub fn write_again(&self) -> io::Result<()> {
        self.write_waiting(&mut self.unwritten.lock())
    }

    fn write_waiting(&self, unwritten: &mut VecDeque<AuditEntry>) -> io::Result<()> {
        while let Some(entry) = unwritten.front() {
            if let Err(error) = self.append(entry) {
                let too_many = unwritten.len().saturating_sub(QUEUE_MAX);
                unwritten.drain(..too_many);
                return Err(error);
            }
            unwritten.pop_front();
        }
        Ok(())
    }

    /// One line, whole or not at all: a line that a crash or a full disk cut short is ended before the next begins.
    ///
    /// CRASH SAFETY: nothing is told as done before its line is flushed. Crash before: the line may be there or not, or in
    /// part; a part is no JSON, and every reader skips it.
    fn append(&self, entry: &AuditEntry) -> io::Result<()> {
        state::make_directory(&self.state_directory)?;
        let file = state::open_own(&self.file(), OFlags::RDWR | OFlags::CREATE | OFlags::APPEND)?;
        state::lock_file(&file)?;
        let mut file = File::from(file);
        let mut line = if ends_its_line(&file)? { Vec::new() } else { b"\n".to_vec() };
        serde_json::to_writer(&mut line, entry)?;
        line.push(b'\n');
        file.write_all(&line)?;
        file.sync_all()
    }

    fn enqueue(&self, cluster: &ClusterName, entry: &AuditEntry) -> Result<(), StateError> {
        self.queue(cluster).change(|queue| {
            queue.last += 1;
            let (number, written) = (queue.last, BTreeSet::new());
            queue.waiting.push(Waiting { number, wseq: None, entry: entry.clone(), written });
            let too_many = queue.waiting.len().saturating_sub(QUEUE_MAX);
            queue.waiting.drain(..too_many);
        })
    }
}

fn ends_its_line(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let length = file.metadata()?.len();
    let Some(last) = length.checked_sub(1) else { return Ok(true) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(subject: &str) -> AuditEntry {
        let time = "2026-11-21T02:00:00Z".parse().unwrap();
        let cluster = "main".parse().unwrap();
        AuditEntry::new(time, Some(&cluster), "pause", subject.to_owned(), &Responsible::new("upgrade", "anna"))
    }

    #[test]
    fn entries_are_lines_that_are_only_ever_added() {
        let dir = tempfile::tempdir().unwrap();
        let trail = AuditTrail::new(dir.path());
        trail.note(&entry("delete"));
        let first = std::fs::read(trail.file()).unwrap();
        trail.note(&entry("heal"));
        let both = std::fs::read(trail.file()).unwrap();
        assert!(both.starts_with(&first));
        let lines: Vec<AuditEntry> =
            std::str::from_utf8(&both).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines, [entry("delete"), entry("heal")]);
        let queue = trail.queue(&"main".parse().unwrap()).read();
        assert_eq!(queue.waiting.iter().map(|waiting| waiting.number).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn what_the_disk_does_not_take_is_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let trail = AuditTrail::new(dir.path());
        std::fs::create_dir(trail.file()).unwrap();
        trail.note(&entry("delete"));
        assert!(trail.write_again().is_err());
        std::fs::remove_dir(trail.file()).unwrap();
        trail.note(&entry("heal"));
        assert_eq!(std::fs::read_to_string(trail.file()).unwrap().lines().count(), 2);
    }

    #[test]
    fn a_line_that_was_cut_short_damages_no_other_line() {
        let dir = tempfile::tempdir().unwrap();
        let trail = AuditTrail::new(dir.path());
        trail.note(&entry("delete"));
        let whole = std::fs::read(trail.file()).unwrap();
        File::options().append(true).open(trail.file()).unwrap().write_all(&whole[..20]).unwrap();
        trail.note(&entry("heal"));
        let text = std::fs::read_to_string(trail.file()).unwrap();
        let good = text.lines().filter(|line| serde_json::from_str::<AuditEntry>(line).is_ok()).count();
        assert_eq!((good, text.lines().count()), (2, 3), "{text}");
    }
}
