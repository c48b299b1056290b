//! `lifeboat-bench`: measures Lifeboat beside its peers, in one run, on one machine, against the same storage.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people at a terminal")]

mod cli;
mod cluster;
mod figures;
mod machine;
mod markdown;
mod measured;
mod meter;
mod plan;
mod prerequisites;
mod proc;
mod region;
mod report;
mod rounds;
mod serve_s3;
mod shell;
mod stage;
mod tools;
mod wal;

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

use crate::cli::{Arguments, Part};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.part {
        Some(Part::ServeS3(arguments)) => serve_s3::run(arguments).map(|()| ExitCode::SUCCESS),
        Some(Part::Measured(arguments)) => measured::run(&arguments),
        None => benchmark(&arguments).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("lifeboat-bench: {error:#}");
        ExitCode::FAILURE
    })
}

fn benchmark(arguments: &Arguments) -> Result<()> {
    let report = rounds::run(&arguments.plan())?;
    if let Some(path) = &arguments.markdown {
        let mut file = File::create(path).with_context(|| format!("write {}", path.display()))?;
        file.write_all(markdown::of(&report).as_bytes()).with_context(|| format!("write {}", path.display()))?;
    }
    let text = if arguments.json {
        serde_json::to_string_pretty(&report).context("write the report as JSON")? + "\n"
    } else {
        report.table()
    };
    std::io::stdout().write_all(text.as_bytes()).context("print the report")
}
