//! Words of the field, and what operators write on one line: each is read as it is written.

use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::time::Duration;

use lifeboat_config::{BlackoutWindow, CronLine, SecretRef, parse_duration, show_duration};
use lifeboat_repository::format::KeyName;
use lifeboat_repository::log::Role;
use lifeboat_stores::{Endpoint, RegionSettings};
use lifeboat_vocabulary::{
    BackupId, ByteCount, ClusterName, Lsn, RegionName, SegmentName, SegmentSize, Sha256Digest, UtcTime,
};

fn survives<T: FromStr + Display + PartialEq + Debug>(text: &str) -> Option<T> {
    let word: T = text.parse().ok()?;
    let shown = word.to_string();
    assert_eq!(shown.parse().ok().as_ref(), Some(&word), "{text:?} is shown as {shown:?}");
    Some(word)
}

/// Every line is tried as every word.
pub fn words(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for line in text.lines().take(64) {
        word(line);
        settings(line);
    }
}

fn word(line: &str) {
    survives::<Lsn>(line);
    survives::<BackupId>(line);
    survives::<ClusterName>(line);
    survives::<RegionName>(line);
    survives::<Sha256Digest>(line);
    survives::<KeyName>(line);
    survives::<Role>(line);
    survives::<Endpoint>(line);
    for size in [1 << 20, 16 << 20, 1 << 30] {
        let size = SegmentSize::from_bytes(size).expect("it is a power of two");
        if let Ok(segment) = SegmentName::parse(line, size) {
            assert_eq!(segment.to_string(), line, "one segment has one name");
            let start = segment.start().expect("what has a name has a start");
            assert_eq!(SegmentName::holding(segment.timeline, start, size), segment);
        }
    }
    if let Ok(size) = line.parse::<SegmentSize>() {
        assert!(size.as_bytes().is_power_of_two());
    }
    if let Some(time) = survives::<UtcTime>(line) {
        let later = time.plus(Duration::from_secs(1));
        assert!(later >= time && later.since(time) <= Duration::from_secs(1));
        std::hint::black_box(&(time.compact(), time.for_tables()));
    }
    if let Ok(count) = line.parse::<ByteCount>() {
        std::hint::black_box(&count.to_string());
    }
}

fn settings(line: &str) {
    if let Ok(duration) = parse_duration(line) {
        assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
    }
    survives::<BlackoutWindow>(line);
    survives::<CronLine>(line);
    survives::<SecretRef>(line);
    let name: RegionName = "eu-1".parse().expect("it is a name");
    if let Ok(region) = RegionSettings::from_url(name.clone(), line) {
        std::hint::black_box(&region.faults());
        let again = RegionSettings::from_url(name, &region.to_address());
        // Credentials are no part of an address, nor is how long somebody wanted to wait.
        let patience = RegionSettings::at(region.name.clone(), region.url.clone()).patience;
        let region = RegionSettings { aws_profile: None, credentials_file: None, patience, ..region };
        assert_eq!(again, Ok(region), "{line:?}");
    }
}
