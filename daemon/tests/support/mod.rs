//! A cluster, its regions and the two programs, as a user has them.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod history;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use lifeboat_s3_testd::{Bucket, Config, Server};
use lifeboat_testkit::{PgServer, Site, built_beside, majors_under_test};
use lifeboat_vocabulary::Lsn;

pub use lifeboat_testkit::{BUCKET, Said};

/// Two or more S3 regions, and a site with keys and addresses for them.
pub struct Scene {
    pub site: Arc<Site>,
    pub regions: Arc<Vec<Server>>,
    /// The name of the state directory.
    pub state: &'static str,
}

impl Scene {
    /// A scene with `count` regions on S3 servers of its own, listing in small pages.
    pub fn new(count: usize) -> Self {
        let config = || Config { buckets: vec![Bucket::plain(BUCKET)], page_size: 50, ..Config::default() };
        let regions: Vec<Server> = (0..count).map(|_| Server::start(config()).unwrap()).collect();
        let restore = built_beside(Path::new(env!("CARGO_BIN_EXE_lifeboatd")), "lifeboat-restore");
        let site = Site::new("lifeboat-e2e", &restore, regions.iter().map(Server::url).collect()).unwrap();
        Self { site: Arc::new(site), regions: Arc::new(regions), state: "state" }
    }

    /// Another host with the same regions and keys.
    pub fn beside(other: &Self, state: &'static str) -> Self {
        Self { site: Arc::clone(&other.site), regions: Arc::clone(&other.regions), state }
    }

    /// Writes the configuration for `server`; `more` is added to its end.
    pub fn configure(&self, server: &PgServer, more: &str) {
        self.configure_wal(&server.connection_string(), "", more);
    }

    pub fn config(&self) -> PathBuf {
        self.site.dir.path().join(format!("lifeboat-{}.toml", self.state))
    }

    /// The command for `lifeboatd`, without an argument.
    pub fn daemon_command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboatd"));
        command.arg("--config").arg(self.config()).stdin(Stdio::null());
        command
    }

    pub fn daemon(&self, arguments: &[&str]) -> Said {
        self.daemon_command().args(arguments).output().unwrap().into()
    }

    /// Initialises the repository and makes a backup.
    pub fn init_and_back_up(&self, server: &PgServer) -> String {
        self.configure(server, "");
        self.daemon(&["init"]).expect(0);
        self.daemon(&["--json", "backup", "--type", "full"]).expect(0).backup()
    }

    /// The keys of all objects of a region that contain `part`.
    pub fn keys(&self, region: usize, part: &str) -> Vec<String> {
        self.regions[region].keys(BUCKET).into_iter().filter(|key| key.contains(part)).collect()
    }
}

/// A running `lifeboatd run`; killed when dropped.
pub struct Daemon {
    child: std::process::Child,
    log: PathBuf,
}

impl Scene {
    /// A configuration with continuous WAL: state beside the scene, and `more` at its end.
    pub fn configure_wal(&self, connection: &str, cluster: &str, more: &str) {
        let mut text = self.site.configuration(connection, cluster, self.state);
        // Tests run beside each other, and there is only one port 9432.
        let http = if more.contains("[http]") { "" } else { "[http]\nlisten = \"off\"\n" };
        text.push_str(&format!("{http}{more}\n"));
        std::fs::write(self.config(), text).unwrap();
    }

    /// Starts `lifeboatd run`, its log in a file.
    pub fn run_daemon(&self) -> Daemon {
        self.run_daemon_with(&[])
    }

    /// As `run_daemon`, with these variables.
    pub fn run_daemon_with(&self, variables: &[(&str, &str)]) -> Daemon {
        let log = self.site.dir.path().join(format!("lifeboatd-{}.log", self.state));
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut command = self.daemon_command();
        command.arg("run").envs(variables.iter().copied()).stdout(Stdio::null()).stderr(file);
        Daemon { child: command.spawn().unwrap(), log }
    }

    /// As `run_daemon`, with a small disk of its own under the state directory.
    pub fn run_daemon_on_a_small_disk(&self, mib: u32) -> Daemon {
        self.on_a_small_disk(mib, "exec $0 --config $1 run")
    }

    /// As `run_daemon_on_a_small_disk`; when the first one ends, it is begun again, as by a service manager. It is a child
    /// of the process that is returned, which becomes the second one.
    pub fn run_daemon_twice_on_a_small_disk(&self, mib: u32) -> Daemon {
        self.on_a_small_disk(mib, "{ $0 --config $1 run; exec $0 --config $1 run; }")
    }

    fn on_a_small_disk(&self, mib: u32, then: &str) -> Daemon {
        let state = self.site.dir.path().join(self.state);
        std::fs::create_dir_all(&state).unwrap();
        let log = self.site.dir.path().join(format!("lifeboatd-{}.log", self.state));
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let script = format!("mount -t tmpfs -o size={mib}m tmpfs {} && {then}", state.display());
        let id = Command::new("id").arg("-u").output().unwrap();
        let rights: &[&str] = if id.stdout.starts_with(b"0\n") { &["-m"] } else { &["-rm"] };
        let mut command = Command::new("unshare");
        command.args(rights).args(["sh", "-c", &script, env!("CARGO_BIN_EXE_lifeboatd")]).arg(self.config());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        Daemon { child: command.spawn().unwrap(), log }
    }

    /// What the daemon says of cluster main; null if none runs.
    pub fn wal_status(&self) -> serde_json::Value {
        let said = self.daemon(&["--json", "status"]);
        let all: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        all["clusters"][0]["wal"].clone()
    }

    /// Waits until the status is as `wanted` says; panics with the last one otherwise.
    #[track_caller]
    pub fn wait_for_status(&self, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(90);
        loop {
            let status = self.wal_status();
            if wanted(&status) {
                return status;
            }
            if std::time::Instant::now() > patience {
                let log = std::fs::read_to_string(self.site.dir.path().join(format!("lifeboatd-{}.log", self.state)))
                    .unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(30).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                panic!("{what} does not come:\n{status:#}\n{}", tail.join("\n"));
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    /// Waits until every region holds everything up to `lsn` (as the server prints it).
    #[track_caller]
    pub fn wait_until_durable(&self, lsn: &str) -> serde_json::Value {
        let wanted = lsn_number(lsn);
        self.wait_for_status(&format!("WAL up to {lsn} in every region"), |status| {
            let regions = status["regions"].as_array().cloned().unwrap_or_default();
            !regions.is_empty()
                && regions.iter().all(|pair| pair[1]["durable"].as_str().is_some_and(|text| lsn_number(text) >= wanted))
        })
    }

    /// Two regions and a daemon that has made its first backup of this server.
    pub fn protected(connection: &str, cluster: &str, more: &str) -> (Self, Daemon) {
        let scene = Self::new(2);
        scene.configure_wal(connection, cluster, more);
        scene.daemon(&["init"]).expect(0);
        let daemon = scene.run_daemon();
        scene.wait_for_backups(1);
        (scene, daemon)
    }

    /// Waits until the newest backup is listed.
    pub fn wait_for_backups(&self, count: usize) {
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(120);
        while self.daemon(&["list"]).out.lines().filter(|line| line.contains("Z-")).count() < count {
            assert!(std::time::Instant::now() < patience, "there are no {count} backups: {}", self.daemon_log());
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }

    pub fn daemon_log(&self) -> String {
        std::fs::read_to_string(self.site.dir.path().join(format!("lifeboatd-{}.log", self.state))).unwrap_or_default()
    }
}

/// Rows `from` to `to` of the table `ledger`; returns where the WAL ends then.
pub fn insert(server: &PgServer, from: u32, to: u32) -> String {
    server.psql("postgres", &format!("INSERT INTO ledger SELECT generate_series({from}, {to})")).unwrap();
    flushed(server)
}

/// Makes the table that [`insert`] fills.
pub const LEDGER: &str = "CREATE TABLE ledger (id bigint PRIMARY KEY)";

/// A server with an empty table `ledger`.
pub fn server_with_ledger(major: u32) -> PgServer {
    let server = PgServer::builder(major).start().unwrap();
    server.psql("postgres", LEDGER).unwrap();
    server
}

/// Where the flushed WAL of a server ends.
pub fn flushed(server: &PgServer) -> String {
    server.psql("postgres", "SELECT pg_current_wal_flush_lsn()").unwrap().trim().to_owned()
}

/// A server with a table of 300 000 rows.
pub fn server_with_rows() -> PgServer {
    let server = PgServer::builder(majors_under_test()[0]).start().unwrap();
    let rows =
        "CREATE TABLE rows AS SELECT i, md5(i::text) || md5((i * 7)::text) AS t FROM generate_series(1, 300000) i";
    server.psql("postgres", rows).unwrap();
    server
}

/// `16/B374D848` as a number.
pub fn lsn_number(text: &str) -> u64 {
    text.trim().parse::<Lsn>().unwrap().as_bytes()
}

impl Daemon {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// SIGKILL, and its end.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and its exit code.
    #[track_caller]
    pub fn stop(mut self) -> Option<i32> {
        self.signal("-TERM");
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(std::time::Instant::now() < patience, "the daemon does not stop");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}
