//! What is wrong right now, everywhere. An alarm is logged when it is raised, repeated until it is cleared, and logged once
//! more when it is cleared. Since when it lasts is kept over restarts.
//!
//! Each source reports completely what is wrong as far as it can see; an alarm that it does not report any more is cleared.
//! So far alarms are only logged: the board is where other channels will begin.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_vocabulary::{Clock, ClusterName, UtcTime, error_chain};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use crate::base::alarms::rules::{Alarm, AlarmId, Severity};
pub(crate) use crate::base::alarms::source::{Source, SourceKind};
use crate::base::state::{Durable, Loaded, time_text};

/// How often an alarm that lasts is logged again.
const REPEAT: Duration = Duration::from_secs(15 * 60);
/// How long an alarm of the previous run waits for its source to report before it is dropped.
const PREVIOUS_KEPT: Duration = Duration::from_secs(15 * 60);
/// At most this often the file is written.
const SAVE_PAUSE: Duration = Duration::from_secs(1);

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// How urgent it is.
    pub severity: Severity,
    /// What is wrong and what to do.
    pub text: String,
}

/// What is wrong, complete, as a source sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wrongs(BTreeMap<AlarmId, Wrong>);

impl Wrongs {
    /// Adds an alarm, as urgent as its kind is.
    pub fn add(&mut self, alarm: impl Into<AlarmId>, text: impl Into<String>) {
        let alarm = alarm.into();
        let severity = alarm.kind.severity();
        self.0.insert(alarm, Wrong { severity, text: text.into() });
    }

    /// Whether this very alarm was added.
    #[must_use]
    pub fn contains(&self, alarm: &AlarmId) -> bool {
        self.0.contains_key(alarm)
    }

    /// What was added.
    pub fn iter(&self) -> impl Iterator<Item = (&AlarmId, &Wrong)> {
        self.0.iter()
    }
}

impl From<BTreeMap<AlarmId, Wrong>> for Wrongs {
    fn from(wrongs: BTreeMap<AlarmId, Wrong>) -> Self {
        Self(wrongs)
    }
}

/// An alarm that lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaisedAlarm {
    /// Which alarm, about what.
    pub id: AlarmId,
    /// About which cluster; `None`: about the daemon as a whole.
    pub cluster: Option<ClusterName>,
    /// How urgent it is.
    pub severity: Severity,
    /// Since when, over restarts.
    pub since: UtcTime,
    /// What is wrong and what to do.
    pub text: String,
}

/// Something to log.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    /// It was raised, or lasts and is due to be repeated.
    Firing(RaisedAlarm),
    Cleared(RaisedAlarm),
}

/// Who raised which alarm.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct AlarmKey {
    source: Source,
    id: AlarmId,
}

/// As stored: `cluster|source|alarm`.
impl fmt::Display for AlarmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}|{}", self.source, self.id)
    }
}

/// What this version needs of a stored key. Its source may be one that only another version has.
struct StoredKey {
    cluster: Option<ClusterName>,
    id: AlarmId,
}

impl StoredKey {
    /// `None` if this version has no such alarm.
    fn parse(key: &str) -> Option<Self> {
        let mut parts = key.splitn(3, '|');
        let (cluster, _source, id) = (parts.next()?, parts.next()?, parts.next()?);
        let cluster = if cluster.is_empty() { None } else { Some(cluster.parse().ok()?) };
        Some(Self { cluster, id: AlarmId::parse(id)? })
    }
}

/// How an alarm stands, in memory and in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct AlarmState {
    severity: Severity,
    #[serde(with = "time_text")]
    since: UtcTime,
    #[serde(with = "time_text", rename = "told")]
    logged: UtcTime,
    text: String,
}

impl AlarmState {
    fn raised(&self, cluster: Option<ClusterName>, id: AlarmId) -> RaisedAlarm {
        RaisedAlarm { id, cluster, severity: self.severity, since: self.since, text: self.text.clone() }
    }
}

/// The file: by [`AlarmKey`] as text.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct StoredAlarms(BTreeMap<String, AlarmState>);

#[derive(Default)]
struct Inner {
    raised: BTreeMap<AlarmKey, AlarmState>,
    /// From the previous run, as stored, until their source has reported. Alarms that this version does not know are not
    /// shown and stay in the file for as long.
    previous: BTreeMap<String, AlarmState>,
}

/// All alarms that last, of all sources. Cheap to report to; [`AlarmBoard::keep`] writes what changed.
pub struct AlarmBoard {
    clock: Arc<dyn Clock>,
    opened: Instant,
    inner: Mutex<Inner>,
    changed: Notify,
    stored: Durable<StoredAlarms>,
}

impl AlarmBoard {
    /// Opens the board with the alarms that lasted when the previous run ended.
    #[must_use]
    pub fn open(state_directory: &Path, clock: Arc<dyn Clock>) -> (Self, Loaded) {
        let (stored, loaded) = Durable::<StoredAlarms>::open(state_directory.join("alarms.json"));
        let inner = Inner { raised: BTreeMap::new(), previous: stored.read().0 };
        let board = Self { opened: Instant::now(), clock, inner: Mutex::new(inner), changed: Notify::new(), stored };
        (board, loaded)
    }

    /// Reports completely what is wrong now, as far as this source can see.
    pub(crate) fn report(&self, source: &Source, wrong: impl Into<Wrongs>) {
        let changes = self.compare(source, wrong.into());
        if !changes.is_empty() {
            log(&changes);
            self.changed.notify_one();
        }
    }

    /// Clears all alarms of this source, because nothing reports for it any more.
    pub(crate) fn forget(&self, source: &Source) {
        self.report(source, Wrongs::default());
    }

    fn compare(&self, source: &Source, wrong: Wrongs) -> Vec<Change> {
        let now = self.clock.now();
        let mut changes = Vec::new();
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        inner.take_over(source);
        let ended = |key: &&AlarmKey| key.source == *source && !wrong.contains(&key.id);
        let cleared: Vec<_> = inner.raised.keys().filter(ended).cloned().collect();
        for key in cleared {
            if let Some(state) = inner.raised.remove(&key) {
                changes.push(Change::Cleared(state.raised(source.cluster.clone(), key.id)));
            }
        }
        for (id, Wrong { severity, text }) in wrong.0 {
            let key = AlarmKey { source: source.clone(), id };
            let state = match inner.raised.get_mut(&key) {
                Some(state) => {
                    let worse = severity > state.severity;
                    (state.text, state.severity) = (text, severity);
                    // A clock that was set back must not silence an alarm.
                    if !worse && now.since(state.logged) < REPEAT && state.logged <= now {
                        continue;
                    }
                    state.logged = now;
                    state.clone()
                }
                None => {
                    let state = AlarmState { severity, since: now, logged: now, text };
                    inner.raised.insert(key.clone(), state.clone());
                    state
                }
            };
            changes.push(Change::Firing(state.raised(source.cluster.clone(), key.id)));
        }
        changes
    }

    /// What lasts for this cluster; for `None`, what lasts for the daemon as a whole. Most severe first, then oldest.
    #[must_use]
    pub fn raised(&self, cluster: Option<&ClusterName>) -> Vec<RaisedAlarm> {
        let mut raised = self.all();
        raised.retain(|alarm| alarm.cluster.as_ref() == cluster);
        raised
    }

    /// Everything that lasts. Most severe first, then oldest.
    #[must_use]
    pub fn all(&self) -> Vec<RaisedAlarm> {
        let inner = self.inner.lock();
        let raised = inner.raised.iter().map(|(key, state)| state.raised(key.source.cluster.clone(), key.id.clone()));
        let mut raised: Vec<_> = raised.collect();
        if self.keeps_previous() {
            raised.extend(inner.previous.iter().filter_map(|(key, state)| {
                let StoredKey { cluster, id } = StoredKey::parse(key)?;
                Some(state.raised(cluster, id))
            }));
        }
        raised.sort_by(|a, b| b.severity.cmp(&a.severity).then(a.since.cmp(&b.since)).then(a.id.cmp(&b.id)));
        raised
    }

    fn keeps_previous(&self) -> bool {
        self.opened.elapsed() < PREVIOUS_KEPT
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
        let saved = self.stored.change_in_background(move |stored| *stored = now).await;
        if let Err(error) = &saved {
            tracing::debug!(error = %error_chain(error), "the alarms are not saved");
        }
        saved.is_ok()
    }

    fn content(&self) -> StoredAlarms {
        let inner = self.inner.lock();
        let mut stored = if self.keeps_previous() { inner.previous.clone() } else { BTreeMap::new() };
        stored.extend(inner.raised.iter().map(|(key, state)| (key.to_string(), state.clone())));
        StoredAlarms(stored)
    }
}

impl Inner {
    /// Takes over what a source had raised in the previous run: from now on it reports for itself.
    fn take_over(&mut self, source: &Source) {
        let prefix = format!("{source}|");
        let own: Vec<String> = self.previous.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
        for key in own {
            let Some(state) = self.previous.remove(&key) else { continue };
            if let Some(StoredKey { id, .. }) = StoredKey::parse(&key) {
                self.raised.entry(AlarmKey { source: source.clone(), id }).or_insert(state);
            }
        }
    }
}

/// Logs changes. An ERROR is something that a person must act on.
fn log(changes: &[Change]) {
    let cluster = |alarm: &RaisedAlarm| alarm.cluster.as_ref().map_or("", ClusterName::as_str).to_owned();
    for change in changes {
        match change {
            Change::Firing(alarm) if alarm.severity == Severity::Critical => {
                tracing::error!(cluster = cluster(alarm), alarm = %alarm.id, since = %alarm.since, "{}", alarm.text);
            }
            Change::Firing(alarm) => {
                tracing::warn!(cluster = cluster(alarm), alarm = %alarm.id, since = %alarm.since, "{}", alarm.text);
            }
            Change::Cleared(alarm) => {
                tracing::info!(cluster = cluster(alarm), alarm = %alarm.id, since = %alarm.since, "cleared: {}", alarm.text);
            }
        }
    }
}

#[cfg(test)]
mod tests;
