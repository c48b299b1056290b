//! What a task is doing and whether it gets on with it: the ground on which the watchdog judges.
//!
//! A timer that fires shows that the clock works, not the program. So a task says what it works on and each time it came
//! a step further; one that works on something without a step for longer than it may is wedged. One that waits for
//! others is not, however long it takes: whoever waits sets a deadline of his own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Told by one task, read by the supervisor. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Progress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    begun: Instant,
    doing: Mutex<Doing>,
    /// Milliseconds after `begun` of the last step.
    moved: AtomicU64,
}

/// What a task does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// It works on something, and has to come on with it.
    Working(String),
    /// It waits for something that is not in its hands.
    Waiting(String),
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// Of a task that begins now.
    #[must_use]
    pub(crate) fn new() -> Self {
        let doing = Mutex::new(Doing::Working("its beginning".to_owned()));
        Self(Arc::new(Inner { begun: Instant::now(), doing, moved: AtomicU64::new(0) }))
    }

    /// Work on something begins.
    pub(crate) fn working(&self, on: &str) {
        self.is(Doing::Working(on.to_owned()));
    }

    /// A step is done. Cheap enough for every piece of data.
    pub(crate) fn moved(&self) {
        let since = u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.moved.store(since, Ordering::Relaxed);
    }

    /// There is nothing to do, or it is another's turn.
    pub(crate) fn waiting(&self, reason: &str) {
        self.is(Doing::Waiting(reason.to_owned()));
    }

    fn is(&self, doing: Doing) {
        // The step first: whoever sees the new work must not judge it by the age of the old.
        self.moved();
        *self.0.doing.lock() = doing;
    }

    /// What the task does.
    #[must_use]
    pub(crate) fn doing(&self) -> Doing {
        self.0.doing.lock().clone()
    }

    /// How long ago the last step was.
    #[must_use]
    pub(crate) fn unmoved(&self) -> Duration {
        let moved = Duration::from_millis(self.0.moved.load(Ordering::Relaxed));
        self.0.begun.elapsed().saturating_sub(moved)
    }

    /// What it is stuck in, if it works and has not come on for longer than `ceiling`.
    #[must_use]
    pub(crate) fn wedged(&self, ceiling: Duration) -> Option<(String, Duration)> {
        let doing = self.doing();
        let unmoved = self.unmoved();
        match doing {
            Doing::Working(on) if unmoved > ceiling => Some((on, unmoved)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_work_without_steps_is_wedged() {
        let (progress, ceiling) = (Progress::new(), Duration::from_secs(60));
        let later = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        later(61).await;
        assert_eq!(progress.wedged(ceiling).unwrap().0, "its beginning", "whoever never says anything is wedged too");
        progress.waiting("the server");
        later(3600).await;
        assert_eq!(progress.wedged(ceiling), None, "waiting is no fault");
        progress.working("a backup");
        assert_eq!(progress.wedged(ceiling), None, "it has only just begun");
        later(59).await;
        progress.moved();
        later(59).await;
        assert_eq!(progress.wedged(ceiling), None, "slow, but it comes on");
        later(2).await;
        assert_eq!(progress.wedged(ceiling), Some(("a backup".to_owned(), Duration::from_secs(61))));
        progress.moved();
        assert_eq!(progress.wedged(ceiling), None, "it came on after all");
    }
}
