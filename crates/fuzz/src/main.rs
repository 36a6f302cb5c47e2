//! Fuzzing: random and mutated inputs for every door through which data from outside comes in.
//!
//! `bespoke-fuzz TARGET --seconds N [--seed S]` feeds inputs to a [target](target::TARGETS) and ends unsuccessfully if one
//! leads to anything but a result or a typed error: a panic (debug builds also panic on integer overflow), the death of
//! the process, more memory than the input can justify, no end within ten seconds, or a promise of the target that does
//! not hold. The input is saved, made small, and its path printed; `bespoke-fuzz TARGET FILE` tries it again.
//! Inputs that once broke a target are kept in `regressions/TARGET/` and come first in every run.
//!
//! It builds with stable Rust and runs anywhere, and pays for that: there is *no coverage guidance*, which needs
//! a compiler's instrumentation. Two things stand in for it. Mutators know what they mutate (protobuf messages of
//! models, decisions that build graphs and folders, sealed cache entries). And an input is kept to be mutated further if it leads to
//! an outcome never seen before, where an outcome is the stage that was reached and the error's text without names and
//! numbers. Every branch that refuses something says so in its own words, so that this sees most branches that matter
//! here.
//!
//! | module | what |
//! |---|---|
//! | [`supervisor`] | starts workers, judges how they ended, makes findings small ([`shrink`]) |
//! | [`worker`] | the loop; watches the clock and [`memory`] |
//! | [`target`], [`targets`] | what is tested |
//! | [`random`], [`mutate`], [`choices`] | where inputs come from |
//! | [`finding`] | what a worker tells the supervisor |

mod choices;
mod finding;
mod memory;
mod mutate;
mod random;
mod shrink;
mod supervisor;
mod target;
mod targets;
mod worker;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

/// Feeds random and mutated inputs to a part of bespoke, and fails if one brings it down.
#[derive(Parser)]
#[command(name = "bespoke-fuzz", after_help = targets_help())]
struct Arguments {
    /// What to test
    target: String,
    /// An input to try again, instead of searching
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// How long to search
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Seed of the random numbers; equal seeds try equal inputs
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Where inputs and findings are written (default: target/fuzz/TARGET)
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Be the worker of a supervisor that uses this folder
    #[arg(long, hide = true, value_name = "DIR")]
    worker: Option<PathBuf>,
    /// A kind of finding that was told before
    #[arg(long, hide = true, value_name = "KIND")]
    known: Vec<String>,
    /// Print nothing
    #[arg(long, hide = true)]
    quiet: bool,
}

fn targets_help() -> String {
    let rows = target::TARGETS
        .iter()
        .map(|(name, _, what)| format!("  {name:<16} {what}"));
    format!("Targets:\n{}", rows.collect::<Vec<_>>().join("\n"))
}

/// This crate's folder in the source tree.
fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// One message to standard error. A reader that went away is no reason to stop.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            say(&format!("error: {message}"));
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> Result<u8, String> {
    let time = Duration::from_secs(arguments.seconds);
    if let Some(folder) = &arguments.worker {
        let task = match arguments.file {
            Some(file) => worker::Task::Replay {
                file,
                quiet: arguments.quiet,
            },
            None => worker::Task::Search {
                time,
                seed: arguments.seed,
                first: regressions(&arguments.target)?,
                known: arguments.known,
            },
        };
        return worker::run(&arguments.target, folder, task);
    }
    target::find(&arguments.target)?;
    let folder = match arguments.output {
        Some(folder) => folder,
        None => home().join("../../target/fuzz").join(&arguments.target),
    };
    fs::create_dir_all(&folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    let folder = folder
        .canonicalize()
        .map_err(|e| format!("{}: {e}", folder.display()))?;
    let run = supervisor::Run {
        target: &arguments.target,
        folder,
    };
    let good = match &arguments.file {
        Some(file) => run.replay(file)?,
        None => run.search(time, arguments.seed)?,
    };
    Ok(u8::from(!good))
}

/// The inputs that once broke a target, in the order of their names.
fn regressions(target: &str) -> Result<Vec<PathBuf>, String> {
    let folder = home().join("regressions").join(target);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(
            entry
                .map_err(|e| format!("{}: {e}", folder.display()))?
                .path(),
        );
    }
    paths.sort();
    Ok(paths)
}
