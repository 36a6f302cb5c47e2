//! The command `bespoke`: run, inspect and check ONNX models, look after the kernel cache, and find out what is wrong.
//!
//! This file is the outermost layer: it reads the command line, hands it to a command, and turns whatever comes back into
//! an exit code (`exit`). It promises that
//!
//! - every end has one of the documented exit codes, a panic inside included (70);
//! - an error says what is at fault and what to do about it, on standard error;
//! - with `--json` standard output holds exactly one document, errors included.
//!
//! | module | what it holds |
//! |---|---|
//! | `commands` | one file a command |
//! | `options` | flags that commands share |
//! | `session` | from flags to an open device, a compile service and a session |
//! | `shapes`, `inputs`, `content`, `npy`, `dataset` | what goes into a model |
//! | `bench` | timing: what is measured, statistics, warnings, reports |
//! | `sight`, `recompile` | what is written down of sessions as they run |
//! | `replay`, `times` | shapes in the order of a trace, and what came of each |
//! | `costs` | what specialising costs and brings: rows, sums, reports |
//! | `placed` | a run's tensors on the device |
//! | `compare`, `elements` | what comes out, and whether it is right |
//! | `warnings` | what went less well than was asked for |
//! | `console`, `failure`, `exit`, `environment` | talking to people and to scripts |

mod arithmetic;
mod bench;
mod commands;
mod compare;
mod console;
mod content;
mod costs;
mod dataset;
mod elements;
mod environment;
mod exit;
mod export;
mod failure;
#[cfg(test)]
mod guide;
mod inputs;
mod npy;
mod options;
mod placed;
mod recompile;
mod replay;
mod session;
mod shapes;
mod sight;
mod times;
mod warnings;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use bespoke::ErrorKind;
use clap::error::ErrorKind as Refusal;
use clap::{ColorChoice, CommandFactory, FromArgMatches, Parser};

use commands::Command;
use console::Console;
use failure::Failure;

/// Run ONNX models on NVIDIA GPUs, with kernels that adapt to the shapes that occur
#[derive(Debug, Parser)]
#[command(name = "bespoke", version, after_help = concat_help(), max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// One JSON document on standard output instead of text
    #[arg(long, global = true)]
    json: bool,
    /// No notes, warnings or progress on standard error
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Whether to colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
}

fn concat_help() -> String {
    format!("{}\n\n{}", environment::HELP, exit::help())
}

thread_local! {
    /// What this thread's last panic said.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn main() -> ExitCode {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|v| v != "0") {
            usual(info);
        }
        PANIC.with(|last| last.replace(Some(info.to_string())));
    }));
    let arguments: Vec<_> = std::env::args_os().collect();
    // Known before the command line is: errors of the command line itself are documents too.
    let json = arguments.iter().any(|a| a == "--json");
    let parsed = Cli::command()
        .try_get_matches_from(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(refuse(&error, json)),
    };
    match cli.color {
        ColorChoice::Auto => {}
        ColorChoice::Always => anstream::ColorChoice::Always.write_global(),
        ColorChoice::Never => anstream::ColorChoice::Never.write_global(),
    }
    let mut console = Console::new(cli.json, cli.quiet);
    for warning in
        environment::strangers(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))
    {
        console.warn(warning);
    }
    let result = guard(|| commands::run(&cli.command, &mut console));
    ExitCode::from(match result {
        Ok(code) => code,
        Err(failure) => {
            console.fail(&failure);
            failure.kind.code()
        }
    })
}

/// Turns a panic into a failure.
fn guard<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    // What the work leaves half done is only the console, whose every state is valid.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = PANIC.with(RefCell::take).or_else(|| {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            text.or_else(|| panic.downcast_ref::<String>().cloned())
        });
        Err(Failure::new(
            ErrorKind::Internal,
            format!(
                "bespoke broke: {}",
                said.unwrap_or_else(|| "no reason was given".into())
                    .replace('\n', " ")
            ),
            "this is a bug of bespoke; please report it with the model and this command line \
             (RUST_BACKTRACE=1 shows where it happened)",
        ))
    })
}

/// Shows help, the version, or what is wrong with the command line.
fn refuse(error: &clap::Error, json: bool) -> u8 {
    // Where the stream cannot be written there is nobody to tell.
    let _ = error.print();
    if error.exit_code() == 0 {
        return 0;
    }
    if json {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        let message = match error.kind() {
            Refusal::DisplayHelpOnMissingArgumentOrSubcommand => "a command is missing",
            _ => first.strip_prefix("error: ").unwrap_or(first),
        };
        let failure = Failure::usage(message, "`bespoke help` lists commands and flags");
        let _ = Console::new(true, true).document(&failure.document());
    }
    ErrorKind::Usage.exit_code()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_internal_failure() {
        let failure = guard::<()>(|| panic!("the {} gave way", "floor")).unwrap_err();
        assert_eq!(failure.kind.code(), 70);
        assert!(failure.message.contains("the floor gave way"), "{failure}");
        assert!(failure.help.contains("report"));
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_takes_its_value_either_way_and_in_trtexecs_spelling() {
        let read = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| format!("{cli:?}"));
        let canonical =
            read("bespoke run m.onnx --opt-shapes x:1 --cuda-graph off --specialize static")
                .unwrap();
        for line in [
            "bespoke run m.onnx --opt-shapes=x:1 --cuda-graph=off --specialize=static",
            "bespoke run --optShapes=x:1 --cudaGraph=off --specializeStrategyDS=static m.onnx",
        ] {
            assert_eq!(read(line).unwrap(), canonical, "{line}");
        }
        assert!(
            read("bespoke run m.onnx --specialize static").is_err(),
            "static needs shapes"
        );
        assert!(read("bespoke run m.onnx --shapes x:1y2").is_err());
    }
}
