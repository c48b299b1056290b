//! The index: what is written comes back, and nothing of it can be left out, doubled or put in another order.

use bytes::Bytes;
use lifeboat_repository::format::frame::FramePlace;
use lifeboat_repository::format::ids::{EpochId, ObjectId, Salt};
use lifeboat_repository::format::index::{
    Elsewhere, FrameRef, IndexError, IndexItem, IndexReader, IndexWriter, ItemError, PackItem, SealedShard, decode_item,
};
use lifeboat_testkit::SeededRandom;
use lifeboat_vocabulary::{EntryKind, FileEntry, RelativePath};
use proptest::prelude::*;

use crate::samples::{EPOCH, REPOSITORY, epoch_key};

fn writer() -> IndexWriter {
    IndexWriter::new(&epoch_key(), REPOSITORY, EPOCH).unwrap()
}

fn read(shards: &[Bytes]) -> Result<Vec<IndexItem>, IndexError> {
    let mut reader = IndexReader::new(&epoch_key(), REPOSITORY, EPOCH)?;
    let mut items = Vec::new();
    for shard in shards {
        reader.open_shard(shard.clone())?;
        while let Some(item) = reader.next_item()? {
            items.push(item);
        }
    }
    let totals = reader.finish()?;
    assert_eq!(totals.shards as usize, shards.len());
    Ok(items)
}

fn pack(number: u32) -> PackItem {
    PackItem { number, object: ObjectId::from_bytes([3; 16]), salt: Salt::from_bytes([4; 24]), elsewhere: None }
}

fn file(name: &str, size: u64) -> FileEntry {
    let path = RelativePath::new(name.as_bytes()).unwrap();
    FileEntry { path, kind: EntryKind::File, mode: 0o600, size, modified: 1_760_000_000 }
}

/// Frames of 128 KiB whose stored lengths do not compress.
fn noisy_frames(count: u32, seed: u32) -> Vec<FrameRef> {
    let mut random = SeededRandom::new(seed.into());
    let mut offset = 144;
    (0..count)
        .map(|frame| {
            let stored_len = 24 + u32::try_from(random.below(1 << 17)).unwrap();
            let place = FramePlace { frame, offset, stored_len };
            offset += stored_len;
            FrameRef { pack: 0, place, raw_len: 1 << 17 }
        })
        .collect()
}

/// An index that does not fit in two shards.
fn large_index() -> (Vec<Bytes>, usize) {
    let mut index = writer();
    let mut shards: Vec<SealedShard> = Vec::new();
    shards.extend(index.push_pack(&pack(0)).unwrap());
    let mut files = 0;
    while shards.len() < 2 {
        let entry = file(&format!("base/5/{files}"), 4096 << 17);
        shards.extend(index.push_entry(&entry, files, &noisy_frames(4096, files)).unwrap());
        files += 1;
    }
    shards.push(index.finish().unwrap());
    assert_eq!(shards.iter().map(|shard| shard.number).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(shards.iter().all(|shard| shard.body.bytes.len() < 8 << 20));
    (shards.into_iter().map(|shard| shard.body.bytes).collect(), files as usize + 1)
}

#[test]
fn missing_duplicated_and_moved_shards_are_detected() {
    let (shards, items) = large_index();
    let pick = |order: &[usize]| order.iter().map(|index| shards[*index].clone()).collect::<Vec<_>>();
    for (why, order, expected) in [
        ("none at all", &[][..], "MissingLast { shards: 0 }"),
        ("the last left out", &[0, 1], "MissingLast { shards: 2 }"),
        ("the first left out", &[1, 2], "ShardOrder { expected: 0, found: 1 }"),
        ("the middle left out", &[0, 2], "ShardOrder { expected: 1, found: 2 }"),
        ("two swapped", &[0, 2, 1], "ShardOrder { expected: 1, found: 2 }"),
        ("one doubled", &[0, 0, 1, 2], "ShardOrder { expected: 1, found: 0 }"),
        ("one too many", &[0, 1, 2, 2], "AfterLast { shard: 3 }"),
    ] {
        assert_eq!(format!("{:?}", read(&pick(order)).unwrap_err()), expected, "{why}");
    }
    assert_eq!(read(&pick(&[0, 1, 2])).unwrap().len(), items);
}

#[test]
fn an_index_that_was_not_read_to_its_end_does_not_count_as_read() {
    let mut index = writer();
    assert!(index.push_facts(b"{}").unwrap().is_none());
    let shard = index.finish().unwrap().body.bytes;
    let mut reader = IndexReader::new(&epoch_key(), REPOSITORY, EPOCH).unwrap();
    reader.open_shard(shard.clone()).unwrap();
    assert!(reader.next_item().unwrap().is_some());
    assert!(matches!(reader.open_shard(shard), Err(IndexError::Unread { shard: 0 })));
    assert!(matches!(reader.finish(), Err(IndexError::Unread { shard: 0 })));
}

#[test]
fn a_shard_of_another_backup_or_a_cut_one_is_refused() {
    let shard = writer().finish().unwrap().body.bytes;
    let mut reader = IndexReader::new(&epoch_key(), REPOSITORY, EpochId::from_bytes([0; 16])).unwrap();
    assert!(matches!(reader.open_shard(shard.clone()), Err(IndexError::Open { shard: 0, .. })), "another epoch");
    for length in [0, 143, 144, 180, shard.len() - 1] {
        assert!(matches!(read(&[shard.slice(..length)]), Err(IndexError::Open { .. })), "cut at {length}");
    }
    assert_eq!(read(&[shard]).unwrap(), []);
}

#[test]
fn items_in_an_order_that_no_reader_accepts_are_not_written() {
    let mut index = writer();
    assert!(matches!(index.push_pack(&pack(1)), Err(IndexError::Order { .. })), "packs begin at 0");
    index.push_pack(&pack(0)).unwrap();
    assert!(matches!(index.push_pack(&pack(0)), Err(IndexError::Order { .. })), "one pack twice");
    assert!(matches!(index.push_facts(b"{}"), Err(IndexError::Order { .. })), "facts come first");
    let frame = FrameRef { pack: 1, place: FramePlace { frame: 0, offset: 144, stored_len: 40 }, raw_len: 16 };
    let unknown = index.push_entry(&file("a", 16), 0, &[frame]);
    assert!(matches!(unknown, Err(IndexError::Extents(_))), "a pack that was not named");
    let short = index.push_entry(&file("a", 17), 0, &[FrameRef { pack: 0, ..frame }]);
    assert!(matches!(short, Err(IndexError::Extents(_))), "frames that do not make up the file");
    let huge = writer().push_facts(&vec![0; 16 << 20]);
    assert!(matches!(huge, Err(IndexError::ItemTooLarge { .. })), "larger than a frame");
    index.finish().unwrap();
    assert!(matches!(index.finish(), Err(IndexError::Order { .. })), "the end twice");
    assert!(matches!(index.push_pack(&pack(1)), Err(IndexError::Order { .. })), "after the end");
}

#[test]
fn an_item_of_many_mebibytes_is_a_frame_of_its_own() {
    let json: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let mut index = writer();
    let mut shards = Vec::new();
    shards.extend(index.push_facts(&json).unwrap());
    for number in 0..3 {
        shards.extend(index.push_entry(&file(&format!("f{number}"), 0), 0, &[]).unwrap());
    }
    shards.push(index.finish().unwrap());
    let bytes: Vec<_> = shards.into_iter().map(|shard| shard.body.bytes).collect();
    let items = read(&bytes).unwrap();
    assert_eq!(items.len(), 4);
    assert_eq!(items[0], IndexItem::Facts(json));
}

/// CBOR by hand: `{0: type, keys...}`.
fn item(bytes: &[u8]) -> Result<IndexItem, ItemError> {
    decode_item(bytes, 1).map(|(item, _)| item)
}

#[test]
fn unknown_keys_are_skipped_and_unknown_types_are_not() {
    let directory = |tail: &[u8]| [&[0xA6, 0, 3, 1, 0x41, b'd', 2, 1, 3, 0x19, 0x01, 0xC0, 5, 0][..], tail].concat();
    let IndexItem::Entry { entry, .. } = item(&directory(&[0x18, 100, 0x82, 1, 0x61, b'x'])).unwrap() else {
        panic!("a directory is an entry");
    };
    assert_eq!((entry.path.as_bytes(), entry.kind, entry.mode), (&b"d"[..], EntryKind::Directory, 0o700));

    assert!(matches!(item(&[0xA1, 0, 4]), Err(ItemError::UnknownType { found: 4 })));
    assert!(matches!(item(&[0xA1, 0, 0]), Err(ItemError::Misplaced { kind: 0 })), "a shard's head inside");
    for (why, bytes) in [
        ("not a map", vec![0x80]),
        ("no type", vec![0xA0]),
        ("the type is not first", vec![0xA2, 1, 0x40, 0, 1]),
        ("indefinite length", vec![0xBF, 0, 1, 1, 0x40, 0xFF]),
        ("a key twice", vec![0xA3, 0, 1, 1, 0x40, 1, 0x40]),
        ("keys out of order", vec![0xA4, 0, 1, 1, 0x40, 3, 0, 2, 0]),
        ("cut", vec![0xA2, 0, 1, 1, 0x45, 1, 2]),
        ("facts without content", vec![0xA1, 0, 1]),
        ("a value of another type", vec![0xA2, 0, 1, 1, 5]),
        ("a huge length", vec![0xA2, 0, 1, 1, 0x5B, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]),
        ("too many keys", vec![0xBB, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 1, 1, 0x40]),
        ("nothing", vec![]),
    ] {
        assert!(
            matches!(item(&bytes), Err(ItemError::Cbor(_) | ItemError::Encoding | ItemError::Missing { .. })),
            "{why}"
        );
    }
}

#[test]
fn entries_that_make_no_sense_are_refused() {
    let head = [0, 3, 1, 0x41, b'a'];
    for (expected, why, keys, tail) in [
        ("Value { kind: 3, key: 1 }", "leaves the directory", 0xA5, vec![0, 3, 1, 0x42, b'.', b'.', 2, 1, 3, 0, 5, 0]),
        ("Missing { kind: 3, key: 1 }", "no path", 0xA4, vec![0, 3, 2, 1, 3, 0, 5, 0]),
        ("Value { kind: 3, key: 2 }", "an unknown kind", 0xA5, [&head[..], &[2, 3, 3, 0, 5, 0]].concat()),
        ("Missing { kind: 3, key: 6 }", "a file without a checksum", 0xA5, [&head[..], &[2, 0, 3, 0, 5, 0]].concat()),
        ("Value { kind: 3, key: 6 }", "a directory with one", 0xA6, [&head[..], &[2, 1, 3, 0, 5, 0, 6, 0]].concat()),
        (
            "Value { kind: 3, key: 4 }",
            "a directory with content",
            0xA6,
            [&head[..], &[2, 1, 3, 0, 4, 1, 5, 0]].concat(),
        ),
        ("Missing { kind: 3, key: 9 }", "a link without a target", 0xA5, [&head[..], &[2, 2, 3, 0, 5, 0]].concat()),
        (
            "Value { kind: 3, key: 9 }",
            "a file with a target",
            0xA7,
            [&head[..], &[2, 0, 3, 0, 5, 0, 6, 0, 9, 0x40]].concat(),
        ),
        (
            "Extents(Size { size: 1, found: 0 })",
            "content without frames",
            0xA7,
            [&head[..], &[2, 0, 3, 0, 4, 1, 5, 0, 6, 0]].concat(),
        ),
        (
            "Extents(Length { pack: 0, frame: 0 })",
            "frames without content",
            0xA7,
            [&head[..], &[2, 0, 3, 0, 5, 0, 6, 0, 8, 0x45, 2, 0, 0, 0, 40]].concat(),
        ),
        (
            "Value { kind: 3, key: 3 }",
            "a mode of 33 bits",
            0xA5,
            [&head[..], &[2, 1, 3, 0x1B, 0, 0, 0, 1, 0, 0, 0, 0, 5, 0]].concat(),
        ),
    ] {
        let error = item(&[&[keys][..], &tail].concat()).unwrap_err();
        assert_eq!(format!("{error:?}"), expected, "{why}");
    }
    let whole = [&[0xA8][..], &head, &[2, 0, 3, 0, 4, 9, 5, 0, 6, 0, 8, 0x45, 2, 0, 0, 0, 40]].concat();
    assert!(decode_item(&whole, 0).is_err(), "in a pack that was not named");
    let IndexItem::Entry { frames, .. } = item(&whole).unwrap() else { panic!("a file is an entry") };
    let place = FramePlace { frame: 0, offset: 144, stored_len: 40 };
    assert_eq!(frames, [FrameRef { pack: 0, place, raw_len: 9 }]);
}

fn any_entry() -> impl Strategy<Value = (FileEntry, u32, Vec<FrameRef>)> {
    let path = "[a-zA-Z0-9_.]{1,30}(/[a-zA-Z0-9_]{1,9}){0,4}";
    let frame = (0..3_u32, any::<u16>(), 144..1_000_000_u32, 24..200_000_u32, 1..300_000_u32);
    let frames = proptest::collection::vec(frame, 0..12);
    (path, 0..3_u8, any::<u32>(), any::<i64>(), any::<u32>(), frames).prop_filter_map(
        "a path below the directory",
        |(path, kind, mode, modified, crc, frames)| {
            let path = RelativePath::new(path.as_bytes()).ok()?;
            let mut frames: Vec<_> = frames
                .into_iter()
                .map(|(pack, frame, offset, stored_len, raw_len)| FrameRef {
                    pack,
                    place: FramePlace { frame: u32::from(frame), offset, stored_len },
                    raw_len,
                })
                .collect();
            let kind = match kind {
                0 => EntryKind::File,
                1 => EntryKind::Directory,
                _ => EntryKind::Symlink { target: path.as_bytes().repeat(2) },
            };
            if kind != EntryKind::File {
                frames.clear();
            }
            let crc = if kind == EntryKind::File { crc } else { 0 };
            let size = frames.iter().map(|frame| u64::from(frame.raw_len)).sum();
            Some((FileEntry { path, kind, mode, size, modified }, crc, frames))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn written_items_are_read_back_in_order(
        entries in proptest::collection::vec(any_entry(), 0..40), facts in proptest::option::of(".{0,200}"),
    ) {
        let mut index = writer();
        let mut expected = Vec::new();
        if let Some(facts) = facts {
            prop_assert!(index.push_facts(facts.as_bytes()).unwrap().is_none());
            expected.push(IndexItem::Facts(facts.into_bytes()));
        }
        for number in 0..3 {
            let key = "data/20261120T020003Z-5f1c09ab/p000001-03".parse().unwrap();
            let elsewhere = (number == 1).then(|| Elsewhere { key, epoch: EpochId::from_bytes([8; 16]) });
            let item = PackItem { elsewhere, ..pack(number) };
            index.push_pack(&item).unwrap();
            expected.push(IndexItem::Pack(item));
        }
        for (entry, crc32c, frames) in entries {
            index.push_entry(&entry, crc32c, &frames).unwrap();
            expected.push(IndexItem::Entry { entry, crc32c, frames });
        }
        prop_assert_eq!(read(&[index.finish().unwrap().body.bytes]).unwrap(), expected);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..5_u8, keys in 0xA1..0xAA_u8,
    ) {
        let framed = [&[keys, 0, kind][..], &bytes].concat();
        for bytes in [&bytes, &framed] {
            if let Ok((_, length)) = decode_item(bytes, 1000) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
