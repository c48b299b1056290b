//! How a memory budget is divided: computed once at start, logged, and enforced by permits.

use std::fmt;

use lifeboat_vocabulary::{ByteCount, counted};

/// What the process needs besides buffers: code, stacks, TLS sessions, HTTP clients. Measured, then rounded up.
const PROCESS_BASE: u64 = 28 << 20;
/// A zstd context and its tables at levels 1 to 4 on inputs of at most 1 MiB, per worker.
const PER_WORKER: u64 = 3 << 20;
/// Receive buffers of the database connection.
const RECEIVE: u64 = 4 << 20;
/// The open index shard and the one on its way.
const INDEX: u64 = 8 << 20;

/// The buffers of one backup run: how many there may be, and how large they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The whole budget.
    pub budget: ByteCount,
    /// Worker threads.
    pub workers: usize,
    /// Plain bytes per frame.
    pub frame_bytes: usize,
    /// Frames that are being filled, compressed or waiting for their place.
    pub frames_in_flight: usize,
    /// Bytes per pack, at the most: on slow lines packs are smaller.
    pub pack_bytes: usize,
    /// Packs that are being filled, sealed or uploaded. A pack counts until the slowest region that is still taking
    /// part has it.
    pub packs_in_flight: usize,
}

/// The budget is too small to work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a memory budget of {budget} is too small for {}; at least {needed} are needed", counted(*.workers as u64, "worker", "workers"))]
pub struct BudgetTooSmall {
    /// What was given.
    pub budget: ByteCount,
    /// For how many workers.
    pub workers: usize,
    /// What would do.
    pub needed: ByteCount,
}

impl MemoryPlan {
    /// Divides `budget` among `workers` worker threads, frames of `frame_bytes` and packs of at most `pack_bytes_max`.
    ///
    /// # Errors
    /// [`BudgetTooSmall`] if there would not be room for three packs of 2 MiB.
    pub fn new(
        budget: ByteCount,
        workers: usize,
        frame_bytes: usize,
        pack_bytes_max: usize,
    ) -> Result<Self, BudgetTooSmall> {
        let workers = workers.max(1);
        // A frame in flight is held plain and compressed for a moment.
        let frames_in_flight = 4 * workers + 8;
        let fixed = PROCESS_BASE
            + RECEIVE
            + INDEX
            + PER_WORKER * workers as u64
            + (2 * frames_in_flight * (frame_bytes + 4096)) as u64;
        let smallest = 3 * (2 << 20);
        let room = budget.as_bytes().saturating_sub(fixed);
        if room < smallest {
            return Err(BudgetTooSmall { budget, workers, needed: ByteCount::from_bytes(fixed + smallest) });
        }
        // Four packs at least, so that filling, sealing and uploading overlap; whole MiB, so that sizes are readable.
        let quarter = usize::try_from(room / 4).unwrap_or(usize::MAX) >> 20 << 20;
        let pack_bytes = pack_bytes_max.min(quarter.max(2 << 20));
        let packs_in_flight = usize::try_from(room / pack_bytes as u64).unwrap_or(usize::MAX).min(64);
        Ok(Self { budget, workers, frame_bytes, frames_in_flight, pack_bytes, packs_in_flight })
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "memory budget {}: {}, {} frames of {}, {} packs of up to {} in flight",
            self.budget,
            counted(self.workers as u64, "worker", "workers"),
            self.frames_in_flight,
            ByteCount::from_bytes(self.frame_bytes as u64),
            self.packs_in_flight,
            ByteCount::from_bytes(self.pack_bytes as u64),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACK_MAX: usize = 16 << 20;

    #[test]
    fn the_parts_never_add_up_to_more_than_the_budget() {
        for (mib, workers) in [(64, 1), (64, 2), (96, 4), (128, 2), (128, 8), (256, 16), (1024, 2), (4096, 64)] {
            let budget = ByteCount::from_mib(mib);
            let plan = MemoryPlan::new(budget, workers, 128 << 10, PACK_MAX).unwrap();
            let buffers = plan.packs_in_flight * plan.pack_bytes + 2 * plan.frames_in_flight * plan.frame_bytes;
            assert!((buffers as u64) < budget.as_bytes(), "{plan}");
            assert!(plan.packs_in_flight >= 3 && plan.pack_bytes <= PACK_MAX, "{plan}");
        }
    }

    #[test]
    fn the_default_budget_has_room_for_four_packs_of_sixteen_mebibytes() {
        let plan = MemoryPlan::new(ByteCount::from_mib(128), 2, 128 << 10, PACK_MAX).unwrap();
        assert_eq!((plan.pack_bytes, plan.packs_in_flight), (PACK_MAX, 4));
    }

    #[test]
    fn a_memory_budget_that_is_too_small_reports_the_least_that_works() {
        let refused = MemoryPlan::new(ByteCount::from_mib(32), 2, 128 << 10, PACK_MAX).unwrap_err();
        assert!(MemoryPlan::new(refused.needed, 2, 128 << 10, PACK_MAX).is_ok());
        assert!(refused.to_string().contains("is too small"), "{refused}");
    }
}
