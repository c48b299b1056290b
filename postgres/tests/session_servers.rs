//! Sessions with real servers: which host, queries, streams, and servers that go away.

#![cfg(test)]

mod session_support;

use std::time::Duration;

use bytes::Bytes;
use lifeboat_postgres::{BackendMessage, ConnectionSettings, ProtocolFault, Purpose, Session, SessionError};
use lifeboat_testkit::{PgServer, majors_under_test};
use lifeboat_vocabulary::error_chain;
use session_support::{connect, refusal};

/// A port of 127.0.0.1 where nobody listens.
fn dead_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn standby_flag(session: &mut Session) -> String {
    session.query_one_text("SHOW transaction_read_only").await.unwrap().unwrap()
}

#[tokio::test]
async fn a_host_that_does_not_exist_is_named_with_the_reason_and_a_fix() {
    let port = dead_port();
    let (error, whole) = refusal(&format!("host=127.0.0.1 port={port} user=u sslmode=disable")).await;
    assert!(whole.starts_with(&format!("connect to 127.0.0.1:{port}: Connection refused")), "{whole}");
    assert!(error.is_transient() && error.remedy().unwrap().contains("listen_addresses"));
    let (error, whole) = refusal(&format!("host=/nonexistent,127.0.0.1 port=1,{port} user=u sslmode=disable")).await;
    match &error {
        SessionError::NoSuitableHost { failures } => assert_eq!(failures.len(), 2),
        other => panic!("{other:?}"),
    }
    assert!(whole.contains("/nonexistent:1: connect to /nonexistent:1: No such file"), "{whole}");
    assert!(error.remedy().unwrap().contains("unix_socket_directories"), "{whole}");
    let (error, _) = refusal("host=does.not.exist.invalid user=u").await;
    assert!(matches!(error, SessionError::Connect { .. }), "{error:?}");
}

#[tokio::test]
async fn the_first_suitable_host_is_taken() {
    for major in majors_under_test() {
        let primary = PgServer::builder(major).start().unwrap();
        let standby = primary.standby().unwrap();
        let (dead, first, second) = (dead_port(), standby.port(), primary.port());
        let base =
            format!("host=127.0.0.1,127.0.0.1,127.0.0.1 port={dead},{first},{second} user=postgres dbname=postgres");
        for purpose in [Purpose::Sql, Purpose::PhysicalReplication, Purpose::DatabaseReplication] {
            for (wanted, port, read_only) in [
                ("any", first, "on"),
                ("read-write", second, "off"),
                ("read-only", first, "on"),
                ("primary", second, "off"),
                ("standby", first, "on"),
                ("prefer-standby", first, "on"),
            ] {
                let session = connect(&format!("{base} target_session_attrs={wanted}"), purpose).await;
                let mut session = session.unwrap_or_else(|error| panic!("{wanted} {purpose:?}: {error:?}"));
                assert_eq!(session.host(), format!("127.0.0.1:{port}"), "{wanted} {purpose:?}");
                assert_eq!(standby_flag(&mut session).await, read_only, "{wanted} {purpose:?}");
            }
        }
        let alone = format!("host=127.0.0.1 port={second} user=postgres dbname=postgres sslmode=disable");
        let (error, whole) = refusal(&format!("{alone} target_session_attrs=standby")).await;
        assert!(matches!(error, SessionError::UnwantedRole { found: "a primary", .. }), "{whole}");
        let preferred = connect(&format!("{alone} target_session_attrs=prefer-standby"), Purpose::Sql).await;
        assert_eq!(preferred.unwrap().host(), format!("127.0.0.1:{second}"));
        let option = format!("{alone} options='-c default_transaction_read_only=on' target_session_attrs=read-write");
        let (error, whole) = refusal(&option).await;
        assert!(matches!(error, SessionError::UnwantedRole { found: "read-only", .. }), "{whole}");
    }
}

#[tokio::test]
async fn queries_answer_in_rows_and_refusals_leave_the_session_usable() {
    for major in majors_under_test() {
        let server = PgServer::builder(major).start().unwrap();
        let settings = ConnectionSettings::parse(&server.connection_string()).unwrap();
        let settings = settings.with_application_name("it's me").with_option("work_mem", "1234 kB");
        let mut session = Session::connect(&settings, Purpose::Sql).await.unwrap();
        let error = session.query("SELECT 1; SELECT nonsense; SELECT 2").await.unwrap_err();
        let message = error.server_message().unwrap();
        assert_eq!((message.code.as_str(), message.severity.as_str()), ("42703", "ERROR"), "{error}");
        let error = session.query("COPY (SELECT 1) TO STDOUT").await.unwrap_err();
        assert!(matches!(error, SessionError::Protocol { .. }), "{error:?}");

        let mut session = Session::connect(&settings, Purpose::Sql).await.unwrap();
        assert!(matches!(session.query("SELECT '\0'").await, Err(SessionError::Protocol { .. })));
        assert!(matches!(session.query("SELECT 1/0").await, Err(SessionError::Server(_))));
        let answer =
            session.query("SELECT 1 AS a, NULL AS \"ä\" UNION ALL SELECT 2, 'ö'; SET x.y = 1;;").await.unwrap();
        assert_eq!(answer.len(), 2);
        assert_eq!(answer[0].columns, ["a", "ä"]);
        let (one, two, o) = (Some("1".to_owned()), Some("2".to_owned()), Some("ö".to_owned()));
        assert_eq!(answer[0].rows, [vec![one, None], vec![two, o]]);
        assert_eq!((answer[0].tag.as_str(), answer[1].tag.as_str()), ("SELECT 2", "SET"));
        assert!(session.query("").await.unwrap().is_empty());
        for (sql, expected) in [
            ("SHOW application_name", Some("it's me")),
            ("SHOW work_mem", Some("1234kB")),
            ("SELECT now() > '2020-01-01'", Some("t")),
            ("SELECT NULL", None),
            ("SELECT 1 WHERE false", None),
        ] {
            assert_eq!(session.query_one_text(sql).await.unwrap().as_deref(), expected, "{sql}");
        }
        let version = session.query_one_text("SHOW server_version_num").await.unwrap().unwrap();
        assert_eq!(session.server_version_num().to_string(), version);
        assert!(session.parameter("server_version").unwrap().starts_with(&major.to_string()));
        let process = session.query_one_text("SELECT pg_backend_pid()").await.unwrap().unwrap();
        assert_eq!(session.process_id().to_string(), process);
        session.query("SET application_name = 'new'").await.unwrap();
        assert_eq!(session.parameter("application_name"), Some("new"), "settings that change are followed");
        assert!(!format!("{session:?}").contains("postgres@"));
    }
}

#[tokio::test]
async fn a_session_that_the_server_ends_says_why() {
    for major in majors_under_test() {
        let server = PgServer::builder(major).start().unwrap();
        for running in [false, true] {
            let mut session = connect(&server.connection_string(), Purpose::Sql).await.unwrap();
            let end = format!("SELECT pg_terminate_backend({})", session.process_id());
            let outcome = if running {
                session.send_query("SELECT pg_sleep(60)").await.unwrap();
                server.psql("postgres", &end).unwrap();
                loop {
                    match session.next_message().await {
                        Ok(BackendMessage::RowDescription(_)) => {}
                        Ok(BackendMessage::Error(message)) => break message.code,
                        other => panic!("{other:?}"),
                    }
                }
            } else {
                server.psql("postgres", &end).unwrap();
                let error = session.query("SELECT 1").await.unwrap_err();
                assert!(error.is_transient(), "{error:?}");
                error.server_message().unwrap_or_else(|| panic!("{error:?}")).code.clone()
            };
            assert_eq!(outcome, "57P01", "running: {running}");
            assert!(session.query("SELECT 1").await.is_err());
        }
        let session = connect(&server.connection_string(), Purpose::Sql).await.unwrap();
        let process = session.process_id();
        session.close().await;
        let gone = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {process}");
        for _ in 0..100 {
            if server.psql("postgres", &gone).unwrap() == "0" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(server.psql("postgres", &gone).unwrap(), "0");
    }
}

#[tokio::test]
async fn replication_sessions_take_replication_commands() {
    for major in majors_under_test() {
        let server = PgServer::builder(major).start().unwrap();
        server.psql("postgres", "CREATE ROLE weak LOGIN").unwrap();
        let weak = server.connection_string().replace("user=postgres", "user=weak");
        let error = connect(&weak, Purpose::PhysicalReplication).await.unwrap_err();
        let message = error.server_message().unwrap_or_else(|| panic!("{}", error_chain(&error)));
        assert!(["42501", "28000"].contains(&message.code.as_str()), "{message}");
        assert!(error.remedy().is_some());

        let mut physical = connect(&server.connection_string(), Purpose::PhysicalReplication).await.unwrap();
        assert!(matches!(physical.query("SELECT 1").await, Err(SessionError::Server(_))));
        let system = physical.query("IDENTIFY_SYSTEM").await.unwrap();
        assert_eq!(system[0].columns, ["systemid", "timeline", "xlogpos", "dbname"]);
        assert_eq!(
            physical.query_one_text("SHOW tcp_keepalives_idle").await.unwrap().as_deref(),
            Some("0"),
            "a socket"
        );
        let mut both = connect(&server.connection_string(), Purpose::DatabaseReplication).await.unwrap();
        assert_eq!(both.query_one_text("SELECT current_database()").await.unwrap().as_deref(), Some("postgres"));
        assert_eq!(both.query("IDENTIFY_SYSTEM").await.unwrap()[0].rows[0][3].as_deref(), Some("postgres"));
    }
}

#[tokio::test]
async fn a_wal_stream_flows_both_ways_and_survives_cancelled_reads() {
    for major in majors_under_test() {
        let server = PgServer::builder(major).start().unwrap();
        let mut session = connect(&server.tcp_connection_string(), Purpose::PhysicalReplication).await.unwrap();
        assert!(session.send_copy_data(b"r").await.is_err(), "no copy is under way");
        let start = session.query("IDENTIFY_SYSTEM").await.unwrap()[0].rows[0][2].clone().unwrap();
        session.send_query(&format!("START_REPLICATION PHYSICAL {start}")).await.unwrap();
        assert!(matches!(
            session.query("IDENTIFY_SYSTEM").await,
            Err(SessionError::Protocol { what: ProtocolFault::Busy, .. })
        ));
        assert_eq!(session.next_message().await.unwrap(), BackendMessage::CopyBoth);
        server
            .psql("postgres", "CREATE TABLE t AS SELECT i, repeat('x', 1000) FROM generate_series(1, 3000) i")
            .unwrap();
        let (mut next, mut received, mut cancelled) = (None, 0, 0);
        while received < 3_000_000 {
            let step = Duration::from_micros(200);
            let data = match tokio::time::timeout(step, session.next_message()).await {
                Err(_) => {
                    cancelled += 1;
                    continue;
                }
                Ok(Ok(BackendMessage::CopyData(data))) => data,
                Ok(other) => panic!("{other:?}"),
            };
            if data[0] == b'w' {
                let begin = u64::from_be_bytes(data[1..9].try_into().unwrap());
                assert!(next.is_none_or(|next| next == begin), "a cancelled read lost WAL");
                next = Some(begin + u64::try_from(data.len() - 25).unwrap());
                received += data.len() - 25;
            }
        }
        println!("{cancelled} cancelled reads");
        let mut status = vec![b'r'];
        (0..3).for_each(|_| status.extend(next.unwrap().to_be_bytes()));
        status.extend([0; 9]);
        session.send_copy_data(&status).await.unwrap();
        let sql = format!("SELECT flush_lsn IS NOT NULL FROM pg_stat_replication WHERE pid = {}", session.process_id());
        let mut seen = String::new();
        for _ in 0..100 {
            seen = server.psql("postgres", &sql).unwrap();
            if seen == "t" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(seen, "t", "the status has reached the server");
        session.send_copy_done().await.unwrap();
        while session.next_message().await.unwrap() != BackendMessage::ReadyForQuery {}
        assert!(session.query("IDENTIFY_SYSTEM").await.is_ok(), "the session can be used after the stream");
    }
}

#[tokio::test]
async fn copied_data_comes_whole_even_if_all_of_it_is_kept() {
    for major in majors_under_test() {
        let server = PgServer::builder(major).start().unwrap();
        for text in [server.connection_string(), server.tcp_connection_string()] {
            let mut session = connect(&text, Purpose::Sql).await.unwrap();
            let sql = "COPY (SELECT i, repeat('x', i % 30000) FROM generate_series(1, 2000) i) TO STDOUT";
            session.send_query(sql).await.unwrap();
            let mut lines: Vec<Bytes> = Vec::new();
            loop {
                match session.next_message().await.unwrap() {
                    BackendMessage::CopyData(line) => lines.push(line),
                    BackendMessage::ReadyForQuery => break,
                    BackendMessage::CopyOut | BackendMessage::CopyDone | BackendMessage::CommandComplete(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(lines.len(), 2000);
            for (number, line) in (1..).zip(&lines) {
                let expected = format!("{number}\t{}\n", "x".repeat(number % 30000));
                assert!(*line == expected, "line {number}");
            }
        }
    }
}

#[tokio::test]
async fn requirepeer_compares_the_owner_of_the_server() {
    for major in majors_under_test() {
        let server = PgServer::builder(major).start().unwrap();
        let text = server.connection_string();
        let (error, whole) = refusal(&format!("{text} requirepeer=nobody-like-this")).await;
        assert!(whole.contains("the server behind the socket runs as"), "{whole}");
        assert!(error.remedy().unwrap().contains("before you trust it"));
        let (_, owner) = whole.split_once("runs as ").unwrap();
        let (owner, _) = owner.split_once(',').unwrap();
        assert!(connect(&format!("{text} requirepeer={owner}"), Purpose::Sql).await.is_ok(), "{owner}");
    }
}
