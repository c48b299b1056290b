//! Whether the regions' logs agree: with each other, and with the ends that this installation remembers. Where they do not,
//! deletion freezes until a person has looked.

use std::collections::BTreeMap;

use lifeboat_repository::{Disagreement, LogHead, RememberedHeads, disagreements, remember};
use lifeboat_vocabulary::RegionName;
use serde::{Deserialize, Serialize};

use super::CareParts;
use super::ask::Roundup;
use crate::alarm_board::{AlarmName, Source, Wrongs};
use crate::causes::causes;
use crate::freeze::Trigger;
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

    /// What cannot be understood is forgotten: it is seen again.
    fn remembered(&self) -> RememberedHeads {
        let head = |(region, kept): (&String, &KeptHead)| {
            Some((region.parse().ok()?, LogHead { seq: kept.seq, sha256: kept.sha256.parse().ok()? }))
        };
        self.heads.iter().filter_map(head).collect()
    }
}

/// The file of a cluster.
#[must_use]
pub fn heads_of(parts: &CareParts) -> Durable<HeadsFile> {
    Durable::open(parts.state.join("heads.json")).0
}

/// What froze by it.
fn trigger(disagreement: &Disagreement) -> Trigger {
    match disagreement {
        Disagreement::Backup { .. } | Disagreement::Event { .. } => Trigger::RegionsDisagree,
        _ => Trigger::LogMismatch,
    }
}

/// Compares, freezes deletion if something disagrees, remembers, and raises the alarm. What a person has looked at and
/// lifted is accepted: the log as it is now is remembered from then on. Returns what still disagrees.
pub async fn judge(parts: &CareParts, roundup: &Roundup) -> Vec<Disagreement> {
    let file = heads_of(parts);
    let cluster = &parts.cluster.name;
    let testimonies = roundup.testimonies();
    let mut remembered = file.read().remembered();
    let mut found = disagreements(&testimonies, &remembered);
    let accepted =
        |disagreement: &Disagreement| parts.freezer.was_lifted(cluster, trigger(disagreement), &disagreement.finding());
    for region in found.iter().filter(|disagreement| accepted(disagreement)).filter_map(Disagreement::region) {
        remembered.remove(region);
        // It is read from its first record, as it is now, by the next look.
        parts.board.logs().forget(region);
    }
    found.retain(|disagreement| !accepted(disagreement));
    let heads = HeadsFile::of(&remember(&testimonies, &remembered));
    let kept = heads.clone();
    if file.read() != heads
        && let Err(error) = file.change_in_background(move |file| *file = kept).await
    {
        tracing::warn!(%cluster, error = %causes(&error), "the ends of the logs are not remembered over a restart");
    }
    let mut wrong = Wrongs::default();
    for disagreement in &found {
        let frozen = parts.freezer.freeze(cluster, trigger(disagreement), &disagreement.finding());
        if let Err(error) = frozen {
            tracing::error!(%cluster, error = %causes(&error), "the freeze is in force and not saved");
        }
        let about = disagreement.region().map_or_else(|| "regions".to_owned(), ToString::to_string);
        wrong.add(
            AlarmName::about("log-disagreement", about),
            format!("{disagreement}. Deletion is frozen; find out who wrote there before anything else"),
        );
    }
    parts.alarms.report(&Source::of(cluster, "agreement"), wrong);
    found
}
