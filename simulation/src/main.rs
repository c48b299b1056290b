//! `lifeboat-simulation [--kind KIND] [--verbose] FIRST [COUNT]`: runs the simulations of these seeds, two at a time, and tells which broke a promise.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program for a terminal")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat_simulation::{Kind, Outcome, simulate_kind};

fn main() -> ExitCode {
    let mut numbers = Vec::new();
    let (mut kind, mut is_verbose) = (None, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--verbose" => is_verbose = true,
            "--kind" => {
                let wanted = arguments.next().unwrap_or_default();
                kind = Kind::ALL.into_iter().find(|kind| format!("{kind:?}").eq_ignore_ascii_case(&wanted));
                if kind.is_none() {
                    eprintln!("no such kind: {wanted}; there are {:?}", Kind::ALL);
                    return ExitCode::from(2);
                }
            }
            number => match number.parse::<u64>() {
                Ok(number) => numbers.push(number),
                Err(_) => {
                    eprintln!("usage: lifeboat-simulation [--kind KIND] [--verbose] FIRST [COUNT]");
                    return ExitCode::from(2);
                }
            },
        }
    }
    if is_verbose {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
    }
    let first = numbers.first().copied().unwrap_or(1);
    let end = first + numbers.get(1).copied().unwrap_or(1);
    let (next, broken) = (AtomicU64::new(first), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // Some of the time a simulation waits for threads of its own.
        let threads = std::thread::available_parallelism().map_or(1, usize::from) * 2;
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let began = std::time::Instant::now();
                    match simulate_kind(seed, kind.unwrap_or(Kind::of(seed))) {
                        Ok(outcome) => {
                            broken.fetch_add(u64::from(!outcome.broken.is_empty()), Ordering::Relaxed);
                            show(&outcome, is_verbose || end - first == 1, began.elapsed());
                        }
                        Err(error) => {
                            broken.fetch_add(1, Ordering::Relaxed);
                            println!("seed {seed}: {error:#}");
                        }
                    }
                }
            });
        }
    });
    let broken = broken.into_inner();
    println!("{} simulations, {broken} broke a promise", end - first);
    ExitCode::from(u8::from(broken > 0))
}

fn show(outcome: &Outcome, is_verbose: bool, took: std::time::Duration) {
    if is_verbose || !outcome.broken.is_empty() {
        print!("{outcome}");
    } else {
        println!("seed {} ({:?}): {:?} in {took:.1?}", outcome.seed, outcome.kind, outcome.counts);
    }
}
