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
    device::{
        a_driver_that_does_not_start_says_why,
        a_lost_device_says_why_and_stays_lost,
        a_card_that_nobody_knows_is_named,
        a_card_is_asked_for_kernels_of_another,
        two_cards_have_kernels_of_their_own,
        too_little_memory_for_a_large_shape_leaves_the_small_ones,
        many_sessions_leave_nothing_behind,
    }
    compiler::{
        without_a_compiler_the_search_is_told,
        a_refused_kernel_is_told_once_and_the_generic_one_serves,
        a_compile_without_end_stops_nobody,
        a_dropped_session_calls_off_what_nobody_else_waits_for,
        a_variant_that_cannot_be_installed_is_dropped,
        an_image_that_the_driver_refuses_is_compiled_again,
        an_image_newer_than_the_driver_is_told,
        many_shapes_keep_few_variants,
        two_shapes_in_turn_compile_once,
        the_process_ends_in_the_middle_of_a_compile,
    }
    lifetime::{
        threads_share_a_session,
        few_files_are_a_typed_error,
        a_forked_child_is_refused_the_driver,
    }
    disk::{
        any_file_call_may_fail,
        a_short_write_is_completed,
        the_folder_may_vanish,
        a_cold_start,
        a_writer,
        a_tiny_limit,
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
