//! `lifeboatd delegate`: writes into every region what the root key says about another key.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use lifeboat_cli::access::Repository;
use lifeboat_cli::exit_code::{Ending, Exit};
use lifeboat_cli::outln;
use lifeboat_cli::statements::{DelegationArgs, check_root, root_signer};
use lifeboat_cli::terminal::Output;
use lifeboat_repository::log::records::{RecordBody, SignerRecord};
use lifeboat_repository::log::{NoteSigner, Statement};
use lifeboat_vocabulary::{Clock, SystemClock};
use serde_json::json;

use crate::regions::broadcast::{Broadcast, Delivery};
use crate::settings::wiring::ClusterConfig;

/// The longest file with a statement, in **bytes**.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// What to pass on.
#[derive(Debug, Args)]
pub struct DelegateArgs {
    /// A statement that was signed elsewhere, by `lifeboat-restore keys delegate` or `keys revoke`.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["root_key", "key", "name", "roles", "from", "until"], required_unless_present = "root_key")]
    pub statement: Option<PathBuf>,
    /// The file of the root key, if it is at hand: the statement is signed here.
    #[arg(long = "root-key", value_name = "FILE", requires = "key")]
    pub root_key: Option<PathBuf>,
    /// Which key, and what it may sign.
    #[command(flatten)]
    pub delegation: Option<DelegationArgs>,
}

/// Writes the statement into every region that does not have it.
///
/// CRASH SAFETY. Each region has it or not; a repetition finds what stands there and writes the rest. A region that is away hears of it
/// by healing.
///
/// # Errors
/// If the statement is not one of this repository's root key, or no region takes it.
pub async fn run(chosen: ClusterConfig<'_>, args: &DelegateArgs, output: Output) -> anyhow::Result<Ending> {
    let signer = chosen.signer()?;
    let root = signer.root();
    let repository = Repository::read(&chosen.config.regions, chosen.cluster.name.clone(), &root).await?;
    let repo = repository.descriptor()?.repo;
    let now = SystemClock.now();
    let (note, carrier) = match (&args.statement, &args.root_key, &args.delegation) {
        (Some(file), ..) => (read_statement(file)?, None),
        (None, Some(file), Some(delegation)) => {
            let root_key = root_signer(file)?;
            check_root(&root_key, &root)?;
            (delegation.statement(repo, now).sign(&root_key)?, Some(root_key))
        }
        _ => bail!("give a statement with --statement FILE, or --root-key FILE with --key, --name and --role"),
    };
    let statement = Statement::verify(&note, &root, repo).context("check the statement")?;
    let carrier = carrier.as_ref().unwrap_or(&signer);
    let mut broadcast = Broadcast::of(&repository);
    let is_it = |body: &RecordBody| matches!(body, RecordBody::Signer(known) if known.statement == note);
    let draft = match broadcast.find(is_it) {
        Some(known) => known,
        None => broadcast.draft(carrier, RecordBody::Signer(SignerRecord { statement: note.clone() }), now),
    };
    let delivery = broadcast.append(carrier, &draft).await;
    report(&statement, &delivery, output);
    match (delivery.regions.is_empty(), delivery.missing.is_empty()) {
        (true, _) => Err(Exit::error(Ending::Failed, "no region has taken the statement")),
        (false, true) => Ok(Ending::Done),
        (false, false) => Ok(Ending::Degraded),
    }
}

fn read_statement(file: &Path) -> anyhow::Result<String> {
    let doing = || format!("read the statement {}", file.display());
    let size = std::fs::metadata(file).with_context(doing)?.len();
    anyhow::ensure!(size <= FILE_BYTES_MAX, "{} has {size} bytes: this is no statement", file.display());
    std::fs::read_to_string(file).with_context(doing)
}

/// The records that make a new key known, signed by the root key itself.
///
/// # Errors
/// If the statement contradicts itself.
pub(crate) fn signed(statement: &Statement, root: &NoteSigner) -> anyhow::Result<RecordBody> {
    Ok(RecordBody::Signer(SignerRecord { statement: statement.sign(root)? }))
}

fn report(statement: &Statement, delivery: &Delivery, output: Output) {
    let missing = delivery.missing.iter().map(|(region, why)| (region.to_string(), why.clone()));
    if output == Output::Json {
        let missing: std::collections::BTreeMap<String, String> = missing.collect();
        let regions: Vec<String> = delivery.regions.iter().map(ToString::to_string).collect();
        let kind = match statement {
            Statement::Delegation(_) => "delegation",
            Statement::Revocation(_) => "revocation",
        };
        outln!(
            "{}",
            json!({ "kind": kind, "key": statement.key().to_string(), "regions": regions, "missing": missing })
        );
        return;
    }
    match statement {
        Statement::Delegation(delegation) => outln!("{} may sign: {delegation}", delegation.key),
        Statement::Revocation(revocation) => {
            outln!("{} is revoked: nothing that it signs from now on counts", revocation.key);
        }
    }
    for region in &delivery.regions {
        outln!("  {region}: written");
    }
    for (region, why) in missing {
        outln!("  {region}: not written: {why}; run the command again, or let healing bring it there");
    }
}
