#![no_main]
//! Compressed payloads never decompress to more than was asked for.

use lifeboat_repository::format::frame::Codec;
use lifeboat_repository::format::compression::Decompressor;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut decompressor = Decompressor::new().expect("zstd has memory");
    let mut raw = Vec::new();
    if decompressor.decompress_up_to(data, 1 << 20, &mut raw).is_ok() {
        assert!(raw.len() <= 1 << 20);
        let mut exact = vec![0; raw.len()];
        decompressor.decompress(Codec::Zstd, data, &mut exact).expect("what decompressed once does so again");
        assert_eq!(raw, exact);
    }
});
