//! Copies of real servers: what their files say, a manifest of our own, and servers started over them.

#![cfg(test)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lifeboat_postgres::{
    BackupFrom, BackupLabel, ClusterState, ConnectionSettings, ControlFile, Listen, LocalServer, LocalServerError,
    LocalServerSettings, ManifestFile, ManifestLines, ManifestVersion, ManifestWriter, Purpose, RECOVERY_SIGNAL,
    Session, StopMode, WalLevel, WalRange, minimal_pg_hba_conf, minimal_pg_ident_conf, minimal_postgresql_conf,
    recovered_copy_settings,
};
use lifeboat_testkit::{
    Checksums, PgServer, Stop, TempDir, give_to_postgres, majors_under_test, pg_verifybackup, run_as_postgres,
    scratch_dir,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A base backup of a server that holds a table with one row.
struct BaseCopy {
    server: PgServer,
    dir: TempDir,
    data: PathBuf,
}

fn copy_of_a_server(major: u32) -> BaseCopy {
    let server = PgServer::builder(major).start().unwrap();
    server.psql("postgres", "create table t as select 42 as answer").unwrap();
    copy_of(server)
}

fn copy_of(server: PgServer) -> BaseCopy {
    let dir = scratch_dir("lifeboat-copy-").unwrap();
    let data = dir.path().join("data");
    let mut backup = server.client("pg_basebackup");
    backup.arg("-D").arg(&data).args(["-X", "stream", "-c", "fast", "--no-sync", "-l", "a label: with a colon"]);
    run_as_postgres(&mut backup).unwrap();
    BaseCopy { server, dir, data }
}

impl BaseCopy {
    /// What a restore adds: settings and signal.
    fn make_recoverable(&self) {
        let version = self.server.major() * 10_000;
        append(&self.data.join("postgresql.auto.conf"), &recovered_copy_settings(version));
        fs::File::create(self.data.join(RECOVERY_SIGNAL)).unwrap();
        give_to_postgres(&self.data).unwrap();
    }

    fn settings(&self, listen: Listen) -> LocalServerSettings {
        LocalServerSettings {
            bin_dir: self.server.bin_dir().to_owned(),
            data_dir: self.data.clone(),
            extra: Vec::new(),
            run_directory: self.dir.path().join("run"),
            port: free_port(),
            timeout: PATIENCE,
            listen,
            user: "postgres".to_owned(),
        }
    }
}

fn append(path: &Path, text: &str) {
    fs::File::options().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn overwrite(path: &Path, text: &str) {
    fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn ask(server: &LocalServer, sql: &str) -> String {
    let settings = ConnectionSettings::parse(&server.connection_string()).unwrap();
    let mut session = Session::connect(&settings, Purpose::Sql).await.unwrap();
    session.query_one_text(sql).await.unwrap().unwrap()
}

fn is_alive(pid: u32) -> bool {
    // A process that has ended and was not waited for has no command line any more.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// What `pg_controldata` prints, as (name, value).
fn controldata(server: &PgServer, data: &Path) -> Vec<(String, String)> {
    let text = run_as_postgres(Command::new(server.bin_dir().join("pg_controldata")).arg(data)).unwrap();
    text.lines().filter_map(|line| line.split_once(':')).map(|(n, v)| (n.to_owned(), v.trim().to_owned())).collect()
}

#[test]
fn the_control_file_says_what_pg_controldata_says() {
    for major in majors_under_test() {
        let mut server = PgServer::builder(major)
            .checksums(if major % 2 == 0 { Checksums::Off } else { Checksums::On })
            .wal_segsize_mb(4)
            .setting("wal_level", "logical")
            .setting("max_prepared_transactions", "7")
            .start()
            .unwrap();
        let path = server.data_dir().join("global/pg_control");
        assert_eq!(ControlFile::parse(&fs::read(&path).unwrap()).unwrap().state, ClusterState::InProduction);
        server.stop(Stop::Fast).unwrap();
        let control = ControlFile::parse(&fs::read(&path).unwrap()).unwrap();
        let said = controldata(&server, server.data_dir());
        let required = control.required;
        for (name, value) in [
            ("Database system identifier", control.system_identifier.to_string()),
            ("pg_control version number", control.pg_control_version.to_string()),
            ("Catalog version number", control.catalog_version.to_string()),
            ("Latest checkpoint location", control.checkpoint.to_string()),
            ("Latest checkpoint's REDO location", control.redo.lsn.to_string()),
            ("Latest checkpoint's TimeLineID", control.redo.timeline.to_string()),
            ("Minimum recovery ending location", "0/0".to_owned()),
            ("max_connections setting", required.max_connections.to_string()),
            ("max_worker_processes setting", required.max_worker_processes.to_string()),
            ("max_wal_senders setting", required.max_wal_senders.to_string()),
            ("max_prepared_xacts setting", required.max_prepared_transactions.to_string()),
            ("max_locks_per_xact setting", required.max_locks_per_transaction.to_string()),
            ("Database block size", control.block_size.to_string()),
            ("Blocks per segment of large relation", control.relation_segment_pages.to_string()),
            ("Bytes per WAL segment", control.wal_segment_size.as_bytes().to_string()),
            ("Data page checksum version", control.data_checksum_version.to_string()),
        ] {
            assert!(said.contains(&(name.to_owned(), value.clone())), "{major}: {name} is not {value}: {said:?}");
        }
        assert_eq!((control.state, control.wal_level), (ClusterState::ShutDown, WalLevel::Logical));
        assert_eq!((control.min_recovery_point, required.max_prepared_transactions), (None, 7));
    }
}

/// The files of a manifest, in its order.
fn files_of(manifest: &[u8]) -> Vec<ManifestFile> {
    let (mut lines, mut files) = (ManifestLines::default(), Vec::new());
    lines.feed(manifest, |file| files.push(file)).unwrap();
    lines.finish().unwrap();
    files
}

#[test]
fn pg_verifybackup_accepts_a_manifest_of_ours_and_finds_what_was_changed_since() {
    for major in majors_under_test() {
        let copy = copy_of_a_server(major);
        let control = ControlFile::parse(&fs::read(copy.data.join("global/pg_control")).unwrap()).unwrap();
        let manifest = copy.data.join("backup_manifest");
        let theirs = fs::read(&manifest).unwrap();
        let files = files_of(&theirs);
        assert!(files.len() > 900);
        let version = ManifestVersion::for_server(major * 10_000, control.system_identifier);
        let mut writer = ManifestWriter::new(Vec::new(), version).unwrap();
        for file in &files {
            // The server's own times are lost in the lines; those of the copied files are as good.
            let modified = fs::metadata(copy.data.join(file.path.to_string())).unwrap().mtime();
            writer.file(&file.path, file.size, modified, file.crc32c.unwrap()).unwrap();
        }
        let json: serde_json::Value = serde_json::from_slice(&theirs).unwrap();
        let lsn = |name: &str| json["WAL-Ranges"][0][name].as_str().unwrap().parse().unwrap();
        let range = WalRange { timeline: control.redo.timeline, start: lsn("Start-LSN"), end: lsn("End-LSN") };
        let ours = String::from_utf8(writer.finish(&[range]).unwrap()).unwrap();
        let without_times = |text: &str| {
            let lines = text.lines().filter(|line| !line.starts_with("\"Manifest-Checksum\""));
            lines.map(|line| line.split("\"Last-Modified\": ").map(|p| p.get(25..).unwrap_or(p)).collect()).collect()
        };
        let (mine, servers): (Vec<String>, Vec<String>) =
            (without_times(&ours), without_times(&String::from_utf8(theirs).unwrap()));
        assert_eq!(mine, servers, "{major}");
        overwrite(&manifest, &ours);
        pg_verifybackup(&copy.data).unwrap();
        // The proof that it was our manifest that was read.
        append(&copy.data.join("pg_ident.conf"), "x");
        let error = pg_verifybackup(&copy.data).unwrap_err().to_string();
        assert!(error.contains("pg_ident.conf"), "{error}");
    }
}

#[test]
fn the_label_of_a_real_backup_is_understood() {
    for major in majors_under_test() {
        let copy = copy_of_a_server(major);
        let label = BackupLabel::parse(&fs::read(copy.data.join("backup_label")).unwrap()).unwrap();
        let control = ControlFile::parse(&fs::read(copy.data.join("global/pg_control")).unwrap()).unwrap();
        assert_eq!((label.start, label.checkpoint), (control.redo.lsn, control.checkpoint));
        assert_eq!((label.timeline, label.from), (control.redo.timeline, BackupFrom::Primary));
        assert_eq!(label.label, "a label: with a colon");
        assert!(label.start_time.ends_with(" UTC"), "{label:?}");
    }
}

#[tokio::test]
async fn a_server_that_cannot_start_says_so_with_the_end_of_its_log() {
    let copy = copy_of_a_server(majors_under_test()[0]);
    copy.make_recoverable();
    append(&copy.data.join("postgresql.conf"), "no_such_setting = 1\n");
    let error = LocalServer::start(copy.settings(Listen::SocketOnly)).await.unwrap_err();
    match &error {
        LocalServerError::Ended { log_tail, .. } => assert!(log_tail.contains("no_such_setting"), "{log_tail}"),
        other => panic!("{other:?}"),
    }
    let mut settings = copy.settings(Listen::SocketOnly);
    settings.data_dir = copy.dir.path().join("nothing");
    assert!(matches!(LocalServer::start(settings).await, Err(LocalServerError::System { .. })));
}

#[tokio::test]
async fn a_server_that_does_not_get_through_recovery_is_ended_when_the_time_is_over() {
    let copy = copy_of_a_server(majors_under_test()[0]);
    copy.make_recoverable();
    let mut settings = copy.settings(Listen::SocketOnly);
    settings.timeout = Duration::from_secs(3);
    // A command that is never done.
    settings.extra = vec![("restore_command".to_owned(), "sleep 60; false".to_owned())];
    let mut server = LocalServer::launch(settings).unwrap();
    let pid = server.pid();
    let error = server.wait_until_open().await.unwrap_err();
    assert!(matches!(&error, LocalServerError::NotOpen { log_tail, .. } if log_tail.contains("archive recovery")));
    assert!(is_alive(pid));
    drop(server);
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn as_root_a_directory_of_roots_is_refused_and_a_server_is_never_root() {
    let copy = copy_of_a_server(majors_under_test()[0]);
    copy.make_recoverable();
    let owner = fs::metadata(&copy.data).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(&copy.data, Some(0), Some(0)).unwrap();
        let error = LocalServer::start(copy.settings(Listen::SocketOnly)).await.unwrap_err();
        assert!(error.to_string().contains("chown -R postgres"), "{error}");
        chown(&copy.data, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let server = LocalServer::start(copy.settings(Listen::SocketOnly)).await.unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!(line("Uid:"), [owner.uid().to_string().as_str(); 4].join("\t"));
    if rustix::process::geteuid().is_root() {
        assert_eq!(line("Groups:"), "");
    }
}

#[tokio::test]
async fn a_copy_recovers_opens_on_a_new_timeline_and_reaches_nothing_of_the_original() {
    for major in majors_under_test() {
        let copy = copy_of_a_server(major);
        copy.make_recoverable();
        // What a real cluster's configuration may hold.
        let theirs = copy.server.data_dir().display();
        let hostile = format!(
            "data_directory = '{theirs}'\nhba_file = '{theirs}/pg_hba.conf'\nexternal_pid_file = '{theirs}/copy.pid'\n\
             archive_mode = on\narchive_command = 'touch {theirs}/archived'\nsynchronous_standby_names = 'nobody'\n\
             shared_preload_libraries = 'no_such_library'\nssl = on\nlogging_collector = on\nport = {}\n\
             listen_addresses = '*'\n",
            copy.server.port()
        );
        append(&copy.data.join("postgresql.conf"), &hostile);
        // The file of a throw-away copy is not asked.
        overwrite(&copy.data.join("pg_hba.conf"), "local all all reject\n");
        let settings = copy.settings(Listen::SocketOnly);
        let (port, run) = (settings.port, settings.run_directory.clone());
        let server = LocalServer::start(settings).await.unwrap();
        assert_eq!(ask(&server, "select answer from public.t").await, "42");
        assert_eq!(ask(&server, "show data_directory").await, copy.data.to_str().unwrap());
        let written =
            "create table public.w as select timeline_id from pg_control_checkpoint(); select pg_switch_wal()::text";
        assert!(ask_last(&server, written).await.contains('/'));
        assert_eq!(ask(&server, "select timeline_id from pg_control_checkpoint()").await, "2");
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
        assert!(server.log_path().starts_with(fs::canonicalize(&run).unwrap()));
        let pid = server.pid();
        server.stop(StopMode::Fast).await.unwrap();
        assert!(!is_alive(pid));
        for name in ["copy.pid", "archived"] {
            assert!(!copy.server.data_dir().join(name).exists(), "{name}");
        }
        assert!(!copy.data.join(RECOVERY_SIGNAL).exists());
        let control = ControlFile::parse(&fs::read(copy.data.join("global/pg_control")).unwrap()).unwrap();
        assert_eq!((control.state, control.redo.timeline.get()), (ClusterState::ShutDown, 2));
    }
}

#[tokio::test]
async fn what_a_role_or_a_database_sets_for_sessions_keeps_no_copy_from_opening() {
    for major in majors_under_test() {
        let server = PgServer::builder(major).start().unwrap();
        let library = "'$libdir/plugins/no_such_library'";
        let set = format!(
            "ALTER ROLE postgres SET session_preload_libraries = {library}; \
             ALTER ROLE postgres SET local_preload_libraries = {library}"
        );
        server.psql("postgres", &set).unwrap();
        // Nobody gets in any more without saying otherwise.
        assert!(server.psql("postgres", "SELECT 1").is_err());
        let copy = copy_of(server);
        copy.make_recoverable();
        let local = LocalServer::start(copy.settings(Listen::SocketOnly)).await.unwrap();
        assert_eq!(local.ask("SELECT pg_catalog.current_setting('role')").await.unwrap().as_deref(), Some("none"));
    }
}

async fn ask_last(server: &LocalServer, sql: &str) -> String {
    let settings = ConnectionSettings::parse(&server.connection_string()).unwrap();
    let mut session = Session::connect(&settings, Purpose::Sql).await.unwrap();
    let answers = session.query(sql).await.unwrap();
    answers.last().unwrap().rows[0][0].clone().unwrap()
}

#[tokio::test]
async fn a_copy_without_its_configuration_runs_with_the_least_one_and_stays_if_it_is_to() {
    let copy = copy_of_a_server(majors_under_test()[0]);
    let control = ControlFile::parse(&fs::read(copy.data.join("global/pg_control")).unwrap()).unwrap();
    let odd = "it's \\n a\nvalue # with all\tof it";
    let mut settings = control.required.as_settings();
    settings.push(("lifeboat.odd".to_owned(), odd.to_owned()));
    overwrite(&copy.data.join("postgresql.conf"), &minimal_postgresql_conf(&settings));
    overwrite(&copy.data.join("pg_hba.conf"), minimal_pg_hba_conf());
    overwrite(&copy.data.join("pg_ident.conf"), minimal_pg_ident_conf());
    copy.make_recoverable();
    let first = LocalServer::start(copy.settings(Listen::SocketOnly)).await.unwrap();
    assert_eq!(ask(&first, "show lifeboat.odd").await, odd);
    assert_eq!(ask(&first, "show max_connections").await, control.required.max_connections.to_string());
    first.stop(StopMode::Immediate).await.unwrap();
    // As another account than the server's nobody gets in by way of `peer`: the server's own word has to do.
    let stays = LocalServer::start(copy.settings(Listen::Loopback)).await.unwrap();
    let pid = stays.leave_running();
    assert!(is_alive(pid));
    let id = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    for _ in 0..600 {
        if !is_alive(pid) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("server {pid} does not end");
}
