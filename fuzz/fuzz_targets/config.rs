#![no_main]
//! The configuration file.

use std::path::Path;

use lifeboat_config::{Config, Environment};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(faults) = Config::from_text(Path::new("lifeboat.toml"), text, &Environment::default()) {
        assert!(!faults.to_string().is_empty());
    }
});
