//! What the root key says about other keys, from the command line: the same for both programs.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use lifeboat_repository::format::KeyName;
use lifeboat_repository::format::ids::RepositoryId;
use lifeboat_repository::keys::{SigningKey, VerifyKey, read_private_file};
use lifeboat_repository::log::records::REASON_BYTES_MAX;
use lifeboat_repository::log::{Delegation, NoteSigner, Revocation, Role, Statement};
use lifeboat_vocabulary::{UtcTime, counted};

/// The name on the signature lines of the root key. Only a label.
const ROOT_NAME: &str = "lifeboat.root";

/// How far the clock of a host may be behind that of whoever names its key.
const CLOCKS_DIFFER_MICROS: i64 = 3600 * 1_000_000;

/// A key, and what it may sign.
#[derive(Debug, Args)]
pub struct DelegationArgs {
    /// The public half of the key (lifeboat-verify-1...), as `lifeboatd init` or `keygen --signing` prints it.
    #[arg(long, value_name = "KEY")]
    pub key: VerifyKey,
    /// The name of its writer: `<keys.name>.<cluster>` of the host that has it, such as lifeboat.main.
    #[arg(long, value_name = "NAME")]
    pub name: KeyName,
    /// What it may sign: writer, pruner, drill or operator; repeat for several.
    #[arg(long = "role", value_name = "ROLE", required = true)]
    pub roles: Vec<Role>,
    /// From when on, such as 2026-12-01T00:00:00Z [default: an hour ago, for clocks that are behind]
    #[arg(long, value_name = "TIME")]
    pub from: Option<UtcTime>,
    /// Until when [default: until it is revoked]
    #[arg(long, value_name = "TIME")]
    pub until: Option<UtcTime>,
}

/// A key that may sign no more.
#[derive(Debug, Args)]
pub struct RevocationArgs {
    /// The public half of the key (lifeboat-verify-1...).
    #[arg(long, value_name = "KEY")]
    pub key: VerifyKey,
    /// Why, for whoever reads the log.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// Where the root key is.
#[derive(Debug, Args)]
pub struct RootKeyArgs {
    /// The file of the root key (from `lifeboat-restore keygen --signing`).
    #[arg(long = "root-key", value_name = "FILE")]
    pub file: PathBuf,
}

impl DelegationArgs {
    /// The statement that it asks for.
    #[must_use]
    pub fn statement(&self, repo: RepositoryId, now: UtcTime) -> Statement {
        let mut roles = self.roles.clone();
        roles.sort_unstable();
        roles.dedup();
        let (key, name, from) = (self.key, self.name.clone(), self.from.unwrap_or_else(|| from_by_default(now)));
        Statement::Delegation(Delegation { repo, key, name, roles, from, until: self.until })
    }
}

impl RevocationArgs {
    /// The statement that it asks for.
    ///
    /// # Errors
    /// If the reason cannot stand in it.
    pub fn statement(&self, repo: RepositoryId, time: UtcTime) -> anyhow::Result<Statement> {
        let limit = counted(REASON_BYTES_MAX as u64, "byte", "bytes");
        let fits = lifeboat_repository::log::records::is_plain_text(&self.reason, REASON_BYTES_MAX);
        anyhow::ensure!(fits, "--reason is one line of text, at most {limit}");
        Ok(Statement::Revocation(Revocation { repo, key: self.key, time, reason: self.reason.clone() }))
    }
}

/// From when on a key may sign if nobody says so: clocks differ.
#[must_use]
pub fn from_by_default(now: UtcTime) -> UtcTime {
    UtcTime::from_unix_micros(now.as_unix_micros() - CLOCKS_DIFFER_MICROS).unwrap_or(now)
}

/// Reads the root key.
///
/// # Errors
/// If the file cannot be read, others may read it, or it has no signing key.
pub fn root_signer(file: &Path) -> anyhow::Result<NoteSigner> {
    let text = read_private_file(file)?;
    let key = SigningKey::parse_file(text.expose());
    let key = key.with_context(|| format!("read the root key {}", file.display()))?;
    Ok(NoteSigner::new(ROOT_NAME.parse()?, key))
}

/// Whether `root` is the root key of a repository.
///
/// # Errors
/// If it is another key, naming both.
pub fn check_root(root: &NoteSigner, expected: &VerifyKey) -> anyhow::Result<()> {
    let found = root.verify_key();
    anyhow::ensure!(
        found == *expected,
        "this is not the root key of the repository: the file has {found}, the repository has {expected}"
    );
    Ok(())
}
