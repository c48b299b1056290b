//! Everything together: both hosts with their daemons, three regions, a server with real WAL and the real protocol, a restore host,
//! faults of networks, disks and clocks, and an intruder with the writer's key. All of it runs on one thread, with paused time and
//! without sockets, and what happens follows from a seed.
//!
//! What must stay true whatever happens stands in [`promises`].

mod clock;
mod host;
mod intruder;
mod network;
mod pace;
pub mod promises;
mod reader;
mod scenario;
mod server;
mod world;

use std::fmt;

pub use scenario::Kind;

/// What became of a simulation.
#[derive(Debug)]
pub struct Outcome {
    /// What it followed from.
    pub seed: u64,
    /// What could happen in it.
    pub kind: Kind,
    /// What happened, in order.
    pub events: Vec<String>,
    /// What was broken; empty if all is well.
    pub broken: Vec<String>,
    /// What was counted.
    pub counts: Counts,
}

/// What a simulation did: a scene in which nothing happens proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Backups that were committed in a quorum.
    pub backups: usize,
    /// Backups that were restored and compared.
    pub restored: usize,
    /// Bytes of WAL that were read back and compared.
    pub wal_bytes: u64,
    /// Backups that were deleted.
    pub deleted: usize,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} ({:?}): {:?}", self.seed, self.kind, self.counts)?;
        self.events.iter().try_for_each(|event| writeln!(f, "    {event}"))?;
        self.broken.iter().try_for_each(|broken| writeln!(f, "  BROKEN: {broken}"))
    }
}

/// Runs the simulation of a seed, on this thread.
///
/// # Errors
/// If it cannot be set up.
pub fn simulate(seed: u64) -> anyhow::Result<Outcome> {
    simulate_kind(seed, Kind::of(seed))
}

/// As [`simulate`], with another choice of what may happen.
///
/// # Errors
/// If it cannot be set up.
pub fn simulate_kind(seed: u64, kind: Kind) -> anyhow::Result<Outcome> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).on_thread_park(pace::park).build()?;
    let outcome = runtime.block_on(scenario::run(seed, kind));
    // Blocking work that hangs would hang the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    outcome
}
