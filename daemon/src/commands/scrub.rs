//! `lifeboatd scrub`: whether everything is there, and with `--full`, whether it is what it was.

use std::collections::BTreeSet;
use std::sync::Arc;

use lifeboat_cli::exit_code::Ending;
use lifeboat_cli::terminal::{Align, Output, Table, Tone, toned};
use lifeboat_cli::{out, outln};
use lifeboat_repository::heal::{
    self, HealProgress, HealRegion, Pace, Reach, ScrubRegion, Unread, WalCheck, ranges_in_words,
};
use lifeboat_repository::log::records::FoundBy;
use lifeboat_repository::log::{FoundDamage, LogTrust, RegionLog, RegionReadError, RegionStore};
use lifeboat_repository::scrub::ScrubWalk;
use lifeboat_vocabulary::{ByteCount, RegionName, error_chain};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::care::lost_wal::{self, head_not_read, not_compared, ranges_json};
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
    unread: Unread,
    /// Why it could not be looked at to the end, or what was found could not be put on record.
    trouble: Vec<String>,
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

impl Found {
    fn nothing(region: RegionName) -> Self {
        let (damage, unread, trouble) = (Vec::new(), Unread::default(), Vec::new());
        let (look, recorded) = (Look::Nothing, Recorded::Yes);
        Self { region, objects: 0, bytes: ByteCount::ZERO, damage, unread, trouble, look, recorded }
    }

    /// Everything that keeps it from being known whether the region is intact.
    /// What is said of it in a word or two.
    fn state(&self, depth: Depth) -> (String, Tone) {
        match (self.damage.len(), self.look) {
            (0, Look::Nothing) => ("not looked at".to_owned(), Tone::Warning),
            (0, Look::Taken) if self.troubles().is_none() => (depth.all_is_well().to_owned(), Tone::Good),
            (0, Look::Taken) if self.trouble.is_empty() => (format!("{} not read", self.unread.len()), Tone::Warning),
            (0, Look::Taken) => ("not looked at to the end".to_owned(), Tone::Warning),
            (damaged, _) => (format!("{damaged} damaged"), Tone::Bad),
        }
    }

    fn troubles(&self) -> Option<String> {
        let all: Vec<String> = self.trouble.iter().cloned().chain(self.unread.text()).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
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

/// Looks, and puts damage on record. 0: all is well; 4: a region, or an object, could not be looked at; 6: something is damaged (`heal`
/// replaces it), or WAL is gone from all regions; 1: no region could be looked at; 130: stopped.
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
        found.push(Found { trouble: vec![why], ..Found::nothing(region) });
    }
    // The whole of it: what one region lacks another may have.
    let (regions, progress) = (read.readable(&[]), HealProgress::default());
    let scope = parts.scope(&regions).await;
    let mut wal = tokio::select! {
        () = stop.cancelled() => return Ok(Ending::Stopped),
        wal = lost_wal::compare(&parts, &read.trust, &regions, &scope, &progress) => wal,
    };
    let unlooked = wal.silent.iter().chain(&wal.unread_heads).any(|(name, _)| wanted(name));
    wal.unread_heads.retain(|(name, _)| wanted(name));
    wal.silent.extend(read.unreadable());
    wal.missing.retain(|name, _| wanted(name));
    // Sizes of WAL stand on no record: without another region there is nothing to compare them with.
    let is_alone = parts.context.regions.len() < 2 || !read.unreadable().is_empty();
    let depth = match (args.full, is_alone) {
        (true, _) => Depth::Read,
        (false, false) => Depth::Compared,
        (false, true) => Depth::OnRecord,
    };
    print(&found, &wal, depth, output);
    // While a region does not answer, it may have what the others lack.
    let is_lost = !wal.lost.is_empty() && wal.silent.is_empty();
    let is_absent = !wal.missing.is_empty() || !wal.lost.is_empty() || !wal.pending.is_empty();
    let is_doubtful = is_absent || unlooked || wal.reach == Reach::Unknown;
    Ok(if is_lost || found.iter().any(|found| !found.damage.is_empty()) {
        Ending::Damaged
    } else if found.iter().all(|found| found.look == Look::Nothing) {
        Ending::Failed
    } else if is_doubtful || found.iter().any(|found| found.troubles().is_some()) {
        Ending::Degraded
    } else {
        Ending::Done
    })
}

async fn look(parts: &CareParts, mut region: HealRegion, trust: &LogTrust, args: &ScrubArgs, output: Output) -> Found {
    let others: Vec<RegionStore> =
        parts.context.regions.stores().into_iter().filter(|other| other.name != region.store.name).collect();
    let name = region.store.name.clone();
    let mut found = Found::nothing(name.clone());
    if region.log.head().is_none() {
        found.trouble.push("its log is empty: its records were deleted, or it was not made a region yet".to_owned());
        return found;
    }
    let progress = Arc::new(HealProgress::default());
    let (pace, clock) = (Pace::new(Some(parts.bandwidth())), &*parts.context.clock);
    let scrubbed =
        ScrubRegion { region: &region.store, others: &others, trust, pace: &pace, progress: &progress, clock };
    match heal::check_presence(scrubbed, &mut region.log).await {
        Ok(report) => {
            (found.objects, found.bytes) = (report.objects, report.bytes);
            (found.damage, found.unread) = (report.damage, report.unread);
            found.look = Look::Taken;
        }
        Err(error) => {
            found.trouble.push(error_chain(&error));
            return found;
        }
    }
    if args.full {
        progress.expect(found.objects, found.bytes);
        let line = ProgressLine::start(name, Arc::clone(&progress), output);
        read_all_of(&mut found, ScrubWalk::new(scrubbed, region.log.clone(), None), &progress).await;
        drop(line);
    }
    let mut seen = BTreeSet::new();
    found.damage.retain(|damage| seen.insert(damage.key.clone()));
    record(parts, &region.store, &mut region.log, &mut found).await;
    found
}

/// Reads everything back. One object that cannot be read does not end it; several in a row do.
async fn read_all_of(found: &mut Found, mut walk: ScrubWalk<'_>, progress: &HealProgress) {
    let mut silent = 0;
    loop {
        match walk.next().await {
            Ok(Some(scrubbed)) => {
                progress.doing(scrubbed.key.to_string());
                progress.did(scrubbed.bytes);
                found.damage.extend(scrubbed.damage);
                match scrubbed.unread {
                    Some(why) => found.unread.add(scrubbed.key, why),
                    None => silent = 0,
                }
            }
            Ok(None) => return,
            Err(RegionReadError::Store { key, .. }) if silent + 1 < heal::SILENT => {
                silent += 1;
                walk.pass_over(key);
            }
            Err(error) => {
                found.trouble.push(error_chain(&error));
                return;
            }
        }
    }
}

async fn record(parts: &CareParts, store: &RegionStore, log: &mut RegionLog, found: &mut Found) {
    let reporter = parts.damage_reporter(FoundBy::Verify);
    match reporter.record(store, log, &found.damage).await {
        Ok(_) => {}
        Err(error) => {
            found.recorded = Recorded::No;
            found.trouble.push(format!("the damage could not be put on record: {}", error_chain(&error)));
        }
    }
}

fn print(found: &[Found], wal: &WalCheck, depth: Depth, output: Output) {
    if output == Output::Json {
        let regions = found.iter().map(|found| {
            let damage = found.damage.iter().map(|damage| json!({ "key": damage.key.as_str(), "what": damage.what }));
            let unread = found.unread.iter().map(|(key, why)| json!({ "key": key.as_str(), "why": why }));
            json!({
                "region": found.region.as_str(), "objects": found.objects, "bytes": found.bytes.as_bytes(),
                "damaged": damage.collect::<Vec<_>>(), "unread": unread.collect::<Vec<_>>(),
                "trouble": found.troubles(), "looked_at": found.look == Look::Taken,
            })
        });
        let missing = wal.missing.iter().map(|(name, missing)| (name.to_string(), ranges_json(missing).into()));
        let named = |regions: &[(RegionName, String)]| -> Vec<Value> {
            regions.iter().map(|(name, why)| json!({ "region": name.as_str(), "why": why })).collect()
        };
        outln!(
            "{}",
            json!({
                "regions": regions.collect::<Vec<_>>(), "lost_wal": ranges_json(&wal.lost),
                "missing_wal": missing.collect::<serde_json::Map<String, Value>>(),
                "pending_wal": ranges_json(&wal.pending), "gaps_of_revoked_keys": ranges_json(&wal.told_by_revoked),
                "wal_not_compared": named(&wal.silent), "heads_not_read": named(&wal.unread_heads), "wal_reach_known": wal.reach == Reach::Known,
            })
        );
        return;
    }
    let columns = [("region", Align::Left), ("objects", Align::Right), ("bytes", Align::Right), ("state", Align::Left)];
    let mut table = Table::new(&columns);
    for found in found {
        let (state, tone) = found.state(depth);
        let (objects, bytes) = (found.objects.to_string(), found.bytes.to_string());
        table.toned_row(vec![(found.region.to_string(), None), (objects, None), (bytes, None), (state, Some(tone))]);
    }
    out!("{table}");
    for damage in found.iter().flat_map(|found| &found.damage).take(100) {
        outln!("{} {} in {}: {}", toned("damaged:", Tone::Bad), damage.key, damage.region, damage.what);
    }
    for found in found {
        if let Some(trouble) = found.troubles() {
            outln!("{} {}: {trouble}", toned("attention:", Tone::Warning), found.region);
        }
    }
    let is_told = |name: &RegionName| found.iter().any(|found| found.region == *name && found.look == Look::Nothing);
    for (name, why) in wal.silent.iter().filter(|(name, _)| !is_told(name)) {
        outln!("{} {}", toned("attention:", Tone::Warning), not_compared(name, why));
    }
    for (name, why) in &wal.unread_heads {
        outln!("{} {}", toned("attention:", Tone::Warning), head_not_read(name, why));
    }
    print_wal(wal);
    let is_damaged = found.iter().any(|found| !found.damage.is_empty());
    if is_damaged && found.iter().all(|found| found.recorded == Recorded::Yes) {
        outln!("it is on record; `lifeboatd heal` replaces it from another region");
    } else if is_damaged {
        outln!("not all of it is on record: run this again when its region takes records, or nobody heals it");
    }
}

fn print_wal(wal: &WalCheck) {
    if !wal.lost.is_empty() {
        let (lost, silent) = (ranges_in_words(&wal.lost), wal.silent.len());
        let who = if silent == 0 { "no region has it" } else { "no region that answers has it" };
        outln!("{} WAL from {lost}: {who}, and no restore crosses it", toned("lost:", Tone::Bad));
    }
    if !wal.pending.is_empty() {
        let pending = ranges_in_words(&wal.pending);
        outln!(
            "{} no region has WAL from {pending}: the writer of one may still bring it there",
            toned("attention:", Tone::Warning)
        );
    }
    if !wal.told_by_revoked.is_empty() {
        let told = ranges_in_words(&wal.told_by_revoked);
        outln!(
            "{} no region has WAL from {told}, which only a revoked key has put on record as a gap; a backup from behind it exists",
            toned("attention:", Tone::Warning)
        );
    }
    for (name, missing) in &wal.missing {
        if wal.lost_in(name) != *missing {
            let missing = ranges_in_words(missing);
            outln!(
                "{} {name} lacks WAL from {missing}; `lifeboatd heal` copies what another region has",
                toned("attention:", Tone::Warning)
            );
        }
    }
    if wal.reach == Reach::Unknown {
        outln!(
            "{} no region has a sign of life of a writer below state/: how far WAL must reach is not known",
            toned("attention:", Tone::Warning)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_called_intact_only_if_all_of_it_was_looked_at() {
        let found = |trouble: &[&str], look| Found {
            region: "eu-1".parse().unwrap(),
            objects: 7,
            bytes: ByteCount::ZERO,
            damage: Vec::new(),
            unread: Unread::default(),
            trouble: trouble.iter().map(|text| (*text).to_owned()).collect(),
            look,
            recorded: Recorded::Yes,
        };
        let state = |found: &Found| found.state(Depth::Read).0;
        assert_eq!(state(&found(&[], Look::Taken)), "intact");
        assert_eq!(state(&found(&["list wal/: 503"], Look::Taken)), "not looked at to the end");
        assert_eq!(state(&found(&["read the log: 503"], Look::Nothing)), "not looked at");
        let key: lifeboat_stores::ObjectKey = "data/x".parse().unwrap();
        let damage = FoundDamage { region: "eu-1".parse().unwrap(), key, what: "missing".to_owned() };
        let damaged = Found { damage: vec![damage], ..found(&["list wal/: 503"], Look::Taken) };
        assert_eq!(state(&damaged), "1 damaged");
    }
}
