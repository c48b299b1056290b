//! Tests of the map of WAL.

use super::*;
use crate::samples::wal_range;
use proptest::prelude::*;

/// Form, start, end, and the numbers of the regions that hold it.
type Spec = (char, u64, u64, &'static [usize]);

type Spans = Vec<(u64, u64)>;

fn region(number: usize) -> RegionName {
    format!("r{number}").parse().unwrap()
}

fn named(form: char, start: u64, end: u64) -> WalObject {
    let form = if form == 'P' { WalForm::Piece } else { WalForm::Slice };
    WalObject::new(form, wal_range(1, start, end)).unwrap()
}

fn map(specs: &[Spec]) -> WalMap {
    let mut map = WalMap::new();
    for (form, start, end, regions) in specs {
        for number in *regions {
            map.add(&region(*number), named(*form, *start, *end));
        }
    }
    map
}

fn spans(ranges: &[WalRange]) -> Vec<(u64, u64)> {
    ranges.iter().map(|range| (range.start.as_bytes(), range.end.as_bytes())).collect()
}

fn chosen(map: &WalMap, start: u64, end: u64) -> (Vec<(char, u64, u64)>, Spans) {
    let choice = map.choose(wal_range(1, start, end));
    let object = |held: &HeldWal| {
        let form = if held.object.form == WalForm::Piece { 'P' } else { 's' };
        (form, held.object.range.start.as_bytes(), held.object.range.end.as_bytes())
    };
    (choice.objects.iter().map(object).collect(), spans(&choice.missing))
}

#[test]
fn pieces_come_before_slices_and_of_both_as_few_as_can_be() {
    type Case = (&'static str, Vec<Spec>, (u64, u64), Vec<(char, u64, u64)>, Spans);
    let cases: Vec<Case> = vec![
        ("nothing", vec![], (10, 20), vec![], vec![(10, 20)]),
        ("elsewhere", vec![('P', 1, 10, &[0]), ('s', 20, 30, &[0])], (10, 20), vec![], vec![(10, 20)]),
        ("a piece of one region", vec![('P', 10, 20, &[1])], (12, 14), vec![('P', 10, 20)], vec![]),
        (
            "a piece and its slices",
            vec![('s', 10, 15, &[0]), ('s', 15, 20, &[0]), ('P', 10, 20, &[0])],
            (10, 20),
            vec![('P', 10, 20)],
            vec![],
        ),
        (
            "slices behind the last piece",
            vec![('P', 10, 20, &[0]), ('s', 20, 23, &[0]), ('s', 23, 27, &[1])],
            (10, 30),
            vec![('P', 10, 20), ('s', 20, 23), ('s', 23, 27)],
            vec![(27, 30)],
        ),
        (
            "of overlapping slices the longest",
            vec![('s', 10, 13, &[0]), ('s', 10, 18, &[0]), ('s', 12, 16, &[0]), ('s', 17, 20, &[0])],
            (10, 20),
            vec![('s', 10, 18), ('s', 17, 20)],
            vec![],
        ),
        (
            "a slice that begins before the range",
            vec![('s', 5, 11, &[0]), ('s', 11, 20, &[0])],
            (10, 20),
            vec![('s', 5, 11), ('s', 11, 20)],
            vec![],
        ),
        (
            "holes",
            vec![('s', 12, 14, &[0]), ('P', 16, 18, &[0])],
            (10, 20),
            vec![('s', 12, 14), ('P', 16, 18)],
            vec![(10, 12), (14, 16), (18, 20)],
        ),
        (
            "a piece within longer slices",
            vec![('s', 10, 20, &[0]), ('P', 14, 16, &[0])],
            (10, 20),
            vec![('s', 10, 20)],
            vec![],
        ),
        (
            "what starts at the end",
            vec![('s', 10, 20, &[0]), ('s', 20, 30, &[0])],
            (10, 20),
            vec![('s', 10, 20)],
            vec![],
        ),
        ("an empty range", vec![('s', 10, 20, &[0])], (15, 15), vec![], vec![]),
    ];
    for (why, specs, range, objects, missing) in cases {
        let map = map(&specs);
        assert_eq!(chosen(&map, range.0, range.1), (objects, missing.clone()), "{why}");
        assert_eq!(spans(&map.gaps(wal_range(1, range.0, range.1))), missing, "{why}");
        assert_eq!(chosen(&map.around(wal_range(1, range.0, range.1)), range.0, range.1).1, missing, "{why}");
    }
}

#[test]
fn the_coverage_is_that_of_all_regions_together() {
    let map = map(&[('P', 10, 20, &[0]), ('P', 20, 30, &[1]), ('s', 30, 35, &[0, 1]), ('P', 40, 50, &[0])]);
    let timeline = wal_range(1, 1, 2).timeline;
    let at = |lsn| WalPosition { timeline, lsn: Lsn::from_bytes(lsn).unwrap() };
    assert_eq!(spans(&map.coverage(timeline)), [(10, 35), (40, 50)]);
    for (from, end) in [(10, 35), (20, 35), (34, 35), (35, 35), (9, 9)] {
        assert_eq!(map.contiguous_end(at(from)).as_bytes(), end, "from {from}");
    }
    let holders = |start, end| map.choose(wal_range(1, start, end)).objects[0].regions.clone();
    assert_eq!(
        (holders(10, 11), holders(20, 21), holders(30, 31)),
        (vec![region(0)], vec![region(1)], vec![region(0), region(1)])
    );
    assert_eq!(map.next_start(at(31)).map(Lsn::as_bytes), Some(40));
    assert_eq!(map.next_start(at(41)), None);
}

#[test]
fn without_a_damaged_object_another_one_is_chosen() {
    let mut map = map(&[('P', 10, 20, &[0, 1]), ('s', 10, 15, &[0]), ('s', 15, 20, &[1])]);
    map.remove(&region(0), named('P', 10, 20));
    assert_eq!(map.choose(wal_range(1, 10, 20)).objects[0].regions, [region(1)]);
    map.remove(&region(1), named('P', 10, 20));
    map.remove(&region(1), named('P', 10, 20));
    map.remove(&region(7), named('s', 10, 15));
    map.remove(&region(0), named('s', 11, 15));
    assert_eq!(chosen(&map, 10, 20), (vec![('s', 10, 15), ('s', 15, 20)], vec![]));
    map.forget(wal_range(1, 1, 2).timeline, Lsn::from_bytes(15).unwrap());
    assert_eq!(chosen(&map, 10, 20), (vec![('s', 15, 20)], vec![(10, 15)]));
    assert_eq!(map.len(), 1);
}

#[test]
fn timelines_do_not_mix_however_high_they_are() {
    let mut map = WalMap::new();
    for timeline in [0xB, 1, 0xA, 2, u32::MAX] {
        let start = 0x5_0000_0000 + u64::from(timeline);
        map.add(&region(0), WalObject::new(WalForm::Slice, wal_range(timeline, start, start + 10)).unwrap());
    }
    let timelines: Vec<_> = map.timelines().iter().map(|timeline| timeline.get()).collect();
    assert_eq!(timelines, [1, 2, 0xA, 0xB, u32::MAX]);
    let found = map.choose(wal_range(0xA, 0x5_0000_0000, 0x5_0000_0100));
    assert_eq!(found.objects.len(), 1);
    assert_eq!(spans(&found.missing), [(0x5_0000_0000, 0x5_0000_000A), (0x5_0000_0014, 0x5_0000_0100)]);
    let mut other = WalMap::new();
    other.add(&region(3), named('P', 10, 20));
    map.merge(&other);
    assert_eq!(map.choose(wal_range(1, 10, 20)).objects[0].regions, [region(3)]);
}

/// Which bytes of 0..64 some object holds, counted one by one.
fn bytes_of(objects: &[(bool, u64, u64, usize)], holds: impl Fn(usize) -> bool) -> [bool; 64] {
    let mut held = [false; 64];
    for (_, start, length, region) in objects {
        if holds(*region) {
            let range = usize::try_from(*start).unwrap()..usize::try_from(start + length).unwrap();
            held[range].fill(true);
        }
    }
    held
}

proptest! {
    #[test]
    fn the_chosen_objects_cover_exactly_what_exists(
        objects in proptest::collection::vec((any::<bool>(), 1_u64..40, 1_u64..24, 0_usize..3), 0..20),
        (start, length) in (1_u64..40, 0_u64..24),
    ) {
        let mut map = WalMap::new();
        for (is_piece, start, length, number) in &objects {
            map.add(&region(*number), named(if *is_piece { 'P' } else { 's' }, *start, start + length));
        }
        let held = bytes_of(&objects, |_| true);
        let range = wal_range(1, start, start + length);
        let choice = map.choose(range);
        // missing = what nothing holds, and the rest is covered by what is chosen
        let missing: Vec<u64> = choice.missing.iter().flat_map(|gap| gap.start.as_bytes()..gap.end.as_bytes()).collect();
        let expected: Vec<u64> = (start..start + length).filter(|at| !held[usize::try_from(*at).unwrap()]).collect();
        prop_assert_eq!(missing, expected);
        prop_assert_eq!(&choice.missing, &map.gaps(range));
        let holds = |held: &HeldWal, at: u64| (held.object.range.start.as_bytes()..held.object.range.end.as_bytes()).contains(&at);
        for at in start..start + length {
            let is_held = held[usize::try_from(at).unwrap()];
            prop_assert_eq!(choice.objects.iter().any(|held| holds(held, at)), is_held, "byte {}", at);
        }
        // none is superfluous, and every holder holds it
        for (index, found) in choice.objects.iter().enumerate() {
            let others = || choice.objects.iter().enumerate().filter(|(other, _)| *other != index);
            let needed = (start..start + length).any(|at| holds(found, at) && !others().any(|(_, other)| holds(other, at)));
            prop_assert!(needed || found.object.form == WalForm::Piece || others().any(|(_, other)| other.object.form == WalForm::Piece), "{:?}", choice);
            prop_assert!(!found.regions.is_empty());
        }
        let starts: Vec<_> = choice.objects.iter().map(|held| held.object.range.end).collect();
        prop_assert!(starts.is_sorted());
    }

    #[test]
    fn the_contiguous_end_is_where_the_first_byte_is_missing(
        objects in proptest::collection::vec((any::<bool>(), 1_u64..40, 1_u64..24, 0_usize..3), 0..20), from in 1_u64..64,
    ) {
        let mut map = WalMap::new();
        for (is_piece, start, length, number) in &objects {
            map.add(&region(*number), named(if *is_piece { 'P' } else { 's' }, *start, start + length));
        }
        let at = WalPosition { timeline: wal_range(1, 1, 2).timeline, lsn: Lsn::from_bytes(from).unwrap() };
        let end = |held: [bool; 64]| (from..64).find(|at| !held[usize::try_from(*at).unwrap()]).unwrap_or(64);
        prop_assert_eq!(map.contiguous_end(at).as_bytes(), end(bytes_of(&objects, |_| true)));
    }
}
