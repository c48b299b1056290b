//! A receiver as small as one can be.

#![allow(dead_code, reason = "each test uses its part")]

use std::time::{Duration, Instant};

use lifeboat_postgres::{
    ConnectionSettings, EndOfTimeline, Purpose, ReplyWanted, Session, SlotName, StandbyStatus, WalConnection,
    WalConnectionOptions, WalEvent, WalStart, WalStream, WalStreamError, create_slot, drop_slot,
};
use lifeboat_testkit::PgServer;
use lifeboat_vocabulary::{Clock, Lsn, SegmentName, SegmentSize, SystemClock, TimelineId, WalPosition};

pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn slot() -> SlotName {
    "lifeboat".parse().unwrap()
}

pub fn timeline(id: u32) -> TimelineId {
    TimelineId::new(id).unwrap()
}

pub fn lsn(text: &str) -> Lsn {
    text.parse().unwrap()
}

pub async fn sql(server: &PgServer) -> Session {
    let settings = ConnectionSettings::parse(&server.connection_string()).unwrap();
    Session::connect(&settings, Purpose::Sql).await.unwrap()
}

pub async fn with_slot(server: &PgServer) -> Lsn {
    create_slot(&mut sql(server).await, &slot()).await.unwrap()
}

pub async fn connection(server: &PgServer) -> WalConnection {
    let settings = ConnectionSettings::parse(&server.tcp_connection_string()).unwrap();
    let options =
        WalConnectionOptions { application_name: "lifeboat".to_owned(), sender_timeout: Duration::from_secs(20) };
    WalConnection::connect(&settings, &options).await.unwrap()
}

pub async fn end_of(server: &PgServer) -> Lsn {
    connection(server).await.identify().await.unwrap().flush
}

/// The start of the segment that holds a position.
pub fn segment_start(at: Lsn, size: SegmentSize) -> Lsn {
    SegmentName::holding(timeline(1), at, size).start().unwrap()
}

pub async fn start_at_once(server: &PgServer, id: u32, at: Lsn) -> Result<WalStart, WalStreamError> {
    let mut connection = connection(server).await;
    let size = connection.segment_size().await.unwrap();
    connection.start(&slot(), WalPosition { timeline: timeline(id), lsn: segment_start(at, size) }).await
}

/// Waits for the end of a session of before that still has the slot.
pub async fn start(server: &PgServer, id: u32, at: Lsn) -> Result<WalStart, WalStreamError> {
    let begun = Instant::now();
    loop {
        match start_at_once(server, id, at).await {
            Err(WalStreamError::SlotActive { .. }) if begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

pub async fn drop_own_slot(server: &PgServer) {
    let begun = Instant::now();
    while let Err(error) = drop_slot(&mut sql(server).await, &slot()).await {
        assert!(matches!(error, WalStreamError::SlotActive { .. }) && begun.elapsed() < PATIENCE, "{error:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn stream(server: &PgServer, id: u32, at: Lsn) -> WalStream {
    match start(server, id, at).await {
        Ok(WalStart::Streaming(stream)) => stream,
        other => panic!("{other:?}"),
    }
}

pub async fn next(stream: &mut WalStream) -> Result<WalEvent, WalStreamError> {
    tokio::time::timeout(PATIENCE, stream.next()).await.expect("nothing comes")
}

pub async fn report(stream: &mut WalStream, flush: Option<Lsn>) {
    let status = StandbyStatus {
        write: stream.position(),
        flush,
        apply: None,
        now: SystemClock.now(),
        ask_reply: ReplyWanted::Whenever,
    };
    stream.report(status).await.unwrap();
}

/// What comes up to a position, reported as durable; or up to the end of the timeline.
pub async fn receive(stream: &mut WalStream, until: Option<Lsn>) -> (Vec<u8>, Option<EndOfTimeline>) {
    let mut received = Vec::new();
    while until.is_none_or(|until| stream.position() < until) {
        match next(stream).await.unwrap() {
            WalEvent::Data { bytes, .. } => {
                received.extend_from_slice(&bytes);
                report(stream, Some(stream.position())).await;
            }
            WalEvent::Keepalive { reply: ReplyWanted::Now, .. } => report(stream, Some(stream.position())).await,
            WalEvent::Keepalive { .. } => {}
            WalEvent::EndOfTimeline(end) => return (received, Some(*end)),
            WalEvent::Closed => panic!("the server has ended"),
        }
    }
    (received, None)
}

/// The bytes of the server's own files from a segment's start on.
pub fn on_disk(server: &PgServer, id: u32, from: Lsn, length: usize, size: SegmentSize) -> Vec<u8> {
    let mut name = SegmentName::holding(timeline(id), from, size);
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let path = server.data_dir().join("pg_wal").join(name.to_string());
        bytes.extend(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        name = name.next();
    }
    bytes.truncate(length);
    bytes
}
