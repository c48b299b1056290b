//! The plan as a page of text: a calendar, what stays and why, what goes and what that frees.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use lifeboat_cli::terminal::{Align, Table, Tone, toned};
use lifeboat_config::show_duration;
use lifeboat_repository::log::records::BackupRecord;
use lifeboat_repository::retention::Reason;
use lifeboat_vocabulary::{BackupId, ByteCount, RegionName, UtcTime};

use crate::retention::plan::{ClusterPlan, PolicyChange, RegionPlan};

/// A day shows the mark of the reason that lasts longest.
const MARKS: [(char, &str); 10] = [
    ('!', "damaged, nothing better"),
    ('H', "hold"),
    ('A', "anchor of the window"),
    ('M', "month"),
    ('W', "week"),
    ('D', "day"),
    ('P', "passed a drill"),
    ('R', "referred to"),
    ('N', "newest"),
    ('G', "newest good"),
];
const GOES: char = 'x';
const NOTHING: char = '.';

/// What all regions together say about one backup.
pub(crate) struct Fate<'a> {
    pub(crate) record: &'a BackupRecord,
    /// Where it stays, and why.
    pub(crate) kept: BTreeMap<&'a RegionName, &'a BTreeSet<Reason>>,
    /// Where it goes: why, and the time from which on it is deleted, if it was forgotten already.
    pub(crate) dropped: BTreeMap<&'a RegionName, (&'a str, Option<UtcTime>)>,
}

impl Fate<'_> {
    fn reasons(&self) -> BTreeSet<&Reason> {
        self.kept.values().copied().flatten().collect()
    }

    pub(crate) fn mark(&self) -> char {
        let marks: Vec<char> = self.reasons().into_iter().map(Reason::mark).collect();
        MARKS.iter().map(|(mark, _)| *mark).find(|mark| marks.contains(mark)).unwrap_or(GOES)
    }
}

/// All backups of all regions, newest first.
pub(crate) fn fates(plan: &ClusterPlan) -> Vec<Fate<'_>> {
    let mut fates: BTreeMap<&BackupId, Fate<'_>> = BTreeMap::new();
    for RegionPlan { name, state, plan, .. } in &plan.regions {
        for (backup, state) in &state.backups {
            let new = || Fate { record: &state.record, kept: BTreeMap::new(), dropped: BTreeMap::new() };
            fates.entry(backup).or_insert_with(new);
        }
        for (backup, reasons) in &plan.kept {
            if let Some(fate) = fates.get_mut(backup) {
                fate.kept.insert(name, reasons);
            }
        }
        for dropped in &plan.dropped {
            let (why, leaving) = (dropped.why.as_str(), dropped.leaving);
            if let Some(fate) = fates.get_mut(&dropped.backup) {
                fate.dropped.insert(name, (why, leaving));
            }
        }
    }
    let mut fates: Vec<Fate<'_>> = fates.into_values().collect();
    fates.sort_by_cached_key(|fate| std::cmp::Reverse((fate.record.stop_time, fate.record.backup.clone())));
    fates
}

/// The first day of each month with a backup, and the marks of its days.
pub(crate) fn calendar(plan: &ClusterPlan, fates: &[Fate<'_>]) -> BTreeMap<Date, Vec<char>> {
    let mut months: BTreeMap<Date, Vec<char>> = BTreeMap::new();
    let rank = |mark: char| MARKS.iter().position(|(known, _)| *known == mark).unwrap_or(MARKS.len());
    for fate in fates {
        let date = fate.record.stop_time.civil_in(&plan.policy.timezone).date();
        let days = usize::from(date.days_in_month().unsigned_abs());
        let month = months.entry(date.first_of_month()).or_insert_with(|| vec![NOTHING; days]);
        let mark = fate.mark();
        if let Some(shown) = month.get_mut(usize::from(date.day().unsigned_abs()) - 1)
            && (*shown == NOTHING || rank(mark) < rank(*shown))
        {
            *shown = mark;
        }
    }
    months
}

/// The page.
#[must_use]
pub(crate) fn text(plan: &ClusterPlan) -> String {
    let fates = fates(plan);
    let mut page = String::new();
    let mut line = |text: String| {
        page.push_str(&text);
        page.push('\n');
    };
    line(toned(&format!("retention of cluster {}, {} UTC", plan.cluster, plan.now.for_tables()), Tone::Strong));
    line(format!("policy: {}", plan.policy.text()));
    if fates.is_empty() {
        line("no backups yet".to_owned());
    } else {
        line(String::new());
        line(calendar_text(plan, &fates));
        line(kept_text(plan, &fates));
        let gone = gone_text(plan, &fates);
        line(if gone.is_empty() { "nothing goes\n".to_owned() } else { gone });
        line(regions_text(plan));
    }
    for region in &plan.regions {
        region.change.iter().for_each(|change| line(change_text(plan, region, change)));
    }
    for attention in attention(plan) {
        line(format!("{} {attention}", toned("attention:", Tone::Warning)));
    }
    page
}

/// What a person has to look at.
pub(crate) fn attention(plan: &ClusterPlan) -> Vec<String> {
    let unusual = plan.regions.iter().flat_map(|region| {
        let each = region.plan.unusual.iter();
        each.map(move |guard| format!("region {}: {guard}; `retention apply` wants --force for that", region.name))
    });
    let unreadable = plan.unreadable.iter().map(|(region, why)| format!("region {region} cannot be read: {why}"));
    unusual.chain(unreadable).collect()
}

fn calendar_text(plan: &ClusterPlan, fates: &[Fate<'_>]) -> String {
    let months = calendar(plan, fates);
    let mut heading = " ".repeat(9);
    for day in [1_usize, 5, 10, 15, 20, 25, 30] {
        heading.push_str(&" ".repeat((9 + 2 * (day - 1)).saturating_sub(heading.len())));
        heading.push_str(&day.to_string());
    }
    let mut text = format!("{heading}\n");
    for (month, days) in months.iter().rev() {
        let days: Vec<String> = days.iter().map(char::to_string).collect();
        text.push_str(&format!("{:04}-{:02}  {}\n", month.year(), month.month(), days.join(" ")));
    }
    let seen: BTreeSet<char> = months.values().flatten().copied().collect();
    let known = MARKS.iter().copied().chain([(GOES, "goes"), (NOTHING, "no backup")]);
    let legend: Vec<String> =
        known.filter(|(mark, _)| seen.contains(mark)).map(|(mark, meaning)| format!("{mark} {meaning}")).collect();
    text.push_str(&format!("         {}\n", legend.join("   ")));
    text
}

fn local(plan: &ClusterPlan, time: UtcTime) -> String {
    time.civil_in(&plan.policy.timezone).strftime("%Y-%m-%d %H:%M").to_string()
}

fn names<'a>(names: impl Iterator<Item = &'a &'a RegionName>) -> String {
    names.map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
}

fn kept_text(plan: &ClusterPlan, fates: &[Fate<'_>]) -> String {
    let columns = [
        ("stays", Align::Left),
        ("completed", Align::Left),
        ("stored", Align::Right),
        ("regions", Align::Left),
        ("because", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for fate in fates.iter().filter(|fate| !fate.kept.is_empty()) {
        let because: Vec<String> = fate.reasons().into_iter().map(ToString::to_string).collect();
        let (completed, stored) = (local(plan, fate.record.stop_time), fate.record.packs.own_bytes.to_string());
        let regions = names(fate.kept.keys());
        table.row(&[fate.record.backup.as_str(), &completed, &stored, &regions, &because.join(", ")]);
    }
    table.to_string()
}

/// Empty if nothing goes.
fn gone_text(plan: &ClusterPlan, fates: &[Fate<'_>]) -> String {
    let columns = [
        ("goes", Align::Left),
        ("completed", Align::Left),
        ("frees", Align::Right),
        ("regions", Align::Left),
        ("deleted from", Align::Left),
        ("because", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for fate in fates.iter().filter(|fate| !fate.dropped.is_empty()) {
        let (completed, frees) = (local(plan, fate.record.stop_time), fate.record.packs.own_bytes.to_string());
        let leaving: Option<Vec<UtcTime>> = fate.dropped.values().map(|(_, leaving)| *leaving).collect();
        let from = match leaving.and_then(|leaving| leaving.into_iter().min()) {
            Some(not_before) => local(plan, not_before),
            None => format!("{} after apply", show_duration(plan.grace)),
        };
        let because = fate.dropped.values().next().map_or("", |(why, _)| why);
        let regions = names(fate.dropped.keys());
        table.row(&[fate.record.backup.as_str(), &completed, &frees, &regions, &from, because]);
    }
    if table.is_empty() { String::new() } else { table.to_string() }
}

fn regions_text(plan: &ClusterPlan) -> String {
    let columns = [
        ("region", Align::Left),
        ("stay", Align::Right),
        ("with", Align::Right),
        ("go", Align::Right),
        ("which frees", Align::Right),
        ("WAL stays from", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for region in &plan.regions {
        let (kept, gone) = (region.plan.kept.len().to_string(), region.plan.dropped.len().to_string());
        let wal = region.plan.wal_from.map_or_else(|| "its beginning".to_owned(), |position| position.to_string());
        let cells = [region.name.as_str(), &kept, &region.kept_bytes().to_string(), &gone, &region.frees().to_string()];
        let [name, kept, stored, gone, frees] = cells;
        table.row(&[name, kept, stored, gone, frees, &wal]);
    }
    table.to_string()
}

fn change_text(plan: &ClusterPlan, region: &RegionPlan, change: &PolicyChange) -> String {
    let list = |backups: &[BackupId]| match backups {
        [] => "nothing".to_owned(),
        backups => backups.iter().map(BackupId::as_str).collect::<Vec<_>>().join(", "),
    };
    let PolicyChange { before, since, dropped, kept } = change;
    let since = local(plan, *since);
    let mut text = format!("the policy is another one than on {since} in {}: it was {before}\n", region.name);
    text.push_str(&format!("  goes because of that:  {}\n", list(dropped)));
    text.push_str(&format!("  stays because of that: {}", list(kept)));
    text
}

impl RegionPlan {
    /// What the backups that stay have stored.
    #[must_use]
    pub(crate) fn kept_bytes(&self) -> ByteCount {
        let own = |backup| self.state.backups.get(backup).map(|state| state.record.packs.own_bytes);
        self.plan.kept.iter().filter_map(|(backup, _)| own(backup)).sum()
    }

    /// What the backups that go have stored.
    #[must_use]
    pub(crate) fn frees(&self) -> ByteCount {
        self.plan.dropped.iter().map(|dropped| dropped.own_bytes).sum()
    }
}

#[cfg(test)]
mod tests;
