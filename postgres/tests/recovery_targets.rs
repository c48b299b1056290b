//! Every kind of recovery target, booted: what each leaves in a table, on versions whose recovery differs.

#![cfg(test)]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use lifeboat_postgres::{
    ClusterState, ConnectionSettings, ControlFile, CopyRole, RecoverySettings, RecoveryTarget, RecoveryTimeline,
    ScanStart, TargetAction, TargetBound, WalConnection, WalConnectionOptions, WalFact, WalFactKind, WalScanner,
};
use lifeboat_testkit::{PgServer, RestoredServer, Stop, TempDir, give_to_postgres, run_as_postgres, scratch_dir};
use lifeboat_vocabulary::{Lsn, SegmentName, SegmentSize, TimelineId, UtcTime};

const MAJORS: [u32; 4] = [13, 15, 17, 18];
const PATIENCE: Duration = Duration::from_secs(60);
const INCARNATION: &str = "0123456789abcdef";

/// A server, its archive, a base backup from before all rows, and the commits of the rows 1 to 6.
struct Original {
    server: PgServer,
    dir: TempDir,
    commits: Vec<(Lsn, Lsn, UtcTime, u32)>,
}

fn archive(dir: &TempDir) -> PathBuf {
    dir.path().join("archive")
}

fn original(major: u32) -> Original {
    let dir = scratch_dir("lifeboat-targets-").unwrap();
    fs::create_dir(archive(&dir)).unwrap();
    give_to_postgres(&archive(&dir)).unwrap();
    let command = format!("cp %p {}/%f", archive(&dir).display());
    let builder = PgServer::builder(major).setting("archive_mode", "on").setting("archive_command", &command);
    let server = builder.setting("max_prepared_transactions", "5").start().unwrap();
    server.psql("postgres", "create table t (i int)").unwrap();
    let mut backup = server.client("pg_basebackup");
    backup.arg("-D").arg(dir.path().join("base")).args(["-X", "none", "-c", "fast", "--no-sync"]);
    run_as_postgres(&mut backup).unwrap();
    for i in 1..=6 {
        let insert = match i {
            // A prepared one: its number is in the record, not in the record's header.
            5 => "begin; insert into t values (5); prepare transaction 'p'; commit prepared 'p'".to_owned(),
            i => format!("insert into t values ({i})"),
        };
        server.psql("postgres", &insert).unwrap();
        if i == 3 {
            server.psql("postgres", "select pg_create_restore_point('it''s \\ here')").unwrap();
        }
    }
    let last = server.psql("postgres", "select pg_walfile_name(pg_switch_wal())").unwrap();
    let begun = Instant::now();
    while !archive(&dir).join(&last).exists() {
        assert!(begun.elapsed() < PATIENCE, "{}", server.log_text());
        std::thread::sleep(Duration::from_millis(20));
    }
    let facts = archived(&server, &dir);
    let xids = server.psql("postgres", "select xmin from t order by i").unwrap();
    let commit = |xid: u32| {
        let told = facts.iter().find_map(|fact| match fact.kind {
            WalFactKind::Commit { time, xid: found } if found == xid => Some((fact.start, fact.end, time, xid)),
            _ => None,
        });
        told.unwrap_or_else(|| panic!("{major}: no commit of {xid}: {facts:?}"))
    };
    let commits = xids.lines().map(|xid| commit(xid.parse().unwrap())).collect();
    Original { server, dir, commits }
}

/// The facts in the archived WAL.
fn archived(server: &PgServer, dir: &TempDir) -> Vec<WalFact> {
    let control = ControlFile::parse(&fs::read(server.data_dir().join("global/pg_control")).unwrap()).unwrap();
    let files = fs::read_dir(archive(dir)).unwrap().map(|entry| entry.unwrap().file_name());
    let names = files.filter_map(|name| SegmentName::parse(name.to_str()?, SegmentSize::DEFAULT).ok());
    let mut names: Vec<SegmentName> = names.collect();
    names.sort_by_key(|name| name.number);
    let mut scanner = WalScanner::new(ScanStart {
        timeline: TimelineId::new(1).unwrap(),
        system_identifier: control.system_identifier,
        segment_size: SegmentSize::DEFAULT,
        at: names[0].start().unwrap(),
    });
    let mut facts = Vec::new();
    for name in names {
        let bytes = fs::read(archive(dir).join(name.to_string())).unwrap();
        scanner.feed(&bytes, &mut |fact| facts.push(fact.clone())).unwrap();
    }
    facts
}

impl Original {
    fn settings(&self) -> RecoverySettings {
        RecoverySettings {
            restore_command: format!("cp {}/%f %p", archive(&self.dir).display()),
            incarnation: Some(INCARNATION.to_owned()),
            ..RecoverySettings::carried(self.server.major() * 10_000)
        }
    }

    /// A copy of the backup that has been told its recovery.
    fn copy(&self, name: &str, settings: &RecoverySettings) -> PathBuf {
        let data = self.dir.path().join(name);
        let mut copy = Command::new("cp");
        run_as_postgres(copy.arg("-a").arg(self.dir.path().join("base")).arg(&data)).unwrap();
        let auto = fs::OpenOptions::new().append(true).open(data.join("postgresql.auto.conf"));
        let mut auto = auto.unwrap();
        // What an earlier recovery may have left behind.
        auto.write_all(b"recovery_target_name = 'old'\nrecovery_target_inclusive = off\n").unwrap();
        auto.write_all(settings.text().unwrap().as_bytes()).unwrap();
        fs::File::create(data.join(settings.signal_file())).unwrap();
        data
    }
}

fn rows(server: &PgServer) -> String {
    server.psql("postgres", "select coalesce(string_agg(i::text, '' order by i), '') from t").unwrap()
}

#[test]
fn each_kind_of_target_leaves_what_it_names() {
    use RecoveryTarget as T;
    use TargetBound::{Exclusive, Inclusive};
    for major in MAJORS {
        let original = original(major);
        let (start, end, time, xid) = original.commits[3];
        let prepared = original.commits[4].3;
        let latest = RecoveryTimeline::Latest;
        let number = RecoveryTimeline::Number(TimelineId::new(1).unwrap());
        for (case, (target, bound, timeline, expected)) in [
            (T::Latest, Inclusive, RecoveryTimeline::Current, "123456"),
            (T::Immediate, Inclusive, RecoveryTimeline::Current, ""),
            (T::Time(time), Inclusive, latest, "1234"),
            (T::Time(time), Exclusive, number, "123"),
            (T::Lsn(end), Exclusive, RecoveryTimeline::Current, "1234"),
            (T::Lsn(start), Exclusive, number, "123"),
            (T::Lsn(start), Inclusive, latest, "1234"),
            (T::Xid(xid), Inclusive, RecoveryTimeline::Current, "1234"),
            (T::Xid(xid), Exclusive, RecoveryTimeline::Current, "123"),
            (T::Xid(prepared), Inclusive, number, "12345"),
            (T::Name("it's \\ here".to_owned()), Inclusive, latest, "123"),
        ]
        .into_iter()
        .enumerate()
        {
            let settings = RecoverySettings { target: target.clone(), bound, timeline, ..original.settings() };
            let data = original.copy(&format!("copy{case}"), &settings);
            let server = RestoredServer::start(&data, major).unwrap_or_else(|error| panic!("{target:?}: {error:?}"));
            server.wait_until_promoted(PATIENCE).unwrap();
            assert_eq!(rows(&server), expected, "{major}: {target:?} {bound:?}");
            let on = server.psql("postgres", "select timeline_id from pg_control_checkpoint()").unwrap();
            server.psql("postgres", "insert into t values (7)").unwrap();
            assert!(["1", "2"].contains(&on.as_str()), "{on}");
            drop(server);
            fs::remove_dir_all(data).unwrap();
        }
    }
}

#[tokio::test]
async fn a_copy_may_wait_or_stop_at_its_target_and_says_which_one_it_is() {
    for major in MAJORS {
        let original = original(major);
        let target = RecoveryTarget::Lsn(original.commits[3].1);
        let bound = TargetBound::Exclusive;
        let settings = RecoverySettings { target, bound, action: TargetAction::Pause, ..original.settings() };
        let data = original.copy("paused", &settings);
        let server = RestoredServer::start(&data, major).unwrap();
        let paused = if major == 13 { "pg_is_wal_replay_paused()::text" } else { "pg_get_wal_replay_pause_state()" };
        let begun = Instant::now();
        let state = format!("select {paused}");
        while !["true", "paused"].contains(&server.psql("postgres", &state).unwrap().as_str()) {
            assert!(begun.elapsed() < PATIENCE, "{major}: {}", server.log_text());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(rows(&server), "1234", "{major}");
        let connection = ConnectionSettings::parse(&server.connection_string()).unwrap();
        let options = WalConnectionOptions { application_name: "test".to_owned(), sender_timeout: PATIENCE };
        let mut connection = WalConnection::connect(&connection, &options).await.unwrap();
        assert_eq!(connection.incarnation().await.unwrap().as_deref(), Some(INCARNATION), "{major}");
        drop((connection, server));

        let data = original.copy("stopped", &RecoverySettings { action: TargetAction::Shutdown, ..settings });
        let started = RestoredServer::start(&data, major);
        let begun = Instant::now();
        let state = || ControlFile::parse(&fs::read(data.join("global/pg_control")).unwrap()).map(|file| file.state);
        while state() != Ok(ClusterState::ShutDownInRecovery) {
            assert!(begun.elapsed() < PATIENCE, "{major}: {:?} {started:?}", state());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_standby_follows_the_archive_and_then_its_primary() {
    for major in MAJORS {
        let original = original(major);
        original.server.psql("postgres", "select pg_create_physical_replication_slot('for_it', true)").unwrap();
        let role = |primary_conninfo: Option<String>| {
            let slot = primary_conninfo.as_ref().map(|_| "for_it".to_owned());
            CopyRole::Standby { primary_conninfo, slot }
        };
        let alone = RecoverySettings {
            role: role(None),
            timeline: RecoveryTimeline::Latest,
            incarnation: None,
            ..original.settings()
        };
        let following = RecoverySettings { role: role(Some(original.server.tcp_connection_string())), ..alone.clone() };
        for (name, settings, expected) in [("alone", alone, "123456"), ("following", following, "1234568")] {
            let data = original.copy(name, &settings);
            // The test kit's servers over copies never follow anybody: this one is told by the file alone.
            let mut server = Standby::start(&original, &data, name);
            if name == "following" {
                original.server.psql("postgres", "insert into t values (8)").unwrap();
            }
            server.wait_for(expected);
            server.stop();
            assert!(data.join("standby.signal").exists());
        }
        let active = "select restart_lsn > '0/1' from pg_replication_slots where slot_name = 'for_it'";
        assert_eq!(original.server.psql("postgres", active).unwrap(), "t");
    }
}

/// A server over a copy, run by `pg_ctl`.
struct Standby<'a> {
    original: &'a Original,
    data: PathBuf,
    socket: PathBuf,
    running: bool,
}

impl<'a> Standby<'a> {
    fn start(original: &'a Original, data: &std::path::Path, name: &str) -> Self {
        let socket = original.dir.path().join(format!("s{}", name.len()));
        fs::create_dir(&socket).unwrap();
        give_to_postgres(&socket).unwrap();
        let standby = Self { original, data: data.to_owned(), socket, running: true };
        let options = format!("-k {} -c listen_addresses= -c port=5432", standby.socket.display());
        let mut start = standby.pg_ctl();
        start.args(["-w", "-t", "60", "-o", &options, "-l"]).arg(original.dir.path().join(format!("{name}.log")));
        run_as_postgres(start.arg("start")).unwrap();
        standby
    }

    fn pg_ctl(&self) -> Command {
        let mut command = Command::new(self.original.server.bin_dir().join("pg_ctl"));
        command.arg("-D").arg(&self.data);
        command
    }

    fn ask(&self, sql: &str) -> String {
        let mut psql = Command::new(self.original.server.bin_dir().join("psql"));
        psql.args(["-XAtq", "-p", "5432", "-U", "postgres", "-c", sql, "-h"]).arg(&self.socket).arg("postgres");
        run_as_postgres(&mut psql).unwrap().trim().to_owned()
    }

    fn wait_for(&self, expected: &str) {
        let begun = Instant::now();
        let rows = "select coalesce(string_agg(i::text, '' order by i), '') || pg_is_in_recovery() from t";
        while self.ask(rows) != format!("{expected}true") {
            assert!(begun.elapsed() < PATIENCE, "{}", self.ask(rows));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop(&mut self) {
        if std::mem::take(&mut self.running) {
            run_as_postgres(self.pg_ctl().args(["-m", "immediate", "-w", "stop"])).unwrap();
        }
    }
}

impl Drop for Standby<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn a_target_that_is_not_there_is_an_error_and_never_more_than_was_asked_for() {
    let mut original = original(15);
    let after = UtcTime::from_unix_micros(original.commits[5].2.as_unix_micros() + 3_600_000_000).unwrap();
    original.server.stop(Stop::Fast).unwrap();
    let settings = RecoverySettings { target: RecoveryTarget::Time(after), ..original.settings() };
    let data = original.copy("beyond", &settings);
    match RestoredServer::start(&data, 15) {
        Err(error) => assert!(format!("{error:?}").contains("before configured recovery target"), "{error:?}"),
        Ok(server) => {
            let error = server.wait_until_promoted(PATIENCE).unwrap_err();
            assert!(format!("{error:?} {}", server.log_text()).contains("before configured recovery target"));
        }
    }
}
