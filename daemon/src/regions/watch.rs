//! Watches the regions of one cluster: how they are doing, whether their clocks are right, and whether they still do what
//! everything relies on.
//!
//! A region that others use is only looked at. One that nobody has asked for a minute (sooner while it is not healthy), or
//! whose breaker waits for a probe, is asked for one short listing, so that a region that went away in a quiet hour is
//! noticed, and one that came back too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use lifeboat_stores::{BreakerState, CLUSTER_MARK, ProbeReport, probe};
use lifeboat_vocabulary::{RegionName, error_chain};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::base::alarms::board::{Alarm, AlarmId, Source, SourceKind, Wrong, Wrongs};
use crate::base::alarms::rules::Severity;
use crate::base::supervisor::TaskContext;
use crate::model::capabilities::Writers;
use crate::model::capabilities::{Ability, Capabilities};
use crate::model::region_health::{Health, Look, Moment};
use crate::regions::behind::{self, Lack};
use crate::regions::context::ClusterContext;
use crate::regions::memory::{RegionBook, RegionMemory};
use crate::regions::open::OpenRegion;

/// How often every region is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// A region that nobody has asked for so long is asked.
const QUIET: Duration = Duration::from_secs(60);
/// Likewise, while it is not well or does not look so: only more requests show whether it is better, or worse.
const QUIET_SICK: Duration = Duration::from_secs(5);
/// How long one question may take, with all its attempts.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often a region is probed for what it can do.
const PROBE: Duration = Duration::from_secs(24 * 3600);
/// When a probe that found nothing out is made again.
const PROBE_AGAIN: Duration = Duration::from_secs(600);
/// How often what is known is saved, if nothing has changed.
const SAVE: Duration = Duration::from_secs(60);
/// Clocks that are further apart in **seconds** raise the alarm, and clear it: signatures of requests end at 15 minutes.
const SKEW: (f64, f64) = (300.0, 240.0);

/// Whether this daemon may write into the regions what a probe needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probing {
    /// It does: its role writes there anyway.
    Allowed,
    /// It does not: its credentials may only read.
    ReadOnly,
}

/// What the watch works with.
#[derive(Clone)]
pub(crate) struct WatchParts {
    pub(crate) context: ClusterContext,
    /// What is known of its regions.
    pub(crate) book: Arc<RegionBook>,
    /// Regions that must answer so that WAL and backups can count.
    pub(crate) quorum: usize,
    /// Whether probes are made.
    pub(crate) probing: Probing,
}

/// What is asked of a region.
enum Answer {
    Knock(Result<(), String>),
    Probe(Result<ProbeReport, String>),
}

/// What the watch itself knows of a region.
struct Watched {
    requests: u64,
    quiet_since: Instant,
    busy: bool,
    next_probe: Instant,
    last_error: Option<String>,
    skewed: bool,
}

struct Watch {
    parts: WatchParts,
    watched: BTreeMap<RegionName, Watched>,
    asking: JoinSet<(RegionName, Answer)>,
    saved: Instant,
    save_now: bool,
}

/// Watches until it is told to stop.
///
/// # Errors
/// None so far; the supervisor wants to know.
pub(crate) async fn watch(context: TaskContext, parts: WatchParts) -> anyhow::Result<()> {
    let now = Instant::now();
    let fresh =
        || Watched { requests: 0, quiet_since: now, busy: false, next_probe: now, last_error: None, skewed: false };
    let watched = parts.context.regions.iter().map(|region| (region.name.clone(), fresh())).collect();
    let mut watch = Watch { parts, watched, asking: JoinSet::new(), saved: now, save_now: false };
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        context.progress.waiting("the next look at the regions");
        tokio::select! {
            () = context.stop.cancelled() => break,
            _ = tick.tick() => {
                context.progress.working("a look at the regions");
                watch.look();
                watch.report();
            }
            Some(answered) = watch.asking.join_next() => {
                context.progress.working("the answer of a region");
                // One that panicked would be waited for ever after.
                let (region, answer) = answered.context("ask a region")?;
                watch.answered(&region, answer);
                watch.report();
            }
        }
        watch.save_if_due().await;
    }
    watch.asking.shutdown().await;
    watch.save().await;
    Ok(())
}

impl Watch {
    fn look(&mut self) {
        let instant = Instant::now();
        let moment = Moment { time: self.parts.context.now(), instant };
        let cluster = self.parts.context.regions.cluster();
        for region in self.parts.context.regions.iter() {
            let seen = region.metrics.snapshot();
            let total = seen.total();
            let look = Look {
                breaker: region.breaker.state(),
                latency: seen.latency,
                requests: total.requests,
                errors: total.errors,
            };
            let change = self.parts.book.change(&region.name, |memory| memory.health.look(look, moment)).flatten();
            if let Some(change) = change {
                tracing::info!(%cluster, region = %region.name, from = %change.from, to = %change.to, "the region's health has changed");
                self.save_now = true;
            }
            let doubtful = self.parts.book.of(&region.name).is_some_and(|memory| memory.health.is_doubtful());
            let quiet = if doubtful { QUIET_SICK } else { QUIET };
            let Some(watched) = self.watched.get_mut(&region.name) else { continue };
            if watched.requests != total.requests {
                (watched.requests, watched.quiet_since) = (total.requests, instant);
            }
            if watched.busy {
                continue;
            }
            let ask = watched.wanted(region, self.parts.probing, quiet, instant);
            if let Some(question) = ask {
                watched.busy = true;
                self.asking.spawn(asked(region.clone(), question));
            }
        }
    }

    fn answered(&mut self, region: &RegionName, answer: Answer) {
        let Some(watched) = self.watched.get_mut(region) else { return };
        watched.busy = false;
        match answer {
            Answer::Knock(Ok(())) => watched.last_error = None,
            Answer::Knock(Err(why)) => watched.last_error = Some(why),
            Answer::Probe(Ok(report)) => {
                watched.next_probe = Instant::now() + PROBE;
                self.learn(region, &report);
            }
            Answer::Probe(Err(why)) => {
                tracing::debug!(%region, why, "the region could not be probed; it is tried again");
                watched.last_error = Some(why);
                watched.next_probe = Instant::now() + PROBE_AGAIN;
            }
        }
    }

    /// Compares what a probe found with what is remembered.
    fn learn(&mut self, name: &RegionName, report: &ProbeReport) {
        let now = self.parts.context.now();
        let learned = self.parts.book.change(name, |memory| {
            let (known, changes) = Capabilities::learn(memory.capabilities.take(), report, now);
            let writers = known.writers();
            memory.capabilities = Some(known);
            (writers, changes)
        });
        let Some((writers, changes)) = learned else { return };
        let cluster = self.parts.context.regions.cluster();
        for change in changes {
            let (before, now) = (in_words(change.before), in_words(change.now));
            tracing::warn!(%cluster, region = %name, ability = change.name, before, now, "a probe finds the region changed");
        }
        if let Some(region) = self.parts.context.regions.get(name) {
            if region.writers() != writers && writers == Writers::One {
                tracing::warn!(%cluster, region = %name, "conditional writes do not work: only one writer may use the region");
            }
            region.set_writers(writers);
        }
        self.save_now = true;
    }

    fn report(&mut self) {
        let source = Source::of(self.parts.context.regions.cluster(), SourceKind::Regions);
        let memories: Vec<(&OpenRegion, RegionMemory)> = self
            .parts
            .context
            .regions
            .iter()
            .filter_map(|region| Some((region, self.parts.book.of(&region.name)?)))
            .collect();
        let is_of_use = |memory: &RegionMemory| memory.health.state().is_of_use(memory.health.error_share());
        let working = memories.iter().filter(|(_, memory)| is_of_use(memory)).count();
        let severity = if working < self.parts.quorum { Severity::Critical } else { Severity::Warning };
        let mut wrong = BTreeMap::new();
        for (region, memory) in &memories {
            let Some(watched) = self.watched.get_mut(&region.name) else { continue };
            let why = region.metrics.last_failure().or_else(|| watched.last_error.clone());
            wrong.extend(wrong_health(region, memory, why.as_deref(), severity));
            wrong.extend(wrong_capability(region, memory));
            wrong.extend(watched.wrong_clock(region));
        }
        wrong.extend(self.behind(&memories));
        self.parts.context.alarms.report(&source, Wrongs::from(wrong));
    }

    /// Regions that answer and lack something.
    fn behind(&self, memories: &[(&OpenRegion, RegionMemory)]) -> Vec<(AlarmId, Wrong)> {
        let (facts, now) = (self.parts.context.facts.read(), self.parts.context.now());
        let look = |(region, memory): &(&OpenRegion, RegionMemory)| {
            let name = &region.name;
            let log = facts.survey.as_ref().and_then(|survey| survey.regions.get(name));
            let lack = || Lack::of(log.map_or(0, |log| log.missing), facts.heal.get(name));
            let lack = (memory.health.state() != Health::Away).then(lack);
            let look = |memory: &mut RegionMemory| behind::look(&mut memory.behind, lack.as_ref(), name, now);
            let text = self.parts.book.change(name, look).flatten()?;
            Some((Alarm::RegionBehind.of_region(name), Wrong { severity: Severity::Warning, text }))
        };
        memories.iter().filter_map(look).collect()
    }

    async fn save_if_due(&mut self) {
        if self.save_now || self.saved.elapsed() >= SAVE {
            self.save().await;
        }
    }

    async fn save(&mut self) {
        (self.save_now, self.saved) = (false, Instant::now());
        // Not saved: the board tells of a state directory that takes no writes, and this is written again in a minute.
        if let Err(error) = self.parts.book.save(&self.parts.context.regions, self.parts.context.now()).await {
            tracing::debug!(error = %error_chain(&error), "what is known of the regions is not saved");
        }
    }
}

/// What there is to ask.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Question {
    Knock,
    Probe,
}

impl Watched {
    fn wanted(&self, region: &OpenRegion, probing: Probing, quiet: Duration, now: Instant) -> Option<Question> {
        match region.breaker.state() {
            BreakerState::Closed if probing == Probing::Allowed && now >= self.next_probe => Some(Question::Probe),
            BreakerState::Closed => (now.duration_since(self.quiet_since) >= quiet).then_some(Question::Knock),
            BreakerState::HalfOpen => None,
            BreakerState::Open => region.breaker.wait().is_zero().then_some(Question::Knock),
        }
    }

    fn wrong_clock(&mut self, region: &OpenRegion) -> Option<(AlarmId, Wrong)> {
        let micros = region.metrics.snapshot().clock_skew_micros?;
        let seconds = Duration::from_micros(micros.unsigned_abs()).as_secs_f64();
        self.skewed = seconds >= if self.skewed { SKEW.1 } else { SKEW.0 };
        let which = if micros > 0 { "ahead of" } else { "behind" };
        let text = format!(
            "the clock of region {} is {seconds:.0} s {which} this host's. One of the two is wrong, most likely this \
             host's: let it keep its time by NTP. At 15 minutes the region refuses every request",
            region.name
        );
        let name = Alarm::RegionClockSkew.of_region(&region.name);
        self.skewed.then_some((name, Wrong { severity: Severity::Warning, text }))
    }
}

async fn asked(region: OpenRegion, question: Question) -> (RegionName, Answer) {
    let late = || format!("no answer within {} s", PATIENCE.as_secs());
    let answer = match question {
        Question::Knock => {
            let asked = tokio::time::timeout(PATIENCE, region.store.list(CLUSTER_MARK, None)).await;
            Answer::Knock(
                asked.map_err(|_| late()).and_then(|page| page.map(|_| ()).map_err(|error| error_chain(&error))),
            )
        }
        Question::Probe => {
            let asked = tokio::time::timeout(PATIENCE, probe(&*region.bare, region.clock())).await;
            Answer::Probe(asked.map_err(|_| late()).and_then(|report| report.map_err(|error| error_chain(&error))))
        }
    };
    (region.name, answer)
}

fn in_words(ability: Ability) -> &'static str {
    match ability {
        Ability::Holds => "yes",
        Ability::NotAllowed => "not allowed",
        Ability::Lacks => "no",
    }
}

fn wrong_health(
    region: &OpenRegion,
    memory: &RegionMemory,
    last_error: Option<&str>,
    severity: Severity,
) -> Option<(AlarmId, Wrong)> {
    let (name, health) = (&region.name, &memory.health);
    let latency = region.metrics.snapshot().latency.unwrap_or_default().as_secs_f64();
    let (alarm, severity, text) = match health.state() {
        Health::Healthy => return None,
        Health::Slow => {
            let usual = health.usual_latency().unwrap_or_default().as_secs_f64();
            let text = format!("region {name} takes {latency:.1} s for a small request; it used to take {usual:.2} s");
            (Alarm::RegionSlow, Severity::Warning, text)
        }
        Health::Failing => {
            let percent = health.error_share() * 100.0;
            let why = last_error.map_or_else(String::new, |why| format!("; the last that failed: {why}"));
            let text = format!("of the requests to region {name}, {percent:.0} % fail{why}");
            let useless = !health.state().is_of_use(health.error_share());
            (Alarm::RegionFailing, if useless { severity } else { Severity::Warning }, text)
        }
        Health::Away => {
            let why = last_error.unwrap_or("its requests fail");
            let text = format!(
                "region {name} has not answered since {}: {why}. What it misses is copied to it when it is back",
                health.since()
            );
            (Alarm::RegionAway, severity, text)
        }
    };
    Some((alarm.of_region(name), Wrong { severity, text }))
}

fn wrong_capability(region: &OpenRegion, memory: &RegionMemory) -> Option<(AlarmId, Wrong)> {
    let capabilities = memory.capabilities.as_ref()?;
    let lost: Vec<&str> = capabilities.lost().collect();
    if lost.is_empty() {
        return None;
    }
    let (severity, follows) = if capabilities.lost_conditional_writes() {
        (Severity::Critical, "only one writer may use it now: see that no other daemon does, and ask the provider")
    } else {
        (Severity::Warning, "ask the provider what has changed")
    };
    let (name, lost) = (&region.name, lost.join(", "));
    let text = format!("region {name} no longer does what it did before ({lost}): {follows}");
    Some((Alarm::RegionCapability.of_region(name), Wrong { severity, text }))
}
