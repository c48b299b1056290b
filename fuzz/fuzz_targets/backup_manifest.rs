#![no_main]
//! The server's own manifest, line by line.

use lifeboat_postgres::ManifestLines;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((size, manifest)) = data.split_first() else { return };
    let mut lines = ManifestLines::default();
    let mut files = 0_usize;
    for piece in manifest.chunks(usize::from(*size) + 1) {
        if lines.feed(piece, |_| files += 1).is_err() {
            return;
        }
    }
    assert!(files <= manifest.len());
    std::hint::black_box(&lines.finish());
});
