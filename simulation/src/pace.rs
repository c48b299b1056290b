//! Simulated time stands still for no thread: while threads of a backup or a restore work, it must not run away from them.
//!
//! Tokio moves paused time on whenever the runtime has nothing to do. It knows of its own blocking work and waits for that, but
//! not of threads that others have started. So before it waits, those are looked at: as long as one of them can run, or waits for
//! a disk, time stands still, however busy the machine is. One that is woken can run from that moment on (`proc_pid_stat(5)`,
//! field 3), whether or not it has a processor yet.

use std::cell::Cell;
use std::time::Duration;

/// Real time between two looks.
const MOMENT: Duration = Duration::from_micros(50);
/// Names of the threads that the product starts: of a backup, and of a restore.
const WORKERS: [&str; 4] = ["frames-", "packer", "planner", "restore"];

thread_local! {
    static BUSY: Cell<usize> = const { Cell::new(0) };
    /// Whether there may still be threads of what has ended: an index is packed when its session is over.
    static MAY_WORK: Cell<bool> = const { Cell::new(false) };
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
    /// Of the text of `stat`: `PID (NAME) STATE ...`. A name may hold anything.
    fn of(stat: &str) -> Self {
        let Some((name, rest)) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(") ")) else {
            return Self::None;
        };
        match rest.bytes().next() {
            _ if !WORKERS.iter().any(|worker| name.starts_with(worker)) => Self::None,
            Some(b'R' | b'D') => Self::Work,
            _ => Self::Wait,
        }
    }

    fn look() -> Self {
        let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return Self::None };
        let mut seen = Self::None;
        for thread in threads.flatten() {
            // Threads end meanwhile.
            match std::fs::read_to_string(thread.path().join("stat")).map_or(Self::None, |stat| Self::of(&stat)) {
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
    let mut at_rest = 0;
    while MAY_WORK.get() && at_rest < 2 {
        match Workers::look() {
            Workers::Work => {
                at_rest = 0;
                std::thread::sleep(MOMENT);
            }
            Workers::Wait => at_rest += 1,
            Workers::None => {
                at_rest += 1;
                MAY_WORK.set(BUSY.get() > 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_thread_stands_behind_its_name() {
        assert_eq!(Workers::of("7 (frames-1) R 1 7 7"), Workers::Work);
        assert_eq!(Workers::of("7 (packer) D 1 7 7"), Workers::Work);
        assert_eq!(Workers::of("7 (restore) S 1 7 7"), Workers::Wait);
        assert_eq!(Workers::of("7 (packer) R) S 1 7 7"), Workers::Wait);
        assert_eq!(Workers::of("7 (tokio) R 1 7 7"), Workers::None);
        assert_eq!(Workers::of(""), Workers::None);
    }

    #[test]
    fn a_thread_that_works_is_seen_until_it_waits() {
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
        let patience = std::time::Instant::now() + Duration::from_secs(10);
        while Workers::look() != Workers::Wait {
            assert!(std::time::Instant::now() < patience, "it waits, and nobody sees it");
            std::thread::sleep(Duration::from_millis(1));
        }
        go.send(()).unwrap();
        thread.join().unwrap();
    }
}
