//! The project's own commands: `cargo xtask demo`, `test`, `bench`, `torture`, `deb`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people at a terminal")]

mod build;
mod demo;
mod house;
mod package;
mod scene;
mod steps;
mod test;
mod test_programs;
mod timings;
mod tools;
mod torture;

use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::package::{deb, trial};
use crate::torture::{backups, regions, wal};

/// What the project can do for itself.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Protect a live database under load in two regions, lose a table and the host, bring back the second before.
    Demo(demo::DemoArgs),
    /// Install what is missing and run every check and test.
    Test(test::TestArgs),
    /// Check the source tree alone: long files, full folders, circles of modules, dead links.
    Tree,
    /// Build from nothing, in a folder of its own, and print where the time goes.
    Timings(timings::TimingsArgs),
    /// Build a Debian package.
    Deb(deb::DebArgs),
    /// Try the package of a debug build in a systemd of its own, as its documentation says.
    Package {
        /// Build nothing: take what the tests have built.
        #[arg(long)]
        as_built: bool,
    },
    /// Measure; everything after `--` goes to the measuring program.
    Bench {
        /// Arguments of the measuring program.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Break things at random moments, and prove each time that nothing is lost and nothing is claimed.
    #[command(subcommand)]
    Torture(Torture),
}

#[derive(Debug, Subcommand)]
enum Torture {
    /// Kill backups.
    Backups(backups::TortureArgs),
    /// Lose the whole host, recover from the regions alone, and count the commits that are gone.
    Wal(wal::WalTortureArgs),
    /// Three regions fail, lie and recover at random; in the end they are alike and nothing claimed is missing.
    Regions(regions::RegionTortureArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Tree => tree(),
        Task::Timings(args) => timings::main(&args),
        Task::Deb(args) => deb::main(&args),
        Task::Package { as_built: true } => trial::run().map(|seen| println!("{seen}")),
        Task::Package { as_built: false } => package(),
        Task::Bench { arguments } => bench(&arguments),
        Task::Torture(Torture::Backups(args)) => backups::run(&args),
        Task::Torture(Torture::Wal(args)) => wal::run(&args),
        Task::Torture(Torture::Regions(args)) => regions::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tree() -> Result<()> {
    let mut steps = steps::Steps::default();
    house::add_steps(&mut steps, &tools::root());
    println!("\n{}", steps.summary());
    if steps.all_passed() { Ok(()) } else { anyhow::bail!("the source tree breaks a rule") }
}

/// Builds what the trial takes, and tries it.
fn package() -> Result<()> {
    build::programs(&["lifeboat-s3-testd"])?;
    println!("{}", trial::run()?);
    Ok(())
}

fn bench(arguments: &[String]) -> Result<()> {
    let mut build = Command::new(tools::cargo());
    build.args(["build", "--release", "--package", "lifeboat-daemon", "--package", "lifeboat-restore"]);
    build.args(["--package", "lifeboat-bench"]).current_dir(tools::root());
    println!("building, optimised: {}", steps::shown(&build));
    steps::run(&mut build)?;
    let mut run = Command::new(tools::cargo());
    run.args(["run", "--release", "--package", "lifeboat-bench", "--"]).args(arguments).current_dir(tools::root());
    println!("measuring, with an optimised build: {}", steps::shown(&run));
    steps::run(&mut run)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
