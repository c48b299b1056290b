//! One object, byte for byte, as an independent implementation of the format computed it.

use ed25519_dalek::SigningKey;
use lifeboat_repository::format::aead::sha256;
use lifeboat_repository::format::compression::Decompressor;
use lifeboat_repository::format::header::{ObjectHeader, Trailer, WalPlace};
use lifeboat_repository::format::ids::{EpochId, ObjectId, ObjectKind, RepositoryId, Salt};
use lifeboat_repository::format::seal::{EpochKey, FrameContent, SealError, seal_object};
use lifeboat_repository::format::trailer::SignerId;
use lifeboat_repository::format::unseal::{ExpectedObject, ObjectReader};
use lifeboat_vocabulary::{Lsn, TimelineId};

fn counting<const N: usize>(from: u8) -> [u8; N] {
    std::array::from_fn(|index| from + u8::try_from(index).unwrap())
}

fn header() -> ObjectHeader {
    ObjectHeader {
        kind: ObjectKind::WalSlice,
        trailer: Trailer::Present,
        repository: RepositoryId::from_bytes(counting(0xA0)),
        epoch: EpochId::from_bytes(counting(0xB0)),
        object: ObjectId::from_bytes(counting(0xC0)),
        salt: Salt::from_bytes(counting(0xD0)),
        place: WalPlace::Range {
            timeline: TimelineId::new(7).unwrap(),
            start: Lsn::from_bytes(0xA_0000_0028).unwrap(),
            end: Lsn::from_bytes(0xA_0000_1028).unwrap(),
        },
    }
}

fn hex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

#[test]
fn the_known_object_is_sealed_and_opened_byte_for_byte() {
    let key = EpochKey::from_bytes(counting(0));
    let signer = SigningKey::from_bytes(&counting(0xE0));
    let frames = [FrameContent::stored(b"hello, ").unwrap(), FrameContent::stored(b"lifeboat").unwrap()];
    let body = seal_object(&key, &header(), &frames, Some(&signer)).unwrap();
    let bytes = &body.bytes[..];

    assert_eq!(bytes[112..144], hex("0738cb08612eb81fe32bd90ff84552078496f0124651ae1ff006a8adbf76171b"));
    let sealed = "01000000170000001e417f01929539ad3ff0de837c73676ceb726abcfcbbe1\
                  01000000180000004bbe94579b186048cc188021e8c6e9c6612b9c029aceddd8\
                  ff00000020000000039ab12be92641ccf3e3513f2f2eb1e598f9252ef8d05306e8fb601683a4061e";
    assert_eq!(bytes[144..247], hex(sealed));
    let unsigned = sha256(&bytes[..247]).to_string();
    assert_eq!(unsigned, "69d0f0496ce094b4819959b1d58bc1d53e3bfd128dcd5029b58217c6ef83389d");
    assert_eq!(SignerId::of(&signer.verifying_key()).to_string(), "98cf2057fb896032");
    assert_eq!(bytes[247..255], hex("98cf2057fb896032"));
    let signature = "99b229c8f5ae864f7f0dc8ac6e71d182eb6fa89cacbd914b493bd612ae2ca57c\
                     60c57c7bbedbd9fb9abc361bcc1a37451b5cd9dc8aa134fb84d6bf0e45c7f602";
    assert_eq!(bytes[255..], hex(signature));
    assert_eq!(body.sha256.to_string(), "e4dc00571bec10a2f61aa5b3882b2ea84e6827bfffe8183a8451642f04534f6c");
    assert_eq!(body.sha256, sha256(bytes));

    let ObjectHeader { kind, repository, epoch, object, place, .. } = header();
    let expected = ExpectedObject { kind, repository, epoch, object: Some(object), place: Some(place) };
    let mut decompressor = Decompressor::new().unwrap();
    let mut reader = ObjectReader::new(&key, &expected, &[signer.verifying_key()], body.bytes).unwrap();
    assert_eq!(reader.next_frame(&mut decompressor).unwrap(), Some(&b"hello, "[..]));
    assert_eq!(reader.next_frame(&mut decompressor).unwrap(), Some(&b"lifeboat"[..]));
    assert_eq!(reader.next_frame(&mut decompressor).unwrap(), None);
    assert_eq!((reader.summary().data_frames, reader.summary().raw_bytes), (2, 15));
}

#[test]
fn a_kind_is_not_sealed_with_the_wrong_number_of_signatures() {
    let (key, signer) = (EpochKey::from_bytes(counting(0)), SigningKey::from_bytes(&counting(0xE0)));
    let unsigned = seal_object(&key, &header(), &[], None);
    assert!(matches!(unsigned, Err(SealError::Signer { kind: ObjectKind::WalSlice })));
    let blob =
        ObjectHeader { kind: ObjectKind::SmallBlob, trailer: Trailer::Absent, place: WalPlace::Nowhere, ..header() };
    let signed = seal_object(&key, &blob, &[], Some(&signer));
    assert!(matches!(signed, Err(SealError::Signer { kind: ObjectKind::SmallBlob })));
    let empty = seal_object(&key, &blob, &[], None).unwrap();
    assert_eq!(empty.bytes.len(), 144 + 40);
}
