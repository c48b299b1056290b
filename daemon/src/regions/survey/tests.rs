//! What the logs of two or three regions say together.

use super::*;
use lifeboat_repository::log::Leaving;
use serde_json::json;

fn day(day: u32) -> String {
    format!("2026-11-{day:02}T02:12:07Z")
}

fn record(number: u32) -> BackupRecord {
    let zeros = "0".repeat(64);
    serde_json::from_value(json!({
        "backup": format!("202611{number:02}T020003Z-00000001"), "type": "full",
        "pg": { "version": 170_006, "sysid": "7400000000000000001", "wal_segment_bytes": 16_777_216 },
        "start_lsn": format!("0/{number}000028"), "start_tli": 1, "stop_lsn": format!("0/{number}000100"), "stop_tli": 1,
        "start_time": day(number), "stop_time": day(number), "duration_ms": 724_000, "frame_bytes": 131_072,
        "epochs": [], "packs": { "sha256": zeros, "objects": 4, "bytes": 400, "own": 4, "own_bytes": 400 }, "index": [],
        "files": { "count": 10, "raw_bytes": 1000 },
    }))
    .unwrap()
}

/// A backup in a region.
#[derive(Clone, Copy, PartialEq, Eq)]
enum As {
    Good,
    Leaving,
    Damaged,
    Swept,
}

fn region(backups: &[(u32, As)]) -> RegionState {
    let mut state = RegionState::default();
    for (number, case) in backups {
        let record = record(*number);
        let id = record.backup.clone();
        if *case == As::Swept {
            state.swept.insert(id, 9);
            continue;
        }
        let leaving = Leaving { seq: 8, not_before: day(30).parse().unwrap(), why: "no rule keeps it".to_owned() };
        let leaving = (*case == As::Leaving).then_some(leaving);
        let damaged = (*case == As::Damaged).then_some(7);
        let backup = BackupState { record, seq: u64::from(*number), leaving, damaged, held: Default::default() };
        state.backups.insert(id, backup);
    }
    state
}

fn surveyed(regions: &[&[(u32, As)]], quorum: usize) -> Survey {
    let states = regions.iter().enumerate();
    let states = states.map(|(number, backups)| (format!("r{number}").parse().unwrap(), region(backups))).collect();
    side_by_side(&states, quorum, day(30).parse().unwrap())
}

fn missing(survey: &Survey) -> Vec<usize> {
    survey.regions.values().map(|region| region.missing).collect()
}

#[test]
fn the_last_backup_is_the_newest_that_enough_regions_hold() {
    use As::{Damaged, Good};
    for (why, regions, quorum, last, lacking) in [
        ("everywhere", [&[(1, Good), (2, Good)][..], &[(1, Good), (2, Good)]], 2, Some(2), vec![0, 0]),
        ("the newest in one only", [&[(1, Good), (2, Good)], &[(1, Good)]], 2, Some(1), vec![0, 1]),
        ("one is enough", [&[(1, Good), (2, Good)], &[(1, Good)]], 1, Some(2), vec![0, 1]),
        ("damaged is not there", [&[(1, Good), (2, Good)], &[(1, Good), (2, Damaged)]], 2, Some(1), vec![0, 1]),
        ("none in enough", [&[(1, Good)], &[(2, Good)]], 2, None, vec![1, 1]),
        ("none at all", [&[], &[]], 1, None, vec![0, 0]),
    ] {
        let survey = surveyed(&regions, quorum);
        let expected = last.map(|number| record(number).backup.to_string());
        assert_eq!(survey.last.as_ref().map(|last| last.backup.clone()), expected, "{why}");
        assert_eq!(missing(&survey), lacking, "{why}");
    }
    let last = surveyed(&[&[(1, Good)], &[(1, Good)]], 2).last.unwrap();
    assert_eq!((last.raw_bytes, last.stored_bytes, last.regions.len()), (1000, 400, 2));
}

#[test]
fn the_window_begins_with_the_oldest_that_nobody_gives_up() {
    use As::{Good, Leaving, Swept};
    let survey = surveyed(&[&[(1, Leaving), (2, Good), (3, Good)], &[(1, Swept), (2, Leaving), (3, Good)]], 1);
    assert_eq!(survey.oldest.as_ref().unwrap().1.lsn, "0/2000100", "one region keeps the second");
    let windows: Vec<_> = survey.regions.values().map(|region| region.window_from.clone().unwrap().lsn).collect();
    assert_eq!(windows, ["0/2000100", "0/3000100"], "each region by itself");
    let leaving: Vec<_> = survey.regions.values().map(|region| region.leaving).collect();
    assert_eq!(leaving, [1, 1]);
    assert_eq!(missing(&survey), [0, 0], "what was given up is not missing");
}

#[test]
fn a_backup_that_is_kept_for_longer_than_its_wal_leads_to_its_own_end_only() {
    use As::Good;
    let all = &[(1, Good), (4, Good), (9, Good)][..];
    let floor =
        |timeline: u32, lsn: &str| -> (TimelineId, Lsn) { (TimelineId::new(timeline).unwrap(), lsn.parse().unwrap()) };
    for (why, floors, expected) in [
        ("nothing was swept", [vec![], vec![]], ("0/1000100", 0, ["0/1000100", "0/1000100"])),
        (
            "one region keeps it all",
            [vec![floor(1, "0/3000000")], vec![]],
            ("0/1000100", 0, ["0/4000100", "0/1000100"]),
        ),
        (
            "behind the floor in both",
            [vec![floor(1, "0/3000000")], vec![floor(1, "0/9000000")]],
            ("0/4000100", 1, ["0/4000100", "0/9000100"]),
        ),
        (
            "the floor of a later timeline",
            [vec![floor(2, "0/4000101")], vec![floor(2, "0/4000101")]],
            ("0/9000100", 2, ["0/9000100", "0/9000100"]),
        ),
    ] {
        let states = floors.into_iter().enumerate().map(|(number, floors)| {
            let state = RegionState { wal_floors: floors.into_iter().collect(), ..region(all) };
            (format!("r{number}").parse().unwrap(), state)
        });
        let survey = side_by_side(&states.collect(), 1, day(30).parse().unwrap());
        let windows: Vec<_> = survey.regions.values().map(|region| region.window_from.clone().unwrap().lsn).collect();
        let (from, islands, regions) = expected;
        assert_eq!((survey.oldest.unwrap().1.lsn.as_str(), survey.islands), (from, islands), "{why}");
        assert_eq!(windows, regions, "{why}");
        assert_eq!(survey.oldest_island.map(|point| point.lsn), (islands > 0).then(|| "0/1000100".to_owned()), "{why}");
        assert_eq!(survey.last.unwrap().backup, record(9).backup.to_string(), "{why}");
    }
}
