#![no_main]
//! Names of objects, as a listing gives them.

use lifeboat_repository::format::layout;
use lifeboat_stores::{ObjectKey, StoreUrl};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(key) = text.parse::<ObjectKey>()
        && let Some(name) = layout::parse(&key)
    {
        assert_eq!(name.key(), key);
    }
    std::hint::black_box(&text.parse::<StoreUrl>());
});
