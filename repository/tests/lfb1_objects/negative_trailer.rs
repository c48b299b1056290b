//! The same for objects that carry a signature: it is checked before anything else is used.

use ed25519_dalek::SigningKey;
use lifeboat_repository::format::compression::Decompressor;
use lifeboat_repository::format::header::{ObjectHeader, Trailer};
use lifeboat_repository::format::ids::ObjectKind;
use lifeboat_repository::format::seal::{FrameContent, seal_object};
use lifeboat_repository::format::unseal::verify_object;

use crate::samples::{class, epoch_key, expected, header, object, refusal, signer};

const KIND: ObjectKind = ObjectKind::WalSlice;

fn body_end(object: &[u8]) -> usize {
    object.len() - 72
}

#[test]
fn every_flipped_bit_of_a_signed_object_is_detected() {
    let original = object(KIND, 1);
    for offset in 0..original.len() {
        for bit in 0..8 {
            let mut changed = original.clone();
            changed[offset] ^= 1 << bit;
            let why = format!("bit {bit} of byte {offset}");
            let class = refusal(KIND, &changed, &why);
            let allowed: &[&str] = match offset {
                0..8 => &["not-lfb1"],
                8 => &["unsupported-major"],
                9 => &["unsupported-suite"],
                10 => &["malformed-header", "wrong-object"],
                // It then says that a mark lies in front of the signature.
                11 if bit == 1 => &["signature-wrong"],
                11..16 | 108..112 => &["malformed-header"],
                16..48 => &["wrong-object"],
                // A changed position may end before it starts.
                88..108 => &["signature-wrong", "malformed-header"],
                _ if (body_end(&original)..body_end(&original) + 8).contains(&offset) => &["signature-unknown-key"],
                _ => &["signature-wrong"],
            };
            assert!(allowed.contains(&class), "{why}: {class}");
        }
    }
}

#[test]
fn every_truncation_of_a_signed_object_is_detected() {
    let original = object(KIND, 1);
    for length in 0..original.len() {
        let class = refusal(KIND, &original[..length], &format!("cut at {length}"));
        // Whatever now stands last is taken for the signature.
        let expected = if length < 112 { "truncated" } else { "signature-unknown-key" };
        assert_eq!(class, expected, "cut at {length}");
    }
}

#[test]
fn signatures_of_other_objects_and_other_keys_are_refused() {
    let (ours, theirs) = (object(KIND, 1), object(KIND, 2));
    let mixed = [&ours[..body_end(&ours)], &theirs[body_end(&theirs)..]].concat();
    assert_eq!(refusal(KIND, &mixed, "their signature on our object"), "signature-wrong");
    let mixed = [&theirs[..112], &ours[112..]].concat();
    assert_eq!(refusal(KIND, &mixed, "their header on our object"), "signature-wrong");

    let stranger = SigningKey::from_bytes(&[0x66; 32]);
    let frames = [FrameContent::stored(b"forged").unwrap()];
    let forged = seal_object(&epoch_key(), &header(KIND, 1), &frames, Some(&stranger)).unwrap();
    assert_eq!(refusal(KIND, &forged.bytes, "a stranger's signature"), "signature-unknown-key");
}

#[test]
fn an_object_without_its_required_signature_is_refused() {
    let kind = ObjectKind::SmallBlob;
    let mut decompressor = Decompressor::new().unwrap();
    let signers = [signer().verifying_key()];
    let bytes = object(kind, 1).into();
    let error = verify_object(&epoch_key(), &expected(kind), &signers, bytes, &mut decompressor).unwrap_err();
    assert_eq!(class(&error), "signature-missing");

    let signed = ObjectHeader { trailer: Trailer::Present, ..header(kind, 1) };
    let body = seal_object(&epoch_key(), &signed, &[], Some(&signer())).unwrap();
    assert_eq!(refusal(kind, &body.bytes, "nobody to check it"), "signature-unknown-key");
    verify_object(&epoch_key(), &expected(kind), &signers, body.bytes, &mut decompressor).unwrap();
}

#[test]
fn a_second_signature_does_not_hide_behind_the_first() {
    let original = object(KIND, 1);
    let doubled = [&original[..], &original[body_end(&original)..]].concat();
    assert_eq!(refusal(KIND, &doubled, "two signatures"), "signature-wrong");
}
