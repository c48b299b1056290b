//! Simulated time stands still for no thread: while threads of a backup or a restore work, it must not run away from them.
//!
//! Tokio moves paused time on whenever the runtime has nothing to do. It cannot know of threads that are not its own, so while
//! there are such, the runtime waits a moment of real time before it does.

use std::cell::Cell;
use std::time::Duration;

/// Real time that is given to threads each time.
const MOMENT: Duration = Duration::from_micros(50);

thread_local! {
    static BUSY: Cell<usize> = const { Cell::new(0) };
}

/// As long as this lives, threads work for the simulation on this thread.
#[derive(Debug)]
pub struct ThreadsWork(());

impl ThreadsWork {
    /// They begin.
    #[must_use]
    pub fn begin() -> Self {
        BUSY.set(BUSY.get() + 1);
        Self(())
    }
}

impl Drop for ThreadsWork {
    fn drop(&mut self) {
        BUSY.set(BUSY.get().saturating_sub(1));
    }
}

/// To be called before the runtime waits.
pub(crate) fn park() {
    if BUSY.get() > 0 {
        std::thread::sleep(MOMENT);
    }
}
