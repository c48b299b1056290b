//! `window`: which moments can be restored.

use std::sync::Arc;

use lifeboat_cli::access::{Keys, Repository};
use lifeboat_cli::backups::print_unread;
use lifeboat_cli::exit_code::Ending;
use lifeboat_cli::place::PlaceArgs;
use lifeboat_cli::terminal::{Output, Tone, toned};
use lifeboat_cli::{out, outln};
use lifeboat_vocabulary::{Clock, RegionName, SystemClock};
use serde_json::{Value, json};

use crate::fetch::archive::{Archive, segment_size};
use crate::target::prove::timed_windows;
use crate::target::survey::Survey;
use crate::target::wal_source::WalSource;
use crate::target::window::{Window, table, windows};

/// Prints the windows. With a key the newest commits are read from the WAL itself; without, the signed notes of the writer
/// say up to when everything that was committed is stored. 4 if a region did not say what it has.
///
/// # Errors
/// If the archive cannot be read, or a key does not fit.
pub async fn run(place: &PlaceArgs, repository: &Repository, output: Output) -> anyhow::Result<Ending> {
    let newest = repository.catalog.newest_intact_as_dated().or(repository.catalog.rows().first());
    let Some(newest) = newest else {
        match output {
            Output::Json => {
                let unanswered: Vec<_> = repository.unread().map(unanswered).collect();
                let cluster = repository.cluster.as_str();
                outln!("{}", json!({ "cluster": cluster, "windows": [], "unanswered": unanswered }));
            }
            Output::Text => {
                let seen = if repository.unread().next().is_some() { " in the regions that were read" } else { "" };
                outln!("no backups of cluster {} yet{seen}", repository.cluster);
                print_unread(repository);
            }
        }
        return Ok(repository.ending());
    };
    let keys = if Keys::are_given(place) { Keys::load(place)? } else { Keys::none() };
    let archive = Arc::new(Archive::new(place, repository, &keys, &[], segment_size(&newest.record)?).await?);
    let inventory = archive.inventory(repository, None).await?;
    let windows = if Keys::are_given(place) {
        let source = Arc::clone(&archive) as Arc<dyn WalSource>;
        let survey = Survey::new(
            source,
            archive.system_identifier(),
            archive.segment(),
            inventory.view.latest(SystemClock.now()),
        );
        timed_windows(&inventory.view, &survey).await?
    } else {
        windows(&inventory.view)
    };
    // What a region did not show may lie behind the end of every window.
    let ending = if inventory.unanswered.is_empty() { repository.ending() } else { Ending::Degraded };
    if output == Output::Json {
        let each: Vec<_> = windows.iter().map(Window::json).collect();
        let unanswered: Vec<_> = inventory.unanswered.iter().map(|(name, why)| unanswered((name, why))).collect();
        let line = json!({ "cluster": repository.cluster.as_str(), "windows": each, "unanswered": unanswered });
        outln!("{line}");
        return Ok(ending);
    }
    out!("{}", table(&windows));
    outln!("by the names of what is stored; `lifeboatd scrub --full` reads it back");
    for (region, why) in &inventory.unanswered {
        outln!("{} region {region} does not answer and may have more: {why}", toned("attention:", Tone::Warning));
    }
    Ok(ending)
}

/// A region that did not say what it has, for machines.
fn unanswered((region, why): (&RegionName, &str)) -> Value {
    json!({ "region": region.as_str(), "why": why })
}
