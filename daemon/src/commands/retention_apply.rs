//! `lifeboatd retention apply`: shows the plan, asks, and carries it out in every region that can be read.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use futures_util::future::join_all;
use lifeboat_cli::access::Repository;
use lifeboat_cli::exit_code::Ending;
use lifeboat_cli::terminal::{Align, Output, Table, Tone, toned};
use lifeboat_cli::{out, outln};
use lifeboat_repository::log::NoteSigner;
use lifeboat_repository::log::records::{AuditRecord, OWNER_BYTES_MAX, RecordBody, is_plain_text};
use lifeboat_repository::retention::sweep::{Force, SweepAuthor, SweepReport};
use lifeboat_vocabulary::{Clock, RegionName, SystemClock, UtcTime, counted, error_chain};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::base::guard::DaemonGuard;
use crate::deletion::audit::{AuditEntry, AuditTrail, Responsible};
use crate::deletion::freeze::Freezer;
use crate::model::capabilities::Writers;
use crate::regions::broadcast::Broadcast;
use crate::regions::memory::RegionBook;
use crate::regions::open::{OpenRegion, OpenRegions};
use crate::retention::plan::{ClusterPlan, facts_of, read};
use crate::retention::preconditions::{Deleter, Doubt};
use crate::retention::round::{FreezeGate, RegionDone, RegionOutcome, RetentionRound, arrivals, disagreements};
use crate::retention::{page, page_json};
use crate::settings::retention_policy::policy;
use crate::settings::wiring::{self, ClusterConfig};

/// How to carry out a plan.
#[derive(Clone, Copy, Debug, Args)]
pub struct ApplyArgs {
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
    /// Carry out a plan that is unusual: look at `retention plan` first.
    #[arg(long)]
    pub force: bool,
}

/// Prints the plan, asks where a person can answer, and carries it out.
///
/// CRASH SAFETY. First the logs of all regions say that somebody did this; then each region is worked on by itself, in the
/// order that [`lifeboat_repository::retention::sweep`] describes. A crash, a stop or a failure anywhere leaves what the next run, by
/// hand or by the daemon, goes on with.
///
/// # Errors
/// If deletion is stopped, the plan is unusual and nobody insists, nobody agrees, the regions disagree, or no region can be
/// worked on.
pub async fn run(
    chosen: ClusterConfig<'_>,
    args: ApplyArgs,
    output: Output,
    stop: &CancellationToken,
) -> anyhow::Result<Ending> {
    let ClusterConfig { config, cluster } = chosen;
    let signer = chosen.signer()?;
    let repository = read(chosen).await?;
    let stores = OpenRegions::open(config, &cluster.name).await?;
    let now = SystemClock.now();
    let plan = ClusterPlan::of(&repository, cluster, &facts_of(&stores, &repository, now).await, now);
    if output == Output::Text {
        out!("{}", page::text(&plan));
    }
    refuse_disagreement(&repository)?;
    let freezer = Arc::new(Freezer::new(&config.state_directory, Arc::new(SystemClock)));
    let state = chosen.state_directory();
    // What the daemon has found out about the regions counts here too.
    drop(RegionBook::open(&state, &stores, SystemClock.now()));
    let deleter =
        Deleter { cluster: &cluster.name, state: &state, freezer: &freezer, signer: &signer, clock: &SystemClock };
    refuse_doubtful(&deleter, &stores).await?;
    let unusual = plan.regions.iter().any(|region| !region.plan.unusual.is_empty());
    if unusual && !args.force {
        bail!("the plan is unusual, see above, and nothing was changed: repeat with --force if it is right");
    }
    if !args.yes && !is_agreed(output)? {
        bail!("nothing was changed");
    }

    let writers = judged(&plan, &stores).await;
    // Where only one process may write, it must be this one for as long as it writes.
    let alone = writers.values().any(|writers| *writers == Ok(Writers::One));
    let taken = alone.then(|| DaemonGuard::try_acquire(&state, &SystemClock)).transpose();
    let guard = taken.context("a region allows one writer only, and a running daemon applies the policy itself")?;
    let Said { broadcast, missing } = said(chosen, &repository, &signer, args).await?;
    let gate = Arc::new(FreezeGate { freezer, cluster: cluster.name.clone() });
    let author = SweepAuthor::new(signer, wiring::TOOL.to_owned(), gate);
    let logs = broadcast.regions.into_iter().map(|(region, log)| (region.name, log)).collect();
    let round = RetentionRound {
        regions: &stores,
        arrivals: arrivals(&stores, &logs, SystemClock.now()).await,
        author: &author,
        policy: plan.policy.clone(),
        grace: plan.grace,
        force: if args.force { Force::Yes } else { Force::No },
        // Whoever was asked may have taken his time.
        now: SystemClock.now(),
    };
    // They were found out before anything was written, because one writer alone needs the guard.
    let known_writers = async |region: &OpenRegion| match writers.get(&region.name) {
        Some(writers) => writers.clone(),
        None => Err("it is not in the plan that was shown".to_owned()),
    };
    let outcomes = tokio::select! {
        outcomes = round.carry_out(&logs, known_writers) => outcomes,
        () = stop.cancelled() => return Ok(Ending::Stopped),
    };
    drop(guard);
    report(&plan, &outcomes, &missing, output);
    let failed = outcomes.iter().filter(|(_, outcome)| !matches!(outcome, RegionOutcome::Done(_))).count();
    Ok(match failed {
        0 if plan.unreadable.is_empty() && missing.is_empty() => Ending::Done,
        failed if failed == outcomes.len() && failed > 0 => Ending::Failed,
        _ => Ending::Degraded,
    })
}

fn refuse_disagreement(repository: &Repository) -> anyhow::Result<()> {
    let disagreements = disagreements(repository.catalog.findings());
    anyhow::ensure!(
        disagreements.is_empty(),
        "the regions disagree, and nothing was changed ({}): find out why before anything is deleted",
        disagreements.join("; ")
    );
    Ok(())
}

async fn refuse_doubtful(deleter: &Deleter<'_>, stores: &OpenRegions) -> anyhow::Result<()> {
    match deleter.read_logs(stores).await {
        Ok(_) => Ok(()),
        Err(Doubt::Stopped(why) | Doubt::Away(why)) => bail!("nothing was changed: {why}"),
        Err(Doubt::Foreign(what)) => {
            bail!("the regions hold different repositories, and nothing was changed: {}", what.join("; "))
        }
        Err(Doubt::Disagree(what)) => bail!(
            "the regions disagree, deletion is frozen, and nothing was changed ({}): find out why, then `lifeboatd resume \
             --cluster {} --action delete`",
            what.join("; "),
            deleter.cluster
        ),
    }
}

/// Asks on a terminal; elsewhere only `--yes` agrees.
fn is_agreed(output: Output) -> anyhow::Result<bool> {
    let is_person = output == Output::Text && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if !is_person {
        bail!(
            "nobody can be asked here, and nothing was changed: look at `lifeboatd retention plan`, then repeat with --yes"
        );
    }
    out!("forget what goes, and delete what was forgotten longer ago than the grace? [y/N] ");
    std::io::stdout().flush().context("ask")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("read the answer")?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Who did this stands in the logs of some regions.
struct Said {
    broadcast: Broadcast,
    /// The regions that were read and do not have it, and why not.
    missing: Vec<(RegionName, String)>,
}

/// Writes into every region's log who did this.
async fn said(
    ClusterConfig { config, cluster }: ClusterConfig<'_>,
    repository: &Repository,
    signer: &NoteSigner,
    args: ApplyArgs,
) -> anyhow::Result<Said> {
    let now = SystemClock.now();
    let mut broadcast = Broadcast::of(repository);
    let reason = if args.force { "by hand, with --force" } else { "by hand" };
    let who = Responsible::new(reason, &person());
    if config.state_directory.is_dir() {
        let policy = policy(cluster, now).text().to_string();
        let entry = AuditEntry::new(now, Some(&cluster.name), "retention-apply", policy, &who);
        AuditTrail::new(&config.state_directory).write_down(&entry);
    }
    let record = AuditRecord {
        action: "retention-apply".to_owned(),
        subject: None,
        reason: who.reason,
        owner: who.owner,
        expires: None,
    };
    let draft = broadcast.draft(signer, RecordBody::Audit(record), now);
    let delivery = broadcast.append(signer, &draft).await;
    let why: Vec<String> = delivery.missing.iter().map(|(region, why)| format!("{region}: {why}")).collect();
    anyhow::ensure!(
        !delivery.regions.is_empty(),
        "no region takes a record, and nothing was changed ({})",
        why.join("; ")
    );
    let away = |region: &RegionName| broadcast.away.iter().any(|(away, _)| away == region);
    let missing = delivery.missing.into_iter().filter(|(region, _)| !away(region)).collect();
    Ok(Said { broadcast, missing })
}

/// Whoever is at the keyboard, as far as the environment tells.
fn person() -> String {
    let variable = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let known = variable.filter(|name| is_plain_text(name, OWNER_BYTES_MAX));
    known.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

/// How many may write into each region, by a probe that is made now.
async fn judged(plan: &ClusterPlan, stores: &OpenRegions) -> BTreeMap<RegionName, Result<Writers, String>> {
    let regions = plan.regions.iter().filter_map(|region| stores.get(&region.name));
    let writers = join_all(regions.map(async |region| (region.name.clone(), region.probe_writers().await)));
    writers.await.into_iter().collect()
}

fn report(
    plan: &ClusterPlan,
    outcomes: &[(RegionName, RegionOutcome)],
    missing: &[(RegionName, String)],
    output: Output,
) {
    if output == Output::Json {
        let applied: Vec<Value> = outcomes.iter().map(|(region, outcome)| outcome_json(region, outcome)).collect();
        let missing: Vec<Value> =
            missing.iter().map(|(region, why)| json!({ "region": region.as_str(), "why": why })).collect();
        outln!("{}", json!({ "plan": page_json::json(plan), "applied": applied, "unrecorded_in": missing }));
        return;
    }
    let columns = [
        ("region", Align::Left),
        ("forgot", Align::Right),
        ("deleted", Align::Right),
        ("objects", Align::Right),
        ("freed", Align::Right),
        ("next deletion (UTC)", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for (region, outcome) in outcomes {
        if let RegionOutcome::Done(done) = outcome {
            let RegionDone { forgot, swept, .. } = &**done;
            let next = next_deletion(swept).map_or_else(|| "-".to_owned(), UtcTime::for_tables);
            let (forgotten, deleted) = (forgot.forgotten.len().to_string(), swept.swept.len().to_string());
            let (objects, freed) = (swept.objects.to_string(), swept.bytes.to_string());
            table.row(&[region.as_str(), &forgotten, &deleted, &objects, &freed, &next]);
        }
    }
    if !table.is_empty() {
        out!("\n{table}");
    }
    for (region, outcome) in outcomes {
        let attention = match outcome {
            RegionOutcome::Done(done) if done.swept.locked > 0 => {
                let locked = counted(done.swept.locked, "object is", "objects are");
                format!("{locked} locked for now, and tried again")
            }
            RegionOutcome::Done(done) => {
                let stays = done.swept.undecided.iter().map(|(backup, why)| format!("{backup} stays: {why}"));
                for said in done.swept.refused.iter().cloned().chain(stays) {
                    outln!("{} region {region}: {said}", toned("attention:", Tone::Warning));
                }
                continue;
            }
            RegionOutcome::Failed(error) => error_chain(error),
            RegionOutcome::Unreadable(why) => why.clone(),
        };
        outln!("{} region {region}: {attention}", toned("attention:", Tone::Warning));
    }
    for (region, why) in missing {
        let attention = toned("attention:", Tone::Warning);
        outln!("{attention} the log of region {region} does not say who did this: {why}");
    }
}

fn next_deletion(swept: &SweepReport) -> Option<UtcTime> {
    swept.waiting.iter().map(|(_, until)| *until).min()
}

fn outcome_json(region: &RegionName, outcome: &RegionOutcome) -> Value {
    let RegionDone { forgot, swept, .. } = match outcome {
        RegionOutcome::Done(done) => &**done,
        RegionOutcome::Failed(error) => return json!({ "region": region.as_str(), "error": error_chain(error) }),
        RegionOutcome::Unreadable(why) => return json!({ "region": region.as_str(), "error": why }),
    };
    json!({
            "region": region.as_str(),
            "forgotten": forgot.forgotten.iter().map(|(backup, _)| backup.as_str()).collect::<Vec<_>>(),
            "kept_again": forgot.kept_again.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "swept": swept.swept.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "leftovers": swept.leftovers.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "objects": swept.objects,
            "bytes": swept.bytes.as_bytes(),
            "locked": swept.locked,
            "refused": swept.refused,
            "undecided": swept.undecided.iter().map(|(backup, why)| json!({ "backup": backup.as_str(), "why": why }))
                .collect::<Vec<_>>(),
            "next_deletion": next_deletion(swept).map(|until| until.to_string()),
    })
}
