#![no_main]
//! The plain list of a backup's objects.

use lifeboat_repository::format::PacksList;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(list) = PacksList::parse(data) {
        assert_eq!(list.to_body().map(|body| body.bytes.to_vec()).ok().as_deref(), Some(data));
    }
});
