//! What is lost of a region, and what others and the server make up for.

use super::*;

#[test]
fn what_a_region_lacks_on_record_is_no_copy_for_another_and_one_of_the_servers_reasons_holds_nobody_up() {
    let begun = |regions: usize, quorum: usize| {
        let mut marks = Marks::new(regions, quorum);
        (0..regions).for_each(|region| marks.enter(region, None));
        marks.begin(at(1, 8));
        marks.receive(lsn(40));
        for region in 0..regions {
            marks.hold(region, range(1, 8..20));
            marks.hold(region, range(1, 30..40));
        }
        marks
    };
    let (lost, missed) = (range(1, 20..30), GapReason::RegionMissed);
    let mut marks = begun(3, 2);
    marks.hold(2, lost);
    marks.lose(0, lost, missed);
    assert!(!marks.has_quorum_without(1, lost), "region 0 has a record alone");
    assert!(!marks.is_made_up_for(1, lost));
    marks.hold(0, lost);
    assert!(!marks.has_lost(0, lost), "it came after all");
    assert!(marks.has_quorum_without(1, lost));
    marks.lose(0, lost, missed);
    assert!(!marks.has_lost(0, lost), "what it has it cannot lack");

    let mut marks = begun(2, 2);
    marks.hold(1, lost);
    assert!(!marks.has_quorum_without(0, lost), "the server may have it for both");
    assert!(marks.is_made_up_for(0, lost));

    // Region 2 has not answered, and the server has removed it.
    let mut marks = Marks::new(3, 2);
    (0..2).for_each(|region| marks.enter(region, None));
    marks.begin(at(1, 8));
    marks.receive(lsn(40));
    for region in 0..2 {
        marks.hold(region, range(1, 8..20));
        marks.hold(region, range(1, 30..40));
        marks.lose(region, lost, GapReason::SegmentRemoved);
    }
    assert_eq!(marks.quorum(), Some(at(1, 40)));

    // A new region has nothing of what came before it.
    let mut marks = Marks::new(2, 1);
    marks.found(at(1, 8));
    marks.enter(0, Some(at(1, 8)));
    marks.enter(1, None);
    marks.begin(at(1, 32));
    assert!(!marks.has_quorum_without(0, range(1, 8..16)));
}

#[test]
fn what_the_spool_says_for_one_region_makes_nothing_safe_in_another() {
    let mut marks = Marks::new(2, 1);
    (0..2).for_each(|region| marks.enter(region, None));
    marks.begin(at(1, 8));
    marks.receive(lsn(40));
    marks.hold(0, range(1, 8..40));
    marks.hold(1, range(1, 8..20));
    // A record that region 0 lacks something is in the spool for it alone.
    marks.spool_for(range(1, 20..30), &[None, Some(Kept::new())]);
    marks.spool(range(1, 30..40));
    assert_eq!(marks.confirmed(), Some(at(1, 20)));
    marks.spool(range(1, 20..30));
    assert_eq!(marks.confirmed(), Some(at(1, 40)));
}

#[test]
fn what_is_lost_on_both_sides_of_the_beginning_is_waited_for_from_there_on() {
    let mut marks = Marks::new(3, 2);
    marks.found(at(1, 8));
    (0..2).for_each(|region| marks.enter(region, Some(at(1, 8))));
    marks.enter(2, None);
    marks.begin(at(1, 16));
    marks.receive(lsn(40));
    marks.lose(0, range(1, 8..24), GapReason::RegionMissed);
    marks.hold(0, range(1, 24..40));
    marks.hold(1, range(1, 8..40));
    assert_eq!(marks.quorum(), Some(at(1, 8)), "region 2 lacks it so far");
    marks.hold(2, range(1, 16..40));
    assert_eq!(marks.quorum(), Some(at(1, 40)));
}

#[test]
fn what_a_region_has_and_what_waits_for_it_are_one() {
    let mut marks = Marks::new(1, 1);
    marks.found(at(1, 8));
    marks.enter(0, Some(at(1, 20)));
    let mut kept = Kept::new();
    kept.entry(timeline(1)).or_default().add(range(1, 20..40).into());
    assert!(marks.holds_or_gets(0, range(1, 12..32), &kept));
    assert!(!marks.holds_or_gets(0, range(1, 12..48), &kept));
}
