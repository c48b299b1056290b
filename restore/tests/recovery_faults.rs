//! Recovery while the store fails, the archive is damaged or the prefetcher dies: a copy never opens without the rest of
//! its WAL.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lifeboat_s3_testd::{CorruptGet, Failure, FaultPlan, KeyPattern, TruncateGet, Truncation};
use lifeboat_testkit::{PgServer, RestoredServer, as_postgres, bin_dir, majors_under_test};
use support::{BUCKET, Said, Scene, Shipper, stop_server};

const PATIENCE: Duration = Duration::from_secs(90);

/// A server with a ledger of `count` commits behind its backup, shipped in segments of 1 MiB; each commit fills one.
fn shipped(count: u32, regions: usize) -> (Scene, PgServer, Shipper) {
    let builder = PgServer::builder(majors_under_test()[0]).wal_segsize_mb(1).setting("wal_keep_size", "1GB");
    let server = builder.setting("max_wal_size", "1GB").setting("fsync", "off").start().unwrap();
    server.psql("postgres", "CREATE TABLE ledger (i bigint); CREATE TABLE filler (t text)").unwrap();
    let scene = Scene::new(regions);
    scene.init_and_back_up(&server);
    let mut shipper = Shipper::new(&scene, &server);
    scene.back_up();
    for number in 1..=count {
        fill(&server, number);
    }
    shipper.ship(&server);
    (scene, server, shipper)
}

/// One commit, and about 2 MiB of WAL.
fn fill(server: &PgServer, number: u32) {
    let fill = "INSERT INTO filler SELECT repeat(md5(i::text), 30) FROM generate_series(1, 1500) i";
    server.psql("postgres", &format!("BEGIN; {fill}; INSERT INTO ledger VALUES ({number}); COMMIT")).unwrap();
}

/// A restore with `--start` that runs.
struct Running {
    child: Option<Child>,
    data: std::path::PathBuf,
}

impl Running {
    fn start(scene: &Scene, name: &str, more: &[&str]) -> Self {
        let data = scene.site.target(name);
        let mut arguments = vec!["--json", "restore", "--start", "--to", data.to_str().unwrap()];
        arguments.extend(more);
        let mut command = scene.site.restore_command(&arguments);
        command.env("LIFEBOAT_PG_BIN", bin_dir(majors_under_test()[0]).unwrap());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child: Some(child), data }
    }

    fn log(&self) -> String {
        let mut run = self.data.as_os_str().to_owned();
        run.push("-run/postgresql.log");
        std::fs::read_to_string(Path::new(&run)).unwrap_or_default()
    }

    fn said(&mut self) -> Said {
        Said::from(self.child.take().unwrap().wait_with_output().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
        stop_server(&self.data);
    }
}

#[track_caller]
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn figures(said: &Said) -> (String, String) {
    let connection = said.json()["connection"].as_str().unwrap().to_owned();
    let program = bin_dir(majors_under_test()[0]).unwrap().join("psql");
    let ask = |sql: &str| {
        let asked = Command::new(&program).args(["-XAtq", "-c", sql, &connection]).output().unwrap();
        Said::from(asked).expect(0).out.trim().to_owned()
    };
    (ask("SELECT count(*) FROM ledger"), ask("SELECT pg_is_in_recovery()"))
}

/// Takes the WAL away from the one region as soon as the files are restored.
fn fail_wal(scene: &Scene, running: &Running, change: impl FnOnce(&mut FaultPlan)) {
    wait_for("the server's log", || running.log().contains("starting"));
    scene.regions[0].faults().change(change);
}

#[test]
fn a_store_that_fails_holds_recovery_up_and_never_ends_it() {
    let (scene, _server, _) = shipped(25, 1);
    type Fault = fn(&mut FaultPlan);
    let faults: [(&str, Fault); 4] = [
        ("500", |plan| plan.fail_all = Some(Failure::status(500))),
        ("503", |plan| plan.fail_all = Some(Failure::status(503))),
        ("silence", |plan| plan.delay.fixed = Duration::from_secs(20)),
        ("no connection", |plan| plan.dead = true),
    ];
    for (name, fault) in faults {
        let mut running = Running::start(&scene, &name.replace(' ', "-"), &[]);
        fail_wal(&scene, &running, fault);
        std::thread::sleep(Duration::from_secs(3));
        assert!(!running.log().contains("redo done"), "{name}: {}", running.log());
        scene.regions[0].faults().clear();
        let said = running.said().expect(0);
        assert_eq!(figures(&said), ("25".to_owned(), "f".to_owned()), "{name}");
    }
}

#[test]
fn when_patience_ends_recovery_stops_and_a_later_start_goes_on() {
    let (scene, _server, _) = shipped(25, 1);
    let mut running = Running::start(&scene, "given-up", &["--wal-patience", "4"]);
    fail_wal(&scene, &running, |plan| plan.fail_all = Some(Failure::status(500)));
    let data = running.data.clone();
    let said = running.said().expect(12);
    assert!(said.err.contains("recovery was stopped; WAL: not fetched in "), "{}", said.err);
    let log = running.log();
    assert!(log.contains("FATAL") && log.contains("child process exited with exit code 200"), "{log}");
    assert!(!log.contains("redo done") && !data.join("postmaster.pid").exists(), "{log}");
    scene.regions[0].faults().clear();
    // By hand: the client starts the prefetcher by itself.
    let copy = RestoredServer::start(&data, majors_under_test()[0]).unwrap();
    copy.wait_until_promoted(PATIENCE).unwrap();
    assert_eq!(copy.psql("postgres", "SELECT count(*) FROM ledger").unwrap(), "25");
    wait_for("the end of the prefetcher, which nobody needs any more", || prefetcher_of(&data).is_none());
}

/// A server that ends its recovery early, as one does that meets a record which it takes for the end of the WAL: it opens,
/// and says nothing of it.
#[test]
fn a_recovery_that_ends_early_is_no_success() {
    let (scene, _server, _) = shipped(3, 1);
    let real = bin_dir(majors_under_test()[0]).unwrap();
    let programs = scene.site.target("programs");
    std::fs::create_dir(&programs).unwrap();
    for name in ["initdb", "pg_ctl", "psql"] {
        std::os::unix::fs::symlink(real.join(name), programs.join(name)).unwrap();
    }
    let postgres = programs.join("postgres");
    let script = format!("#!/bin/sh\nexec {}/postgres \"$@\" -c restore_command=false\n", real.display());
    std::fs::write(&postgres, script).unwrap();
    std::fs::set_permissions(&postgres, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&programs, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let data = scene.site.target("early");
    let mut command = scene.site.restore_command(&["restore", "--start", "--to", data.to_str().unwrap()]);
    let said = Said::from(command.env("LIFEBOAT_PG_BIN", &programs).output().unwrap()).expect(12);
    assert!(said.err.contains("which it has never asked for") && said.err.contains("was stopped"), "{}", said.err);
    assert!(!data.join("postmaster.pid").exists(), "nobody is to take it for what was asked for");
}

/// The process that listens in the directory beside `data`.
fn prefetcher_of(data: &Path) -> Option<String> {
    let mut settings = data.as_os_str().to_owned();
    settings.push("-wal-fetch/wal-fetch.json");
    let settings = settings.into_string().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok());
    processes.map(|entry| entry.file_name().into_string().unwrap()).find(|pid| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("--serve") && line.contains(&settings)
    })
}

fn end_prefetcher(data: &Path) {
    if let Some(pid) = prefetcher_of(data) {
        drop(Command::new("kill").args(["-KILL", &pid]).status());
    }
}

#[test]
fn a_prefetcher_that_is_killed_is_started_again() {
    let (scene, _server, _) = shipped(40, 1);
    let data = scene.site.target("killed");
    scene.site.restore(&["restore", "--to", data.to_str().unwrap()]).expect(0);
    let data_dir = data.clone();
    let killer = std::thread::spawn(move || {
        let mut killed = 0;
        let begun = Instant::now();
        while killed < 3 && begun.elapsed() < PATIENCE {
            if let Some(pid) = prefetcher_of(&data_dir) {
                std::thread::sleep(Duration::from_millis(150));
                killed += u32::from(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
                wait_for("its end", || prefetcher_of(&data_dir).is_none_or(|other| other != pid));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        killed
    });
    let copy = RestoredServer::start(&data, majors_under_test()[0]).unwrap();
    copy.wait_until_promoted(PATIENCE).unwrap();
    assert_eq!(copy.psql("postgres", "SELECT count(*) FROM ledger").unwrap(), "40");
    end_prefetcher(&data);
    println!("killed {} times", killer.join().unwrap());
    end_prefetcher(&data);
}

#[test]
fn damaged_and_cut_objects_come_from_the_other_region() {
    let (scene, _server, _) = shipped(10, 2);
    let faults = scene.regions[0].faults();
    faults.change(|plan| {
        plan.corrupt_get = Some(CorruptGet { keys: KeyPattern::new("*/wal/*"), offset: 300, mask: 1 });
    });
    let damaged = scene.start("damaged", majors_under_test()[0], &[]);
    assert_eq!(scene.ledger(&damaged), 10);
    faults.clear();
    let cut = TruncateGet { keys: KeyPattern::new("*/wal/*"), keep: 500, how: Truncation::ShorterLength };
    faults.change(|plan| plan.truncate_get = Some(cut));
    let cut = scene.start("cut", majors_under_test()[0], &[]);
    assert_eq!(scene.ledger(&cut), 10);
    faults.clear();
    faults.change(|plan| plan.dead = true);
    let target = scene.site.target("refused");
    let said = scene.site.restore(&["restore", "--to", target.to_str().unwrap()]).expect(10);
    assert!(said.err.contains("--without-region region-1"), "{}", said.err);
    let without = scene.start("without", majors_under_test()[0], &["--without-region", "region-1"]);
    assert_eq!(scene.ledger(&without), 10);
}

#[test]
fn a_hole_in_the_plan_stops_recovery_and_one_that_is_known_before_is_refused() {
    let (scene, _server, _) = shipped(25, 1);
    let pieces: Vec<String> = scene.regions[0].keys(BUCKET).into_iter().filter(|key| key.ends_with(".lbw")).collect();
    let hole = pieces[pieces.len() / 2].clone();
    let body = scene.regions[0].object(BUCKET, &hole).unwrap();
    // Listed, but gone when it is read.
    let mut running = Running::start(&scene, "gone", &["--wal-patience", "3"]);
    wait_for("the server's log", || running.log().contains("starting"));
    scene.regions[0].remove_raw(BUCKET, &hole).unwrap();
    let said = running.said().expect(12);
    assert!(said.err.contains("recovery was stopped; WAL: not fetched in "), "{}", said.err);
    let log = running.log();
    assert!(!log.contains("redo done"), "{log}");
    let target = scene.site.target("refused");
    let said = scene.site.restore(&["restore", "--to", target.to_str().unwrap()]).expect(10);
    assert!(said.err.contains("WAL is missing from"), "{}", said.err);
    scene.regions[0].put_raw(BUCKET, &hole, body).unwrap();
    let whole = scene.start("whole", majors_under_test()[0], &[]);
    assert_eq!(scene.ledger(&whole), 25);
}

#[test]
fn a_standby_follows_what_the_regions_receive() {
    let (scene, server, mut shipper) = shipped(3, 1);
    let standby = scene.start("standby", majors_under_test()[0], &["--standby"]);
    let rows = |count: &str| wait_for(count, || standby.psql("SELECT count(*) FROM ledger") == count);
    rows("3");
    server.psql("postgres", "INSERT INTO ledger VALUES (4)").unwrap();
    shipper.ship(&server);
    rows("4");
    for number in 5..=9 {
        fill(&server, number);
    }
    shipper.ship(&server);
    rows("9");
    assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "t");
    assert_eq!(standby.psql("SELECT pg_promote()"), "t");
    assert_eq!(standby.psql("SELECT count(*) FROM ledger"), "9");
    end_prefetcher(&standby.data);
}

#[test]
fn the_client_takes_a_few_milliseconds() {
    let (scene, _server, _) = shipped(1, 1);
    let data = scene.site.target("latency");
    scene.site.restore(&["restore", "--to", data.to_str().unwrap()]).expect(0);
    let mut directory = data.as_os_str().to_owned();
    directory.push("-wal-fetch");
    let directory = std::path::PathBuf::from(directory);
    let settings = std::fs::read_to_string(directory.join("wal-fetch.json")).unwrap();
    let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
    let client = |name: &str| {
        let begun = Instant::now();
        // The directory is the server's: nobody else's client believes what is in it.
        let status = as_postgres(&mut Command::new(scene.site.restore_program()))
            .args(["wal-fetch", "--socket"])
            .arg(directory.join("socket"))
            .args(["--restore", settings["restore"].as_str().unwrap(), name])
            .arg(directory.join("fetched"))
            .status()
            .unwrap();
        (status.code().unwrap(), begun.elapsed())
    };
    assert_eq!(client("nonsense.backup").0, 1, "it starts the prefetcher");
    let mut times: Vec<Duration> = (0..50).map(|_| client("nonsense.backup")).map(|(_, took)| took).collect();
    times.sort();
    println!("client: median {:?}, worst {:?}", times[25], times[49]);
    assert!(times[25] < Duration::from_millis(50), "{times:?}");
    end_prefetcher(&data);
}
