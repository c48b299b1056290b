//! What tests of both programs begin with: credentials, keys, addresses of regions, and the programs as a user has them.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::account::{copy_program, give_to_postgres, scratch_dir};

/// The bucket of every region.
pub const BUCKET: &str = "lifeboat";

const CREDENTIALS: &str = "[default]\naws_access_key_id = test-access-key\naws_secret_access_key = test-secret-key\n";

/// What a program printed, and how it ended.
#[derive(Clone, Debug)]
pub struct Said {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// The same, if it ended with this exit code.
    ///
    /// # Panics
    /// If it did not, with everything that it printed.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// The last line of `--json`.
    ///
    /// # Panics
    /// If it is not JSON.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        let last = self.out.lines().last().expect("a line was printed");
        serde_json::from_str(last).expect("the last line is JSON")
    }

    /// The name of the backup that `backup --json` has made.
    ///
    /// # Panics
    /// If it has made none.
    #[must_use]
    #[track_caller]
    pub fn backup(&self) -> String {
        self.json()["record"]["backup"].as_str().expect("a backup was made").to_owned()
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// A directory with credentials, an identity and `lifeboat-restore`, for regions on S3 servers that the test runs. The
/// servers' account may read all of it: a restored server fetches its WAL with it.
#[derive(Debug)]
pub struct Site {
    /// Where everything is.
    pub dir: TempDir,
    /// That of the identity.
    pub public_key: String,
    endpoints: Vec<String>,
}

impl Site {
    /// A site for regions at these endpoints; `restore_program` is the program that the test run has built.
    ///
    /// # Errors
    /// If a file cannot be made, or `keygen` fails.
    pub fn new(name: &str, restore_program: &Path, endpoints: Vec<String>) -> Result<Self> {
        let dir = scratch_dir(name)?;
        let site = Self { dir, public_key: String::new(), endpoints };
        write_private(&site.credentials(), CREDENTIALS)?;
        copy_program(restore_program, &site.restore_program())?;
        let keygen = Command::new(site.restore_program()).args(["keygen", "--out"]).arg(site.identity()).output();
        let made = Said::from(keygen.context("run keygen")?);
        ensure!(made.code == Some(0), "keygen failed: {}", made.err);
        give_to_postgres(&site.identity())?;
        give_to_postgres(&site.credentials())?;
        Ok(Self { public_key: made.out.trim().to_owned(), ..site })
    }

    fn credentials(&self) -> PathBuf {
        self.dir.path().join("credentials")
    }

    /// The private key.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.dir.path().join("identity.key")
    }

    /// The daemon's signing key, which `init` makes.
    #[must_use]
    pub fn signing_key(&self) -> PathBuf {
        self.dir.path().join("signing.key")
    }

    /// `lifeboat-restore`, where the servers' account can run it.
    #[must_use]
    pub fn restore_program(&self) -> PathBuf {
        self.dir.path().join("lifeboat-restore")
    }

    /// A configuration of the daemon for cluster `main`: `cluster` is added to the section of the cluster, `state` is the
    /// name of the state directory. More sections may follow.
    #[must_use]
    pub fn configuration(&self, connection: &str, cluster: &str, state: &str) -> String {
        let mut text = format!("[[cluster]]\nname = \"main\"\nconnection = \"{connection}\"\n{cluster}\n");
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            text.push_str(&format!(
                "[[region]]\nname = \"r{index}\"\nurl = \"s3://{BUCKET}/pg\"\nendpoint = \"{endpoint}\"\n\
                 profile = \"minio\"\ns3_region = \"us-east-1\"\ncredentials_file = \"{}\"\n",
                self.credentials().display()
            ));
        }
        text + &format!(
            "[keys]\nrecipients = [\"{}\"]\nsigning_key = \"file:{}\"\n[state]\ndirectory = \"{}\"\n",
            self.public_key,
            self.signing_key().display(),
            self.dir.path().join(state).display()
        )
    }

    /// The address of a region for the command line.
    #[must_use]
    pub fn address(&self, region: usize) -> String {
        let (endpoint, credentials) = (&self.endpoints[region], self.credentials());
        format!(
            "s3://{BUCKET}/pg?endpoint={endpoint}&profile=minio&region=us-east-1&credentials_file={}",
            credentials.display()
        )
    }

    /// `lifeboat-restore` with all regions and the identity, not started yet.
    #[must_use]
    pub fn restore_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command_for(&(0..self.endpoints.len()).collect::<Vec<_>>());
        command.arg("--identity").arg(self.identity()).args(arguments);
        command
    }

    fn command_for(&self, regions: &[usize]) -> Command {
        let mut command = Command::new(self.restore_program());
        for region in regions {
            command.args(["--region", &self.address(*region)]);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs `lifeboat-restore` with all regions and the identity.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn restore(&self, arguments: &[&str]) -> Said {
        self.restore_command(arguments).output().expect("lifeboat-restore starts").into()
    }

    /// Runs `lifeboat-restore` with these regions and no identity.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn restore_from(&self, regions: &[usize], arguments: &[&str]) -> Said {
        self.command_for(regions).args(arguments).output().expect("lifeboat-restore starts").into()
    }

    /// A place for a restored directory that the servers' account may use.
    ///
    /// # Panics
    /// If it exists already.
    #[must_use]
    pub fn target(&self, name: &str) -> PathBuf {
        let parent = self.dir.path().join(name);
        fs::create_dir(&parent).expect("every target has a name of its own");
        give_to_postgres(&parent).expect("the target can be given away");
        parent.join("data")
    }
}

/// A program that the same test run has built beside `program`, the one that the test belongs to.
///
/// # Panics
/// If it is not there: then only a part of the workspace was built.
#[must_use]
pub fn built_beside(program: &Path, name: &str) -> PathBuf {
    let path = program.with_file_name(name);
    assert!(path.exists(), "{} is missing; build the whole workspace: cargo build --workspace", path.display());
    path
}

/// Makes a file that only its owner can read.
///
/// # Errors
/// If it exists already, or cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("make {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
}
