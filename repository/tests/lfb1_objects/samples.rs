//! Objects that the tests seal, and the class of an error.

use bytes::Bytes;
use ed25519_dalek::{SigningKey, VerifyingKey};
use lifeboat_repository::format::compression::{Compressor, Decompressor};
use lifeboat_repository::format::frame::Codec;
use lifeboat_repository::format::frame::FrameFault;
use lifeboat_repository::format::header::{ObjectHeader, Trailer, WalPlace};
use lifeboat_repository::format::ids::{EpochId, ObjectId, ObjectKind, RepositoryId, Salt};
use lifeboat_repository::format::pack::PackBuilder;
use lifeboat_repository::format::seal::{EpochKey, FrameContent, seal_object};
use lifeboat_repository::format::trailer::SignatureFault;
use lifeboat_repository::format::unseal::{ExpectedObject, ObjectSummary, OpenError, verify_object};
use lifeboat_vocabulary::{Lsn, TimelineId};

pub const REPOSITORY: RepositoryId = RepositoryId::from_bytes([0xA1; 16]);
pub const EPOCH: EpochId = EpochId::from_bytes([0xB2; 16]);

pub fn epoch_key() -> EpochKey {
    EpochKey::from_bytes([0x17; 32])
}

pub fn signer() -> SigningKey {
    SigningKey::from_bytes(&[0x5C; 32])
}

pub fn signers(kind: ObjectKind) -> Vec<VerifyingKey> {
    match kind {
        ObjectKind::WalSlice | ObjectKind::WalSegment => vec![signer().verifying_key()],
        _ => Vec::new(),
    }
}

/// The header of a test object; `name` makes object id and salt.
pub fn header(kind: ObjectKind, name: u8) -> ObjectHeader {
    let lsn = |bytes| Lsn::from_bytes(bytes).unwrap();
    let (trailer, place) = match kind {
        ObjectKind::WalSlice | ObjectKind::WalSegment => {
            let timeline = TimelineId::new(3).unwrap();
            (Trailer::Present, WalPlace::Range { timeline, start: lsn(0x100_0000), end: lsn(0x200_0000) })
        }
        _ => (Trailer::Absent, WalPlace::Nowhere),
    };
    let (object, salt) = (ObjectId::from_bytes([name; 16]), Salt::from_bytes([name ^ 0xFF; 24]));
    ObjectHeader { kind, trailer, repository: REPOSITORY, epoch: EPOCH, object, salt, place }
}

pub fn expected(kind: ObjectKind) -> ExpectedObject {
    ExpectedObject { kind, repository: REPOSITORY, epoch: EPOCH, object: None, place: None }
}

/// An object of the kind with three content frames: 5 bytes stored, 1000 zeros compressed, 7 bytes stored.
pub fn object(kind: ObjectKind, name: u8) -> Vec<u8> {
    let zeros = [0; 1000];
    let mut packed = Vec::new();
    assert_eq!(Compressor::new(3).unwrap().compress(&zeros, &mut packed).unwrap(), Codec::Zstd);
    let second = [name; 7];
    let frames = [
        FrameContent::stored(b"first").unwrap(),
        FrameContent { codec: Codec::Zstd, payload: &packed, raw_len: 1000 },
        FrameContent::stored(&second).unwrap(),
    ];
    let header = header(kind, name);
    let body = match kind {
        ObjectKind::Pack => {
            let mut pack = PackBuilder::with_header(&epoch_key(), header, 1 << 20).unwrap();
            for frame in frames {
                pack.push(frame.codec, frame.payload, frame.raw_len).unwrap();
            }
            pack.seal().unwrap()
        }
        _ => {
            let signer = (header.trailer == Trailer::Present).then(signer);
            seal_object(&epoch_key(), &header, &frames, signer.as_ref()).unwrap()
        }
    };
    body.bytes.to_vec()
}

pub fn verify(kind: ObjectKind, object: &[u8]) -> Result<ObjectSummary, OpenError> {
    let mut decompressor = Decompressor::new().unwrap();
    verify_object(&epoch_key(), &expected(kind), &signers(kind), Bytes::copy_from_slice(object), &mut decompressor)
}

/// Offset and length of every frame, by the plain lengths.
pub fn frames(object: &[u8]) -> Vec<(usize, usize)> {
    let mut places = Vec::new();
    let mut offset = 144;
    loop {
        let length = 8 + u32::from_le_bytes(object[offset + 4..offset + 8].try_into().unwrap()) as usize;
        places.push((offset, length));
        if object[offset] == 0xFF {
            return places;
        }
        offset += length;
    }
}

/// The name of an error's class, as the vector files and the tables use it.
pub fn class(error: &OpenError) -> &'static str {
    match error {
        OpenError::NotLfb1 => "not-lfb1",
        OpenError::UnsupportedMajor { .. } => "unsupported-major",
        OpenError::UnsupportedSuite { .. } => "unsupported-suite",
        OpenError::Malformed { .. } => "malformed-header",
        OpenError::WrongObject { .. } => "wrong-object",
        OpenError::Commitment => "commitment",
        OpenError::Frame { fault: FrameFault::NotGenuine, .. } => "frame-not-genuine",
        OpenError::Frame { fault: FrameFault::Misplaced, .. } => "frame-misplaced",
        OpenError::Frame { .. } => "frame-head",
        OpenError::Decompress { .. } => "decompress",
        OpenError::Truncated { .. } => "truncated",
        OpenError::TrailingBytes { .. } => "trailing-bytes",
        OpenError::Counts { .. } => "counts",
        OpenError::Toc(_) => "toc",
        OpenError::Signature(SignatureFault::Missing) => "signature-missing",
        OpenError::Signature(SignatureFault::UnknownSigner { .. }) => "signature-unknown-key",
        OpenError::Signature(_) => "signature-wrong",
        other => panic!("no class for {other:?}"),
    }
}

/// The class of the error with which an object is refused; fails the test if it is accepted.
pub fn refusal(kind: ObjectKind, object: &[u8], why: &str) -> &'static str {
    match verify(kind, object) {
        Err(error) => class(&error),
        Ok(summary) => panic!("{why}: accepted as {summary:?}"),
    }
}
