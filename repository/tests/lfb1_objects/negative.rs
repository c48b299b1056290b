//! Everything that somebody with write access to the store can do to an object. Each must be noticed, and called by its
//! right name, because the name decides what an operator does next.

use lifeboat_repository::format::compression::Decompressor;
use lifeboat_repository::format::header::{HeaderField, WalPlace};
use lifeboat_repository::format::ids::{EpochId, ObjectId, ObjectKind, RepositoryId};
use lifeboat_repository::format::seal::EpochKey;
use lifeboat_repository::format::unseal::verify_object;
use lifeboat_repository::format::unseal::{ExpectedObject, OpenError, Opener};

use crate::samples::{class, epoch_key, expected, frames, header, object, refusal, signers, verify};

const UNSIGNED: [ObjectKind; 3] = [ObjectKind::Pack, ObjectKind::IndexShard, ObjectKind::SmallBlob];

#[test]
fn untouched_objects_of_every_kind_are_accepted() {
    for kind in ObjectKind::ALL {
        let summary = verify(kind, &object(kind, 1)).unwrap();
        assert_eq!((summary.data_frames, summary.raw_bytes), (3, 1012), "{kind}");
        assert_eq!(summary.header, header(kind, 1));
    }
}

/// Which classes a changed bit at this offset of an unsigned object may have.
fn allowed(kind: ObjectKind, object: &[u8], offset: usize) -> &'static [&'static str] {
    match offset {
        0..8 => &["not-lfb1"],
        8 => &["unsupported-major"],
        9 => &["unsupported-suite"],
        // Another kind is not the expected one, or would need other flags.
        10 => &["malformed-header", "wrong-object"],
        // A small blob may be signed, and may be a timeline's history.
        11 if kind == ObjectKind::SmallBlob => &["malformed-header", "signature-unknown-key"],
        104..108 if kind == ObjectKind::SmallBlob => &["commitment"],
        11..16 => &["malformed-header"],
        16..48 => &["wrong-object"],
        48..88 => &["commitment"],
        88..112 => &["malformed-header"],
        112..144 => &["commitment"],
        _ => {
            let places = frames(object);
            let Some((start, _)) = places.iter().find(|(start, length)| (*start..start + length).contains(&offset))
            else {
                assert_eq!(kind, ObjectKind::Pack, "only packs have something behind the last frame");
                return &["toc"];
            };
            match offset - start {
                // A changed type or codec is unknown, or wrong for the content; a changed length leads elsewhere.
                0 | 1 => &["frame-head", "frame-not-genuine", "frame-misplaced"],
                2 | 3 => &["frame-head"],
                4..8 => &["frame-head", "truncated", "frame-not-genuine"],
                _ => &["frame-not-genuine"],
            }
        }
    }
}

#[test]
fn every_flipped_bit_is_detected_and_has_its_own_error() {
    for kind in UNSIGNED {
        let original = object(kind, 1);
        for offset in 0..original.len() {
            for bit in 0..8 {
                let mut changed = original.clone();
                changed[offset] ^= 1 << bit;
                let why = format!("{kind}, bit {bit} of byte {offset}");
                let class = refusal(kind, &changed, &why);
                assert!(allowed(kind, &original, offset).contains(&class), "{why}: {class}");
            }
        }
    }
}

#[test]
fn every_truncation_is_detected_also_at_the_end_of_a_frame() {
    for kind in UNSIGNED {
        let original = object(kind, 1);
        for length in 0..original.len() {
            assert_eq!(refusal(kind, &original[..length], &format!("{kind} cut at {length}")), "truncated");
        }
    }
}

#[test]
fn bytes_after_the_end_are_detected() {
    for kind in UNSIGNED {
        let original = object(kind, 1);
        let (start, length) = frames(&original)[0];
        for tail in [&[0][..], &original[start..start + length], &original[..200], &original] {
            let longer = [&original, tail].concat();
            let why = format!("{kind} with {} more bytes", tail.len());
            assert_eq!(refusal(kind, &longer, &why), "trailing-bytes", "{why}");
        }
    }
}

/// The object with its frames in another order; numbers count the original frames.
fn rearranged(original: &[u8], order: &[usize]) -> Vec<u8> {
    let places = frames(original);
    let mut changed = original[..144].to_vec();
    for index in order {
        let (start, length) = places[*index];
        changed.extend_from_slice(&original[start..start + length]);
    }
    let (start, length) = places[places.len() - 1];
    changed.extend_from_slice(&original[start + length..]);
    changed
}

#[test]
fn moved_duplicated_and_missing_frames_are_detected() {
    // Frames 0 to 2 are content, then the end; packs have a table of contents before it.
    for (kind, why, order, expected) in [
        (ObjectKind::IndexShard, "two swapped", &[1, 0, 2, 3][..], "frame-not-genuine"),
        (ObjectKind::IndexShard, "one doubled", &[0, 0, 1, 2, 3], "frame-not-genuine"),
        (ObjectKind::IndexShard, "one replaced by its neighbour", &[0, 0, 2, 3], "frame-not-genuine"),
        (ObjectKind::IndexShard, "the first left out", &[1, 2, 3], "frame-not-genuine"),
        (ObjectKind::IndexShard, "the last left out", &[0, 1, 3], "frame-not-genuine"),
        (ObjectKind::IndexShard, "all content left out", &[3], "frame-not-genuine"),
        (ObjectKind::IndexShard, "the end moved to the front", &[3, 0, 1, 2], "frame-not-genuine"),
        (ObjectKind::IndexShard, "the end moved inside", &[0, 3, 1, 2], "frame-not-genuine"),
        (ObjectKind::IndexShard, "no end", &[0, 1, 2], "truncated"),
        (ObjectKind::IndexShard, "two ends", &[0, 1, 2, 3, 3], "trailing-bytes"),
        (ObjectKind::Pack, "table of contents left out", &[0, 1, 2, 4], "frame-not-genuine"),
        (ObjectKind::Pack, "table of contents at the front", &[3, 0, 1, 2, 4], "frame-not-genuine"),
        (ObjectKind::Pack, "the end left out", &[0, 1, 2, 3], "frame-head"),
        (ObjectKind::Pack, "two swapped", &[1, 0, 2, 3, 4], "frame-not-genuine"),
    ] {
        let changed = rearranged(&object(kind, 1), order);
        assert_eq!(refusal(kind, &changed, why), expected, "{kind}: {why}");
    }
}

#[test]
fn genuine_parts_of_another_object_are_detected() {
    for kind in UNSIGNED {
        let (ours, theirs) = (object(kind, 1), object(kind, 2));
        assert_eq!(ours.len(), theirs.len());
        for (index, (start, length)) in frames(&ours).into_iter().enumerate() {
            let mut spliced = ours.clone();
            spliced[start..start + length].copy_from_slice(&theirs[start..start + length]);
            let why = format!("{kind}: frame {index} of another object");
            assert_eq!(refusal(kind, &spliced, &why), "frame-not-genuine", "{why}");
        }
        let mixed = [&ours[..112], &theirs[112..]].concat();
        assert_eq!(refusal(kind, &mixed, "their commitment and body behind our header"), "commitment");
        let mixed = [&ours[..144], &theirs[144..]].concat();
        assert_eq!(refusal(kind, &mixed, "their body behind our head"), "frame-not-genuine");
    }
}

#[test]
fn a_genuine_object_under_another_name_is_detected() {
    for kind in ObjectKind::ALL {
        let whole = object(kind, 1);
        for (field, wrong) in [
            (
                HeaderField::Repository,
                ExpectedObject { repository: RepositoryId::from_bytes([0; 16]), ..expected(kind) },
            ),
            (HeaderField::Epoch, ExpectedObject { epoch: EpochId::from_bytes([0; 16]), ..expected(kind) }),
            (HeaderField::Object, ExpectedObject { object: Some(ObjectId::from_bytes([2; 16])), ..expected(kind) }),
            (
                HeaderField::WalPlace,
                ExpectedObject {
                    place: Some(WalPlace::History(lifeboat_vocabulary::TimelineId::new(9).unwrap())),
                    ..expected(kind)
                },
            ),
        ] {
            let mut decompressor = Decompressor::new().unwrap();
            let bytes = whole.clone().into();
            let error = verify_object(&epoch_key(), &wrong, &signers(kind), bytes, &mut decompressor).unwrap_err();
            assert!(matches!(error, OpenError::WrongObject { field: found } if found == field), "{kind}: {error:?}");
        }
        for other in ObjectKind::ALL.into_iter().filter(|other| *other != kind) {
            assert_eq!(refusal(other, &whole, "another kind"), "wrong-object", "{kind} as {other}");
        }
    }
}

#[test]
fn a_wrong_key_is_reported_as_such() {
    for kind in ObjectKind::ALL {
        let wrong = EpochKey::from_bytes([0x18; 32]);
        let mut decompressor = Decompressor::new().unwrap();
        let bytes = object(kind, 1).into();
        let error = verify_object(&wrong, &expected(kind), &signers(kind), bytes, &mut decompressor).unwrap_err();
        assert_eq!(class(&error), "commitment", "{kind}");
    }
}

#[test]
fn a_frame_opens_alone_but_only_under_its_own_number_and_length() {
    let kind = ObjectKind::Pack;
    let whole = object(kind, 1);
    let opener = Opener::new(&epoch_key(), &expected(kind), &whole[..144]).unwrap();
    let (start, length) = frames(&whole)[2];
    for (why, number, bytes, expected) in [
        ("number before", 1, &whole[start..start + length], "frame-not-genuine"),
        ("number after", 3, &whole[start..start + length], "frame-not-genuine"),
        ("one byte short", 2, &whole[start..start + length - 1], "frame-head"),
        ("one byte long", 2, &whole[start..=start + length], "frame-head"),
        ("only the head", 2, &whole[start..start + 8], "frame-head"),
        ("less than a head", 2, &whole[start..start + 7], "truncated"),
        ("nothing", 2, &[], "truncated"),
    ] {
        let error = opener.open_frame(number, &mut bytes.to_vec()).unwrap_err();
        assert_eq!(class(&error), expected, "{why}");
    }
    let mut frame = whole[start..start + length].to_vec();
    assert_eq!(opener.open_frame(2, &mut frame).unwrap().payload, [1; 7]);
}
