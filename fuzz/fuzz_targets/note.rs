#![no_main]
//! Signed notes, the repository's descriptor, and records.

use lifeboat_repository::log::{Descriptor, note};
use lifeboat_repository::log::records::Record;
use lifeboat_repository::keys::VerifyKey;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let known: Vec<_> = VerifyKey::from_bytes(&[9; 32]).into_iter().collect();
    assert!(note::verify(data, &known).is_err(), "nobody can sign for a key without its private half");
    assert!(Descriptor::from_note(data, known.first()).is_err());
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(record) = Record::parse(text)
        && let Ok(written) = record.to_text()
    {
        assert_eq!(Record::parse(&written).ok(), Some(record));
    }
});
