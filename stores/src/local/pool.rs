//! Calls into one directory, of which only so many run at once.
//!
//! A disk, a network file system or a mount that hangs never comes back from a call, and nothing can end it: the thread that made it
//! is lost. So a call that does not get on is given up while its thread stays behind; a directory that has all of its threads hanging
//! is not asked any more until one comes back, and fails at once. State files, name resolution and all other directories go on: they
//! share the threads of the process, of which a directory has a small part.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

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
/// A call that has not got on for so long hangs.
const HANGS: Duration = Duration::from_secs(30);

/// The pools of all directories that are in use.
static POOLS: Mutex<Option<HashMap<PathBuf, Weak<Pool>>>> = Mutex::new(None);

/// The calls into one directory.
pub(crate) struct Pool {
    threads: Arc<Semaphore>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    next: u64,
    /// When each call that runs last got on.
    steps: HashMap<u64, Instant>,
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
        if let Some(last) = self.pool.running.lock().steps.get_mut(&self.number) {
            *last = Instant::now();
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        // The call has really ended: only now its thread counts as free.
        self.pool.running.lock().steps.remove(&self.number);
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
        Self { threads: Arc::new(Semaphore::new(THREADS)), running: Mutex::default() }
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
        let steps = self.begin(doing).await?;
        let number = steps.number;
        let mut call = tokio::task::spawn_blocking(move || work(&steps));
        loop {
            let last = self.running.lock().steps.get(&number).copied();
            let idle = last.map_or(Duration::ZERO, |last| last.elapsed());
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

    /// Waits for a thread; not at all if all of them hang.
    async fn begin(self: &Arc<Self>, doing: &str) -> Result<Steps, StoreError> {
        let thread = match Arc::clone(&self.threads).try_acquire_owned() {
            Ok(thread) => thread,
            Err(_) if self.all_hang() => return Err(no_answer(doing, HANGS)),
            Err(_) => {
                // Other calls of ours are before this one, and each has its own patience.
                let transfer = Transfer::current();
                let hold = transfer.hold();
                let thread = timeout(PATIENCE, Arc::clone(&self.threads).acquire_owned()).await;
                drop(hold);
                match thread {
                    Ok(Ok(thread)) => thread,
                    Ok(Err(_)) | Err(_) => return Err(no_answer(doing, PATIENCE)),
                }
            }
        };
        let mut running = self.running.lock();
        let number = running.next;
        running.next = running.next.wrapping_add(1);
        running.steps.insert(number, Instant::now());
        Ok(Steps { pool: Arc::clone(self), number, _thread: thread })
    }

    /// Whether no call runs.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.running.lock().steps.is_empty()
    }

    fn all_hang(&self) -> bool {
        let running = self.running.lock();
        running.steps.len() >= THREADS && running.steps.values().all(|last| last.elapsed() >= HANGS)
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
