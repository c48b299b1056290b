//! A cluster, its regions, the two programs as a user has them, and an archive of its WAL that is sealed from `pg_wal`.

#![allow(dead_code, reason = "each test program uses a part of it")]

mod archive;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lifeboat_s3_testd::{Bucket, Config, Server};
use lifeboat_testkit::{PgServer, Site, bin_dir, built_beside};
use serde_json::Value;

pub use archive::Shipper;
pub use lifeboat_testkit::{BUCKET, Said};

/// Regions on S3 servers of their own, and a site with keys and addresses for them.
pub struct Scene {
    pub site: Site,
    pub regions: Vec<Server>,
    daemon: PathBuf,
}

impl Scene {
    /// A scene with `count` regions, listing in small pages.
    pub fn new(count: usize) -> Self {
        let config = || Config { buckets: vec![Bucket::plain(BUCKET)], page_size: 7, ..Config::default() };
        let regions: Vec<Server> = (0..count).map(|_| Server::start(config()).unwrap()).collect();
        let restore = Path::new(env!("CARGO_BIN_EXE_lifeboat-restore"));
        let site = Site::new("lifeboat-pitr", restore, regions.iter().map(Server::url).collect()).unwrap();
        Self { site, regions, daemon: built_beside(restore, "lifeboatd") }
    }

    /// Writes the configuration for `server`, initialises the repository and makes a backup.
    pub fn init_and_back_up(&self, server: &PgServer) -> String {
        let text = self.site.configuration(&server.connection_string(), "", "state");
        std::fs::write(self.site.dir.path().join("lifeboat.toml"), text).unwrap();
        self.daemon(&["init"]).expect(0);
        self.back_up()
    }

    pub fn back_up(&self) -> String {
        self.daemon(&["--json", "backup", "--type", "full"]).expect(0).backup()
    }

    pub fn daemon(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(&self.daemon);
        command.arg("--config").arg(self.site.dir.path().join("lifeboat.toml")).stdin(Stdio::null());
        command.args(arguments).output().unwrap().into()
    }

    /// Restores with `--start`, and returns the copy while it runs.
    pub fn start(&self, name: &str, major: u32, more: &[&str]) -> Copy {
        let target = self.site.target(name);
        let mut arguments = vec!["--json", "restore", "--start", "--to", target.to_str().unwrap()];
        arguments.extend(more);
        // Into a file: whoever looks for the reason of a test that hangs finds it there.
        let log = target.with_file_name("restore.log");
        let mut command = self.site.restore_command(&arguments);
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
