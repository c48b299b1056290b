#![no_main]
//! What a holder of the key could seal: the input is content that passes authentication, with lengths and codecs at will.

use lifeboat_fuzz::{epoch_key, expected, header};
use lifeboat_repository::format::frame::Codec;
use lifeboat_repository::format::compression::Decompressor;
use lifeboat_repository::format::ids::ObjectKind;
use lifeboat_repository::format::seal::{FrameContent, seal_object};
use lifeboat_repository::format::unseal::verify_object;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((choice, payload)) = data.split_first() else { return };
    let codec = if choice & 1 == 0 { Codec::Stored } else { Codec::Zstd };
    let raw_len = u32::from(choice >> 1) * 64;
    let frames = [FrameContent { codec, payload, raw_len }];
    let Ok(body) = seal_object(&epoch_key(), &header(ObjectKind::IndexShard), &frames, None) else { return };
    let mut decompressor = Decompressor::new().expect("zstd has memory");
    let expected = expected(ObjectKind::IndexShard);
    if let Ok(summary) = verify_object(&epoch_key(), &expected, &[], body.bytes, &mut decompressor) {
        assert_eq!((summary.data_frames, summary.raw_bytes), (1, u64::from(raw_len)));
    }
});
