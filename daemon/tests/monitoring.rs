//! The state of the daemon as a person, a probe and Prometheus see it: the program beside a real server and two S3 regions.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a scene that cannot be set up is a failed test")]

#[path = "../src/web/schema.rs"]
mod schema;
mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lifeboat_testkit::{PgServer, majors_under_test};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use schema::Schemas;
use serde_json::Value;
use support::{Scene, lsn_number};

const OPENAPI: &str = "/api/v1/openapi.json";
const HTTP: &str = "[http]\nlisten = \"127.0.0.1:0\"\n";

/// What was answered.
struct Answer {
    code: u16,
    content_type: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

fn heard(mut stream: impl Read + Write, path: &str, header: &str) -> Answer {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n").unwrap();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned));
    Answer {
        code: head.split(' ').nth(1).unwrap().parse().unwrap(),
        content_type: field("content-type").unwrap_or_default(),
        body: body.to_owned(),
    }
}

/// The daemon's address, once it says one.
fn address(scene: &Scene) -> SocketAddr {
    let url = eventually("an address", || {
        let said: Value = serde_json::from_str(&scene.daemon(&["--json", "status"]).out).unwrap();
        said["daemon"]["http"].as_str().map(str::to_owned)
    });
    url.split_once("://").unwrap().1.parse().unwrap()
}

fn get(address: SocketAddr, path: &str) -> Answer {
    heard(TcpStream::connect(address).unwrap(), path, "")
}

/// Looks until something is there; panics when it does not come.
#[track_caller]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let patience = Instant::now() + Duration::from_secs(180);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < patience, "{what} does not come");
        std::thread::sleep(Duration::from_millis(250));
    }
}

/// Waits until the API's snapshot is as wanted; panics with the last one otherwise.
#[track_caller]
fn snapshot(address: SocketAddr, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let patience = Instant::now() + Duration::from_secs(180);
    while Instant::now() < patience {
        last = get(address, "/api/v1/status").json();
        if wanted(&last) {
            return last;
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    panic!("{what} does not come: {last:#}");
}

/// Series and values of the text format; every line is one or a comment.
fn metrics(address: SocketAddr) -> BTreeMap<String, f64> {
    let answer = get(address, "/metrics");
    assert_eq!((answer.code, answer.content_type.as_str()), (200, "text/plain; version=0.0.4; charset=utf-8"));
    let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(series.starts_with("lifeboat_"), "{line}");
            (series.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// Whether an answer is as the daemon itself describes it.
fn described(description: &str, path: &str, answer: &Answer) {
    let faults = Schemas::read(description).faults(path, answer.code, &answer.content_type, &answer.body);
    assert!(faults.is_empty(), "{path}: {faults:#?}\n{}", answer.body);
}

fn protection(status: &Value) -> &str {
    status["clusters"][0]["verdict"]["protection"].as_str().unwrap_or("not known yet")
}

#[test]
fn the_page_the_api_and_the_metrics_tell_the_same_story() {
    let server = PgServer::builder(majors_under_test()[0]).start().unwrap();
    server.psql("postgres", "CREATE TABLE ledger (id bigint PRIMARY KEY)").unwrap();
    let scene = Scene::new(2);
    scene.configure_wal(&server.connection_string(), "", HTTP);
    scene.daemon(&["init"]).expect(0);
    let none = scene.daemon(&["status"]).expect(1);
    assert!(none.out.starts_with("main  NOT PROTECTED  no daemon runs"), "{}", none.out);
    let none: Value = serde_json::from_str(&scene.daemon(&["--json", "status"]).expect(1).out).unwrap();
    assert!(none["clusters"][0]["wal"].is_null() && none["problem"].is_string(), "{none:#}");

    let daemon = scene.run_daemon();
    let address = address(&scene);
    let well = snapshot(address, "a protected cluster", |status| protection(status) == "ok");
    let main = &well["clusters"][0];
    assert_eq!(main["last_backup"]["regions"], serde_json::json!(["r0", "r1"]), "{main:#}");
    assert!(main["window"]["from"]["lsn"].is_string() && main["next_run"]["time"].is_string(), "{main:#}");
    for path in ["/healthz", "/readyz", "/api/v1/status", "/api/v1/openapi.json"] {
        let answer = get(address, path);
        assert_eq!(answer.code, 200, "{path}: {}", answer.body);
        described(&get(address, OPENAPI).body, path, &answer);
    }

    let page = scene.daemon(&["status"]).expect(0).out;
    for (label, part) in [
        ("main  OK", "a disaster now would cost"),
        ("  recoverable", "UTC"),
        ("  RPO now", "(objective 1 min 00 s)"),
        ("  last backup", "full,"),
        ("  next run", "full backup in "),
        ("  restore time", "not known yet"),
        ("  WAL", "timeline 1"),
        ("  spool", " of 10.0 GiB"),
        ("  r0", "healthy"),
        ("  r1", "healthy"),
        ("  no alarms", ""),
        ("  daemon", &format!("http://{address}")),
    ] {
        let line = page.lines().find(|line| line.starts_with(label)).unwrap_or_else(|| panic!("no {label} in\n{page}"));
        assert!(line.contains(part), "{line}");
    }
    assert!(!page.contains('\x1b'), "no colours in a pipe");
    let over_http = get(address, "/").body;
    assert_eq!(over_http.lines().next().unwrap().split(',').next(), page.lines().next().unwrap().split(',').next());

    let before = metrics(address);
    let lsn = "lifeboat_wal_durable_lsn_bytes{cluster=\"main\",region=\"r1\"}";
    let end = server.psql("postgres", "INSERT INTO ledger SELECT generate_series(1, 20000)");
    end.unwrap();
    let end = lsn_number(&server.psql("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap());
    let after = eventually("the WAL in the metrics", || {
        let now = metrics(address);
        (now.get(lsn).is_some_and(|lsn| *lsn >= end as f64)).then_some(now)
    });
    for moved in [
        lsn,
        "lifeboat_uploaded_bytes_total{cluster=\"main\",region=\"r0\"}",
        "lifeboat_region_requests_total{cluster=\"main\",region=\"r0\",op=\"put\",result=\"ok\"}",
        "lifeboat_region_request_duration_seconds_count{cluster=\"main\",region=\"r1\"}",
    ] {
        assert!(after[moved] > before[moved], "{moved}: {} and then {}", before[moved], after[moved]);
    }
    for (series, value) in [
        ("lifeboat_protection{cluster=\"main\"}", 0.0),
        ("lifeboat_region_breaker_state{cluster=\"main\",region=\"r0\"}", 0.0),
        ("lifeboat_region_backups{cluster=\"main\",region=\"r1\"}", 1.0),
        ("lifeboat_alarms{cluster=\"main\",severity=\"critical\"}", 0.0),
        ("lifeboat_backup_runs_total{cluster=\"main\",ending=\"done\"}", 1.0),
    ] {
        assert_eq!(after.get(series), Some(&value), "{series}");
    }
    a_bad_configuration_hides_nothing(&scene);
    only_its_own_account_may_look(&scene);
    drop(daemon);
    std::thread::sleep(Duration::from_secs(11));
    let gone = scene.daemon(&["status"]).expect(1);
    assert!(gone.out.starts_with("main  NOT PROTECTED  no daemon runs; the last one was seen"), "{}", gone.out);
    assert!(gone.out.contains("This is what it wrote last") && gone.out.contains("  recoverable "), "{}", gone.out);
    assert!(!gone.out.contains("main  OK"), "a verdict of then is none of now: {}", gone.out);
    let gone: Value = serde_json::from_str(&scene.daemon(&["--json", "status"]).expect(1).out).unwrap();
    assert!(gone["clusters"][0]["wal"].is_null() && gone["last"]["clusters"][0]["window"].is_object(), "{gone:#}");
}

/// Whoever broke the file, a person still wants to see how it stands.
fn a_bad_configuration_hides_nothing(scene: &Scene) {
    let good = std::fs::read_to_string(scene.config()).unwrap();
    for (what, text, said) in [
        ("a key that is not known", format!("nonsense = 1\n{good}"), "nonsense"),
        ("no TOML at all", format!("{good}\n= broken\n"), "check-config"),
        ("several faults", format!("nonsense = 1\nmore = 2\n{good}"), "has 2 faults"),
    ] {
        std::fs::write(scene.config(), text).unwrap();
        let shown = scene.daemon(&["status"]).expect(3).out;
        assert!(shown.starts_with("configuration  REFUSED  "), "{what}: {shown}");
        let head = shown.split("\n\n").next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(head.contains(said) && head.contains("lifeboatd check-config"), "{what}: {shown}");
        assert!(shown.contains("\nmain  OK  a disaster now would cost"), "{what}: {shown}");
        let json: Value = serde_json::from_str(&scene.daemon(&["--json", "status"]).expect(3).out).unwrap();
        assert!(json["config_refused"].is_string() && protection(&json) == "ok", "{what}: {json:#}");
    }
    std::fs::write(scene.config(), good).unwrap();
    let state = scene.site.dir.path().join(scene.state).display().to_string();
    let mut elsewhere = std::process::Command::new(env!("CARGO_BIN_EXE_lifeboatd"));
    elsewhere.args(["--config", "/nonexistent/lifeboat.toml", "status", "--state-directory", &state]);
    let shown = support::Said::from(elsewhere.output().unwrap()).expect(3).out;
    let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("No such file") && shown.contains("\nmain  OK  "), "{shown}");
}

/// The real program as another account: root, which tests run as, may read everything.
fn only_its_own_account_may_look(scene: &Scene) {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let state = scene.site.dir.path().join(scene.state);
    let program = scene.site.dir.path().join("lifeboatd");
    lifeboat_testkit::copy_program(std::path::Path::new(env!("CARGO_BIN_EXE_lifeboatd")), &program).unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state) & 0o077, 0, "what is in there is nobody's business");
    let (dir, config) = (scene.site.dir.path(), scene.config());
    let before = mode(dir);
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&config, PermissionsExt::from_mode(0o644)).unwrap();
    let is_root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0;
    let mut command = std::process::Command::new(&program);
    command.arg("--config").arg(&config).arg("status");
    // Where tests do not run as root, the owner shuts himself out.
    if is_root {
        command.uid(65_534).gid(65_534);
    } else {
        std::fs::set_permissions(&state, PermissionsExt::from_mode(0o000)).unwrap();
    }
    let said = support::Said::from(command.output().unwrap());
    std::fs::set_permissions(&state, PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::set_permissions(dir, PermissionsExt::from_mode(before)).unwrap();
    let said = said.expect(1);
    assert!(said.out.starts_with("main  UNKNOWN  this account may not read "), "{}", said.out);
    let words = said.out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("run `sudo -u ") && words.contains(" lifeboatd status`"), "{words}");
    assert!(!said.out.contains("systemctl start"), "perhaps one runs: {}", said.out);
}

#[test]
fn a_region_that_goes_away_is_reported_remembered_and_cleared_with_a_delay() {
    let server = PgServer::builder(majors_under_test()[0]).start().unwrap();
    server.psql("postgres", "CREATE TABLE ledger (id bigint PRIMARY KEY)").unwrap();
    let scene = Scene::new(2);
    scene.configure_wal(&server.connection_string(), "", HTTP);
    scene.daemon(&["init"]).expect(0);
    let daemon = scene.run_daemon();
    let at = address(&scene);
    snapshot(at, "a protected cluster", |status| protection(status) == "ok");
    assert_eq!(get(at, "/readyz").code, 200);

    scene.regions[1].faults().change(|plan| plan.dead = true);
    server.psql("postgres", "INSERT INTO ledger SELECT generate_series(1, 100)").unwrap();
    let away = snapshot(at, "the region away", |status| status["clusters"][0]["regions"][1]["health"] == "away");
    let region = &away["clusters"][0]["regions"][1];
    assert_ne!(region["breaker"], "closed", "{region:#}");
    let raised = snapshot(at, "the alarm", |status| {
        let alarms = status["clusters"][0]["alarms"].as_array().unwrap();
        alarms.iter().any(|alarm| alarm["name"] == "region-away/r1")
    });
    let alarms = raised["clusters"][0]["alarms"].as_array().unwrap();
    let alarm = alarms.iter().find(|alarm| alarm["name"] == "region-away/r1").unwrap();
    assert_eq!(
        (alarm["severity"].as_str(), alarm["runbook"].as_str()),
        (Some("critical"), Some("docs/runbooks/region-away.md"))
    );
    assert_eq!(protection(&raised), "at-risk", "WAL goes on in the other region");
    let ready = get(at, "/readyz");
    described(&get(at, OPENAPI).body, "/readyz", &ready);
    assert_eq!(
        (ready.code, &ready.json()["reasons"][0]),
        (503, &Value::from("main: 1 of 2 regions answer, a backup needs 2"))
    );
    assert_eq!(metrics(at)["lifeboat_region_health{cluster=\"main\",region=\"r1\"}"], 3.0);
    let page = scene.daemon(&["status"]).expect(4).out;
    assert!(page.starts_with("main  AT RISK  1 of 2 regions answer, a backup needs 2"), "{page}");
    assert!(page.lines().any(|line| line.starts_with("  r1") && line.contains("AWAY ")), "{page}");

    // The memory is written within the minute, and a restart goes on with it: a dead region is not healthy because nobody
    // has asked it yet.
    let since = region["health_since"].clone();
    let file = scene.site.dir.path().join(scene.state).join("main").join("regions.json");
    eventually("the memory", || std::fs::read_to_string(&file).ok().filter(|text| text.contains("away")));
    daemon.kill();
    let daemon = scene.run_daemon();
    let at = address_of(&scene, &daemon);
    let after = snapshot(at, "the region after a restart", |status| status["clusters"][0]["regions"][1].is_object());
    let region = &after["clusters"][0]["regions"][1];
    assert_eq!((&region["health"], &region["health_since"]), (&Value::from("away"), &since), "{region:#}");

    scene.regions[1].faults().clear();
    let back = snapshot(at, "the region back", |status| status["clusters"][0]["regions"][1]["health"] == "healthy");
    assert_eq!(back["clusters"][0]["regions"][1]["breaker"], "closed");
    snapshot(at, "the end of the alarm", |status| {
        let alarms = status["clusters"][0]["alarms"].as_array().unwrap();
        alarms.iter().all(|alarm| alarm["name"] != "region-away/r1")
    });
    eventually("readiness", || (get(at, "/readyz").code == 200).then_some(()));
}

/// The address of a daemon that was begun after another: not the one that the last one left behind.
fn address_of(scene: &Scene, daemon: &support::Daemon) -> SocketAddr {
    let url = eventually("the new address", || {
        let said: Value = serde_json::from_str(&scene.daemon(&["--json", "status"]).out).unwrap();
        let is_new = said["daemon"]["pid"].as_u64() == Some(u64::from(daemon.pid()));
        said["daemon"]["http"].as_str().filter(|_| is_new).map(str::to_owned)
    });
    url.split_once("://").unwrap().1.parse().unwrap()
}

#[test]
fn with_a_token_and_tls_nobody_else_reads_and_the_status_tells_no_secret() {
    const TOKEN: &str = "correct-horse-battery-staple";
    let scene = Scene::new(1);
    let made = rcgen::generate_simple_self_signed(vec!["backup.example".to_owned()]).unwrap();
    let file = |name: &str, text: &str| {
        let path = scene.site.dir.path().join(name);
        lifeboat_testkit::write_private(&path, text).unwrap();
        path.display().to_string()
    };
    let (certificate, key) = (file("http.crt", &made.cert.pem()), file("http.pem", &made.signing_key.serialize_pem()));
    let token = file("http.token", TOKEN);
    let http = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\ntoken = \"file:{token}\"\ntls_certificate = \"{certificate}\"\ntls_key = \"file:{key}\"\n"
    );
    // A server is there for init and gone afterwards: that must not keep anybody from asking.
    let mut server = PgServer::builder(majors_under_test()[0]).start().unwrap();
    scene.configure_wal(&server.connection_string(), "", &http);
    scene.daemon(&["init"]).expect(0);
    server.stop(lifeboat_testkit::Stop::Fast).unwrap();
    let _daemon = scene.run_daemon();
    let at = address(&scene);

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let ask = |path: &str, header: &str| {
        let name = ServerName::try_from("backup.example").unwrap();
        let connection = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
        heard(rustls::StreamOwned::new(connection, TcpStream::connect(at).unwrap()), path, header)
    };
    let with = format!("Authorization: Bearer {TOKEN}\r\n");
    let description = ask(OPENAPI, &with).body;
    for (path, header, expected) in [
        ("/healthz", "", 200),
        ("/readyz", "", 401),
        ("/metrics", "", 401),
        ("/metrics", "Authorization: Bearer wrong\r\n", 401),
        ("/metrics", with.as_str(), 200),
        ("/readyz", with.as_str(), 503),
        ("/api/v1/status", with.as_str(), 200),
    ] {
        let answer = ask(path, header);
        assert_eq!(answer.code, expected, "{path} {header}: {}", answer.body);
        if path != "/metrics" || expected == 401 {
            described(&description, path, &answer);
        }
        for secret in [TOKEN, "test-secret-key", "lifeboat-sk-"] {
            assert!(!answer.body.contains(secret), "{path}: {}", answer.body);
        }
    }
    let status = ask("/api/v1/status", &with).json();
    assert_eq!(protection(&status), "not-protected", "{status:#}");
    let log = scene.daemon_log();
    assert!(!log.contains(TOKEN), "{log}");
}
