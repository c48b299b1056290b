//! Calls into one directory, of which only so many run at once.
//!
//! A disk, a network file system or a mount that hangs never comes back from a call, and nothing can end it: the thread that made it
//! is lost. So a call that does not get on is given up while its thread stays behind; a directory that has all of its threads hanging
//! is not asked any more until one comes back, and fails at once. As long as one of them gets on, the others are waited for. State files, name resolution and all other directories go on: they
//! share the threads of the process, of which a directory has a small part.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

use crate::error::{StoreError, TimedOut};
use crate::transfer::Transfer;

/// Calls into one directory at the same time, whichever clusters make them. The process has 512 threads for all such calls.
const THREADS: usize = 16;
/// How long nothing of a call may get on, besides the time for its bytes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How long the first look at a directory may take: a program begins with it, and can do without this directory for now.
pub(crate) const FIRST_PATIENCE: Duration = Duration::from_secs(15);
/// A directory is expected to move so many bytes per second.
const SLOWEST_BYTES_PER_SECOND: u64 = 256 << 10;
/// A call hangs when it has not got on for its patience but this; for half of its patience, if that is short.
const HANGS_BEFORE: Duration = Duration::from_secs(30);
/// How often it is looked whether all calls hang as long as a thread is free.
const LOOK: Duration = Duration::from_secs(1);

/// The pools of all directories that are in use.
static POOLS: Mutex<Option<HashMap<PathBuf, Weak<Pool>>>> = Mutex::new(None);

/// The calls into one directory.
pub(crate) struct Pool {
    threads: Arc<Semaphore>,
    running: Mutex<Running>,
    #[cfg(test)]
    pub(crate) steps: std::sync::atomic::AtomicUsize,
}

#[derive(Default)]
struct Running {
    next: u64,
    calls: HashMap<u64, Call>,
}

/// A call that runs.
struct Call {
    /// When it last got on.
    last: Instant,
    /// It hangs when it has not got on for so long. What has many bytes to sync may take long for one step.
    hangs: Duration,
}

impl Call {
    /// How long until it hangs, if it does not get on.
    fn left(&self) -> Duration {
        self.hangs.saturating_sub(self.last.elapsed())
    }
}

/// With this a call says that it gets on.
pub(crate) struct Steps {
    /// Who opens the directory anew while calls hang has no more threads than before.
    pool: Arc<Pool>,
    number: u64,
    _thread: OwnedSemaphorePermit,
}

impl Steps {
    /// A step is done. Cheap enough for every file.
    pub(crate) fn step(&self) {
        if let Some(call) = self.pool.running.lock().calls.get_mut(&self.number) {
            call.last = Instant::now();
            #[cfg(test)]
            self.pool.steps.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        // The call has really ended: only now its thread counts as free.
        self.pool.running.lock().calls.remove(&self.number);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} of {THREADS} threads are free)", self.threads.available_permits())
    }
}

/// How long a call that moves up to `bytes` may take without a step.
pub(crate) fn patience_for(bytes: u64) -> Duration {
    PATIENCE.saturating_add(Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND))
}

/// How a call ended.
pub(crate) type Ended<T> = Result<io::Result<T>, StoreError>;

impl Pool {
    fn new() -> Self {
        Self {
            threads: Arc::new(Semaphore::new(THREADS)),
            running: Mutex::default(),
            #[cfg(test)]
            steps: std::sync::atomic::AtomicUsize::default(),
        }
    }

    /// The pool of the directory at `path`. All who use it at the same time share one.
    pub(crate) fn of(path: &Path) -> Arc<Self> {
        let mut pools = POOLS.lock();
        let pools = pools.get_or_insert_default();
        if let Some(pool) = pools.get(path).and_then(Weak::upgrade) {
            return pool;
        }
        pools.retain(|_, pool| pool.strong_count() > 0);
        let pool = Arc::new(Self::new());
        pools.insert(path.to_owned(), Arc::downgrade(&pool));
        pool
    }

    /// Makes a call, and waits as long as no longer than `patience` nothing of it gets on.
    ///
    /// # Errors
    /// [`StoreError::Transient`] with [`TimedOut`] as its cause if the directory does not answer; what the call itself says lies within.
    pub(crate) async fn call<T, W>(self: &Arc<Self>, doing: &str, patience: Duration, work: W) -> Ended<T>
    where
        T: Send + 'static,
        W: FnOnce(&Steps) -> io::Result<T> + Send + 'static,
    {
        let steps = self.begin(doing, patience).await?;
        let number = steps.number;
        let mut call = tokio::task::spawn_blocking(move || work(&steps));
        loop {
            let idle = self.running.lock().calls.get(&number).map_or(Duration::ZERO, |call| call.last.elapsed());
            if idle >= patience {
                return Err(no_answer(doing, patience));
            }
            tokio::select! {
                biased;
                ended = &mut call => {
                    return ended.map_err(|error| StoreError::Transient { doing: doing.to_owned(), source: error.into() });
                }
                () = sleep(patience - idle) => {}
            }
        }
    }

    /// Waits for a thread, and begins a call.
    async fn begin(self: &Arc<Self>, doing: &str, patience: Duration) -> Result<Steps, StoreError> {
        let thread = match Arc::clone(&self.threads).try_acquire_owned() {
            Ok(thread) => thread,
            Err(_) => self.thread(doing).await?,
        };
        let hangs = patience.saturating_sub(HANGS_BEFORE).max(patience / 2);
        let mut running = self.running.lock();
        let number = running.next;
        running.next = running.next.wrapping_add(1);
        running.calls.insert(number, Call { last: Instant::now(), hangs });
        Ok(Steps { pool: Arc::clone(self), number, _thread: thread })
    }

    /// Waits for a thread as long as not all of them hang. A slow directory is asked for more than it can do at once, and comes to
    /// everything in its time.
    async fn thread(&self, doing: &str) -> Result<OwnedSemaphorePermit, StoreError> {
        let transfer = Transfer::current();
        // Other calls of ours are before this one, and each has its own patience.
        let _hold = transfer.hold();
        let mut thread = pin!(Arc::clone(&self.threads).acquire_owned());
        loop {
            let left = self.left();
            if left.is_zero() {
                return Err(no_answer(doing, HANGS_BEFORE));
            }
            tokio::select! {
                biased;
                thread = &mut thread => return thread.map_err(|_| no_answer(doing, Duration::ZERO)),
                () = sleep(left) => {}
            }
        }
    }

    /// How long until all calls hang, if none gets on.
    fn left(&self) -> Duration {
        let running = self.running.lock();
        let last = running.calls.values().map(Call::left).max();
        last.filter(|_| running.calls.len() >= THREADS).unwrap_or(LOOK)
    }

    /// Whether no call runs.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.running.lock().calls.is_empty()
    }
}

fn no_answer(doing: &str, after: Duration) -> StoreError {
    let why = format!(
        "the directory does not answer for {} s: look at its disk, mount or file server; what hangs there ends with the \
         mount, or with this process",
        after.as_secs()
    );
    StoreError::Transient { doing: doing.to_owned(), source: TimedOut { why }.into() }
}

#[cfg(test)]
mod tests;
