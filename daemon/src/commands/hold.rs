//! `lifeboatd hold`: backups that stay whatever the retention policy says, with a reason, an owner and an end.
//!
//! A hold stands in the log of every region. One that a region has missed protects there all the same, as long as some
//! region that can be read has it; saying it again brings it to the regions that lack it.

use std::time::Duration;

use clap::Subcommand;
use lifeboat_cli::exit_code::{Ending, Exit};
use lifeboat_cli::terminal::{Align, Output, Table, Tone, toned};
use lifeboat_cli::{out, outln};
use lifeboat_repository::format::HoldId;
use lifeboat_repository::log::records::{
    HoldRecord, OWNER_BYTES_MAX, REASON_BYTES_MAX, RecordBody, ReleaseRecord, is_plain_text,
};
use lifeboat_repository::log::{self, RegionLog};
use lifeboat_vocabulary::{BackupId, Clock, RegionName, SystemClock, UtcTime, counted};
use serde_json::json;

use crate::base::expiry::Expiry;
use crate::deletion::audit::{AuditEntry, AuditTrail, Responsible};
use crate::regions::broadcast::{Broadcast, Delivery};
use crate::retention::plan::read;
use crate::settings::wiring::ClusterConfig;

/// What to do about holds.
#[derive(Debug, Subcommand)]
pub enum HoldCommand {
    /// Keep a backup. Saying it again brings the hold to regions that were away.
    Add {
        /// Which backup.
        #[arg(value_name = "BACKUP")]
        backup: BackupId,
        /// Why.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Who wants it.
        #[arg(long, value_name = "NAME")]
        owner: String,
        /// When the hold ends by itself: a time with an offset (2026-12-31T12:00:00Z), or how long (36h, 30d).
        #[arg(long, value_name = "END")]
        expires: Option<Expiry>,
    },
    /// End a hold.
    Remove {
        /// Which hold; `hold list` shows them.
        #[arg(value_name = "HOLD")]
        hold: HoldId,
        /// Why.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Who ends it [default: whose hold it is]
        #[arg(long, value_name = "NAME")]
        owner: Option<String>,
    },
    /// Show the holds that are in force.
    List,
}

/// A hold by the same person for the same reason that ends at most so much earlier is the same hold, said again.
const SAID_AGAIN: Duration = Duration::from_secs(86_400);

/// Does what the command line says.
///
/// # Errors
/// As the command that it names.
pub async fn run(chosen: ClusterConfig<'_>, command: &HoldCommand, output: Output) -> anyhow::Result<Ending> {
    match command {
        HoldCommand::Add { backup, reason, owner, expires } => {
            let (backup, reason, owner) = (backup.clone(), reason.clone(), owner.clone());
            add(chosen, &Wish { backup, reason, owner, expires: *expires }, output).await
        }
        HoldCommand::Remove { hold, reason, owner } => remove(chosen, *hold, reason, owner.as_deref(), output).await,
        HoldCommand::List => list(chosen, output).await,
    }
}

/// What somebody wants to hold, and why.
struct Wish {
    backup: BackupId,
    reason: String,
    owner: String,
    expires: Option<Expiry>,
}

fn check_text(option: &str, text: &str, max: usize) -> anyhow::Result<()> {
    if is_plain_text(text, max) {
        return Ok(());
    }
    let message = format!("{option} must be one line of text, not empty, of at most {max} bytes");
    Err(Exit::error(Ending::BadCommandLine, message))
}

/// Holds a backup in every region; a hold that stands already is brought to the regions that lack it.
///
/// # Errors
/// If there is no such backup (code 8), or no region takes the record.
async fn add(chosen: ClusterConfig<'_>, wish: &Wish, output: Output) -> anyhow::Result<Ending> {
    let (cluster, now) = (chosen.cluster, SystemClock.now());
    check_text("--reason", &wish.reason, REASON_BYTES_MAX)?;
    check_text("--owner", &wish.owner, OWNER_BYTES_MAX)?;
    let expires = wish.expires.map(|expiry| expiry.moment(now));
    if expires.is_some_and(|expires| expires <= now) {
        return Err(Exit::error(Ending::BadCommandLine, "--expires is in the past: the hold would keep nothing"));
    }
    let signer = chosen.signer()?;
    let repository = read(chosen).await?;
    if repository.catalog.find(&wish.backup).is_none() {
        let message = format!("there is no backup {} in cluster {}; see `lifeboatd list`", wish.backup, cluster.name);
        return Err(Exit::error(Ending::NoSuchBackup, message));
    }
    let mut broadcast = Broadcast::of(&repository);
    let in_force = log::holds_in_force(broadcast.logs(), now);
    let known = in_force.values().find(|hold| says_the_same(hold, wish, expires)).map(|hold| hold.hold);
    let draft = match known.and_then(|known| broadcast.find(|body| is_hold(body, known))) {
        Some(draft) => draft,
        None => {
            let (reason, owner) = (wish.reason.clone(), wish.owner.clone());
            let hold = HoldRecord { hold: HoldId::random()?, backup: wish.backup.clone(), reason, owner, expires };
            broadcast.draft(&signer, RecordBody::Hold(hold), now)
        }
    };
    let delivery = broadcast.append(&signer, &draft).await;
    let RecordBody::Hold(hold) = &draft.body else { anyhow::bail!("another record was found than a hold") };
    // Whoever swept it meanwhile was first: the record of the hold stands behind that of the sweep.
    let stands = |log: &RegionLog| log.state(now).backups.contains_key(&hold.backup);
    if !delivery.regions.is_empty() && !broadcast.logs().any(stands) {
        let message = format!("backup {} was deleted in every region before the hold stood there", hold.backup);
        return Err(Exit::error(Ending::NoSuchBackup, message));
    }
    if known.is_none() {
        let who = Responsible::new(&hold.reason, &hold.owner);
        note(chosen, "hold", format!("{} {}", hold.hold, hold.backup), &who);
    }
    let sentence = match known {
        Some(_) => format!("backup {} was held already, by hold {}", hold.backup, hold.hold),
        None => format!("backup {} stays: hold {}", hold.backup, hold.hold),
    };
    ending(&delivery, output, &sentence, json!({ "hold": hold, "new": known.is_none() }))
}

/// Ends a hold in every region.
///
/// # Errors
/// If there is no such hold (code 8), or no region takes the record.
async fn remove(
    chosen: ClusterConfig<'_>,
    hold: HoldId,
    reason: &str,
    owner: Option<&str>,
    output: Output,
) -> anyhow::Result<Ending> {
    let now = SystemClock.now();
    check_text("--reason", reason, REASON_BYTES_MAX)?;
    owner.map_or(Ok(()), |owner| check_text("--owner", owner, OWNER_BYTES_MAX))?;
    let signer = chosen.signer()?;
    let mut broadcast = Broadcast::of(&read(chosen).await?);
    let Some(RecordBody::Hold(held)) = broadcast.find(|body| is_hold(body, hold)).map(|draft| draft.body) else {
        let away: Vec<&str> = broadcast.away.iter().map(|(region, _)| region.as_str()).collect();
        let unseen = match &away[..] {
            [] => String::new(),
            away => format!(" in the regions that can be read ({} cannot)", away.join(", ")),
        };
        let message = format!(
            "there is no hold {hold} on a backup of cluster {}{unseen}; `lifeboatd hold list` shows those that there are",
            chosen.cluster.name
        );
        return Err(Exit::error(Ending::NoSuchBackup, message));
    };
    let released = |body: &RecordBody| matches!(body, RecordBody::Release(release) if release.hold == hold);
    let known = broadcast.find(released);
    let is_new = known.is_none();
    let draft = known.unwrap_or_else(|| {
        let owner = owner.unwrap_or(&held.owner).to_owned();
        let release = ReleaseRecord { hold, reason: reason.to_owned(), owner };
        broadcast.draft(&signer, RecordBody::Release(release), now)
    });
    let delivery = broadcast.append(&signer, &draft).await;
    if is_new {
        let who = Responsible::new(reason, owner.unwrap_or(&held.owner));
        note(chosen, "release", format!("{hold} {}", held.backup), &who);
    }
    let others =
        log::holds_in_force(broadcast.logs(), now).into_values().filter(|other| other.backup == held.backup).count();
    let sentence = match others {
        0 => format!("hold {hold} has ended: backup {} stays only as long as the policy keeps it", held.backup),
        others => {
            let others = counted(others as u64, "more hold keeps", "more holds keep");
            format!("hold {hold} has ended; {others} backup {}", held.backup)
        }
    };
    ending(
        &delivery,
        output,
        &sentence,
        json!({ "hold": hold.to_string(), "backup": held.backup.as_str(), "new": is_new }),
    )
}

/// Prints the holds that are in force, and the regions whose logs lack them.
///
/// # Errors
/// If no region can be read.
async fn list(chosen: ClusterConfig<'_>, output: Output) -> anyhow::Result<Ending> {
    let cluster = &chosen.cluster.name;
    let broadcast = Broadcast::of(&read(chosen).await?);
    let holds = log::holds_in_force(broadcast.logs(), SystemClock.now());
    let has = |log: &RegionLog, hold| log.entries().iter().any(|entry| is_hold(&entry.record.body, hold));
    let lacking = |hold: HoldId| -> Vec<&RegionName> {
        let regions = broadcast.regions.iter().filter(|(_, log)| !has(log, hold));
        regions.map(|(region, _)| &region.name).collect()
    };
    let complete = broadcast.away.is_empty() && holds.keys().all(|hold| lacking(*hold).is_empty());
    if output == Output::Json {
        let each = holds.values().map(|hold| {
            let missing: Vec<_> = lacking(hold.hold).into_iter().map(RegionName::as_str).collect();
            json!({ "hold": hold, "missing_in": missing })
        });
        let unreadable = broadcast.away.iter().map(|(region, why)| json!({ "region": region.as_str(), "why": why }));
        let (each, unreadable): (Vec<_>, Vec<_>) = (each.collect(), unreadable.collect());
        outln!("{}", json!({ "cluster": cluster.as_str(), "holds": each, "unreadable": unreadable }));
    } else if holds.is_empty() {
        let seen = if broadcast.away.is_empty() { "" } else { " by what the regions say that were read" };
        outln!("no backup of cluster {cluster} is held{seen}");
    } else {
        out!("{}", table(holds.values(), &lacking));
    }
    if output == Output::Text {
        print_missing(&broadcast.away, "cannot be read, and may have more");
    }
    Ok(if complete { Ending::Done } else { Ending::Degraded })
}

fn table<'a, 'b>(
    holds: impl Iterator<Item = &'a HoldRecord>,
    lacking: &impl Fn(HoldId) -> Vec<&'b RegionName>,
) -> Table {
    let holds: Vec<(&HoldRecord, Vec<&RegionName>)> = holds.map(|hold| (hold, lacking(hold.hold))).collect();
    let is_complete = holds.iter().all(|(_, missing)| missing.is_empty());
    let headings = ["hold", "backup", "owner", "until (UTC)", "missing in", "reason"];
    let shown = |heading: &&str| !(is_complete && *heading == "missing in");
    let columns: Vec<_> = headings.into_iter().filter(shown).map(|heading| (heading, Align::Left)).collect();
    let mut table = Table::new(&columns);
    for (hold, missing) in holds {
        let until = hold.expires.map_or_else(|| "released".to_owned(), UtcTime::for_tables);
        let missing = missing.into_iter().map(RegionName::as_str).collect::<Vec<_>>();
        let missing = if missing.is_empty() { "-".to_owned() } else { missing.join(", ") };
        let HoldRecord { hold, backup, reason, owner, .. } = hold;
        let hold = hold.to_string();
        let cells = [hold.as_str(), backup.as_str(), owner.as_str(), &until, &missing, reason.as_str()];
        let cells = headings.iter().zip(cells).filter(|(heading, _)| shown(heading)).map(|(_, cell)| cell);
        table.row(&cells.collect::<Vec<_>>());
    }
    table
}

fn is_hold(body: &RecordBody, hold: HoldId) -> bool {
    matches!(body, RecordBody::Hold(record) if record.hold == hold)
}

fn says_the_same(hold: &HoldRecord, wish: &Wish, expires: Option<UtcTime>) -> bool {
    let lasts = match (hold.expires, expires) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(known), Some(wanted)) => known.plus(SAID_AGAIN) >= wanted,
    };
    lasts && hold.backup == wish.backup && hold.reason == wish.reason && hold.owner == wish.owner
}

/// Into the daemon's own audit log, where there is one on this host; the regions' logs have the record itself.
fn note(ClusterConfig { config, cluster }: ClusterConfig<'_>, action: &str, subject: String, who: &Responsible) {
    if config.state_directory.is_dir() {
        let entry = AuditEntry::new(SystemClock.now(), Some(&cluster.name), action, subject, who);
        AuditTrail::new(&config.state_directory).write_down(&entry);
    }
}

fn print_missing(missing: &[(RegionName, String)], what: &str) {
    for (region, why) in missing {
        outln!("{} region {region} {what}: {why}", toned("attention:", Tone::Warning));
    }
}

fn ending(delivery: &Delivery, output: Output, sentence: &str, fields: serde_json::Value) -> anyhow::Result<Ending> {
    if delivery.regions.is_empty() {
        let why: Vec<String> = delivery.missing.iter().map(|(region, why)| format!("{region}: {why}")).collect();
        anyhow::bail!("no region takes the record ({})", why.join("; "));
    }
    let regions: Vec<&str> = delivery.regions.iter().map(RegionName::as_str).collect();
    if output == Output::Json {
        let missing = delivery.missing.iter().map(|(region, why)| json!({ "region": region.as_str(), "why": why }));
        let mut line = fields;
        if let Some(line) = line.as_object_mut() {
            line.insert("regions".to_owned(), json!(regions));
            line.insert("missing".to_owned(), missing.collect());
        }
        outln!("{line}");
    } else {
        outln!("{sentence} ({})", regions.join(", "));
        print_missing(&delivery.missing, "does not know; say it again when it is back");
    }
    Ok(if delivery.missing.is_empty() { Ending::Done } else { Ending::Degraded })
}
