//! Sealed objects: from outside without the key, and from a holder of the key.

use bytes::Bytes;
use lifeboat_repository::format::compression::Decompressor;
use lifeboat_repository::format::frame::Codec;
use lifeboat_repository::format::header::ObjectHeader;
use lifeboat_repository::format::ids::ObjectKind;
use lifeboat_repository::format::index::{IndexItem, IndexReader, decode_item};
use lifeboat_repository::format::seal::{EpochKey, FrameContent, seal_object};
use lifeboat_repository::format::toc::{PackFooter, parse_toc};
use lifeboat_repository::format::unseal::verify_object;
use lifeboat_repository::format::{PacksList, layout};

use crate::material::{EPOCH, Input, REPOSITORY, epoch_key, expected, header};

/// `{0: 0, 1: 1, 2: 0, 3: true}`: the head of the only shard.
const HEAD: [u8; 9] = [0xA4, 0, 0, 1, 1, 2, 0, 3, 0xF5];
/// What a compressed payload may decompress to, in **bytes**.
const RAW_MAX: usize = 1 << 20;
/// Packs that an index item may refer to.
const PACKS: u32 = 1 << 20;

fn decompressor() -> Decompressor {
    Decompressor::new().expect("zstd has memory")
}

/// A sealed object from storage: nobody's bytes are accepted without the key, and none of them may do harm.
pub fn object(data: &[u8]) {
    if let Ok(header) = ObjectHeader::parse(data) {
        assert_eq!(header.encode().as_ref().map(|bytes| &bytes[..]), Ok(&data[..112]));
        let verify = |key: &EpochKey| {
            let object = Bytes::copy_from_slice(data);
            verify_object(key, &expected(header.kind), &[], object, &mut decompressor())
        };
        assert!(verify(&EpochKey::from_bytes([6; 32])).is_err(), "nobody has sealed it");
        // The key that everybody knows leads further in.
        if let Ok(summary) = verify(&epoch_key()) {
            assert!(summary.data_frames <= data.len() as u64);
        }
    }
}

/// What a holder of the key could seal: content that passes authentication, with lengths and codecs at will.
pub fn authenticated_object(data: &[u8]) {
    let Some((choice, payload)) = data.split_first() else { return };
    let codec = if choice & 1 == 0 { Codec::Stored } else { Codec::Zstd };
    let raw_len = u32::from(choice >> 1) * 64;
    let frames = [FrameContent { codec, payload, raw_len }];
    let Ok(body) = seal_object(&epoch_key(), &header(ObjectKind::IndexShard), &frames, None) else { return };
    let expected = expected(ObjectKind::IndexShard);
    if let Ok(summary) = verify_object(&epoch_key(), &expected, &[], body.bytes, &mut decompressor()) {
        assert_eq!((summary.data_frames, summary.raw_bytes), (1, u64::from(raw_len)));
    }
}

/// Compressed payloads never decompress to more than was asked for.
pub fn zstd(data: &[u8]) {
    let mut decompressor = decompressor();
    let mut raw = Vec::new();
    if decompressor.decompress_up_to(data, RAW_MAX, &mut raw).is_ok() {
        assert!(raw.len() <= RAW_MAX);
        let mut exact = vec![0; raw.len()];
        decompressor.decompress(Codec::Zstd, data, &mut exact).expect("what decompressed once does so again");
        assert_eq!(raw, exact);
    }
}

/// A pack's table of contents and footer, as found when the index is lost.
pub fn pack_toc(data: &[u8]) {
    if let Ok(entries) = parse_toc(data) {
        assert!(entries.len() <= data.len());
    }
    if let Some(footer) = data.first_chunk()
        && let Ok(parsed) = PackFooter::parse(footer)
    {
        assert_eq!(parsed.encode(), *footer);
    }
}

/// The plain list of a backup's objects: there is one text for one list.
pub fn packs_list(data: &[u8]) {
    if let Ok(list) = PacksList::parse(data) {
        assert_eq!(list.to_body().map(|body| body.bytes.to_vec()).ok().as_deref(), Some(data));
        for (key, _) in list.iter() {
            assert!(layout::parse(key).is_none_or(|name| name.key() == *key));
        }
    }
}

/// Items of an index, and shards made of them, with frames that end anywhere.
///
/// The input: where the first frame ends (2 bytes), items.
pub fn index(data: &[u8]) {
    let mut input = Input(data);
    let cut = usize::from(input.short());
    let data = input.0;
    if let Ok((item, length)) = decode_item(data, PACKS) {
        assert!(length <= data.len());
        if let IndexItem::Entry { entry, frames, .. } = &item {
            assert_eq!(entry.size, frames.iter().map(|frame| u64::from(frame.raw_len)).sum::<u64>());
            assert!(frames.iter().all(|frame| frame.pack < PACKS));
        }
        // An item is read alike from no more than its own bytes.
        let alone = decode_item(&data[..length], PACKS);
        assert_eq!(alone.ok(), Some((item, length)));
    }
    let first = input.take(cut);
    let frames = [&HEAD[..], first, input.0].map(FrameContent::stored);
    let Ok(frames) = frames.into_iter().collect::<Result<Vec<_>, _>>() else { return };
    let Ok(body) = seal_object(&epoch_key(), &header(ObjectKind::IndexShard), &frames, None) else { return };
    let mut reader = IndexReader::new(&epoch_key(), REPOSITORY, EPOCH).expect("zstd has memory");
    reader.open_shard(body.bytes).expect("a shard that was just sealed opens");
    let mut items = 0_usize;
    while let Ok(Some(_)) = reader.next_item() {
        items += 1;
    }
    assert!(items <= data.len(), "every item has a byte");
}
