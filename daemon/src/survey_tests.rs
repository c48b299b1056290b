//! What the logs of two or three regions say together.

use super::*;
use lifeboat_repository::Leaving;
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

fn region(backups: &[(u32, As)]) -> RegionStanding {
    let mut standing = RegionStanding::default();
    for (number, state) in backups {
        let record = record(*number);
        let id = record.backup.clone();
        if *state == As::Swept {
            standing.swept.insert(id, 9);
            continue;
        }
        let leaving = Leaving { seq: 8, not_before: day(30).parse().unwrap(), why: "no rule keeps it".to_owned() };
        let leaving = (*state == As::Leaving).then_some(leaving);
        let damaged = (*state == As::Damaged).then_some(7);
        let backup = StandingBackup { record, seq: u64::from(*number), leaving, damaged, held: Default::default() };
        standing.backups.insert(id, backup);
    }
    standing
}

fn surveyed(regions: &[&[(u32, As)]], quorum: usize) -> Survey {
    let standings = regions.iter().enumerate();
    let standings =
        standings.map(|(number, backups)| (format!("r{number}").parse().unwrap(), region(backups))).collect();
    side_by_side(&standings, quorum, day(30).parse().unwrap())
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
