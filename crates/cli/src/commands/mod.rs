//! The commands, one file each: its flags, what it does, how it shows it.

mod bench;
mod cache;
mod check;
mod costs;
mod doctor;
mod inspect;
mod prebuild;
mod run;
mod trace;

use crate::console::Console;
use crate::failure::Failure;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Run(run::Arguments),
    Inspect(inspect::Arguments),
    Check(check::Arguments),
    Bench(Box<bench::Arguments>),
    Prebuild(prebuild::Arguments),
    Costs(costs::Arguments),
    Doctor(doctor::Arguments),
    Cache(cache::Arguments),
    Trace(trace::Arguments),
}

/// Runs a command; `Ok` is the exit code of a command that did its work.
pub(crate) fn run(command: &Command, console: &mut Console) -> Result<u8, Failure> {
    match command {
        Command::Run(arguments) => run::run(arguments, console),
        Command::Inspect(arguments) => inspect::run(arguments, console),
        Command::Check(arguments) => check::run(arguments, console),
        Command::Bench(arguments) => bench::run(arguments, console),
        Command::Prebuild(arguments) => prebuild::run(arguments, console),
        Command::Costs(arguments) => costs::run(arguments, console),
        Command::Doctor(arguments) => doctor::run(arguments, console),
        Command::Cache(arguments) => cache::run(arguments, console),
        Command::Trace(arguments) => trace::run(arguments, console),
    }
}
