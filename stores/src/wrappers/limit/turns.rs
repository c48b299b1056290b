//! How many requests may run at once: more while all goes well, fewer when the region or the line does not keep up.
//!
//! Additive increase, multiplicative decrease. What does not keep up shows itself in three ways: the region asks for less, nothing
//! moves any more, or each transfer takes so long that fewer at once would have moved as much, and sooner.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};
use tokio::time::Instant;

const HALVE_AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// A transfer that takes longer shows that fewer should run at once.
pub(crate) const SLOW: Duration = Duration::from_secs(30);
/// Only transfers that are shorter show that more may run at once.
pub(crate) const QUICK: Duration = Duration::from_secs(10);

/// What the end of a request says about how many may run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// More may.
    Success,
    /// The region asks for less.
    Throttled,
    /// What was begun then took too long, or nothing moved any more.
    Slow {
        /// When it was begun.
        begun: Instant,
    },
    /// Nothing.
    Nothing,
}

/// Turns that requests take.
#[derive(Debug)]
pub(crate) struct Turns {
    permits: Semaphore,
    flow: Mutex<Flow>,
    range: Range,
}

/// A turn that is taken. It is returned when this is dropped, or vanishes.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    permit: Option<SemaphorePermit<'a>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut flow = self.turns.flow.lock();
        if flow.owed > 0
            && let Some(permit) = self.permit.take()
        {
            flow.owed -= 1;
            permit.forget();
        }
    }
}

/// How few and how many turns there may be; at least one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) least: usize,
    pub(crate) most: usize,
}

/// Decides how many there are.
#[derive(Debug)]
struct Flow {
    /// Requests that may run at once now.
    allowed: usize,
    /// Permits that must vanish when they are returned.
    owed: usize,
    /// Successes since the last change.
    successes: usize,
    /// When it was last halved: one burst of refusals is one reason, not eight.
    halved: Option<Instant>,
}

/// What happened to the number of permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    OneMore,
}

impl Flow {
    fn throttled(&mut self, least: usize, now: Instant) {
        if self.halved.is_some_and(|last| now < last + HALVE_AT_MOST_EVERY) {
            return;
        }
        self.halve(least, now);
    }

    /// Transfers that were begun before the last halving say nothing about how it goes since.
    fn slow(&mut self, begun: Instant, least: usize, now: Instant) {
        if self.halved.is_none_or(|last| begun >= last) {
            self.halve(least, now);
        }
    }

    fn halve(&mut self, least: usize, now: Instant) {
        let next = (self.allowed / 2).max(least).min(self.allowed);
        self.owed += self.allowed - next;
        (self.allowed, self.successes, self.halved) = (next, 0, Some(now));
    }

    fn succeeded(&mut self, most: usize) -> Change {
        self.successes += 1;
        // Until something went wrong for the first time, each success is worth one more: from few to many in a few rounds.
        let round = if self.halved.is_none() { 1 } else { self.allowed };
        if self.allowed >= most || self.successes < round {
            return Change::None;
        }
        (self.allowed, self.successes) = (self.allowed + 1, 0);
        if self.owed > 0 {
            self.owed -= 1;
            return Change::None;
        }
        Change::OneMore
    }
}

impl Turns {
    /// `first` at the beginning, and then as it goes.
    pub(crate) fn new(first: usize, range: Range) -> Self {
        let most = range.most.max(1);
        let range = Range { least: range.least.clamp(1, most), most };
        let allowed = first.clamp(range.least, most);
        let flow = Flow { allowed, owed: 0, successes: 0, halved: None };
        Self { permits: Semaphore::new(allowed), flow: Mutex::new(flow), range }
    }

    /// Waits for a turn.
    pub(crate) async fn take(&self) -> Result<Turn<'_>, AcquireError> {
        let permit = self.permits.acquire().await?;
        Ok(Turn { turns: self, permit: Some(permit) })
    }

    /// Learns from how a request ended.
    pub(crate) fn learn(&self, heard: Heard) {
        let mut flow = self.flow.lock();
        let Range { least, most } = self.range;
        match heard {
            Heard::Success if flow.succeeded(most) == Change::OneMore => self.permits.add_permits(1),
            Heard::Throttled => flow.throttled(least, Instant::now()),
            Heard::Slow { begun } => flow.slow(begun, least, Instant::now()),
            Heard::Success | Heard::Nothing => {}
        }
        // Turns that nobody uses vanish at once, the others when they are returned.
        flow.owed -= self.permits.forget_permits(flow.owed);
    }

    /// How many may run at once now.
    #[cfg(test)]
    pub(crate) fn allowed(&self) -> usize {
        self.flow.lock().allowed
    }

    /// How many could begin now.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.permits.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(allowed: usize) -> Flow {
        Flow { allowed, owed: 0, successes: 0, halved: None }
    }

    #[test]
    fn throttling_halves_the_turns_and_success_gives_them_back_one_by_one() {
        let mut flow = flow(8);
        let start = Instant::now();
        flow.throttled(1, start);
        flow.throttled(1, start + Duration::from_millis(10));
        assert_eq!((flow.allowed, flow.owed), (4, 4), "one burst of refusals is one reason");
        flow.throttled(1, start + Duration::from_secs(1));
        flow.throttled(1, start + Duration::from_secs(2));
        flow.throttled(1, start + Duration::from_secs(3));
        assert_eq!((flow.allowed, flow.owed), (1, 7), "one turn always remains");
        assert_eq!(flow.succeeded(8), Change::None);
        assert_eq!((flow.allowed, flow.owed), (2, 6), "a permit that was to vanish stays");
        flow.owed = 0;
        assert_eq!((flow.succeeded(8), flow.succeeded(8)), (Change::None, Change::OneMore));
        assert_eq!(flow.allowed, 3);
        flow.allowed = 8;
        for _ in 0..100 {
            assert_eq!(flow.succeeded(8), Change::None, "never more than the settings allow");
        }
    }

    #[test]
    fn the_first_turns_come_quickly_until_something_goes_wrong() {
        let mut flow = flow(2);
        assert!((0..5).all(|_| flow.succeeded(7) == Change::OneMore));
        assert_eq!((flow.allowed, flow.succeeded(7)), (7, Change::None));
    }

    #[test]
    fn transfers_that_take_too_long_halve_the_turns_once_for_all_that_were_begun_together() {
        let mut flow = flow(8);
        let start = Instant::now();
        let late = start + Duration::from_secs(60);
        (0..8).for_each(|_| flow.slow(start, 1, late));
        assert_eq!(flow.allowed, 4);
        flow.slow(late, 3, late + Duration::from_secs(60));
        assert_eq!(flow.allowed, 3, "never fewer than the least");
    }

    #[tokio::test(start_paused = true)]
    async fn turns_that_vanish_do_so_as_they_are_returned() {
        let turns = Turns::new(4, Range { least: 1, most: 4 });
        let (a, b) = (turns.take().await.unwrap(), turns.take().await.unwrap());
        let c = turns.take().await.unwrap();
        turns.learn(Heard::Slow { begun: Instant::now() });
        assert_eq!((turns.allowed(), turns.free()), (2, 0), "the idle one vanishes, and one more is owed");
        drop(a);
        assert_eq!(turns.free(), 0);
        drop((b, c));
        assert_eq!((turns.allowed(), turns.free()), (2, 2));
        for _ in 0..20 {
            let _turn = turns.take().await.unwrap();
            turns.learn(Heard::Success);
        }
        assert_eq!((turns.allowed(), turns.free()), (4, 4));
    }
}
