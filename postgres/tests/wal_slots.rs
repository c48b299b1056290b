//! Slots of real servers: in use, lost, made again; and servers that shut down while WAL streams.

#![cfg(test)]

mod wal_support;

use std::thread;
use std::time::{Duration, Instant};

use lifeboat_postgres::{
    SlotCondition, SlotName, WalEvent, WalStart, WalStreamError, create_slot, drop_slot, server_wal, slot_status,
};
use lifeboat_testkit::{PgServer, Stop};
use lifeboat_vocabulary::{ByteCount, Clock, Lsn, SystemClock};
use wal_support::{
    PATIENCE, drop_own_slot, end_of, next, receive, report, slot, sql, start, start_at_once, stream, with_slot,
};

/// Versions whose slots differ.
const MAJORS: [u32; 4] = [13, 15, 17, 18];

async fn condition(server: &PgServer) -> Option<SlotCondition> {
    slot_status(&mut sql(server).await, &slot()).await.unwrap().map(|status| status.condition)
}

#[tokio::test]
async fn slots_are_made_described_and_dropped() {
    for major in MAJORS {
        let server = PgServer::builder(major).setting("wal_level", "logical").start().unwrap();
        let mut session = sql(&server).await;
        assert_eq!(slot_status(&mut session, &slot()).await.unwrap(), None);
        assert!(matches!(drop_slot(&mut session, &slot()).await, Err(WalStreamError::NoSlot { .. })));
        let held = create_slot(&mut session, &slot()).await.unwrap();
        let status = slot_status(&mut session, &slot()).await.unwrap().unwrap();
        assert_eq!((status.condition, status.restart, status.active_pid), (SlotCondition::Holds, Some(held), None));
        assert_eq!((status.wal_status.as_deref(), status.safe_wal_size), (Some("reserved"), None), "{major}");
        assert_eq!(
            status.inactive_since.map(|time| SystemClock.now().since(time) < PATIENCE),
            (major >= 17).then_some(true)
        );
        assert!(matches!(create_slot(&mut session, &slot()).await, Err(WalStreamError::SlotExists { .. })));
        server.psql("postgres", "select pg_create_physical_replication_slot('empty')").unwrap();
        server.psql("postgres", "select pg_create_logical_replication_slot('logical', 'test_decoding')").unwrap();
        for (name, expected) in [("empty", SlotCondition::Empty), ("logical", SlotCondition::Logical)] {
            let name: SlotName = name.parse().unwrap();
            let status = slot_status(&mut session, &name).await.unwrap().unwrap();
            assert_eq!(status.condition, expected, "{major}");
        }
        drop_slot(&mut session, &slot()).await.unwrap();
        assert_eq!(slot_status(&mut session, &slot()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_slot_in_use_names_the_process_that_uses_it() {
    for major in MAJORS {
        let server = PgServer::builder(major).start().unwrap();
        let held = with_slot(&server).await;
        let mut first = stream(&server, 1, held).await;
        let pid = slot_status(&mut sql(&server).await, &slot()).await.unwrap().unwrap().active_pid;
        assert!(pid.is_some());
        for error in [
            start_at_once(&server, 1, held).await.unwrap_err(),
            drop_slot(&mut sql(&server).await, &slot()).await.unwrap_err(),
        ] {
            assert!(matches!(error, WalStreamError::SlotActive { pid: found } if found == pid), "{major}: {error:?}");
            assert!(error.is_transient() && error.to_string().contains(&pid.unwrap().to_string()));
        }
        receive(&mut first, Some(end_of(&server).await)).await;
        server.psql("postgres", &format!("select pg_terminate_backend({})", pid.unwrap())).unwrap();
        let error = loop {
            match next(&mut first).await {
                Ok(WalEvent::Keepalive { .. } | WalEvent::Data { .. }) => {}
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        assert!(error.is_transient(), "{major}: {error:?}");
    }
}

#[tokio::test]
async fn a_lost_slot_is_known_as_such_and_a_new_one_holds() {
    for major in MAJORS {
        let builder = PgServer::builder(major).wal_segsize_mb(1).setting("max_wal_size", "2MB");
        let server = builder.setting("max_slot_wal_keep_size", "2MB").start().unwrap();
        let held = with_slot(&server).await;
        let mut session = sql(&server).await;
        let safe = slot_status(&mut session, &slot()).await.unwrap().unwrap().safe_wal_size;
        assert!(safe.is_some_and(|safe| safe > 0 && safe <= 4 << 20), "{major}: {safe:?}");
        let mut seen = Vec::new();
        for _ in 0..10 {
            let fill =
                "create table x as select repeat('x', 900) from generate_series(1, 1000); drop table x; checkpoint";
            server.psql("postgres", fill).unwrap();
            seen.extend(condition(&server).await);
        }
        assert_eq!(seen.last(), Some(&SlotCondition::Lost), "{major}: {seen:?}");
        let lost = slot_status(&mut session, &slot()).await.unwrap().unwrap();
        assert_eq!(lost.invalidation_reason.as_deref(), (major >= 17).then_some("wal_removed"), "{major}");
        // The WAL of before is gone whatever the slot says.
        match start(&server, 1, held).await {
            Ok(WalStart::Streaming(mut stream)) => {
                let error = next(&mut stream).await.unwrap_err();
                assert!(matches!(error, WalStreamError::SegmentRemoved { .. }), "{major}: {error:?}");
                assert!(major < 18);
            }
            Err(WalStreamError::SlotLost { .. }) => assert_eq!(major, 18),
            other => panic!("{major}: {other:?}"),
        }
        if major == 18 {
            let error = start(&server, 1, end_of(&server).await).await.unwrap_err();
            assert!(error.remedy().unwrap().contains("max_slot_wal_keep_size"), "{error:?}");
        }
        if major < 18 {
            what_becomes_of_a_lost_slot_that_is_used(&server).await;
        }
        drop_own_slot(&server).await;
        let again = create_slot(&mut session, &slot()).await.unwrap();
        assert_eq!(condition(&server).await, Some(SlotCondition::Holds));
        assert!(again > held);
        let mut stream = stream(&server, 1, again).await;
        receive(&mut stream, Some(end_of(&server).await)).await;
    }
}

/// Up to 15 a report brings it back to life, with a hole before it; from 16 on it stays lost and protects nothing.
async fn what_becomes_of_a_lost_slot_that_is_used(server: &PgServer) {
    let mut stream = stream(server, 1, end_of(server).await).await;
    let end = end_of(server).await;
    receive(&mut stream, Some(end)).await;
    // Only what is past the start of the stream has been reported.
    let begun = Instant::now();
    let expected = if server.major() < 16 { SlotCondition::Holds } else { SlotCondition::Lost };
    loop {
        let found = condition(server).await;
        if found == Some(expected) && begun.elapsed() > Duration::from_millis(200) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{}: {found:?}", server.major());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stream.close().await;
}

#[tokio::test]
async fn the_facts_for_an_alarm_come_from_primaries_and_standbys() {
    for major in MAJORS {
        let builder = PgServer::builder(major).setting("max_slot_wal_keep_size", "3GB");
        let primary = builder.setting("synchronous_standby_names", "ANY 1 (\"LifeBoat\", x)").start().unwrap();
        // Nobody confirms anything here.
        primary.psql("postgres", "alter system set synchronous_commit = local; select pg_reload_conf()").unwrap();
        let standby = primary.standby().unwrap();
        for (server, in_recovery) in [(&primary, false), (&standby, true)] {
            let facts = server_wal(&mut sql(server).await, "lifeboat").await.unwrap();
            assert_eq!((facts.in_recovery, facts.synchronous), (in_recovery, true), "{major}");
            assert_eq!(facts.slot_limit, Some(ByteCount::from_mib(3072)));
            assert!(facts.pg_wal >= Some(ByteCount::from_mib(16)) && facts.end.is_some(), "{facts:?}");
        }
        primary.psql("postgres", "create role weak login; alter system reset max_slot_wal_keep_size").unwrap();
        primary.psql("postgres", "alter system set max_slot_wal_keep_size = -1").unwrap();
        primary.psql("postgres", "select pg_reload_conf()").unwrap();
        let begun = Instant::now();
        while primary.psql("postgres", "show max_slot_wal_keep_size").unwrap() != "-1" {
            assert!(begun.elapsed() < PATIENCE);
        }
        let weak = primary.connection_string().replace("user=postgres", "user=weak");
        let settings = lifeboat_postgres::ConnectionSettings::parse(&weak).unwrap();
        let mut session =
            lifeboat_postgres::Session::connect(&settings, lifeboat_postgres::Purpose::Sql).await.unwrap();
        let facts = server_wal(&mut session, "somebody").await.unwrap();
        assert_eq!((facts.slot_limit, facts.pg_wal, facts.synchronous), (None, None, false), "{major}");
    }
}

/// Stops a server in the background; how long it took.
fn stop_in_background(mut server: PgServer) -> thread::JoinHandle<Duration> {
    thread::spawn(move || {
        let begun = Instant::now();
        server.stop(Stop::Fast).unwrap();
        begun.elapsed()
    })
}

#[tokio::test]
async fn a_shutdown_ends_a_stream_that_reports_everything_and_waits_for_one_that_does_not_until_it_is_closed() {
    for major in MAJORS {
        let server = PgServer::builder(major).start().unwrap();
        let held = with_slot(&server).await;
        let mut stream = stream(&server, 1, held).await;
        receive(&mut stream, Some(end_of(&server).await)).await;
        let stopping = stop_in_background(server);
        let mut last: Option<Lsn> = None;
        loop {
            match next(&mut stream).await.unwrap() {
                WalEvent::Data { .. } => {
                    last = Some(stream.position());
                    report(&mut stream, last).await;
                }
                WalEvent::Keepalive { .. } => {
                    let received = stream.position();
                    report(&mut stream, Some(received)).await;
                }
                WalEvent::Closed => break,
                WalEvent::EndOfTimeline(end) => panic!("{end:?}"),
            }
        }
        assert!(last.is_some(), "{major}: the shutdown checkpoint has come");
        let took = stopping.join().unwrap();
        assert!(took < Duration::from_secs(20), "{major}: {took:?}");

        let server = PgServer::builder(major).start().unwrap();
        let held = with_slot(&server).await;
        let mut stream = wal_support::stream(&server, 1, held).await;
        // Received, and never reported.
        let end = end_of(&server).await;
        while stream.position() < end {
            next(&mut stream).await.unwrap();
        }
        let stopping = stop_in_background(server);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            match tokio::time::timeout(Duration::from_millis(100), stream.next()).await {
                Err(_) | Ok(Ok(WalEvent::Data { .. } | WalEvent::Keepalive { .. })) => {}
                Ok(other) => panic!("{major}: {other:?}"),
            }
        }
        assert!(!stopping.is_finished(), "{major}: the server did not wait");
        let closed = Instant::now();
        stream.close().await;
        stopping.join().unwrap();
        assert!(closed.elapsed() < Duration::from_secs(20), "{major}: {:?}", closed.elapsed());
    }
}
