use super::*;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn lsn(bytes: u64) -> Lsn {
    Lsn::from_bytes(bytes).unwrap()
}

fn at(bytes: u64) -> WalPosition {
    WalPosition { timeline: TimelineId::new(1).unwrap(), lsn: lsn(bytes) }
}

fn segment(mib: u64) -> SegmentSize {
    SegmentSize::from_bytes(mib << 20).unwrap()
}

fn policy(mode: CommitMode) -> CutPolicy {
    CutPolicy { mode, flush_interval: Duration::from_millis(1000) }
}

fn piece(mode: CommitMode, segment_mib: u64, start: u64) -> OpenPiece {
    OpenPiece::begin(at(start), segment(segment_mib), lsn(start), policy(mode)).unwrap()
}

/// The byte at a position of the WAL of these tests.
fn content(from: u64, length: u64) -> Vec<u8> {
    (from..from + length).map(|at| (at ^ (at >> 12)).to_le_bytes()[0]).collect()
}

fn take(piece: &mut OpenPiece, length: u64, moment: Moment) -> Vec<Cut> {
    let from = piece.received().as_bytes();
    piece.append(lsn(from), &content(from, length), moment).unwrap()
}

fn moment(now: Instant, slices_in_flight: usize) -> Moment {
    Moment { now, slices_in_flight }
}

fn shape(cut: &Cut) -> (WalForm, u64, u64) {
    (cut.form, cut.range.start.as_bytes(), cut.range.end.as_bytes())
}

fn is_whole(cut: &Cut) -> bool {
    cut.bytes == content(cut.range.start.as_bytes(), cut.range.len())
}

#[test]
fn a_slice_is_cut_by_age_by_length_or_by_wish_and_never_when_there_is_nothing() {
    let start = Instant::now();
    let later = |millis| start + Duration::from_millis(millis);
    let mut open = piece(CommitMode::Asynchronous, 16, 16 * MIB);
    assert_eq!(open.decide(moment(later(5000), 0)), None, "nothing was received");
    assert_eq!(open.next_decision(), None, "an idle server wakes nobody");
    take(&mut open, 100, moment(start, 0));
    take(&mut open, 100, moment(later(900), 0));
    assert_eq!(open.decide(moment(later(999), 0)), None, "too young");
    assert_eq!(open.next_decision(), Some(later(1000)));
    assert_eq!(open.decide(moment(later(1000), 3)), None, "three are on their way");
    let cut = open.decide(moment(later(1000), 2)).unwrap();
    assert_eq!(shape(&cut), (WalForm::Slice, 16 * MIB, 16 * MIB + 200));
    assert!(is_whole(&cut));
    assert_eq!(open.decide(moment(later(9000), 0)), None, "nothing new");
    open.wish();
    assert_eq!(open.decide(moment(later(9000), 0)), None, "a wish for nothing");
    take(&mut open, 1, moment(later(9000), 0));
    assert_eq!(open.decide(moment(later(9000), 0)), None);
    open.wish();
    assert_eq!(open.decide(moment(later(9000), 9)).map(|cut| cut.range.len()), Some(1), "a wish does not wait");
    take(&mut open, SLICE_BYTES, moment(later(9000), 0));
    assert_eq!(open.decide(moment(later(9000), 0)).map(|cut| cut.range.len()), Some(SLICE_BYTES));
}

#[test]
fn in_synchronous_mode_what_gathers_while_slices_travel_goes_together() {
    let now = Instant::now();
    let mut open = piece(CommitMode::Synchronous, 16, 16 * MIB);
    let mut cuts = Vec::new();
    for in_flight in [0, 1, 2, 3, 3, 3, 2] {
        take(&mut open, 50, moment(now, in_flight));
        cuts.extend(open.decide(moment(now, in_flight)).map(|cut| cut.range.len()));
    }
    assert_eq!(cuts, [50, 50, 50, 200]);
}

#[test]
fn under_load_only_the_piece_is_cut() {
    let now = Instant::now();
    let mut open = piece(CommitMode::Asynchronous, 16, 16 * MIB);
    take(&mut open, 2 * MIB, moment(now, 0));
    assert!(open.decide(moment(now, 0)).is_some());
    let mut cuts = Vec::new();
    for _ in 0..14 {
        cuts.extend(take(&mut open, MIB, moment(now, 3)));
        cuts.extend(open.decide(moment(now, 3)));
    }
    assert_eq!(cuts.iter().map(shape).collect::<Vec<_>>(), [(WalForm::Piece, 16 * MIB, 32 * MIB)]);
    assert!(is_whole(&cuts[0]));
    assert_eq!(open.decide(moment(now + Duration::from_secs(9), 0)), None, "the piece has everything");
}

#[test]
fn a_short_rest_goes_ahead_of_its_piece() {
    let now = Instant::now();
    let mut open = piece(CommitMode::Asynchronous, 1, MIB);
    take(&mut open, MIB / 2, moment(now, 0));
    open.wish();
    open.decide(moment(now, 0)).unwrap();
    let cuts = take(&mut open, MIB / 2 + 7, moment(now, 0));
    let shapes: Vec<_> = cuts.iter().map(shape).collect();
    assert_eq!(shapes, [(WalForm::Slice, MIB + MIB / 2, 2 * MIB), (WalForm::Piece, MIB, 2 * MIB)]);
    assert!(cuts.iter().all(is_whole));
    let cuts = take(&mut open, MIB - 7, moment(now, 0));
    assert_eq!(cuts.iter().map(shape).collect::<Vec<_>>(), [(WalForm::Piece, 2 * MIB, 3 * MIB)], "all of it at once");
}

#[test]
fn a_large_segment_is_many_pieces() {
    let now = Instant::now();
    let mut open = piece(CommitMode::Asynchronous, 64, 64 * MIB);
    let cuts = take(&mut open, 64 * MIB, moment(now, 0));
    assert_eq!(cuts.len(), 4);
    assert!(cuts.iter().all(|cut| cut.range.len() == 16 * MIB && is_whole(cut)));
    assert_eq!(open.kept_bytes(), 0);
}

#[test]
fn what_all_regions_have_is_not_cut_again() {
    let now = Instant::now();
    let begin = |cut_from| {
        let mut open =
            OpenPiece::begin(at(16 * MIB), segment(16), lsn(cut_from), policy(CommitMode::Synchronous)).unwrap();
        let cuts = take(&mut open, 1000, moment(now, 0));
        assert_eq!(cuts, []);
        open.decide(moment(now, 0)).map(|cut| shape(&cut))
    };
    assert_eq!(begin(16 * MIB + 300), Some((WalForm::Slice, 16 * MIB + 300, 16 * MIB + 1000)));
    assert_eq!(begin(16 * MIB + 1000), None);
    assert_eq!(begin(90 * MIB), None);
}

#[test]
fn bytes_that_come_again_must_be_the_same() {
    let now = Instant::now();
    let start = 128 * MIB;
    let received = 40 * MIB + 500;
    let fresh = || {
        let mut open = piece(CommitMode::Asynchronous, 64, start);
        take(&mut open, received, moment(now, 3));
        open
    };
    let replay = |open: &mut OpenPiece, from: u64, bytes: &[u8]| -> Result<usize, ShipError> {
        assert_eq!(open.begin_again(at(from), segment(64)).unwrap(), None);
        let mut cuts = 0;
        for (index, chunk) in bytes.chunks(700_001).enumerate() {
            cuts += open.append(lsn(from + index as u64 * 700_001), chunk, moment(now, 3))?.len();
        }
        Ok(cuts)
    };
    let mut open = fresh();
    let again = content(start, 50 * MIB);
    assert_eq!(replay(&mut open, start, &again).unwrap(), 1, "one more piece, and no piece twice");
    assert_eq!(open.received(), lsn(start + 50 * MIB));

    for (what, place) in [("in a piece that was completed", 5 * MIB), ("in the open piece", 40 * MIB + 3)] {
        let mut again = again.clone();
        again[usize::try_from(place).unwrap()] ^= 1;
        let mut open = fresh();
        let error = replay(&mut open, start, &again).unwrap_err();
        assert!(matches!(error, ShipError::Changed { .. }), "{what}: {error}");
        assert_eq!(open.received(), lsn(start + received), "{what}: nothing was taken");
        // And the same server again is fine.
        let mut open = fresh();
        replay(&mut open, start, &content(start, 50 * MIB)).unwrap();
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let now = Instant::now();
    let mut open = piece(CommitMode::Asynchronous, 16, 64 * MIB);
    take(&mut open, 33 * MIB, moment(now, 0));
    let error = open.append(lsn(97 * MIB + 1), b"x", moment(now, 0)).unwrap_err();
    assert!(matches!(error, ShipError::Hole { .. }), "{error}");
    for (where_, wanted) in [(64 * MIB + 1, "NotAligned"), (48 * MIB, "TooFarBack"), (64 * MIB, "TooFarBack")] {
        let error = open.begin_again(at(where_), segment(16)).unwrap_err();
        assert!(format!("{error:?}").starts_with(wanted), "{where_}: {error:?}");
    }
    assert!(matches!(open.begin_again(at(96 * MIB), segment(64)), Err(ShipError::SegmentSize { .. })));
    assert_eq!(open.begin_again(at(80 * MIB), segment(16)).unwrap(), None, "the segment before is remembered");
    assert_eq!(open.received(), lsn(97 * MIB));
}

#[test]
fn after_a_gap_the_stream_begins_with_a_new_piece() {
    let now = Instant::now();
    let mut open = piece(CommitMode::Asynchronous, 16, 64 * MIB);
    take(&mut open, 5, moment(now, 0));
    let rest = open.begin_again(at(160 * MIB), segment(16)).unwrap().unwrap();
    assert_eq!(shape(&rest), (WalForm::Slice, 64 * MIB, 64 * MIB + 5));
    let cuts = take(&mut open, 16 * MIB, moment(now, 0));
    assert_eq!(cuts.iter().map(shape).collect::<Vec<_>>(), [(WalForm::Piece, 160 * MIB, 176 * MIB)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn pieces_and_slices_cover_the_wal_without_gaps(
        steps in proptest::collection::vec((1u64..900_000, 0usize..5, any::<bool>(), 0u64..2000), 1..40),
        reconnect in any::<bool>(),
    ) {
        let start = 4 * MIB;
        let mut now = Instant::now();
        let mut open = piece(CommitMode::Asynchronous, 1, start);
        let mut cuts = Vec::new();
        for (length, in_flight, wish, millis) in steps {
            now += Duration::from_millis(millis);
            if reconnect && wish {
                let from = open.received().as_bytes() / MIB * MIB;
                cuts.extend(open.begin_again(at(from), segment(1)).unwrap());
                let again = content(from, open.received().as_bytes() - from + length);
                cuts.extend(open.append(lsn(from), &again, moment(now, in_flight)).unwrap());
            } else {
                cuts.extend(take(&mut open, length, moment(now, in_flight)));
            }
            if wish {
                open.wish();
            }
            cuts.extend(open.decide(moment(now, in_flight)));
        }
        cuts.extend(open.rest());
        // Whatever was not cut as a slice is in a piece, in the order of the line.
        let (mut covered, mut piece_end) = (start, start);
        for cut in &cuts {
            prop_assert!(is_whole(cut));
            let (form, from, to) = shape(cut);
            match form {
                WalForm::Slice => {
                    prop_assert_eq!(from, covered, "slices tile");
                    prop_assert!(from / MIB == (to - 1) / MIB, "a slice lies in one piece");
                }
                WalForm::Piece => {
                    prop_assert_eq!((from, to), (piece_end, piece_end + MIB));
                    piece_end = to;
                }
            }
            covered = covered.max(to);
        }
        prop_assert_eq!(covered, open.received().as_bytes());
    }
}
