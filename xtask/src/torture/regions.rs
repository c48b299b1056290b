//! `cargo xtask torture regions`: three regions under random outages, kills and lies. The work is a test of the daemon,
//! which every test run makes for less than a minute; here it goes on for as long as is asked for.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{build, steps, tools};

/// How long to go on.
#[derive(Debug, Args)]
pub(crate) struct RegionTortureArgs {
    /// Minutes of outages, kills and lies.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
    /// Decides what happens when; a run with the same seed tries the same things.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// Builds the programs and lets the regions fail.
pub(crate) fn run(args: &RegionTortureArgs) -> Result<()> {
    let root = tools::root();
    build::programs(&[])?;
    let mut test = Command::new(tools::cargo());
    test.args(["test", "--workspace", "--test", "regions_under_torture", "--", "--nocapture"]).current_dir(&root);
    test.env("LIFEBOAT_TORTURE_SECONDS", (args.minutes * 60).to_string());
    test.env("LIFEBOAT_TORTURE_SEED", args.seed.to_string());
    println!("{}", steps::shown(&test));
    steps::run(&mut test)
}
