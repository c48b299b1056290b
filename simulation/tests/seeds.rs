//! Two hundred seeds. `LIFEBOAT_SIMULATION=FIRST,COUNT[,KIND]` runs others.

#![allow(clippy::unwrap_used, reason = "a scene that cannot be set up is a failed test")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_simulation::{Counts, Kind, Outcome, simulate_kind};
use parking_lot::Mutex;

const COUNT: u64 = 200;

/// The seeds, and the kind if it is to be the same for all.
fn wanted() -> (u64, u64, Option<Kind>) {
    let Ok(text) = std::env::var("LIFEBOAT_SIMULATION") else { return (1, COUNT, None) };
    let mut parts = text.split(',');
    let mut number = |otherwise| parts.next().map_or(otherwise, |part| part.trim().parse().unwrap());
    let (first, count) = (number(1), number(1));
    let kind = parts.next().map(|wanted| {
        let found = Kind::ALL.into_iter().find(|kind| format!("{kind:?}").eq_ignore_ascii_case(wanted.trim()));
        found.unwrap_or_else(|| panic!("there are the kinds {:?}", Kind::ALL))
    });
    (first, count, kind)
}

#[test]
fn no_seed_breaks_a_promise() {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_ansi(false).init();
    }
    let (first, count, kind) = wanted();
    let next = AtomicU64::new(first);
    let outcomes: Mutex<BTreeMap<u64, Outcome>> = Mutex::default();
    // Some of the time a simulation waits for threads of its own.
    let threads = std::thread::available_parallelism().map_or(1, usize::from) * 2;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let outcome = simulate_kind(seed, kind.unwrap_or(Kind::of(seed))).unwrap();
                    if count == 1 || !outcome.broken.is_empty() {
                        eprintln!("{outcome}");
                    }
                    outcomes.lock().insert(seed, outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner();
    let broken: Vec<u64> = outcomes.values().filter(|one| !one.broken.is_empty()).map(|one| one.seed).collect();
    assert!(broken.is_empty(), "{} of {count} seeds broke a promise: {broken:?}", broken.len());
    let sum = |of: fn(&Counts) -> usize| outcomes.values().map(|one| of(&one.counts)).sum::<usize>();
    // A scene in which nothing happens proves nothing.
    let (backups, restored, deleted) = (sum(|one| one.backups), sum(|one| one.restored), sum(|one| one.deleted));
    assert!(backups >= outcomes.len() && restored >= outcomes.len(), "{backups} backups, {restored} restored");
    let wal = outcomes.values().map(|one| one.counts.wal_bytes).sum::<u64>() >> 20;
    eprintln!("{count} seeds: {backups} backups, {restored} restored, {deleted} deleted, {wal} MiB of WAL read back");
    if count == COUNT {
        assert!(deleted > 0, "retention has deleted nothing");
    }
}
