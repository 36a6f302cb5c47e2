//! What the tests of this package run in processes of their own: `faults SCENARIO [ARGUMENT…]`.
//!
//! A scenario sets a script, uses the library as anybody could, and looks at the books. It fails by a panic, which is the
//! process's exit status; a session that does not come to an end ends the process, and says where it was.
//!
//! The environment names the stand-in: `BESPOKE_LIBCUDA`, `BESPOKE_NVRTC` and `BESPOKE_STANDIN` for driver, compiler and
//! controls, `LD_PRELOAD` for the file system.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a scenario prints is what its test shows when it fails"
)]

mod compiler;
mod device;
mod disk;
mod lifetime;
mod rig;
mod standin;
mod sweep;

use std::process::ExitCode;

/// A scenario takes the arguments behind its name.
type Scenario = fn(&[String]);

macro_rules! scenarios {
    ($($module:ident :: { $($name:ident),* $(,)? })*) => {
        &[$($((stringify!($name), $module::$name as Scenario),)*)*]
    };
}

const SCENARIOS: &[(&str, Scenario)] = scenarios! {
    sweep::{
        an_ordinary_failure_of_any_call,
        out_of_memory_at_any_call,
        a_lost_device_at_any_call,
    }
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let name = arguments.first().map_or("", String::as_str);
    let Some((_, scenario)) = SCENARIOS.iter().find(|(n, _)| *n == name) else {
        eprintln!("no scenario `{name}`");
        return ExitCode::from(2);
    };
    rig::watch_panics();
    scenario(&arguments[1..]);
    assert_eq!(rig::panics(), 0, "a thread panicked");
    ExitCode::SUCCESS
}
