//! Tests of records about the care for what is stored.

use super::*;
use crate::log::records::record::{Record, RecordBody};
use crate::samples;
use serde_json::Value;

const FORGET: usize = 0;
const INTENT: usize = 1;
const DONE: usize = 2;
const HOLD: usize = 3;
const DAMAGE: usize = 6;
const HEALED: usize = 8;
const AUDIT: usize = 9;
const KEEP: usize = 11;
const BUNDLE: usize = 12;

fn parsed(json: &Value) -> Result<Record, String> {
    Record::parse(&format!("{json}\n")).map_err(|error| lifeboat_vocabulary::error_chain(&error))
}

fn entry(number: usize) -> Value {
    serde_json::from_str(&samples::care_entries()[number].to_text().unwrap()).unwrap()
}

#[test]
fn records_about_care_are_small_and_read_as_documented() {
    let common = concat!(
        r#""region":"eu-1","seq":5,"prev":"0909090909090909090909090909090909090909090909090909090909090909","#,
        r#""writer":"lifeboat.example/db1","wseq":5,"time":"2026-11-20T02:00:00Z","tool":"lifeboat 0.1.0""#,
    );
    let policy =
        r#"{"timezone":"Europe/Berlin","daily":7,"weekly":4,"monthly":12,"min_keep":2,"window_seconds":604800}"#;
    let id = "20261120T020003Z-5f1c09ab";
    let shard = format!(r#"["data/{id}/index-0000.lbx"]"#);
    let person = r#""reason":"case 4711","owner":"mia""#;
    let expected = [
        (
            "forget",
            format!(
                r#""backups":[{{"backup":"{id}","why":"no rule keeps it"}}],"policy":{policy},"not_before":"2026-11-23T02:00:00Z""#
            ),
        ),
        (
            "sweep-intent",
            format!(
                concat!(
                    r#""backups":["{}"],"leftovers":["20261119T020003Z-00000002"],"#,
                    r#""epochs":["b0b1b2b3b4b5b6b7b8b9babbbcbdbebf"],"wal":[{{"tli":7,"before":"A/28000000"}}],"#,
                    r#""slices":[{{"tli":7,"before":"A/29000000"}}]"#,
                ),
                id
            ),
        ),
        ("sweep-done", r#""intent":4,"objects":9,"bytes":1048576,"locked":1"#.to_owned()),
        (
            "hold",
            format!(r#""hold":"d0d1d2d3d4d5d6d7","backup":"{id}",{person},"expires":"2027-01-01T00:00:00Z""#),
        ),
        ("hold", format!(r#""hold":"d0d1d2d3d4d5d6d7","backup":"{id}",{person}"#)),
        ("release", r#""hold":"d0d1d2d3d4d5d6d7","reason":"case closed","owner":"mia""#.to_owned()),
        ("damage", format!(r#""backup":"{id}","objects":{shard},"count":2,"found_by":"scrub""#)),
        ("damage", format!(r#""objects":{shard},"count":2,"found_by":"scrub""#)),
        ("healed", format!(r#""backups":["{id}"],"settles":[3,4],"objects":2,"bytes":1048576,"from":"us""#)),
        (
            "audit",
            r#""action":"pause","subject":"delete","reason":"moving the bucket","owner":"mia","expires":"2026-11-21T02:00:00Z""#
                .to_owned(),
        ),
        ("audit", r#""action":"pause","reason":"moving the bucket","owner":"mia""#.to_owned()),
        ("keep", format!(r#""backups":["{id}"]"#)),
        ("bundle", format!(r#""first":1,"last":4,"sha256":"{}","bytes":1048576"#, "07".repeat(32))),
    ];
    let entries = samples::care_entries();
    assert_eq!(entries.len(), expected.len());
    for (record, (kind, fields)) in entries.iter().zip(expected) {
        let line = format!("{{\"v\":1,\"kind\":\"{kind}\",{common},{fields}}}\n");
        assert_eq!(record.to_text().unwrap(), line);
        assert_eq!(&Record::parse(&line).unwrap(), record);
    }
}

#[test]
fn records_about_care_that_contradict_themselves_are_refused() {
    let none = || Value::from(Vec::<Value>::new());
    let twice = |value: Value| Value::from(vec![value.clone(), value]);
    let forgotten = entry(FORGET)["backups"][0].clone();
    let floor = entry(INTENT)["wal"][0].clone();
    let contradiction = "the record contradicts itself: ";
    for (record, pointer, value, expected) in [
        (FORGET, "/backups", none(), "it forgets nothing, or too many backups at once"),
        (FORGET, "/backups", twice(forgotten), "it forgets a backup twice"),
        (FORGET, "/backups/0/why", " ".into(), "it does not say why it forgets a backup"),
        (FORGET, "/backups/0/why", "x".repeat(201).into(), "it does not say why it forgets a backup"),
        (FORGET, "/policy/timezone", "".into(), "its time zone has no name"),
        (INTENT, "/backups", twice("20261120T020003Z-5f1c09ab".into()), "it sweeps something twice"),
        (INTENT, "/leftovers/0", "20261120T020003Z-5f1c09ab".into(), "it sweeps something twice"),
        (INTENT, "/epochs", twice("b0b1b2b3b4b5b6b7b8b9babbbcbdbebf".into()), "it sweeps something twice"),
        (INTENT, "/wal", twice(floor.clone()), "it has two floors for one timeline"),
        (INTENT, "/slices", twice(floor), "it has two floors for one timeline"),
        (BUNDLE, "/last", 5.into(), "it bundles records that do not stand before it"),
        (BUNDLE, "/first", 5.into(), "it bundles records that do not stand before it"),
        (DONE, "/intent", 5.into(), "it ends a sweep that was not begun before it"),
        (DONE, "/intent", 0.into(), "it ends a sweep that was not begun before it"),
        (HOLD, "/reason", "".into(), "its reason is empty, too long, or not one line of text"),
        (HOLD, "/reason", "a\nb".into(), "its reason is empty, too long, or not one line of text"),
        (HOLD, "/reason", "\u{1b}[2J".into(), "its reason is empty, too long, or not one line of text"),
        (HOLD, "/owner", "m".repeat(101).into(), "its owner is empty, too long, or not one line of text"),
        (DAMAGE, "/count", 0.into(), "it counts fewer damaged objects than it has"),
        (DAMAGE, "/objects", vec![Value::from("log/x"); 101].into(), "it names too many damaged objects"),
        (HEALED, "/backups", twice("20261120T020003Z-5f1c09ab".into()), "it heals a backup twice, or too many"),
        (HEALED, "/settles", twice(3.into()), "it settles a record twice, or too many"),
        (HEALED, "/settles", vec![Value::from(0)].into(), "it settles damage that was not recorded before it"),
        (HEALED, "/settles", vec![Value::from(5)].into(), "it settles damage that was not recorded before it"),
        (KEEP, "/backups", none(), "it keeps nothing, too many backups at once, or one twice"),
        (KEEP, "/backups", twice("20261120T020003Z-5f1c09ab".into()), "it keeps nothing, too many backups at once"),
        (AUDIT, "/action", "Do it".into(), "its action is not a word"),
        (AUDIT, "/action", "".into(), "its action is not a word"),
        (AUDIT, "/subject", "".into(), "its subject is empty, too long, or not one line of text"),
        (AUDIT, "/owner", "".into(), "its owner is empty, too long, or not one line of text"),
    ] {
        let mut json = entry(record);
        *json.pointer_mut(pointer).unwrap() = value;
        let error = parsed(&json).unwrap_err();
        assert!(error.starts_with(&format!("{contradiction}{expected}")), "{pointer}: {error}");
    }
    for (record, pointer, value) in [
        (FORGET, "/not_before", Value::from("soon")),
        (FORGET, "/policy/daily", (-1).into()),
        (INTENT, "/backups", vec![Value::from("x")].into()),
        (INTENT, "/wal/0/tli", 0.into()),
        (INTENT, "/wal/0/before", "0/0".into()),
        (HOLD, "/hold", "d0".into()),
        (HOLD, "/expires", Value::Null),
        (HEALED, "/from", "No Region".into()),
        (HEALED, "/settles", vec![Value::from(-1)].into()),
    ] {
        let mut json = entry(record);
        *json.pointer_mut(pointer).unwrap() = value;
        let error = parsed(&json).unwrap_err();
        assert!(error.starts_with("read the fields of a record: "), "{pointer}: {error}");
    }
}

#[test]
fn an_intent_that_sweeps_nothing_is_not_written() {
    let mut record = samples::care_entries().swap_remove(INTENT);
    record.body = RecordBody::SweepIntent(SweepIntentRecord::default());
    assert!(record.to_text().unwrap_err().to_string().ends_with("it sweeps nothing"));
}

#[test]
fn the_largest_records_fit_into_a_note() {
    let backups = (0..).map(|number| BackupId::new(samples::time("2026-11-20T02:00:03Z"), number));
    let why = "\"".repeat(WHY_BYTES_MAX);
    let forgotten = backups.clone().take(FORGOTTEN_MAX).map(|backup| Forgotten { backup, why: why.clone() });
    let forget = ForgetRecord { backups: forgotten.collect(), ..samples::forget(&[], "2026-11-23T02:00:00Z") };
    let floor =
        |number| WalFloor { timeline: TimelineId::new(number).unwrap(), before: "FFFFFFFF/FFFFFFFF".parse().unwrap() };
    let floors: Vec<_> = (1..).map(floor).take(FLOORS_MAX).collect();
    let intent = SweepIntentRecord {
        backups: backups.clone().take(BACKUPS_MAX).collect(),
        leftovers: backups.clone().skip(BACKUPS_MAX).take(BACKUPS_MAX).collect(),
        epochs: (0..EPOCHS_SWEPT_MAX).map(|number| EpochId::from_bytes((number as u128).to_be_bytes())).collect(),
        wal: floors.clone(),
        slices: floors,
    };
    let healed = HealedRecord {
        backups: backups.take(BACKUPS_MAX).collect(),
        settles: (1..=SETTLED_MAX as u64).map(|place| place + 900_000).collect(),
        objects: u64::MAX,
        bytes: ByteCount::from_bytes(u64::MAX),
        from: "us".parse().unwrap(),
    };
    for body in [RecordBody::Forget(forget), RecordBody::SweepIntent(intent), RecordBody::Healed(healed)] {
        let mut record = Record { body, ..samples::care_entries().swap_remove(0) };
        record.link.seq = 999_999;
        let note = crate::log::note::sign(&record.to_text().unwrap(), &[&samples::signer()]).unwrap();
        assert!(note.len() <= crate::log::note::NOTE_BYTES_MAX, "{}: {}", record.body.kind(), note.len());
    }
}

#[test]
fn damage_that_somebody_unknown_found_stays_damage() {
    let mut json = entry(DAMAGE);
    json["found_by"] = "cosmic rays".into();
    let RecordBody::Damage(damage) = parsed(&json).unwrap().body else { panic!("damage") };
    assert_eq!(damage.found_by, FoundBy::Other);
    for found_by in FoundBy::ALL {
        assert_eq!(found_by.to_string().parse(), Ok(found_by));
    }
}

#[test]
fn a_policy_is_described_in_one_line() {
    let text = "7 daily, 4 weekly, 12 monthly, every moment of 7d, at least 2, in time zone Europe/Berlin";
    assert_eq!(samples::policy_text().to_string(), text);
    let hours = PolicyText { window_seconds: 36 * 3600, ..samples::policy_text() };
    assert!(hours.to_string().contains("every moment of 36h,"), "{hours}");
}
