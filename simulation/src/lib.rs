//! Everything together: both hosts with their daemons, three regions, a server with real WAL and the real protocol, a restore host,
//! faults of networks, disks and clocks, and an intruder with the writer's key. All of it runs on one thread, with paused time and
//! without sockets, and what happens follows from a seed.
//!
//! What must stay true whatever happens stands in [`promises`].

mod clock;
mod host;
mod intruder;
mod network;
mod outcome;
mod pace;
pub mod promises;
mod reader;
mod scenario;
mod schedule;
mod server;
mod world;

pub use outcome::{Counts, Kind, Outcome};

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
    let _thread = pace::OnThisThread::begin();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).on_thread_park(pace::park).build()?;
    let outcome = runtime.block_on(scenario::run(seed, kind));
    // Blocking work that hangs would hang the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    outcome
}
