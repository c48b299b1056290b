//! Whether the regions' logs agree: with each other, and with the ends that this installation remembers. Where they do not,
//! deletion freezes until a person has looked.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use lifeboat_repository::catalog::{self, Disagreement, LogReading, RememberedHeads};
use lifeboat_repository::log::LogHead;
use lifeboat_vocabulary::{ClusterName, RegionName, UtcTime, error_chain};
use serde::{Deserialize, Serialize};

use crate::base::alarms::board::{Alarm, Source, SourceKind, Wrongs};
use crate::base::state::{Durable, time_text};
use crate::base::supervisor::TaskContext;
use crate::care::parts::CareParts;
use crate::deletion::freeze::Freezer;
use crate::deletion::standstill::Trigger;
use crate::regions::context::ClusterContext;
use crate::regions::readings::{RegionReadings, read_all};

/// A log that cannot be understood may have been damaged on its way here. One that is read like that again, so much later,
/// is one that somebody has to explain.
const SEEN_AGAIN: Duration = Duration::from_secs(180);
/// How often the logs are compared, whoever heals.
const EVERY: Duration = Duration::from_secs(300);

/// `heads.json`: the ends of all logs as they were last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeadsFile {
    /// By region.
    #[serde(default)]
    heads: BTreeMap<String, KeptHead>,
    /// By region: the logs that could not be understood when they were read last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    broken: BTreeMap<String, BrokenLog>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct BrokenLog {
    /// When it was first read like that.
    #[serde(with = "time_text")]
    since: UtcTime,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptHead {
    seq: u64,
    sha256: String,
}

impl HeadsFile {
    fn of(heads: &RememberedHeads) -> Self {
        let kept = |(region, head): (&RegionName, &LogHead)| {
            (region.to_string(), KeptHead { seq: head.seq, sha256: head.sha256.to_string() })
        };
        Self { heads: heads.iter().map(kept).collect(), broken: BTreeMap::new() }
    }

    /// Which logs could not be understood, now that these were read: one that was not read at all stays what it was.
    fn broken_after(
        &self,
        readings: &[LogReading<'_>],
        found: &[Disagreement],
        now: UtcTime,
    ) -> BTreeMap<String, BrokenLog> {
        let mut broken = self.broken.clone();
        broken.retain(|region, _| readings.iter().all(|read| read.log.is_err() || read.region.as_str() != region));
        for region in found.iter().filter(|found| may_be_misread(found)).filter_map(Disagreement::region) {
            broken.entry(region.to_string()).or_insert(BrokenLog { since: now });
        }
        broken
    }

    /// Others compare at the same time: what they have seen further on stays, but for logs that are other ones now.
    fn take_over(&mut self, seen: Self, changed: &[RegionName]) {
        self.broken = seen.broken;
        // What was accepted counts even if the log as it is now was not read yet.
        for region in changed {
            self.heads.remove(region.as_str());
        }
        for (region, head) in seen.heads {
            if self.heads.get(&region).is_none_or(|known| known.seq < head.seq) {
                self.heads.insert(region, head);
            }
        }
    }

    /// What cannot be understood is forgotten: it is seen again.
    fn remembered(&self) -> RememberedHeads {
        let head = |(region, kept): (&String, &KeptHead)| {
            Some((region.parse().ok()?, LogHead { seq: kept.seq, sha256: kept.sha256.parse().ok()? }))
        };
        self.heads.iter().filter_map(head).collect()
    }
}

/// The file of a cluster, in its folder of the state directory.
#[must_use]
pub(crate) fn heads_of(state: &Path) -> Durable<HeadsFile> {
    Durable::open(state.join("heads.json")).0
}

/// Whether damage on the way here looks like that.
fn may_be_misread(disagreement: &Disagreement) -> bool {
    matches!(disagreement, Disagreement::Broken { .. } | Disagreement::UnknownSigner { .. })
}

/// What froze by it.
fn trigger(disagreement: &Disagreement) -> Trigger {
    match disagreement {
        Disagreement::Backup { .. } | Disagreement::Event { .. } => Trigger::RegionsDisagree,
        _ => Trigger::LogMismatch,
    }
}

/// What a comparison came to.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    /// What disagrees, and nobody has accepted.
    pub(crate) found: Vec<Disagreement>,
    /// Regions whose logs are other ones than were seen before, as a person has accepted.
    pub(crate) accepted: Vec<RegionName>,
    /// What disagrees unless it was misread: whoever wants to delete waits until it was read again.
    pub(crate) suspected: Vec<Disagreement>,
}

/// Compares, freezes deletion if something disagrees, and remembers. What a person has looked at and lifted is accepted:
/// the log as it is now is remembered from then on. Whoever deletes does this before, and does not wait for whoever
/// watches.
pub(crate) async fn compare(
    cluster: &ClusterName,
    freezer: &Freezer,
    state: &Path,
    readings: &[LogReading<'_>],
    now: UtcTime,
) -> Compared {
    let file = heads_of(state);
    let known = file.read();
    let mut remembered = known.remembered();
    let mut found = catalog::disagreements(readings, &remembered);
    let is_accepted =
        |disagreement: &Disagreement| freezer.was_lifted(cluster, trigger(disagreement), &disagreement.finding());
    let other_history = |found: &&Disagreement| found.changes_history() && is_accepted(found);
    let accepted = found.iter().filter(other_history).filter_map(Disagreement::region);
    let mut accepted: Vec<RegionName> = accepted.cloned().collect();
    let is_open = |region: &RegionName| {
        let is_open = |found: &&Disagreement| found.changes_history() && !is_accepted(found);
        found.iter().filter(is_open).any(|found| found.region() == Some(region))
    };
    accepted.retain(|region| !is_open(region));
    for region in &accepted {
        remembered.remove(region);
    }
    found.retain(|disagreement| !is_accepted(disagreement));
    let broken = known.broken_after(readings, &found, now);
    let is_new =
        |region: &RegionName| broken.get(region.as_str()).is_some_and(|broken| now < broken.since.plus(SEEN_AGAIN));
    let suspected = found.extract_if(.., |found| may_be_misread(found) && found.region().is_some_and(is_new)).collect();
    let heads = HeadsFile { broken, ..HeadsFile::of(&catalog::remember(readings, &remembered)) };
    let (seen, changed) = (heads.clone(), accepted.clone());
    if known != heads
        && let Err(error) = file.change_in_background(move |file| file.take_over(seen, &changed)).await
    {
        tracing::warn!(%cluster, error = %error_chain(&error), "the ends of the logs are not remembered over a restart");
    }
    for disagreement in &found {
        let frozen = freezer.freeze(cluster, trigger(disagreement), &disagreement.finding());
        if let Err(error) = frozen {
            tracing::error!(%cluster, error = %error_chain(&error), "the freeze is in force and not saved");
        }
    }
    Compared { found, accepted, suspected }
}

/// Compares what all regions said, and raises the alarm. Returns what disagrees.
pub(crate) async fn judge(parts: &CareParts, read: &RegionReadings) -> Vec<Disagreement> {
    let cluster = &parts.cluster.name;
    let ClusterContext { freezer, directory, .. } = &parts.context;
    let compared = compare(cluster, freezer, directory, &read.to_compare(), parts.now()).await;
    let Compared { found, accepted, suspected } = compared;
    for suspected in &suspected {
        tracing::warn!(%cluster, why = %suspected, "it may have been misread, and is read again");
    }
    for region in accepted.iter().filter(|region| read.has_changed(region)) {
        // From now on it is read as it is now.
        parts.context.regions.logs().forget(region);
    }
    let mut wrong = Wrongs::default();
    for disagreement in &found {
        let about = disagreement.region().map_or_else(|| "regions".to_owned(), ToString::to_string);
        wrong.add(
            Alarm::LogDisagreement.about(about),
            format!("{disagreement}. Deletion is frozen; find out who wrote there before anything else"),
        );
    }
    parts.context.alarms.report(&Source::of(cluster, SourceKind::Agreement), wrong);
    found
}

/// Compares the logs with each other and with what is remembered, until it is told to stop.
///
/// # Errors
/// None; a region that does not answer says nothing.
pub async fn agreement_task(context: TaskContext, parts: CareParts) -> anyhow::Result<()> {
    loop {
        context.progress.working("the agreement of the logs");
        let read = tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            read = read_all(&parts.context.regions, &parts.context.signer) => read,
        };
        match read {
            Ok(read) => drop(judge(&parts, &read).await),
            Err(error) => {
                tracing::debug!(cluster = %parts.cluster.name, error = %format!("{error:#}"), "nothing to compare")
            }
        }
        context.progress.waiting("the next look");
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lifeboat_repository::log::records::RecordBody;
    use lifeboat_repository::log::{LogError, RegionLog};
    use lifeboat_vocabulary::SystemClock;

    use super::*;
    use crate::deletion::audit::Responsible;
    use crate::deletion::standstill::Action;
    use crate::log_samples::{Regions, backup};

    #[tokio::test]
    async fn one_misread_of_a_log_does_not_freeze_deletion_and_a_lasting_one_does() {
        let dir = tempfile::tempdir().unwrap();
        let freezer = Freezer::new(dir.path(), Arc::new(SystemClock));
        let (cluster, region): (ClusterName, RegionName) = ("main".parse().unwrap(), "a".parse().unwrap());
        let regions = Regions::new(&["a"]).await;
        let (whole, misread) = (&regions.logs[&region], LogError::Place { seq: 3, found: 4 });
        let state = dir.path().join("main");
        let is_frozen = || freezer.check(&cluster, Action::Delete).is_err();
        for (seconds, log, suspected, found) in [
            (0, Err(&misread), 1, 0),
            (179, Err(&misread), 1, 0),
            (190, Ok(whole), 0, 0),
            (200, Err(&misread), 1, 0),
            (379, Err(&misread), 1, 0),
            (380, Err(&misread), 0, 1),
        ] {
            assert!(!is_frozen(), "before {seconds} s");
            let now = UtcTime::from_unix_micros((1_700_000_000 + seconds) * 1_000_000).unwrap();
            let log: Result<&RegionLog, &LogError> = log;
            let readings = [LogReading { region: &region, log, heads: Vec::new() }];
            let compared = compare(&cluster, &freezer, &state, &readings, now).await;
            assert_eq!((compared.suspected.len(), compared.found.len()), (suspected, found), "after {seconds} s");
        }
        assert!(is_frozen());
    }

    #[tokio::test]
    async fn a_rollback_is_accepted_by_one_lift_even_if_more_was_read_than_was_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let freezer = Freezer::new(dir.path(), Arc::new(SystemClock));
        let (cluster, region): (ClusterName, RegionName) = ("main".parse().unwrap(), "a".parse().unwrap());
        let mut regions = Regions::new(&["a"]).await;
        let short = regions.logs[&region].clone();
        for day in 1..4 {
            let time = format!("2026-11-{day:02}T02:00:00Z");
            regions.append("a", &time, RecordBody::Backup(Box::new(backup(&time, 1)))).await;
        }
        let (state, now) = (dir.path().join("main"), UtcTime::from_unix_micros(1_800_000_000_000_000).unwrap());
        let look = async |log: Result<&RegionLog, &LogError>| {
            let readings = [LogReading { region: &region, log, heads: Vec::new() }];
            let Compared { found, accepted, .. } = compare(&cluster, &freezer, &state, &readings, now).await;
            (found.len(), accepted.len())
        };
        assert_eq!(look(Ok(&regions.logs[&region])).await, (0, 0));
        // Since then the reader has seen more.
        let refused = LogError::RolledBack { remembered: 9, found: 9 };
        assert_eq!(look(Err(&refused)).await, (1, 0));
        let who = Responsible { reason: "restored from a copy".to_owned(), owner: "mia".to_owned() };
        freezer.resume(&cluster, Action::Delete, &who).unwrap();
        assert_eq!(look(Err(&refused)).await, (0, 1));
        assert_eq!(look(Ok(&short)).await, (0, 0), "what was remembered of it is forgotten");
        assert!(freezer.check(&cluster, Action::Delete).is_ok());
    }
}
