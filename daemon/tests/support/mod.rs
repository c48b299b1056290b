//! A cluster, its regions and the two programs, as a user has them.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod history;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use lifeboat_s3_testd::{Bucket, Config, Server};
use lifeboat_testkit::{PgServer, copy_program, give_to_postgres, scratch_dir};
use lifeboat_vocabulary::Lsn;
use tempfile::TempDir;

pub const BUCKET: &str = "lifeboat";

/// Two or more S3 regions, an identity, a configuration.
pub struct Scene {
    pub dir: Arc<TempDir>,
    pub regions: Arc<Vec<Server>>,
    pub public_key: String,
    /// The name of the state directory.
    pub state: &'static str,
}

/// What a program said.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// The program of the other crate, which the same test run has built.
fn restore_program() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_lifeboatd")).with_file_name("lifeboat-restore");
    assert!(path.exists(), "{} is missing; build it with: cargo build -p lifeboat-restore", path.display());
    path
}

impl Scene {
    /// A scene with `count` regions on S3 servers of its own, listing in small pages.
    pub fn new(count: usize) -> Self {
        let dir = scratch_dir("lifeboat-e2e").unwrap();
        let config = || Config { buckets: vec![Bucket::plain(BUCKET)], page_size: 50, ..Config::default() };
        let regions: Vec<Server> = (0..count).map(|_| Server::start(config()).unwrap()).collect();
        let credentials = "[default]\naws_access_key_id = test-access-key\naws_secret_access_key = test-secret-key\n";
        write_private(&dir.path().join("credentials"), credentials);
        let identity = dir.path().join("identity.key");
        // Where the servers' account can run it: it is the restore_command of what it restores.
        copy_program(&restore_program(), &dir.path().join("lifeboat-restore")).unwrap();
        let made = Command::new(restore_program()).args(["keygen", "--out"]).arg(&identity).output().unwrap();
        let made = Said::from(made).expect(0);
        // A restored server that fetches WAL by itself does so with its own account.
        for name in ["identity.key", "credentials"] {
            give_to_postgres(&dir.path().join(name)).unwrap();
        }
        let (dir, regions) = (Arc::new(dir), Arc::new(regions));
        Self { dir, regions, state: "state", public_key: made.out.trim().to_owned() }
    }

    /// Another host with the same regions and keys.
    pub fn beside(other: &Self, state: &'static str) -> Self {
        let (dir, regions) = (Arc::clone(&other.dir), Arc::clone(&other.regions));
        Self { dir, regions, public_key: other.public_key.clone(), state }
    }

    pub fn identity(&self) -> PathBuf {
        self.dir.path().join("identity.key")
    }

    /// Writes the configuration for `server`; `more` is added to its end.
    pub fn configure(&self, server: &PgServer, more: &str) {
        self.configure_wal(&server.connection_string(), "", more);
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join(format!("lifeboat-{}.toml", self.state))
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

    /// The address of a region for the command line.
    pub fn address(&self, index: usize) -> String {
        let credentials = self.dir.path().join("credentials");
        let url = self.regions[index].url();
        format!(
            "s3://{BUCKET}/pg?endpoint={url}&profile=minio&region=us-east-1&credentials_file={}",
            credentials.display()
        )
    }

    /// `lifeboat-restore` with these regions and nothing else.
    pub fn restore_from(&self, regions: &[usize], arguments: &[&str]) -> Said {
        let mut command = Command::new(self.dir.path().join("lifeboat-restore"));
        for index in regions {
            command.args(["--region", &self.address(*index)]);
        }
        command.args(arguments).stdin(Stdio::null()).output().unwrap().into()
    }

    /// `lifeboat-restore` with all regions and the identity.
    pub fn restore(&self, arguments: &[&str]) -> Said {
        let all: Vec<usize> = (0..self.regions.len()).collect();
        let identity = self.identity();
        let mut given = vec!["--identity", identity.to_str().unwrap()];
        given.extend(arguments);
        self.restore_from(&all, &given)
    }

    /// A place for a restored directory that the server's account may use.
    pub fn target(&self, name: &str) -> PathBuf {
        let parent = self.dir.path().join(name);
        std::fs::create_dir(&parent).unwrap();
        give_to_postgres(&parent).unwrap();
        parent.join("data")
    }

    /// Initialises the repository and makes a backup.
    pub fn init_and_back_up(&self, server: &PgServer) -> String {
        self.configure(server, "");
        self.daemon(&["init"]).expect(0);
        let made = self.daemon(&["--json", "backup", "--type", "full"]).expect(0);
        backup_id(&made.out)
    }

    /// The keys of all objects of a region that contain `part`.
    pub fn keys(&self, region: usize, part: &str) -> Vec<String> {
        self.regions[region].keys(BUCKET).into_iter().filter(|key| key.contains(part)).collect()
    }
}

/// The name of the backup in the last line of `backup --json`.
pub fn backup_id(out: &str) -> String {
    let last: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    last["record"]["backup"].as_str().unwrap().to_owned()
}

pub fn write_private(path: &Path, text: &str) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A running `lifeboatd run`; killed when dropped.
pub struct Daemon {
    child: std::process::Child,
    log: PathBuf,
}

impl Scene {
    /// A configuration with continuous WAL: state beside the scene, and `more` at its end.
    pub fn configure_wal(&self, connection: &str, cluster: &str, more: &str) {
        let mut text = format!("[[cluster]]\nname = \"main\"\nconnection = \"{connection}\"\n{cluster}\n");
        for (index, region) in self.regions.iter().enumerate() {
            text.push_str(&format!(
                "[[region]]\nname = \"r{index}\"\nurl = \"s3://{BUCKET}/pg\"\nendpoint = \"{}\"\nprofile = \"minio\"\n\
                 s3_region = \"us-east-1\"\ncredentials_file = \"{}\"\n",
                region.url(),
                self.dir.path().join("credentials").display()
            ));
        }
        // Tests run beside each other, and there is only one port 9432.
        let http = if more.contains("[http]") { "" } else { "[http]\nlisten = \"off\"\n" };
        text.push_str(&format!(
            "[keys]\nrecipients = [\"{}\"]\nsigning_key = \"file:{}\"\n[state]\ndirectory = \"{}\"\n{http}{more}\n",
            self.public_key,
            self.dir.path().join("signing.key").display(),
            self.dir.path().join(self.state).display()
        ));
        std::fs::write(self.config(), text).unwrap();
    }

    /// Starts `lifeboatd run`, its log in a file.
    pub fn run_daemon(&self) -> Daemon {
        self.run_daemon_with(&[])
    }

    /// As `run_daemon`, with these variables.
    pub fn run_daemon_with(&self, variables: &[(&str, &str)]) -> Daemon {
        let log = self.dir.path().join(format!("lifeboatd-{}.log", self.state));
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
        let state = self.dir.path().join(self.state);
        std::fs::create_dir_all(&state).unwrap();
        let log = self.dir.path().join(format!("lifeboatd-{}.log", self.state));
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
                let log = std::fs::read_to_string(self.dir.path().join(format!("lifeboatd-{}.log", self.state)))
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

    /// Waits until the newest backup is listed.
    pub fn wait_for_backups(&self, count: usize) {
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(120);
        while self.daemon(&["list"]).out.lines().filter(|line| line.contains("Z-")).count() < count {
            assert!(std::time::Instant::now() < patience, "there are no {count} backups: {}", self.daemon_log());
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }

    pub fn daemon_log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("lifeboatd-{}.log", self.state))).unwrap_or_default()
    }
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
