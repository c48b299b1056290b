//! `lifeboatd adopt`: a restored copy takes over for good. From then on it writes WAL into the repository, and the
//! original is refused.

use anyhow::Context;
use lifeboat_cli::access::read_region;
use lifeboat_cli::exit_code::Ending;
use lifeboat_cli::outln;
use lifeboat_cli::terminal::Output;
use lifeboat_repository::log::Draft;
use lifeboat_repository::log::records::{IncarnationRecord, Origin, RecordBody};
use lifeboat_vocabulary::{Clock, SystemClock};
use serde_json::json;

use crate::commands::ask_server::{Asked, ask_server};
use crate::regions::open::OpenRegions;
use crate::settings::wiring::{self, ClusterConfig};

/// Asks the server who it is, and says in every region's log that this one writes from now on.
///
/// CRASH SAFETY. One record per region, each appended once: a repetition finds its own and goes on with the others. While
/// only some regions know, the receiver refuses to run and says that the regions disagree.
///
/// # Errors
/// If the server cannot be asked, belongs to another system, or a region cannot be written to.
pub async fn run(chosen: ClusterConfig<'_>, output: Output) -> anyhow::Result<Ending> {
    let ClusterConfig { config, cluster } = chosen;
    let asked = ask_server(chosen).await?;
    let signer = chosen.signer()?;
    let mut logs = Vec::new();
    for region in OpenRegions::open(config, &cluster.name).await?.stores() {
        let read = read_region(&*region.store, Some(&signer.root()), Some(region.name.clone())).await;
        // All or none: a region that does not hear of it would go on refusing the new one.
        let (descriptor, log) = read.with_context(|| format!("read region {}", region.name))?;
        asked.ensure_system(descriptor.sysid, "the repository")?;
        logs.push((region, log));
    }
    let Asked { host, incarnation, .. } = asked;
    let known = logs.iter().all(|(_, log)| log.incarnation() == incarnation);
    if !known {
        let last = logs.iter().filter_map(|(_, log)| log.last_count(signer.name())).max();
        let origin = Origin {
            writer: signer.name().clone(),
            wseq: Origin::next_count(last, SystemClock.now()),
            time: SystemClock.now(),
            tool: wiring::TOOL.to_owned(),
        };
        let draft = Draft { origin, body: RecordBody::Incarnation(IncarnationRecord { incarnation }) };
        for (region, log) in &mut logs {
            let appended = log.append(&*region.store, &signer, &draft).await;
            appended.with_context(|| format!("write into the log of region {}", region.name))?;
        }
    }
    let word = incarnation.map_or_else(|| "the original".to_owned(), |id| format!("the restored copy {id}"));
    match output {
        Output::Json => outln!(
            "{}",
            json!({ "host": host, "incarnation": incarnation.map(|id| id.to_string()), "changed": !known })
        ),
        Output::Text if known => outln!("nothing to do: {host} is {word}, which writes already"),
        Output::Text => outln!("{host} is {word}: it writes from now on, any other is refused"),
    }
    Ok(Ending::Done)
}
