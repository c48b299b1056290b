//! This project: `lifeboatd` backs up, `lifeboat-restore` restores.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::wal::{Manner, WalTool};
use crate::plan::{BUCKETS, Copies};
use crate::region::Region;
use crate::shell::Shell;
use crate::stage::{S3_REGION, Stage, write_for_postgres};
use crate::tools::tool::Tool;

/// Its bucket.
const BUCKET: &str = BUCKETS[0];
/// The folder in the bucket.
const PREFIX: &str = "bench";

/// `lifeboatd` and `lifeboat-restore` in `bin_dir`, or beside this program.
pub(crate) fn programs(bin_dir: Option<&Path>) -> Result<[PathBuf; 2]> {
    let own = std::env::current_exe().context("find this program")?;
    let bin_dir = bin_dir.or(own.parent()).context("this program lies in no directory")?;
    let programs = ["lifeboatd", "lifeboat-restore"].map(|name| bin_dir.join(name));
    for program in &programs {
        let path = program.display();
        ensure!(program.is_file(), "there is no {path}: build it with `cargo build --release`, or give --bin-dir");
    }
    Ok(programs)
}

/// Both binaries, and a key that they share.
#[derive(Debug)]
pub(crate) struct Lifeboat {
    daemon: PathBuf,
    restore: PathBuf,
    home: PathBuf,
    public_key: String,
    version: String,
}

impl Lifeboat {
    /// Takes the binaries from `bin_dir`, or from beside this program, and makes a key.
    pub(crate) fn open(bin_dir: Option<&Path>, stage: &Stage) -> Result<Self> {
        let [daemon, restore] = programs(bin_dir)?;
        let (daemon, restore) = (stage.bring(&daemon)?, stage.bring(&restore)?);
        let home = stage.home(BUCKET)?;
        let identity = home.join("identity");
        let keygen = Shell::new(format!("{} keygen --out {}", restore.display(), identity.display()));
        let public_key = stage.run(&keygen).context("make a key")?.trim().to_owned();
        let version = stage.run(&Shell::new(format!("{} --version", daemon.display())))?.trim().to_owned();
        Ok(Self { daemon, restore, home, public_key, version })
    }

    fn config_file(&self) -> PathBuf {
        self.home.join("lifeboat.toml")
    }

    fn daemon(&self, command: &str) -> Shell {
        Shell::new(format!("{} --config {} {command}", self.daemon.display(), self.config_file().display()))
    }

    /// The daemon's program, and its configuration.
    pub(super) fn daemon_program(&self) -> (&Path, PathBuf) {
        (&self.daemon, self.config_file())
    }

    /// Where the daemon keeps what must outlive a restart.
    pub(super) fn state_directory(&self) -> PathBuf {
        self.home.join("state")
    }

    /// Writes the configuration and makes the repository.
    pub(super) fn init(&self, stage: &Stage, copies: Copies, manner: Manner) -> Result<()> {
        write_for_postgres(&self.config_file(), &self.config(stage, copies, manner)?)?;
        stage.run(&self.daemon("init")).context("prepare Lifeboat")?;
        Ok(())
    }

    /// Whether there is a backup that is good and in all regions.
    pub(super) fn has_backup(&self, stage: &Stage) -> Result<bool> {
        let said = stage.run(&self.daemon("--json list")).context("list Lifeboat's backups")?;
        let list: serde_json::Value = serde_json::from_str(&said).context("understand the list of backups")?;
        let backups = list["backups"].as_array().context("understand the list of backups")?;
        Ok(backups.iter().any(|backup| backup["state"] == "ok"))
    }

    /// The command that restores from the first region into the target directory; `global` and `more` are options.
    pub(super) fn restore_command(&self, stage: &Stage, global: &str, more: &str) -> Shell {
        let [region, _] = stage.regions();
        Shell::new(format!(
            "{} {global} --region '{}' --identity {} restore --to {} {more}",
            self.restore.display(),
            address(stage, region),
            self.home.join("identity").display(),
            stage.target().display(),
        ))
    }

    fn config(&self, stage: &Stage, copies: Copies, manner: Manner) -> Result<String> {
        let mut text = String::new();
        let connection = stage.cluster().connection_string();
        write!(text, "[[cluster]]\nname = \"main\"\nconnection = \"{connection}\"\n{}", cluster_settings(manner))?;
        for (name, region) in ["one", "two"].iter().zip(stage.regions()).take(copies.count()) {
            write!(
                text,
                "[[region]]\nname = \"{name}\"\nurl = \"s3://{BUCKET}/{PREFIX}\"\nprofile = \"other\"\n\
                 endpoint = \"{}\"\ns3_region = \"{S3_REGION}\"\nca_file = \"{}\"\ncredentials_file = \"{}\"\n",
                region.endpoint(),
                stage.ca().display(),
                stage.credentials_file().display(),
            )?;
        }
        let signing_key = self.home.join("signing-key");
        write!(
            text,
            "[durability]\nbackup_quorum = {}\n{}[keys]\nrecipients = [\"{}\"]\nsigning_key = \"file:{}\"\n\
             [state]\ndirectory = \"{}\"\n",
            copies.count(),
            durability_settings(manner),
            self.public_key,
            signing_key.display(),
            self.state_directory().display(),
        )?;
        Ok(text)
    }
}

fn address(stage: &Stage, region: &Region) -> String {
    format!(
        "s3://{BUCKET}/{PREFIX}?endpoint={}&profile=other&region={S3_REGION}&ca={}&credentials_file={}",
        region.endpoint(),
        stage.ca().display(),
        stage.credentials_file().display(),
    )
}

impl Tool for Lifeboat {
    fn title(&self) -> &'static str {
        "Lifeboat"
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn settings(&self) -> &'static str {
        "defaults: zstd 3, encrypted to one public key, both regions from one pass, everything synced before a restore \
         ends; WAL: wal_quorum 1, flush interval as the table says; synchronous: synchronous_standby_names = \
         'ANY 1 (lifeboat)'"
    }

    fn bucket(&self) -> &'static str {
        BUCKET
    }

    fn prepare(&self, stage: &Stage, copies: Copies) -> Result<()> {
        self.init(stage, copies, Manner::EverySecond)
    }

    fn backup(&self, _: &Stage, _: Copies) -> Shell {
        self.daemon("backup --type full")
    }

    fn finish(&self, _: &Stage) -> Result<()> {
        Ok(())
    }

    fn restore(&self, stage: &Stage) -> Shell {
        self.restore_command(stage, "", "")
    }

    fn wal(&self) -> Option<&dyn WalTool> {
        Some(self)
    }
}

/// The keys of a configuration that decide how WAL leaves the server.
fn cluster_settings(manner: Manner) -> &'static str {
    match manner {
        Manner::Synchronous => "[cluster.wal]\nsynchronous = true\n",
        _ => "",
    }
}

/// The same, in the section on durability.
fn durability_settings(manner: Manner) -> &'static str {
    match manner {
        Manner::TenTimesASecond => "flush_interval = \"100ms\"\n",
        _ => "",
    }
}
