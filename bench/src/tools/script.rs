//! What people script by hand: PostgreSQL's own copy, compressed, encrypted and uploaded in one pipe.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;

use super::wal::WalTool;
use crate::plan::{BUCKETS, Copies};
use crate::prerequisites;
use crate::region::Region;
use crate::serve_s3::{ACCESS_KEY, SECRET_KEY};
use crate::shell::Shell;
use crate::stage::{S3_REGION, Stage, write_for_postgres};
use crate::tools::tool::Tool;

/// Its bucket.
const BUCKET: &str = BUCKETS[2];
/// The only object.
const KEY: &str = "base.tar.zst.enc";

/// Makes sure of the programs, and gives awscli's.
pub(crate) fn programs() -> Result<PathBuf> {
    prerequisites::need(&["zstd", "openssl", "curl", "tar", "tee", "mkfifo"])?;
    prerequisites::aws()
}

/// `pg_basebackup`, zstd, openssl, and awscli or curl.
#[derive(Debug)]
pub(crate) struct Script {
    aws: PathBuf,
    home: PathBuf,
    version: String,
}

impl Script {
    /// Writes the files that its commands read.
    pub(crate) fn open(stage: &Stage) -> Result<Self> {
        let aws = programs()?;
        let home = stage.home(BUCKET)?;
        write_for_postgres(&home.join("passphrase"), "bench-passphrase\n")?;
        write_for_postgres(&home.join("curlrc"), &format!("user = \"{ACCESS_KEY}:{SECRET_KEY}\"\n"))?;
        let versions = format!(
            "{}/pg_basebackup --version; zstd --version | grep -o 'v[0-9.]*' | sed 's/^v/zstd /'; \
             openssl version | cut -d' ' -f1,2; {} --version 2>&1 | cut -d' ' -f1 | tr / ' '",
            stage.cluster().bin_dir().display(),
            aws.display()
        );
        let version = stage.run(&Shell::new(versions))?.trim().replace('\n', ", ");
        Ok(Self { aws, home, version })
    }

    /// As uploads begin, their size is unknown: awscli needs a hint to choose the size of its parts.
    fn upload(&self, stage: &Stage, region: &Region) -> String {
        format!(
            "{} s3 cp - s3://{BUCKET}/{KEY} --endpoint-url {} --expected-size {} --only-show-errors",
            self.aws.display(),
            region.endpoint(),
            stage.data_bytes()
        )
    }

    fn passphrase(&self) -> String {
        format!("-pbkdf2 -pass file:{}/passphrase", self.home.display())
    }
}

impl Tool for Script {
    fn title(&self) -> &'static str {
        "script"
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn settings(&self) -> &'static str {
        "pg_basebackup -Ft -X fetch | zstd -3 -T2 | openssl enc -aes-256-ctr | aws s3 cp; two regions with tee; \
         restores with curl and tar, nothing authenticated and nothing synced"
    }

    fn bucket(&self) -> &'static str {
        BUCKET
    }

    fn prepare(&self, _: &Stage, _: Copies) -> Result<()> {
        Ok(())
    }

    fn backup(&self, stage: &Stage, copies: Copies) -> Shell {
        let cluster = stage.cluster();
        let dump = format!(
            "{}/pg_basebackup -h {} -p {} -U postgres -Ft -X fetch -c fast -D - | zstd -3 -T2 -q | \
             openssl enc -aes-256-ctr {}",
            cluster.bin_dir().display(),
            cluster.socket_dir().display(),
            cluster.port(),
            self.passphrase()
        );
        let [first, second] = stage.regions();
        let (first, second) = (self.upload(stage, first), self.upload(stage, second));
        let text = match copies {
            Copies::One => format!("{dump} | {first}"),
            // A named pipe and not `>(…)`: the shell waits for the second upload and hears of its failure.
            Copies::Two => {
                let pipe = self.home.join("second");
                let pipe = pipe.display();
                format!(
                    "rm -f {pipe} && mkfifo {pipe} && {{ {second} < {pipe} & }} && {dump} | tee {pipe} | {first} && wait $!"
                )
            }
        };
        let path = |path: PathBuf| path.display().to_string();
        let environment = BTreeMap::from([
            ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
            ("AWS_SHARED_CREDENTIALS_FILE", path(stage.credentials_file())),
            ("AWS_CA_BUNDLE", path(stage.ca())),
            ("AWS_DEFAULT_REGION", S3_REGION.to_owned()),
            // Checksums that the server would only compute once more; TLS protects the way.
            ("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required".to_owned()),
            ("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required".to_owned()),
        ]);
        Shell { text, environment }
    }

    fn finish(&self, _: &Stage) -> Result<()> {
        Ok(())
    }

    fn restore(&self, stage: &Stage) -> Shell {
        let [region, _] = stage.regions();
        Shell::new(format!(
            "curl -sSf -K {home}/curlrc --cacert {ca} --aws-sigv4 aws:amz:{S3_REGION}:s3 \
             -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' {endpoint}/{BUCKET}/{KEY} | \
             openssl enc -d -aes-256-ctr {passphrase} | zstd -d -q | tar -x -C {target}",
            home = self.home.display(),
            ca = stage.ca().display(),
            endpoint = region.endpoint(),
            passphrase = self.passphrase(),
            target = stage.target().display(),
        ))
    }

    fn wal(&self) -> Option<&dyn WalTool> {
        None
    }
}
