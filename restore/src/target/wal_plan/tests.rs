//! What can be reached, over archives that are small enough to be seen through: segments of 1 MiB, positions in MiB.

use lifeboat_postgres::{HistoryEntry, TimelineHistory};

use super::*;
use crate::target::behind::Behind;
use crate::target::window::{sentence, table, windows};

const MIB: u64 = 1 << 20;

fn lsn(tenths: u64) -> Lsn {
    Lsn::from_bytes(tenths * MIB / 10).unwrap()
}

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

fn at(number: u32, tenths: u64) -> WalPosition {
    WalPosition { timeline: timeline(number), lsn: lsn(tenths) }
}

/// A backup that starts three tenths of a segment before it stops.
fn backup(number: u32, stop: u64) -> BackupPoint {
    let stop_time: UtcTime = format!("2026-11-20T{:02}:{:02}:00Z", stop / 60 % 24, stop % 60).parse().unwrap();
    let id = BackupId::new(stop_time, u32::try_from(stop).unwrap());
    BackupPoint { id, start: at(number, stop - 3), stop: at(number, stop), stop_time }
}

fn history(number: u32, entries: &[(u32, u64)]) -> TimelineHistory {
    let entry = |(of, switch): &(u32, u64)| HistoryEntry { timeline: timeline(*of), switch: lsn(*switch) };
    TimelineHistory { timeline: timeline(number), entries: entries.iter().map(entry).collect() }
}

fn view(histories: Vec<TimelineHistory>, stored: &[(u32, u64, u64)], backups: Vec<BackupPoint>) -> ArchiveView {
    let mut coverage: BTreeMap<TimelineId, Coverage> = BTreeMap::new();
    for number in stored.iter().map(|(number, _, _)| *number) {
        let ranges = stored.iter().filter(|stretch| stretch.0 == number).map(|(_, from, to)| (lsn(*from), lsn(*to)));
        coverage.insert(timeline(number), Coverage::of(ranges));
    }
    let segment = SegmentSize::from_bytes(MIB).unwrap();
    let (gaps, behind_holes, heads) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    ArchiveView { segment, tree: TimelineTree::new(histories), coverage, gaps, behind_holes, backups, heads }
}

fn legs(reach: &Reach) -> Vec<(u32, Lsn, Lsn)> {
    reach.chain.iter().flat_map(|chain| &chain.legs).map(|leg| (leg.timeline.get(), leg.from, leg.to)).collect()
}

#[test]
fn wal_leads_on_only_where_it_begins_early_enough_and_has_no_hole() {
    // The backup starts at 2.2, in segment 2, and stops at 2.5.
    for (why, stored, expected) in [
        ("nothing is stored", vec![], vec![]),
        ("from the segment of the start on", vec![(1, 20, 55)], vec![(1, lsn(20), lsn(55))]),
        ("older WAL is not needed", vec![(1, 10, 55)], vec![(1, lsn(20), lsn(55))]),
        ("it ends before the backup does", vec![(1, 20, 24)], vec![]),
        ("it begins after the segment in which the backup stops", vec![(1, 30, 55)], vec![]),
        ("it begins inside of that segment", vec![(1, 24, 55)], vec![]),
        ("there is a hole later", vec![(1, 20, 40), (1, 50, 60)], vec![(1, lsn(20), lsn(40))]),
    ] {
        let view = view(Vec::new(), &stored, vec![backup(1, 25)]);
        let reach = &view.reaches(&view.tree.path(timeline(1)).unwrap())[0];
        assert_eq!(legs(reach), expected, "{why}");
        let hole = (why == "there is a hole later").then(|| at(1, 50));
        assert_eq!(reach.beyond_hole.filter(|_| !expected.is_empty()), hole, "{why}");
    }
    let long = BackupPoint { start: at(1, 11), ..backup(1, 45) };
    let late = view(Vec::new(), &[(1, 30, 90)], vec![long]);
    let reach = &late.reaches(&late.tree.path(timeline(1)).unwrap())[0];
    assert_eq!(legs(reach), [(1, lsn(30), lsn(90))], "the backup carries the segments before");
}

#[test]
fn a_chain_follows_the_history_and_takes_the_forks_segment_from_the_newer_timeline() {
    let histories = || vec![history(2, &[(1, 46)]), history(11, &[(1, 46), (2, 72)])];
    for (why, stored, end) in [
        ("all is there", vec![(1, 20, 46), (2, 40, 72), (11, 70, 99)], at(11, 99)),
        ("the old timeline went on after the fork", vec![(1, 20, 90), (2, 40, 72), (11, 70, 99)], at(11, 99)),
        ("the last one is not stored yet", vec![(1, 20, 46), (2, 40, 72)], at(2, 72)),
        ("the last one ends before the fork", vec![(1, 20, 46), (2, 40, 72), (11, 70, 71)], at(2, 72)),
        ("the fork's segment is missing", vec![(1, 20, 46), (2, 50, 72), (11, 70, 99)], at(1, 46)),
        ("the old one has its last segment not at all", vec![(1, 20, 40), (2, 40, 72), (11, 70, 99)], at(11, 99)),
        ("a hole in the middle one", vec![(1, 20, 46), (2, 40, 60), (11, 70, 99)], at(2, 60)),
    ] {
        let stored = view(histories(), &stored, vec![backup(1, 25)]);
        let reach = &stored.reaches(&stored.tree.path(timeline(11)).unwrap())[0];
        assert_eq!(reach.end, end, "{why}: {reach:?}");
    }
    let all = view(histories(), &[(1, 20, 46), (2, 40, 72), (11, 70, 99)], vec![backup(1, 25)]);
    let reach = &all.reaches(&all.tree.path(timeline(11)).unwrap())[0];
    assert_eq!(legs(reach), [(1, lsn(20), lsn(40)), (2, lsn(40), lsn(70)), (11, lsn(70), lsn(99))]);
    assert_eq!(reach.chain.as_ref().unwrap().up_to(lsn(55)).end(), Some(at(2, 55)));
}

#[test]
fn a_backup_of_another_branch_is_not_taken() {
    let stored = [(1, 20, 90), (2, 40, 99)];
    let backups = vec![backup(1, 25), backup(1, 60), backup(2, 70)];
    let view = view(vec![history(2, &[(1, 46)])], &stored, backups);
    let stops = |number| {
        let path = view.tree.path(timeline(number)).unwrap();
        view.reaches(&path).iter().map(|reach| reach.backup.stop).collect::<Vec<_>>()
    };
    assert_eq!(stops(2), [at(1, 25), at(2, 70)], "the one at 6.0 is on the branch that was left");
    assert_eq!(stops(1), [at(1, 25), at(1, 60)]);
}

#[test]
fn windows_say_what_can_be_reached_as_times_and_positions() {
    let stored = [(1, 20, 60), (1, 80, 90), (2, 40, 99)];
    let backups = vec![backup(1, 25), backup(1, 35), backup(1, 85), backup(1, 130)];
    let mut view = view(vec![history(2, &[(1, 46)])], &stored, backups);
    let time = "2026-11-20T05:00:00Z".parse().unwrap();
    view.heads.push(head(time, at(2, 99)));
    let found = windows(&view);
    let ends: Vec<_> = found.iter().map(|window| (window.from, window.to, window.backups.len())).collect();
    let expected =
        [(at(1, 25), at(1, 60), 2), (at(1, 85), at(1, 90), 1), (at(1, 130), at(1, 130), 1), (at(2, 99), at(2, 99), 0)];
    assert_eq!(ends[..3], expected[..3]);
    assert_eq!((found[3].from, found[3].to, found[3].to_time), (at(1, 25), at(2, 99), Some(time)));
    assert_eq!(found[0].beyond_hole, Some(at(1, 80)));
    let text = sentence(&found);
    assert!(text.contains("on timeline 2 from 2026-11-20T00:25:00Z to 2026-11-20T05:00:00Z"), "{text}");
    assert!(text.contains("on timeline 1 only the backup of 2026-11-20T02:10:00Z"), "{text}");
    assert!(table(&found).contains("WAL is missing from 0/600000 to 0/800000"), "{}", table(&found));
    assert!(sentence(&[]).contains("no good backup"));
}

/// Everything up to a place is stored, and was committed by a time.
fn head(time: UtcTime, at: WalPosition) -> HeadFact {
    let complete = Some(CompleteMark { at, time });
    HeadFact { region: "r0".parse().unwrap(), time, stored: time, durable: Some(at), complete, confirmed: None }
}

#[test]
fn a_moment_is_proven_only_where_all_wal_before_its_position_is_there() {
    let mut view = view(Vec::new(), &[(1, 20, 55)], vec![backup(1, 25)]);
    let path = view.tree.path(timeline(1)).unwrap();
    let time: UtcTime = "2026-11-20T05:00:00Z".parse().unwrap();
    let later = time.plus(std::time::Duration::from_secs(60));
    view.heads.push(head(time, at(1, 55)));
    assert_eq!(view.complete_until(&path, at(1, 55)), Some(time));
    view.heads.push(head(later, at(1, 56)));
    assert_eq!(view.complete_until(&path, at(1, 55)), Some(time), "what was committed since may lie behind");
    // That the writer was alive proves nothing.
    view.heads[0].complete = None;
    assert_eq!(view.complete_until(&path, at(1, 55)), None);
    view.heads[0].complete = Some(CompleteMark { at: at(2, 30), time });
    assert_eq!(view.complete_until(&path, at(1, 55)), None, "another timeline");
}

#[test]
fn the_old_server_at_the_end_of_its_timeline_proves_nothing_for_the_next() {
    let history = vec![history(2, &[(1, 50)])];
    let mut view = view(history, &[(1, 20, 50), (2, 50, 80)], vec![backup(1, 25)]);
    let path = view.tree.path(timeline(2)).unwrap();
    let time: UtcTime = "2026-11-20T05:00:00Z".parse().unwrap();
    view.heads.push(head(time, at(1, 50)));
    assert_eq!(view.complete_until(&path, at(2, 80)), None, "the new server may have committed by then");
    view.heads[0].complete = Some(CompleteMark { at: at(1, 49), time });
    assert_eq!(view.complete_until(&path, at(2, 80)), Some(time));
}

#[test]
fn what_lies_behind_the_end_counts_only_if_somebody_was_told_that_it_is_safe() {
    let t0: UtcTime = "2026-11-20T05:00:00Z".parse().unwrap();
    let after = |seconds| t0.plus(std::time::Duration::from_secs(seconds));
    let stored = |newest| BehindHole::Wal { newest };
    let soon = Some(stored(Some(after(90))));
    let good = || Some(head(t0, at(1, 50)));
    let confirmed = |tenths| Some(HeadFact { confirmed: Some(at(1, tenths)), ..head(t0, at(1, 50)) });
    for (why, last, behind, gap, expected) in [
        ("what was on its way", good(), soon, None, "never-safe"),
        ("told up to the end", confirmed(55), soon, None, "never-safe"),
        ("told more", confirmed(56), soon, None, "lost"),
        ("stored more", Some(head(t0, at(1, 56))), soon, None, "lost"),
        (
            "told more, on another timeline",
            Some(HeadFact { confirmed: Some(at(2, 70)), ..head(t0, at(1, 50)) }),
            soon,
            None,
            "never-safe",
        ),
        ("nobody says anything", None, soon, None, "doubtful"),
        ("stored long after the last sign of life", good(), Some(stored(Some(after(301)))), None, "doubtful"),
        ("stored at a time that is not known", good(), Some(stored(None)), None, "doubtful"),
        ("a name alone", None, Some(BehindHole::Unreadable), None, "never-safe"),
        ("not looked at", good(), None, None, "doubtful"),
        ("on record as missing", good(), soon, Some((lsn(55), lsn(60))), "lost"),
        ("on record in part", good(), soon, Some((lsn(50), lsn(58))), "lost"),
        ("another one is on record", good(), soon, Some((lsn(30), lsn(40))), "never-safe"),
    ] {
        let mut view = view(Vec::new(), &[(1, 20, 55), (1, 60, 65)], vec![backup(1, 25)]);
        let path = view.tree.path(timeline(1)).unwrap();
        view.heads.extend(last);
        view.behind_holes.extend(behind.map(|behind| ((timeline(1), lsn(60)), behind)));
        view.gaps.insert(timeline(1), gap.into_iter().collect());
        let reach = view.reaches(&path).pop().unwrap();
        let behind = view.behind(&path, reach.end, reach.beyond_hole);
        assert_eq!(behind.word(), expected, "{why}: {behind:?}");
        assert_eq!(windows(&view)[0].behind, behind, "{why}");
    }
    // Without a hole only signs of life tell of more.
    let mut whole = view(Vec::new(), &[(1, 20, 55)], vec![backup(1, 25)]);
    let path = whole.tree.path(timeline(1)).unwrap();
    whole.heads.extend(good());
    assert_eq!(whole.behind(&path, at(1, 55), None), Behind::Nothing);
    whole.heads.extend(confirmed(56));
    assert_eq!(whole.behind(&path, at(1, 55), None).word(), "lost");
    // A server that was promoted since has gone on.
    let mut promoted =
        view(vec![history(2, &[(1, 62)])], &[(1, 20, 55), (1, 60, 65), (2, 60, 80)], vec![backup(1, 25)]);
    promoted.heads.extend(good());
    promoted.behind_holes.insert((timeline(1), lsn(60)), stored(Some(t0)));
    let path = promoted.tree.path(timeline(2)).unwrap();
    let reach = promoted.reaches(&path).pop().unwrap();
    assert_eq!(promoted.behind(&path, reach.end, reach.beyond_hole).word(), "doubtful");
}
