//! `lifeboat-restore keys`: who may sign in a repository, and what the root key says about it.

use anyhow::Context;
use clap::{Args, Subcommand};
use lifeboat_cli::access::Repository;
use lifeboat_cli::backups::print_unread;
use lifeboat_cli::exit_code::Ending;
use lifeboat_cli::place::PlaceArgs;
use lifeboat_cli::statements::{DelegationArgs, RevocationArgs, RootKeyArgs, check_root, root_signer};
use lifeboat_cli::terminal::{Align, Output, Table, Tone};
use lifeboat_cli::{errln, out, outln};
use lifeboat_repository::catalog::RegionAnswer;
use lifeboat_repository::format::ids::RepositoryId;
use lifeboat_repository::log::{Delegation, Signer, Signers, Statement};
use lifeboat_vocabulary::{Clock, SystemClock, UtcTime};
use serde_json::json;

/// What to do with keys that sign.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Show the root key, and the keys that it has named in the logs of the regions.
    Signers,
    /// Sign what a key may sign, and print it: `lifeboatd delegate --statement FILE` writes it into the regions.
    Delegate {
        /// The key that says so.
        #[command(flatten)]
        root: RootKeyArgs,
        /// Which key, and what it may sign.
        #[command(flatten)]
        delegation: DelegationArgs,
        /// Which repository.
        #[command(flatten)]
        repository: WhichRepository,
    },
    /// Sign that a key may sign no more, and print it: `lifeboatd delegate --statement FILE` writes it into the regions.
    Revoke {
        /// The key that says so.
        #[command(flatten)]
        root: RootKeyArgs,
        /// Which key, and why.
        #[command(flatten)]
        revocation: RevocationArgs,
        /// Which repository.
        #[command(flatten)]
        repository: WhichRepository,
    },
}

/// Which repository a statement is about.
#[derive(Debug, Args)]
pub struct WhichRepository {
    /// Its id, as the recovery kit has it, where no region can be reached [default: that of --region]
    #[arg(long, value_name = "ID")]
    pub repository: Option<RepositoryId>,
}

/// Carries out one of them.
///
/// # Errors
/// If the repository or the root key cannot be read, or they do not belong together.
pub async fn run(place: &PlaceArgs, command: &KeysCommand, output: Output) -> anyhow::Result<Ending> {
    let now = SystemClock.now();
    match command {
        KeysCommand::Signers => {
            let repository = Repository::open(place).await?;
            let known = Known::of(&repository)?;
            known.print(output, now);
            if output == Output::Text {
                print_unread(&repository);
            }
            Ok(repository.ending())
        }
        KeysCommand::Delegate { root, delegation, repository } => {
            let id = repository_of(place, repository, root).await?;
            print_statement(root, &delegation.statement(id, now))
        }
        KeysCommand::Revoke { root, revocation, repository } => {
            let id = repository_of(place, repository, root).await?;
            print_statement(root, &revocation.statement(id, now)?)
        }
    }
}

async fn repository_of(place: &PlaceArgs, which: &WhichRepository, root: &RootKeyArgs) -> anyhow::Result<RepositoryId> {
    if let Some(id) = which.repository {
        return Ok(id);
    }
    let repository = Repository::open(place)
        .await
        .context("ask a region which repository it is; offline, name it with --repository")?;
    let descriptor = repository.descriptor()?;
    check_root(&root_signer(&root.file)?, &descriptor.root)?;
    Ok(descriptor.repo)
}

/// The statement alone on standard output, so that it can go into a file.
fn print_statement(root: &RootKeyArgs, statement: &Statement) -> anyhow::Result<Ending> {
    let note = statement.sign(&root_signer(&root.file)?)?;
    errln!("pass it on with: lifeboatd delegate --statement FILE");
    out!("{note}");
    Ok(Ending::Done)
}

/// The keys of a repository, and the regions whose logs know each of them.
struct Known {
    signers: Signers,
    regions: Vec<(String, Signers)>,
    /// Regions whose logs could not be read: they may name other keys, or revoke these.
    unread: Vec<(String, String)>,
}

impl Known {
    fn of(repository: &Repository) -> anyhow::Result<Self> {
        let mut signers = Signers::root_only(repository.descriptor()?.root);
        let mut regions = Vec::new();
        for view in &repository.views {
            if let RegionAnswer::Read { log, .. } = &view.answer {
                signers.merge(&log.trust().signers);
                regions.push((view.name.to_string(), log.trust().signers.clone()));
            }
        }
        let unread = repository.unread().map(|(region, why)| (region.to_string(), why.to_owned())).collect();
        Ok(Self { signers, regions, unread })
    }

    /// Regions whose logs do not say the same about a key.
    fn lacking(&self, signer: &Signer) -> Vec<&str> {
        let lacks = |(_, known): &&(String, Signers)| known.signer(&signer.key) != Some(signer);
        self.regions.iter().filter(lacks).map(|(region, _)| region.as_str()).collect()
    }

    fn print(&self, output: Output, now: UtcTime) {
        if output == Output::Json {
            let signers: Vec<_> = self.signers.delegated().iter().map(|signer| self.to_json(signer, now)).collect();
            let unread: Vec<_> =
                self.unread.iter().map(|(region, why)| json!({ "region": region, "why": why })).collect();
            let root = self.signers.root().to_string();
            outln!("{}", json!({ "root": root, "signers": signers, "unread": unread }));
            return;
        }
        outln!("root key  {}", self.signers.root());
        if self.signers.delegated().is_empty() {
            if self.unread.is_empty() {
                outln!("no other key may sign: whoever has the root key may sign everything");
            } else {
                outln!("no region that was read names another key: whoever has the root key may sign everything");
            }
            return;
        }
        outln!();
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("ROLES", Align::Left),
            ("FROM", Align::Left),
            ("UNTIL", Align::Left),
            ("STATE", Align::Left),
            ("KEY", Align::Left),
        ]);
        for signer in self.signers.delegated() {
            let (state, tone) = state(signer, now);
            let rows = signer.delegations.iter().map(Some);
            for delegation in rows.chain(signer.delegations.is_empty().then_some(None)) {
                let [name, roles, from, until] = columns(delegation);
                let plain = [name, roles, from, until].map(|cell| (cell, None));
                let key = (signer.key.to_string(), Some(Tone::Quiet));
                table.toned_row(plain.into_iter().chain([(state.clone(), Some(tone)), key]).collect());
            }
        }
        out!("{table}");
        for signer in self.signers.delegated() {
            let lacking = self.lacking(signer);
            if !lacking.is_empty() {
                outln!("not yet heard of {} in: {}; healing brings it there", signer.key, lacking.join(", "));
            }
        }
    }

    fn to_json(&self, signer: &Signer, now: UtcTime) -> serde_json::Value {
        let delegation = |delegation: &Delegation| {
            let roles: Vec<String> = delegation.roles.iter().map(ToString::to_string).collect();
            json!({
                "name": delegation.name.as_str(), "roles": roles, "from": delegation.from.to_string(),
                "until": delegation.until.map(|until| until.to_string()),
            })
        };
        let delegations: Vec<_> = signer.delegations.iter().map(delegation).collect();
        let revoked = signer.revoked.as_ref();
        json!({
            "key": signer.key.to_string(), "state": state(signer, now).0, "delegations": delegations,
            "revoked": revoked.map(|revoked| json!({ "time": revoked.time.to_string(), "reason": revoked.reason })),
            "lacking": self.lacking(signer),
        })
    }
}

fn columns(delegation: Option<&Delegation>) -> [String; 4] {
    let Some(delegation) = delegation else { return std::array::from_fn(|_| "-".to_owned()) };
    let roles: Vec<String> = delegation.roles.iter().map(ToString::to_string).collect();
    let until = delegation.until.map_or_else(|| "-".to_owned(), |until| until.to_string());
    [delegation.name.to_string(), roles.join(", "), delegation.from.to_string(), until]
}

fn state(signer: &Signer, now: UtcTime) -> (String, Tone) {
    if signer.revoked.is_some() {
        return ("revoked".to_owned(), Tone::Bad);
    }
    if signer.delegations.iter().any(|delegation| delegation.covers(now)) {
        return ("in force".to_owned(), Tone::Good);
    }
    let later = signer.delegations.iter().any(|delegation| delegation.from > now);
    (if later { "not yet" } else { "expired" }.to_owned(), Tone::Warning)
}
