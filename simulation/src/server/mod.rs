//! A server that is a script: real WAL and the real protocol, and what happens to servers on demand.

mod base_backup;
mod message;
mod session;
mod state;
mod wal;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use lifeboat_postgres::MemoryListener;
use lifeboat_vocabulary::{Clock, UtcTime, WalPosition};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

pub use base_backup::{DATA_FILE, file_content};
use state::{Inner, Past, State};
pub use state::{SYSTEM_IDENTIFIER, position};
use wal::Wal;
pub use wal::{BEGIN, SEGMENT};

const PORT: u16 = 5432;

/// The server. Dropping it ends it.
pub struct Server {
    inner: Arc<Inner>,
    _accepting: AbortOnDropHandle<()>,
}

impl Server {
    /// Starts it: its socket is in `directory`.
    #[must_use]
    pub fn start(directory: &Path, clock: Arc<dyn Clock>) -> Self {
        let mut wal = Wal::new(SYSTEM_IDENTIFIER);
        let redo = wal.checkpoint();
        let state = State {
            wal,
            ancestors: BTreeMap::new(),
            undone: Vec::new(),
            slots: BTreeMap::new(),
            redo,
            kept_from: BEGIN,
            processes: 100,
            backups: 0,
            sent: Vec::new(),
            flushed: None,
            is_up: true,
        };
        let inner = Arc::new(Inner {
            state: Mutex::new(state),
            clock,
            written: watch::Sender::new(0),
            crash: Mutex::default(),
        });
        let (mut listener, accepting) = (MemoryListener::bind(directory, PORT), Arc::clone(&inner));
        let accepting = tokio::spawn(async move {
            while let Some(stream) = listener.accept().await {
                let (inner, crash) = (Arc::clone(&accepting), accepting.crash.lock().clone());
                if inner.state.lock().is_up {
                    tokio::spawn(async move {
                        tokio::select! {
                            () = crash.cancelled() => {}
                            _ = session::serve(&inner, stream) => {}
                        }
                    });
                }
            }
        });
        Self { inner, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// The connection string that leads there.
    #[must_use]
    pub fn connection(directory: &Path) -> String {
        format!("host={} port={PORT} user=lifeboat dbname=postgres", directory.display())
    }

    fn change<T>(&self, work: impl FnOnce(&mut State, UtcTime) -> T) -> T {
        let result = work(&mut self.inner.state.lock(), self.inner.clock.now());
        self.inner.written.send_modify(|count| *count += 1);
        result
    }

    /// Commits a transaction that changes so many bytes; returns where it ends.
    pub fn commit(&self, bytes: usize) -> WalPosition {
        self.change(|state, now| {
            state.wal.commit(now, bytes);
            state.end()
        })
    }

    /// Ends the segment.
    pub fn switch_segment(&self) {
        self.change(|state, _| state.wal.switch_segment());
    }

    /// A checkpoint, which removes WAL that nobody needs.
    pub fn checkpoint(&self) {
        self.change(|state, _| state.checkpoint());
    }

    /// All connections are lost.
    pub fn disconnect(&self) {
        let before = std::mem::take(&mut *self.inner.crash.lock());
        before.cancel();
        let mut state = self.inner.state.lock();
        state.slots.retain(|_, slot| !slot.is_temporary);
        state.slots.values_mut().for_each(|slot| slot.active = None);
        state.backups = 0;
    }

    /// Goes down, or comes up again.
    pub fn set_up(&self, is_up: bool) {
        self.inner.state.lock().is_up = is_up;
        self.disconnect();
    }

    /// A standby takes over that lacks the last so many bytes of WAL, and has the slots of the one before or none. Returns where the
    /// next timeline begins.
    pub fn promote(&self, lacks: u64, has_slots: bool) -> WalPosition {
        let fork = self.change(|state, _| {
            let least = state.ancestors.values().map(|past| past.left_at).max().unwrap_or(BEGIN);
            // The standby has replayed the last checkpoint.
            let least = least.max(state.redo + 1);
            let wanted = state.wal.record_end_before(state.wal.end().saturating_sub(lacks));
            let fork = if wanted >= least { wanted } else { state.wal.end() };
            let before = state.wal.timeline();
            state.ancestors.insert(before, Past { left_at: fork, wal: state.wal.clone() });
            state.wal.cut(fork);
            state.wal.promote(before + 1);
            if !has_slots {
                state.slots.clear();
            }
            position(before + 1, fork)
        });
        self.disconnect();
        fork
    }

    /// Loses its last so many bytes of WAL, as a server does whose disk did not keep them, and goes on from there. Returns
    /// where.
    pub fn set_back(&self, bytes: u64) -> WalPosition {
        let at = self.change(|state, _| {
            let least = state.ancestors.values().map(|past| past.left_at).max().unwrap_or(BEGIN);
            let to = state.wal.record_end_before(state.wal.end().saturating_sub(bytes).max(least + 1)).max(least);
            let past = Past { left_at: to, wal: state.wal.clone() };
            state.undone.push(past);
            state.wal.cut(to);
            state.end()
        });
        self.disconnect();
        at
    }

    /// Behind its last byte.
    #[must_use]
    pub fn end(&self) -> WalPosition {
        self.inner.state.lock().end()
    }

    /// What it was told to be safe.
    #[must_use]
    pub fn flushed(&self) -> Option<WalPosition> {
        self.inner.state.lock().flushed
    }

    /// Whether a backup with this start and stop was sent.
    #[must_use]
    pub fn has_sent_backup(&self, timeline: u32, start: u64, stop: u64) -> bool {
        self.inner.state.lock().sent.contains(&(timeline, start, stop))
    }

    /// The bytes from `start` to `end` of a timeline, in every course of events that there was.
    #[must_use]
    pub fn truths(&self, timeline: u32, start: u64, end: u64) -> Vec<Vec<u8>> {
        let state = self.inner.state.lock();
        let mut all: Vec<&Wal> = state.undone.iter().map(|past| &past.wal).collect();
        all.extend(state.ancestors.values().map(|past| &past.wal));
        all.push(&state.wal);
        let of = all.into_iter().filter(|wal| wal.timeline() == timeline && wal.end() >= end);
        of.map(|wal| wal.range(start, end).to_vec()).collect()
    }

    /// Where the next timeline goes on; `None` of the one that it is on.
    #[must_use]
    pub fn left_at(&self, timeline: u32) -> Option<u64> {
        self.inner.state.lock().ancestors.get(&timeline).map(|past| past.left_at)
    }

    /// Whether it was ever set back.
    #[must_use]
    pub fn was_set_back(&self) -> bool {
        !self.inner.state.lock().undone.is_empty()
    }

    /// The timelines that lead from `from` to the present one, each with where it begins and ends in bytes.
    #[must_use]
    pub fn course(&self, from: u64) -> Vec<(u32, u64, u64)> {
        let state = self.inner.state.lock();
        let (mut course, mut begin) = (Vec::new(), from);
        for (timeline, past) in &state.ancestors {
            if past.left_at > begin {
                course.push((*timeline, begin, past.left_at));
                begin = past.left_at;
            }
        }
        course.push((state.wal.timeline(), begin, state.wal.end()));
        course
    }
}
