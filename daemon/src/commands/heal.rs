//! `lifeboatd heal`: brings regions what they lack, now.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_cli::exit_code::Ending;
use lifeboat_cli::terminal::{Align, Output, Table, Tone, spoken, toned};
use lifeboat_cli::{err, errln, out, outln};
use lifeboat_repository::catalog::Disagreement;
use lifeboat_repository::format::layout::WalRange;
use lifeboat_repository::heal::{
    self, HealEnd, HealPreview, HealProgress, HealRegion, HealReport, HealScope, Lack, Pace, Reach, WalCheck,
    ranges_in_words,
};
use lifeboat_vocabulary::{ByteCount, RegionName, SystemClock};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::base::alarms::board::AlarmBoard;
use crate::care::agreement::judge;
use crate::care::heal::one_and_others;
use crate::care::lost_wal;
use crate::care::parts::CareParts;
use crate::care::unrecorded::Unrecorded;
use crate::deletion::freeze::Freezer;
use crate::regions::context::ClusterContext;
use crate::regions::open::OpenRegions;
use crate::regions::readings::{RegionReadings, read_all};
use crate::settings::wiring::ClusterConfig;

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct HealArgs {
    /// Only this region; all of them otherwise.
    #[arg(long, value_name = "NAME")]
    pub region: Option<RegionName>,
    /// Say what is missing, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// The parts for a command: nothing is supervised, and alarms go nowhere but the log.
///
/// # Errors
/// If the regions cannot be opened, `only` is none of them, or the signing key cannot be read.
pub(crate) async fn parts_for_command(
    chosen: ClusterConfig<'_>,
    only: Option<&RegionName>,
) -> anyhow::Result<CareParts> {
    let ClusterConfig { config, cluster } = chosen;
    let clock: Arc<SystemClock> = Arc::new(SystemClock);
    let state = chosen.state_directory();
    let aside = state.join("command");
    let (alarms, _) = AlarmBoard::open(&aside, Arc::<SystemClock>::clone(&clock));
    let regions = OpenRegions::open(config, &cluster.name).await?;
    if let Some(only) = only {
        anyhow::ensure!(regions.get(only).is_some(), "the configuration has no region {only}");
    }
    let freezer = Freezer::new(&config.state_directory, Arc::<SystemClock>::clone(&clock));
    let config = Arc::new(config.clone());
    let context = ClusterContext {
        cluster: cluster.name.clone(),
        directory: state,
        config: watch::Sender::new(Arc::clone(&config)).subscribe(),
        regions: Arc::new(regions),
        facts: Arc::default(),
        alarms: Arc::new(alarms),
        freezer: Arc::new(freezer),
        signer: chosen.signer()?,
        clock,
    };
    Ok(CareParts { context, config, cluster: cluster.clone(), board: Arc::default(), requests: Arc::default() })
}

/// All regions as a command sees them.
struct View {
    read: RegionReadings,
    disagreements: Vec<Disagreement>,
    regions: Vec<HealRegion>,
    scope: HealScope,
}

/// How many of the regions were read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    All,
    /// What the others hold, nobody knows.
    Some,
}

impl View {
    fn seen(&self) -> Seen {
        if self.regions.len() == self.read.regions.len() { Seen::All } else { Seen::Some }
    }
}

async fn look(parts: &CareParts) -> anyhow::Result<View> {
    let read = read_all(&parts.context.regions, &parts.context.signer).await?;
    let disagreements = judge(parts, &read).await;
    let distrusted = disagreements.iter().filter(|found| found.changes_history());
    let distrusted: Vec<&RegionName> = distrusted.filter_map(Disagreement::region).collect();
    let regions = read.readable(&distrusted);
    let scope = parts.scope(&regions).await;
    Ok(View { read, disagreements, regions, scope })
}

/// Heals, or says what would be healed. 0: nothing is left; 4: something is, or a region could not be looked at; 6: damage
/// could not be healed; 1: no region could be looked at; 130: stopped.
///
/// # Errors
/// If no region can be read.
pub async fn run(
    chosen: ClusterConfig<'_>,
    args: &HealArgs,
    output: Output,
    stop: &CancellationToken,
) -> anyhow::Result<Ending> {
    let parts = parts_for_command(chosen, args.region.as_ref()).await?;
    let view = look(&parts).await?;
    let (mut outcomes, mut unrecorded): (Vec<(RegionName, Outcome)>, Vec<_>) = (Vec::new(), Vec::new());
    let pace = Pace::new(Some(parts.bandwidth()));
    for place in 0..view.regions.len() {
        let Some((mut target, others)) = one_and_others(&view.regions, place) else { continue };
        let name = target.store.name.clone();
        if args.region.as_ref().is_some_and(|wanted| *wanted != name) {
            continue;
        }
        let progress = Arc::new(HealProgress::default());
        let tools = parts.tools(&view.read.trust, &pace, &progress, stop);
        // By hand everything is compared, whatever is on its way.
        let tools = lifeboat_repository::heal::HealTools { settled: Duration::ZERO, ..tools };
        let lacking = heal::preview(&target, &others, &view.scope, &tools).await?;
        if args.dry_run {
            outcomes.push((name, Outcome::of(What::Surveyed, lacking)));
            continue;
        }
        let line = ProgressLine::start(name.clone(), Arc::clone(&progress), output);
        let report = lifeboat_repository::heal::heal_region(&mut target, &others, &view.scope, &tools).await?;
        drop(line);
        let all: Vec<HealRegion> = others.iter().chain([&target]).cloned().collect();
        let untold = Unrecorded::record(&parts, &all, report.damage.clone()).await;
        if !untold.is_empty() {
            unrecorded.push((name.clone(), untold));
        }
        let stopped = report.ended == Some(HealEnd::Stopped);
        outcomes.push((name, Outcome::of(What::Healed(report), lacking)));
        if stopped {
            break;
        }
    }
    // As it is now: what was copied is missing no more.
    let progress = HealProgress::default();
    let wal = tokio::select! {
        () = stop.cancelled() => None,
        wal = lost_wal::compare(&parts, &view.read.trust, &view.regions, &view.scope, &progress) => Some(wal),
    };
    for (name, outcome) in &mut outcomes {
        outcome.missing_wal = wal.as_ref().map(|wal| wal.lost_in(name)).unwrap_or_default();
        let is_silent = |wal: &WalCheck| wal.silent.iter().chain(&wal.unread_heads).any(|(silent, _)| silent == name);
        outcome.is_wal_compared = wal.as_ref().is_some_and(|wal| wal.reach == Reach::Known && !is_silent(wal));
    }
    // Those whose logs could not be read are named already.
    let mut not_compared = wal.map(|wal| [wal.silent, wal.unread_heads].concat()).unwrap_or_default();
    not_compared.retain(|(name, _)| args.region.as_ref().is_none_or(|wanted| wanted == name));
    print(&view, &outcomes, &unrecorded, &not_compared, output);
    let ending = ending(&view, &outcomes, args);
    let is_unknown = outcomes.iter().any(|(_, outcome)| !outcome.is_wal_compared);
    let is_partial = !unrecorded.is_empty() || !not_compared.is_empty() || is_unknown;
    Ok(if ending == Ending::Done && is_partial { Ending::Degraded } else { ending })
}

/// What was found, and done, for one region.
struct Outcome {
    survey: HealPreview,
    what: What,
    /// WAL that it must have and that no region has which answers.
    missing_wal: Vec<WalRange>,
    /// Whether that is known.
    is_wal_compared: bool,
}

/// What was done.
enum What {
    Surveyed,
    Healed(HealReport),
}

impl Outcome {
    fn of(what: What, survey: HealPreview) -> Self {
        Self { survey, what, missing_wal: Vec::new(), is_wal_compared: false }
    }

    fn is_damaged(&self) -> bool {
        let records = &self.survey.records;
        !self.missing_wal.is_empty()
            || !records.wal_damage.is_empty()
            || !records.without_source.is_empty()
            || records.backups.iter().any(|task| task.lack != Lack::Record)
    }
}

fn ending(view: &View, outcomes: &[(RegionName, Outcome)], args: &HealArgs) -> Ending {
    let mut ending = Ending::Done;
    if outcomes.is_empty() {
        return Ending::Failed;
    }
    for (_, outcome) in outcomes {
        let left = match &outcome.what {
            What::Surveyed => !outcome.survey.is_whole(),
            What::Healed(report) if report.ended == Some(HealEnd::Stopped) => return Ending::Stopped,
            What::Healed(report) => !report.is_complete(),
        };
        if left || !outcome.missing_wal.is_empty() {
            ending = if outcome.is_damaged() || ending == Ending::Damaged { Ending::Damaged } else { Ending::Degraded };
        }
    }
    let unseen =
        view.read.unreadable().into_iter().any(|(name, _)| args.region.as_ref().is_none_or(|only| *only == name));
    if ending == Ending::Done && (unseen || !view.disagreements.is_empty()) { Ending::Degraded } else { ending }
}

fn print(
    view: &View,
    outcomes: &[(RegionName, Outcome)],
    unrecorded: &[(RegionName, Unrecorded)],
    not_compared: &[(RegionName, String)],
    output: Output,
) {
    let named = |regions: &[(RegionName, String)]| -> Vec<Value> {
        regions.iter().map(|(name, why)| json!({ "region": name.as_str(), "why": why })).collect()
    };
    let unreadable = view.read.unreadable();
    if output == Output::Json {
        let regions: Vec<Value> = outcomes.iter().map(|(name, outcome)| as_json(name, outcome, view.seen())).collect();
        let disagreements: Vec<String> = view.disagreements.iter().map(ToString::to_string).collect();
        let unrecorded: Vec<String> = unrecorded.iter().map(|(_, unrecorded)| unrecorded.to_string()).collect();
        outln!(
            "{}",
            json!({
                "regions": regions, "not_read": named(&unreadable), "wal_not_compared": named(not_compared), "disagreements": disagreements, "unrecorded": unrecorded
            })
        );
        return;
    }
    let columns = [
        ("region", Align::Left),
        ("backups", Align::Right),
        ("WAL objects", Align::Right),
        ("bytes", Align::Right),
        ("state", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for (name, outcome) in outcomes {
        table.toned_row(row(name, outcome, view.seen()));
    }
    for (name, why) in &unreadable {
        let state = (format!("cannot be read: {why}"), Some(Tone::Bad));
        table.toned_row(vec![(name.to_string(), None), cell("-"), cell("-"), cell("-"), state]);
    }
    out!("{table}");
    for (name, outcome) in outcomes {
        notes(name, outcome);
    }
    for (name, unrecorded) in unrecorded {
        outln!("{} while region {name} was healed, {unrecorded}", toned("attention:", Tone::Bad));
    }
    for (name, why) in not_compared {
        outln!("{} {}", toned("attention:", Tone::Warning), lost_wal::not_compared(name, why));
    }
    for disagreement in &view.disagreements {
        outln!("{} {disagreement}; deletion is frozen", toned("attention:", Tone::Bad));
    }
}

fn cell(text: impl Into<String>) -> (String, Option<Tone>) {
    (text.into(), None)
}

fn row(name: &RegionName, outcome: &Outcome, seen: Seen) -> Vec<(String, Option<Tone>)> {
    let survey = &outcome.survey;
    let lost = (!outcome.missing_wal.is_empty()).then(|| ("lacks WAL".to_owned(), Tone::Bad));
    let everything = || match (&lost, seen) {
        (Some(lost), _) => lost.clone(),
        (None, _) if !outcome.is_wal_compared => ("its WAL was not compared".to_owned(), Tone::Warning),
        (None, Seen::All) => ("has everything".to_owned(), Tone::Good),
        (None, Seen::Some) => ("lacks nothing of what the regions that were read have".to_owned(), Tone::Warning),
    };
    let (backups, wal, bytes, state, tone) = match &outcome.what {
        What::Surveyed if survey.is_whole() => {
            let (state, tone) = everything();
            (0, 0, ByteCount::ZERO, state, tone)
        }
        What::Surveyed => {
            let state = if outcome.is_damaged() { "damaged" } else { "lacks these" };
            (survey.records.backups.len(), survey.wal_objects, survey.bytes(), state.to_owned(), Tone::Warning)
        }
        What::Healed(report) => {
            let (state, tone) = match &report.ended {
                Some(HealEnd::Stopped) => ("stopped".to_owned(), Tone::Warning),
                Some(HealEnd::Region(_)) => ("ended early".to_owned(), Tone::Bad),
                None if report.left_count > 0 => (format!("{} left", report.left_count), Tone::Bad),
                None if report.objects + report.records == 0 && report.backups.is_empty() => everything(),
                None => ("healed".to_owned(), Tone::Good),
            };
            (report.backups.len(), report.wal_objects, report.bytes, state, tone)
        }
    };
    // What no region has is not to be copied, and not to be passed over in silence.
    let (state, tone) = match lost {
        Some(lost) if tone == Tone::Good => lost,
        _ => (state, tone),
    };
    vec![
        cell(name.to_string()),
        cell(backups.to_string()),
        cell(wal.to_string()),
        cell(bytes.to_string()),
        (state, Some(tone)),
    ]
}

fn notes(name: &RegionName, outcome: &Outcome) {
    if !outcome.missing_wal.is_empty() {
        let missing = ranges_in_words(&outcome.missing_wal);
        outln!("{} {name}: WAL from {missing}: no region that answers has it", toned("lost:", Tone::Bad));
    }
    let survey = &outcome.survey;
    match &outcome.what {
        What::Surveyed => {
            for task in &survey.records.backups {
                let what = if task.lack == Lack::Record { "is missing" } else { "has damaged objects" };
                outln!("{name}: backup {} {what}", task.record.backup);
            }
            for alone in &survey.records.without_source {
                outln!("{name}: backup {}: {alone}", alone.backup);
            }
            for backup in &survey.records.disputed {
                outln!("{name}: two signed records of backup {backup} disagree: a person has to decide");
            }
            if let Some(why) = &survey.wal_unseen {
                outln!("{name}: WAL was not compared: {why}");
            }
            if let Some(unread) = survey.unread.text() {
                outln!("{name}: {unread}");
            }
        }
        What::Healed(report) => {
            for left in &report.left {
                outln!("{} {name}: {}: {}", toned("left:", Tone::Bad), left.what, left.why);
            }
            if let Some(HealEnd::Region(why)) = &report.ended {
                outln!("{} {name}: {why}", toned("ended early:", Tone::Bad));
            }
            for found in &report.damage {
                let (region, key, what) = (&found.region, &found.key, &found.what);
                outln!("{} {key} in {region}: {what}", toned("damaged:", Tone::Bad));
            }
        }
    }
}

fn as_json(name: &RegionName, outcome: &Outcome, seen: Seen) -> Value {
    let survey = &outcome.survey;
    let missing_wal = lost_wal::ranges_json(&outcome.missing_wal);
    let has_all_wal = outcome.is_wal_compared && outcome.missing_wal.is_empty();
    let is_whole = |is_whole: bool| is_whole && has_all_wal && seen == Seen::All;
    let ids = |of: &mut dyn Iterator<Item = String>| of.collect::<Vec<_>>();
    let lacking = json!({
        "backups": ids(&mut survey.records.backups.iter().map(|task| task.record.backup.to_string())),
        "wal_objects": survey.wal_objects,
        "bytes": survey.bytes().as_bytes(),
        "records": survey.records.common.len(),
        "damaged": outcome.is_damaged(),
        "without_source": ids(&mut survey.records.without_source.iter().map(|alone| alone.backup.to_string())),
        "unread": ids(&mut survey.unread.iter().map(|(key, _)| key.to_string())),
        "disputed": ids(&mut survey.records.disputed.iter().map(ToString::to_string)),
    });
    let What::Healed(report) = &outcome.what else {
        let whole = is_whole(survey.is_whole());
        return json!({ "region": name.as_str(), "whole": whole, "lacking": lacking, "missing_wal": missing_wal });
    };
    let left: Vec<Value> = report.left.iter().map(|left| json!({ "what": left.what, "why": left.why })).collect();
    let ended = report.ended.as_ref().map(|ended| match ended {
        HealEnd::Stopped => "stopped".to_owned(),
        HealEnd::Region(why) => why.clone(),
    });
    json!({
        "region": name.as_str(), "whole": is_whole(report.is_complete()), "lacking": lacking,
        "missing_wal": missing_wal,
        "healed": {
            "backups": ids(&mut report.backups.iter().map(ToString::to_string)), "wal_objects": report.wal_objects,
            "objects": report.objects, "bytes": report.bytes.as_bytes(), "records": report.records,
            "from": report.from.as_ref().map(ToString::to_string),
        },
        "left": left, "left_count": report.left_count, "ended": ended,
    })
}

/// Tells on standard error how far it is: every second in place on a terminal, every ten seconds as a line elsewhere; with
/// `--json` as JSON lines on standard output.
pub(crate) struct ProgressLine(tokio::task::JoinHandle<()>);

impl ProgressLine {
    pub(crate) fn start(name: RegionName, progress: Arc<HealProgress>, output: Output) -> Self {
        let on_terminal = output == Output::Text && std::io::stderr().is_terminal();
        let every = match output {
            Output::Text if !on_terminal => Duration::from_secs(10),
            _ => Duration::from_secs(1),
        };
        Self(tokio::spawn(async move {
            let mut tick = tokio::time::interval(every);
            tick.tick().await;
            loop {
                tick.tick().await;
                let now = progress.snapshot();
                let left = now.left.map_or_else(String::new, |left| format!(", {} left", spoken(left)));
                match output {
                    Output::Json => outln!(
                        "{}",
                        json!({
                            "event": "progress", "region": name.as_str(), "doing": now.doing, "objects": now.objects,
                            "objects_total": now.objects_total, "bytes": now.done.as_bytes(),
                            "bytes_total": now.total.as_bytes(), "seconds_left": now.left.map(|left| left.as_secs_f64()),
                        })
                    ),
                    Output::Text => {
                        let line = format!("{name}: {}, {} of {}{left}", now.doing, now.done, now.total);
                        if on_terminal { err!("\r\x1b[K{line}") } else { errln!("{line}") }
                    }
                }
            }
        }))
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.0.abort();
        if std::io::stderr().is_terminal() {
            err!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_region_is_called_whole_whose_wal_was_not_compared_or_while_another_was_not_read() {
        let name: RegionName = "eu-1".parse().unwrap();
        let state = |outcome: &Outcome, seen| row(&name, outcome, seen).pop().unwrap().0;
        let whole = || Outcome::of(What::Surveyed, HealPreview::default());
        let compared = || Outcome { is_wal_compared: true, ..whole() };
        assert!(compared().survey.is_whole());
        assert_eq!(state(&compared(), Seen::All), "has everything");
        assert_eq!(state(&compared(), Seen::Some), "lacks nothing of what the regions that were read have");
        for seen in [Seen::All, Seen::Some] {
            assert_eq!(state(&whole(), seen), "its WAL was not compared");
        }
        let at = |text: &str| text.parse().unwrap();
        let timeline = lifeboat_vocabulary::TimelineId::new(1).unwrap();
        let lost = WalRange { timeline, start: at("0/10"), end: at("0/20") };
        for outcome in [whole(), compared()] {
            assert_eq!(state(&Outcome { missing_wal: vec![lost], ..outcome }, Seen::All), "lacks WAL");
        }
    }
}
