//! Tests of signs of life.

use super::*;
use crate::samples;
use crate::samples::wal::{overwrite, trust};
use lifeboat_stores::{Fault, MemoryStore, Operation, Rule, WithFaults};
use std::sync::Arc;

fn head(time: &str, durable: Option<&str>) -> Head {
    let timeline = TimelineId::new(0xA).unwrap();
    Head {
        repository: samples::repository(),
        region: "eu-1".parse().unwrap(),
        writer: samples::signer().name().clone(),
        instance: InstanceId::from_bytes([7; 8]),
        time: samples::time(time),
        log: Some(LogHead { seq: 42, sha256: samples::digest(3) }),
        durable: durable.map(|lsn| WalPosition { timeline, lsn: lsn.parse().unwrap() }),
        last_record: durable.map(|_| RecordMark {
            timeline,
            start: "A/27FFFF00".parse().unwrap(),
            end: "A/28000000".parse().unwrap(),
            previous: "A/27FFFE28".parse().ok(),
            crc: 77,
        }),
        complete: durable.map(|lsn| CompleteMark {
            at: WalPosition { timeline, lsn: lsn.parse().unwrap() },
            time: samples::time("2026-11-20T01:59:54.5Z"),
        }),
        confirmed: durable.map(|_| WalPosition { timeline, lsn: "A/27000000".parse().unwrap() }),
    }
}

fn writer() -> KeyName {
    samples::signer().name().clone()
}

fn refused(note: &[u8]) -> String {
    lifeboat_vocabulary::error_chain(&Head::from_note(note, &writer(), &trust("eu-1")).unwrap_err())
}

#[test]
fn heads_that_do_not_belong_there_are_refused_by_meaning() {
    let good = head("2026-11-20T02:00:00Z", Some("A/28000000")).to_note(&samples::signer()).unwrap();
    let signed = |from: &str, to: &str| {
        let text = String::from_utf8(good.to_vec()).unwrap();
        let text = text.split("\n\n").next().unwrap().replace(from, to);
        note::sign(&format!("{text}\n"), &[&samples::signer()]).unwrap()
    };
    for (why, note, expected) in [
        ("newer", signed("\"v\":1", "\"v\":2"), "the head has version 2; this program knows 1"),
        ("a record", signed("\"head\"", "\"wal-gap\""), "the head contradicts itself: it is a note of another kind"),
        ("another region", signed("eu-1", "us-1"), "the head of lifeboat.example/db1 in eu-1 of a0a1"),
        ("another writer", signed("db1", "db2"), "the head of lifeboat.example/db1 in eu-1 of a0a1"),
        ("another repository", signed("\"a0a1", "\"a1a1"), "the head of lifeboat.example/db1 in eu-1 of a0a1"),
        (
            "half a position",
            signed("\"tli\":10,\"durable\"", "\"durable\""),
            "the head contradicts itself: it has half a position",
        ),
        ("half a log", signed("\"log_seq\":42,", ""), "the head contradicts itself: it has half an end of the log"),
        (
            "a record behind the position",
            signed("\"end\":\"A/28000000\"", "\"end\":\"A/28000001\""),
            "the head contradicts itself: its last record is not before its position",
        ),
        (
            "half a moment",
            signed(",\"time\":\"2026-11-20T01:59:54.5Z\"}", "}"),
            "read the fields of a head: missing field `time`",
        ),
        (
            "half a confirmation",
            signed(",\"lsn\":\"A/27000000\"", ""),
            "read the fields of a head: missing field `lsn`",
        ),
        ("timeline 0", signed("\"tli\":10", "\"tli\":0"), "read the fields of a head: there is no timeline 0"),
        ("no note", b"junk".to_vec(), "check the signature of a head: the note is not plain text"),
        (
            "a stranger",
            head("2026-11-20T02:00:00Z", None).to_note(&samples::signer_named("x", 1)).unwrap().to_vec(),
            "check the signature of a head: the note is not signed by any known key",
        ),
        (
            "changed",
            String::from_utf8(good.to_vec()).unwrap().replace("A/28", "A/29").into_bytes(),
            "check the signature of a head: signature line 1",
        ),
        ("a log's record", note_of_log(), "read the fields of a head: missing field `"),
    ] {
        let error = refused(&note);
        assert!(error.starts_with(expected), "{why}: {error}");
    }
    for durable in [Some("A/28000000"), None] {
        let head = head("2026-11-20T02:00:00Z", durable);
        let note = head.to_note(&samples::signer()).unwrap();
        assert_eq!(Head::from_note(&note, &writer(), &trust("eu-1")).unwrap(), head);
    }
}

fn note_of_log() -> Vec<u8> {
    note::sign(&samples::init_entry().to_text().unwrap(), &[&samples::signer()]).unwrap()
}

#[test]
fn a_head_reads_as_documented() {
    let note = head("2026-11-20T02:00:00Z", Some("A/28000000")).to_note(&samples::signer()).unwrap();
    let expected = concat!(
        r#"{"v":1,"kind":"head","repo":"a0a1a2a3a4a5a6a7a8a9aaabacadaeaf","region":"eu-1","writer":"lifeboat.example/db1","#,
        r#""instance":"0707070707070707","time":"2026-11-20T02:00:00Z","log_seq":42,"#,
        r#""log_sha256":"0303030303030303030303030303030303030303030303030303030303030303","#,
        r#""tli":10,"durable":"A/28000000","#,
        r#""record":{"tli":10,"start":"A/27FFFF00","end":"A/28000000","prev":"A/27FFFE28","crc":77},"#,
        r#""complete":{"tli":10,"lsn":"A/28000000","time":"2026-11-20T01:59:54.5Z"},"#,
        r#""confirmed":{"tli":10,"lsn":"A/27000000"}}"#,
    );
    assert_eq!(String::from_utf8(note.to_vec()).unwrap().lines().next(), Some(expected));
}

async fn open(store: &dyn Store) -> (HeadFile, EarlierHead) {
    HeadFile::open(store, &writer(), &trust("eu-1")).await.unwrap()
}

#[tokio::test]
async fn a_head_is_replaced_by_its_writer_and_read_by_others() {
    let store = MemoryStore::new();
    let signer = samples::signer();
    assert_eq!(Head::read(&store, &writer(), &trust("eu-1")).await.unwrap(), None);
    let (mut file, earlier) = open(&store).await;
    assert!(matches!(earlier, EarlierHead::Nothing));
    for minute in 0..3 {
        let head = head(&format!("2026-11-20T02:0{minute}:00Z"), Some("A/28000000"));
        file.write(&store, &signer, &head).await.unwrap();
        assert_eq!(Head::read(&store, &writer(), &trust("eu-1")).await.unwrap(), Some(head));
    }
    // the next run
    let (mut file, earlier) = open(&store).await;
    let EarlierHead::Head(last) = earlier else { panic!("{earlier:?}") };
    assert_eq!(last.time, samples::time("2026-11-20T02:02:00Z"));
    file.write(&store, &signer, &head("2026-11-20T02:09:00Z", None)).await.unwrap();
    let other = samples::signer_named("other", 0xe0);
    let (mut second, _) = HeadFile::open(&store, other.name(), &trust("eu-1")).await.unwrap();
    let others = Head { writer: other.name().clone(), ..head("2026-11-20T02:00:00Z", None) };
    second.write(&store, &other, &others).await.unwrap();
    let junk = "state/head-junk.note".parse().unwrap();
    overwrite(&store, &junk, Bytes::from_static(b"junk")).await;
    let all = Head::read_all(&store, &trust("eu-1")).await.unwrap();
    let found: Vec<_> = all.iter().map(|found| (found.writer.as_str(), found.head.is_ok())).collect();
    assert_eq!(found, [("junk", false), ("lifeboat.example/db1", true), ("other", true)]);
}

#[tokio::test]
async fn an_answer_that_was_lost_is_found_again_and_another_installation_is_not_overwritten() {
    let memory = Arc::new(MemoryStore::new());
    let store = WithFaults::new(memory.clone());
    let signer = samples::signer();
    let (mut file, _) = open(&store).await;
    for (minute, fault) in [(0, Fault::AnswerLost), (1, Fault::Lost), (2, Fault::AnswerLost), (3, Fault::AnswerLost)] {
        store.add(Rule::nth(Operation::Put, 1, fault));
        let head = head(&format!("2026-11-20T02:0{minute}:00Z"), None);
        let failed = file.write(&store, &signer, &head).await;
        // A write behind a lost one meets a conflict first, and succeeds when it has looked.
        assert!(matches!(failed, Err(HeadError::Store { .. })) || minute > 0, "{minute}: {failed:?}");
        store.heal();
    }
    let last = head("2026-11-20T02:08:00Z", None);
    file.write(&store, &signer, &last).await.unwrap();
    assert_eq!(Head::read(&*memory, &writer(), &trust("eu-1")).await.unwrap(), Some(last.clone()));

    let (mut copy, _) = open(&store).await;
    let copied = Head { instance: InstanceId::from_bytes([8; 8]), ..head("2026-11-20T02:09:00Z", None) };
    copy.write(&store, &signer, &copied).await.unwrap();
    let overtaken = file.write(&store, &signer, &last).await;
    assert!(matches!(&overtaken, Err(HeadError::Overtaken { instance, .. }) if *instance == copied.instance));
    assert_eq!(Head::read(&*memory, &writer(), &trust("eu-1")).await.unwrap(), Some(copied));
    // A copy of the installation bears its name, and writes what this one has not written.
    let (mut copy, _) = open(&store).await;
    let copied = head("2026-11-20T02:10:00Z", None);
    copy.write(&store, &signer, &copied).await.unwrap();
    let overtaken = file.write(&store, &signer, &last).await;
    assert!(matches!(&overtaken, Err(HeadError::Overtaken { instance, .. }) if *instance == last.instance));
    assert_eq!(Head::read(&*memory, &writer(), &trust("eu-1")).await.unwrap(), Some(copied));
}

#[tokio::test]
async fn unusable_objects_are_reported_and_replaced() {
    let store = MemoryStore::new();
    let key = StoredName::Head { writer: writer() }.key();
    for junk in [Bytes::from_static(b"junk"), vec![b'x'; 2 << 20].into()] {
        overwrite(&store, &key, junk).await;
        let (mut file, earlier) = open(&store).await;
        assert!(matches!(earlier, EarlierHead::Unusable(_)), "{earlier:?}");
        let head = head("2026-11-20T02:00:00Z", None);
        file.write(&store, &samples::signer(), &head).await.unwrap();
        assert_eq!(Head::read(&store, &writer(), &trust("eu-1")).await.unwrap(), Some(head));
    }
    let down = WithFaults::new(Arc::new(MemoryStore::new()));
    down.add(Rule::always(Fault::Lost));
    assert!(matches!(HeadFile::open(&down, &writer(), &trust("eu-1")).await, Err(HeadError::Store { .. })));
    assert!(Head::read(&down, &writer(), &trust("eu-1")).await.is_err(), "a failure is not the absence of a head");
}
