//! How long something has been wrong with a region, over restarts; and what to say about it. Pure but for the file.

use std::collections::BTreeMap;
use std::time::Duration;

use lifeboat_repository::heal::{self, HealEnd, HealReport, HealScope, Missing};
use lifeboat_repository::log::RegionLog;
use lifeboat_vocabulary::{RegionName, UtcTime, counted};
use serde::{Deserialize, Serialize};

use crate::base::alarms::board::{Alarm, Wrongs};

/// So long a region may lack something before it is reported: it is being healed.
const PATIENCE: Duration = Duration::from_secs(3600);

/// `heal.json`: since when what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealFile {
    /// Regions whose healing left something, by name, with the time in microseconds since 1970.
    #[serde(default)]
    stuck: BTreeMap<String, i64>,
}

/// What one round found in one region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RoundOfRegion {
    /// Objects that are damaged, by its log.
    pub(crate) damaged: u64,
    /// Backups among them that no other region has, and what is the matter with each.
    pub(crate) without_source: Vec<String>,
    /// What was left, and why.
    pub(crate) left: Vec<String>,
}

impl RoundOfRegion {
    /// What the log says after a healing.
    pub(crate) fn of(log: &RegionLog, others: &[&RegionLog], scope: &HealScope, now: UtcTime) -> Self {
        let plan = heal::plan_records(log, others, scope, &Missing::default(), now);
        let damaged = log.state(now).backups.values().filter(|backup| backup.damaged.is_some()).count();
        let without_source = plan.without_source.iter().map(|alone| format!("backup {}: {alone}", alone.backup));
        let damaged = damaged as u64 + plan.wal_damage.len() as u64;
        Self { damaged, without_source: without_source.collect(), left: Vec::new() }
    }

    pub(crate) fn report(&mut self, report: &HealReport) {
        self.left.extend(report.left.iter().map(|left| format!("{}: {}", left.what, left.why)));
        if let Some(HealEnd::Region(why)) = &report.ended {
            self.left.push(why.clone());
        }
    }
}

impl HealFile {
    /// Takes a round into account, and says what is wrong.
    pub(crate) fn update(&mut self, round: &BTreeMap<RegionName, RoundOfRegion>, now: UtcTime) -> Wrongs {
        let mut wrong = Wrongs::default();
        for (region, found) in round {
            let stuck = since(&mut self.stuck, region, !found.left.is_empty(), now);
            if stuck > PATIENCE {
                let why = found.left.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
                let text = format!("healing of region {region} has not come to an end for {}: {why}", spoken(stuck));
                wrong.add(Alarm::HealStuck.of_region(region), text);
            }
            if found.damaged > 0 {
                wrong.add(Alarm::RegionDamaged.of_region(region), damage_text(region, found));
            }
        }
        wrong
    }
}

/// What is damaged, and what is known about replacing it: "no other region has it" is said only of what none has.
fn damage_text(region: &RegionName, found: &RoundOfRegion) -> String {
    let damaged = counted(found.damaged, "damaged backup or object", "damaged backups or objects");
    let lost = found.without_source.len() as u64;
    let others = match found.damaged.saturating_sub(lost) {
        0 => String::new(),
        more => format!("; {more} of them have not been healed yet"),
    };
    let shown = found.without_source.iter().take(3).map(|text| format!("; {text}")).collect::<String>();
    let more = if lost > 3 { format!("; and {} more that no other region has", lost - 3) } else { String::new() };
    format!("region {region} has {damaged}{others}{shown}{more}; see `lifeboatd heal --region {region} --dry-run`")
}

fn since(times: &mut BTreeMap<String, i64>, region: &RegionName, is_so: bool, now: UtcTime) -> Duration {
    if !is_so {
        times.remove(region.as_str());
        return Duration::ZERO;
    }
    let began = times.entry(region.to_string()).or_insert(now.as_unix_micros());
    // What began later than now was noted while the clock was ahead: it would be silent for as long as that.
    *began = (*began).min(now.as_unix_micros());
    let began = *began;
    UtcTime::from_unix_micros(began).map_or(Duration::ZERO, |began| now.since(began))
}

pub(crate) fn spoken(duration: Duration) -> String {
    lifeboat_cli::terminal::spoken(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> UtcTime {
        UtcTime::from_unix_micros((1_800_000_000 + minutes * 60) * 1_000_000).unwrap()
    }

    fn names(wrong: &Wrongs) -> Vec<String> {
        wrong.iter().map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn unfinished_healing_raises_an_alarm_only_when_it_takes_long() {
        let mut file = HealFile::default();
        let round = |damaged, left: &[&str]| {
            let left = left.iter().map(|text| (*text).to_owned()).collect();
            BTreeMap::from([("b".parse().unwrap(), RoundOfRegion { damaged, left, ..RoundOfRegion::default() })])
        };
        for (why, minutes, round, expected) in [
            ("just now", 0, round(0, &["backup x: no region has it"]), vec![]),
            ("still in time", 60, round(0, &["backup x: no region has it"]), vec![]),
            ("too long", 61, round(0, &["backup x: no region has it"]), vec!["heal-stuck/b"]),
            ("it is healed", 63, round(0, &[]), vec![]),
            ("again", 64, round(0, &["backup x: no region has it"]), vec![]),
            (
                "noted by a clock that is a year ahead",
                525_600,
                round(0, &["backup x: no region has it"]),
                vec!["heal-stuck/b"],
            ),
            ("it is healed", 525_601, round(0, &[]), vec![]),
            ("noted by that clock again", 525_602, round(0, &["backup x: no region has it"]), vec![]),
            ("the clock is right", 70, round(0, &["backup x: no region has it"]), vec![]),
            ("too long", 131, round(0, &["backup x: no region has it"]), vec!["heal-stuck/b"]),
            ("over", 132, round(0, &[]), vec![]),
            ("damage is told at once", 133, round(1, &[]), vec!["region-damaged/b"]),
        ] {
            assert_eq!(names(&file.update(&round, at(minutes))), expected, "{why}");
            let text = serde_json::to_string(&file).unwrap();
            file = serde_json::from_str(&text).unwrap();
        }
    }

    #[test]
    fn an_alarm_says_that_no_region_has_it_only_of_what_none_has() {
        let region = "b".parse().unwrap();
        let text = |damaged, without_source: &[&str]| {
            let without_source = without_source.iter().map(|text| (*text).to_owned()).collect();
            damage_text(&region, &RoundOfRegion { damaged, without_source, left: Vec::new() })
        };
        let healable = text(2, &[]);
        assert!(
            healable.contains("2 of them have not been healed yet") && !healable.contains("no other"),
            "{healable}"
        );
        let alone = text(1, &["backup x: no other region has it"]);
        assert!(
            alone.contains("backup x: no other region has it") && !alone.contains("not been healed yet"),
            "{alone}"
        );
        let many = text(6, &["backup x: lost"; 5]);
        assert!(many.contains("; 1 of them have") && many.contains("and 2 more that no other region has"), "{many}");
    }
}
