//! Tests of WAL as sealed objects.

use super::*;
use crate::format::header::HeaderField;
use crate::format::ids::RepositoryId;
use crate::format::trailer::SignatureFault;
use crate::keys::identity::Identity;
use crate::samples::wal::{new_epoch, sealer, wal_bytes, wal_trust};
use crate::samples::{self, wal_range};
use proptest::prelude::*;

async fn epoch() -> WalEpoch {
    new_epoch(&Identity::generate().unwrap()).await
}

fn open(name: &StoredName, epoch: &WalEpoch, object: Bytes) -> Result<Bytes, OpenWalError> {
    wal_trust().open(name, epoch.key(), object, &mut Decompressor::new().unwrap())
}

#[tokio::test]
async fn ranges_and_bytes_that_do_not_fit_are_refused() {
    let epoch = epoch().await;
    let mut sealer = sealer(samples::signer());
    for (why, range, bytes) in [
        ("too few bytes", wal_range(1, 10, 20), 9),
        ("too many bytes", wal_range(1, 10, 20), 11),
        ("an empty range", wal_range(1, 10, 10), 0),
        ("backwards", wal_range(1, 10, 9), 0),
        ("too long", wal_range(1, 1, (16 << 20) + 2), (16 << 20) + 1),
    ] {
        let bytes = vec![1; bytes];
        assert!(matches!(sealer.seal_slice(&epoch, range, &bytes), Err(SealWalError::Range { .. })), "{why}");
        assert!(matches!(sealer.seal_piece(&epoch, range, &bytes), Err(SealWalError::Range { .. })), "{why}");
    }
    let too_large = vec![b'x'; HISTORY_BYTES_MAX + 1];
    let history = sealer.seal_history(&epoch, wal_range(2, 1, 2).timeline, &too_large);
    assert!(matches!(history, Err(SealWalError::HistoryTooLarge { .. })));
    let signer = Arc::new(samples::signer());
    let mut other = WalSealer::new(RepositoryId::from_bytes([1; 16]), signer, WalLevels::default()).unwrap();
    let refused = other.seal_slice(&epoch, wal_range(1, 10, 11), b"x");
    assert!(matches!(refused, Err(SealWalError::OtherRepository { .. })));
    let levels = WalLevels { slice: 0, piece: 1 };
    assert!(WalSealer::new(samples::repository(), Arc::new(samples::signer()), levels).is_err());
}

#[tokio::test]
async fn a_cut_object_and_one_with_a_flipped_bit_are_refused_wherever_it_happens() {
    let epoch = epoch().await;
    let mut sealer = sealer(samples::signer());
    let range = wal_range(0xB, 0x1_0000_0000, 0x1_0000_0100);
    let mut bytes = wal_bytes(range);
    let slice = sealer.seal_slice(&epoch, range, &bytes).unwrap();
    bytes[200..].fill(0);
    let piece = sealer.seal_piece(&epoch, range, &bytes).unwrap();
    let history = sealer.seal_history(&epoch, range.timeline, b"1\t0/3000000\tno reason\n").unwrap();
    for SealedWal { name, body } in [slice, piece, history] {
        let good = body.bytes;
        assert!(open(&name, &epoch, good.clone()).is_ok());
        for length in 0..good.len() {
            assert!(open(&name, &epoch, good.slice(..length)).is_err(), "{name} cut to {length}");
        }
        for bit in 0..good.len() * 8 {
            let mut flipped = good.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&name, &epoch, flipped.into()).is_err(), "{name} with bit {bit} flipped");
        }
        let longer = [&good[..], b"x"].concat();
        assert!(open(&name, &epoch, longer.into()).is_err(), "{name} with a byte more");
    }
}

#[tokio::test]
async fn an_object_is_refused_at_any_other_place_and_under_any_other_trust() {
    let (epoch, other_epoch) = (epoch().await, self::epoch().await);
    let mut sealer = sealer(samples::signer());
    let range = wal_range(1, 0x100_0000, 0x100_1000);
    let slice = sealer.seal_slice(&epoch, range, &wal_bytes(range)).unwrap();
    let piece = sealer.seal_piece(&epoch, range, &wal_bytes(range)).unwrap();
    let wrong = |result: Result<Bytes, OpenWalError>| match result {
        Err(OpenWalError::Open(OpenError::WrongObject { field })) => field,
        other => panic!("{other:?}"),
    };
    for (why, name, field) in [
        ("a piece's name", StoredName::WalSegment(range), HeaderField::Kind),
        ("a later end", StoredName::WalSlice(wal_range(1, 0x100_0000, 0x100_1001)), HeaderField::WalPlace),
        ("an earlier start", StoredName::WalSlice(wal_range(1, 0xFF_FFFF, 0x100_1000)), HeaderField::WalPlace),
        ("moved", StoredName::WalSlice(wal_range(1, 0x100_1000, 0x100_2000)), HeaderField::WalPlace),
        ("another timeline", StoredName::WalSlice(wal_range(2, 0x100_0000, 0x100_1000)), HeaderField::WalPlace),
        ("a history", StoredName::TimelineHistory { timeline: range.timeline }, HeaderField::Kind),
    ] {
        assert_eq!(wrong(open(&name, &epoch, slice.body.bytes.clone())), field, "{why}");
    }
    assert_eq!(wrong(open(&slice.name, &epoch, piece.body.bytes.clone())), HeaderField::Kind);
    let no_wal = open(&StoredName::Descriptor, &epoch, slice.body.bytes.clone());
    assert!(matches!(no_wal, Err(OpenWalError::Name { .. })));

    let opened = |trust: WalTrust, key: &WalEpoch| {
        trust.open(&slice.name, key.key(), slice.body.bytes.clone(), &mut Decompressor::new().unwrap())
    };
    let root = samples::signer().verify_key();
    let other_repository = opened(WalTrust::new(RepositoryId::from_bytes([1; 16]), &[root]), &epoch);
    assert_eq!(wrong(other_repository), HeaderField::Repository);
    let stranger = samples::signer_named("stranger", 1).verify_key();
    for keys in [&[stranger][..], &[]] {
        let refused = opened(WalTrust::new(samples::repository(), keys), &epoch);
        let unknown = |error: &OpenWalError| {
            matches!(error, OpenWalError::Open(OpenError::Signature(SignatureFault::UnknownSigner { .. })))
        };
        assert!(refused.as_ref().is_err_and(unknown), "{refused:?}");
    }
    assert!(matches!(opened(wal_trust(), &other_epoch), Err(OpenWalError::Open(OpenError::Commitment))));
    assert!(opened(WalTrust::new(samples::repository(), &[stranger, root]), &epoch).is_ok());
}

/// Seals content that does not fit its name, as no writer of ours does.
fn forged(epoch: &WalEpoch, form: WalForm, range: WalRange, content: &[u8]) -> SealedWal {
    let (kind, name) = match form {
        WalForm::Piece => (ObjectKind::WalSegment, StoredName::WalSegment(range)),
        WalForm::Slice => (ObjectKind::WalSlice, StoredName::WalSlice(range)),
    };
    let WalRange { timeline, start, end } = range;
    let place = WalPlace::Range { timeline, start, end };
    let mark = WalMark { record: None, content_crc: 0 };
    let body = sealer(samples::signer()).seal(epoch, PlainObject { kind, place, level: 1, content, mark }).unwrap();
    SealedWal { name, body }
}

#[tokio::test]
async fn content_of_another_length_than_the_name_says_is_refused_although_it_is_signed() {
    let epoch = epoch().await;
    let range = wal_range(1, 0x100_0000, 0x110_0000);
    let length = 0x10_0000;
    for (why, form, bytes, accepted) in [
        ("a slice that is too short", WalForm::Slice, length - 1, false),
        ("a slice that is too long", WalForm::Slice, length + 1, false),
        ("a slice of nothing", WalForm::Slice, 0, false),
        ("a slice", WalForm::Slice, length, true),
        ("a piece that is too long", WalForm::Piece, length + 1, false),
        ("a piece that is far too long", WalForm::Piece, 40 << 20, false),
        ("a piece that ends in zeros", WalForm::Piece, 5, true),
        ("a piece of zeros", WalForm::Piece, 0, true),
    ] {
        let SealedWal { name, body } = forged(&epoch, form, range, &vec![7; bytes]);
        match open(&name, &epoch, body.bytes) {
            Ok(content) if accepted => {
                assert_eq!(content.len(), length, "{why}");
                let stored = bytes.min(length);
                assert!(
                    content[..stored].iter().all(|b| *b == 7) && content[stored..].iter().all(|b| *b == 0),
                    "{why}"
                );
            }
            Err(OpenWalError::Length { .. }) if !accepted => {}
            other => panic!("{why}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn zeros_at_the_end_of_a_piece_are_not_stored_and_those_of_a_slice_are() {
    let epoch = epoch().await;
    let mut sealer = sealer(samples::signer());
    let range = wal_range(1, 16 << 20, 32 << 20);
    let mut bytes = vec![0; 16 << 20];
    for written in [0, 1, 4095, 4096, 4097, 100_000] {
        bytes[..written].fill(9);
        let piece = sealer.seal_piece(&epoch, range, &bytes).unwrap();
        assert!(piece.body.bytes.len() < 1000, "{written}: {}", piece.body.bytes.len());
        assert_eq!(open(&piece.name, &epoch, piece.body.bytes).unwrap(), bytes, "{written}");
    }
    assert_eq!(without_zeros(&bytes).len(), 100_000);
    assert_eq!(without_zeros(&[0, 0, 5, 0]), [0, 0, 5]);
    assert!(without_zeros(&[]).is_empty());
    let range = wal_range(1, 10, 20);
    let slice = sealer.seal_slice(&epoch, range, &[0; 10]).unwrap();
    assert_eq!(open(&slice.name, &epoch, slice.body.bytes).unwrap(), vec![0; 10]);
}

#[tokio::test]
async fn an_object_fits_the_bound_for_reading_even_if_nothing_could_be_compressed() {
    let epoch = epoch().await;
    let mut noise = vec![0; 16 << 20];
    getrandom::fill(&mut noise).unwrap();
    let mut sealer = sealer(samples::signer());
    for length in [1, 1000, 1 << 20, 16 << 20] {
        let range = wal_range(1, 16 << 20, (16 << 20) + length as u64);
        for sealed in [
            sealer.seal_slice(&epoch, range, &noise[..length]).unwrap(),
            sealer.seal_piece(&epoch, range, &noise[..length]).unwrap(),
        ] {
            assert!(sealed.body.bytes.len() as u64 <= stored_bytes_max(&sealed.name), "{length}");
            assert_eq!(open(&sealed.name, &epoch, sealed.body.bytes).unwrap(), noise[..length]);
        }
    }
    assert!(stored_bytes_max(&StoredName::WalSegment(wal_range(1, 16 << 20, 32 << 20))) <= 64 << 20);
}

#[tokio::test]
async fn every_object_draws_its_own_id_and_salt() {
    let epoch = epoch().await;
    let mut sealer = sealer(samples::signer());
    let range = wal_range(1, 10, 20);
    let [a, b] = [(), ()].map(|()| sealer.seal_slice(&epoch, range, &[7; 10]).unwrap().body);
    assert_ne!(a.sha256, b.sha256);
    let header = |body: &SealedBody| ObjectHeader::parse(&body.bytes).unwrap();
    assert!(header(&a).object != header(&b).object && header(&a).salt != header(&b).salt);
    assert_eq!(WalTrust::claimed_epoch(&a.bytes).unwrap(), epoch.id());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn sealed_content_is_read_back(
        start in 1_u64..u64::MAX - (1 << 21), pattern in proptest::collection::vec(any::<u8>(), 1..300),
        times in 1_usize..2000, zeros in 0_usize..300_000, timeline in 1_u32..,
    ) {
        let mut bytes = pattern.repeat(times);
        bytes.resize(bytes.len() + zeros, 0);
        let range = wal_range(timeline, start, start + bytes.len() as u64);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let epoch = runtime.block_on(epoch());
        let mut sealer = sealer(samples::signer());
        for sealed in [sealer.seal_slice(&epoch, range, &bytes).unwrap(), sealer.seal_piece(&epoch, range, &bytes).unwrap()] {
            prop_assert_eq!(&open(&sealed.name, &epoch, sealed.body.bytes).unwrap(), &bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let epoch = runtime.block_on(epoch());
        prop_assert!(open(&StoredName::WalSlice(wal_range(1, 10, 20)), &epoch, bytes.into()).is_err());
    }
}
