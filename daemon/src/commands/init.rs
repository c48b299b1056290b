//! `lifeboatd init`: the repository in every region, the signing key, and the page for the safe.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use lifeboat_cli::exit_code::Ending;
use lifeboat_cli::statements::{check_root, from_by_default, root_signer};
use lifeboat_cli::terminal::{Output, Tone, toned};
use lifeboat_cli::{out, outln};
use lifeboat_config::{ClusterSettings, Config};
use lifeboat_postgres::{Purpose, ServerFacts, Session};
use lifeboat_repository::format::ids::RepositoryId;
use lifeboat_repository::keys::{SigningKey, VerifyKey, write_private_file};
use lifeboat_repository::log::records::{InitRecord, Origin, RecordBody};
use lifeboat_repository::log::{
    Delegation, Descriptor, DescriptorError, Draft, LogTrust, NoteSigner, RegionLog, RegionStore, Role, Signer,
    Signers, Statement,
};
use lifeboat_vocabulary::{Clock, SystemClock, UtcTime, error_chain};
use serde_json::json;

use crate::commands::delegate;
use crate::commands::doctor::roles::needed_roles;
use crate::regions::open::OpenRegions;
use crate::settings::wiring::{self, ClusterConfig};

/// What makes a repository whose root key stays offline.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The file of a root key (from `lifeboat-restore keygen --signing`): the repository belongs to it, and it names the signing key
    /// of this host. Without it, the signing key is the root key.
    #[arg(long, value_name = "FILE")]
    pub root_key: Option<PathBuf>,
    /// What the signing key of this host may sign: writer, pruner, drill or operator; repeat for several [default: what
    /// `[daemon] roles` needs]
    #[arg(long = "role", value_name = "ROLE", requires = "root_key")]
    pub roles: Vec<Role>,
}

/// Creates what is missing, region by region. A repetition finds what is there and is content.
///
/// # Errors
/// If the server cannot be asked, a region belongs to another repository, or nothing can be written.
pub async fn run(chosen: ClusterConfig<'_>, args: &InitArgs, output: Output) -> anyhow::Result<Ending> {
    let ClusterConfig { config, cluster } = chosen;
    let connect = Session::connect(&cluster.connection, Purpose::Sql).await;
    let mut session = connect.context("connect to the server, whose identity the repository is bound to")?;
    let facts = ServerFacts::ask(&mut session).await.context("ask the server for its identity")?;
    session.close().await;
    let root_key = args.root_key.as_deref().map(root_signer).transpose()?;
    if let (Some(root_key), Some(expected)) = (&root_key, &config.keys.root) {
        check_root(root_key, expected).context("compare --root-key with keys.root")?;
    }
    let made_key = make_signing_key(config)?;
    let signer = chosen.signer()?;
    let author = Author { root: root_key.as_ref(), host: &signer };
    let regions = OpenRegions::open(config, &cluster.name).await?.stores();
    let descriptor = existing(&regions, &author.root()).await?;
    let descriptor = match descriptor {
        Some(descriptor) => descriptor,
        None => Descriptor::new(RepositoryId::random()?, facts.system_identifier, SystemClock.now(), author.root()),
    };
    anyhow::ensure!(
        descriptor.sysid == facts.system_identifier,
        "the regions hold the repository of system {}, but this server is system {}; give the new cluster another name",
        descriptor.sysid,
        facts.system_identifier
    );
    let delegation = author.delegation(config, &args.roles, &descriptor);
    let mut failed = Vec::new();
    for region in &regions {
        match create(region, &descriptor, author, delegation.as_ref()).await {
            Ok(()) => tracing::info!(region = %region.name, "repository is ready"),
            Err(error) => failed.push((region.name.to_string(), format!("{error:#}"))),
        }
    }
    if failed.len() == regions.len() {
        // A kit of a repository that lies nowhere would be kept in the safe for the wrong one.
        let why: Vec<String> = failed.iter().map(|(region, why)| format!("{region}: {why}")).collect();
        bail!("no region has the repository ({}); run `lifeboatd init` again when that is fixed", why.join("; "));
    }
    let made = Made { descriptor, delegation, key_file: made_key, failed };
    report(chosen, &made, output);
    Ok(if made.failed.is_empty() { Ending::Done } else { Ending::Failed })
}

/// The keys that make a repository.
#[derive(Clone, Copy)]
struct Author<'a> {
    /// The root key, if it is at hand.
    root: Option<&'a NoteSigner>,
    /// The signing key of this host.
    host: &'a NoteSigner,
}

impl<'a> Author<'a> {
    /// The root key that the repository has or gets.
    fn root(&self) -> VerifyKey {
        self.root.map_or_else(|| self.host.root(), NoteSigner::verify_key)
    }

    /// The signer that may begin a repository.
    fn beginner(&self) -> anyhow::Result<&'a NoteSigner> {
        let host = Some(self.host).filter(|host| host.is_root());
        self.root
            .or(host)
            .context("only the root key begins a repository, and adds a region to it: name its file with --root-key")
    }

    /// What the root key says about the key of this host, where that is another one.
    fn delegation(&self, config: &Config, roles: &[Role], descriptor: &Descriptor) -> Option<Delegation> {
        let root = self.root?;
        if root.verify_key() == self.host.verify_key() {
            return None;
        }
        let roles = if roles.is_empty() { needed_roles(config) } else { roles.to_vec() };
        let mut roles: BTreeSet<Role> = roles.into_iter().collect();
        if roles.is_empty() {
            roles.insert(Role::Operator);
        }
        Some(Delegation {
            repo: descriptor.repo,
            key: self.host.verify_key(),
            name: self.host.name().clone(),
            roles: roles.into_iter().collect(),
            // By the time of the repository, so that a repetition says exactly the same.
            from: from_by_default(descriptor.created),
            until: None,
        })
    }
}

/// The signing key of this host, where its file does not exist yet.
fn make_signing_key(config: &Config) -> anyhow::Result<Option<PathBuf>> {
    let Some(path) = wiring::signing_key_file(config).filter(|path| !path.exists()) else { return Ok(None) };
    let key = SigningKey::generate()?;
    write_private_file(&path, &key.to_file_text(SystemClock.now())).context("write the signing key")?;
    Ok(Some(path))
}

/// The descriptor that one of the regions has already: a region that is added later gets the same.
async fn existing(regions: &[RegionStore], root: &VerifyKey) -> anyhow::Result<Option<Descriptor>> {
    for region in regions {
        match Descriptor::read(&*region.store, Some(root)).await {
            Ok((descriptor, _)) => return Ok(Some(descriptor)),
            Err(DescriptorError::Missing) => {}
            Err(error @ DescriptorError::Store(_)) => {
                tracing::warn!(region = %region.name, error = %error_chain(&error), "region does not answer");
            }
            Err(error) => return Err(error).with_context(|| format!("read the repository in region {}", region.name)),
        }
    }
    Ok(None)
}

/// CRASH SAFETY. The descriptor first, the log's first record second, what the root key says about this host's key third. After a crash
/// between them this same call completes what is missing: the first record names the descriptor's hash, and a statement that
/// stands in the log is found.
async fn create(
    region: &RegionStore,
    descriptor: &Descriptor,
    author: Author<'_>,
    delegation: Option<&Delegation>,
) -> anyhow::Result<()> {
    let store = &*region.store;
    let found = match Descriptor::read(store, Some(&descriptor.root)).await {
        Ok((found, sha256)) => Some((found, sha256)),
        Err(DescriptorError::Missing) => None,
        Err(error) => return Err(error).context("read the descriptor"),
    };
    let descriptor_sha256 = match found {
        Some((found, sha256)) if found == *descriptor => sha256,
        Some(_) => bail!("another repository lies there"),
        None => descriptor.create(store, author.beginner()?).await.context("create the descriptor")?,
    };
    let trust = LogTrust {
        repository: descriptor.repo,
        signers: Signers::root_only(descriptor.root),
        region: Some(region.name.clone()),
        remembered: None,
    };
    let mut log = RegionLog::read(store, trust).await.context("read the log")?;
    if log.head().is_none() {
        let beginner = author.beginner()?;
        let origin = Origin {
            writer: beginner.name().clone(),
            wseq: 0,
            time: descriptor.created,
            tool: wiring::TOOL.to_owned(),
        };
        let body = RecordBody::Init(InitRecord { repo: descriptor.repo, sysid: descriptor.sysid, descriptor_sha256 });
        log.append(store, beginner, &Draft { origin, body }).await.context("begin the log")?;
    }
    let (Some(root), Some(delegation)) = (author.root, delegation) else { return Ok(()) };
    let is_known = |signer: &Signer| signer.delegations.contains(delegation);
    if log.trust().signers.signer(&delegation.key).is_some_and(is_known) {
        return Ok(());
    }
    let body = delegate::signed(&Statement::Delegation(delegation.clone()), root)?;
    let (writer, time) = (root.name().clone(), SystemClock.now());
    let wseq = Origin::next_count(log.last_count(&writer), time);
    let origin = Origin { writer, wseq, time, tool: wiring::TOOL.to_owned() };
    log.append(store, root, &Draft { origin, body }).await.context("name the signing key of this host")?;
    Ok(())
}

/// What was made.
struct Made {
    descriptor: Descriptor,
    /// What the root key says about the key of this host.
    delegation: Option<Delegation>,
    /// The file of that key, if it was not there before.
    key_file: Option<PathBuf>,
    /// The regions that could not be prepared, and why.
    failed: Vec<(String, String)>,
}

fn report(ClusterConfig { config, cluster }: ClusterConfig<'_>, made: &Made, output: Output) {
    let Made { descriptor, delegation, key_file, failed } = made;
    let signer = descriptor.root.to_string();
    let recipients: Vec<String> = config.keys.recipients.iter().map(ToString::to_string).collect();
    let urls: Vec<String> = config.regions.iter().map(lifeboat_stores::RegionSettings::to_address).collect();
    if output == Output::Json {
        let failed: serde_json::Map<String, serde_json::Value> =
            failed.iter().map(|(region, why)| (region.clone(), why.clone().into())).collect();
        let kit = json!({
            "cluster": cluster.name.as_str(), "repository": descriptor.repo.to_string(),
            "system_identifier": descriptor.sysid.to_string(), "signer": signer, "recipients": recipients,
            "regions": urls, "failed": failed,
            "delegated": delegation.as_ref().map(|delegation| delegation.key.to_string()),
        });
        outln!("{kit}");
        return;
    }
    if let Some(path) = key_file {
        outln!("made the signing key {}", path.display());
    }
    if let Some(delegation) = delegation {
        outln!("{} may sign: {delegation}", delegation.key);
        if config.keys.root.is_none() {
            outln!(
                "{} add to [keys] in the configuration, or nothing will run: root = \"{signer}\"",
                toned("next:", Tone::Warning)
            );
        }
    }
    for (region, why) in failed {
        outln!("{} region {region}: {why}; run `lifeboatd init` again when it is fixed", toned("failed:", Tone::Bad));
    }
    out!("{}", recovery_kit(cluster, descriptor, &signer, &recipients, &urls));
}

/// One page that brings everything back, together with a private key. Nothing in it is secret.
fn recovery_kit(
    cluster: &ClusterSettings,
    descriptor: &Descriptor,
    signer: &str,
    recipients: &[String],
    urls: &[String],
) -> String {
    let created: UtcTime = descriptor.created;
    let mut page = format!(
        "\n---------------- lifeboat recovery kit: print this page and keep it with a private key ----------------\n\
         cluster      {}  (PostgreSQL system identifier {})\n\
         repository   {}, created {created}\n\
         signer       {signer}\n",
        cluster.name, descriptor.sysid, descriptor.repo,
    );
    for recipient in recipients {
        page.push_str(&format!("readable by  {recipient}\n"));
    }
    for url in urls {
        page.push_str(&format!("region       {url}\n"));
    }
    page.push_str(
        "\nTo bring the cluster back on any machine with PostgreSQL of the same major version:\n\n  lifeboat-restore",
    );
    for url in urls {
        page.push_str(&format!(" \\\n      --region '{url}'"));
    }
    page.push_str(&format!(
        " \\\n      --cluster {} --signer {signer} \\\n      --identity PRIVATE-KEY-FILE restore --to DIRECTORY --start\n\n\
         Without a private key of one of the recipients above nothing can be read, by anybody. Keep at least two copies.\n\
         ---------------------------------------------------------------------------------------------------------\n",
        cluster.name
    ));
    page
}
