//! Every chore of the repository, as `cargo xtask …`.
//!
//! Two commands are all that a newcomer needs: `demo` shows what bespoke does, `test` proves it. Both do their own
//! set-up, so that nothing but Rust and Python 3 has to be there. The others are the pieces these two are made of
//! (`models`, `tidy`) and chores of maintainers (`bundle`, `codegen`).
//!
//! One command is one module. A command prints what it does on standard error and its result on standard output; it
//! fails with one [`Error`] that says what to do about it. Nothing is written outside the ignored `target` folder.

// A command-line tool speaks through its standard streams.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bundle;
mod codegen;
mod demo;
mod elf;
mod error;
mod models;
mod python;
mod report;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Error;
use crate::workspace::Workspace;

/// Chores of the bespoke repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetch what the demo needs, build it and read the lines of a page with it
    Demo(demo::Arguments),
    /// Run every check of the project: lints, house rules, tests, fuzz targets, real models
    Test(test::Arguments),
    /// Check the house rules that no compiler knows
    Tidy,
    /// Fetch the real models and NVRTC by package name and verify their digests
    Models(models::Arguments),
    /// Stage what a GPU machine without Rust needs to run the GPU tests
    Bundle(bundle::Arguments),
    /// Regenerate the ONNX protobuf code from the committed onnx.proto
    Codegen,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Error> {
    let workspace = Workspace::find()?;
    match command {
        Command::Demo(arguments) => demo::run(&workspace, &arguments),
        Command::Test(arguments) => test::run(&workspace, &arguments),
        Command::Tidy => tidy::run(&workspace),
        Command::Models(arguments) => models::run(&workspace, &arguments),
        Command::Bundle(arguments) => bundle::run(&workspace, &arguments),
        Command::Codegen => codegen::run(&workspace),
    }
}
