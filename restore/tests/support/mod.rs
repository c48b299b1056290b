//! A cluster, its regions, the two programs as a user has them, and an archive of its WAL that is sealed from `pg_wal`.

#![allow(dead_code, reason = "each test program uses a part of it")]

mod archive;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lifeboat_s3_testd::{Bucket, Config, Server};
use lifeboat_testkit::{PgServer, bin_dir, copy_program, give_to_postgres, scratch_dir};
use serde_json::Value;
use tempfile::TempDir;

pub use archive::Shipper;

pub const BUCKET: &str = "lifeboat";

/// Regions on S3 servers of their own, an identity, a configuration.
pub struct Scene {
    pub dir: TempDir,
    pub regions: Vec<Server>,
    pub public_key: String,
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

    /// The last line of `--json`.
    pub fn json(&self) -> Value {
        serde_json::from_str(self.out.lines().last().unwrap()).unwrap()
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// The program of the other crate, which the same test run has built.
fn daemon_program() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_lifeboat-restore")).with_file_name("lifeboatd");
    assert!(path.exists(), "{} is missing; build it with: cargo build -p lifeboat-daemon", path.display());
    path
}

impl Scene {
    /// A scene with `count` regions, listing in small pages. The programs are where the servers' account can run them.
    pub fn new(count: usize) -> Self {
        let dir = scratch_dir("lifeboat-pitr").unwrap();
        let config = || Config { buckets: vec![Bucket::plain(BUCKET)], page_size: 7, ..Config::default() };
        let regions: Vec<Server> = (0..count).map(|_| Server::start(config()).unwrap()).collect();
        let credentials = "[default]\naws_access_key_id = test-access-key\naws_secret_access_key = test-secret-key\n";
        write_private(&dir.path().join("credentials"), credentials);
        let program = dir.path().join("lifeboat-restore");
        copy_program(Path::new(env!("CARGO_BIN_EXE_lifeboat-restore")), &program).unwrap();
        let identity = dir.path().join("identity.key");
        let made = Command::new(&program).args(["keygen", "--out"]).arg(&identity).output().unwrap();
        let public_key = Said::from(made).expect(0).out.trim().to_owned();
        for name in ["identity.key", "credentials"] {
            // A server that is started by hand fetches its WAL by itself.
            give_to_postgres(&dir.path().join(name)).unwrap();
        }
        Self { dir, regions, public_key }
    }

    pub fn program(&self) -> PathBuf {
        self.dir.path().join("lifeboat-restore")
    }

    /// Writes the configuration for `server`, initialises the repository and makes a backup.
    pub fn init_and_back_up(&self, server: &PgServer) -> String {
        let mut text = format!("[[cluster]]\nname = \"main\"\nconnection = \"{}\"\n", server.connection_string());
        for (index, region) in self.regions.iter().enumerate() {
            text.push_str(&format!(
                "[[region]]\nname = \"r{index}\"\nurl = \"s3://{BUCKET}/pg\"\nendpoint = \"{}\"\nprofile = \"minio\"\n\
                 s3_region = \"us-east-1\"\ncredentials_file = \"{}\"\n",
                region.url(),
                self.dir.path().join("credentials").display()
            ));
        }
        let signing_key = self.signing_key();
        text.push_str(&format!(
            "[keys]\nrecipients = [\"{}\"]\nsigning_key = \"file:{}\"\n[state]\ndirectory = \"{}\"\n",
            self.public_key,
            signing_key.display(),
            self.dir.path().join("state").display()
        ));
        std::fs::write(self.dir.path().join("lifeboat.toml"), text).unwrap();
        self.daemon(&["init"]).expect(0);
        self.back_up()
    }

    pub fn signing_key(&self) -> PathBuf {
        self.dir.path().join("signing.key")
    }

    pub fn back_up(&self) -> String {
        let made = self.daemon(&["--json", "backup", "--type", "full"]).expect(0);
        made.json()["record"]["backup"].as_str().unwrap().to_owned()
    }

    pub fn daemon(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(daemon_program());
        command.arg("--config").arg(self.dir.path().join("lifeboat.toml")).stdin(Stdio::null());
        command.args(arguments).output().unwrap().into()
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

    /// `lifeboat-restore` with all regions and the identity, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program());
        for index in 0..self.regions.len() {
            command.args(["--region", &self.address(index)]);
        }
        command.arg("--identity").arg(self.dir.path().join("identity.key"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    pub fn restore(&self, arguments: &[&str]) -> Said {
        self.command(arguments).output().unwrap().into()
    }

    /// A place for a restored directory that the server's account may use.
    pub fn target(&self, name: &str) -> PathBuf {
        let parent = self.dir.path().join(name);
        std::fs::create_dir(&parent).unwrap();
        give_to_postgres(&parent).unwrap();
        parent.join("data")
    }

    /// Restores with `--start`, and returns the copy while it runs.
    pub fn start(&self, name: &str, major: u32, more: &[&str]) -> Copy {
        let target = self.target(name);
        let mut arguments = vec!["--json", "restore", "--start", "--to", target.to_str().unwrap()];
        arguments.extend(more);
        // Into a file: whoever looks for the reason of a test that hangs finds it there.
        let log = target.with_file_name("restore.log");
        let mut command = self.command(&arguments);
        command.env("LIFEBOAT_PG_BIN", bin_dir(major).unwrap()).stderr(std::fs::File::create(&log).unwrap());
        let mut said = Said::from(command.output().unwrap());
        said.err = std::fs::read_to_string(&log).unwrap();
        let said = said.expect(0);
        Copy { report: said.json(), data: target, major }
    }

    /// Which commits of the ledger a copy holds: from 1 to this, each once.
    #[track_caller]
    pub fn ledger(&self, copy: &Copy) -> i64 {
        let answer = copy.psql("SELECT count(*), coalesce(max(i), 0), count(DISTINCT i) FROM ledger");
        let figures: Vec<i64> = answer.split('|').map(|figure| figure.parse().unwrap()).collect();
        assert!(figures.iter().all(|figure| *figure == figures[0]), "a prefix without holes: {answer}");
        figures[0]
    }
}

/// A restored server that runs; stopped when dropped.
pub struct Copy {
    pub report: Value,
    pub data: PathBuf,
    pub major: u32,
}

impl Copy {
    #[track_caller]
    pub fn psql(&self, sql: &str) -> String {
        let connection = self.report["connection"].as_str().unwrap();
        let program = bin_dir(self.major).unwrap().join("psql");
        let said = Command::new(program).args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, connection]).output();
        Said::from(said.unwrap()).expect(0).out.trim().to_owned()
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        stop_server(&self.data);
    }
}

/// Ends the server of a data directory at once, if one runs.
pub fn stop_server(data: &Path) {
    let pid = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    if let Some(pid) = pid.lines().next() {
        drop(Command::new("kill").args(["-QUIT", pid]).status());
    }
}

pub fn write_private(path: &Path, text: &str) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
