//! Stops asking a region that keeps failing, and finds out with a single request whether it is back.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::StoreError;
use crate::lane::Lane;

/// Transient failures in a row that open the breaker.
pub const FAILURES_TO_OPEN: u32 = 3;
const OPEN_FIRST: Duration = Duration::from_secs(30);
const OPEN_MAX: Duration = Duration::from_secs(300);
/// What callers are told to wait while the probe is on its way.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// What a region's breaker does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests pass.
    Closed,
    /// One request is on its way to find out whether the region is back.
    HalfOpen,
    /// Requests are refused without asking the region.
    Open,
}

/// What of an open breaker outlives the process: a restart must not knock at a dead region with every queue at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerMemory {
    /// Until the next call may be the probe.
    pub wait: Duration,
    /// Transient failures in a row.
    pub failures: u32,
    /// How often it was opened without a success in between.
    pub openings: u32,
}

/// What a call said about the region's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It worked.
    Success,
    /// A transient failure.
    Failure,
    /// The region answered, but not with success: says nothing while closed, and that it is back while half-open.
    Answered,
}

impl Verdict {
    pub(crate) fn of<T>(result: &Result<T, StoreError>) -> Self {
        match result {
            Ok(_) => Self::Success,
            Err(StoreError::Transient { .. } | StoreError::DeadlineExceeded { .. }) => Self::Failure,
            Err(_) => Self::Answered,
        }
    }
}

/// The breaker of one region.
///
/// Closed --3 transient failures in a row--> open for 30 s --the next caller becomes the only probe--> half-open
/// --success or any answer--> closed; --failure--> open for twice as long, at most 5 min; --the probe is dropped--> the next caller
/// becomes the probe.
///
/// A probe may be a large object on a slow line. So what is urgent takes the place of bulk data at once, and anybody that of a probe
/// that takes longer than its failure would have kept the breaker open.
#[derive(Debug, Default)]
pub struct Breaker {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// Counts transitions. A call that began before the last one says nothing about the present.
    generation: u64,
    /// Transient failures in a row.
    failures: u32,
    /// How often the breaker was opened without a success in between.
    openings: u32,
}

#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    #[default]
    Closed,
    Open {
        until: Instant,
    },
    HalfOpen {
        /// Of the probe.
        lane: Lane,
        /// Another one may take its place then.
        until: Instant,
    },
}

/// The right to make one call. Dropping it without a report means that the call was cancelled.
#[derive(Debug)]
pub(crate) struct Permit {
    breaker: Arc<Breaker>,
    generation: u64,
    role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Caller,
    Probe,
    Reported,
}

impl State {
    fn move_to(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation += 1;
    }

    /// For how long it is opened next.
    fn pause(&self) -> Duration {
        OPEN_FIRST.saturating_mul(2_u32.saturating_pow(self.openings)).min(OPEN_MAX)
    }

    fn open(&mut self) {
        let until = Instant::now() + self.pause();
        self.openings = self.openings.saturating_add(1);
        self.move_to(Phase::Open { until });
    }

    fn probe(&mut self, lane: Lane) -> Role {
        let until = Instant::now() + self.pause();
        self.move_to(Phase::HalfOpen { lane, until });
        Role::Probe
    }

    fn close(&mut self) {
        (self.failures, self.openings) = (0, 0);
        self.move_to(Phase::Closed);
    }
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What it does at the moment. An open one whose time has passed stays open until somebody asks.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        match self.state.lock().phase {
            Phase::Closed => BreakerState::Closed,
            Phase::HalfOpen { .. } => BreakerState::HalfOpen,
            Phase::Open { .. } => BreakerState::Open,
        }
    }

    /// Time until the next call may be the probe: zero if calls pass, or if the next one is it.
    #[must_use]
    pub fn wait(&self) -> Duration {
        match self.state.lock().phase {
            Phase::Closed => Duration::ZERO,
            Phase::HalfOpen { .. } => PROBE_WAIT,
            Phase::Open { until } => until.saturating_duration_since(Instant::now()),
        }
    }

    /// What to remember; `None` while it is closed.
    #[must_use]
    pub fn memory(&self) -> Option<BreakerMemory> {
        let wait = self.wait();
        let state = self.state.lock();
        let remembered = BreakerMemory { wait, failures: state.failures, openings: state.openings };
        (!matches!(state.phase, Phase::Closed)).then_some(remembered)
    }

    /// Opens a breaker that nobody has used yet as an earlier process left it.
    pub fn recall(&self, earlier: BreakerMemory) {
        let mut state = self.state.lock();
        if state.generation == 0 && state.failures == 0 {
            (state.failures, state.openings) = (earlier.failures, earlier.openings);
            state.move_to(Phase::Open { until: Instant::now() + earlier.wait.min(OPEN_MAX) });
        }
    }

    /// Closes it: what it knows is not true any more.
    pub(crate) fn forget(&self) {
        self.state.lock().close();
    }

    /// Asks for the right to make one call of this lane.
    ///
    /// # Errors
    /// [`StoreError::BreakerOpen`].
    pub(crate) fn enter(self: &Arc<Self>, lane: Lane) -> Result<Permit, StoreError> {
        let mut state = self.state.lock();
        let failures = state.failures;
        let role = match state.phase {
            Phase::Closed => Role::Caller,
            Phase::HalfOpen { until, .. } if until <= Instant::now() => {
                // One that goes on for so long counts as failed for how long the next one is waited for.
                state.openings = state.openings.saturating_add(1);
                state.probe(lane)
            }
            Phase::HalfOpen { lane: Lane::Bulk, .. } if lane == Lane::Urgent => state.probe(lane),
            Phase::HalfOpen { .. } => return Err(StoreError::BreakerOpen { failures, wait: PROBE_WAIT }),
            Phase::Open { until } => {
                let wait = until.saturating_duration_since(Instant::now());
                if !wait.is_zero() {
                    return Err(StoreError::BreakerOpen { failures, wait });
                }
                state.probe(lane)
            }
        };
        Ok(Permit { breaker: Arc::clone(self), generation: state.generation, role })
    }

    fn take(&self, generation: u64, role: Role, verdict: Verdict) {
        let mut state = self.state.lock();
        if state.generation != generation {
            // A probe whose place was taken, or that was longer on its way than it is waited for, has found out all the same.
            if role == Role::Probe && verdict == Verdict::Success && !matches!(state.phase, Phase::Closed) {
                state.close();
            }
            return;
        }
        match (state.phase, verdict) {
            (Phase::Closed, Verdict::Success) => state.failures = 0,
            (Phase::Closed, Verdict::Failure) => {
                state.failures = state.failures.saturating_add(1);
                if state.failures >= FAILURES_TO_OPEN {
                    state.open();
                }
            }
            (Phase::HalfOpen { .. }, Verdict::Success | Verdict::Answered) => state.close(),
            (Phase::HalfOpen { .. }, Verdict::Failure) => {
                state.failures = state.failures.saturating_add(1);
                state.open();
            }
            (Phase::Closed, Verdict::Answered) | (Phase::Open { .. }, _) => {}
        }
    }

    /// The probe was cancelled: nobody will ever learn how it ended, and the region has no part in that. Without this the breaker would
    /// stay half-open until it is waited for no longer.
    fn give_back(&self, generation: u64) {
        let mut state = self.state.lock();
        if state.generation == generation && matches!(state.phase, Phase::HalfOpen { .. }) {
            state.move_to(Phase::Open { until: Instant::now() });
        }
    }
}

impl Permit {
    pub(crate) fn report(mut self, verdict: Verdict) {
        let role = std::mem::replace(&mut self.role, Role::Reported);
        self.breaker.take(self.generation, role, verdict);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.role == Role::Probe {
            self.breaker.give_back(self.generation);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn fail(breaker: &Arc<Breaker>, times: u32) {
        for _ in 0..times {
            breaker.enter(Lane::Urgent).unwrap().report(Verdict::Failure);
        }
    }

    fn is_shut(breaker: &Arc<Breaker>) -> bool {
        matches!(breaker.enter(Lane::Urgent), Err(StoreError::BreakerOpen { .. }))
    }

    #[tokio::test(start_paused = true)]
    async fn three_failures_in_a_row_open_it_and_fewer_do_not() {
        let breaker = Breaker::new();
        for _ in 0..5 {
            fail(&breaker, 2);
            breaker.enter(Lane::Urgent).unwrap().report(Verdict::Success);
        }
        fail(&breaker, 2);
        breaker.enter(Lane::Urgent).unwrap().report(Verdict::Answered);
        assert_eq!(breaker.state(), BreakerState::Closed);
        fail(&breaker, 1);
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(
            matches!(breaker.enter(Lane::Urgent), Err(StoreError::BreakerOpen { failures: 3, wait }) if wait == 30 * SECOND)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn after_thirty_seconds_exactly_one_probe_passes() {
        let breaker = Breaker::new();
        fail(&breaker, 3);
        tokio::time::advance(30 * SECOND - Duration::from_millis(1)).await;
        assert!(is_shut(&breaker));
        tokio::time::advance(Duration::from_millis(1)).await;
        let probe = breaker.enter(Lane::Urgent).unwrap();
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        for _ in 0..8 {
            assert!(is_shut(&breaker), "a second request while the probe is on its way");
        }
        probe.report(Verdict::Success);
        assert_eq!(breaker.state(), BreakerState::Closed);
        fail(&breaker, 2);
        assert_eq!(breaker.state(), BreakerState::Closed, "a success forgets earlier failures");
    }

    #[tokio::test(start_paused = true)]
    async fn each_failed_probe_doubles_the_pause_up_to_five_minutes() {
        let breaker = Breaker::new();
        fail(&breaker, 3);
        for seconds in [30, 60, 120, 240, 300, 300, 300] {
            assert_eq!(breaker.wait(), seconds * SECOND);
            tokio::time::advance(seconds * SECOND - Duration::from_millis(1)).await;
            assert!(is_shut(&breaker));
            tokio::time::advance(Duration::from_millis(1)).await;
            fail(&breaker, 1);
        }
        tokio::time::advance(300 * SECOND).await;
        breaker.enter(Lane::Urgent).unwrap().report(Verdict::Success);
        fail(&breaker, 3);
        assert_eq!(breaker.wait(), 30 * SECOND, "a success forgets the doubling");
    }

    #[tokio::test(start_paused = true)]
    async fn a_breaker_that_was_open_stays_open_over_a_restart() {
        let breaker = Breaker::new();
        assert_eq!(breaker.memory(), None);
        fail(&breaker, 3);
        tokio::time::advance(30 * SECOND).await;
        fail(&breaker, 1);
        tokio::time::advance(20 * SECOND).await;
        let memory = breaker.memory().unwrap();
        assert_eq!(memory, BreakerMemory { wait: 40 * SECOND, failures: 4, openings: 2 });
        let after = Breaker::new();
        after.recall(memory);
        assert_eq!((after.state(), after.wait()), (BreakerState::Open, 40 * SECOND));
        tokio::time::advance(40 * SECOND).await;
        fail(&after, 1);
        assert_eq!(after.wait(), 120 * SECOND, "the pauses go on doubling");
        // Whatever a file says: it goes on.
        let most = Breaker::new();
        most.recall(BreakerMemory { wait: Duration::MAX, failures: u32::MAX, openings: u32::MAX });
        assert_eq!(most.wait(), OPEN_MAX);
        tokio::time::advance(OPEN_MAX).await;
        fail(&most, 1);
        assert_eq!(most.wait(), OPEN_MAX);
        breaker.recall(BreakerMemory { wait: SECOND, ..memory });
        assert_ne!(breaker.wait(), SECOND, "one that is in use knows better");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_call_counts_as_nothing_and_after_a_dropped_probe_the_next_call_is_one() {
        let breaker = Breaker::new();
        for _ in 0..5 {
            drop(breaker.enter(Lane::Urgent).unwrap());
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        fail(&breaker, 3);
        tokio::time::advance(30 * SECOND).await;
        for _ in 0..5 {
            drop(breaker.enter(Lane::Urgent).unwrap());
            assert_eq!((breaker.state(), breaker.wait()), (BreakerState::Open, Duration::ZERO));
        }
        fail(&breaker, 1);
        assert_eq!(breaker.wait(), 60 * SECOND, "the dropped ones did not make the pause longer");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_no_success_still_proves_that_the_region_is_back() {
        let breaker = Breaker::new();
        fail(&breaker, 3);
        tokio::time::advance(30 * SECOND).await;
        breaker.enter(Lane::Urgent).unwrap().report(Verdict::Answered);
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn late_results_of_calls_from_before_say_nothing_about_now() {
        let breaker = Breaker::new();
        let early: Vec<_> = (0..8).map(|_| breaker.enter(Lane::Urgent).unwrap()).collect();
        let mut early = early.into_iter();
        for permit in early.by_ref().take(3) {
            permit.report(Verdict::Failure);
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        early.next().unwrap().report(Verdict::Success);
        assert_eq!(breaker.state(), BreakerState::Open, "a late success does not close it");
        tokio::time::advance(30 * SECOND).await;
        breaker.enter(Lane::Urgent).unwrap().report(Verdict::Success);
        for permit in early {
            permit.report(Verdict::Failure);
        }
        assert_eq!(breaker.state(), BreakerState::Closed, "late failures do not open it again");
    }

    #[test]
    fn only_failures_of_the_way_count_against_a_region() {
        let doing = String::new;
        let source = || crate::error::Cause::from("x");
        for (error, verdict) in [
            (StoreError::Transient { doing: doing(), source: source() }, Verdict::Failure),
            (StoreError::DeadlineExceeded { doing: doing(), after: SECOND }, Verdict::Failure),
            (StoreError::NotFound { key: "a".parse().unwrap() }, Verdict::Answered),
            (StoreError::Conflict { key: "a".parse().unwrap() }, Verdict::Answered),
            (StoreError::Throttled { doing: doing(), retry_after: None }, Verdict::Answered),
            (StoreError::Misconfigured { doing: doing(), advice: doing(), source: source() }, Verdict::Answered),
            (StoreError::Corrupted { doing: doing(), source: source() }, Verdict::Answered),
            (StoreError::Full { doing: doing(), source: source() }, Verdict::Answered),
        ] {
            assert_eq!(Verdict::of::<()>(&Err(error)), verdict);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_goes_on_for_long_is_not_the_last_one() {
        let breaker = Breaker::new();
        fail(&breaker, 3);
        tokio::time::advance(30 * SECOND).await;
        let hangs = breaker.enter(Lane::Urgent).unwrap();
        tokio::time::advance(60 * SECOND - Duration::from_millis(1)).await;
        assert!(is_shut(&breaker));
        tokio::time::advance(Duration::from_millis(1)).await;
        let second = breaker.enter(Lane::Urgent).unwrap();
        tokio::time::advance(60 * SECOND).await;
        assert!(is_shut(&breaker), "the next one is waited for twice as long");
        hangs.report(Verdict::Failure);
        assert_eq!(breaker.state(), BreakerState::HalfOpen, "its place was taken");
        second.report(Verdict::Success);
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn the_success_of_a_probe_counts_also_after_its_place_was_taken() {
        for ended in [None, Some(Verdict::Failure)] {
            let breaker = Breaker::new();
            fail(&breaker, 3);
            tokio::time::advance(30 * SECOND).await;
            let slow = breaker.enter(Lane::Bulk).unwrap();
            let mut second = Some(breaker.enter(Lane::Urgent).unwrap());
            if let Some(verdict) = ended {
                second.take().unwrap().report(verdict);
                assert_eq!(breaker.state(), BreakerState::Open);
            }
            slow.report(Verdict::Success);
            assert_eq!(breaker.state(), BreakerState::Closed);
        }
    }
}
