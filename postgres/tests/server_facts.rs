//! What real servers say of themselves, to those who may know and to others.

#![cfg(test)]
#![allow(clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

use std::io::Write;

use lifeboat_postgres::{ConnectionSettings, Purpose, ServerFacts, Session};
use lifeboat_testkit::{Checksums, PgServer, majors_under_test, scratch_dir};

async fn ask(conninfo: &str) -> ServerFacts {
    let mut session = Session::connect(&ConnectionSettings::parse(conninfo).unwrap(), Purpose::Sql).await.unwrap();
    ServerFacts::ask(&mut session).await.unwrap()
}

#[tokio::test]
async fn a_role_with_few_rights_reads_few_facts_and_can_still_back_up() {
    for major in majors_under_test() {
        let server = PgServer::builder(major).start().unwrap();
        server.psql("postgres", "create role copier login replication; create role guest login").unwrap();
        for (role, may_replicate) in [("copier", true), ("guest", false)] {
            let conninfo = server.connection_string().replace("user=postgres", &format!("user={role}"));
            let facts = ask(&conninfo).await;
            assert_eq!((facts.may_replicate, facts.may_reread), (may_replicate, false), "{major} {role}");
            assert_eq!(facts.setting("data_directory"), None);
            assert_eq!(facts.setting("data_checksums"), Some("on"));
            assert_eq!((facts.config.files.len(), facts.config.values.len()), (0, 0));
        }
        server
            .psql("postgres", "grant execute on function pg_read_binary_file(text,bigint,bigint,boolean) to copier")
            .unwrap();
        let facts = ask(&server.connection_string().replace("user=postgres", "user=copier")).await;
        assert!(facts.may_reread, "{major}");
    }
}

#[tokio::test]
async fn the_facts_hold_all_that_a_restore_needs_and_no_file_content_gets_into_logs() {
    for major in majors_under_test() {
        let outside = scratch_dir("lifeboat-etc-").unwrap();
        let hba = outside.path().join("hba's.conf");
        writeln!(std::fs::File::create(&hba).unwrap(), "local all all trust # s3cret").unwrap();
        let ident = outside.path().join("ident.conf");
        std::fs::File::create(&ident).unwrap().write_all(&vec![b'#'; 2 << 20]).unwrap();
        lifeboat_testkit::give_to_postgres(outside.path()).unwrap();
        let more = outside.path().join("conf.d");
        std::fs::create_dir(&more).unwrap();
        std::fs::write(more.join("a.conf"), "work_mem = '17MB'\n").unwrap();
        std::fs::write(more.join("b.txt"), "no configuration").unwrap();
        lifeboat_testkit::give_to_postgres(outside.path()).unwrap();
        let server = PgServer::builder(major)
            .setting("include_dir", more.to_str().unwrap())
            .checksums(Checksums::Off)
            .wal_segsize_mb(4)
            .setting("max_connections", "33")
            .setting("hba_file", hba.to_str().unwrap())
            .setting("ident_file", ident.to_str().unwrap())
            .start()
            .unwrap();
        server.psql("postgres", "create database \"it's mine\"").unwrap();
        let facts = ask(&server.connection_string()).await;
        assert_eq!((facts.major(), facts.in_recovery, facts.may_replicate), (major, false, true));
        let identifier = server.psql("postgres", "select system_identifier from pg_control_system()").unwrap();
        assert_eq!(facts.system_identifier.to_string(), identifier);
        for (name, value) in [("max_connections", "33"), ("wal_segment_size", "4MB"), ("data_checksums", "off")] {
            assert_eq!(facts.setting(name), Some(value), "{major} {name}");
        }
        assert_eq!(facts.setting("data_directory"), server.data_dir().to_str());
        assert!(facts.databases.iter().any(|(oid, name)| *oid >= 16384 && name == "it's mine"), "{facts:?}");
        assert!(facts.size_bytes.unwrap() > 10 << 20);
        assert_eq!(facts.bootstrap_role, "postgres");
        let config = &facts.config;
        let kept = |path: &std::path::Path| config.file(path.to_str().unwrap()).map(|file| file.content.as_slice());
        assert_eq!(kept(&hba), Some(b"local all all trust # s3cret\n".as_slice()));
        assert_eq!(kept(&more.join("a.conf")), Some(b"work_mem = '17MB'\n".as_slice()), "{config:?}");
        assert!(kept(&server.data_dir().join("postgresql.conf")).is_some(), "it may be a link");
        assert!(config.directories.contains(more.to_str().unwrap()) && kept(&more.join("b.txt")).is_none());
        assert!(config.not_kept[ident.to_str().unwrap()].contains("longer than"), "{config:?}");
        assert_eq!(config.values.len(), 0, "every file that sets something is kept");
        assert!(!format!("{facts:?}").contains("s3cret"));
        let json = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<ServerFacts>(&json).unwrap(), facts);
    }
}

#[tokio::test]
async fn of_files_that_the_role_may_not_read_the_values_are_kept() {
    let major = majors_under_test()[0];
    let outside = scratch_dir("lifeboat-etc-").unwrap();
    std::fs::write(outside.path().join("a.conf"), "work_mem = '17MB'\n").unwrap();
    lifeboat_testkit::give_to_postgres(outside.path()).unwrap();
    let directory = outside.path().to_str().unwrap();
    let server = PgServer::builder(major).setting("include_dir", directory).start().unwrap();
    server.psql("postgres", "create role copier login replication; grant pg_read_all_settings to copier").unwrap();
    let config = ask(&server.connection_string().replace("user=postgres", "user=copier")).await.config;
    let path = format!("{directory}/a.conf");
    let value = config.values.iter().find(|value| value.path == path).unwrap();
    assert_eq!((value.name.as_str(), value.value.as_str()), ("work_mem", "17408"));
    assert!(config.not_kept.contains_key(&path) && config.files.is_empty(), "{config:?}");
    // As text, where the role may read only that.
    let grant = "grant execute on function pg_read_file(text,bigint,bigint,boolean) to copier; \
        grant pg_read_server_files to copier";
    server.psql("postgres", grant).unwrap();
    let config = ask(&server.connection_string().replace("user=postgres", "user=copier")).await.config;
    assert_eq!(config.file(&path).map(|file| file.content.as_slice()), Some(b"work_mem = '17MB'\n".as_slice()));
}
