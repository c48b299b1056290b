//! Everything that a run needs, in one scratch directory: the cluster, the regions, their certificates, the programs.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lifeboat_testkit::{PgServer, give_to_postgres, run_as_postgres, scratch_dir};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

use crate::cluster;
use crate::plan::{BUCKETS, Plan};
use crate::region::Region;
use crate::serve_s3::{ACCESS_KEY, SECRET_KEY};
use crate::shell::Shell;

/// The name of every region in signatures.
pub(crate) const S3_REGION: &str = "us-east-1";
/// The harness under the name that it has on stage.
const HARNESS: &str = "lifeboat-bench";

/// Where restores go.
const RESTORED: &str = "restored";

/// A cluster between two regions. Dropping it stops everything and removes all files.
#[derive(Debug)]
pub(crate) struct Stage {
    // Declared before `dir`: servers end before their files are removed.
    cluster: PgServer,
    regions: [Region; 2],
    dir: TempDir,
    data_bytes: u64,
    facts: String,
    archive_timeout: Duration,
}

impl Stage {
    /// Makes the cluster and starts the regions.
    pub(crate) fn set(plan: &Plan) -> Result<Self> {
        let dir = scratch_dir("lifeboat-bench-")?;
        check_space(dir.path(), plan.bytes)?;
        for name in ["bin", "tls", "logs"] {
            fs::create_dir(dir.path().join(name)).with_context(|| format!("make the directory {name}"))?;
        }
        give_to_postgres(dir.path())?;
        let own = std::env::current_exe().context("find this program")?;
        let harness = dir.path().join("bin").join(HARNESS);
        copy_program(&own, &harness)?;
        certificates(&dir.path().join("tls"))?;
        write_for_postgres(&dir.path().join("s3-credentials"), &credentials())?;
        let region = || Region::start(&harness, &dir.path().join("tls"), &BUCKETS);
        let regions = [region()?, region()?];
        eprintln!("make a cluster of at least {} MB", plan.bytes / 1_000_000);
        let cluster = cluster::make(plan.postgres, plan.bytes)?;
        let data_bytes = cluster::data_bytes(cluster.data_dir())?;
        let facts = cluster::facts(&cluster)?;
        Ok(Self { cluster, regions, dir, data_bytes, facts, archive_timeout: plan.archive_timeout })
    }

    /// The cluster to back up.
    pub(crate) fn cluster(&self) -> &PgServer {
        &self.cluster
    }

    /// Its size in bytes, without WAL.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// What a restored copy must say; see [`cluster::facts`].
    pub(crate) fn facts(&self) -> &str {
        &self.facts
    }

    /// After how long a segment is archived although it is not full.
    pub(crate) fn archive_timeout(&self) -> Duration {
        self.archive_timeout
    }

    /// The two regions.
    pub(crate) fn regions(&self) -> &[Region; 2] {
        &self.regions
    }

    /// The same, to ask them.
    pub(crate) fn regions_mut(&mut self) -> &mut [Region; 2] {
        &mut self.regions
    }

    /// Brings a program where the servers' account can run it, and gives its new path.
    pub(crate) fn bring(&self, program: &Path) -> Result<PathBuf> {
        let name = program.file_name().context("a program has no name")?;
        let here = self.dir.path().join("bin").join(name);
        copy_program(program, &here)?;
        Ok(here)
    }

    /// The harness's own program on stage.
    pub(crate) fn harness(&self) -> PathBuf {
        self.dir.path().join("bin").join(HARNESS)
    }

    /// A directory for one tool's own files; made on first use.
    pub(crate) fn home(&self, tool: &str) -> Result<PathBuf> {
        let home = self.dir.path().join(tool);
        if !home.is_dir() {
            fs::create_dir(&home).with_context(|| format!("make {}", home.display()))?;
            give_to_postgres(&home)?;
        }
        Ok(home)
    }

    /// Where restores go.
    pub(crate) fn target(&self) -> PathBuf {
        self.dir.path().join(RESTORED)
    }

    /// Makes the target an empty directory of the servers' account, as `initdb` would.
    pub(crate) fn clear_target(&self) -> Result<()> {
        let target = self.target();
        // What a tool needs for recovery lies beside it, under its name and more.
        for entry in fs::read_dir(self.dir.path()).context("list the scratch directory")? {
            let entry = entry.context("list the scratch directory")?;
            if entry.file_name().to_string_lossy().starts_with(RESTORED) {
                fs::remove_dir_all(entry.path()).with_context(|| format!("remove {}", entry.path().display()))?;
            }
        }
        fs::create_dir(&target).with_context(|| format!("make {}", target.display()))?;
        fs::set_permissions(&target, Permissions::from_mode(0o700)).context("close the target directory")?;
        give_to_postgres(&target)
    }

    /// PEM file with the certificate authority of both regions.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("tls/ca.pem")
    }

    /// The regions' keys in the format of the AWS tools.
    pub(crate) fn credentials_file(&self) -> PathBuf {
        self.dir.path().join("s3-credentials")
    }

    /// Where a command's output goes.
    pub(crate) fn log(&self, label: &str) -> PathBuf {
        self.dir.path().join("logs").join(format!("{label}.log"))
    }

    /// Runs a command to its end without measuring it.
    pub(crate) fn run(&self, shell: &Shell) -> Result<String> {
        run_as_postgres(&mut shell_command(shell))
    }
}

/// A command for `bash`, in which any part of a pipe may fail the whole.
pub(crate) fn shell_command(shell: &Shell) -> Command {
    let mut command = Command::new("/bin/bash");
    command.args(["-o", "pipefail", "-c", &shell.text]);
    set_environment(&mut command, &shell.environment);
    command
}

/// Sets what the tool needs and nothing that this machine's owner has set for other S3 servers.
pub(crate) fn set_environment(command: &mut Command, environment: &BTreeMap<&'static str, String>) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") || name.to_string_lossy().starts_with("PGBACKREST_") {
            command.env_remove(name);
        }
    }
    command.envs(environment);
}

/// Writes a file that only the servers' account can read.
pub(crate) fn write_for_postgres(path: &Path, content: &str) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(content.as_bytes())
    };
    write().with_context(|| format!("write {}", path.display()))?;
    give_to_postgres(path)
}

/// Reads all files below `dir` once, so that a run finds them in memory.
pub(crate) fn warm(dir: &Path) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    warm_with(dir, &mut buffer)
}

fn warm_with(dir: &Path, buffer: &mut [u8]) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        let kind = entry.file_type().with_context(|| format!("look at {}", entry.path().display()))?;
        if kind.is_dir() {
            warm_with(&entry.path(), buffer)?;
        } else if kind.is_file()
            && let Ok(mut file) = File::open(entry.path())
        {
            // A running server removes files under our hands; those need no warming.
            while file.read(buffer).with_context(|| format!("read {}", entry.path().display()))? > 0 {}
        }
    }
    Ok(())
}

/// The cluster with its WAL, and a restored copy that is replayed.
const SPACE_PER_BYTE: u64 = 4;

fn check_space(dir: &Path, bytes: u64) -> Result<()> {
    let about = rustix::fs::statvfs(dir).context("ask for free space")?;
    let (free, needed) = (about.f_bavail.saturating_mul(about.f_frsize), bytes.saturating_mul(SPACE_PER_BYTE));
    ensure!(
        free >= needed,
        "{} has {} MB free and {} MB are needed: set TMPDIR to a directory with more",
        dir.display(),
        free / 1_000_000,
        needed / 1_000_000
    );
    Ok(())
}

fn copy_program(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, Permissions::from_mode(0o755)).with_context(|| format!("open {}", to.display()))
}

fn credentials() -> String {
    format!("[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
}

/// A certificate authority and a server of its own: `ca.pem`, `server.pem`, `server.key`.
fn certificates(dir: &Path) -> Result<()> {
    let authority_key = KeyPair::generate().context("make a key")?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    // Other names than the server's: OpenSSL takes a certificate with its issuer's name for a self-signed one.
    authority.distinguished_name.push(DnType::CommonName, "lifeboat-bench authority");
    let authority_pem = authority.self_signed(&authority_key).context("make a certificate authority")?.pem();
    let issuer = Issuer::new(authority, authority_key);
    let server_key = KeyPair::generate().context("make a key")?;
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut server = CertificateParams::new(names).context("name a certificate")?;
    server.distinguished_name.push(DnType::CommonName, "localhost");
    server.use_authority_key_identifier_extension = true;
    let server = server.signed_by(&server_key, &issuer).context("make a certificate")?;
    for (name, text) in
        [("ca.pem", authority_pem), ("server.pem", server.pem()), ("server.key", server_key.serialize_pem())]
    {
        write_for_postgres(&dir.join(name), &text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_would_fill_the_disk_is_not_begun() {
        let error = check_space(Path::new("/tmp"), u64::MAX).unwrap_err().to_string();
        assert!(error.contains("TMPDIR"), "{error}");
        check_space(Path::new("/tmp"), 1).unwrap();
    }

    #[test]
    fn the_servers_certificate_comes_from_an_authority_with_another_name() {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path()).unwrap();
        let verify = |arguments: &[&str]| {
            let mut openssl = Command::new("openssl");
            openssl.arg("verify").args(arguments).args(["-CAfile", "ca.pem", "server.pem"]).current_dir(dir.path());
            openssl.output().unwrap().status.success()
        };
        assert!(!verify(&["-verify_hostname", "example.com"]));
        assert!(verify(&["-verify_hostname", "localhost"]) && verify(&["-verify_ip", "127.0.0.1"]));
    }
}
