//! `lifeboatd init`: the repository in every region, the signing key, and the page for the safe.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use lifeboat_cli::exit_code::Ending;
use lifeboat_cli::terminal::{Output, Tone, toned};
use lifeboat_config::{ClusterSettings, Config};
use lifeboat_postgres::{Purpose, ServerFacts, Session};
use lifeboat_repository::format::ids::RepositoryId;
use lifeboat_repository::keys::{SigningKey, write_private_file};
use lifeboat_repository::log::records::{InitRecord, Origin, RecordBody};
use lifeboat_repository::log::{Descriptor, DescriptorError, Draft, LogTrust, NoteSigner, RegionLog, RegionStore};
use lifeboat_vocabulary::{Clock, Sha256Digest, SystemClock, UtcTime, error_chain};
use serde_json::json;

use crate::regions::open::OpenRegions;
use crate::settings::wiring::{self, ClusterConfig};

/// Creates what is missing, region by region. A repetition finds what is there and is content.
///
/// # Errors
/// If the server cannot be asked, a region belongs to another repository, or nothing can be written.
pub async fn run(chosen: ClusterConfig<'_>, output: Output) -> anyhow::Result<Ending> {
    let ClusterConfig { config, cluster } = chosen;
    let connect = Session::connect(&cluster.connection, Purpose::Sql).await;
    let mut session = connect.context("connect to the server, whose identity the repository is bound to")?;
    let facts = ServerFacts::ask(&mut session).await.context("ask the server for its identity")?;
    session.close().await;
    let made_key = make_signing_key(config)?;
    let signer = chosen.signer()?;
    let regions = OpenRegions::open(config, &cluster.name).await?.stores();
    let descriptor = existing(&regions, &signer).await?;
    let descriptor = match descriptor {
        Some(descriptor) => descriptor,
        None => {
            Descriptor::new(RepositoryId::random()?, facts.system_identifier, SystemClock.now(), signer.verify_key())
        }
    };
    anyhow::ensure!(
        descriptor.sysid == facts.system_identifier,
        "the regions hold the repository of system {}, but this server is system {}; give the new cluster another name",
        descriptor.sysid,
        facts.system_identifier
    );
    let origin =
        Origin { writer: signer.name().clone(), wseq: 0, time: descriptor.created, tool: wiring::TOOL.to_owned() };
    let mut failed = Vec::new();
    for region in &regions {
        match create(region, &descriptor, &origin, &signer).await {
            Ok(()) => tracing::info!(region = %region.name, "repository is ready"),
            Err(error) => failed.push((region.name.to_string(), format!("{error:#}"))),
        }
    }
    let made = Made { descriptor, signer: signer.verify_key().to_string(), key_file: made_key, failed };
    report(chosen, &made, output);
    Ok(if made.failed.is_empty() { Ending::Done } else { Ending::Failed })
}

fn make_signing_key(config: &Config) -> anyhow::Result<Option<PathBuf>> {
    let Some(path) = wiring::signing_key_file(config).filter(|path| !path.exists()) else { return Ok(None) };
    let key = SigningKey::generate()?;
    write_private_file(&path, &key.to_file_text(SystemClock.now())).context("write the signing key")?;
    Ok(Some(path))
}

/// The descriptor that one of the regions has already: a region that is added later gets the same.
async fn existing(regions: &[RegionStore], signer: &Arc<NoteSigner>) -> anyhow::Result<Option<Descriptor>> {
    for region in regions {
        match Descriptor::read(&*region.store, Some(&signer.verify_key())).await {
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

/// CRASH SAFETY. The descriptor first, the log's first record second. Between the two the region has a repository with
/// an empty log, which this same call completes; the record names the descriptor's hash.
async fn create(
    region: &RegionStore,
    descriptor: &Descriptor,
    origin: &Origin,
    signer: &NoteSigner,
) -> anyhow::Result<()> {
    let store = &*region.store;
    let descriptor_sha256: Sha256Digest = descriptor.create(store, signer).await.context("create the descriptor")?;
    let trust = LogTrust {
        repository: descriptor.repo,
        keys: vec![descriptor.root],
        region: Some(region.name.clone()),
        remembered: None,
    };
    let mut log = RegionLog::read(store, trust).await.context("read the log")?;
    if log.head().is_some() {
        return Ok(());
    }
    let body = RecordBody::Init(InitRecord { repo: descriptor.repo, sysid: descriptor.sysid, descriptor_sha256 });
    log.append(store, signer, &Draft { origin: origin.clone(), body }).await.context("begin the log")?;
    Ok(())
}

/// What was made.
struct Made {
    descriptor: Descriptor,
    /// The public half of the key that signs.
    signer: String,
    /// The file of that key, if it was not there before.
    key_file: Option<PathBuf>,
    /// The regions that could not be prepared, and why.
    failed: Vec<(String, String)>,
}

fn report(ClusterConfig { config, cluster }: ClusterConfig<'_>, made: &Made, output: Output) {
    let Made { descriptor, signer, key_file, failed } = made;
    let recipients: Vec<String> = config.keys.recipients.iter().map(ToString::to_string).collect();
    let urls: Vec<String> = config.regions.iter().map(lifeboat_stores::RegionSettings::to_address).collect();
    if output == Output::Json {
        let failed: serde_json::Map<String, serde_json::Value> =
            failed.iter().map(|(region, why)| (region.clone(), why.clone().into())).collect();
        let kit = json!({
            "cluster": cluster.name.as_str(), "repository": descriptor.repo.to_string(),
            "system_identifier": descriptor.sysid.to_string(), "signer": signer, "recipients": recipients,
            "regions": urls, "failed": failed,
        });
        println!("{kit}");
        return;
    }
    if let Some(path) = key_file {
        println!("made the signing key {}", path.display());
    }
    for (region, why) in failed {
        println!("{} region {region}: {why}; run `lifeboatd init` again when it is fixed", toned("failed:", Tone::Bad));
    }
    print!("{}", recovery_kit(cluster, descriptor, signer, &recipients, &urls));
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
