//! The project's own commands: `cargo xtask demo`, `test`, `bench`, `torture`.

mod chance;
mod clients;
mod daemon;
mod demo;
mod house;
mod scenario;
mod steps;
mod test;
mod tools;
mod torture;
mod wal_torture;

use std::process::{Command, ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

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
    Backups(torture::TortureArgs),
    /// Lose the whole host, recover from the regions alone, and count the commits that are gone.
    Wal(wal_torture::WalTortureArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Bench { arguments } => bench(&arguments),
        Task::Torture(Torture::Backups(args)) => torture::run(&args),
        Task::Torture(Torture::Wal(args)) => wal_torture::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
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
