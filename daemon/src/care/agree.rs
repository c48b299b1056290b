//! Whether the regions' logs agree: with each other, and with the ends that this installation remembers. Where they do not,
//! deletion freezes until a person has looked.

use std::collections::BTreeMap;
use std::path::Path;

use lifeboat_repository::{Disagreement, LogHead, RememberedHeads, Testimony, disagreements, remember};
use lifeboat_vocabulary::{ClusterName, RegionName};
use serde::{Deserialize, Serialize};

use super::CareParts;
use super::ask::Roundup;
use crate::alarm_board::{AlarmName, Source, Wrongs};
use crate::causes::causes;
use crate::freeze::{Freezer, Trigger};
use crate::state::Durable;

/// `heads.json`: the ends of all logs as they were last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadsFile {
    /// By region.
    #[serde(default)]
    heads: BTreeMap<String, KeptHead>,
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
        Self { heads: heads.iter().map(kept).collect() }
    }

    /// Others compare at the same time: what they have seen further on stays, but for logs that are other ones now.
    fn take_over(&mut self, seen: Self, changed: &[RegionName]) {
        for (region, head) in seen.heads {
            let is_changed = changed.iter().any(|changed| changed.as_str() == region);
            if is_changed || self.heads.get(&region).is_none_or(|known| known.seq < head.seq) {
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
pub fn heads_of(state: &Path) -> Durable<HeadsFile> {
    Durable::open(state.join("heads.json")).0
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
}

/// Compares, freezes deletion if something disagrees, and remembers. What a person has looked at and lifted is accepted:
/// the log as it is now is remembered from then on. Whoever deletes does this before, and does not wait for whoever
/// watches.
pub(crate) async fn compare(
    (cluster, freezer): (&ClusterName, &Freezer),
    state: &Path,
    testimonies: &[Testimony<'_>],
) -> Compared {
    let file = heads_of(state);
    let mut remembered = file.read().remembered();
    let mut found = disagreements(testimonies, &remembered);
    let is_accepted =
        |disagreement: &Disagreement| freezer.was_lifted(cluster, trigger(disagreement), &disagreement.finding());
    let accepted = found.iter().filter(|disagreement| is_accepted(disagreement)).filter_map(Disagreement::region);
    let accepted: Vec<RegionName> = accepted.cloned().collect();
    for region in &accepted {
        remembered.remove(region);
    }
    found.retain(|disagreement| !is_accepted(disagreement));
    let heads = HeadsFile::of(&remember(testimonies, &remembered));
    let (seen, changed) = (heads.clone(), accepted.clone());
    if file.read() != heads
        && let Err(error) = file.change_in_background(move |file| file.take_over(seen, &changed)).await
    {
        tracing::warn!(%cluster, error = %causes(&error), "the ends of the logs are not remembered over a restart");
    }
    for disagreement in &found {
        let frozen = freezer.freeze(cluster, trigger(disagreement), &disagreement.finding());
        if let Err(error) = frozen {
            tracing::error!(%cluster, error = %causes(&error), "the freeze is in force and not saved");
        }
    }
    Compared { found, accepted }
}

/// Compares what all regions said, and raises the alarm. Returns what disagrees.
pub async fn judge(parts: &CareParts, roundup: &Roundup) -> Vec<Disagreement> {
    let cluster = &parts.cluster.name;
    let Compared { found, accepted } = compare((cluster, &parts.freezer), &parts.state, &roundup.testimonies()).await;
    for region in &accepted {
        // It is read from its first record, as it is now, by the next look, and by whoever backs up or deletes.
        parts.board.logs().forget(region);
        parts.regions.logs().forget(region);
    }
    let mut wrong = Wrongs::default();
    for disagreement in &found {
        let about = disagreement.region().map_or_else(|| "regions".to_owned(), ToString::to_string);
        wrong.add(
            AlarmName::about("log-disagreement", about),
            format!("{disagreement}. Deletion is frozen; find out who wrote there before anything else"),
        );
    }
    parts.alarms.report(&Source::of(cluster, "agreement"), wrong);
    found
}
