//! A request while it runs: how far its bytes have come, and how long our own limits have held it back.
//!
//! Time-outs are about a region and the way to it. What we hold back ourselves, because somebody has set a bandwidth or because
//! something more urgent goes first, counts against nobody. So the layers around a store and the store itself look at the same
//! operation, which goes with the task that works on it; each request of an operation is looked at by itself.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_vocabulary::ByteCount;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::error::TimedOut;
use crate::lane::{Moving, Pace};

tokio::task_local! {
    static CURRENT: Arc<Transfer>;
}

/// A line that moves less than this in **bytes per second** is as good as none.
const SLOWEST_BYTES_PER_SECOND: u64 = 32 << 10;
/// What every request may take besides the time for its bytes.
const TOTAL: Duration = Duration::from_secs(60);
/// How long nothing of a body that is sent may be taken. The system takes the next bytes when a third of its buffer, which
/// has up to 4 MiB, is free again: at the slowest rate that takes 42 s.
const TAKING: Duration = Duration::from_secs(60);
/// How long the beginning of an answer may take after the request, besides what the system's buffers, or those of a proxy, still
/// hold of its body.
const ANSWER: Duration = Duration::from_secs(30);
/// How long nothing of an answer that has begun may come.
const COMING: Duration = Duration::from_secs(30);
/// How long what the system's buffers hold of a body usually takes after the last of it was taken. Who waits for an answer for longer
/// waits for the region, and not for the line.
const DRAINS: Duration = Duration::from_secs(3);
/// The least time that is slept between two looks.
const LOOK_MIN: Duration = Duration::from_millis(5);

/// The time that `bytes` take on the slowest line that is still one.
pub(crate) fn time_for(bytes: u64) -> Duration {
    Duration::from_millis((bytes.min(1 << 40)).saturating_mul(1000) / SLOWEST_BYTES_PER_SECOND)
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Its body is on its way.
    #[default]
    Sending,
    /// All of it was taken, or it has none.
    Sent,
    /// The answer has begun.
    Coming,
}

#[derive(Debug, Default)]
struct State {
    stage: Stage,
    /// Nothing of its body is wanted any more. Of the answer, something may still come.
    is_ended: bool,
    /// Bytes of bodies that moved, in both directions.
    moved: u64,
    /// When something moved last, in time that was not held.
    last: Duration,
    /// The same as a moment.
    stepped: Option<Instant>,
    /// Time in which nothing but an answer was waited for.
    awaited: Duration,
    held: Duration,
    holds: u32,
    held_since: Option<Instant>,
}

impl State {
    fn held(&self, now: Instant) -> Duration {
        let present = self.held_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.held.saturating_add(present)
    }
}

/// A request, an operation with all its attempts, or what somebody outside of the stores watches: each is a part of the next.
#[derive(Debug)]
pub(crate) struct Transfer {
    /// What it is a part of.
    operation: Option<Arc<Transfer>>,
    begun: Instant,
    state: Mutex<State>,
    /// How the bodies of this operation go while something urgent is held up.
    pace: Mutex<Option<Arc<Pace>>>,
}

/// As long as this lives, the transfer is held back by ourselves.
#[derive(Debug)]
pub(crate) struct Hold(Arc<Transfer>);

impl Drop for Hold {
    fn drop(&mut self) {
        let now = Instant::now();
        self.0.each(|state| {
            state.holds = state.holds.saturating_sub(1);
            if state.holds == 0
                && let Some(since) = state.held_since.take()
            {
                state.held = state.held.saturating_add(now.saturating_duration_since(since));
            }
        });
    }
}

/// `work` for another task, as a part of what this task works on.
pub(crate) fn carried<T>(work: impl Future<Output = T> + Send) -> impl Future<Output = T> + Send {
    let current = CURRENT.try_with(Arc::clone).ok();
    async move {
        match current {
            Some(current) => current.carry(work).await,
            None => work.await,
        }
    }
}

/// With this, nothing more of a request's body is sent.
#[derive(Debug)]
pub(crate) struct Ends(Arc<Transfer>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.state.lock().is_ended = true;
    }
}

impl Transfer {
    /// A request or an operation that begins now, as a part of what this task works on.
    pub(crate) fn begin() -> Arc<Self> {
        Arc::new(Self {
            operation: CURRENT.try_with(Arc::clone).ok(),
            begun: Instant::now(),
            state: Mutex::default(),
            pace: Mutex::default(),
        })
    }

    /// The operation that this task works on; a new one if it works on none.
    pub(crate) fn current() -> Arc<Self> {
        CURRENT.try_with(Arc::clone).unwrap_or_else(|_| Self::begin())
    }

    /// Does `work` as part of this operation.
    pub(crate) async fn carry<T>(self: &Arc<Self>, work: impl Future<Output = T>) -> T {
        CURRENT.scope(Arc::clone(self), work).await
    }

    /// It, and all that it is a part of.
    fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |transfer| transfer.operation.as_deref())
    }

    fn each(&self, change: impl Fn(&mut State)) {
        self.all().for_each(|transfer| change(&mut transfer.state.lock()));
    }

    /// From now on it is held back, until what is returned is dropped.
    pub(crate) fn hold(self: &Arc<Self>) -> Hold {
        let now = Instant::now();
        self.each(|state| {
            state.holds = state.holds.saturating_add(1);
            state.held_since.get_or_insert(now);
        });
        Hold(Arc::clone(self))
    }

    /// The time since the beginning in which it was not held back.
    pub(crate) fn active(&self, now: Instant) -> Duration {
        let held = self.state.lock().held(now);
        now.saturating_duration_since(self.begun).saturating_sub(held)
    }

    /// All the time in which it was held back.
    pub(crate) fn held(&self, now: Instant) -> Duration {
        self.state.lock().held(now)
    }

    /// All the time in which nothing but the region's answer was waited for.
    pub(crate) fn awaited(&self) -> Duration {
        self.state.lock().awaited
    }

    /// The bodies of this operation let go first what is urgent.
    pub(crate) fn yield_to(&self, pace: &Arc<Pace>) {
        *self.pace.lock() = Some(Arc::clone(pace));
    }

    /// How long the next piece of a body, of `bytes`, has to wait for what is urgent.
    pub(crate) fn wait(&self, bytes: usize) -> Option<Duration> {
        let pace = self.all().find_map(|transfer| transfer.pace.lock().clone())?;
        pace.wait(bytes)
    }

    /// The request ends when what is returned is dropped: its answer is there, or nobody waits for it.
    pub(crate) fn ends(self: &Arc<Self>) -> Ends {
        Ends(Arc::clone(self))
    }

    /// Whether nothing of the request's body is wanted any more.
    pub(crate) fn is_ended(&self) -> bool {
        self.state.lock().is_ended
    }

    /// A body that goes on after its request has ended says nothing about the operation, which may be at another one. And one that goes
    /// on while the answer comes does not make it a request that still waits for one.
    fn step(&self, stage: Stage, bytes: usize) {
        let now = Instant::now();
        let active = self.active(now);
        let (awaited, stage) = {
            let mut state = self.state.lock();
            if state.is_ended && stage != Stage::Coming {
                return;
            }
            let is_answer = state.stage == Stage::Sent && stage == Stage::Coming;
            let awaited =
                if is_answer { active.saturating_sub(state.last).saturating_sub(DRAINS) } else { Duration::ZERO };
            state.last = active;
            (awaited, stage.max(state.stage))
        };
        self.each(|state| {
            state.moved = state.moved.saturating_add(bytes as u64);
            state.awaited = state.awaited.saturating_add(awaited);
            (state.stage, state.stepped) = (stage, Some(now));
        });
    }

    /// The connection took so much of the body.
    pub(crate) fn took(&self, bytes: usize) {
        self.step(Stage::Sending, bytes);
    }

    /// Nothing of the request is left to be taken.
    pub(crate) fn sent(&self) {
        self.step(Stage::Sent, 0);
    }

    /// The answer has begun, or so much more of its body came.
    pub(crate) fn came(&self, bytes: usize) {
        self.step(Stage::Coming, bytes);
    }

    /// Waits for `work` as long as the request gets on.
    ///
    /// # Errors
    /// [`TimedOut`], if it does not any more.
    pub(crate) async fn while_it_moves<T>(
        &self,
        patience: Patience,
        work: impl Future<Output = T>,
    ) -> Result<T, TimedOut> {
        let mut work = pin!(work);
        loop {
            let left = self.left(patience, Instant::now())?;
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                // Time that is held makes it more, never less.
                () = sleep(left.max(LOOK_MIN)) => {}
            }
        }
    }

    /// How long at least it is waited for from now on, if nothing moves.
    fn left(&self, patience: Patience, now: Instant) -> Result<Duration, TimedOut> {
        let active = self.active(now);
        let (stage, last) = {
            let state = self.state.lock();
            (state.stage, state.last)
        };
        let (limit, what) = match stage {
            Stage::Sending => (TAKING, "nothing of the body could be sent"),
            Stage::Sent => (ANSWER.saturating_add(time_for(patience.body)), "there was no answer"),
            Stage::Coming => (COMING, "nothing more of the answer came"),
        };
        let idle = active.saturating_sub(last);
        if idle >= limit {
            return Err(TimedOut { why: format!("{what} for {} s", limit.as_secs()) });
        }
        let total = patience.total();
        if active >= total {
            let why = format!("it was not complete within {} s; the line is too slow", total.as_secs());
            return Err(TimedOut { why });
        }
        Ok((limit - idle).min(total - active))
    }
}

impl Moving for Transfer {
    fn moved(&self) -> u64 {
        self.state.lock().moved
    }
}

/// What keeps an operation from being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferState {
    /// It is held back by our own limits.
    Held,
    /// All of it was sent, and the region does not answer.
    Awaited,
    /// The line, or what is not known.
    Moves,
}

/// Looks at operations of stores from outside.
#[derive(Clone, Debug)]
pub struct TransferWatch(Arc<Transfer>);

impl TransferWatch {
    /// Looks at what [`Self::over`] does.
    #[must_use]
    pub fn begin() -> Self {
        Self(Transfer::begin())
    }

    /// Does `work`, whose operations come one after the other.
    pub async fn over<T>(&self, work: impl Future<Output = T>) -> T {
        self.0.carry(work).await
    }

    /// What is waited for at the moment.
    #[must_use]
    pub fn state(&self) -> TransferState {
        let state = self.0.state.lock();
        let drains = state.stepped.is_none_or(|then| then.elapsed() <= DRAINS);
        match state.stage {
            _ if state.holds > 0 => TransferState::Held,
            Stage::Sent if !drains => TransferState::Awaited,
            Stage::Sending | Stage::Sent | Stage::Coming => TransferState::Moves,
        }
    }
}

/// What a request may move, and hence how long it is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Patience {
    /// Bytes of its body.
    body: u64,
    /// Bytes of the body of the answer, at the most.
    answer: u64,
}

impl Patience {
    /// For a request that sends so much.
    pub(crate) fn sending(body: ByteCount) -> Self {
        Self { body: body.as_bytes(), answer: 0 }
    }

    /// For a request whose answer has at most so much.
    pub(crate) fn receiving(answer: ByteCount) -> Self {
        Self { body: 0, answer: answer.as_bytes() }
    }

    /// The most time that the request may take, however well it gets on.
    pub(crate) fn total(self) -> Duration {
        TOTAL.saturating_add(time_for(self.body.saturating_add(self.answer)))
    }
}

#[cfg(test)]
mod tests;
