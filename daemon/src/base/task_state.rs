//! What the supervisor knows of one task.

use tokio::time::Instant;

use crate::base::progress::Progress;

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    /// It has ended and is begun again after a pause.
    Pausing,
    /// It is wedged and cannot be cancelled.
    Stuck,
    /// It was told to end, and has.
    Ended,
}

/// What is known about one task.
pub(crate) struct Health {
    pub(crate) progress: Progress,
    pub(crate) state: State,
    /// When it was begun last.
    pub(crate) begun: Instant,
    /// Ends in a row, without a healthy time in between.
    pub(crate) failures: u32,
    /// Why it ended last.
    pub(crate) last: Option<String>,
    /// When it was given up last, and what it was stuck in.
    pub(crate) wedged: Option<(Instant, String)>,
}

impl Default for Health {
    fn default() -> Self {
        let (progress, begun) = (Progress::new(), Instant::now());
        Self { progress, state: State::Pausing, begun, failures: 0, last: None, wedged: None }
    }
}
