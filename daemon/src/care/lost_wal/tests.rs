//! What is kept of lost WAL over restarts, and when a base backup is ordered because of it.

use super::*;

fn at(timeline: u32, lsn: u64) -> WalPosition {
    WalPosition { timeline: TimelineId::new(timeline).unwrap(), lsn: Lsn::from_bytes(lsn).unwrap() }
}

fn range(timeline: u32, start: u64, end: u64) -> WalRange {
    WalRange { timeline: at(timeline, 1).timeline, start: at(1, start).lsn, end: at(1, end).lsn }
}

fn time(text: &str) -> UtcTime {
    text.parse().unwrap()
}

#[test]
fn what_is_lost_is_known_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (lost, now) = ([range(1, 100, 200), range(2, 300, 400)], time("2026-11-20T02:00:00Z"));
    let file = Kept::open(dir.path());
    assert_eq!(file.read().lost(), []);
    file.change(|kept| *kept = kept.next(&lost, &lost[1..], now)).unwrap();
    let again = Kept::open(dir.path()).read();
    assert_eq!(again.lost(), lost);
    assert_eq!(again.ordered, [Ordered { range: lost[1].into(), at: now }]);
}

#[test]
fn what_a_region_may_still_bring_is_not_called_lost_and_ends_no_alarm() {
    let known = Kept::default().next(&[range(1, 100, 200), range(1, 500, 600)], &[], time("2026-11-20T02:00:00Z"));
    let check = WalCheck { pending: vec![range(1, 150, 300)], lost: vec![range(1, 10, 20)], ..WalCheck::default() };
    assert_eq!(Kept::default().lost_by(&check), [range(1, 10, 20)]);
    assert_eq!(known.lost_by(&check), [range(1, 10, 20), range(1, 150, 200)], "what is there again is not lost");
    assert_eq!(known.lost_by(&WalCheck::default()), []);
}

#[test]
fn no_backup_is_ordered_again_for_a_timeline_that_the_server_has_left() {
    let (first, later) = (time("2026-11-20T02:00:00Z"), time("2026-11-20T03:00:00Z"));
    let newest = |timeline, begun| Some(Newest { start: at(timeline, 1000), begun });
    let lost = [range(1, 100, 200), range(3, 300, 400)];
    let nothing = Kept::default();
    assert_eq!(nothing.uncrossed(&lost, None), lost);
    let uncrossed = nothing.uncrossed(&lost, newest(2, later));
    assert_eq!(uncrossed, [lost[1]]);
    let kept = nothing.next(&lost, &uncrossed, first);
    assert_eq!(kept.uncrossed(&lost, newest(2, time("2026-11-20T01:00:00Z"))), [lost[1]], "none was begun since");
    assert_eq!(kept.uncrossed(&lost, newest(2, later)), []);
    // On its own timeline the place decides: a standby begins a backup where its last restart point was.
    assert_eq!(kept.uncrossed(&[range(3, 300, 2000)], newest(3, later)), [range(3, 300, 2000)]);
    // What was lost since is another loss.
    assert_eq!(kept.uncrossed(&[range(3, 300, 500)], newest(2, later)), [range(3, 300, 500)]);
    assert_eq!(kept.next(&lost, &[lost[1]], later).ordered, kept.ordered, "the first order counts");
    assert_eq!(kept.next(&lost[..1], &[], later).ordered, []);
}
