//! Heals regions that lack something, in the background: every few minutes, and at once when somebody finds damage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_config::ClusterSettings;

use lifeboat_repository::catalog::Disagreement;
use lifeboat_repository::format::layout;
use lifeboat_repository::heal::{HealEnd, HealProgress, HealRegion, HealReport, HealScope, HealTools, Look, Pace};
use lifeboat_repository::log::{FoundDamage, LogTrust, RegionLog};
use lifeboat_stores::with_lanes;
use lifeboat_vocabulary::{RegionName, error_chain};
use tokio::time::Instant;

use crate::base::alarms::board::{Source, SourceKind};
use crate::base::state::Durable;
use crate::base::supervisor::TaskContext;
use crate::care::agreement::judge;
use crate::care::parts::CareParts;
use crate::care::steps::stepping;
use crate::care::trouble::{HealFile, RoundOfRegion};
use crate::care::unrecorded::Unrecorded;
use crate::deletion::standstill::Action;
use crate::regions::readings::read_all;

/// After the start everything else goes first.
const FIRST_AFTER: Duration = Duration::from_secs(20);
const EVERY: Duration = Duration::from_secs(600);
/// Who found damage may find more: all of it is healed in one go.
const GATHER: Duration = Duration::from_secs(5);
/// A region's objects are listed and compared this often; in between, records of damage say what it lacks.
const LIST_EVERY: Duration = Duration::from_secs(86_400);

/// Heals the regions of one cluster until it is told to stop.
///
/// # Errors
/// None: what fails is tried again, and alarmed when it takes long.
pub(crate) async fn heal_task(context: TaskContext, parts: CareParts) -> anyhow::Result<()> {
    let file: Durable<HealFile> = Durable::open(parts.context.directory.join("heal.json")).0;
    let mut pause = FIRST_AFTER;
    let mut memory = Memory::default();
    loop {
        context.progress.waiting("something to heal");
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
            () = parts.board.woken() => tokio::time::sleep(GATHER).await,
        }
        pause = EVERY;
        let cluster = &parts.cluster.name;
        if let Err(stopped) = parts.context.freezer.check(cluster, Action::Heal) {
            context.progress.waiting(&stopped.to_string());
            continue;
        }
        context.progress.working("a look at what regions lack");
        match round(&context, &parts, &mut memory).await {
            Ok(round) => {
                let (now, mut wrong) = (parts.now(), None);
                let changed = file.change(|file| wrong = Some(file.update(&round, now)));
                if let Err(error) = changed {
                    tracing::warn!(%cluster, error = %error_chain(&error), "since when regions lack something is not remembered");
                }
                if let Some(wrong) = wrong {
                    parts.context.alarms.report(&Source::of(cluster, SourceKind::Heal), wrong);
                }
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(%cluster, error, "nothing can be healed now");
            }
        }
    }
}

/// What one round leaves to the next.
#[derive(Default)]
struct Memory {
    /// When each region's objects were listed last.
    listed: BTreeMap<RegionName, Instant>,
    /// What was found and is on no record yet.
    unrecorded: Vec<FoundDamage>,
}

/// Heals what there is to heal, one region after the other. A region whose own log is not to be trusted is neither healed
/// nor healed from.
async fn round(
    context: &TaskContext,
    parts: &CareParts,
    memory: &mut Memory,
) -> anyhow::Result<BTreeMap<RegionName, RoundOfRegion>> {
    let read = read_all(&parts.context.regions, &parts.context.signer).await?;
    let disagreements = judge(parts, &read).await;
    let distrusted = disagreements.iter().filter(|found| found.changes_history());
    let distrusted: Vec<&RegionName> = distrusted.filter_map(Disagreement::region).collect();
    let regions = read.readable(&distrusted);
    let scope = &parts.scope(&regions).await;
    let pace = &Pace::new(Some(parts.bandwidth()));
    let unrecorded = Unrecorded::record(parts, &regions, std::mem::take(&mut memory.unrecorded)).await;
    memory.unrecorded = unrecorded.damage;
    let mut found = BTreeMap::new();
    for place in 0..regions.len() {
        if context.stop.is_cancelled() {
            break;
        }
        let Some((mut target, others)) = one_and_others(&regions, place) else { continue };
        let name = target.store.name.clone();
        context.progress.working(&format!("healing region {name}"));
        // Not only a scrub finds what is missing: it may run elsewhere, or not at all.
        let is_due = memory.listed.get(&name).is_none_or(|listed| listed.elapsed() >= LIST_EVERY);
        let look = if is_due { Look::AtObjects } else { Look::AtRecords };
        let round_settings = RoundSettings { scope, pace, trust: &read.trust, look };
        let healed = heal_region(context, parts, round_settings, &mut target, &others).await;
        let logs: Vec<&RegionLog> = others.iter().map(|other| &other.log).collect();
        let mut round = RoundOfRegion::of(&target.log, &logs, scope, parts.now());
        match healed {
            Ok(report) => {
                round.report(&report);
                tell(&parts.cluster, &name, &report);
                let all: Vec<HealRegion> = others.iter().chain([&target]).cloned().collect();
                let untold = Unrecorded::record(parts, &all, report.damage).await;
                // Also if damage could not be recorded: it is kept until it can be, and another listing would find no more.
                if is_due {
                    memory.listed.insert(name.clone(), Instant::now());
                }
                if !untold.is_empty() {
                    tracing::warn!(cluster = %parts.cluster.name, region = %name, "{untold}; it is tried again in the next round");
                    round.left.push(untold.to_string());
                    memory.unrecorded.extend(untold.damage);
                }
            }
            Err(error) => round.left.push(error_chain(&error)),
        }
        parts.context.facts.damaged(&name, round.damaged);
        found.insert(name, round);
    }
    Ok(found)
}

pub(crate) fn one_and_others(regions: &[HealRegion], place: usize) -> Option<(HealRegion, Vec<HealRegion>)> {
    let target = regions.get(place)?.clone();
    let others = regions.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, region)| region.clone());
    Some((target, others.collect()))
}

/// What is the same for all regions of a round.
#[derive(Clone, Copy)]
struct RoundSettings<'a> {
    scope: &'a HealScope,
    pace: &'a Pace,
    trust: &'a LogTrust,
    look: Look,
}

async fn heal_region(
    context: &TaskContext,
    parts: &CareParts,
    RoundSettings { scope, pace, trust, look }: RoundSettings<'_>,
    target: &mut HealRegion,
    others: &[HealRegion],
) -> Result<HealReport, lifeboat_repository::heal::HealError> {
    let progress = Arc::new(HealProgress::default());
    let name = target.store.name.clone();
    parts.context.facts.healing(&name, Some(Arc::clone(&progress)));
    let tools = HealTools { look, ..parts.tools(trust, pace, &progress, &context.stop) };
    let work = lifeboat_repository::heal::heal_region(target, others, scope, &tools);
    // WAL that is healed must not be in the way of WAL that has just come.
    let work = with_lanes(layout::readers_lane, work);
    let healed = stepping(context, &progress, work).await;
    parts.context.facts.healing(&name, None);
    healed
}

fn tell(cluster: &ClusterSettings, region: &RegionName, report: &HealReport) {
    let (cluster, objects, bytes) = (&cluster.name, report.objects, report.bytes);
    if objects > 0 || report.records > 0 {
        let (backups, left) = (report.backups.len(), report.left_count);
        tracing::info!(%cluster, %region, backups, objects, %bytes, left, "the region was healed");
    }
    for left in &report.left {
        tracing::warn!(%cluster, %region, what = left.what, why = left.why, "something could not be healed");
    }
    if let Some(HealEnd::Region(why)) = &report.ended {
        tracing::warn!(%cluster, %region, why, "healing ended early; it goes on in the next round");
    }
}
