//! `lifeboatd scrub`: whether everything is there, and with `--full`, whether it is what it was.

use std::collections::BTreeSet;
use std::sync::Arc;

use lifeboat_cli::exit_code::Ending;
use lifeboat_cli::terminal::{Align, Output, Table, Tone, toned};
use lifeboat_cli::{out, outln};
use lifeboat_repository::heal::{self, HealProgress, HealRegion, Pace, ScrubRegion};
use lifeboat_repository::log::records::FoundBy;
use lifeboat_repository::log::{FoundDamage, LogTrust, RegionStore};
use lifeboat_repository::scrub::ScrubWalk;
use lifeboat_vocabulary::{ByteCount, RegionName, error_chain};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::care::parts::CareParts;
use crate::commands::heal::{ProgressLine, parts_for_command};
use crate::regions::readings::read_all;
use crate::settings::wiring::ClusterConfig;

/// What to look at.
#[derive(Clone, Debug, clap::Args)]
pub struct ScrubArgs {
    /// Only this region; all of them otherwise.
    #[arg(long, value_name = "NAME")]
    pub region: Option<RegionName>,
    /// Read every object back and verify it. Without this, names and sizes are compared with what is on record and with the other regions; lists
    /// of objects, wrapped keys, and what has a wrong size are read.
    #[arg(long)]
    pub full: bool,
}

/// What was found in one region.
struct Found {
    region: RegionName,
    objects: u64,
    bytes: ByteCount,
    damage: Vec<FoundDamage>,
    /// Why it could not be looked at to the end.
    trouble: Option<String>,
    /// Whether it was looked at, at least in part.
    look: Look,
    /// Whether its damage, if any, stands in its log.
    recorded: Recorded,
}

/// Whether damage stands in the log of its region.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Recorded {
    Yes,
    No,
}

/// Whether a region was looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// It was, or a part of it.
    Taken,
    /// Nothing of it was seen.
    Nothing,
}

/// How closely a region in which nothing is wrong was looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Everything was read.
    Read,
    /// Names and sizes were compared: a bit that flipped changes no size.
    Compared,
    /// The same, and no other region could say which sizes it has.
    OnRecord,
}

impl Depth {
    fn all_is_well(self) -> &'static str {
        match self {
            Self::Read => "intact",
            Self::Compared => "all there, by names and sizes",
            Self::OnRecord => "all there, by names and by the sizes on record",
        }
    }
}

/// Looks, and puts damage on record. 0: all is well; 4: a region could not be looked at; 6: something is damaged (`heal`
/// replaces it); 1: no region could be looked at; 130: stopped.
///
/// # Errors
/// If no region can be read.
pub async fn run(
    chosen: ClusterConfig<'_>,
    args: &ScrubArgs,
    output: Output,
    stop: &CancellationToken,
) -> anyhow::Result<Ending> {
    let parts = parts_for_command(chosen, args.region.as_ref()).await?;
    let read = read_all(&parts.context.regions, &parts.context.signer).await?;
    let wanted = |name: &RegionName| args.region.as_ref().is_none_or(|only| only == name);
    let mut found = Vec::new();
    for region in read.readable(&[]).into_iter().filter(|region| wanted(&region.store.name)) {
        let looked = tokio::select! {
            () = stop.cancelled() => return Ok(Ending::Stopped),
            looked = look(&parts, region, &read.trust, args, output) => looked,
        };
        found.push(looked);
    }
    for (region, why) in read.unreadable().into_iter().filter(|(name, _)| wanted(name)) {
        let (objects, bytes, damage) = (0, ByteCount::ZERO, Vec::new());
        found.push(Found {
            region,
            objects,
            bytes,
            damage,
            trouble: Some(why),
            look: Look::Nothing,
            recorded: Recorded::Yes,
        });
    }
    // Sizes of WAL stand on no record: without another region there is nothing to compare them with.
    let is_alone = parts.context.regions.len() < 2 || !read.unreadable().is_empty();
    let depth = match (args.full, is_alone) {
        (true, _) => Depth::Read,
        (false, false) => Depth::Compared,
        (false, true) => Depth::OnRecord,
    };
    print(&found, depth, output);
    Ok(if found.iter().any(|found| !found.damage.is_empty()) {
        Ending::Damaged
    } else if found.iter().all(|found| found.look == Look::Nothing) {
        Ending::Failed
    } else if found.iter().any(|found| found.trouble.is_some()) {
        Ending::Degraded
    } else {
        Ending::Done
    })
}

async fn look(parts: &CareParts, mut region: HealRegion, trust: &LogTrust, args: &ScrubArgs, output: Output) -> Found {
    let others: Vec<RegionStore> =
        parts.context.regions.stores().into_iter().filter(|other| other.name != region.store.name).collect();
    let name = region.store.name.clone();
    let mut found = Found {
        region: name.clone(),
        objects: 0,
        bytes: ByteCount::ZERO,
        damage: Vec::new(),
        trouble: None,
        look: Look::Nothing,
        recorded: Recorded::Yes,
    };
    let progress = Arc::new(HealProgress::default());
    let (pace, clock) = (Pace::new(Some(parts.bandwidth())), &*parts.context.clock);
    let scrubbed =
        ScrubRegion { region: &region.store, others: &others, trust, pace: &pace, progress: &progress, clock };
    match heal::check_presence(scrubbed, &mut region.log).await {
        Ok(report) => {
            (found.objects, found.bytes, found.damage) = (report.objects, report.bytes, report.damage);
            found.look = Look::Taken;
        }
        Err(error) => {
            found.trouble = Some(error_chain(&error));
            return found;
        }
    }
    if args.full {
        progress.expect(found.objects, found.bytes);
        let line = ProgressLine::start(name, Arc::clone(&progress), output);
        let mut walk = ScrubWalk::new(scrubbed, region.log.clone(), None);
        loop {
            match walk.next().await {
                Ok(Some(scrubbed)) => {
                    progress.doing(scrubbed.key.to_string());
                    progress.did(scrubbed.bytes);
                    found.damage.extend(scrubbed.damage);
                }
                Ok(None) => break,
                Err(error) => {
                    found.trouble = Some(error_chain(&error));
                    break;
                }
            }
        }
        drop(line);
    }
    let mut seen = BTreeSet::new();
    found.damage.retain(|damage| seen.insert(damage.key.clone()));
    let reporter = parts.damage_reporter(FoundBy::Verify);
    if let Err(error) = reporter.record(&region.store, &mut region.log, &found.damage).await {
        found.recorded = Recorded::No;
        found.trouble = Some(format!("the damage could not be put on record: {}", error_chain(&error)));
    }
    found
}

fn print(found: &[Found], depth: Depth, output: Output) {
    if output == Output::Json {
        let regions = found.iter().map(|found| {
            let damage = found.damage.iter().map(|damage| json!({ "key": damage.key.as_str(), "what": damage.what }));
            json!({
                "region": found.region.as_str(), "objects": found.objects, "bytes": found.bytes.as_bytes(),
                "damaged": damage.collect::<Vec<_>>(), "trouble": found.trouble,
                "looked_at": found.look == Look::Taken,
            })
        });
        outln!("{}", json!({ "regions": regions.collect::<Vec<_>>() }));
        return;
    }
    let columns = [("region", Align::Left), ("objects", Align::Right), ("bytes", Align::Right), ("state", Align::Left)];
    let mut table = Table::new(&columns);
    for found in found {
        let (state, tone) = match (&found.trouble, found.damage.len()) {
            (None, 0) => (depth.all_is_well().to_owned(), Tone::Good),
            (Some(trouble), 0) => match found.look {
                Look::Nothing => (format!("not looked at: {trouble}"), Tone::Warning),
                Look::Taken => (format!("not looked at to the end: {trouble}"), Tone::Warning),
            },
            (None, damaged) => (format!("{damaged} damaged"), Tone::Bad),
            // Others are believed to be in order otherwise.
            (Some(trouble), damaged) => (format!("{damaged} damaged; {trouble}"), Tone::Bad),
        };
        let (objects, bytes) = (found.objects.to_string(), found.bytes.to_string());
        table.toned_row(vec![(found.region.to_string(), None), (objects, None), (bytes, None), (state, Some(tone))]);
    }
    out!("{table}");
    for damage in found.iter().flat_map(|found| &found.damage).take(100) {
        outln!("{} {} in {}: {}", toned("damaged:", Tone::Bad), damage.key, damage.region, damage.what);
    }
    let is_damaged = found.iter().any(|found| !found.damage.is_empty());
    if is_damaged && found.iter().all(|found| found.recorded == Recorded::Yes) {
        outln!("it is on record; `lifeboatd heal` replaces it from another region");
    } else if is_damaged {
        outln!("not all of it is on record: run this again when its region takes records, or nobody heals it");
    }
}
