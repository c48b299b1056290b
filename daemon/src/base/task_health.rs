//! How the tasks are: what of it is worth an alarm, and whether the core of the daemon moves.

use std::collections::BTreeMap;
use std::sync::Arc;

use lifeboat_vocabulary::ClusterName;

use crate::base::alarms::board::{Alarm, Wrongs};
use crate::base::progress::Doing;
use crate::base::supervisor::{Entry, Supervisor, Weight};
use crate::base::task_state::State;

/// So many ends in a row are worth telling.
const FAILURES_TOLD: u32 = 3;

/// A task, for those who look.
#[derive(Clone, Debug)]
pub(crate) struct TaskView {
    /// Of which cluster; `None`: of the daemon as a whole.
    pub(crate) cluster: Option<ClusterName>,
    /// What it is called.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) doing: Doing,
}

/// What the supervisor makes of all tasks.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    /// What the core is stuck in; `None` while it moves.
    pub(crate) stuck: Option<String>,
    /// What is wrong, by cluster; every cluster that has tasks is there.
    pub(crate) wrong: BTreeMap<Option<ClusterName>, Wrongs>,
}

impl Supervisor {
    #[must_use]
    pub(crate) fn tasks(&self) -> Vec<TaskView> {
        self.entries().iter().map(view).collect()
    }

    /// Judges all tasks.
    #[must_use]
    pub(crate) fn judge(&self) -> Judgement {
        let mut judgement = Judgement::default();
        judgement.wrong.entry(None).or_default();
        for entry in self.entries() {
            let wrong = judgement.wrong.entry(entry.cluster.clone()).or_default();
            if let Some(stuck) = look(&entry, wrong) {
                judgement.stuck.get_or_insert(stuck);
            }
        }
        judgement
    }
}

fn view(entry: &Arc<Entry>) -> TaskView {
    let health = entry.health.lock();
    TaskView { cluster: entry.cluster.clone(), name: entry.settings.name, doing: health.progress.doing() }
}

/// Adds what is wrong with one task; returns what the core is stuck in, if it is this task.
fn look(entry: &Entry, wrong: &mut Wrongs) -> Option<String> {
    let (settings, health) = (&entry.settings, entry.health.lock());
    let task = settings.name;
    let well = health.state == State::Running && health.begun.elapsed() >= settings.restart.healthy;
    if health.failures >= FAILURES_TOLD && !well && health.state != State::Ended {
        let why = health.last.as_deref().unwrap_or("nobody knows why");
        let text = format!(
            "task {task} has ended {} times in a row and is begun again each time; last: {why}",
            health.failures
        );
        wrong.add(Alarm::TaskRestarting.about(task), text);
    }
    let now = match health.state {
        State::Running => health.progress.wedged(settings.ceiling),
        _ => None,
    };
    if let Some((on, unmoved)) = now {
        let text = format!("task {task} has made no step in {on} for {} s", unmoved.as_secs());
        wrong.add(Alarm::TaskWedged.about(task), text.clone());
        return (settings.weight == Weight::Core).then_some(text);
    }
    if health.state == State::Stuck {
        let why = health.last.as_deref().unwrap_or("nobody knows in what");
        let text =
            format!("task {task} is wedged ({why}) and cannot be cancelled: it blocks a thread; restart the daemon");
        wrong.add(Alarm::TaskWedged.about(task), text.clone());
        return Some(text);
    }
    if let Some((when, why)) = &health.wedged
        && when.elapsed() < settings.restart.healthy
    {
        let text = format!("task {task} was wedged ({why}); it was cancelled and begun again");
        wrong.add(Alarm::TaskWedged.about(task), text);
    }
    None
}
