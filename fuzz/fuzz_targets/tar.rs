#![no_main]
//! The tar stream of a base backup, in pieces of any size.

use bytes::Bytes;
use lifeboat_postgres::TarParser;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((size, archive)) = data.split_first() else { return };
    let mut parser = TarParser::default();
    for piece in archive.chunks(usize::from(*size) * 8 + 1) {
        parser.feed(Bytes::copy_from_slice(piece));
        loop {
            match parser.next_event() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    std::hint::black_box(&parser.finish());
});
