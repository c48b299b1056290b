//! Simulated time stands still for no thread: while threads of a backup or a restore work, it must not run away from them.
//!
//! Tokio moves paused time on whenever the runtime has nothing to do. It knows of its own blocking work and waits for that, but
//! not of threads that others have started. So before it waits, those are looked at: as long as one of them can run, or waits for
//! a disk, time stands still, however busy the machine is. One that is woken can run from that moment on (`proc_pid_stat(5)`,
//! field 3), whether or not it has a processor yet. One that has just begun has the name of the thread that began it; so whatever is
//! neither a simulation nor Tokio's counts.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Real time between two looks: short ones first, and longer ones, because whoever looks takes time from those who work.
const MOMENT_MIN: Duration = Duration::from_micros(50);
const MOMENT_MAX: Duration = Duration::from_millis(1);
/// Names of the threads that the product starts: of a backup, and of a restore.
const WORKERS: [&str; 4] = ["frames-", "packer", "planner", "restore"];
/// Those of Tokio, as the system cuts them off.
const TOKIO: &str = "tokio-r";
/// Real time after which a thread hangs, and does not work.
const HANGS: Duration = Duration::from_secs(120);

/// The threads that simulations run on, by their numbers.
static SIMULATIONS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

thread_local! {
    static BUSY: Cell<usize> = const { Cell::new(0) };
    /// Whether there may still be threads of what has ended: an index is packed when its session is over.
    static MAY_WORK: Cell<bool> = const { Cell::new(false) };
}

/// As long as this lives, a simulation runs on this thread.
pub(crate) struct OnThisThread(i32);

impl OnThisThread {
    pub(crate) fn begin() -> Self {
        let own = std::fs::read_link("/proc/thread-self").ok();
        let number =
            own.and_then(|own| own.file_name()?.to_str()?.parse().ok()).expect("Linux says which thread this is");
        SIMULATIONS.lock().insert(number);
        Self(number)
    }
}

impl Drop for OnThisThread {
    fn drop(&mut self) {
        SIMULATIONS.lock().remove(&self.0);
        MAY_WORK.set(false);
    }
}

/// As long as this lives, threads work for the simulation on this thread.
#[derive(Debug)]
pub struct ThreadsWork(());

impl ThreadsWork {
    /// They begin.
    #[must_use]
    pub fn begin() -> Self {
        BUSY.set(BUSY.get() + 1);
        MAY_WORK.set(true);
        Self(())
    }
}

impl Drop for ThreadsWork {
    fn drop(&mut self) {
        BUSY.set(BUSY.get().saturating_sub(1));
    }
}

/// What the threads of this process do that were not started by Tokio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Workers {
    None,
    Wait,
    Work,
}

impl Workers {
    /// Of the text of `stat`: `PID (NAME) STATE ...`. A name may hold anything. `simulations` work, too, and wait for nobody.
    fn of(stat: &str, simulations: &BTreeSet<i32>) -> Self {
        let named = stat.split_once(" (").and_then(|(number, rest)| Some((number, rest.rsplit_once(") ")?)));
        let Some((number, (name, rest))) = named else { return Self::None };
        let is_worker = WORKERS.iter().any(|worker| name.starts_with(worker));
        let is_known = name.starts_with(TOKIO) || number.parse().is_ok_and(|number| simulations.contains(&number));
        match rest.bytes().next() {
            Some(b'R' | b'D') if !is_known => Self::Work,
            _ if is_worker => Self::Wait,
            _ => Self::None,
        }
    }

    fn look() -> Self {
        let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return Self::None };
        let simulations = SIMULATIONS.lock().clone();
        let mut seen = Self::None;
        for thread in threads.flatten() {
            // Threads end meanwhile. What is wanted stands in the first bytes.
            let mut begin = [0; 64];
            let read = File::open(thread.path().join("stat")).and_then(|mut stat| stat.read(&mut begin));
            let stat = begin.get(..read.unwrap_or(0)).unwrap_or_default();
            match Self::of(&String::from_utf8_lossy(stat), &simulations) {
                Self::Work => return Self::Work,
                Self::Wait => seen = Self::Wait,
                Self::None => {}
            }
        }
        seen
    }
}

/// To be called before the runtime waits.
pub(crate) fn park() {
    // One may have woken another one that was looked at before it: only what is twice at rest is at rest.
    let (mut at_rest, mut moment, begun) = (0, MOMENT_MIN, Instant::now());
    while MAY_WORK.get() && at_rest < 2 {
        match Workers::look() {
            Workers::Work => {
                at_rest = 0;
                std::thread::sleep(moment);
                moment = (moment * 2).min(MOMENT_MAX);
                assert!(begun.elapsed() < HANGS, "a thread works for {HANGS:?} without a pause, or waits for a disk");
            }
            Workers::Wait => at_rest += 1,
            Workers::None => {
                at_rest += 1;
                MAY_WORK.set(BUSY.get() > 0 || at_rest < 2);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_thread_stands_behind_its_name() {
        let simulations = BTreeSet::from([7]);
        let of = |stat| Workers::of(stat, &simulations);
        assert_eq!(of("8 (frames-1) R 1 8 8"), Workers::Work);
        assert_eq!(of("8 (packer) D 1 8 8"), Workers::Work);
        assert_eq!(of("8 (restore) S 1 8 8"), Workers::Wait);
        assert_eq!(of("8 (packer) R) S 1 8 8"), Workers::Wait);
        assert_eq!(of("8 (tokio-rt-worker) R 1 8 8"), Workers::None);
        assert_eq!(of("7 (seeds) R 1 8 8"), Workers::None);
        assert_eq!(of("8 (seeds) R 1 8 8"), Workers::Work);
        assert_eq!(of("8 (seeds) S 1 8 8"), Workers::None);
        assert_eq!(of(""), Workers::None);
    }

    #[test]
    fn a_thread_that_works_is_seen_until_it_waits() {
        let _this = OnThisThread::begin();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (begun, has_begun) = std::sync::mpsc::channel();
        let work = move || {
            begun.send(()).unwrap();
            let until = std::time::Instant::now() + Duration::from_millis(200);
            while std::time::Instant::now() < until {
                std::hint::spin_loop();
            }
            drop(begun);
            wait.recv().unwrap();
        };
        let thread = std::thread::Builder::new().name("packer".to_owned()).spawn(work).unwrap();
        has_begun.recv().unwrap();
        assert_eq!(Workers::look(), Workers::Work);
        assert!(has_begun.recv().is_err());
        let patience = std::time::Instant::now() + Duration::from_secs(60);
        while Workers::look() != Workers::Wait {
            assert!(std::time::Instant::now() < patience, "it waits, and nobody sees it");
            std::thread::sleep(Duration::from_millis(1));
        }
        go.send(()).unwrap();
        thread.join().unwrap();
    }
}
