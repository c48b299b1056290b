#![no_main]
//! A pack's table of contents and footer, as found when the index is lost.

use lifeboat_repository::format::toc::{PackFooter, parse_toc};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(entries) = parse_toc(data) {
        assert!(entries.len() <= data.len());
    }
    if let Some(footer) = data.first_chunk()
        && let Ok(parsed) = PackFooter::parse(footer)
    {
        assert_eq!(parsed.encode(), *footer);
    }
});
