//! Tests of records.

use super::*;
use crate::log::records::backup::{BackupRecord, Integrity, PageFacts};
use crate::log::records::omissions::{Omission, Omissions, OmittedPart};
use crate::log::records::wal::GapReason;
use crate::samples;
use lifeboat_stores::ObjectKey;
use proptest::prelude::*;
use serde_json::Value;

fn parsed(json: &Value) -> Result<Record, String> {
    Record::parse(&format!("{json}\n")).map_err(|error| lifeboat_vocabulary::error_chain(&error))
}

fn changed(pointer: &str, value: Value) -> Value {
    let mut json: Value = serde_json::from_str(&samples::backup_entry().to_text().unwrap()).unwrap();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = json.pointer_mut(parent).unwrap();
    match parent {
        Value::Array(items) => items[field.parse::<usize>().unwrap()] = value,
        _ => parent[field] = value,
    }
    json
}

#[test]
fn records_that_contradict_themselves_are_refused() {
    let none: [Value; 0] = [];
    for (pointer, value, expected) in [
        ("/v", 2.into(), "the record has version 2; this program knows 1"),
        ("/seq", 0.into(), "the record contradicts itself: there is no record before place 0"),
        ("/prev", Value::Null, "read the fields of a record: invalid type: null"),
        ("/prev", "00".into(), "read the fields of a record: `00` is not a SHA-256"),
        ("/seq", Value::from(-1), "read the fields of a record: invalid value: integer `-1`"),
        ("/kind", "init".into(), "read the fields of a record: missing field `repo`"),
        ("/region", "Eu 1".into(), "read the fields of a record: `Eu 1` is not a region name"),
        ("/tool", "x".repeat(101).into(), "the record contradicts itself: the name of its program is too long"),
        ("/start_lsn", "0/0".into(), "read the fields of a record: `0/0` is not a WAL position"),
        ("/start_tli", 0.into(), "read the fields of a record: there is no timeline 0"),
        ("/stop_lsn", "A/0".into(), "the record contradicts itself: it stops before it starts"),
        ("/frame_bytes", 16384.into(), "the record contradicts itself: its frames have a size that does not exist"),
        ("/frame_bytes", 100_000.into(), "the record contradicts itself: its frames have a size that does not exist"),
        ("/pg/wal_segment_bytes", 5.into(), "the record contradicts itself: its WAL segments have a size"),
        ("/epochs", none.to_vec().into(), "the record contradicts itself: it has no key, or too many"),
        ("/index", none.to_vec().into(), "the record contradicts itself: it has no index, or too many parts"),
        ("/index/0/key", "data/x/index-0000.lbx".into(), "the record contradicts itself: the parts of its index"),
        ("/packs/own", 99.into(), "the record contradicts itself: it wrote more objects than it has"),
        ("/packs/objects", 2.into(), "the record contradicts itself: it wrote more objects than it has"),
        ("/type", "partial".into(), "read the fields of a record: unknown variant `partial`"),
        ("/pages/damaged", 9_999_999.into(), "the record contradicts itself: it has more damaged pages than pages"),
    ] {
        let error = parsed(&changed(pointer, value)).unwrap_err();
        assert!(error.starts_with(expected), "{pointer}: {error}");
    }
    let text = samples::backup_entry().to_text().unwrap();
    for (why, shape) in [
        ("two newlines", format!("{text}\n")),
        ("no newline", text.trim_end().to_owned()),
        ("two lines", text.replace(",\"seq\"", ",\n\"seq\"")),
        ("nothing", String::new()),
    ] {
        assert!(matches!(Record::parse(&shape), Err(RecordError::Shape)), "{why}");
    }
    let twice = text.replace("\"seq\":1", "\"seq\":1,\"seq\":1");
    assert!(Record::parse(&twice).is_err(), "a field that stands there twice");
}

#[test]
fn records_that_no_reader_would_accept_are_not_written() {
    let mut record = samples::backup_entry();
    record.link.prev = None;
    assert!(matches!(record.to_text(), Err(RecordError::Contradiction { .. })));
    let mut unknown = samples::backup_entry();
    unknown.body = RecordBody::Unknown { kind: "pin".to_owned() };
    assert!(matches!(unknown.to_text(), Err(RecordError::Contradiction { .. })));
}

#[test]
fn every_record_is_read_back_from_its_text() {
    let entries = [samples::init_entry(), samples::backup_entry()].into_iter();
    for record in entries.chain(samples::wal_entries()).chain(samples::care_entries()) {
        let text = record.to_text().unwrap();
        assert_eq!(Record::parse(&text).unwrap(), record, "{text}");
    }
}

#[test]
fn unknown_fields_and_kinds_are_skipped_and_stay_in_the_chain() {
    let mut json = changed("/later", "a field of a later version".into());
    assert_eq!(parsed(&json).unwrap(), samples::backup_entry());
    json["kind"] = "drill".into();
    let record = parsed(&json).unwrap();
    assert_eq!(record.body, RecordBody::Unknown { kind: "drill".to_owned() });
    assert_eq!(record.link, samples::backup_entry().link);
}

#[test]
fn a_backup_with_damaged_pages_is_never_intact() {
    for (pages, expected) in [
        (None, Integrity::Intact),
        (Some(PageFacts { checked: 10, damaged: 0, damaged_files: 0 }), Integrity::Intact),
        (Some(PageFacts { checked: 10, damaged: 1, damaged_files: 1 }), Integrity::Damaged),
        (Some(PageFacts { checked: 10, damaged: 0, damaged_files: 1 }), Integrity::Damaged),
    ] {
        let record = BackupRecord { pages, ..samples::backup_record() };
        assert_eq!(record.integrity(), expected, "{pages:?}");
    }
}

#[test]
fn a_backup_without_some_of_its_data_is_never_intact() {
    let omitted = |what| Omission::new(what, "base/16384", "a link");
    for (why, what, expected) in [
        ("nothing", None, Integrity::Intact),
        ("log files", Some(OmittedPart::Other), Integrity::Intact),
        ("configuration", Some(OmittedPart::Configuration), Integrity::Intact),
        ("a database", Some(OmittedPart::Data), Integrity::Incomplete),
    ] {
        let omissions = Omissions::of(what.map(omitted));
        let damaged = Some(PageFacts { checked: 10, damaged: 1, damaged_files: 1 });
        let record = BackupRecord { omissions, ..samples::backup_record() };
        assert_eq!(record.integrity(), expected, "{why}");
        assert_eq!(record.is_complete(), expected == Integrity::Intact, "{why}");
        let body = RecordBody::Backup(Box::new(record.clone()));
        let text = Record { body, ..samples::backup_entry() }.to_text().unwrap();
        assert_eq!(text.contains("omissions"), what.is_some(), "{text}");
        assert_eq!(Record::parse(&text).unwrap().backup(), Some(&record), "{why}");
        assert_ne!(BackupRecord { pages: damaged, ..record }.integrity(), Integrity::Intact, "{why}");
    }
}

#[test]
fn omissions_that_contradict_themselves_are_refused() {
    let named = |what: &str, path: &str| serde_json::json!([{ "what": what, "path": path, "why": "a link" }]);
    let omissions = |data: u64, named: Value| {
        changed("/omissions", serde_json::json!({ "data": data, "configuration": 0, "other": 0, "named": named }))
    };
    let many: Vec<Value> = (0..101).map(|_| named("data", "base/1")[0].clone()).collect();
    for (json, expected) in [
        (omissions(0, named("data", "base/1")), "it names more omissions than it counts"),
        (omissions(1, named("data", "base/1\u{1b}[2J")), "an omission is named by more than a plain line"),
        (omissions(1, named("data", &"x".repeat(301))), "an omission is named by more than a plain line"),
        (omissions(200, many.into()), "it names too many omissions"),
    ] {
        let error = parsed(&json).unwrap_err();
        assert!(error.ends_with(expected), "{error}");
    }
    assert!(parsed(&omissions(3, named("data", "base/1"))).is_ok());
}

#[test]
fn a_record_reads_as_documented() {
    let text = samples::init_entry().to_text().unwrap();
    let expected = concat!(
        r#"{"v":1,"kind":"init","region":"eu-1","seq":0,"writer":"lifeboat.example/db1","wseq":0,"#,
        r#""time":"2026-11-20T02:00:00Z","tool":"lifeboat 0.1.0","repo":"a0a1a2a3a4a5a6a7a8a9aaabacadaeaf","#,
        r#""sysid":"7400000000000000001","descriptor_sha256":"0101010101010101010101010101010101010101010101010101010101010101"}"#,
        "\n"
    );
    assert_eq!(text, expected);
    let text = samples::backup_entry().to_text().unwrap();
    let beginning = r#"{"v":1,"kind":"backup","region":"eu-1","seq":1,"prev":""#;
    assert!(text.starts_with(beginning), "{text}");
    let keys = samples::backup_record().index.iter().map(|shard| shard.key.clone()).collect::<Vec<ObjectKey>>();
    assert!(keys.iter().all(|key| text.contains(key.as_str())));
}

#[test]
fn records_about_wal_are_small_and_read_as_documented() {
    let common = concat!(
        r#""region":"eu-1","seq":1,"prev":"0909090909090909090909090909090909090909090909090909090909090909","#,
        r#""writer":"lifeboat.example/db1","wseq":1,"time":"2026-11-20T02:00:00Z","tool":"lifeboat 0.1.0""#,
    );
    let epoch = concat!(
        r#""epoch":"b0b1b2b3b4b5b6b7b8b9babbbcbdbebf","#,
        r#""keys_sha256":"0505050505050505050505050505050505050505050505050505050505050505","#,
        r#""tli":7,"start_lsn":"A/28000000","wal_segment_bytes":16777216"#,
    );
    for (record, kind, fields) in [
        (0, "wal-epoch", format!(r#"{epoch},"incarnation":"c0c1c2c3c4c5c6c7""#)),
        (1, "wal-epoch", epoch.to_owned()),
        (
            2,
            "wal-gap",
            r#""tli":7,"from":"A/28000000","to":"A/29000000","reason":"fresh_slot","scope":"everywhere""#.to_owned(),
        ),
        (3, "wal-gap", r#""tli":7,"from":"A/28000000","reason":"fresh_slot","scope":"region""#.to_owned()),
        (4, "incarnation", r#""incarnation":"c0c1c2c3c4c5c6c7""#.to_owned()),
    ] {
        let expected = format!("{{\"v\":1,\"kind\":\"{kind}\",{common},{fields}}}\n");
        assert_eq!(samples::wal_entries()[record].to_text().unwrap(), expected);
    }
    let original = format!("{{\"v\":1,\"kind\":\"incarnation\",{common}}}\n");
    assert_eq!(samples::wal_entries()[5].to_text().unwrap(), original);
}

#[test]
fn records_about_wal_that_contradict_themselves_are_refused() {
    for (record, field, value, expected) in [
        (0, "wal_segment_bytes", 5.into(), "the record contradicts itself: its WAL segments have a size"),
        (0, "epoch", "b0".into(), "read the fields of a record: `b0` is not an epoch id (32 hexadecimal digits)"),
        (0, "incarnation", "c0".into(), "read the fields of a record: `c0` is not an incarnation (16 hexadecimal"),
        (0, "incarnation", Value::Null, "read the fields of a record: invalid type: null"),
        (0, "tli", 0.into(), "read the fields of a record: there is no timeline 0"),
        (2, "to", "A/28000000".into(), "the record contradicts itself: its gap ends before it begins"),
        (2, "to", "A/27000000".into(), "the record contradicts itself: its gap ends before it begins"),
        (2, "from", "0/0".into(), "read the fields of a record: `0/0` is not a WAL position"),
        (2, "scope", "here".into(), "read the fields of a record: unknown variant `here`"),
        (4, "incarnation", 7.into(), "read the fields of a record: invalid type: integer"),
    ] {
        let mut json: Value = serde_json::from_str(&samples::wal_entries()[record].to_text().unwrap()).unwrap();
        json[field] = value;
        let error = parsed(&json).unwrap_err();
        assert!(error.starts_with(expected), "{field}: {error}");
    }
}

#[test]
fn a_gap_of_a_reason_that_is_not_known_stays_a_gap() {
    let mut json: Value = serde_json::from_str(&samples::wal_entries()[2].to_text().unwrap()).unwrap();
    json["reason"] = "eaten_by_a_dog".into();
    let RecordBody::WalGap(gap) = parsed(&json).unwrap().body else { panic!("a gap") };
    assert_eq!(gap.reason, GapReason::Other);
    for reason in GapReason::ALL {
        assert_eq!(reason.to_string().parse(), Ok(reason));
    }
    let expected =
        "WAL is missing from A/28000000 to A/29000000 on timeline 7: a reason that this program does not know";
    assert_eq!(gap.to_string(), expected);
}

proptest! {
    #[test]
    fn arbitrary_texts_are_refused_without_panic(text in "\\PC{0,100}\n", field in "[a-z_]{1,10}", junk in any::<u64>()) {
        prop_assert!(Record::parse(&text).is_err());
        let json = changed(&format!("/{field}"), junk.into());
        if let Ok(record) = parsed(&json) {
            let unknown = matches!(record.body, RecordBody::Unknown { .. });
            prop_assert!(unknown || record.to_text().is_ok());
        }
    }
}

#[test]
fn counts_of_events_rise_even_if_the_clock_does_not() {
    let at = |micros| UtcTime::from_unix_micros(micros).unwrap();
    assert_eq!(Origin::next_count(None, at(-5)), 1);
    assert_eq!(Origin::next_count(None, at(1_800_000_000_000_000)), 1_800_000_000_000_000);
    assert_eq!(Origin::next_count(Some(7), at(1_800_000_000_000_000)), 1_800_000_000_000_000);
    // A clock that is behind tells two apart no more: chance does.
    let behind = || Origin::next_count(Some(1_900_000_000_000_000), at(1_800_000_000_000_000));
    let drawn: Vec<u64> = (0..20).map(|_| behind()).collect();
    assert!(drawn.iter().all(|count| (1_900_000_000_000_001..1_900_000_001_048_577).contains(count)), "{drawn:?}");
    assert!(drawn.iter().any(|count| *count != drawn[0]), "{drawn:?}");
    // One that leaves no number for what comes later is passed over.
    assert_eq!(Origin::next_count(Some(u64::MAX), at(1_800_000_000_000_000)), 1_800_000_000_000_000);
}
