//! Owns every task: begins it, begins it again when it ends, gives up on it when it is wedged, and stops all in order.
//!
//! Each task is a tokio task of its own, so that a panic, an error or an endless wait in one of them does not harm
//! the others. A task may use blocking threads, but never blocks the runtime's own.

use std::sync::Arc;
use std::time::Duration;

use lifeboat_vocabulary::ClusterName;
use parking_lot::Mutex;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::base::progress::Progress;
use crate::base::task_state::{Health, State};

/// How often a running task is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long a wedged task has to let go, when asked and when cut off.
const LET_GO: Duration = Duration::from_secs(5);

/// What a task is given.
#[derive(Clone, Debug)]
pub(crate) struct TaskContext {
    /// Begin nothing new, finish what is in hand, and end.
    pub(crate) stop: CancellationToken,
    /// Time is up: give back what is in hand, and end. Always after `stop`.
    pub(crate) hurry: CancellationToken,
    /// Where the task says how it gets on.
    pub(crate) progress: Progress,
}

#[cfg(test)]
impl TaskContext {
    /// For a task that nobody supervises.
    pub(crate) fn alone(stop: &CancellationToken) -> Self {
        Self { stop: stop.clone(), hurry: stop.clone(), progress: Progress::new() }
    }
}

/// How long is waited before a task that ended is begun again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// The first time; each time after that twice as long.
    pub(crate) first: Duration,
    /// Never longer.
    pub(crate) longest: Duration,
    /// After so long without ending, a task counts as well again.
    pub(crate) healthy: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(60));
        Self { first, longest, healthy: Duration::from_secs(600) }
    }
}

/// What it means if a task is wedged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// Without it the daemon is of no use: the service manager shall begin the whole process again.
    Core,
    /// It is cancelled and begun again.
    Ordinary,
}

/// Which tasks end first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StopOrder {
    /// Those that take on work.
    First,
    /// Those that others rely on until they have ended: WAL, the alarm board, the web server.
    Last,
}

/// How a task is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TaskSettings {
    /// What it is called in alarms and logs.
    pub(crate) name: &'static str,
    /// For how long it may work without a step.
    pub(crate) ceiling: Duration,
    /// How it is begun again.
    pub(crate) restart: Backoff,
    /// What it means if it is wedged.
    pub(crate) weight: Weight,
    /// When it ends.
    pub(crate) order: StopOrder,
}

impl TaskSettings {
    /// An ordinary task that ends first.
    #[must_use]
    pub(crate) fn new(name: &'static str, ceiling: Duration) -> Self {
        let (weight, order) = (Weight::Ordinary, StopOrder::First);
        Self { name, ceiling, restart: Backoff::default(), weight, order }
    }

    /// The daemon is of no use without it.
    #[must_use]
    pub(crate) fn core(self) -> Self {
        Self { weight: Weight::Core, ..self }
    }

    /// Others rely on it until they have ended.
    #[must_use]
    pub(crate) fn last(self) -> Self {
        Self { order: StopOrder::Last, ..self }
    }
}

/// Who begins the process again when its core is wedged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watchdog {
    /// The service manager, because it no longer hears from us.
    Outside,
    /// Nobody: wedged tasks of the core are cancelled like the others.
    Nobody,
}

/// All tasks of the process.
pub(crate) struct Supervisor {
    root: CancellationToken,
    watchdog: Watchdog,
    tasks: Mutex<Vec<Kept>>,
}

struct Kept {
    entry: Arc<Entry>,
    stop: CancellationToken,
    hurry: CancellationToken,
    keeper: AbortOnDropHandle<()>,
}

/// One task as the supervisor knows it.
pub(crate) struct Entry {
    pub(crate) cluster: Option<ClusterName>,
    pub(crate) settings: TaskSettings,
    pub(crate) health: Mutex<Health>,
}

impl Supervisor {
    /// Without tasks.
    #[must_use]
    pub(crate) fn new(watchdog: Watchdog) -> Self {
        Self { root: CancellationToken::new(), watchdog, tasks: Mutex::new(Vec::new()) }
    }

    /// Begins a task, of a cluster or of the daemon as a whole, and keeps it running until it is told to stop. However it
    /// ends before that, it is begun again.
    pub(crate) fn spawn<F, W>(&self, cluster: Option<&ClusterName>, settings: TaskSettings, begin: F)
    where
        F: Fn(TaskContext) -> W + Send + Sync + 'static,
        W: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let entry = Arc::new(Entry { cluster: cluster.cloned(), settings, health: Mutex::new(Health::default()) });
        let (stop, hurry) = (self.root.child_token(), self.root.child_token());
        let keeper =
            Keeper { entry: Arc::clone(&entry), stop: stop.clone(), hurry: hurry.clone(), watchdog: self.watchdog };
        let keeper = AbortOnDropHandle::new(tokio::spawn(keeper.run(begin)));
        self.tasks.lock().push(Kept { entry, stop, hurry, keeper });
    }

    /// A task that nobody keeps any more: what keeps it has ended by itself, which it never does. The process has to end.
    pub(crate) fn abandoned(&self) -> Option<&'static str> {
        let tasks = self.tasks.lock();
        let abandoned = tasks.iter().find(|kept| kept.keeper.is_finished() && !kept.stop.is_cancelled());
        abandoned.map(|kept| kept.entry.settings.name)
    }

    /// How all tasks are.
    pub(crate) fn entries(&self) -> Vec<Arc<Entry>> {
        self.tasks.lock().iter().map(|kept| Arc::clone(&kept.entry)).collect()
    }

    /// Stops the tasks of one cluster; as [`Supervisor::stop_all`].
    pub(crate) async fn stop_cluster(&self, cluster: &ClusterName, patience: Duration) -> Vec<&'static str> {
        self.stop(patience, |entry| entry.cluster.as_ref() == Some(cluster)).await
    }

    /// Stops everything in order: first what takes on work, which has half of the patience to finish what is in hand and is
    /// then told to hurry; then what the others relied on. Returns the tasks that had to be cut off.
    pub(crate) async fn stop_all(&self, patience: Duration) -> Vec<&'static str> {
        let cut_off = self.stop(patience, |_| true).await;
        self.root.cancel();
        cut_off
    }

    async fn stop(&self, patience: Duration, which: impl Fn(&Entry) -> bool) -> Vec<&'static str> {
        let begun = Instant::now();
        let mut cut_off = Vec::new();
        for (order, hurry, cut) in [(StopOrder::First, 6, 7), (StopOrder::Last, 10, 12)] {
            let (hurry, cut) = (begun + patience * hurry / 12, begun + patience * cut / 12);
            // A task that was just beginning others may have begun some after the first were taken.
            loop {
                let chosen = self.take(|entry| which(entry) && entry.settings.order <= order);
                if chosen.is_empty() {
                    break;
                }
                let mut taken = Taken { supervisor: self, tasks: chosen };
                cut_off.extend(end(&mut taken.tasks, hurry, cut).await);
            }
        }
        cut_off
    }

    fn take(&self, which: impl Fn(&Entry) -> bool) -> Vec<Kept> {
        let mut tasks = self.tasks.lock();
        let (chosen, others) = std::mem::take(&mut *tasks).into_iter().partition(|kept| which(&kept.entry));
        *tasks = others;
        chosen
    }
}

/// Tasks that are being ended. Whoever gives up waiting for them gives them back, so that they end in order all the same: a
/// reload that waits for a backup is itself cut short when the daemon is told to stop.
struct Taken<'s> {
    supervisor: &'s Supervisor,
    tasks: Vec<Kept>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.tasks.is_empty() {
            self.supervisor.tasks.lock().append(&mut self.tasks);
        }
    }
}

/// Ends tasks: asked at once, told to hurry at one deadline, cut off at the other.
async fn end(tasks: &mut Vec<Kept>, hurry: Instant, cut: Instant) -> Vec<&'static str> {
    tasks.iter().for_each(|kept| kept.stop.cancel());
    for kept in tasks.iter_mut() {
        if tokio::time::timeout_at(hurry, &mut kept.keeper).await.is_err() {
            break;
        }
    }
    tasks.retain(|kept| !kept.keeper.is_finished());
    tasks.iter().for_each(|kept| kept.hurry.cancel());
    let mut cut_off = Vec::new();
    while let Some(kept) = tasks.last_mut() {
        if tokio::time::timeout_at(cut, &mut kept.keeper).await.is_err() {
            cut_off.push(kept.entry.settings.name);
        }
        tasks.pop();
    }
    cut_off.reverse();
    cut_off
}

/// Keeps one task.
struct Keeper {
    entry: Arc<Entry>,
    stop: CancellationToken,
    hurry: CancellationToken,
    watchdog: Watchdog,
}

/// How a task ended.
enum Ended {
    /// By itself.
    Alone(String),
    /// It was cancelled because it was wedged.
    GivenUp(String),
    /// It is wedged and cannot be cancelled: it blocks a thread.
    Stuck(String),
}

impl Keeper {
    async fn run<F, W>(self, begin: F)
    where
        F: Fn(TaskContext) -> W + Send + Sync + 'static,
        W: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let begin = Arc::new(begin);
        while !self.stop.is_cancelled() {
            let ended = self.once(&begin).await;
            if self.stop.is_cancelled() {
                break;
            }
            let again = self.note(&ended);
            tokio::select! {
                () = self.stop.cancelled() => {}
                // A second one beside one that cannot be cancelled would do everything twice: the watchdog sees to it.
                () = tokio::time::sleep(again), if !matches!(ended, Ended::Stuck(_)) => {}
            }
        }
        self.entry.health.lock().state = State::Ended;
    }

    /// Notes how the task ended, and returns when it is begun again.
    fn note(&self, ended: &Ended) -> Duration {
        let Backoff { first, longest, healthy } = self.entry.settings.restart;
        let mut health = self.entry.health.lock();
        if health.begun.elapsed() >= healthy {
            health.failures = 0;
        }
        health.failures = health.failures.saturating_add(1);
        let pause = first.saturating_mul(1 << health.failures.saturating_sub(1).min(16)).min(longest);
        let (Ended::Alone(why) | Ended::GivenUp(why) | Ended::Stuck(why)) = ended;
        health.last = Some(why.clone());
        health.state = if matches!(ended, Ended::Stuck(_)) { State::Stuck } else { State::Pausing };
        if !matches!(ended, Ended::Alone(_)) {
            health.wedged = Some((Instant::now(), why.clone()));
        }
        let cluster = self.entry.cluster.as_ref().map_or("", ClusterName::as_str);
        let (task, failures) = (self.entry.settings.name, health.failures);
        tracing::warn!(cluster, task, why, failures, again_in = ?pause, "a task has ended; it is begun again");
        pause
    }

    async fn once<F, W>(&self, begin: &Arc<F>) -> Ended
    where
        F: Fn(TaskContext) -> W + Send + Sync + 'static,
        W: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let progress = Progress::new();
        let (stop, hurry) = (self.stop.child_token(), self.hurry.child_token());
        let context = TaskContext { stop: stop.clone(), hurry: hurry.clone(), progress: progress.clone() };
        {
            let mut health = self.entry.health.lock();
            (health.progress, health.state, health.begun) = (progress.clone(), State::Running, Instant::now());
        }
        let begin = Arc::clone(begin);
        let mut task = AbortOnDropHandle::new(tokio::spawn(async move { begin(context).await }));
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                ended = &mut task => return Ended::Alone(in_words(ended)),
                _ = look.tick() => {}
            }
            // What is told to stop is judged by the time it has for that.
            if self.stop.is_cancelled() || self.left_to_the_watchdog() {
                continue;
            }
            let Some((on, unmoved)) = progress.wedged(self.entry.settings.ceiling) else { continue };
            let why = format!("no step in {on} for {} s", unmoved.as_secs());
            stop.cancel();
            hurry.cancel();
            if tokio::time::timeout(LET_GO, &mut task).await.is_ok() {
                return Ended::GivenUp(why);
            }
            task.abort();
            return match tokio::time::timeout(LET_GO, &mut task).await {
                Ok(_) => Ended::GivenUp(why),
                Err(_) => Ended::Stuck(why),
            };
        }
    }

    fn left_to_the_watchdog(&self) -> bool {
        self.entry.settings.weight == Weight::Core && self.watchdog == Watchdog::Outside
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", text.unwrap_or("without a word"))
}

fn in_words(ended: Result<anyhow::Result<()>, JoinError>) -> String {
    match ended {
        Ok(Ok(())) => "it ended though nobody told it to".to_owned(),
        Ok(Err(error)) => format!("{error:#}"),
        Err(error) if error.is_panic() => panicked(&*error.into_panic()),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
