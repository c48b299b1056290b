//! Turns at the processor: several backups at once, each with threads of its own, work frame by frame on as many cores
//! as one of them would use alone.
//!
//! While others wait, none has more than half of the turns (rounded up, so that no core idles); alone it has all of
//! them. A turn lasts for one frame or pack, well below a tenth of a second, and is never held while anything is waited
//! for: so no thread waits long, and no backup can delay another.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lifeboat_vocabulary::ClusterName;
use parking_lot::{Condvar, Mutex};

/// Who has turns and who waits for one. Pure: no clock, no threads.
#[derive(Debug)]
struct Turns {
    capacity: usize,
    free: usize,
    parties: Vec<Party>,
    /// Counts turns, so that of those who wait with as many each, the one that had none for longest goes first.
    given: u64,
}

#[derive(Debug, Default)]
struct Party {
    running: usize,
    waiting: usize,
    /// The number of its last turn.
    last: u64,
    /// Turns that are given to waiting threads and not taken yet; they count as running.
    granted: usize,
}

impl Turns {
    fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self { capacity, free: capacity, parties: Vec::new(), given: 0 }
    }

    fn join(&mut self) -> usize {
        self.parties.push(Party::default());
        self.parties.len() - 1
    }

    fn party(&mut self, index: usize) -> Option<&mut Party> {
        self.parties.get_mut(index)
    }

    /// Whether this one may have another turn.
    fn may(&self, index: usize) -> bool {
        let others_wait = self.parties.iter().enumerate().any(|(other, party)| other != index && party.waiting > 0);
        let running = self.parties.get(index).map_or(0, |party| party.running);
        self.free > 0 && (!others_wait || running < self.capacity.div_ceil(2))
    }

    /// Takes a turn; `false`: it has to be waited for.
    fn ask(&mut self, index: usize) -> bool {
        let goes = self.may(index);
        if goes {
            self.give(index);
        } else if let Some(party) = self.party(index) {
            party.waiting += 1;
        }
        goes
    }

    fn give(&mut self, index: usize) {
        self.given += 1;
        let given = self.given;
        if let Some(party) = self.party(index) {
            party.running += 1;
            party.last = given;
            self.free -= 1;
        }
    }

    /// Gives a turn back, and says who gets it.
    fn done(&mut self, index: usize) -> Option<usize> {
        if let Some(party) = self.party(index) {
            party.running = party.running.saturating_sub(1);
            self.free = (self.free + 1).min(self.capacity);
        }
        let waits = self.parties.iter().enumerate().filter(|(index, party)| party.waiting > 0 && self.may(*index));
        let (_, _, next) = waits.map(|(index, party)| (party.running, party.last, index)).min()?;
        let party = self.party(next)?;
        party.waiting -= 1;
        party.granted += 1;
        self.give(next);
        Some(next)
    }

    /// Takes a turn that was given to a waiting thread of this one.
    fn take_granted(&mut self, index: usize) -> bool {
        let Some(party) = self.party(index).filter(|party| party.granted > 0) else { return false };
        party.granted -= 1;
        true
    }
}

/// The turns of all clusters of one daemon.
pub struct CpuShares {
    turns: Mutex<Turns>,
    shares: Mutex<BTreeMap<ClusterName, Arc<ShareState>>>,
    /// By the number of the share.
    by_index: Mutex<Vec<Arc<ShareState>>>,
}

#[derive(Debug)]
struct ShareState {
    index: usize,
    granted_turn: Condvar,
    waiting_nanos: AtomicU64,
    running_nanos: AtomicU64,
}

/// How long the threads of one cluster waited for turns, and had them, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShareTimes {
    /// Waiting, all threads together.
    pub waiting: Duration,
    /// Working, all threads together.
    pub running: Duration,
}

/// What one cluster has of the processor: its place among those that take turns.
#[derive(Clone)]
pub struct CpuShare {
    all: Arc<CpuShares>,
    state: Arc<ShareState>,
}

impl CpuShares {
    /// As many turns at the same time as `workers`, at least one.
    #[must_use]
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self { turns: Mutex::new(Turns::new(workers)), shares: Mutex::default(), by_index: Mutex::default() })
    }

    /// The share of a cluster: the same each time.
    #[must_use]
    pub fn of(self: &Arc<Self>, cluster: &ClusterName) -> CpuShare {
        let mut shares = self.shares.lock();
        let state = shares.entry(cluster.clone()).or_insert_with(|| {
            let index = self.turns.lock().join();
            let (waiting_nanos, running_nanos) = (AtomicU64::new(0), AtomicU64::new(0));
            let state = Arc::new(ShareState { index, granted_turn: Condvar::new(), waiting_nanos, running_nanos });
            self.by_index.lock().push(Arc::clone(&state));
            state
        });
        CpuShare { all: Arc::clone(self), state: Arc::clone(state) }
    }

    fn take(&self, state: &ShareState) {
        let mut turns = self.turns.lock();
        if turns.ask(state.index) {
            return;
        }
        let begun = Instant::now();
        while !turns.take_granted(state.index) {
            state.granted_turn.wait(&mut turns);
        }
        drop(turns);
        state.waiting_nanos.fetch_add(nanos(begun.elapsed()), Ordering::Relaxed);
    }

    fn give_back(&self, state: &ShareState) {
        let next = self.turns.lock().done(state.index);
        if let Some(next) = next
            && let Some(waiting) = self.by_index.lock().get(next)
        {
            waiting.granted_turn.notify_one();
        }
    }
}

impl ShareState {
    fn times(&self) -> ShareTimes {
        let read = |counter: &AtomicU64| Duration::from_nanos(counter.load(Ordering::Relaxed));
        ShareTimes { waiting: read(&self.waiting_nanos), running: read(&self.running_nanos) }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl CpuShare {
    /// Waits for a turn and works. Call it on a worker thread, for work that waits for nothing.
    pub(crate) fn work<T>(&self, work: impl FnOnce() -> T) -> T {
        self.all.take(&self.state);
        // Given back also if the work panics.
        let _turn = Turn { share: self, begun: Instant::now() };
        work()
    }

    /// The whole backup waited, before it had threads.
    pub fn waited(&self, duration: Duration) {
        self.state.waiting_nanos.fetch_add(nanos(duration), Ordering::Relaxed);
    }

    /// How long it waited and worked.
    #[must_use]
    pub fn times(&self) -> ShareTimes {
        self.state.times()
    }
}

impl fmt::Debug for CpuShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuShare({})", self.state.index)
    }
}

impl fmt::Debug for CpuShares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuShares({})", self.turns.lock().capacity)
    }
}

struct Turn<'s> {
    share: &'s CpuShare,
    begun: Instant,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let state = &self.share.state;
        state.running_nanos.fetch_add(nanos(self.begun.elapsed()), Ordering::Relaxed);
        self.share.all.give_back(state);
    }
}

#[cfg(test)]
mod tests;
