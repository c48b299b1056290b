//! Streams that no real server sends, and those of both framings cut into messages by hand.

use bytes::Bytes;

use crate::backup::error::SourceError;
use crate::backup::left_out::LeftOut;
use crate::backup::source::{BackupEnd, PageChecks, SourceEvent};
use crate::backup::stream::{BackupStream, Framing};
use crate::session::message::{BackendMessage, ServerMessage};

fn row(cells: &[Option<&str>]) -> BackendMessage {
    BackendMessage::DataRow(cells.iter().map(|cell| cell.map(|text| Bytes::copy_from_slice(text.as_bytes()))).collect())
}

fn rows(of: &[&[Option<&str>]]) -> Vec<BackendMessage> {
    let mut messages = vec![BackendMessage::RowDescription(Vec::new())];
    messages.extend(of.iter().map(|cells| row(cells)));
    messages.push(BackendMessage::CommandComplete("SELECT".to_owned()));
    messages
}

fn data(kind: u8, content: &[u8]) -> BackendMessage {
    BackendMessage::CopyData([&[kind], content].concat().into())
}

/// A tar archive with one file.
fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(b"0000600");
    block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    block[136..147].copy_from_slice(b"00000000000");
    block[148..156].fill(b' ');
    block[156] = b'0';
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block.extend_from_slice(content);
    block.resize(block.len().next_multiple_of(512), 0);
    block
}

/// The server's manifest of no files.
fn manifest() -> Vec<u8> {
    let mut writer =
        crate::backup::manifest::ManifestWriter::new(Vec::new(), crate::backup::manifest::ManifestVersion::One)
            .unwrap();
    let name = lifeboat_vocabulary::RelativePath::new(b"standby.signal").unwrap();
    writer.file(&name, 0, 0, 0).unwrap();
    writer.finish(&[]).unwrap()
}

const START: [&[Option<&str>]; 1] = [&[Some("0/2000028"), Some("1")]];
const STOP: [&[Option<&str>]; 1] = [&[Some("0/2000100"), Some("1")]];
const SPACES: [&[Option<&str>]; 2] = [&[Some("16384"), Some("/ts"), Some("4")], &[None, None, Some("20")]];

fn one_copy() -> Vec<BackendMessage> {
    let mut messages = rows(&START);
    messages.extend(rows(&SPACES));
    messages.push(BackendMessage::CopyOut);
    messages.extend([
        data(b'n', b"16384.tar\0/ts\0"),
        data(b'd', &archive("PG_17_1/5/16390", b"abc")),
        data(b'p', &[0; 8]),
        data(b'n', b"base.tar\0\0"),
        data(b'd', &archive("standby.signal", b"x")),
        data(b'd', &archive("./global/pg_control", &[7; 600])),
        data(b'd', &[0; 1024]),
        data(b'm', b""),
        data(b'd', &manifest()),
        BackendMessage::CopyDone,
    ]);
    messages.extend(rows(&STOP));
    messages.push(BackendMessage::CommandComplete("BASE_BACKUP".to_owned()));
    messages.push(BackendMessage::ReadyForQuery);
    messages
}

fn copy_each() -> Vec<BackendMessage> {
    let mut messages = rows(&START);
    messages.extend(rows(&SPACES));
    for content in [archive("PG_14_1/5/16390", b"abc"), archive("global/pg_control", &[7; 600]), manifest()] {
        messages.push(BackendMessage::CopyOut);
        messages.extend(content.chunks(100).map(|piece| BackendMessage::CopyData(Bytes::copy_from_slice(piece))));
        messages.push(BackendMessage::CopyDone);
    }
    messages.extend(rows(&STOP));
    messages.push(BackendMessage::ReadyForQuery);
    messages
}

fn play(framing: Framing, messages: Vec<BackendMessage>) -> Result<(Vec<SourceEvent>, BackupEnd), SourceError> {
    let mut stream = BackupStream::new(framing, PageChecks::Server);
    let mut events = Vec::new();
    for message in messages {
        let end = stream.push(message)?;
        events.extend(std::iter::from_fn(|| stream.pop()));
        if let Some(end) = end {
            return Ok((events, end));
        }
    }
    panic!("no end after {events:?}")
}

fn notice(severity: &str, code: &str, message: &str) -> ServerMessage {
    let [severity, code, message] = [severity, code, message].map(str::to_owned);
    ServerMessage { severity, code, message, ..ServerMessage::default() }
}

#[test]
fn a_stream_without_one_of_its_parts_is_no_backup() {
    let without = |unwanted: fn(&BackendMessage) -> bool| {
        let messages = one_copy().into_iter().filter(|message| !unwanted(message)).collect();
        play(Framing::OneCopy, messages).unwrap_err()
    };
    for (part, error) in [
        ("manifest", without(|m| matches!(m, BackendMessage::CopyData(b) if b[..] == *b"m"))),
        ("a name", without(|m| matches!(m, BackendMessage::CopyData(b) if b.starts_with(b"nbase")))),
    ] {
        assert!(matches!(error, SourceError::Tar { .. } | SourceError::Protocol { .. }), "{part}: {error:?}");
    }
    let no_control = without(|m| matches!(m, BackendMessage::CopyData(b) if b.starts_with(b"d./global")));
    assert!(matches!(no_control, SourceError::Incomplete { what: "the file global/pg_control" }), "{no_control:?}");
    let no_tablespace =
        without(|m| matches!(m, BackendMessage::CopyData(b) if b.starts_with(b"n16384") || b.starts_with(b"dPG_")));
    assert!(matches!(no_tablespace, SourceError::Incomplete { what: "an archive" }), "{no_tablespace:?}");
    let no_start = without(|m| matches!(m, BackendMessage::DataRow(_)));
    assert!(matches!(no_start, SourceError::Incomplete { what: "its start position" }), "{no_start:?}");
    let cut = one_copy()
        .into_iter()
        .filter(|m| !matches!(m, BackendMessage::CopyData(b) if b.starts_with(b"d{") || b[..] == *b"m"));
    assert!(matches!(play(Framing::OneCopy, cut.collect()), Err(SourceError::Incomplete { what: "its manifest" })));
}

#[test]
fn what_does_not_belong_there_is_refused() {
    for (why, at, message) in [
        ("data before the start", 0, data(b'd', b"")),
        ("an unknown kind", 8, data(b'z', b"")),
        ("an empty message", 8, BackendMessage::CopyData(Bytes::new())),
        ("content of nothing", 8, data(b'd', b"x")),
        ("an archive that was not announced", 8, data(b'n', b"99.tar\0\0")),
        ("an archive with a strange name", 8, data(b'n', b"../base\0\0")),
        ("an end in the middle", 10, BackendMessage::ReadyForQuery),
        ("a replication stream", 7, BackendMessage::CopyBoth),
        ("a path that leaves the directory", 12, data(b'd', &archive("../etc/passwd", b""))),
        ("a position that is none", 1, row(&[Some("here"), Some("1")])),
        ("a tablespace without a number", 4, row(&[Some("x"), Some("/ts"), None])),
        ("a tablespace without a place", 4, row(&[Some("5"), None, None])),
        ("an error", 9, BackendMessage::Error(notice("ERROR", "XX001", "damaged"))),
    ] {
        let mut messages = one_copy();
        messages.insert(at, message);
        assert!(play(Framing::OneCopy, messages).is_err(), "{why}");
    }
}

#[test]
fn both_framings_yield_the_same_events() {
    for (framing, messages) in [(Framing::OneCopy, one_copy()), (Framing::CopyEach, copy_each())] {
        let (events, end) = play(framing, messages).unwrap();
        let [SourceEvent::Started(start), rest @ ..] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(start.estimated.unwrap().as_bytes(), 24 * 1024);
        assert_eq!((start.tablespaces[0].oid, start.tablespaces[0].location.as_str()), (16384, "/ts"));
        assert_eq!((end.position.lsn.to_string().as_str(), end.damaged.len()), ("0/2000100", 0));
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        for event in rest {
            match event {
                SourceEvent::FileBegin(_, entry) => files.push((entry.path.to_string(), Vec::new())),
                SourceEvent::Data { bytes, .. } => files.last_mut().unwrap().1.extend_from_slice(bytes),
                SourceEvent::FileEnd { file, size } => assert_eq!(files[file.0 as usize].1.len() as u64, *size),
                other => panic!("{framing:?}: {other:?}"),
            }
        }
        assert!(files[0].0.starts_with("pg_tblspc/16384/PG_") && files[0].1 == b"abc", "{framing:?}");
        assert_eq!(files[1], ("global/pg_control".to_owned(), vec![7; 600]), "{framing:?}");
        assert_eq!(files.len(), 2, "{framing:?}");
    }
}

#[test]
fn damage_that_the_server_finds_does_not_stop_the_backup() {
    let late = BackendMessage::Error(notice("ERROR", "XX001", "checksum verification failure during base backup"));
    let mut messages = one_copy();
    messages.insert(messages.len() - 2, late.clone());
    let (_, end) = play(Framing::OneCopy, messages).unwrap();
    assert_eq!(end.damaged.len(), 1, "{:?}", end.damaged);

    let warning = |block: u32| {
        let text =
            format!("checksum verification failed in file \"base/5/1\", block {block}: calculated 1 but expected 2");
        BackendMessage::Notice(notice("WARNING", "01000", &text))
    };
    let mut messages = one_copy();
    messages.insert(messages.len() - 2, late);
    (0..1200).for_each(|block| messages.insert(9, warning(block)));
    for sum in [
        "file \"base/5/1\" has a total of 1200 checksum verification failures",
        "1200 total checksum verification failures",
    ] {
        messages.insert(9, BackendMessage::Notice(notice("WARNING", "01000", sum)));
    }
    let (events, end) = play(Framing::OneCopy, messages).unwrap();
    assert!(!events.iter().any(|event| matches!(event, SourceEvent::Finding(_))));
    assert_eq!(end.damaged.len(), 1001);
    assert!(end.damaged[1000].starts_with("200 more"), "{}", end.damaged[1000]);
}

#[test]
fn warnings_are_reported_up_to_a_limit() {
    let mut messages = one_copy();
    for (severity, text) in [
        ("NOTICE", "all required WAL segments have been archived"),
        ("WARNING", "skipping special file \"./.s.PGSQL.5432\""),
        ("WARNING", "skipping special file \"./base/16384\""),
        ("WARNING", "skipping special file \"./log\""),
        ("WARNING", "something new"),
    ] {
        // The server says it twice: when it estimates its size, before the start, and when it sends.
        messages.insert(9, BackendMessage::Notice(notice(severity, "01000", text)));
        messages.insert(0, BackendMessage::Notice(notice(severity, "01000", text)));
    }
    let findings = |messages| {
        let (events, _) = play(Framing::OneCopy, messages).unwrap();
        assert!(matches!(events[0], SourceEvent::Started(_)), "{:?}", events[0]);
        let finding = |event| match event {
            SourceEvent::Finding(text) => Some(text),
            SourceEvent::LeftOut(LeftOut { part, path, .. }) => Some(format!("{part:?} {path}")),
            _ => None,
        };
        let mut findings: Vec<String> = events.into_iter().filter_map(finding).collect();
        findings.sort();
        findings
    };
    assert_eq!(findings(messages), ["Data base/16384", "Other log", "the server warns: something new"]);
    let mut flood = one_copy();
    (0..3000).for_each(|number| {
        flood.insert(9, BackendMessage::Notice(notice("WARNING", "01000", &format!("number {number}"))));
    });
    let told = findings(flood);
    assert_eq!(told.len(), 1000);
    assert!(told[0].contains("its log has all of them"), "{}", told[0]);
    let mut links = one_copy();
    let skipped =
        |path: &str| BackendMessage::Notice(notice("WARNING", "01000", &format!("skipping special file \"./{path}\"")));
    links.insert(9, skipped("base/16384"));
    (0..3000).for_each(|number| links.insert(9, skipped(&format!("log/{number}"))));
    let told = findings(links);
    assert!(told.contains(&"Data base/16384".to_owned()), "links that do not matter do not hide one that does");
    assert_eq!(told.len(), 1000 + 2);
}

#[test]
fn a_server_that_never_ends_is_given_up() {
    let mut stream = BackupStream::new(Framing::OneCopy, PageChecks::Server);
    stream.files_max = 1;
    let refused = one_copy().into_iter().find_map(|message| stream.push(message).err()).unwrap();
    assert!(matches!(refused, SourceError::TooMuch { what: "files", limit: 1 }), "{refused:?}");

    let mut stream = BackupStream::new(Framing::OneCopy, PageChecks::Server);
    rows(&START).into_iter().for_each(|message| assert!(stream.push(message).unwrap().is_none()));
    let long = "/".repeat(1025);
    let refused = stream.push(row(&[Some("5"), Some(&long), None])).unwrap_err();
    assert!(refused.to_string().contains("bytes of a tablespace's path"), "{refused}");
    let refused = (0..20_000).find_map(|oid| stream.push(row(&[Some(&oid.to_string()), Some("/a"), None])).err());
    assert!(matches!(refused, Some(SourceError::TooMuch { what: "tablespaces", .. })), "{refused:?}");
}
