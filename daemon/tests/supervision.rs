//! The daemon as a service: what the service manager hears of it, what SIGHUP and SIGTERM do, and what outlives kill -9.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lifeboat_daemon::deletion::freeze::Freezer;
use lifeboat_daemon::deletion::standstill::Trigger;
use lifeboat_testkit::{PgServer, majors_under_test};
use lifeboat_vocabulary::SystemClock;
use support::{BUCKET, Daemon, Scene, lsn_number};

/// Nothing of this test is worth a port.
const NO_HTTP: &str = "[http]\nlisten = \"off\"\n";

fn server() -> PgServer {
    PgServer::builder(majors_under_test()[0]).start().unwrap()
}

/// A service manager that writes down what it hears.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(scene: &Scene) -> Self {
        let path = scene.site.dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self { socket, path }
    }

    fn daemon(&self, scene: &Scene, more: &[(&str, &str)]) -> Daemon {
        let mut variables = vec![("NOTIFY_SOCKET", self.path.to_str().unwrap())];
        variables.extend(more);
        scene.run_daemon_with(&variables)
    }

    fn next(&self) -> Option<String> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    /// Waits for a message with this part.
    #[track_caller]
    fn wait(&self, part: &str) -> String {
        let patience = Instant::now() + Duration::from_secs(90);
        loop {
            match self.next() {
                Some(message) if message.contains(part) => return message,
                _ => assert!(Instant::now() < patience, "nobody says {part}"),
            }
        }
    }

    /// How many messages with this part come within a time.
    fn count(&self, part: &str, within: Duration) -> usize {
        let end = Instant::now() + within;
        let mut count = 0;
        while Instant::now() < end {
            count += usize::from(self.next().is_some_and(|message| message.contains(part)));
        }
        count
    }
}

/// Everything that the daemon says of itself; null if none runs.
fn status(scene: &Scene) -> serde_json::Value {
    serde_json::from_str(&scene.daemon(&["--json", "status"]).out).unwrap()
}

/// Of the daemon and of its cluster.
fn alarms(scene: &Scene) -> Vec<String> {
    let status = status(scene);
    let of = |part: &serde_json::Value| part["alarms"].as_array().cloned().unwrap_or_default();
    let all = of(&status).into_iter().chain(of(&status["clusters"][0]));
    all.map(|alarm| alarm["name"].as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(90);
    while !is_so() {
        assert!(Instant::now() < patience, "{what} does not come");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// As [`until`], for alarms.
#[track_caller]
fn until_alarms(scene: &Scene, what: &str, are_so: impl Fn(&[String]) -> bool) {
    let patience = Instant::now() + Duration::from_secs(90);
    loop {
        let now = alarms(scene);
        if are_so(&now) {
            return;
        }
        assert!(Instant::now() < patience, "{what} does not come, there is {now:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn streams(scene: &Scene) -> bool {
    scene.wal_status()["host"].is_string()
}

/// A server, and a repository in two regions.
fn prepared() -> (PgServer, Scene) {
    let server = server();
    let scene = Scene::new(2);
    scene.configure_wal(&server.connection_string(), "", NO_HTTP);
    scene.daemon(&["init"]).expect(0);
    (server, scene)
}

#[test]
fn a_good_configuration_is_taken_over_and_a_bad_one_changes_nothing() {
    let server = server();
    let scene = Scene::new(2);
    let configure = |cluster: &str, more: &str| {
        scene.configure_wal(&server.connection_string(), cluster, &format!("{NO_HTTP}{more}"));
    };
    configure("", "");
    scene.daemon(&["init"]).expect(0);
    let manager = Manager::new(&scene);
    let daemon = manager.daemon(&scene, &[]);
    let ready = manager.wait("READY=1");
    assert!(ready.contains("STATUS=1 cluster"), "{ready}");
    scene.wait_for_backups(1);
    until("a stream", || streams(&scene));
    let reload = || {
        daemon.signal("-HUP");
        let began = manager.wait("RELOADING=1");
        assert!(began.contains("MONOTONIC_USEC="), "{began}");
        manager.wait("READY=1");
    };

    configure("[cluster.wal]\nslott = \"x\"", "[heal]\nmax_bandwidth = \"much\"\n");
    reload();
    // Commands would refuse it just as well.
    configure("", "");
    until("the alarm", || alarms(&scene).contains(&"config-refused".to_owned()));
    let text = status(&scene)["alarms"].to_string();
    assert!(text.contains("slott") && text.contains("much"), "all faults at once: {text}");
    assert!(streams(&scene), "the old one is in force");

    configure("[cluster.schedule]\nfull = \"30 4 * * *\"", "");
    reload();
    until("the end of the alarm", || !alarms(&scene).contains(&"config-refused".to_owned()));
    until("what was read again", || daemon.log().contains("in force at once: cluster.main.schedule.full"));
    until("another next run", || status(&scene)["clusters"][0]["next_run"]["time"].to_string().contains("T04:30:00"));
    assert!(!daemon.log().contains("begins again ("), "nothing was disturbed");

    configure("", "[durability]\nflush_interval = \"500ms\"\n");
    reload();
    let again = "cluster main begins again (durability.flush_interval)";
    until("what began again", || daemon.log().contains(again));
    until("a stream", || streams(&scene));

    let moved = std::fs::read_to_string(scene.config()).unwrap().replace("/state\"", "/elsewhere\"");
    std::fs::write(scene.config(), moved).unwrap();
    reload();
    until("the alarm", || daemon.log().contains("state.directory moves from"));
    assert_eq!(daemon.stop(), Some(0));
}

/// The runs that the daemon remembers.
fn runs(scene: &Scene) -> Vec<serde_json::Value> {
    let text = std::fs::read(scene.site.dir.path().join("state/main/runs.json")).unwrap();
    let all: serde_json::Value = serde_json::from_slice(&text).unwrap();
    all["runs"].as_array().unwrap().clone()
}

/// What may still have to be looked into after a stop that was in order: nothing.
#[track_caller]
fn assert_silent(log: &str) {
    let told = |line: &&str| line.contains("\"level\":\"WARN\"") || line.contains("\"level\":\"ERROR\"");
    assert_eq!(log.lines().filter(told).collect::<Vec<_>>(), [""; 0], "{log}");
}

#[test]
fn a_kill_at_any_moment_of_a_reload_leaves_what_can_be_started_and_forgets_nothing() {
    let server = server();
    let scene = Scene::new(2);
    let configure = |interval: u32, minute: u32| {
        let more = format!("{NO_HTTP}[durability]\nflush_interval = \"{interval}ms\"\n");
        let schedule = format!("[cluster.schedule]\nfull = \"{minute} 4 1 1 *\"");
        scene.configure_wal(&server.connection_string(), &schedule, &more);
    };
    configure(1000, 0);
    scene.daemon(&["init"]).expect(0);
    let manager = Manager::new(&scene);
    let daemon = manager.daemon(&scene, &[]);
    scene.wait_for_backups(1);
    let pause = ["pause", "--action", "scrub", "--reason", "upgrade of the disks", "--owner", "anna"];
    scene.daemon(&pause).expect(0);
    let state = scene.site.dir.path().join("state");
    Freezer::new(&state, Arc::new(SystemClock))
        .freeze(&"main".parse().unwrap(), Trigger::LogMismatch, "the log of region r0 is shorter than it was")
        .unwrap();
    until("its good end", || runs(&scene).iter().any(|run| run["result"]["ending"] == "done"));
    daemon.kill();
    for round in 0..12_u32 {
        configure(500 + round, round);
        let daemon = manager.daemon(&scene, &[]);
        manager.wait("READY=1");
        // In turns: what takes effect at once, and what stops and begins the tasks of the cluster again.
        configure(if round % 3 == 0 { 500 + round } else { 700 + round }, round + 30);
        daemon.signal("-HUP");
        std::thread::sleep(Duration::from_millis(u64::from(round * round * 5)));
        daemon.kill();
        // Whatever was being written: each file is whole, old or new.
        for file in ["alarms.json", "main/runs.json", "main/standstill.json", "main/audit-queue.json"] {
            let Ok(text) = std::fs::read(state.join(file)) else { continue };
            assert!(serde_json::from_slice::<serde_json::Value>(&text).is_ok(), "round {round}: {file}");
        }
        let listed = scene.daemon(&["pause", "--list"]).expect(0).out;
        assert!(listed.contains("upgrade of the disks") && listed.contains("log-mismatch"), "round {round}: {listed}");
    }
    let before = scene.daemon_log().len();
    let daemon = manager.daemon(&scene, &[]);
    manager.wait("READY=1");
    until("a stream", || streams(&scene));
    until_alarms(&scene, "one, about the freeze", |now| now == ["deletion-frozen/log-mismatch"]);
    let all = runs(&scene);
    assert!(all.iter().all(|run| run["result"]["ending"] == "done"), "{all:?}");
    assert_eq!(all.len(), 1, "nothing was run twice: {all:?}");
    assert_eq!(scene.daemon(&["list"]).out.lines().filter(|line| line.contains("Z-")).count(), 1);
    let log = scene.daemon_log();
    assert!(!log[before..].contains("damaged"), "{log}");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn an_orderly_stop_says_nothing_that_anybody_has_to_look_into() {
    let (server, scene) = prepared();
    let manager = Manager::new(&scene);
    for round in 0..3 {
        let daemon = manager.daemon(&scene, &[]);
        manager.wait("READY=1");
        scene.wait_for_backups(1);
        until("a stream", || streams(&scene));
        server.psql("postgres", &format!("CREATE TABLE t{round} AS SELECT generate_series(1, 1000)")).unwrap();
        let before = scene.daemon_log().len();
        assert_eq!(daemon.stop(), Some(0));
        assert_silent(&scene.daemon_log()[before..]);
    }
}

#[test]
fn an_orderly_stop_hands_a_running_backup_back_and_the_next_start_makes_up_for_it() {
    let server = server();
    let scene = Scene::new(2);
    let slow = "[cluster.backup]\nmax_rate = \"512KiB\"";
    let more = format!("{NO_HTTP}[daemon]\nstop_timeout = \"12s\"\n");
    scene.configure_wal(&server.connection_string(), slow, &more);
    scene.daemon(&["init"]).expect(0);
    let manager = Manager::new(&scene);
    let daemon = manager.daemon(&scene, &[]);
    manager.wait("READY=1");
    until("a running backup", || status(&scene)["clusters"][0]["running"]["what"].is_string());
    server.psql("postgres", "CREATE TABLE t AS SELECT 1").unwrap();
    let (begun, before) = (Instant::now(), daemon.log().len());
    daemon.signal("-TERM");
    let stopping = manager.wait("STOPPING=1");
    assert!(stopping.contains("EXTEND_TIMEOUT_USEC=27000000"), "{stopping}");
    let end = server.psql("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap();
    until("the end", || daemon.log().contains("\"stopped\""));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_silent(&daemon.log()[before..]);
    assert_eq!(runs(&scene).pop().unwrap()["result"]["ending"], "stopped");
    assert!(!scene.daemon(&["list"]).out.contains("Z-"), "nothing that looks like a backup");
    let told = format!("SELECT bool_and(restart_lsn >= '{}') FROM pg_replication_slots", end.trim());
    assert_eq!(server.psql("postgres", &told).unwrap().trim(), "t", "what was received has been shipped and told");
    drop(daemon);

    scene.configure_wal(&server.connection_string(), "", &more);
    let daemon = manager.daemon(&scene, &[]);
    scene.wait_for_backups(1);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn what_is_paused_outlives_a_kill_is_audited_in_every_region_and_is_recalled_from_there() {
    let (_server, scene) = prepared();
    let daemon = scene.run_daemon();
    scene.wait_for_backups(1);
    let refused = scene.daemon(&["pause", "--action", "delete", "--reason", "two\nlines", "--owner", "anna"]).expect(2);
    assert!(refused.err.contains("one line"), "{}", refused.err);
    let pause = ["pause", "--action", "all", "--reason", "upgrade of the disks", "--owner", "anna", "--expires", "4h"];
    scene.daemon(&pause).expect(0);
    daemon.kill();
    let listed = scene.daemon(&["pause", "--list"]).expect(0).out;
    assert_eq!(listed.matches("upgrade of the disks").count(), 4, "{listed}");

    let daemon = scene.run_daemon();
    let records = |region: usize, part: &str| {
        let bodies =
            scene.keys(region, "log/").into_iter().filter_map(|key| scene.regions[region].object(BUCKET, &key));
        bodies.filter(|body| String::from_utf8_lossy(body).contains(part)).count()
    };
    for region in 0..2 {
        until("the audit records", || records(region, "upgrade of the disks") == 4);
    }
    let resume = ["resume", "--action", "backup", "--reason", "it is done", "--owner", "berta"];
    let said = scene.daemon(&resume).expect(0).out;
    assert!(said.contains("paused by anna"), "{said}");
    for region in 0..2 {
        until("the record of the end", || records(region, "it is done") == 1);
    }
    let audit = std::fs::read_to_string(scene.site.dir.path().join("state/audit.log")).unwrap();
    let actions: Vec<serde_json::Value> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(actions.len(), 5, "{audit}");
    assert_eq!((actions[4]["action"].as_str(), actions[4]["owner"].as_str()), (Some("resume"), Some("berta")));
    daemon.kill();

    // A host that has lost its state asks the regions.
    std::fs::remove_dir_all(scene.site.dir.path().join("state")).unwrap();
    let daemon = scene.run_daemon();
    until("what was paused", || scene.daemon(&["pause", "--list"]).out.matches("upgrade of the disks").count() == 3);
    assert!(daemon.log().contains("taken from the regions' logs"), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn the_watchdog_is_fed_while_the_daemon_gets_on_and_only_then() {
    let (_server, scene) = prepared();
    let manager = Manager::new(&scene);
    let daemon = manager.daemon(&scene, &[("WATCHDOG_USEC", "1000000")]);
    manager.wait("READY=1");
    assert!(manager.count("WATCHDOG=1", Duration::from_secs(4)) >= 6, "twice as often as it is asked for");
    daemon.signal("-STOP");
    manager.count("WATCHDOG=1", Duration::from_secs(1));
    assert_eq!(manager.count("WATCHDOG=1", Duration::from_secs(2)), 0);
    daemon.signal("-CONT");
    manager.wait("WATCHDOG=1");
    let said = manager.wait("STATUS=");
    assert!(said.contains("1 cluster; no alarms") || said.contains("ALARM"), "{said}");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn overrides_are_remembered_with_their_age_and_audited() {
    let (_server, scene) = prepared();
    let variable = [("LIFEBOAT_DURABILITY__FLUSH_INTERVAL", "700ms")];
    for _ in 0..2 {
        let daemon = scene.run_daemon_with(&variable);
        until("a status", || status(&scene)["overrides"].to_string().contains("FLUSH_INTERVAL"));
        daemon.kill();
    }
    let file = scene.site.dir.path().join("state/overrides.json");
    let ages: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(ages["LIFEBOAT_DURABILITY__FLUSH_INTERVAL"]["setting"], "durability.flush_interval");
    let audit = std::fs::read_to_string(scene.site.dir.path().join("state/audit.log")).unwrap();
    assert_eq!(audit.matches("\"override\"").count(), 1, "once, however often it is seen: {audit}");
    // As if it had been set two days ago.
    let since = ages["LIFEBOAT_DURABILITY__FLUSH_INTERVAL"]["since"].as_str().unwrap().to_owned();
    let text = std::fs::read_to_string(&file).unwrap().replace(&since, "2026-01-01T00:00:00Z");
    std::fs::write(&file, text).unwrap();
    let daemon = scene.run_daemon_with(&variable);
    let told = "override-stale/LIFEBOAT_DURABILITY__FLUSH_INTERVAL".to_owned();
    until("the alarm", || alarms(&scene).contains(&told));
    assert_eq!(daemon.stop(), Some(0));
}

/// What the daemon says over HTTP; null if it does not.
fn asked(port: u16) -> serde_json::Value {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: lifeboat\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map_or("null", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_default()
}

#[test]
fn a_full_disk_under_the_state_raises_an_alarm_and_stops_nothing() {
    let server = server();
    let scene = Scene::new(2);
    // Free a moment ago; nobody else on this host asks for ports in this range by number.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let more = format!("[http]\nlisten = \"127.0.0.1:{port}\"\n");
    scene.configure_wal(&server.connection_string(), "", &more);
    scene.daemon(&["init"]).expect(0);
    let daemon = scene.run_daemon_on_a_small_disk(16);
    scene.wait_for_backups(1);
    let told = || asked(port)["alarms"].to_string().contains("state-not-writable");
    assert!(!told());

    let inside = PathBuf::from(format!("/proc/{}/root", daemon.pid()));
    let state = inside.join(scene.site.dir.path().join("state").strip_prefix("/").unwrap());
    let mut filler = std::fs::File::create(state.join("filler")).unwrap();
    while filler.write(&[7; 4096]).is_ok() {}
    until("the alarm", told);
    server.psql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 1000)").unwrap();
    let end = server.psql("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap();
    until("WAL beside the full disk", || {
        let durable = asked(port)["clusters"][0]["wal"]["quorum"]["durable"].clone();
        durable.as_str().is_some_and(|durable| lsn_number(durable) >= lsn_number(end.trim()))
    });

    drop(filler);
    std::fs::remove_file(state.join("filler")).unwrap();
    until("the end of the alarm", || !told());
    until("what is known", || std::fs::read(state.join("alarms.json")).is_ok_and(|text| !text.is_empty()));
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn damaged_files_of_the_state_are_reported_until_somebody_has_removed_them() {
    let (_server, scene) = prepared();
    let daemon = scene.run_daemon();
    scene.wait_for_backups(1);
    daemon.kill();
    let folder = scene.site.dir.path().join("state/main");
    for file in ["runs.json", "standstill.json"] {
        std::fs::write(folder.join(file), b"{ torn").unwrap();
    }
    let daemon = scene.run_daemon();
    let damaged = |now: &[String]| now.iter().filter(|name| name.starts_with("state-damaged/main/")).count();
    until_alarms(&scene, "one for each file", |now| damaged(now) == 2);
    until_alarms(&scene, "a freeze, because nobody knows what was frozen", |now| {
        now.contains(&"deletion-frozen/state-lost".to_owned())
    });
    until("what the regions know", || runs(&scene).len() == 1);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(scene.daemon(&["list"]).out.lines().filter(|line| line.contains("Z-")).count(), 1, "no backup for that");
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains(".damaged-") {
            std::fs::remove_file(path).unwrap();
        }
    }
    until_alarms(&scene, "their end", |now| damaged(now) == 0);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_daemon_that_is_killed_on_a_full_disk_starts_on_it_and_protects() {
    let server = server();
    let scene = Scene::new(2);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    scene.configure_wal(&server.connection_string(), "", &format!("[http]\nlisten = \"127.0.0.1:{port}\"\n"));
    scene.daemon(&["init"]).expect(0);
    let shell = scene.run_daemon_twice_on_a_small_disk(16);
    scene.wait_for_backups(1);
    let children = format!("/proc/{0}/task/{0}/children", shell.pid());
    let first = std::fs::read_to_string(children).unwrap().trim().to_owned();
    let inside = PathBuf::from(format!("/proc/{}/root", shell.pid()));
    let state = inside.join(scene.site.dir.path().join("state").strip_prefix("/").unwrap());
    let mut filler = std::fs::File::create(state.join("filler")).unwrap();
    while filler.write(&[7; 4096]).is_ok() {}
    let killed = std::process::Command::new("kill").args(["-KILL", &first]).status().unwrap();
    assert!(killed.success());
    until("its end", || !PathBuf::from(format!("/proc/{first}")).exists());
    until("the alarm of the second", || asked(port)["alarms"].to_string().contains("state-not-writable"));
    server.psql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 1000)").unwrap();
    let end = server.psql("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap();
    until("WAL beside the full disk", || {
        let durable = asked(port)["clusters"][0]["wal"]["quorum"]["durable"].clone();
        durable.as_str().is_some_and(|durable| lsn_number(durable) >= lsn_number(end.trim()))
    });
    scene.wait_for_backups(1);
    drop(filler);
    std::fs::remove_file(state.join("filler")).unwrap();
    until("the end of the alarm", || !asked(port)["alarms"].to_string().contains("state-not-writable"));
    assert_eq!(scene.daemon(&["list"]).out.lines().filter(|line| line.contains("Z-")).count(), 1, "nothing twice");
    assert_eq!(shell.stop(), Some(0));
}
