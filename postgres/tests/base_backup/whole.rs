//! Base backups of real servers: every file arrives, every finding is reported, and the copy opens.

use std::os::unix::fs::symlink;

use crate::support::{begin, collect, options, text};
use lifeboat_postgres::{BackupSource, BaseBackupOptions, PageChecks, ReplicationSource, SourceError};
use lifeboat_testkit::{Checksums, PgServer, Stop, majors_under_test};

/// A server with a tablespace that is used, and one table of a few MiB.
fn filled(major: u32) -> PgServer {
    // Small segments: the backup's WAL is more than one file.
    let server = PgServer::builder(major).checksums(Checksums::On).wal_segsize_mb(1).start().unwrap();
    let location = server.tablespace_dir("one").unwrap();
    server.psql("postgres", &format!("create tablespace one location '{}'", location.display())).unwrap();
    let fill = "create table inside as select i, repeat(md5(i::text), 4) as t from generate_series(1, 20000) i;
        create table outside tablespace one as select * from inside;
        create index on outside (i) tablespace one;
        create unlogged table forgotten as select * from inside;
        checkpoint";
    server.psql("postgres", fill).unwrap();
    server
}

const FINGERPRINT: &str =
    "select count(*), sum(hashtext(t)) from inside union all select count(*), sum(hashtext(t)) from outside";

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_made_under_load_is_whole_and_opens_with_its_own_wal() {
    for major in majors_under_test() {
        let server = filled(major);
        server.pgbench_init(1).unwrap();
        let load = server.load(2, None).unwrap();
        let spread = BaseBackupOptions { max_rate: Some(20_000), ..options() };
        let backup = collect(&server.connection_string(), &spread).await.unwrap();
        assert!(load.stop(&server).unwrap() > 0);

        assert_eq!(backup.findings, [""; 0], "{major}");
        assert_eq!(
            (backup.start.page_checks, backup.faults.as_slice()),
            (PageChecks::Receiver, [].as_slice()),
            "{major}"
        );
        assert_eq!(backup.start.tablespaces.len(), 1);
        assert!(backup.start.tablespaces[0].location.ends_with("tablespace_one"));
        assert!(backup.end.position.lsn > backup.start.position.lsn && backup.end.damaged.is_empty());
        let estimated = backup.start.estimated.unwrap().as_bytes();
        assert!(estimated <= backup.received && backup.received < estimated * 2, "{estimated} of {}", backup.received);
        for (path, came) in [("backup_label", true), ("tablespace_map", false), ("postmaster.pid", false)] {
            assert_eq!(backup.has(path), came, "{path}");
        }
        assert!(backup.members.iter().any(|member| member.path.is_below(b"pg_tblspc")));
        backup.verify();

        let restored = backup.restore(&server);
        assert_eq!(restored.psql("postgres", FINGERPRINT).unwrap(), server.psql("postgres", FINGERPRINT).unwrap());
        assert_eq!(restored.psql("postgres", "select count(*) from forgotten").unwrap(), "0");
        assert_ne!(restored.psql("postgres", "select count(*) from pgbench_history").unwrap(), "0");
        restored.pg_amcheck().unwrap();
    }
}

#[tokio::test]
async fn a_standby_gives_a_copy_that_is_no_standby() {
    for major in majors_under_test() {
        let server = filled(major);
        let standby = server.standby().unwrap();
        server.psql("postgres", "insert into inside select i, 'late' from generate_series(1, 3000) i").unwrap();
        let target = server.psql("postgres", "select pg_current_wal_lsn()").unwrap();
        let caught_up = format!("select pg_last_wal_replay_lsn() >= '{target}'");
        while standby.psql("postgres", &caught_up).unwrap() != "t" {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let backup = collect(&standby.connection_string(), &options()).await.unwrap();
        assert!(backup.source.facts().in_recovery);
        assert!(!backup.has("standby.signal") && !backup.has("backup_label.old"));
        backup.verify();
        // The copy carries the standby's primary_conninfo: the recovery settings have to disarm it.
        let restored = backup.restore(&standby);
        assert_eq!(restored.psql("postgres", FINGERPRINT).unwrap(), server.psql("postgres", FINGERPRINT).unwrap());
    }
}

#[tokio::test]
async fn files_of_the_running_server_are_left_out_and_what_the_server_left_out_is_reported() {
    for major in majors_under_test() {
        let socket = tempfile::tempdir().unwrap();
        let server = filled(major);
        let data = server.data_dir();
        let left_behind =
            ["standby.signal.old", "recovery.signal", "standby.signal", "backup_label.old", "core.123", "lost+found"];
        for name in &left_behind[1..5] {
            std::fs::File::create(data.join(name)).unwrap();
        }
        std::fs::create_dir(data.join(left_behind[5])).unwrap();
        std::fs::File::create(data.join("lost+found/1")).unwrap();
        std::fs::File::create(data.join(left_behind[0])).unwrap();
        lifeboat_testkit::give_to_postgres(data).unwrap();
        symlink(socket.path(), data.join("base/elsewhere")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(data.join(".s.PGSQL.1")).unwrap());

        let backup = collect(&server.connection_string(), &options()).await.unwrap();
        assert!(backup.has(left_behind[0]));
        for name in &left_behind[1..] {
            assert!(!backup.has(name), "{name}");
            let below = format!("{name}/");
            let is_it = |path: &str| path == *name || path.starts_with(&below);
            assert!(!backup.listed.iter().any(|file| is_it(text(&file.path))), "{name}");
        }
        assert!(!backup.has("lost+found/1"));
        let [finding] = backup.findings.as_slice() else { panic!("{:?}", backup.findings) };
        assert!(finding.contains("base/elsewhere"), "{finding}");
    }
}

#[tokio::test]
async fn pages_are_not_checked_in_a_cluster_without_checksums() {
    for major in majors_under_test() {
        let server = PgServer::builder(major).checksums(Checksums::Off).start().unwrap();
        let backup = collect(&server.connection_string(), &options()).await.unwrap();
        assert_eq!(backup.start.page_checks, PageChecks::None);
        backup.verify();
    }
}

/// Flips a bit in the middle of a table while the server is down; returns the table's file.
fn damage(server: &mut PgServer) -> String {
    let path = server.psql("postgres", "select pg_relation_filepath('inside')").unwrap();
    server.stop(Stop::Fast).unwrap();
    let file = server.data_dir().join(&path);
    let mut content = std::fs::read(&file).unwrap();
    content[5 * 8192 + 4000] ^= 1;
    std::io::Write::write_all(&mut std::fs::File::create(&file).unwrap(), &content).unwrap();
    server.start().unwrap();
    path
}

#[tokio::test]
async fn a_damaged_page_is_reported_and_the_backup_goes_on() {
    for major in majors_under_test() {
        let mut server = filled(major);
        let file = damage(&mut server);
        let mut backup = collect(&server.connection_string(), &options()).await.unwrap();
        let [(path, fault)] = backup.faults.as_slice() else { panic!("{major}: {:?}", backup.faults) };
        assert_eq!((text(path), fault.block, fault.offset), (file.as_str(), 5, 5 * 8192));
        assert!(backup.end.damaged.is_empty(), "the server was not asked to look");
        let again = backup.source.reread_page(path, fault.offset).await.unwrap().unwrap();
        let content = std::fs::read(backup.data_dir().join(&file)).unwrap();
        assert_eq!(again[..], content[5 * 8192..6 * 8192], "unchanged: damaged indeed");
        backup.verify();

        // A role that may only replicate cannot look twice: the server has to judge.
        server.psql("postgres", "create role copier login replication").unwrap();
        let modest = server.connection_string().replace("user=postgres", "user=copier");
        let mut backup = collect(&modest, &options()).await.unwrap();
        assert_eq!(backup.start.page_checks, PageChecks::Server);
        let [damaged] = backup.end.damaged.as_slice() else { panic!("{major}: {:?}", backup.end.damaged) };
        assert!(damaged.contains(&file) && damaged.contains("block 5"), "{damaged}");
        let [(path, fault)] = backup.faults.clone().try_into().unwrap();
        assert_eq!(backup.source.reread_page(&path, fault.offset).await.unwrap(), None);
        backup.verify();
    }
}

#[tokio::test]
async fn a_page_can_be_read_again_after_the_session_for_that_was_lost() {
    for major in majors_under_test() {
        let server = filled(major);
        let mut backup = collect(&server.connection_string(), &options()).await.unwrap();
        let path = server.psql("postgres", "select pg_relation_filepath('outside')").unwrap();
        let path = lifeboat_vocabulary::RelativePath::new(path.as_bytes()).unwrap();
        let end_others = "select count(pg_terminate_backend(pid)) from pg_stat_activity
            where backend_type = 'client backend' and pid <> pg_backend_pid()";
        assert_eq!(server.psql("postgres", end_others).unwrap(), "1");
        assert_eq!(backup.source.reread_page(&path, 0).await.unwrap().unwrap().len(), 8192);
        let past_the_end = backup.source.reread_page(&path, 1 << 29).await.unwrap();
        assert_eq!(past_the_end.map(|bytes| bytes.len()), None);
        server.psql("postgres", "drop table outside; checkpoint").unwrap();
        assert_eq!(backup.source.reread_page(&path, 0).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_tablespace_inside_of_the_data_directory_is_backed_up_or_refused() {
    for major in majors_under_test() {
        let server = PgServer::builder(major).setting("allow_in_place_tablespaces", "on").start().unwrap();
        server.psql("postgres", "create tablespace inner_one location ''").unwrap();
        server.psql("postgres", "create table t tablespace inner_one as select 7 as i").unwrap();
        let backup = collect(&server.connection_string(), &options()).await;
        if major < 16 {
            let Err(SourceError::TablespaceInside { names, .. }) = backup else { panic!("{major}: it is lost") };
            assert_eq!(names, "inner_one");
            continue;
        }
        let backup = backup.unwrap();
        assert_eq!(backup.start.tablespaces, []);
        backup.verify();
        assert_eq!(backup.restore(&server).psql("postgres", "select i from t").unwrap(), "7");
    }
}

#[tokio::test]
async fn dropping_the_source_ends_the_backup_on_the_server() {
    for major in majors_under_test() {
        let server = filled(major);
        let mut source: ReplicationSource =
            begin(&server.connection_string(), &BaseBackupOptions { max_rate: Some(100), ..options() }).await.unwrap();
        let senders = "select count(*) from pg_stat_activity where backend_type = 'walsender'";
        let slots = "select count(*) from pg_replication_slots where temporary";
        source.next().await.unwrap();
        assert_eq!(server.psql("postgres", senders).unwrap(), "2");
        assert_eq!(server.psql("postgres", slots).unwrap(), "1");
        drop(source);
        let begun = tokio::time::Instant::now();
        while (server.psql("postgres", senders).unwrap(), server.psql("postgres", slots).unwrap())
            != ("0".to_owned(), "0".to_owned())
        {
            assert!(begun.elapsed().as_secs() < 30, "the server goes on by itself");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}
