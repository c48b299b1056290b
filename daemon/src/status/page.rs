//! The status as a page: one line per cluster that says it all, then the figures behind it. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use lifeboat_cli::terminal::{Align, Table, Tone, spoken, toned, wrapped};
use lifeboat_vocabulary::{ByteCount, UtcTime, counted};

use crate::model::region_health::Health;
use crate::model::snapshot::{
    AlarmLine, BackupStatus, ClusterStatus, Protection, RegionStatus, RunStatus, ScrubStatus, StatusSnapshot,
    StopStatus, WindowStatus,
};
use crate::model::verdict::unread;
use crate::model::wal_status::HolderStatus;

/// Where the values of a section begin.
const LABEL: usize = 14;
/// Where long texts are broken.
const WIDTH: usize = 80;
/// How the daemon is called beside its clusters.
const DAEMON: &str = "lifeboatd";

/// The page. Colours only where standard output is a terminal.
#[must_use]
pub(crate) fn page(status: &StatusSnapshot) -> String {
    let mut page = String::new();
    let own = daemon_trouble(status);
    let names = status.clusters.iter().map(|cluster| cluster.cluster.chars().count());
    let names = names.chain(own.as_ref().map(|_| DAEMON.len())).max().unwrap_or(0);
    if let Some((word, tone, reasons)) = own {
        page.push_str(&first_line(DAEMON, names, word, tone, &shortlist(&reasons)));
    }
    for cluster in &status.clusters {
        page.push_str(&verdict_line(cluster, names));
    }
    page.push_str(&figures(status));
    page
}

/// Everything but the verdicts: they do not hold any more when the daemon that gave them is gone.
#[must_use]
pub(crate) fn figures(status: &StatusSnapshot) -> String {
    let (mut page, now) = (String::new(), status.time);
    for cluster in &status.clusters {
        page.push('\n');
        page.push_str(&section(cluster, now));
    }
    page.push('\n');
    page.push_str(&daemon(status));
    page
}

/// The word and the worst reason.
fn verdict_line(cluster: &ClusterStatus, names: usize) -> String {
    let verdict = &cluster.verdict;
    let tone = match verdict.protection {
        Protection::Ok => Tone::Good,
        Protection::AtRisk => Tone::Warning,
        Protection::NotProtected => Tone::Bad,
    };
    let reason = if verdict.reasons.is_empty() { all_is_well(cluster) } else { shortlist(&verdict.reasons) };
    first_line(&cluster.cluster, names, verdict.protection.as_str(), tone, &reason)
}

/// Name, word, and why. `width` is that of the longest name.
pub(crate) fn first_line(name: &str, width: usize, word: &str, tone: Tone, reason: &str) -> String {
    let indent = width + 2 + word.len() + 2;
    let name = format!("{name:width$}");
    format!("{}  {}  {}\n", toned(&name, Tone::Strong), toned(word, tone), wrapped(reason, indent, WIDTH))
}

/// The worst reason, and how many others there are.
fn shortlist(reasons: &[String]) -> String {
    match reasons {
        [] => String::new(),
        [only] => only.clone(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    }
}

/// What is wrong with the daemon itself: its word, and why.
fn daemon_trouble(status: &StatusSnapshot) -> Option<(&'static str, Tone, Vec<String>)> {
    let told = status.alarms.iter().map(|alarm| alarm.text.clone());
    let mut reasons: Vec<String> = status.daemon.core_stuck.clone().into_iter().chain(told).collect();
    let critical = status.alarms.iter().any(|alarm| alarm.severity == "critical");
    reasons.dedup();
    match (&status.daemon.core_stuck, reasons.is_empty()) {
        (Some(_), _) => Some(("STUCK", Tone::Bad, reasons)),
        (None, false) if critical => Some((Protection::AtRisk.as_str(), Tone::Bad, reasons)),
        (None, false) => Some((Protection::AtRisk.as_str(), Tone::Warning, reasons)),
        (None, true) => None,
    }
}

fn all_is_well(cluster: &ClusterStatus) -> String {
    match cluster.rpo.seconds {
        Some(lost) => format!("a disaster now would cost {} of commits", seconds(lost)),
        None => "nothing is wrong here; whether another daemon receives the WAL is not known here".to_owned(),
    }
}

fn section(cluster: &ClusterStatus, now: UtcTime) -> String {
    let mut text = format!("{}\n", toned(&cluster.cluster, Tone::Strong));
    let recoverable = cluster.window.as_ref().map(|found| window(found, cluster.wal.is_some()));
    line(&mut text, "recoverable", &recoverable.unwrap_or_else(|| "nothing yet".to_owned()));
    line(&mut text, "RPO now", &rpo(cluster));
    let backup = cluster.last_backup.as_ref();
    line(&mut text, "last backup", &backup.map_or_else(|| "none".to_owned(), |backup| last_backup(backup, now)));
    line(&mut text, "next run", &next_run(cluster, now));
    line(&mut text, "restore time", &forecast(cluster));
    wal(&mut text, cluster);
    text.push('\n');
    text.push_str(&indented(&regions(cluster, now)));
    stops(&mut text, cluster, now);
    alarms(&mut text, &cluster.alarms, now);
    runs(&mut text, &cluster.runs);
    text
}

/// A label and what it says, broken at [`WIDTH`].
fn line(text: &mut String, label: &str, value: &str) {
    let value: Vec<String> = value.lines().map(|line| wrapped(line, LABEL + 2, WIDTH)).collect();
    let indent = format!("\n{:1$}", "", LABEL + 2);
    push(text, format_args!("  {}{}\n", toned(&format!("{label:LABEL$}"), Tone::Quiet), value.join(&indent)));
}

/// Without the WAL that it receives itself, this daemon knows no more than what the logs say of backups.
fn window(window: &WindowStatus, receives_wal: bool) -> String {
    let (from, to) = (&window.from, &window.to);
    let begin = from.time.map_or_else(|| "an unknown time".to_owned(), UtcTime::for_tables);
    let end = match (from.time, to.time) {
        (Some(from), Some(to)) => format!("{} UTC ({})", to.for_tables(), rough(to.since(from))),
        (None, Some(to)) => format!("{} UTC", to.for_tables()),
        (_, None) if window.ends_at_lost_wal => "where WAL is lost".to_owned(),
        (_, None) => "a time that is not known while no WAL streams".to_owned(),
    };
    let mut text = format!("{begin} to {end}\n");
    text.push_str(&if from.timeline == to.timeline {
        format!("{} to {} on timeline {}", from.lsn, to.lsn, to.timeline)
    } else {
        format!("{} on timeline {} to {} on timeline {}", from.lsn, from.timeline, to.lsn, to.timeline)
    });
    if !receives_wal {
        text.push_str("\nfor certain only the ends of backups: no WAL is received here");
    }
    for gap in &window.gaps {
        push(&mut text, format_args!("\n{} {gap}", toned("but not", Tone::Bad)));
    }
    let since = window.older_from.as_ref().and_then(|oldest| oldest.time);
    let since = since.map_or_else(String::new, |oldest| format!(", the oldest of {} UTC", oldest.for_tables()));
    match window.older_backups {
        0 => {}
        1 => push(&mut text, format_args!("\nand one older backup, to its own end{since}")),
        older => push(&mut text, format_args!("\nand {older} older backups, each to its own end{since}")),
    }
    text
}

fn rpo(cluster: &ClusterStatus) -> String {
    let objective = seconds(cluster.rpo.objective_seconds);
    let Some(now) = cluster.rpo.seconds else { return format!("not known (objective {objective})") };
    let tone = if now > cluster.rpo.objective_seconds { Tone::Bad } else { Tone::Good };
    let bytes = cluster.rpo.bytes.filter(|bytes| *bytes > 0).map(ByteCount::from_bytes);
    let bytes = bytes.map_or_else(String::new, |bytes| format!(", {bytes} of WAL"));
    format!("{}{bytes} (objective {objective})", toned(&seconds(now), tone))
}

/// How far ahead something may be dated and be of now: clocks differ by that.
const CLOCK_PATIENCE: Duration = Duration::from_secs(300);

fn last_backup(backup: &BackupStatus, now: UtcTime) -> String {
    let bytes = ByteCount::from_bytes;
    let age = if backup.stop_time > now.plus(CLOCK_PATIENCE) {
        toned("dated later than now", Tone::Bad)
    } else {
        format!("{} ago", rough(now.since(backup.stop_time)))
    };
    format!(
        "{}, {}, {}\n{} stored as {} in {}\nin {}",
        backup.backup,
        backup.kind,
        age,
        bytes(backup.raw_bytes),
        bytes(backup.stored_bytes),
        spoken(Duration::from_millis(backup.duration_ms)),
        backup.regions.join(", ")
    )
}

fn next_run(cluster: &ClusterStatus, now: UtcTime) -> String {
    if let Some(running) = &cluster.running {
        return format!("{} runs since {}", running.what, rough(now.since(running.since)));
    }
    let Some(next) = &cluster.next_run else { return "none is planned here".to_owned() };
    let why = next.why.as_ref().map_or_else(String::new, |why| format!("\n{why}"));
    match next.time {
        Some(time) if time > now => {
            format!("{} in {} ({} UTC){why}", next.what, rough(time.since(now)), time.for_tables())
        }
        Some(_) => format!("{} is due{why}", next.what),
        None => format!("{} waits{why}", next.what),
    }
}

fn forecast(cluster: &ClusterStatus) -> String {
    match &cluster.forecast {
        None => "not known yet: no restore has been measured".to_owned(),
        Some(forecast) => {
            let objective = forecast.objective_seconds.map(|objective| format!(" (objective {})", seconds(objective)));
            format!("about {}{}", seconds(forecast.seconds), objective.unwrap_or_default())
        }
    }
}

fn wal(text: &mut String, cluster: &ClusterStatus) {
    let Some(wal) = &cluster.wal else {
        line(text, "WAL", "is not received here");
        return;
    };
    let value = match (&wal.host, &wal.waiting) {
        (Some(host), _) => {
            let timeline = wal.timeline.map_or_else(String::new, |timeline| format!(", timeline {timeline}"));
            format!("from {host}{timeline}\nreceived to {}", wal.received.as_deref().unwrap_or("nothing yet"))
        }
        (None, why) => {
            format!("{}: {}", toned("does not stream", Tone::Bad), why.as_deref().unwrap_or("not connected yet"))
        }
    };
    line(text, "WAL", &value);
    let (used, limit) = (wal.spool_bytes, wal.spool_limit_bytes);
    line(text, "spool", &format!("{} of {}", ByteCount::from_bytes(used), ByteCount::from_bytes(limit)));
}

fn regions(cluster: &ClusterStatus, now: UtcTime) -> String {
    let columns = [
        ("region", Align::Left),
        ("state", Align::Left),
        ("WAL behind", Align::Right),
        ("backups", Align::Right),
        ("verified", Align::Right),
        ("latency", Align::Right),
    ];
    let mut table = Table::new(&columns);
    for region in &cluster.regions {
        let holder = cluster
            .wal
            .as_ref()
            .and_then(|wal| wal.regions.iter().find(|(name, _)| *name == region.name).map(|(_, holder)| holder));
        table.toned_row(region_row(region, holder, now));
    }
    let mut text = table.to_string();
    for region in &cluster.regions {
        text.push_str(&region_notes(cluster, region));
    }
    text
}

fn region_row(region: &RegionStatus, holder: Option<&HolderStatus>, now: UtcTime) -> Vec<(String, Option<Tone>)> {
    let dash = || "-".to_owned();
    let (state, tone) = match region.health {
        Health::Healthy => ("healthy".to_owned(), Some(Tone::Good)),
        Health::Slow => (format!("SLOW {}", rough(now.since(region.health_since))), Some(Tone::Warning)),
        Health::Failing => (format!("FAILING {}", rough(now.since(region.health_since))), Some(Tone::Bad)),
        Health::Away => (format!("AWAY {}", rough(now.since(region.health_since))), Some(Tone::Bad)),
    };
    let backups = region.log.as_ref().map_or_else(dash, |log| match log.missing {
        0 => log.backups.to_string(),
        missing => format!("{} (-{missing})", log.backups),
    });
    let lacking = region.log.as_ref().is_some_and(|log| log.missing > 0);
    let behind = |holder: &HolderStatus| {
        let age = Duration::from_secs_f64(holder.exposure_seconds.clamp(0.0, 1e12));
        let age = if age < Duration::from_secs(60) { spoken(age) } else { rough(age) };
        format!("{}, {age}", ByteCount::from_bytes(holder.lag_bytes))
    };
    vec![
        (region.name.clone(), None),
        (state, tone),
        (holder.map_or_else(dash, behind), None),
        (backups, lacking.then_some(Tone::Warning)),
        (region.scrub.as_ref().map_or_else(dash, verified), None),
        (region.latency_seconds.map_or_else(dash, seconds), None),
    ]
}

/// How much was read back in this period, and how long ago the rest was.
fn verified(scrub: &ScrubStatus) -> String {
    let share = scrub.share_done.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share * 100.0));
    let oldest = scrub.oldest_unverified_seconds.map(|oldest| rough(Duration::from_secs_f64(oldest.clamp(0.0, 1e12))));
    oldest.map_or(share.clone(), |oldest| format!("{share}, {oldest}"))
}

/// What does not fit into a row, only where there is something to say.
fn region_notes(cluster: &ClusterStatus, region: &RegionStatus) -> String {
    let mut notes: Vec<String> = unread(region).into_iter().collect();
    let wal = cluster.wal.as_ref().and_then(|wal| wal.regions.iter().find(|(name, _)| *name == region.name));
    if let Some((_, holder)) = wal.filter(|(_, holder)| holder.state != "current") {
        notes.push(format!("WAL: {}", holder.state));
    }
    if region.error_share >= 0.05 {
        notes.push(format!("{:.0} % of its requests fail", region.error_share * 100.0));
    }
    if region.breaker != "closed" {
        notes.push(format!("its breaker is {}", region.breaker));
    }
    if region.writers == "one" {
        notes.push("it ignores conditional writes: this daemon must be its only writer".to_owned());
    }
    if let Some(skew) = region.clock_skew_seconds.filter(|skew| skew.abs() > 60.0) {
        let which = if skew > 0.0 { "ahead of" } else { "behind" };
        notes.push(format!("its clock is {} {which} ours", seconds(skew.abs())));
    }
    if let Some(heal) = &region.heal {
        notes.push(format!(
            "heal: {}, {} of {}, {} of {}",
            heal.doing,
            heal.objects_done,
            counted(heal.objects_total, "object", "objects"),
            ByteCount::from_bytes(heal.bytes_done),
            ByteCount::from_bytes(heal.bytes_total)
        ));
    }
    if let Some(scrub) = region.scrub.as_ref().filter(|scrub| scrub.damaged > 0) {
        notes.push(counted(scrub.damaged, "damaged object", "damaged objects"));
    }
    if let Some(log) = region.log.as_ref().filter(|log| log.leaving > 0) {
        notes.push(counted(log.leaving as u64, "backup is on its way out", "backups are on their way out"));
    }
    let name = &region.name;
    notes.iter().map(|note| format!("{name}: {}\n", wrapped(note, name.len() + 4, WIDTH))).collect()
}

fn stops(text: &mut String, cluster: &ClusterStatus, now: UtcTime) {
    let all =
        cluster.freezes.iter().map(|stop| ("frozen", stop)).chain(cluster.pauses.iter().map(|stop| ("paused", stop)));
    for (number, (word, stop)) in all.enumerate() {
        if number == 0 {
            text.push('\n');
        }
        line(text, word, &stopped(stop, now));
    }
}

fn stopped(stop: &StopStatus, now: UtcTime) -> String {
    let until = match stop.expires {
        Some(expires) if expires > now => format!("for another {}", rough(expires.since(now))),
        Some(_) => "expired".to_owned(),
        None => "until somebody lifts it".to_owned(),
    };
    let (what, who) = (toned(&stop.what, Tone::Warning), &stop.who);
    format!("{what} for {} by {who}, {until}\n{}", rough(now.since(stop.since)), stop.why)
}

fn alarms(text: &mut String, alarms: &[AlarmLine], now: UtcTime) {
    text.push('\n');
    if alarms.is_empty() {
        push(text, format_args!("  {}\n", toned("no alarms", Tone::Good)));
    }
    for alarm in alarms {
        let tone = if alarm.severity == "critical" { Tone::Bad } else { Tone::Warning };
        let word = toned(&alarm.severity.to_uppercase(), tone);
        let lasts = rough(now.since(alarm.since));
        push(text, format_args!("  {word}  {} for {lasts}\n", toned(&alarm.name, Tone::Strong)));
        push(text, format_args!("    {}\n", wrapped(&alarm.text, 4, WIDTH)));
        if !alarm.runbook.is_empty() {
            push(text, format_args!("    {}\n", toned(&format!("what to do: {}", alarm.runbook), Tone::Quiet)));
        }
    }
}

fn runs(text: &mut String, runs: &[RunStatus]) {
    if runs.is_empty() {
        return;
    }
    let columns =
        [("last runs (UTC)", Align::Left), ("what", Align::Left), ("took", Align::Right), ("ended", Align::Left)];
    let mut table = Table::new(&columns);
    for run in runs {
        let took = run.ended.map_or_else(|| "-".to_owned(), |ended| spoken(ended.since(run.started)));
        let tone = if run.good { None } else { Some(Tone::Bad) };
        let ending = shortened(&run.ending, 30);
        table.toned_row(vec![(run.started.for_tables(), None), (run.what.clone(), None), (took, None), (ending, tone)]);
    }
    text.push('\n');
    text.push_str(&indented(&table.to_string()));
}

fn daemon(status: &StatusSnapshot) -> String {
    let mut text = String::new();
    let daemon = &status.daemon;
    let up = rough(status.time.since(daemon.started));
    let http = daemon.http.as_deref().map_or_else(String::new, |address| format!(", {address}"));
    line(&mut text, "daemon", &format!("lifeboatd {}, process {}, up {up}{http}", daemon.version, daemon.pid));
    for task in daemon.tasks.iter().filter(|task| task.wedged) {
        line(&mut text, "task", &format!("{} {}: {}", toned("STUCK", Tone::Bad), task.name, task.doing));
    }
    for over in &status.overrides {
        let age = rough(status.time.since(over.since));
        line(&mut text, "override", &format!("{} for {age}, by {}", over.setting, over.variable));
    }
    if !status.alarms.is_empty() {
        alarms(&mut text, &status.alarms, status.time);
    }
    text
}

fn seconds(seconds: f64) -> String {
    spoken(Duration::from_secs_f64(seconds.clamp(0.0, 1e12)))
}

/// A long duration as people say it: `45 s`, `12 min`, `15 h`, `9 days`.
#[must_use]
pub(crate) fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width - 3).collect();
    format!("{}...", kept.trim_end())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// Writing to a `String` cannot fail.
fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    if text.write_fmt(what).is_err() {
        text.push('?');
    }
}

#[cfg(test)]
mod tests;
