#![no_main]
//! Timeline history files, as a server sends them.

use lifeboat_postgres::TimelineHistory;
use lifeboat_vocabulary::{TimelineId, WalPosition};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some(timeline) = TimelineId::new(u32::MAX) else { return };
    let Ok(history) = TimelineHistory::parse(timeline, data) else { return };
    for entry in &history.entries {
        assert!(entry.timeline < timeline);
        if let Some(lsn) = history.switch_from(entry.timeline) {
            assert!(history.contains(WalPosition { timeline: entry.timeline, lsn }));
        }
    }
});
