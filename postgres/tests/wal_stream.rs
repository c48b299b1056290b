//! Streams of WAL from real servers: under load, over changes of timeline, and all that servers refuse.

#![cfg(test)]

mod wal_support;

use std::fs;
use std::time::{Duration, Instant};

use lifeboat_postgres::{
    ConnectionSettings, EndOfTimeline, ReplyWanted, ScanStart, StandbyStatus, TimelineHistory, WalConnection,
    WalConnectionOptions, WalEvent, WalFactKind, WalScanner, WalStart, WalStream, WalStreamError, slot_status,
};
use lifeboat_testkit::{PgServer, Stop, majors_under_test};
use lifeboat_vocabulary::{Clock, Lsn, SegmentSize, SystemClock, WalPosition};
use wal_support::{
    PATIENCE, connection, end_of, lsn, next, on_disk, receive, report, segment_start, slot, sql, start, stream,
    timeline, with_slot,
};

/// Versions whose walsenders differ.
const MAJORS: [u32; 4] = [13, 15, 17, 18];

fn server(major: u32, segment: u32) -> PgServer {
    PgServer::builder(major).wal_segsize_mb(segment).setting("wal_keep_size", "1GB").start().unwrap()
}

fn size_of(mib: u64) -> SegmentSize {
    SegmentSize::from_bytes(mib << 20).unwrap()
}

#[tokio::test]
async fn what_comes_under_load_is_byte_for_byte_what_the_server_writes() {
    let matrix: Vec<(u32, u64)> = MAJORS.into_iter().map(|major| (major, 16)).collect();
    for (major, mib) in matrix.into_iter().chain([(15, 1), (15, 64)]) {
        let server = server(major, u32::try_from(mib).unwrap());
        server.pgbench_init(1).unwrap();
        let from = segment_start(with_slot(&server).await, size_of(mib));
        let load = server.load(4, None).unwrap();
        let mut stream = stream(&server, 1, from).await;
        let mut connection = connection(&server).await;
        assert_eq!(connection.segment_size().await.unwrap(), size_of(mib));
        let identity = connection.identify().await.unwrap();
        let mut scanner = WalScanner::new(ScanStart {
            timeline: identity.timeline,
            system_identifier: identity.system_identifier,
            segment_size: size_of(mib),
            at: from,
        });
        let (mut received, mut commits, mut cancelled) = (Vec::new(), 0, 0);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) || received.len() < 3 << 20 {
            assert!(begun.elapsed() < PATIENCE, "{major}: {} bytes", received.len());
            // Cancelled all the time, as by a loop that also has other things to do.
            match tokio::time::timeout(Duration::from_micros(300), stream.next()).await {
                Err(_) => cancelled += 1,
                Ok(Ok(WalEvent::Data { start, bytes, server_end, server_time })) => {
                    assert_eq!(start.as_bytes(), from.as_bytes() + received.len() as u64);
                    assert!(server_end >= Some(start));
                    assert!(SystemClock.now().since(server_time.unwrap()) < PATIENCE);
                    scanner.feed(&bytes, &mut |_| commits += 1).unwrap();
                    received.extend_from_slice(&bytes);
                    report(&mut stream, scanner.last_record_end()).await;
                }
                Ok(Ok(WalEvent::Keepalive { .. })) => report(&mut stream, scanner.last_record_end()).await,
                Ok(other) => panic!("{other:?}"),
            }
        }
        load.stop(&server).unwrap();
        let end = end_of(&server).await;
        received.extend(receive(&mut stream, Some(end)).await.0);
        assert!(received == on_disk(&server, 1, from, received.len(), size_of(mib)), "{major}, {mib} MiB");
        println!("{major}, {mib} MiB: {} bytes, {commits} facts, {cancelled} cancelled", received.len());
        // What was reported is what the slot holds, in the end.
        let held = slot_status(&mut sql(&server).await, &slot()).await.unwrap().unwrap();
        assert!(held.restart > Some(from) && held.restart <= Some(stream.position()), "{held:?}");
        // The connection can be used again.
        let mut connection = stream.finish().await.unwrap();
        assert_eq!(connection.identify().await.unwrap().system_identifier, identity.system_identifier);
        let again = connection.start(&slot(), WalPosition { timeline: timeline(1), lsn: from }).await.unwrap();
        let WalStart::Streaming(mut again) = again else { panic!("{again:?}") };
        assert_eq!(receive(&mut again, Some(end)).await.0[..1000], received[..1000]);
        again.close().await;
    }
}

#[tokio::test]
async fn a_stream_follows_two_promotions() {
    for major in MAJORS {
        let (primary, size) = (server(major, 1), size_of(1));
        primary.psql("postgres", "create table t as select generate_series(1, 20000) i").unwrap();
        let first = primary.standby().unwrap();
        let from = segment_start(with_slot(&first).await, size);
        let old = stream(&first, 1, from).await;
        primary.psql("postgres", "insert into t select generate_series(1, 3000)").unwrap();
        first.promote().unwrap();
        let mut switches = Vec::new();
        let mut new = onto_the_next_timeline(&first, old, &mut switches).await;

        // The next standby has no slot of ours, as after every failover, and no WAL from before it was made.
        let second = first.standby().unwrap();
        let from = segment_start(with_slot(&second).await, size);
        first.psql("postgres", "insert into t select generate_series(1, 3000)").unwrap();
        let end = end_of(&first).await;
        receive(&mut new, Some(end)).await;
        let old = stream(&second, 2, from).await;
        second.promote().unwrap();
        onto_the_next_timeline(&second, old, &mut switches).await.close().await;
        assert_eq!(switches.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2]);
        refusals_of_other_branches(&second, &switches, size).await;
    }
}

/// Receives the rest of a timeline, and then the beginning of the one that the server has been promoted to.
async fn onto_the_next_timeline(server: &PgServer, mut old: WalStream, switches: &mut Vec<(u32, Lsn)>) -> WalStream {
    let (size, begin_of_old) = (size_of(1), old.position());
    let (received, end) = receive(&mut old, None).await;
    let EndOfTimeline { next, mut connection } = end.unwrap();
    let (id, switch) = (next.timeline.get(), next.lsn);
    assert_eq!(switch.bytes_since(begin_of_old).unwrap().as_bytes(), received.len() as u64);
    switches.push((id - 1, switch));

    let content = connection.timeline_history(next.timeline).await.unwrap();
    let file = server.data_dir().join("pg_wal").join(format!("{id:08X}.history"));
    assert_eq!(content, fs::read(file).unwrap());
    let history = TimelineHistory::parse(next.timeline, &content).unwrap();
    let entries: Vec<(u32, Lsn)> = history.entries.iter().map(|e| (e.timeline.get(), e.switch)).collect();
    assert_eq!(entries, *switches);

    // What is before the switch still comes, and then the end of the timeline again.
    let mut again = stream(server, id - 1, switch).await;
    let (_, end) = receive(&mut again, None).await;
    assert_eq!(end.unwrap().next, next);

    // On the new timeline the segment begins with what is on the old one, too.
    let begin = segment_start(switch, size);
    let from = WalPosition { timeline: next.timeline, lsn: begin };
    let identity = connection.identify().await.unwrap();
    let WalStart::Streaming(mut new) = connection.start(&slot(), from).await.unwrap() else { panic!("{next}") };
    server.psql("postgres", "insert into t values (1)").unwrap();
    let end = end_of(server).await;
    let (after, _) = receive(&mut new, Some(end)).await;
    let repeated = usize::try_from(switch.bytes_since(begin).unwrap().as_bytes()).unwrap();
    assert!(received.ends_with(&after[..repeated.min(received.len())]));
    let mut scanner = WalScanner::new(ScanStart {
        timeline: next.timeline,
        system_identifier: identity.system_identifier,
        segment_size: size,
        at: begin,
    });
    let mut facts = Vec::new();
    scanner.feed(&after, &mut |fact| facts.push(fact.clone())).unwrap();
    assert_eq!(scanner.last_record_end(), Some(end));
    let opened = facts.iter().find(|fact| fact.kind == WalFactKind::EndOfRecovery).unwrap();
    assert!(opened.start >= switch, "{opened:?} {switch}");
    new
}

/// What a server on timeline 3 says of positions on others.
async fn refusals_of_other_branches(server: &PgServer, switches: &[(u32, Lsn)], size: SegmentSize) {
    let (_, switch) = switches[0];
    let behind = Lsn::from_bytes(segment_start(switch, size).as_bytes() + size.as_bytes()).unwrap();
    for (id, at) in [(1, behind), (7, switch), (4, switch)] {
        let error = start(server, id, at).await.unwrap_err();
        assert!(matches!(error, WalStreamError::TimelineNotInHistory { .. }), "{id}: {error:?}");
    }
    for id in [1, 9] {
        let error = connection(server).await.timeline_history(timeline(id)).await.unwrap_err();
        assert!(matches!(error, WalStreamError::NoHistory { timeline } if timeline.get() == id), "{error:?}");
    }
}

#[tokio::test]
async fn timelines_from_ten_on_are_hexadecimal_where_they_are_names_only() {
    for major in majors_under_test() {
        let mut server = PgServer::builder(major).setting("restore_command", "false").start().unwrap();
        for id in 2..=11 {
            server.stop(Stop::Fast).unwrap();
            fs::File::create(server.data_dir().join("recovery.signal")).unwrap();
            lifeboat_testkit::give_to_postgres(server.data_dir()).unwrap();
            server.start().unwrap();
            server.wait_until_promoted(PATIENCE).unwrap();
            let identity = connection(&server).await.identify().await.unwrap();
            assert_eq!(identity.timeline, timeline(id));
        }
        let held = with_slot(&server).await;
        let content = connection(&server).await.timeline_history(timeline(11)).await.unwrap();
        let history = TimelineHistory::parse(timeline(11), &content).unwrap();
        assert_eq!(history.entries.len(), 10);
        let parent = history.parent().unwrap();
        assert_eq!(parent.timeline, timeline(10));
        let mut stream = stream(&server, 11, held).await;
        let from = stream.position();
        let (received, _) = receive(&mut stream, Some(end_of(&server).await)).await;
        assert!(received == on_disk(&server, 11, from, received.len(), SegmentSize::DEFAULT));
        // Timeline 10 from where it began: it ends where 11 does begin.
        let began = history.entries[8].switch;
        let old = start(&server, 10, began).await;
        match old {
            // Every recovery so far was ended in the same segment or in the next.
            Ok(WalStart::Streaming(mut old)) => {
                let end = loop {
                    match next(&mut old).await {
                        Ok(WalEvent::EndOfTimeline(end)) => break end.next,
                        Ok(_) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                };
                assert_eq!(end, WalPosition { timeline: timeline(11), lsn: parent.switch });
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_position_that_is_a_timelines_end_is_answered_without_a_stream() {
    let mut answered = 0;
    for major in MAJORS {
        let primary = server(major, 1);
        let standby = primary.standby().unwrap();
        with_slot(&standby).await;
        primary.psql("postgres", "create table t as select 1; select pg_switch_wal()").unwrap();
        // The switch record's end is where the next segment begins.
        let end = segment_start(end_of(&primary).await, size_of(1));
        let replayed = format!("select pg_last_wal_replay_lsn() >= '{end}'");
        let begun = Instant::now();
        while standby.psql("postgres", &replayed).unwrap() != "t" {
            assert!(begun.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(primary);
        standby.promote().unwrap();
        let mut connection = connection(&standby).await;
        let content = connection.timeline_history(timeline(2)).await.unwrap();
        let switch = TimelineHistory::parse(timeline(2), &content).unwrap().parent().unwrap().switch;
        if switch != end {
            println!("{major}: the standby had got more, up to {switch}");
            continue;
        }
        match connection.start(&slot(), WalPosition { timeline: timeline(1), lsn: end }).await.unwrap() {
            WalStart::EndOfTimeline(mut over) => {
                assert_eq!(over.next, WalPosition { timeline: timeline(2), lsn: end });
                assert_eq!(over.connection.identify().await.unwrap().timeline, timeline(2));
                answered += 1;
            }
            WalStart::Streaming(stream) => panic!("{stream:?}"),
        }
    }
    assert!(answered > 0, "no standby stopped at the end of a segment");
}

#[tokio::test]
async fn wal_that_is_gone_or_not_there_yet_and_places_that_are_no_start_are_told_apart() {
    for major in MAJORS {
        let server = PgServer::builder(major).wal_segsize_mb(1).setting("max_wal_size", "2MB").start().unwrap();
        let old = end_of(&server).await;
        for _ in 0..6 {
            server
                .psql("postgres", "create table x (i int); drop table x; select pg_switch_wal(); checkpoint")
                .unwrap();
        }
        let error = start(&server, 1, old).await.unwrap_err();
        assert!(matches!(error, WalStreamError::NoSlot { .. }), "{error:?}");
        with_slot(&server).await;
        for (why, at) in [("gone", old), ("not there yet", lsn("7/0"))] {
            let mut stream = stream(&server, 1, at).await;
            let error = next(&mut stream).await.unwrap_err();
            match why {
                "gone" => assert!(matches!(error, WalStreamError::SegmentRemoved { .. }), "{error:?}"),
                _ => assert!(matches!(error, WalStreamError::AheadOfServer { .. }), "{error:?}"),
            }
            assert!(error.remedy().is_some() && !error.is_transient());
            assert!(matches!(next(&mut stream).await, Err(WalStreamError::Protocol { .. })), "the stream is over");
        }
        let middle = WalPosition { timeline: timeline(1), lsn: old };
        let error = connection(&server).await.start(&slot(), middle).await.unwrap_err();
        assert!(matches!(error, WalStreamError::NotSegmentStart { at } if at == old), "{error:?}");
    }
}

#[tokio::test]
async fn reports_never_move_the_slot_beyond_what_was_received() {
    for major in MAJORS {
        let server = server(major, 16);
        let held = with_slot(&server).await;
        let mut stream = stream(&server, 1, held).await;
        let (_, none) = receive(&mut stream, Some(held)).await;
        assert!(none.is_none());
        let status = |flush| StandbyStatus {
            write: lsn("F/0"),
            flush: Some(flush),
            apply: Some(lsn("F/0")),
            now: SystemClock.now(),
            ask_reply: ReplyWanted::Now,
        };
        let reached = stream.position();
        stream.report(status(reached)).await.unwrap();
        // Beyond, and back.
        for flush in [lsn("F/0"), Lsn::from_bytes(1).unwrap()] {
            stream.report(status(flush)).await.unwrap();
            // The answer shows that the server has read it.
            while !matches!(next(&mut stream).await.unwrap(), WalEvent::Keepalive { .. }) {}
            let status = slot_status(&mut sql(&server).await, &slot()).await.unwrap().unwrap();
            assert_eq!(status.restart, Some(reached), "{major}");
        }
        let said = "select write_lsn <= pg_current_wal_lsn(), flush_lsn <= pg_current_wal_lsn(), replay_lsn is null, \
            application_name, state from pg_stat_replication";
        assert_eq!(server.psql("postgres", said).unwrap(), "t|t|t|lifeboat|streaming", "{major}");
    }
}

#[tokio::test]
async fn a_receiver_that_is_silent_is_asked_and_then_left() {
    for major in MAJORS {
        let server = server(major, 16);
        let held = with_slot(&server).await;
        let settings = ConnectionSettings::parse(&server.tcp_connection_string()).unwrap();
        let options =
            WalConnectionOptions { application_name: "silent".to_owned(), sender_timeout: Duration::from_secs(2) };
        let connection = WalConnection::connect(&settings, &options).await.unwrap();
        let from = WalPosition { timeline: timeline(1), lsn: segment_start(held, size_of(16)) };
        let WalStart::Streaming(mut stream) = connection.start(&slot(), from).await.unwrap() else { panic!("{major}") };
        let (begun, mut wanted) = (Instant::now(), 0);
        let error = loop {
            match next(&mut stream).await {
                Ok(WalEvent::Keepalive { reply: ReplyWanted::Now, .. }) => wanted += 1,
                Ok(WalEvent::Keepalive { .. } | WalEvent::Data { .. }) => {}
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        assert!(wanted >= 1 && error.is_transient(), "{major}: {wanted} {error:?}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{major}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_copy_tells_its_incarnation_and_an_original_has_none() {
    for major in MAJORS {
        let server = server(major, 16);
        let mut connection = connection(&server).await;
        assert_eq!(connection.incarnation().await.unwrap(), None, "{major}");
        let conf = server.data_dir().join("postgresql.auto.conf");
        let mut file = fs::OpenOptions::new().append(true).open(conf).unwrap();
        std::io::Write::write_all(&mut file, b"lifeboat.incarnation = '00ff00ff00ff00ff'\n").unwrap();
        server.psql("postgres", "select pg_reload_conf()").unwrap();
        let begun = Instant::now();
        while connection.incarnation().await.unwrap().as_deref() != Some("00ff00ff00ff00ff") {
            assert!(begun.elapsed() < PATIENCE, "{major}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
