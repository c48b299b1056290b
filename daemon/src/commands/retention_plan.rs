//! `lifeboatd retention plan`: what is kept and why, what goes and what that frees.

use lifeboat_cli::exit_code::Ending;
use lifeboat_cli::terminal::Output;
use lifeboat_cli::{out, outln};
use lifeboat_vocabulary::{Clock, SystemClock};

use crate::regions::open::OpenRegions;
use crate::retention::plan::{ClusterPlan, facts_of, read};
use crate::retention::{page, page_json};
use crate::settings::wiring::ClusterConfig;

/// `retention plan`: prints what would be kept and what not, and changes nothing.
///
/// # Errors
/// If no region can be read.
pub async fn run(chosen: ClusterConfig<'_>, output: Output) -> anyhow::Result<Ending> {
    let repository = read(chosen).await?;
    let stores = OpenRegions::open(chosen.config, &chosen.cluster.name).await?;
    let now = SystemClock.now();
    let plan = ClusterPlan::of(&repository, chosen.cluster, &facts_of(&stores, &repository, now).await, now);
    match output {
        Output::Json => outln!("{}", page_json::json(&plan)),
        Output::Text => out!("{}", page::text(&plan)),
    }
    Ok(if plan.unreadable.is_empty() { Ending::Done } else { Ending::Degraded })
}
