//! pgBackRest as its users set it up: zstd, encryption, bundles, block incremental where the version has it.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::wal::WalTool;
use crate::plan::{BUCKETS, Copies};
use crate::prerequisites;
use crate::serve_s3::{ACCESS_KEY, SECRET_KEY};
use crate::shell::Shell;
use crate::stage::{S3_REGION, Stage, write_for_postgres};
use crate::tools::tool::Tool;

/// Its bucket.
const BUCKET: &str = BUCKETS[1];
/// The first version with block incremental backups (pgBackRest release notes, v2.46).
const FIRST_WITH_BLOCKS: (u32, u32) = (2, 46);

/// The program from the system's packages.
#[derive(Debug)]
pub(crate) struct Pgbackrest {
    program: PathBuf,
    home: PathBuf,
    version: String,
}

impl Pgbackrest {
    /// Finds the program, or installs its package.
    pub(crate) fn open(stage: &Stage) -> Result<Self> {
        let program = prerequisites::pgbackrest()?;
        let home = stage.home(BUCKET)?;
        let version = stage.run(&Shell::new(format!("{} version", program.display())))?.trim().to_owned();
        Ok(Self { program, home, version })
    }

    /// Where its own files are.
    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    pub(super) fn config_file(&self) -> PathBuf {
        self.home.join("pgbackrest.conf")
    }

    /// The program and the options that all its commands have.
    pub(super) fn command(&self) -> String {
        format!("{} --config={} --stanza=main", self.program.display(), self.config_file().display())
    }

    /// Its configuration, with `[main]` as the last section.
    pub(super) fn config(&self, stage: &Stage, copies: Copies) -> Result<String> {
        let mut text = "[global]\n".to_owned();
        for (number, region) in (1..).zip(stage.regions()).take(copies.count()) {
            // By name, because this tool does not look for addresses in certificates.
            write!(
                text,
                "repo{number}-type=s3\nrepo{number}-path=/repo\nrepo{number}-s3-bucket={BUCKET}\n\
                 repo{number}-s3-endpoint=localhost\nrepo{number}-storage-port={}\nrepo{number}-s3-region={S3_REGION}\n\
                 repo{number}-s3-key={ACCESS_KEY}\nrepo{number}-s3-key-secret={SECRET_KEY}\n\
                 repo{number}-s3-uri-style=path\nrepo{number}-storage-ca-file={}\nrepo{number}-bundle=y\n\
                 repo{number}-cipher-type=aes-256-cbc\nrepo{number}-cipher-pass=bench-passphrase-{number}\n\
                 repo{number}-retention-full=20\n",
                region.port(),
                stage.ca().display(),
            )?;
            if has_blocks(&self.version) {
                writeln!(text, "repo{number}-block=y")?;
            }
        }
        let cluster = stage.cluster();
        write!(
            text,
            "compress-type=zst\ncompress-level=3\nprocess-max=2\nstart-fast=y\nlog-level-console=warn\n\
             log-level-file=off\nspool-path={home}/spool\nlock-path={home}/lock\n\
             [main]\npg1-path={}\npg1-port={}\npg1-socket-path={}\npg1-user=postgres\n",
            cluster.data_dir().display(),
            cluster.port(),
            cluster.socket_dir().display(),
            home = self.home.display(),
        )?;
        Ok(text)
    }

    fn archive_with(stage: &Stage, command: &str) -> Result<()> {
        let sql = format!("alter system set archive_command = '{command}';\nselect pg_reload_conf()");
        stage.cluster().psql("postgres", &sql).context("change the cluster's archive command")?;
        Ok(())
    }
}

/// Whether `pgBackRest 2.45` and the like can make block incremental backups.
fn has_blocks(version: &str) -> bool {
    let number = version.split(' ').next_back().unwrap_or_default();
    let mut parts = number.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= FIRST_WITH_BLOCKS
}

impl Tool for Pgbackrest {
    fn title(&self) -> &'static str {
        "pgBackRest"
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn settings(&self) -> &'static str {
        "zstd 3, aes-256-cbc, process-max 2, bundles, block incremental from version 2.46; two regions are two runs \
         in sequence, because one run writes one repository; WAL: archive-async, archive_timeout 60 s, both \
         repositories at once, archive-get-queue-max 512MB"
    }

    fn bucket(&self) -> &'static str {
        BUCKET
    }

    fn prepare(&self, stage: &Stage, copies: Copies) -> Result<()> {
        write_for_postgres(&self.config_file(), &self.config(stage, copies)?)?;
        stage.run(&Shell::new(format!("{} stanza-create", self.command()))).context("prepare pgBackRest")?;
        Self::archive_with(stage, &format!("{} archive-push %p", self.command()))
    }

    fn backup(&self, _: &Stage, copies: Copies) -> Shell {
        let one = |number| format!("{} --repo={number} --type=full backup", self.command());
        Shell::new(match copies {
            Copies::One => one(1),
            Copies::Two => format!("{} && {}", one(1), one(2)),
        })
    }

    fn finish(&self, stage: &Stage) -> Result<()> {
        Self::archive_with(stage, "/bin/true")
    }

    fn restore(&self, stage: &Stage) -> Shell {
        let target = stage.target();
        Shell::new(format!(
            "{} --repo=1 --pg1-path={} --type=immediate --target-action=promote restore",
            self.command(),
            target.display()
        ))
    }

    fn wal(&self) -> Option<&dyn WalTool> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_incremental_is_asked_of_those_versions_only_that_have_it() {
        for (version, expected) in [
            ("", false),
            ("pgBackRest", false),
            ("pgBackRest 1.99", false),
            ("pgBackRest 2.45", false),
            ("pgBackRest 2.46", true),
            ("pgBackRest 2.54.2", true),
            ("pgBackRest 3.0", true),
        ] {
            assert_eq!(has_blocks(version), expected, "{version}");
        }
    }
}
