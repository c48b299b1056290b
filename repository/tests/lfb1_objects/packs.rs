//! Packs: filling, reading frame by frame, and finding everything again without the index.

use lifeboat_repository::format::frame::{Codec, FramePlace};
use lifeboat_repository::format::ids::{ObjectId, ObjectKind};
use lifeboat_repository::format::pack::{Fits, PACK_BYTES_MIN, PackBuilder, PackError, PackReader};
use lifeboat_repository::format::toc::{FOOTER_BYTES, PackFooter, TocEntry, TocError, parse_toc};
use lifeboat_repository::format::unseal::OpenError;
use proptest::prelude::*;

use crate::samples::{EPOCH, REPOSITORY, class, epoch_key, expected, verify};

fn builder(capacity: usize) -> PackBuilder {
    PackBuilder::new(&epoch_key(), REPOSITORY, EPOCH, ObjectId::from_bytes([9; 16]), capacity).unwrap()
}

fn reader(salt: lifeboat_repository::format::ids::Salt) -> PackReader {
    PackReader::from_index(&epoch_key(), REPOSITORY, EPOCH, ObjectId::from_bytes([9; 16]), salt).unwrap()
}

fn cut(pack: &[u8], place: FramePlace) -> Vec<u8> {
    let start = place.offset as usize;
    pack[start..start + place.stored_len as usize].to_vec()
}

#[test]
fn a_pack_is_never_larger_than_its_capacity_and_says_when_it_is_full() {
    for payload_len in [0, 1, 100, 4096, 30_000] {
        let mut pack = builder(PACK_BYTES_MIN);
        let payload = vec![7; payload_len];
        let raw_len = u32::try_from(payload_len).unwrap();
        let mut frames = 0;
        while pack.fits(payload_len) == Fits::Yes {
            pack.push(Codec::Stored, &payload, raw_len).unwrap();
            frames += 1;
        }
        assert!(matches!(pack.push(Codec::Stored, &payload, raw_len), Err(PackError::Full { .. })));
        let announced = pack.len();
        let body = pack.seal().unwrap();
        assert_eq!(body.bytes.len(), announced, "frames of {payload_len}");
        assert!(announced <= PACK_BYTES_MIN && announced + payload_len + 24 + 15 > PACK_BYTES_MIN);
        assert_eq!(verify(ObjectKind::Pack, &body.bytes).unwrap().data_frames, frames);
    }
    for capacity in [0, PACK_BYTES_MIN - 1, (64 << 20) + 1, usize::MAX] {
        let refused = PackBuilder::new(&epoch_key(), REPOSITORY, EPOCH, ObjectId::from_bytes([9; 16]), capacity);
        assert!(matches!(refused, Err(PackError::Capacity { .. })), "{capacity}");
    }
}

#[test]
fn an_empty_pack_is_complete() {
    let pack = builder(PACK_BYTES_MIN);
    assert!(pack.is_empty());
    assert_eq!(verify(ObjectKind::Pack, &pack.seal().unwrap().bytes).unwrap().data_frames, 0);
}

#[test]
fn frames_are_read_by_their_place_without_the_head() {
    let mut pack = builder(1 << 20);
    let salt = pack.salt();
    let places: Vec<_> =
        (0..50_u8).map(|n| pack.push(Codec::Stored, &vec![n; 100 + usize::from(n)], 7).unwrap()).collect();
    let body = pack.seal().unwrap();
    let by_head = PackReader::from_head(&epoch_key(), &expected(ObjectKind::Pack), &body.bytes[..144]).unwrap();
    for reader in [&reader(salt), &by_head] {
        for (n, place) in (0..50_u8).zip(&places) {
            let mut wrong_number = cut(&body.bytes, *place);
            let moved = FramePlace { frame: place.frame + 1, ..*place };
            assert_eq!(class(&reader.open(moved, &mut wrong_number).unwrap_err()), "frame-not-genuine");
            let mut bytes = cut(&body.bytes, *place);
            assert_eq!(reader.open(*place, &mut bytes).unwrap().payload, vec![n; 100 + usize::from(n)]);
        }
    }
    let other_salt = PackReader::from_index(
        &epoch_key(),
        REPOSITORY,
        EPOCH,
        ObjectId::from_bytes([9; 16]),
        lifeboat_repository::format::ids::Salt::from_bytes([0; 24]),
    );
    let refused = other_salt.unwrap().open(places[0], &mut cut(&body.bytes, places[0])).map(|_| ()).unwrap_err();
    assert_eq!(class(&refused), "frame-not-genuine");
}

#[test]
fn without_the_index_the_table_of_contents_finds_every_frame() {
    let mut pack = builder(1 << 20);
    let salt = pack.salt();
    let entries: Vec<_> = (1..40_u32)
        .map(|n| TocEntry { place: pack.push(Codec::Stored, &vec![1; n as usize * 33], n).unwrap(), raw_len: n })
        .collect();
    let body = pack.seal().unwrap();
    let (rest, footer) = body.bytes.split_last_chunk::<FOOTER_BYTES>().unwrap();
    let footer = PackFooter::parse(footer).unwrap();
    assert_eq!(footer.frames, 39);
    let start = usize::try_from(footer.toc_offset).unwrap();
    let mut toc = rest[start..start + footer.toc_len as usize].to_vec();

    let wrong = PackFooter { frames: 38, ..footer };
    assert_eq!(class(&reader(salt).open_toc(&wrong, &mut toc.clone()).unwrap_err()), "frame-not-genuine");
    let place = FramePlace { frame: 39, offset: u32::try_from(footer.toc_offset).unwrap(), stored_len: footer.toc_len };
    let as_content = reader(salt).open(place, &mut toc.clone()).map(|_| ()).unwrap_err();
    assert_eq!(class(&as_content), "frame-misplaced", "a table of contents is not content");
    let mut content = cut(&body.bytes, entries[3].place);
    let as_toc = reader(salt).open_toc(&PackFooter { frames: 3, ..footer }, &mut content).unwrap_err();
    assert_eq!(class(&as_toc), "frame-misplaced", "content is not a table of contents");

    assert_eq!(reader(salt).open_toc(&footer, &mut toc).unwrap(), entries);
}

#[test]
fn malformed_footers_and_tables_are_refused() {
    let good = PackFooter { toc_offset: 144, toc_len: 24, frames: 0 }.encode();
    assert_eq!(PackFooter::parse(&good).unwrap().encode(), good);
    for offset in 16..FOOTER_BYTES {
        let mut bad = good;
        bad[offset] ^= 1;
        assert_eq!(PackFooter::parse(&bad), Err(TocError::Footer), "byte {offset}");
    }
    for (why, toc) in [
        ("cut in a number", &[0x80][..]),
        ("cut in an entry", &[0x90, 1, 5]),
        ("offset past the end of the numbers", &[0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0, 0, 1, 0, 0]),
        ("length past the end of the numbers", &[0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]),
        ("number too large", &[0x80, 0x80, 0x80, 0x80, 0x10, 0, 0]),
    ] {
        assert_eq!(parse_toc(toc), Err(TocError::Malformed), "{why}");
    }
    assert_eq!(parse_toc(&[]), Ok(Vec::new()));
}

#[test]
fn a_frame_that_claims_more_than_it_may_hold_is_not_sealed() {
    let mut pack = builder(1 << 20);
    assert!(matches!(pack.push(Codec::Zstd, &[1], (16 << 20) + 1), Err(PackError::Seal(_))));
    assert!(matches!(pack.push(Codec::Stored, &vec![0; 2 << 20], 2 << 20), Err(PackError::Full { .. })));
    // What a pack says about a stored frame's length is checked against the frame itself.
    pack.push(Codec::Stored, b"seven b", 8).unwrap();
    let error = verify(ObjectKind::Pack, &pack.seal().unwrap().bytes).unwrap_err();
    assert!(matches!(error, OpenError::Toc(TocError::Differs)), "{error:?}");
}

proptest! {
    #[test]
    fn any_frames_are_read_back(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..20)) {
        let mut pack = builder(1 << 20);
        let salt = pack.salt();
        let places: Vec<_> = frames
            .iter()
            .map(|frame| pack.push(Codec::Stored, frame, u32::try_from(frame.len()).unwrap()).unwrap())
            .collect();
        let body = pack.seal().unwrap();
        prop_assert_eq!(verify(ObjectKind::Pack, &body.bytes).unwrap().data_frames, frames.len() as u64);
        for (frame, place) in frames.iter().zip(places).rev() {
            let mut bytes = cut(&body.bytes, place);
            prop_assert_eq!(reader(salt).open(place, &mut bytes).unwrap().payload, &frame[..]);
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_object(
        tail in proptest::collection::vec(any::<u8>(), 0..400), real_head in any::<bool>(),
    ) {
        let head = if real_head { crate::samples::object(ObjectKind::Pack, 1)[..144].to_vec() } else { Vec::new() };
        prop_assert!(verify(ObjectKind::Pack, &[head, tail].concat()).is_err());
    }
}
