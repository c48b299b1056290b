#![no_main]
//! Files of a data directory that are read: pg_control, backup_label, pages.

use lifeboat_postgres::{BackupLabel, ControlFile, check_pages};
use lifeboat_vocabulary::{Lsn, RelativePath};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    std::hint::black_box(&ControlFile::parse(data));
    std::hint::black_box(&BackupLabel::parse(data));
    if let (Ok(path), Some(start)) = (RelativePath::new(b"base/5/16384.1"), Lsn::from_bytes(1 << 40)) {
        assert!(check_pages(&path, 0, data, start).len() <= data.len() / 8192 + 1);
    }
});
