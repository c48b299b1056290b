//! Base backups that cannot be: each says why, and what to do about it.

use std::time::Duration;

use crate::support::{Collected, begin, collect, options};
use lifeboat_postgres::{BackupSource, BaseBackupOptions, SourceError, SourceEvent};
use lifeboat_testkit::{PgServer, majors_under_test};
use lifeboat_vocabulary::error_chain;

/// Slow enough that something can happen meanwhile: 4 MB a second, so that an empty cluster takes some seconds.
fn slow() -> BaseBackupOptions {
    BaseBackupOptions { max_rate: Some(4000), ..options() }
}

/// Ends the session that keeps the WAL of a running backup.
fn end_slot_session(server: &PgServer) {
    let sql = "select count(pg_terminate_backend(active_pid)) from pg_replication_slots where temporary";
    assert_eq!(server.psql("postgres", sql).unwrap(), "1");
}

/// Writes so much WAL that the oldest files are removed, unless somebody keeps them.
fn churn(server: &PgServer) {
    server.psql("postgres", "create table if not exists churn (t text)").unwrap();
    for _ in 0..6 {
        let fill = "insert into churn select repeat(md5(i::text), 20) from generate_series(1, 2000) i";
        server.psql("postgres", &format!("{fill}; select pg_switch_wal(); checkpoint")).unwrap();
    }
}

fn forgetful(major: u32) -> PgServer {
    PgServer::builder(major).wal_segsize_mb(1).setting("max_wal_size", "2MB").start().unwrap()
}

#[tokio::test]
async fn the_wal_of_a_backup_is_kept_however_much_is_written_meanwhile() {
    for major in majors_under_test() {
        let server = forgetful(major);
        let mut source = begin(&server.connection_string(), &slow()).await.unwrap();
        let first = source.next().await.unwrap();
        churn(&server);
        let SourceEvent::Started(start) = first else { panic!("{first:?}") };
        let backup = Collected::rest(source, start).await.unwrap();
        backup.verify();
        backup.restore(&server);
    }
}

#[tokio::test]
async fn a_backup_whose_wal_was_removed_fails_and_names_the_fix() {
    for major in majors_under_test() {
        let server = forgetful(major);
        let mut source = begin(&server.connection_string(), &slow()).await.unwrap();
        source.next().await.unwrap();
        end_slot_session(&server);
        churn(&server);
        let error = drain(source).await;
        let whole = error_chain(&error);
        assert!(matches!(error, SourceError::WalRemoved { .. }), "{error:?}");
        assert!(whole.contains("max_slot_wal_keep_size"), "{whole}");
    }
}

/// The error that ends a backup.
async fn drain(mut source: impl BackupSource) -> SourceError {
    loop {
        match source.next().await {
            Ok(SourceEvent::Finished(end)) => panic!("finished at {}", end.position),
            Ok(_) => {}
            Err(error) => return error,
        }
    }
}

#[tokio::test]
async fn losing_the_session_that_keeps_the_wal_is_reported_and_harmless_if_the_wal_is_still_there() {
    for major in majors_under_test() {
        let server = PgServer::builder(major).start().unwrap();
        let mut source = begin(&server.connection_string(), &slow()).await.unwrap();
        let first = source.next().await.unwrap();
        end_slot_session(&server);
        let SourceEvent::Started(start) = first else { panic!("{first:?}") };
        let backup = Collected::rest(source, start).await.unwrap();
        backup.verify();
        let [finding] = backup.findings.as_slice() else { panic!("{:?}", backup.findings) };
        assert!(finding.contains("kept the WAL"), "{finding}");
    }
}

#[tokio::test]
async fn losing_the_session_that_sends_ends_the_backup() {
    for major in majors_under_test() {
        let server = PgServer::builder(major).start().unwrap();
        let mut source = begin(&server.connection_string(), &slow()).await.unwrap();
        source.next().await.unwrap();
        let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity where backend_type = 'walsender'
            and pid not in (select active_pid from pg_replication_slots)";
        assert_eq!(server.psql("postgres", sql).unwrap(), "1");
        // A server that is in the middle of sending may not get its last words out.
        let error = drain(source).await;
        match &error {
            SourceError::Session { doing, source } => {
                assert_eq!((*doing, source.is_transient()), ("receive the backup", true), "{error:?}");
            }
            SourceError::Server { message, .. } => assert_eq!(message.code, "57P01", "{error:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_standby_that_is_promoted_meanwhile_makes_the_backup_worthless() {
    for major in majors_under_test() {
        let server = PgServer::builder(major).start().unwrap();
        let standby = server.standby().unwrap();
        let mut source = begin(&standby.connection_string(), &slow()).await.unwrap();
        source.next().await.unwrap();
        standby.promote().unwrap();
        let error = drain(source).await;
        assert!(matches!(error, SourceError::StandbyPromoted { .. }), "{major}: {error:?}");
        assert!(error.to_string().contains("run the backup again"), "{error}");
    }
}

#[tokio::test]
async fn each_reason_why_a_server_gives_no_backup_is_reported_with_its_fix() {
    for major in majors_under_test() {
        let server = PgServer::builder(major).setting("max_replication_slots", "0").start().unwrap();
        server.psql("postgres", "create role nobody login").unwrap();
        let nobody = server.connection_string().replace("user=postgres", "user=nobody");
        for (conninfo, fix) in [(server.connection_string(), "max_replication_slots"), (nobody, "REPLICATION")] {
            let Err(error) = collect(&conninfo, &options()).await else { panic!("{conninfo}: a backup") };
            let whole = error_chain(&error);
            assert!(whole.contains(fix), "{whole}");
        }
        let too_fast = BaseBackupOptions { max_rate: Some(2_000_000), ..options() };
        let other = PgServer::builder(major).start().unwrap();
        let Err(error) = collect(&other.connection_string(), &too_fast).await else { panic!("a backup") };
        assert!(error_chain(&error).contains("2000000"), "{error:?}");
    }
}

#[tokio::test]
async fn connections_to_different_servers_are_refused() {
    let major = majors_under_test()[0];
    let server = PgServer::builder(major).start().unwrap();
    // The second host takes replication only, the first one SQL only.
    let no_replication = PgServer::builder(major).setting("max_wal_senders", "0").start().unwrap();
    let both = format!(
        "host=127.0.0.1,127.0.0.1 port={},{} user=postgres dbname=postgres",
        no_replication.port(),
        server.port()
    );
    let Err(error) = collect(&both, &options()).await else { panic!("a backup of two servers") };
    assert!(matches!(error, SourceError::DifferentHosts { .. }), "{error:?}");
}

#[tokio::test]
async fn idle_sessions_of_a_backup_are_not_ended_by_the_server() {
    for major in majors_under_test().into_iter().filter(|major| *major >= 14) {
        let server = PgServer::builder(major).setting("idle_session_timeout", "500ms").start().unwrap();
        let mut source = begin(&server.connection_string(), &slow()).await.unwrap();
        let first = source.next().await.unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let SourceEvent::Started(start) = first else { panic!("{first:?}") };
        let backup = Collected::rest(source, start).await.unwrap();
        assert_eq!(backup.findings, [""; 0]);
    }
}
