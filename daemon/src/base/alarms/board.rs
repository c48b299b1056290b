//! What is wrong right now, everywhere: raised once, told again until it is cured, cleared once. Since when is kept over
//! restarts.
//!
//! Each source states completely what is wrong as far as it can see; what it does not name any more is cured. Telling is
//! logging, for now: the board is where other channels will begin.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_vocabulary::{Clock, ClusterName, RegionName, UtcTime, error_chain};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use crate::base::alarms::rules::{RULES, Rule, Severity, rule};
use crate::base::state::{Durable, Loaded, time_text};

/// How often an alarm that goes on is told again.
const REPEAT: Duration = Duration::from_secs(15 * 60);
/// How long an alarm of the last run waits for its source to say something before it is dropped.
const REMEMBERED: Duration = Duration::from_secs(15 * 60);
/// At most this often the file is written.
const SAVE_PAUSE: Duration = Duration::from_secs(1);

/// Which alarm: a rule, and what it is about, if there may be several at once. Shown as `wal-region/frankfurt`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AlarmName {
    rule: &'static str,
    about: Option<String>,
}

impl AlarmName {
    /// The one alarm of a rule. The rule is one of [`RULES`].
    #[must_use]
    pub fn of(rule: &'static str) -> Self {
        debug_assert!(self::rule(rule).is_some(), "{rule} is not among the rules");
        Self { rule, about: None }
    }

    /// The alarm of a rule about one thing, such as a task.
    #[must_use]
    pub fn about(rule: &'static str, about: impl Into<String>) -> Self {
        Self { about: Some(about.into()), ..Self::of(rule) }
    }

    /// The alarm of a rule about one region.
    #[must_use]
    pub fn of_region(rule: &'static str, region: &RegionName) -> Self {
        Self::about(rule, region.as_str())
    }

    /// The rule's name.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        self.rule
    }

    fn parse(text: &str) -> Option<Self> {
        let (name, about) = text.split_once('/').map_or((text, None), |(name, about)| (name, Some(about.to_owned())));
        rule(name).map(|rule| Self { rule: rule.name, about })
    }
}

impl fmt::Display for AlarmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.about {
            Some(about) => write!(f, "{}/{about}", self.rule),
            None => f.pad(self.rule),
        }
    }
}

/// Who states what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// About which cluster; `None`: about the daemon as a whole.
    pub cluster: Option<ClusterName>,
    /// Which task.
    pub task: &'static str,
}

impl Source {
    /// A task of a cluster.
    #[must_use]
    pub fn of(cluster: &ClusterName, task: &'static str) -> Self {
        Self { cluster: Some(cluster.clone()), task }
    }

    /// A task of the daemon.
    #[must_use]
    pub fn daemon(task: &'static str) -> Self {
        Self { cluster: None, task }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// How grave it is.
    pub severity: Severity,
    /// What is wrong and what to do.
    pub text: String,
}

/// What is wrong, complete, as a source sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wrongs(BTreeMap<AlarmName, Wrong>);

impl Wrongs {
    /// Adds something, as grave as its rule says.
    pub fn add(&mut self, name: AlarmName, text: impl Into<String>) {
        let severity = rule(name.rule).map_or(Severity::Critical, |rule| rule.severity);
        self.0.insert(name, Wrong { severity, text: text.into() });
    }

    /// What was added.
    pub fn iter(&self) -> impl Iterator<Item = (&AlarmName, &Wrong)> {
        self.0.iter()
    }
}

impl From<BTreeMap<AlarmName, Wrong>> for Wrongs {
    fn from(wrongs: BTreeMap<AlarmName, Wrong>) -> Self {
        Self(wrongs)
    }
}

/// An alarm that lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaisedAlarm {
    /// Its name.
    pub name: AlarmName,
    /// About which cluster; `None`: about the daemon as a whole.
    pub cluster: Option<ClusterName>,
    /// How grave it is.
    pub severity: Severity,
    /// Since when, over restarts.
    pub since: UtcTime,
    /// What is wrong and what to do.
    pub text: String,
    /// Where the documentation says what to do, such as `docs/runbooks/wal-gap.md`.
    pub runbook: String,
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It began, or goes on and is told again.
    Firing(RaisedAlarm),
    /// It is cured.
    Cleared(RaisedAlarm),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    severity: Severity,
    since: UtcTime,
    told: UtcTime,
    text: String,
}

/// In the file: `cluster|task|alarm`, the cluster empty for the daemon.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Kept(BTreeMap<String, KeptAlarm>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct KeptAlarm {
    severity: Severity,
    #[serde(with = "time_text")]
    since: UtcTime,
    #[serde(with = "time_text")]
    told: UtcTime,
    text: String,
}

#[derive(Default)]
struct Inner {
    raised: BTreeMap<(Source, AlarmName), Standing>,
    /// From the last run, until its source has said something.
    remembered: BTreeMap<String, KeptAlarm>,
}

/// All alarms that last, of all sources. Cheap to report to; [`AlarmBoard::keep`] writes what changed.
pub struct AlarmBoard {
    clock: Arc<dyn Clock>,
    opened: UtcTime,
    inner: Mutex<Inner>,
    changed: Notify,
    kept: Durable<Kept>,
}

impl AlarmBoard {
    /// Opens the board with what stood on it when the last run ended.
    #[must_use]
    pub fn open(state_directory: &Path, clock: Arc<dyn Clock>) -> (Self, Loaded) {
        let (kept, loaded) = Durable::<Kept>::open(state_directory.join("alarms.json"));
        let inner = Inner { raised: BTreeMap::new(), remembered: kept.read().0 };
        let board = Self { opened: clock.now(), clock, inner: Mutex::new(inner), changed: Notify::new(), kept };
        (board, loaded)
    }

    /// States completely what is wrong now, as far as this source can see.
    pub fn report(&self, source: &Source, wrong: impl Into<Wrongs>) {
        let changes = self.compare(source, wrong.into());
        if !changes.is_empty() {
            tell(&changes);
            self.changed.notify_one();
        }
    }

    /// Nothing is wrong any more as far as this source is concerned, because it is no more.
    pub fn forget(&self, source: &Source) {
        self.report(source, Wrongs::default());
    }

    fn compare(&self, source: &Source, wrong: Wrongs) -> Vec<Change> {
        let now = self.clock.now();
        let mut changes = Vec::new();
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        inner.recall(source);
        let mine = |(of, _): &(Source, AlarmName)| of == source;
        let cured: Vec<_> =
            inner.raised.keys().filter(|key| mine(key) && !wrong.0.contains_key(&key.1)).cloned().collect();
        for key in cured {
            if let Some(standing) = inner.raised.remove(&key) {
                changes.push(Change::Cleared(shown(&key, &standing)));
            }
        }
        for (name, Wrong { severity, text }) in wrong.0 {
            let key = (source.clone(), name);
            let standing = match inner.raised.get_mut(&key) {
                Some(standing) => {
                    let graver = severity > standing.severity;
                    (standing.text, standing.severity) = (text, severity);
                    // A clock that was set back must not silence an alarm.
                    if !graver && now.since(standing.told) < REPEAT && standing.told <= now {
                        continue;
                    }
                    standing.told = now;
                    standing.clone()
                }
                None => {
                    let standing = Standing { severity, since: now, told: now, text };
                    inner.raised.insert(key.clone(), standing.clone());
                    standing
                }
            };
            changes.push(Change::Firing(shown(&key, &standing)));
        }
        changes
    }

    /// What lasts for this cluster; for `None`, what lasts for the daemon as a whole. Gravest first, then oldest.
    #[must_use]
    pub fn raised(&self, cluster: Option<&ClusterName>) -> Vec<RaisedAlarm> {
        let mut raised = self.all();
        raised.retain(|alarm| alarm.cluster.as_ref() == cluster);
        raised
    }

    /// Everything that lasts. Gravest first, then oldest.
    #[must_use]
    pub fn all(&self) -> Vec<RaisedAlarm> {
        let inner = self.inner.lock();
        let mut raised: Vec<_> = inner.raised.iter().map(|(key, standing)| shown(key, standing)).collect();
        if self.clock.now().since(self.opened) < REMEMBERED {
            raised.extend(inner.remembered.iter().filter_map(|(key, kept)| {
                let (cluster, _, name) = split(key)?;
                Some(shown(&(Source { cluster, task: "" }, name), &kept.standing()))
            }));
        }
        raised.sort_by(|a, b| b.severity.cmp(&a.severity).then(a.since.cmp(&b.since)).then(a.name.cmp(&b.name)));
        raised
    }

    /// Writes what changed, until it is told to stop; then once more.
    pub async fn keep(&self, stop: &CancellationToken) {
        let mut saved = true;
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.changed.notified() => {}
                // What the disk refused is tried again.
                () = tokio::time::sleep(REPEAT / 60), if !saved => {}
            }
            saved = self.save().await;
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(SAVE_PAUSE) => {}
            }
        }
        self.save().await;
    }

    /// Writes what is on the board; says whether the disk took it.
    pub async fn save(&self) -> bool {
        let now = self.content();
        let saved = self.kept.change_in_background(move |kept| *kept = now).await;
        if let Err(error) = &saved {
            tracing::debug!(error = %error_chain(error), "the alarms are not saved");
        }
        saved.is_ok()
    }

    fn content(&self) -> Kept {
        let recent = self.clock.now().since(self.opened) < REMEMBERED;
        let inner = self.inner.lock();
        let mut kept = if recent { inner.remembered.clone() } else { BTreeMap::new() };
        kept.extend(inner.raised.iter().map(|((source, name), standing)| {
            let Standing { severity, since, told, text } = standing.clone();
            (key(source, name), KeptAlarm { severity, since, told, text })
        }));
        Kept(kept)
    }
}

impl Inner {
    /// Takes over what a source had raised in the last run: it speaks for itself from now on.
    fn recall(&mut self, source: &Source) {
        let prefix = prefix(source);
        let names: Vec<String> = self.remembered.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
        for name in names {
            let Some(kept) = self.remembered.remove(&name) else { continue };
            if let Some((.., alarm)) = split(&name) {
                self.raised.entry((source.clone(), alarm)).or_insert_with(|| kept.standing());
            }
        }
    }
}

impl KeptAlarm {
    fn standing(&self) -> Standing {
        Standing { severity: self.severity, since: self.since, told: self.told, text: self.text.clone() }
    }
}

fn prefix(source: &Source) -> String {
    let cluster = source.cluster.as_ref().map_or("", ClusterName::as_str);
    format!("{cluster}|{}|", source.task)
}

fn key(source: &Source, name: &AlarmName) -> String {
    format!("{}{name}", prefix(source))
}

fn split(key: &str) -> Option<(Option<ClusterName>, &str, AlarmName)> {
    let mut parts = key.splitn(3, '|');
    let (cluster, task, name) = (parts.next()?, parts.next()?, parts.next()?);
    let cluster = if cluster.is_empty() { None } else { Some(cluster.parse().ok()?) };
    Some((cluster, task, AlarmName::parse(name)?))
}

fn shown((source, name): &(Source, AlarmName), standing: &Standing) -> RaisedAlarm {
    RaisedAlarm {
        name: name.clone(),
        cluster: source.cluster.clone(),
        severity: standing.severity,
        since: standing.since,
        text: standing.text.clone(),
        runbook: format!("docs/runbooks/{}.md", name.rule),
    }
}

/// Tells of changes. An ERROR is something that a person must act on.
fn tell(changes: &[Change]) {
    let cluster = |alarm: &RaisedAlarm| alarm.cluster.as_ref().map_or("", ClusterName::as_str).to_owned();
    for change in changes {
        match change {
            Change::Firing(alarm) if alarm.severity == Severity::Critical => {
                tracing::error!(cluster = cluster(alarm), alarm = %alarm.name, since = %alarm.since, "{}", alarm.text);
            }
            Change::Firing(alarm) => {
                tracing::warn!(cluster = cluster(alarm), alarm = %alarm.name, since = %alarm.since, "{}", alarm.text);
            }
            Change::Cleared(alarm) => {
                tracing::info!(cluster = cluster(alarm), alarm = %alarm.name, since = %alarm.since, "cured: {}", alarm.text);
            }
        }
    }
}

#[cfg(test)]
mod tests;
