//! How fast a region has taken what a backup uploads, of late; and what follows for packs, and for who lags. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// What is older than this has little weight.
const MEMORY: Duration = Duration::from_secs(30);
/// Nothing taken means slow only when something has waited for so long.
const SILENCE: Duration = Duration::from_secs(5);
/// A pack is so large that one of several transfers at once takes as much in this time: half of what shows that more may go at once.
const PACK_TIME: f64 = 5.0;
/// Packs as long as nobody knows how fast the line is.
const PACK_UNKNOWN: usize = 4 << 20;
/// No pack is smaller for the sake of a slow line.
const PACK_LEAST: usize = 1 << 20;
/// A region that is so many times slower than another one has a line, or a fault, of its own.
const OWN_FAULT: f64 = 4.0;

/// What a region has taken, and the time in which it had something to take; both fade.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LineRate {
    bytes: f64,
    busy: f64,
    last: Option<(Instant, u64)>,
}

impl LineRate {
    /// Looks at a region that has taken `total` bytes since the beginning, and has something to take or not.
    pub(crate) fn look(&mut self, now: Instant, total: u64, is_busy: bool) {
        let (then, before) = self.last.unwrap_or((now, 0));
        let elapsed = now.saturating_duration_since(then).as_secs_f64();
        let fades = (-elapsed / MEMORY.as_secs_f64()).exp();
        let taken = f64::from(u32::try_from(total.saturating_sub(before)).unwrap_or(u32::MAX));
        self.bytes = self.bytes * fades + taken;
        self.busy = self.busy * fades + if is_busy { elapsed } else { 0.0 };
        self.last = Some((now, total));
    }

    /// **Bytes per second**; `None` as long as nothing is known.
    pub(crate) fn known(&self) -> Option<f64> {
        let is_known = self.bytes >= 1.0 || self.busy >= SILENCE.as_secs_f64();
        is_known.then(|| self.speed())
    }

    /// **Bytes per second**; 0 if nothing was taken.
    fn speed(&self) -> f64 {
        self.bytes / self.busy.max(0.1)
    }

    /// Whether it is so much slower than another one that they do not only share a slow line.
    pub(crate) fn is_far_behind(&self, other: &Self) -> bool {
        self.speed() * OWN_FAULT < other.speed()
    }
}

/// How large the next pack should be in **bytes**, from `least` for the format's sake to `most`, so that the slowest of these
/// regions has it in a short time although it takes so many others at once: what fails or is held up costs little then, and WAL is
/// never behind many bytes.
pub(crate) fn pack_bytes(regions: impl Iterator<Item = LineRate>, at_once: usize, least: usize, most: usize) -> usize {
    let at_once = f64::from(u32::try_from(at_once.max(1)).unwrap_or(u32::MAX));
    let wanted = |region: LineRate| match region.known() {
        Some(rate) => whole(rate * PACK_TIME / at_once),
        None => PACK_UNKNOWN,
    };
    let wanted = regions.map(wanted).min().unwrap_or(PACK_UNKNOWN);
    wanted.max(PACK_LEAST).max(least).min(most)
}

/// Whole steps of 64 KiB; nothing asks for more than 64 MiB.
fn whole(bytes: f64) -> usize {
    const STEP: f64 = 65_536.0;
    (1..=1024_u32)
        .take_while(|steps| f64::from(*steps) * STEP <= bytes)
        .last()
        .map_or(0, |steps| steps as usize * (64 << 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn region(seconds: u64, bytes_per_second: u64, is_busy: bool) -> LineRate {
        let (mut rate, start) = (LineRate::default(), Instant::now());
        for second in 0..=seconds {
            rate.look(start + Duration::from_secs(second), second * bytes_per_second, is_busy);
        }
        rate
    }

    #[test]
    fn packs_are_as_large_as_one_of_several_transfers_takes_in_a_few_seconds() {
        let (least, most) = (320 << 10, 16 << 20);
        for (why, regions, expected) in [
            ("nothing is known", vec![LineRate::default(); 2], 4 << 20),
            ("nothing has come yet", vec![region(3, 0, true)], 4 << 20),
            ("it hangs", vec![region(20, 0, true)], 1 << 20),
            ("256 KiB/s shared by two", vec![region(60, MIB / 8, true); 2], 1 << 20),
            ("one region is slow", vec![region(60, 100 * MIB, true), region(60, 8 * MIB, true)], 10 << 20),
            ("all are fast", vec![region(60, 100 * MIB, true); 3], 16 << 20),
            ("there is no region", vec![], 4 << 20),
        ] {
            let found = pack_bytes(regions.into_iter(), 4, least, most);
            // What fades is not exact.
            let is_near = found.abs_diff(expected) <= 256 << 10 || (found == most && expected == most);
            assert!(is_near && found >= 1 << 20, "{why}: {found} for {expected}");
        }
        let of = |at_once, least, most| pack_bytes([region(60, 4 * MIB, true)].into_iter(), at_once, least, most);
        assert!(of(8, least, most) < of(4, least, most) && of(0, least, most) == of(1, least, most));
        assert_eq!(of(64, 3 << 20, most), 3 << 20, "a frame has to fit");
        assert_eq!(of(64, 3 << 20, 2 << 20), 2 << 20, "and memory is bounded");
        let idle = pack_bytes([region(60, MIB / 8, false)].into_iter(), 4, least, most);
        assert!(idle >= 1 << 20, "the server is slow, and not the region: {idle}");
    }

    #[test]
    fn packs_do_not_shrink_where_only_the_answers_come_late() {
        // Four packs at once, whose bytes move in three seconds, and whose answer comes after 20 s.
        let (mut rate, start) = (LineRate::default(), Instant::now());
        let (mut total, mut pack) = (0, 4 << 20);
        for second in 0..600_u64 {
            if second % 20 == 19 {
                total += 4 * pack as u64;
            }
            rate.look(start + Duration::from_secs(second), total, second % 20 < 3);
            pack = pack_bytes([rate].into_iter(), 4, 320 << 10, 16 << 20);
        }
        assert_eq!(pack, 16 << 20);
    }

    #[test]
    fn regions_that_share_a_line_are_not_far_behind_each_other_and_one_that_hangs_is() {
        let (slow, other) = (region(60, MIB / 8, true), region(60, MIB / 5, true));
        assert!(!slow.is_far_behind(&other) && !other.is_far_behind(&slow));
        let fast = region(60, 10 * MIB, false);
        assert!(slow.is_far_behind(&fast) && !fast.is_far_behind(&slow));
        let mut hangs = region(3600, MIB, true);
        let (now, total) = hangs.last.unwrap();
        let well = hangs;
        for second in 1..=90 {
            hangs.look(now + Duration::from_secs(second), total, true);
        }
        assert!(hangs.is_far_behind(&well), "an hour of good work does not count for long");
    }
}
