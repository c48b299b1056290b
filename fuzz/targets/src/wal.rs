//! What lies in a region beside backups: objects with WAL, heads, leases, and the names of all.

use std::sync::LazyLock;
use std::time::Duration;

use lifeboat_repository::format::header::WalPlace;
use lifeboat_repository::format::layout::{self, StoredName, WalForm, WalRange};
use lifeboat_repository::format::{InstanceId, KeyName, WalMark};
use lifeboat_repository::keys::{Identity, KeyRecipients};
use lifeboat_repository::log::{KeyStanding, LogTrust, Signers, note};
use lifeboat_repository::wal::{
    EarlierHead, Head, HeadFile, Lease, LeaseAnswer, LeaseMemory, LeaseTerms, PieceSize, PlainWal, WalEpoch, WalLevels,
    WalObject, WalSealer, WalTrust, other_holder, stored_bytes_max,
};
use lifeboat_stores::{MemoryStore, ObjectKey, StoreUrl};
use lifeboat_vocabulary::{ClusterName, Lsn, ManualClock, RecordMark, SegmentSize, TimelineId};

use crate::material::{Input, Party, REPOSITORY, at_once, put, region, signers, time, unused_key};

/// No lease lasts longer, whatever it says.
const LEASE_MAX: Duration = Duration::from_secs(3600);
/// WAL of one fuzzed object, in **bytes**.
const WAL_MAX: usize = 32 << 10;

/// Names of objects, as a listing gives them: one name has one key, and a part of the WAL has a length.
pub fn layout(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(url) = text.parse::<StoreUrl>() {
        // A directory is shown as people write it.
        let is_directory = matches!(url, StoreUrl::Directory(_));
        assert!(is_directory || url.to_string().parse::<StoreUrl>() == Ok(url));
    }
    let Ok(key) = text.parse::<ObjectKey>() else { return };
    assert_eq!(key.as_str(), text);
    let Some(name) = layout::parse(&key) else { return };
    assert_eq!(name.key(), key);
    if let Some(object) = WalObject::of_key(&key) {
        assert_eq!((object.key(), object.name()), (key, name));
        assert!((1..=16 << 20).contains(&object.range.len()));
        assert!(stored_bytes_max(&object.name()) > object.range.len());
        check_cut(object.range);
    }
}

fn check_cut(range: WalRange) {
    for segment in [1 << 20, 16 << 20, 1 << 30] {
        let size = PieceSize::of(SegmentSize::from_bytes(segment).expect("it is a power of two"));
        let mut at = range.start;
        for piece in size.cut(range) {
            assert_eq!((piece.start, piece.timeline), (at, range.timeline));
            assert!(!piece.is_empty() && piece.len() <= size.as_bytes());
            assert_eq!(size.start_of(piece.start), (piece.end.as_bytes() - 1) & !(size.as_bytes() - 1), "in one piece");
            at = piece.end;
        }
        assert_eq!(at, range.end);
    }
}

/// A key for WAL and a sealer: drawn once, because both are random anyway.
static EPOCH: LazyLock<WalEpoch> = LazyLock::new(|| {
    let recipients = [Identity::generate().expect("there are random bytes").recipient()];
    let recipients = KeyRecipients { recipients: &recipients, commands: &[] };
    at_once(WalEpoch::new(REPOSITORY, time("2026-11-20T00:00:00Z"), recipients)).expect("a key can be wrapped")
});

/// Objects with WAL: what was sealed is read back with its mark, one flipped bit anywhere is noticed by whoever has no key,
/// and nobody's bytes are WAL.
///
/// The input: where a bit is flipped (4 bytes, 1 byte), start (8), mark (32), form (1), content.
pub fn wal_object(data: &[u8]) {
    let trust = WalTrust::new(REPOSITORY, &[Party::Writer.verify_key()]);
    let stranger = WalTrust::new(REPOSITORY, &[unused_key()]);
    let mut input = Input(data);
    let (flip_at, flip_bit, start, mark) = (input.word(), input.byte() % 8, input.number(), input.bytes::<32>());
    let form = if input.byte() & 1 == 0 { WalForm::Slice } else { WalForm::Piece };
    let bytes = input.take(WAL_MAX);
    let timeline = TimelineId::new(7).expect("it is not 0");
    let end = start.checked_add(bytes.len() as u64).and_then(Lsn::from_bytes);
    let (Some(start), Some(end)) = (Lsn::from_bytes(start), end) else { return };
    let range = WalRange { timeline, start, end };
    let last_record = read_mark(&mark, range);
    let mut sealer = WalSealer::new(REPOSITORY, Party::Writer.signer(), WalLevels::default())
        .expect("zstd has memory and this level");
    let sealed = sealer.seal_checked(&EPOCH, form, PlainWal { range, bytes, last_record });
    let Ok(sealed) = sealed else { return assert!(bytes.is_empty(), "only an empty range is none") };
    let (name, object) = (sealed.name, sealed.body.bytes);
    assert!(object.len() as u64 <= stored_bytes_max(&name));
    assert!(stranger.check_sealed(&name, data).is_err() && stranger.check_sealed(&name, &object).is_err());
    let signed = trust.check_sealed(&name, &object).expect("what was just sealed is genuine");
    let content_crc = crc32c::crc32c(bytes);
    assert_eq!(signed.mark, Some(WalMark { record: last_record, content_crc }));
    assert_eq!((signed.epoch, signed.standing), (EPOCH.id(), KeyStanding::InForce));
    let opened = trust.open_own(&name, &EPOCH, object.clone()).expect("what was just sealed opens");
    assert_eq!(&opened[..], bytes);
    let mut flipped = object.to_vec();
    let place = usize::try_from(flip_at).unwrap_or_default() % flipped.len();
    flipped[place] ^= 1 << flip_bit;
    assert!(trust.check_sealed(&name, &flipped).is_err(), "byte {place} is not covered");
    let elsewhere = WalRange { timeline: TimelineId::new(8).expect("it is not 0"), ..range };
    let elsewhere = WalObject::new(form, elsewhere).expect("it has a length").name();
    assert!(trust.check_sealed(&elsewhere, &object).is_err(), "it was signed for another place");
}

/// Reads a mark as it may stand in an object: what it says fits into the object, and is written as it was read.
fn read_mark(bytes: &[u8; 32], range: WalRange) -> Option<RecordMark> {
    let WalRange { timeline, start, end } = range;
    let place = WalPlace::Range { timeline, start, end };
    let mark = WalMark::decode(bytes, place);
    if let Some(record) = mark.record {
        assert!(record.start < record.end && record.end <= range.end && record.timeline == range.timeline);
    }
    assert_eq!(WalMark::decode(&mark.encode(), place), mark);
    mark.record
}

/// Signs of life: nobody's bytes are one, only a writer's key signs one, and one that is accepted is written as it was read.
///
/// The input: who signs (1 byte), text.
pub fn head(data: &[u8]) {
    let writer = Party::Writer.key_name();
    let trust = LogTrust { repository: REPOSITORY, signers: signers(), region: Some(region()), remembered: None };
    let nobody = LogTrust { signers: Signers::root_only(unused_key()), ..trust.clone() };
    assert!(Head::from_note(data, &writer, &nobody).is_err(), "nobody has signed it");
    let mut input = Input(data);
    let party = Party::chosen(input.byte());
    let text = format!("{}\n", String::from_utf8_lossy(input.0));
    let signer = party.signer();
    let Ok(signed) = note::sign(&text, &[&signer]) else { return };
    let Ok(head) = Head::from_note(&signed, &writer, &trust) else { return };
    assert!(matches!(party, Party::Root | Party::Writer), "{party:?} may not sign a head");
    assert_eq!((head.repository, &head.region, &head.writer), (REPOSITORY, &region(), &writer));
    if let Some(record) = head.last_record {
        let at = head.durable.expect("a record is before a position");
        assert!(record.start < record.end && record.end <= at.lsn && record.timeline == at.timeline);
    }
    let store = MemoryStore::new();
    let (mut file, _) = at_once(HeadFile::open(&store, &writer, &trust)).expect("the store answers");
    at_once(file.write(&store, &signer, &head)).expect("what was read can be written");
    let (_, found) = at_once(HeadFile::open(&store, &writer, &trust)).expect("the store answers");
    assert!(matches!(found, EarlierHead::Head(found) if found == head));
}

/// Leases: whatever lies there, nobody waits longer than an hour for it, and then the lease can be had.
///
/// The input: age in **seconds** (4 bytes), what lies there.
pub fn lease(data: &[u8]) {
    let mut input = Input(data);
    let age = Duration::from_secs(u64::from(input.word()));
    let written = time("2026-11-20T00:00:00Z");
    let clock = std::sync::Arc::new(ManualClock::at(written));
    let store = MemoryStore::with_clock(clock.clone());
    let writer: KeyName = Party::Writer.key_name();
    let key = StoredName::Lease { writer: writer.clone() }.key();
    put(&store, &key, input.0.to_vec());
    clock.set(written.plus(age));
    let instance = InstanceId::from_bytes([7; 8]);
    let cluster: ClusterName = "main".parse().expect("it is a name");
    let terms = LeaseTerms { writer: writer.clone(), instance, cluster, ttl: Duration::from_secs(60) };
    let (spool, kept) = (MemoryStore::new(), "lease".parse().expect("it is a key"));
    put(&spool, &kept, b"01\n".to_vec());
    let ours = LeaseMemory::new(std::sync::Arc::new(spool), kept);
    let other = at_once(other_holder(&store, &writer, instance, Some(&ours), &*clock)).expect("the store answers");
    let answer = at_once(Lease::acquire(&store, terms, &ours, &*clock)).expect("the store answers");
    match (answer, other) {
        (LeaseAnswer::Held(lease), None) => {
            assert_eq!(lease.terms().instance, instance);
            let other = at_once(other_holder(&store, &writer, InstanceId::from_bytes([8; 8]), None, &*clock));
            let other = other.expect("the store answers").expect("it is held now");
            assert!(other.lease.is_some_and(|lease| lease.instance == instance));
        }
        (LeaseAnswer::HeldByOther(holder), Some(other)) => {
            assert_eq!(holder, other);
            assert!(age < LEASE_MAX && holder.remaining <= LEASE_MAX.saturating_sub(age));
            assert!(holder.lease.is_none_or(|lease| {
                lease.instance != instance || !(lease.nonce.is_empty() || lease.nonce == "01")
            }));
        }
        (answer, other) => panic!("{answer:?} against {other:?}"),
    }
}
