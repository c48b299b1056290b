//! The programs as the tests build them, and nothing else.

use std::process::Command;

use anyhow::Result;

use crate::steps::{run, shown};
use crate::tools;

/// Packages that hold what the demo and the torture start, and the packages that give all others the features that the tests
/// have: with others, cargo would compile most of the dependencies a second time.
const PACKAGES: [&str; 5] =
    ["lifeboat-daemon", "lifeboat-restore", "lifeboat-xtask", "lifeboat-stores", "lifeboat-test-features"];

/// Builds both programs, and the packages named besides.
pub(crate) fn programs(besides: &[&str]) -> Result<()> {
    let mut build = command(besides);
    println!("building the programs: {}", shown(&build));
    run(&mut build)
}

/// The command that builds them.
pub(crate) fn command(besides: &[&str]) -> Command {
    let mut build = Command::new(tools::cargo());
    build.args(["build", "--features", "lifeboat-stores/testing"]).current_dir(tools::root());
    for package in PACKAGES.iter().chain(besides) {
        build.args(["--package", package]);
    }
    build
}
