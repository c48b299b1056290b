//! Looks once a day, and after each start, whether the WAL that must be there is there: what none of the regions has any more, nobody
//! else would notice before a restore does.
//!
//! No gap is put on record: a region that comes back may still have it, and then nothing was lost. So the alarm and the window stand
//! as long as listings say so. A base backup is ordered where none was begun behind the loss.

use std::path::Path;
use std::time::Duration;

use lifeboat_config::Role;
use lifeboat_repository::catalog::Catalog;
use lifeboat_repository::format::layout::WalRange;
use lifeboat_repository::heal::{
    self, HealProgress, HealRegion, HealScope, Reach, WalCheck, WalNeeds, ranges_in_words,
};
use lifeboat_repository::log::LogTrust;
use lifeboat_vocabulary::{Lsn, RegionName, TimelineId, UtcTime, WalPosition, error_chain};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::base::alarms::board::{Alarm, Source, SourceKind, Wrongs};
use crate::base::state::{Durable, time_text};
use crate::base::supervisor::TaskContext;
use crate::care::parts::CareParts;
use crate::care::steps::stepping;
use crate::regions::readings::read_all;
use crate::wal::backup_need::lies_behind;
use crate::wal::server_memory::ServerMemory;

/// After the start everything else goes first.
const FIRST_AFTER: Duration = Duration::from_secs(30);
const EVERY: Duration = Duration::from_secs(86_400);
/// While a base backup is missing behind something that is lost, or something is not known.
const AGAIN: Duration = Duration::from_secs(600);

/// Compares the WAL of a cluster's regions until it is told to stop.
///
/// # Errors
/// None: what fails is tried again.
pub(crate) async fn lost_wal_task(context: TaskContext, parts: CareParts) -> anyhow::Result<()> {
    let mut pause = FIRST_AFTER;
    let file = Kept::open(&parts.context.directory);
    recall(&parts, file.read().lost());
    loop {
        context.progress.waiting("the next comparison of the WAL of the regions");
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        context.progress.working("a comparison of the WAL of the regions");
        let cluster = &parts.cluster.name;
        let round = tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            round = round(&context, &parts, &file) => round,
        };
        pause = match round {
            Ok(pause) => pause,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(%cluster, error, "the WAL of the regions cannot be compared now");
                AGAIN
            }
        };
    }
}

/// What was lost when it was compared last, and the backups that were ordered for it: while a region is away nobody else knows that. Losing
/// it costs the alarm until all regions answer again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    #[serde(default)]
    lost: Vec<RangeText>,
    #[serde(default)]
    ordered: Vec<Ordered>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RangeText {
    timeline: u32,
    start: u64,
    end: u64,
}

/// When a base backup was ordered first because of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Ordered {
    #[serde(flatten)]
    range: RangeText,
    #[serde(with = "time_text")]
    at: UtcTime,
}

impl From<WalRange> for RangeText {
    fn from(range: WalRange) -> Self {
        let (start, end) = (range.start.as_bytes(), range.end.as_bytes());
        Self { timeline: range.timeline.get(), start, end }
    }
}

impl RangeText {
    fn range(self) -> Option<WalRange> {
        let (start, end) = (Lsn::from_bytes(self.start)?, Lsn::from_bytes(self.end)?);
        Some(WalRange { timeline: TimelineId::new(self.timeline)?, start, end })
    }

    fn contains(self, other: Self) -> bool {
        self.timeline == other.timeline && self.start <= other.start && self.end >= other.end
    }
}

/// The newest backup that can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Newest {
    start: WalPosition,
    begun: UtcTime,
}

impl Kept {
    fn open(cluster_directory: &Path) -> Durable<Self> {
        Durable::open(cluster_directory.join("lost-wal.json")).0
    }

    fn lost(&self) -> Vec<WalRange> {
        self.lost.iter().filter_map(|range| range.range()).collect()
    }

    /// What is lost by this comparison. Of what was lost before, that stays lost which is still absent: a region that may bring it has not.
    fn lost_by(&self, check: &WalCheck) -> Vec<WalRange> {
        let mut lost = check.lost.clone();
        for known in self.lost() {
            let absent = check.pending.iter().filter(|pending| pending.overlaps(&known));
            lost.extend(absent.map(|pending| WalRange {
                start: pending.start.max(known.start),
                end: pending.end.min(known.end),
                ..known
            }));
        }
        // What said that it must be there cannot be read any more.
        if !check.unread_heads.is_empty() {
            lost.extend(self.lost().into_iter().filter(|known| !check.lost.iter().any(|lost| lost.overlaps(known))));
        }
        lost.sort_by_key(|range| (range.timeline, range.start));
        lost.dedup();
        lost
    }

    /// Whether a base backup was ordered for a range of a later timeline, and one was begun since: the server has left that timeline, and
    /// no backup will ever lie behind it.
    fn is_abandoned(&self, lost: &WalRange, newest: Newest) -> bool {
        let range = RangeText::from(*lost);
        let is_answered = |ordered: &Ordered| ordered.range.contains(range) && newest.begun >= ordered.at;
        lost.timeline > newest.start.timeline && self.ordered.iter().any(is_answered)
    }

    /// What of it needs a base backup.
    fn uncrossed(&self, lost: &[WalRange], newest: Option<Newest>) -> Vec<WalRange> {
        let is_uncrossed = |lost: &&WalRange| {
            newest.is_none_or(|newest| lies_behind(newest.start, lost) && !self.is_abandoned(lost, newest))
        };
        lost.iter().filter(is_uncrossed).copied().collect()
    }

    /// What is to be kept now. Orders keep the time of the first one, as long as their range is lost.
    fn next(&self, lost: &[WalRange], uncrossed: &[WalRange], now: UtcTime) -> Self {
        let lost: Vec<RangeText> = lost.iter().copied().map(RangeText::from).collect();
        let lasts = |ordered: &&Ordered| lost.iter().any(|range| ordered.range.contains(*range));
        let mut ordered: Vec<Ordered> = self.ordered.iter().filter(lasts).copied().collect();
        for range in uncrossed.iter().copied().map(RangeText::from) {
            if !ordered.iter().any(|ordered| ordered.range.contains(range)) {
                ordered.push(Ordered { range, at: now });
            }
        }
        Self { lost, ordered }
    }
}

/// Compares, reports, and says when to do so again. Where a region does not answer, what was reported before stands.
async fn round(context: &TaskContext, parts: &CareParts, file: &Durable<Kept>) -> anyhow::Result<Duration> {
    let cluster = &parts.cluster.name;
    let read = read_all(&parts.context.regions, &parts.context.signer).await?;
    // All other regions would be listed for nothing.
    if is_unknown(parts, &read.unreadable()) {
        return Ok(AGAIN);
    }
    let regions = read.readable(&[]);
    let scope = parts.scope(&regions).await;
    let progress = HealProgress::default();
    let check = stepping(context, &progress, compare(parts, &read.trust, &regions, &scope, &progress)).await;
    if is_unknown(parts, &check.silent) {
        return Ok(AGAIN);
    }
    if check.reach == Reach::Unknown {
        tracing::warn!(%cluster, "no region has a sign of life of a writer: how far WAL must reach is not known");
        return Ok(AGAIN);
    }
    for (region, why) in &check.unread_heads {
        tracing::warn!(%cluster, %region, why, "{HEAD_NOT_READ}");
    }
    let (now, catalog) = (parts.now(), Catalog::merge(&read.views()));
    let newest = catalog.newest_whole(now).map(|row| &row.record);
    let newest = newest.map(|record| Newest { start: record.start(), begun: record.start_time });
    if !check.pending.is_empty() {
        let pending = ranges_in_words(&check.pending);
        tracing::warn!(%cluster, pending, "WAL is in no region; the writer of one may still bring it there");
    }
    let kept = file.read();
    let lost = kept.lost_by(&check);
    let uncrossed = kept.uncrossed(&lost, newest);
    // CRASH SAFETY: on disk before it is told. A crash in between is followed by a start that tells it.
    let next = kept.next(&lost, &uncrossed, now);
    if let Err(error) = file.change_in_background(move |kept| *kept = next).await {
        let error = error_chain(&error);
        tracing::warn!(%cluster, error, "which WAL is lost is not remembered over a restart now");
    }
    let is_settled = uncrossed.is_empty() && check.pending.is_empty() && check.unread_heads.is_empty();
    let pause = if is_settled { EVERY } else { AGAIN };
    let is_behind_newest = newest.is_none_or(|newest| lost.iter().any(|lost| lies_behind(newest.start, lost)));
    report(parts, lost, &uncrossed, is_behind_newest);
    Ok(pause)
}

/// What is missed then.
const HEAD_NOT_READ: &str =
    "a sign of life cannot be read: where only it says that there was WAL, nobody notices that it is gone";

/// That a region's claims are not all known.
pub(crate) fn head_not_read(region: &RegionName, why: &str) -> String {
    format!("in {region}, {HEAD_NOT_READ}: {why}")
}

/// Ranges for machines.
pub(crate) fn ranges_json(ranges: &[WalRange]) -> Vec<Value> {
    let json = |range: &WalRange| json!({ "timeline": range.timeline.get(), "from": range.start.to_string(), "to": range.end.to_string() });
    ranges.iter().map(json).collect()
}

/// That a region was left out of a comparison.
pub(crate) fn not_compared(region: &RegionName, why: &str) -> String {
    format!("the WAL of {region} was not compared: {why}")
}

/// Whether a region does not answer.
fn is_unknown(parts: &CareParts, silent: &[(RegionName, String)]) -> bool {
    let silent: Vec<String> = silent.iter().map(|(region, why)| format!("{region}: {why}")).collect();
    if !silent.is_empty() {
        let (cluster, silent) = (&parts.cluster.name, silent.join("; "));
        tracing::warn!(%cluster, silent, "whether WAL is lost is not known while a region does not answer");
    }
    !silent.is_empty()
}

fn report(parts: &CareParts, lost: Vec<WalRange>, uncrossed: &[WalRange], is_behind_newest: bool) {
    if lost.is_empty() {
        return tell(parts, lost, None);
    }
    let what = what(&lost);
    let then = match (uncrossed.is_empty(), parts.config.daemon.does(Role::Backup)) {
        (false, true) => {
            parts.requests.request(what.clone());
            "a base backup from behind it is ordered"
        }
        (false, false) => "make a base backup now: this daemon makes none",
        (true, _) if is_behind_newest => "a backup was begun since, on the timeline that the server writes",
        (true, _) => "a backup from behind it exists",
    };
    let text = format!("{what}. No restore crosses that; {then}. Has a lifecycle rule, or a hand, deleted objects?");
    tell(parts, lost, Some(text));
}

fn what(lost: &[WalRange]) -> String {
    format!("WAL is gone from all regions: {}", ranges_in_words(lost))
}

/// What is lost, with the text of the alarm; none clears it.
fn tell(parts: &CareParts, lost: Vec<WalRange>, alarm: Option<String>) {
    let mut wrong = Wrongs::default();
    alarm.into_iter().for_each(|text| wrong.add(Alarm::WalLost, text));
    parts.context.facts.lost_wal(lost);
    parts.context.alarms.report(&Source::of(&parts.cluster.name, SourceKind::LostWal), wrong);
}

/// Tells what was lost before the start, until it is compared anew: that may be long, if a region is away.
fn recall(parts: &CareParts, lost: Vec<WalRange>) {
    if lost.is_empty() {
        return;
    }
    let text = format!(
        "{}. No restore crosses that. So it was before this start; it is compared again as soon as all regions answer",
        what(&lost)
    );
    tell(parts, lost, Some(text));
}

/// Compares the WAL of these regions with what must be there, as far as this host knows it.
pub(crate) async fn compare(
    parts: &CareParts,
    trust: &LogTrust,
    regions: &[HealRegion],
    scope: &HealScope,
    progress: &HealProgress,
) -> WalCheck {
    let server = ServerMemory::open(&parts.context.directory).read().timelines();
    let clock = &*parts.context.clock;
    heal::check_wal(regions, &WalNeeds { scope, server: server.as_ref(), trust, progress, clock }).await
}

#[cfg(test)]
mod tests;
