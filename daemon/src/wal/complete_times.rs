//! Up to when WAL is complete: from what a server says about the end of its WAL to moments before which nothing ends behind a
//! position. A moment at which no commit was seen proves nothing: what the server had committed by then may not have come.

use std::collections::VecDeque;
use std::time::Duration;

use lifeboat_repository::wal::{CompleteMark, Head};
use lifeboat_vocabulary::{Lsn, UtcTime, WalPosition};
use parking_lot::Mutex;

/// A commit is dated before its record is flushed, and others see it only after that: so long before a moment at which the end of
/// the flushed WAL is known, nothing is dated that is not in it.
const FLUSH_TIME: Duration = Duration::from_secs(5);
/// A moment further ahead of this machine's clock than this proves nothing: one of the two clocks is wrong.
const AHEAD_MAX: Duration = Duration::from_secs(300);
/// New marks are this far apart.
const SPACING: Duration = Duration::from_secs(1);
/// So many of the newest marks are kept as they are, and so many older ones further apart.
const MARKS: usize = 1024;

/// What the messages of one stream say about the end of a server's WAL.
///
/// A WAL sender reads the end of the flushed WAL before it writes a message with WAL, and after it has written the message before: so
/// whatever was flushed at the time in one message lies before the end that the next one names. A keepalive names what was sent
/// instead, which is the end where the sender had caught up. Source: PostgreSQL `walsender.c`, `XLogSendPhysical`,
/// `WalSndKeepalive`, `WalSndLoop`.
#[derive(Debug, Default)]
pub(crate) struct EndOfWal {
    /// The server's time in the last message.
    before: Option<UtcTime>,
    /// The end of the WAL that came last, where that was all there was.
    caught_up: Option<Lsn>,
}

impl EndOfWal {
    /// WAL up to `received` came from a server that had flushed up to `flushed`. Gives what is proven by that.
    pub(crate) fn data(
        &mut self,
        time: Option<UtcTime>,
        received: Lsn,
        flushed: Option<Lsn>,
    ) -> Option<(UtcTime, Lsn)> {
        self.caught_up = flushed.filter(|flushed| *flushed <= received);
        let before = std::mem::replace(&mut self.before, time);
        before.zip(flushed)
    }

    /// The server says that it has sent everything up to `sent`. Gives what is proven by that.
    pub(crate) fn keepalive(&mut self, time: Option<UtcTime>, sent: Option<Lsn>) -> Option<(UtcTime, Lsn)> {
        let before = std::mem::replace(&mut self.before, time);
        before.zip(self.caught_up.filter(|end| Some(*end) == sent))
    }
}

/// The moments that are known, with their positions.
#[derive(Debug, Default)]
pub(crate) struct CompleteTimes(Mutex<Marks>);

/// Marks, the oldest first. With a region away for long they do not become more, but further apart.
#[derive(Debug)]
struct Marks {
    newest: VecDeque<CompleteMark>,
    /// Before all of `newest`, so far apart.
    older: Vec<CompleteMark>,
    spacing: Duration,
}

impl Default for Marks {
    fn default() -> Self {
        Self { newest: VecDeque::new(), older: Vec::new(), spacing: SPACING }
    }
}

impl CompleteTimes {
    /// At `time`, by its own clock, a server that nothing stands before had flushed nothing behind `at`. `now` is this machine's.
    pub(crate) fn flushed(&self, at: WalPosition, time: UtcTime, now: UtcTime) {
        if time > now.plus(AHEAD_MAX) {
            return;
        }
        let settled = time.as_unix_micros().saturating_sub(i64::try_from(FLUSH_TIME.as_micros()).unwrap_or(i64::MAX));
        if let Some(time) = UtcTime::from_unix_micros(settled) {
            self.0.lock().add(CompleteMark { at, time });
        }
    }

    /// The newest moment for which nothing behind `durable` is needed.
    pub(crate) fn newest(&self, durable: WalPosition) -> Option<CompleteMark> {
        let marks = self.0.lock();
        let lies_before = |mark: &&CompleteMark| (mark.at.timeline, mark.at.lsn) <= (durable.timeline, durable.lsn);
        marks.newest.iter().rev().chain(marks.older.iter().rev()).find(lies_before).copied()
    }
}

impl Marks {
    fn add(&mut self, mark: CompleteMark) {
        // A clock that was set back dates commits to come before moments that were told: those are not complete any more.
        self.newest.retain(|known| known.time <= mark.time);
        self.older.retain(|known| known.time <= mark.time);
        if let Some(last) = self.newest.back_mut() {
            let (old, new) = ((last.at.timeline, last.at.lsn), (mark.at.timeline, mark.at.lsn));
            if new < old {
                return;
            }
            if new == old {
                last.time = mark.time;
                return;
            }
            if mark.time.since(last.time) < SPACING {
                return;
            }
        }
        self.newest.push_back(mark);
        if self.newest.len() > MARKS
            && let Some(oldest) = self.newest.pop_front()
        {
            self.keep(oldest);
        }
    }

    fn keep(&mut self, mark: CompleteMark) {
        if self.older.last().is_some_and(|last| mark.time.since(last.time) < self.spacing) {
            return;
        }
        if self.older.len() >= MARKS {
            let mut even = false;
            self.older.retain(|_| {
                even = !even;
                even
            });
            let span = self.older.last().zip(self.older.first()).map(|(last, first)| last.time.since(first.time));
            let gaps = u32::try_from(self.older.len()).unwrap_or(u32::MAX).saturating_sub(1).max(1);
            self.spacing = span.map_or(self.spacing, |span| span / gaps).max(self.spacing);
        }
        self.older.push(mark);
    }
}

/// What a head says about the server's WAL, whatever the region has of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Said {
    pub(crate) complete: Option<CompleteMark>,
    pub(crate) confirmed: Option<WalPosition>,
}

impl Said {
    /// Takes over what is known `now`. A mark that lies ahead was told while a clock was wrong, and would hide the true ones. What
    /// PostgreSQL was told on a timeline it was told for good; on another timeline it may be less.
    pub(crate) fn add(&mut self, complete: Option<CompleteMark>, confirmed: Option<WalPosition>, now: UtcTime) {
        let is_possible = |mark: &CompleteMark| mark.time <= now.plus(AHEAD_MAX);
        self.complete = complete.or(self.complete).filter(is_possible);
        self.confirmed = match (self.confirmed, confirmed) {
            (Some(before), Some(now)) if before.timeline == now.timeline && before.lsn > now.lsn => Some(before),
            (before, now) => now.or(before),
        };
    }
}

impl From<&Head> for Said {
    fn from(head: &Head) -> Self {
        Self { complete: head.complete, confirmed: head.confirmed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_vocabulary::TimelineId;

    fn second(second: u64) -> UtcTime {
        UtcTime::from_unix_micros(1_795_000_000_000_000 + i64::try_from(second * 1_000_000).unwrap()).unwrap()
    }

    fn lsn(bytes: u64) -> Lsn {
        Lsn::from_bytes(bytes).unwrap()
    }

    fn at(timeline: u32, bytes: u64) -> WalPosition {
        WalPosition { timeline: TimelineId::new(timeline).unwrap(), lsn: lsn(bytes) }
    }

    #[test]
    fn a_message_proves_what_was_flushed_when_the_one_before_it_was_written() {
        let mut end = EndOfWal::default();
        assert_eq!(end.keepalive(Some(second(1)), Some(lsn(10))), None, "nobody knows whether all was sent");
        assert_eq!(end.data(Some(second(2)), lsn(20), Some(lsn(90))), Some((second(1), lsn(90))), "to come");
        assert_eq!(end.keepalive(Some(second(3)), Some(lsn(20))), None, "it has more");
        assert_eq!(end.data(Some(second(4)), lsn(90), Some(lsn(90))), Some((second(3), lsn(90))));
        assert_eq!(end.keepalive(Some(second(9)), Some(lsn(90))), Some((second(4), lsn(90))), "and nothing since");
        assert_eq!(end.keepalive(Some(second(12)), Some(lsn(90))), Some((second(9), lsn(90))));
        assert_eq!(end.keepalive(Some(second(13)), Some(lsn(91))), None, "sent, and not received");
        assert_eq!(end.data(None, lsn(95), Some(lsn(95))), Some((second(13), lsn(95))));
        assert_eq!(end.data(Some(second(15)), lsn(96), Some(lsn(96))), None, "without a time there is no moment");
    }

    #[test]
    fn a_moment_counts_where_its_position_is_reached() {
        let times = CompleteTimes::default();
        for (position, time) in [(at(1, 10), 10), (at(1, 20), 20), (at(1, 20), 30), (at(2, 40), 40)] {
            times.flushed(position, second(time), second(time));
        }
        for (durable, expected) in [
            (at(1, 9), None),
            (at(1, 10), Some((at(1, 10), second(5)))),
            (at(1, 19), Some((at(1, 10), second(5)))),
            (at(1, 20), Some((at(1, 20), second(25)))),
            (at(2, 39), Some((at(1, 20), second(25)))),
            (at(2, 41), Some((at(2, 40), second(35)))),
        ] {
            assert_eq!(times.newest(durable).map(|mark| (mark.at, mark.time)), expected, "{durable}");
        }
    }

    #[test]
    fn moments_that_lie_ahead_of_a_clock_that_was_set_back_are_forgotten() {
        let times = CompleteTimes::default();
        times.flushed(at(1, 20), second(100), second(100));
        times.flushed(at(1, 30), second(90_000), second(90_000));
        times.flushed(at(1, 40), second(110), second(110));
        let newest = |durable| times.newest(at(1, durable)).map(|mark| (mark.at.lsn.as_bytes(), mark.time));
        assert_eq!(newest(99), Some((40, second(105))));
        assert_eq!(newest(39), Some((20, second(95))), "what is committed from now on may be dated before that");
        times.flushed(at(1, 10), second(200), second(200));
        assert_eq!(newest(99), Some((40, second(105))), "a position before the last says nothing");
    }

    #[test]
    fn a_moment_far_ahead_of_this_machine_proves_nothing_and_is_not_said_again() {
        let times = CompleteTimes::default();
        times.flushed(at(1, 20), second(1000), second(600));
        times.flushed(at(1, 30), second(1100), second(700));
        assert_eq!(times.newest(at(1, 99)), None);
        let mark = |lsn, time| CompleteMark { at: at(1, lsn), time: second(time) };
        let mut said = Said { complete: Some(mark(20, 9000)), confirmed: Some(at(1, 20)) };
        said.add(None, None, second(100));
        assert_eq!((said.complete, said.confirmed), (None, Some(at(1, 20))));
        said.add(Some(mark(15, 90)), Some(at(1, 15)), second(100));
        assert_eq!((said.complete, said.confirmed), (Some(mark(15, 90)), Some(at(1, 20))), "what was told stays told");
        said.add(None, Some(at(2, 10)), second(100));
        assert_eq!((said.complete, said.confirmed), (Some(mark(15, 90)), Some(at(2, 10))), "another timeline");
    }

    #[test]
    fn a_region_that_is_away_for_a_year_costs_no_more_memory_and_keeps_an_early_moment() {
        let times = CompleteTimes::default();
        let year = 105_000;
        for number in 1..=year {
            times.flushed(at(1, number), second(number * 300), second(number * 300));
        }
        let marks = times.0.lock();
        assert!(marks.newest.len() <= MARKS && marks.older.len() <= MARKS);
        drop(marks);
        for durable in [1, 1000, 50_000, 100_000] {
            let behind = durable - times.newest(at(1, durable)).unwrap().at.lsn.as_bytes();
            assert!(behind <= 256, "{durable}: {behind} marks behind");
        }
        assert_eq!(times.newest(at(1, year + 9)).unwrap().at, at(1, year));
        assert_eq!(times.newest(at(1, year - 1)).unwrap().at, at(1, year - 1), "a region that follows closely");
    }
}
