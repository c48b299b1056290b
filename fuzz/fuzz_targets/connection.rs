#![no_main]
//! Connection strings and URIs, as an operator writes them. No error and no listing shows a password.

use lifeboat_postgres::ConnectionSettings;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(settings) = ConnectionSettings::parse(text)
    {
        std::hint::black_box(&format!("{settings} {settings:?}"));
    }
});
