//! `lifeboatd retention apply`: shows the plan, asks, and carries it out in every region that can be read.

use std::io::{BufRead, IsTerminal, Write};
use std::sync::Arc;

use anyhow::{Context, bail};
use lifeboat_config::{ClusterSettings, Config};
use lifeboat_repository::{
    AuditRecord, DeleteMode, Elsewhere, Force, NoteSigner, OWNER_BYTES_MAX, Others, RecordBody, RegionLog, SweepAuthor,
    SweepError, SweepReport, SweepSettings, is_plain_text,
};
use lifeboat_restore::access::Repository;
use lifeboat_restore::exit_code::Ending;
use lifeboat_restore::terminal::{Align, Output, Table, Tone, toned};
use lifeboat_vocabulary::{Clock, RegionName, SystemClock, UtcTime};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{ClusterPlan, page, page_json, read};
use crate::audit::{AuditEntry, AuditTrail};
use crate::audit_courier::recalled;
use crate::causes::causes;
use crate::cli::ApplyArgs;
use crate::everywhere::Everywhere;
use crate::expire::{Done, FreezeGate, disagreements, one_region, readable};
use crate::freeze::{Action, Freezer};
use crate::guard::DaemonGuard;
use crate::regions::{OpenRegions, Writers};
use crate::wiring;

/// What became of a region.
struct Outcome {
    region: RegionName,
    result: Result<Done, SweepError>,
}

/// Prints the plan, asks where a person can answer, and carries it out.
///
/// CRASH SAFETY. First the logs of all regions say that somebody did this; then each region is worked on by itself, in the
/// order that [`lifeboat_repository::sweep`] describes. A crash, a stop or a failure anywhere leaves what the next run, by
/// hand or by the daemon, goes on with.
///
/// # Errors
/// If deletion is stopped, the plan is unusual and nobody insists, nobody agrees, the regions disagree, or no region can be
/// worked on.
pub async fn run(
    (config, cluster): (&Config, &ClusterSettings),
    args: ApplyArgs,
    output: Output,
    stop: &CancellationToken,
) -> anyhow::Result<Ending> {
    let signer = wiring::signer(config, &cluster.name)?;
    let repository = read(config, cluster).await?;
    let plan = ClusterPlan::of(&repository, cluster, SystemClock.now());
    if output == Output::Text {
        print!("{}", page::text(&plan));
    }
    refuse_disagreement(&repository)?;
    let freezer = Arc::new(Freezer::new(&config.state_directory, Arc::new(SystemClock)));
    freezer.check(&cluster.name, Action::Delete).context("nothing was changed")?;
    refuse_what_is_forgotten(&freezer, &repository)?;
    let unusual = plan.regions.iter().any(|region| !region.plan.unusual.is_empty());
    if unusual && !args.force {
        bail!("the plan is unusual, see above, and nothing was changed: repeat with --force if it is right");
    }
    if !args.yes && !is_agreed(output)? {
        bail!("nothing was changed");
    }

    let everywhere = said(config, cluster, (&repository, &signer), args).await?;
    let gate = Arc::new(FreezeGate { freezer, cluster: cluster.name.clone() });
    let author = SweepAuthor::new(signer, wiring::TOOL.to_owned(), gate);
    let work = carry_out(config, (&plan, everywhere), &author, if args.force { Force::Yes } else { Force::No });
    let outcomes = tokio::select! {
        outcomes = work => outcomes?,
        () = stop.cancelled() => return Ok(Ending::Stopped),
    };
    report(&plan, &outcomes, output);
    let failed = outcomes.iter().filter(|outcome| outcome.result.is_err()).count();
    Ok(match failed {
        0 if plan.unreadable.is_empty() => Ending::Done,
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

/// A host that has not asked the regions yet, because its state was lost or no daemon ran on it, knows nothing of freezes and
/// pauses; the logs do.
fn refuse_what_is_forgotten(freezer: &Freezer, repository: &Repository) -> anyhow::Result<()> {
    if !freezer.may_have_forgotten(&repository.cluster) {
        return Ok(());
    }
    let logs = repository.views.iter().filter_map(readable).collect();
    if let Some(why) = recalled(&logs).keeps_from_deleting(SystemClock.now()) {
        bail!(
            "deletion is stopped by what the regions' logs say, and nothing was changed ({why}): look into it on the host of \
             the daemon, and lift it there with `lifeboatd resume`"
        );
    }
    Ok(())
}

/// Asks whoever sits there; elsewhere only `--yes` agrees.
fn is_agreed(output: Output) -> anyhow::Result<bool> {
    let is_person = output == Output::Text && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if !is_person {
        bail!(
            "nobody can be asked here, and nothing was changed: look at `lifeboatd retention plan`, then repeat with --yes"
        );
    }
    print!("forget what goes, and delete what was forgotten longer ago than the grace? [y/N] ");
    std::io::stdout().flush().context("ask")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("read the answer")?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Writes into every region's log who did this.
async fn said(
    config: &Config,
    cluster: &ClusterSettings,
    (repository, signer): (&Repository, &NoteSigner),
    args: ApplyArgs,
) -> anyhow::Result<Everywhere> {
    let now = SystemClock.now();
    let mut everywhere = Everywhere::of(repository);
    let reason = if args.force { "by hand, with --force" } else { "by hand" };
    let record = AuditRecord {
        action: "retention-apply".to_owned(),
        subject: None,
        reason: reason.to_owned(),
        owner: person(),
        expires: None,
    };
    if config.state_directory.is_dir() {
        let what = ("retention-apply", super::policy(cluster, now).text().to_string());
        let entry = AuditEntry::new(now, Some(&cluster.name), what, (reason, &record.owner));
        AuditTrail::new(&config.state_directory).write_down(&entry);
    }
    let draft = everywhere.draft(signer, RecordBody::Audit(record), now);
    let told = everywhere.tell(signer, &draft).await;
    // A region that cannot be written to cannot be swept either: what it lacks, the report says.
    let why: Vec<String> = told.missing.iter().map(|(region, why)| format!("{region}: {why}")).collect();
    anyhow::ensure!(!told.regions.is_empty(), "no region takes a record, and nothing was changed ({})", why.join("; "));
    Ok(everywhere)
}

/// Whoever is at the keyboard, as far as the environment tells.
fn person() -> String {
    let variable = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let known = variable.filter(|name| is_plain_text(name, OWNER_BYTES_MAX));
    known.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

async fn carry_out(
    config: &Config,
    (plan, everywhere): (&ClusterPlan, Everywhere),
    author: &SweepAuthor,
    force: Force,
) -> anyhow::Result<Vec<Outcome>> {
    let stores = OpenRegions::open(config, &plan.cluster).await?;
    let is_complete = plan.unreadable.is_empty();
    // Where only one process may write, it must be this one for as long as it deletes.
    let alone = |region: &RegionName| stores.get(region).is_some_and(|store| store.writers() == Writers::One);
    let mut guard = None;
    if everywhere.regions.iter().any(|(region, _)| alone(&region.name)) {
        let directory = config.state_directory.join(plan.cluster.as_str());
        let taken = DaemonGuard::try_acquire(&directory, &SystemClock);
        guard = Some(taken.context("a region allows one writer only, and a running daemon applies the policy itself")?);
    }
    let logs: Vec<(RegionName, RegionLog)> =
        everywhere.regions.into_iter().map(|(region, log)| (region.name, log)).collect();
    let mut outcomes = Vec::new();
    for (region, log) in &logs {
        let Some(store) = stores.get(region) else { continue };
        let others = logs.iter().filter(|(other, _)| other != region).map(|(_, log)| log);
        let settings = SweepSettings {
            policy: plan.policy.clone(),
            grace: plan.grace,
            mode: if alone(region) { DeleteMode::SingleWriter } else { DeleteMode::LogOrdered },
            force,
            elsewhere: if is_complete { Elsewhere::Known(Others::of(others, plan.now)) } else { Elsewhere::Unknown },
            holds: plan.holds.clone(),
        };
        let mut log = log.clone();
        let result = one_region((store, author), &mut log, &settings, plan.now).await;
        outcomes.push(Outcome { region: region.clone(), result });
    }
    drop(guard);
    Ok(outcomes)
}

fn report(plan: &ClusterPlan, outcomes: &[Outcome], output: Output) {
    if output == Output::Json {
        let applied: Vec<Value> = outcomes.iter().map(outcome_json).collect();
        println!("{}", json!({ "plan": page_json::json(plan), "applied": applied }));
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
    for Outcome { region, result } in outcomes {
        if let Ok(Done { forgot, swept, .. }) = result {
            let next = next_deletion(swept).map_or_else(|| "-".to_owned(), UtcTime::for_tables);
            let (forgotten, deleted) = (forgot.forgotten.len().to_string(), swept.swept.len().to_string());
            let (objects, freed) = (swept.objects.to_string(), swept.bytes.to_string());
            table.row(&[region.as_str(), &forgotten, &deleted, &objects, &freed, &next]);
        }
    }
    if !table.is_empty() {
        print!("\n{table}");
    }
    for Outcome { region, result } in outcomes {
        let attention = match result {
            Ok(Done { swept, .. }) if swept.locked > 0 => {
                format!("{} objects are locked for now; they are tried again", swept.locked)
            }
            Ok(_) => continue,
            Err(error) => causes(error),
        };
        println!("{} region {region}: {attention}", toned("attention:", Tone::Warning));
    }
}

fn next_deletion(swept: &SweepReport) -> Option<UtcTime> {
    swept.waiting.iter().map(|(_, until)| *until).min()
}

fn outcome_json(outcome: &Outcome) -> Value {
    let region = outcome.region.as_str();
    match &outcome.result {
        Err(error) => json!({ "region": region, "error": causes(error) }),
        Ok(Done { forgot, swept, .. }) => json!({
            "region": region,
            "forgotten": forgot.forgotten.iter().map(|(backup, _)| backup.as_str()).collect::<Vec<_>>(),
            "swept": swept.swept.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "leftovers": swept.leftovers.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "objects": swept.objects,
            "bytes": swept.bytes.as_bytes(),
            "locked": swept.locked,
            "next_deletion": next_deletion(swept).map(|until| until.to_string()),
        }),
    }
}
