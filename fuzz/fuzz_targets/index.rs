#![no_main]
//! Items of an index, and shards made of them.

use lifeboat_fuzz::{EPOCH, REPOSITORY, epoch_key, header};
use lifeboat_repository::format::ids::ObjectKind;
use lifeboat_repository::format::index::{IndexItem, IndexReader, decode_item};
use lifeboat_repository::format::seal::{FrameContent, seal_object};

/// `{0: 0, 1: 1, 2: 0, 3: true}`: the head of the only shard.
const HEAD: [u8; 9] = [0xA4, 0, 0, 1, 1, 2, 0, 3, 0xF5];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok((item, length)) = decode_item(data, 1 << 20) {
        assert!(length <= data.len());
        if let IndexItem::Entry { entry, frames, .. } = item {
            assert_eq!(entry.size, frames.iter().map(|frame| u64::from(frame.raw_len)).sum::<u64>());
        }
    }
    let (Ok(head), Ok(items)) = (FrameContent::stored(&HEAD), FrameContent::stored(data)) else { return };
    let body = seal_object(&epoch_key(), &header(ObjectKind::IndexShard), &[head, items], None);
    let Ok(body) = body else { return };
    let mut reader = IndexReader::new(&epoch_key(), REPOSITORY, EPOCH).expect("zstd has memory");
    reader.open_shard(body.bytes).expect("a shard that was just sealed opens");
    while let Ok(Some(_)) = reader.next_item() {}
});
