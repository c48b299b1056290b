//! Senders of WAL that are broken or not what they pretend to be: small scripts over real sockets.

#![cfg(test)]

use lifeboat_postgres::{
    ConnectionSettings, ReplyWanted, StandbyStatus, WalConnection, WalConnectionOptions, WalEvent, WalStart, WalStream,
    WalStreamError,
};
use lifeboat_vocabulary::{Lsn, TimelineId, UtcTime, WalPosition};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const BEGIN: u64 = 0x0300_0000;

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag], length.to_be_bytes().as_slice(), body].concat()
}

fn welcome() -> Vec<u8> {
    [frame(b'R', &[0; 4]), frame(b'S', b"server_version\x0015.3\0"), frame(b'K', &[0; 8]), frame(b'Z', b"I")].concat()
}

/// A result set of one row, without its end.
fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
    let count = u16::try_from(values.len()).unwrap().to_be_bytes();
    let columns = [count.to_vec(), b"c\0".iter().chain(&[0; 18]).copied().collect::<Vec<u8>>().repeat(values.len())];
    let cells = values.iter().flat_map(|value| match value {
        Some(bytes) => [u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec(), bytes.to_vec()].concat(),
        None => vec![0xff; 4],
    });
    let cells: Vec<u8> = count.into_iter().chain(cells).collect();
    [frame(b'T', &columns.concat()), frame(b'D', &cells)].concat()
}

fn done() -> Vec<u8> {
    [frame(b'C', b"X\0"), frame(b'Z', b"I")].concat()
}

fn error(code: &str, text: &str) -> Vec<u8> {
    frame(b'E', format!("SERROR\0VERROR\0C{code}\0M{text}\0\0").as_bytes())
}

fn copy_both() -> Vec<u8> {
    frame(b'W', &[0, 0, 0])
}

fn wal(start: u64, bytes: &[u8]) -> Vec<u8> {
    let numbers = [start.to_be_bytes(), (start + 8).to_be_bytes(), [0; 8]].concat();
    frame(b'd', &[b"w".as_slice(), &numbers, bytes].concat())
}

/// Answers what every receiver asks; `answer` is for the command that begins with `command`. Returns the copy data that
/// the client has sent.
async fn serve(mut stream: TcpStream, command: &'static str, answer: Vec<u8>) -> Vec<Vec<u8>> {
    let length = stream.read_u32().await.unwrap();
    let mut startup = vec![0; usize::try_from(length).unwrap() - 4];
    stream.read_exact(&mut startup).await.unwrap();
    assert!(String::from_utf8_lossy(&startup).contains("wal_sender_timeout=7000ms"));
    stream.write_all(&welcome()).await.unwrap();
    let mut copied = Vec::new();
    while let Ok(tag) = stream.read_u8().await {
        let length = stream.read_u32().await.unwrap();
        let mut body = vec![0; usize::try_from(length).unwrap() - 4];
        stream.read_exact(&mut body).await.unwrap();
        let reply = match (tag, String::from_utf8_lossy(&body)) {
            (b'Q', text) if text.starts_with(command) => answer.clone(),
            (b'Q', text) if text.starts_with("IDENTIFY") => {
                [row(&[Some(b"7"), Some(b"10"), Some(b"F/0"), None]), done()].concat()
            }
            (b'Q', text) if text.starts_with("SHOW") => [row(&[Some(b"16MB")]), done()].concat(),
            (b'd', _) => {
                copied.push(body);
                continue;
            }
            _ => continue,
        };
        // A client that has heard enough may be gone.
        if stream.write_all(&reply).await.is_err() {
            break;
        }
    }
    copied
}

async fn connect(command: &'static str, answer: Vec<u8>) -> (WalConnection, JoinHandle<Vec<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, command, answer).await
    });
    let text = format!("host=127.0.0.1 port={port} user=u sslmode=disable");
    let options = WalConnectionOptions {
        application_name: "lifeboat".to_owned(),
        sender_timeout: std::time::Duration::from_secs(7),
    };
    let settings = ConnectionSettings::parse(&text).unwrap();
    (WalConnection::connect(&settings, &options).await.unwrap(), server)
}

async fn start(answer: Vec<u8>) -> (Result<WalStart, WalStreamError>, JoinHandle<Vec<Vec<u8>>>) {
    let (connection, server) = connect("START_REPLICATION SLOT \"s\" PHYSICAL 0/3000000 TIMELINE 10", answer).await;
    let from = WalPosition { timeline: timeline(10), lsn: Lsn::from_bytes(BEGIN).unwrap() };
    (connection.start(&"s".parse().unwrap(), from).await, server)
}

fn timeline(id: u32) -> TimelineId {
    TimelineId::new(id).unwrap()
}

async fn stream(answer: Vec<u8>) -> (WalStream, JoinHandle<Vec<Vec<u8>>>) {
    match start([copy_both(), answer].concat()).await {
        (Ok(WalStart::Streaming(stream)), server) => (stream, server),
        (other, _) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn wal_with_holes_and_messages_that_do_not_exist_end_the_stream() {
    let copy = |bytes: &[u8]| frame(b'd', bytes);
    let end = |answer: Vec<u8>| [frame(b'c', b""), answer].concat();
    for (why, answer) in [
        ("a hole before the first byte", wal(BEGIN + 8, b"12345678")),
        ("what was sent before", wal(BEGIN - 8, b"12345678")),
        ("half a header", copy(b"w12345678")),
        ("half a keepalive", copy(b"k12345678")),
        ("an unknown message", copy(b"x")),
        ("an empty message", copy(b"")),
        ("rows in the middle", row(&[None])),
        ("an end without the next timeline", end(done())),
        ("a next timeline of nothing", end([row(&[None, None]), done()].concat())),
        ("timeline 0", end([row(&[Some(b"0"), Some(b"0/3000000")]), done()].concat())),
        ("a switch at nowhere", end([row(&[Some(b"11"), Some(b"0/0")]), done()].concat())),
        ("too few columns", end([row(&[Some(b"11")]), done()].concat())),
        ("copy data behind the end", end(wal(BEGIN, b"1"))),
    ] {
        let (mut stream, _server) = stream(answer).await;
        let error = stream.next().await.unwrap_err();
        assert!(matches!(error, WalStreamError::Protocol { .. }), "{why}: {error:?}");
        assert!(stream.next().await.is_err(), "{why}: the stream is over");
    }
    let (mut stream, _server) = stream([wal(BEGIN, b"12345678"), wal(BEGIN + 16, b"1")].concat()).await;
    assert!(matches!(stream.next().await, Ok(WalEvent::Data { bytes, .. }) if bytes == b"12345678".as_slice()));
    let error = stream.next().await.unwrap_err();
    assert!(error.to_string().contains("0x3000010 on instead of 0/3000008"), "{error}");
}

#[tokio::test]
async fn answers_in_place_of_a_stream_are_understood() {
    let next = [row(&[Some(b"4294967295"), Some(b"A/B0000000")]), frame(b'C', b"X\0"), done()].concat();
    let (started, _server) = start(next).await;
    let Ok(WalStart::EndOfTimeline(mut end)) = started else { panic!("{started:?}") };
    assert_eq!(end.next, WalPosition { timeline: timeline(u32::MAX), lsn: "A/B0000000".parse().unwrap() });
    assert_eq!(end.connection.identify().await.unwrap().timeline, timeline(10));
    for (why, answer) in [
        ("nothing", done()),
        ("half of it", [row(&[Some(b"11"), None]), done()].concat()),
        ("what only senders take", frame(b'G', &[0, 0, 0])),
    ] {
        let (started, _server) = start(answer).await;
        assert!(matches!(started, Err(WalStreamError::Protocol { .. })), "{why}: {started:?}");
    }
    let active = error("55006", "Replikations-Slot »s« ist aktiv für PID 12");
    let (started, _server) = start([active, frame(b'Z', b"I")].concat()).await;
    assert!(matches!(started, Err(WalStreamError::SlotActive { pid: Some(12) })), "{started:?}");
}

#[tokio::test]
async fn the_end_of_a_server_and_the_end_of_a_timeline_are_told_apart() {
    let (mut stopped, _server) = stream([wal(BEGIN, b"12345678"), frame(b'C', b"COPY 0\0")].concat()).await;
    assert!(matches!(stopped.next().await, Ok(WalEvent::Data { .. })));
    assert!(matches!(stopped.next().await, Ok(WalEvent::Closed)));
    assert!(stopped.next().await.is_err());

    let next = [row(&[Some(b"11"), Some(b"0/3000000")]), frame(b'C', b"X\0"), done()].concat();
    let (mut ended, _server) = stream([frame(b'c', b""), next].concat()).await;
    let event = ended.next().await;
    let Ok(WalEvent::EndOfTimeline(mut end)) = event else { panic!("{event:?}") };
    assert_eq!(end.next.timeline, timeline(11));
    assert_eq!(end.connection.segment_size().await.unwrap().as_bytes(), 16 << 20);
    assert!(ended.next().await.is_err());
}

#[tokio::test]
async fn a_history_file_is_read_byte_for_byte_up_to_a_limit() {
    let odd = b"1\t0/3000000\t\xff\xfe\0\n";
    for (content, right) in [(odd.to_vec(), true), (vec![b'#'; 2 << 20], false)] {
        let answer = [row(&[Some(b"0000000A.history"), Some(&content)]), done()].concat();
        let (mut connection, _server) = connect("TIMELINE_HISTORY 10", answer).await;
        match connection.timeline_history(timeline(10)).await {
            Ok(found) => assert!(right && found == content),
            Err(WalStreamError::Protocol { .. }) => assert!(!right),
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn reports_are_big_endian_and_never_claim_what_has_not_come() {
    let (mut stream, server) = stream(wal(BEGIN, b"12345678")).await;
    stream.next().await.unwrap();
    let lsn = |bytes: u64| Lsn::from_bytes(bytes).unwrap();
    let now: UtcTime = "2000-01-01T00:00:01Z".parse().unwrap();
    for (write, flush, apply) in [
        (lsn(BEGIN + 8), Some(lsn(BEGIN + 8)), None),
        // Beyond what has come, and back: the place of before stays.
        (lsn(BEGIN + 9), Some(lsn(BEGIN + 9)), Some(lsn(BEGIN + 9))),
        (lsn(BEGIN + 8), Some(lsn(BEGIN)), Some(lsn(BEGIN + 4))),
        (lsn(BEGIN + 8), None, None),
    ] {
        let ask_reply = if apply.is_some() { ReplyWanted::Now } else { ReplyWanted::Whenever };
        stream.report(StandbyStatus { write, flush, apply, now, ask_reply }).await.unwrap();
    }
    stream.close().await;
    let status = |apply: u64, reply: u8| {
        let numbers = [BEGIN + 8, BEGIN + 8, apply, 1_000_000].map(u64::to_be_bytes).concat();
        [b"r".as_slice(), &numbers, &[reply]].concat()
    };
    let expected = [status(0, 0), status(0, 1), status(BEGIN + 4, 1), status(0, 0)];
    assert_eq!(server.await.unwrap(), expected);
}
