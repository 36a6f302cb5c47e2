//! What only a GPU can show, as one executable that needs neither Rust nor cargo.
//!
//! `gpu [--require-gpu] [--seeds N] [--list] [NAME…]` runs the tests whose names contain one of the given texts (all
//! without any): the device contract, every kernel template against its host twin, and whole models under every strategy,
//! first on the host device and then on the GPU. It prints one line a test and a summary, and exits with 1 if a test
//! failed. A machine without a GPU or NVRTC skips what needs them and says why; with `--require-gpu` that is a failure.
//! A test of a model that is not there is skipped and says how to get the model.
//!
//! NVRTC is looked for as everywhere: `BESPOKE_NVRTC`, Python environments, `/usr/local/cuda`, the system.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod contract;
mod edges;
mod flows;
mod kernels;
mod models;
mod refusals;
mod rig;
mod strategies;
mod templates;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use bespoke_cuda::CudaDevice;
use bespoke_host::{HostDevice, HostOptions};
use bespoke_jit::{Nvrtc, SearchPlan};

use rig::{Outcome, Rig};

/// A test and where it runs.
struct Test {
    name: &'static str,
    /// Whether it makes sense on the host device too.
    host: bool,
    /// The model it needs.
    model: Option<&'static models::Model>,
    run: fn(&Rig) -> Outcome,
}

macro_rules! tests {
    ($host:literal, $model:expr; $($module:ident :: { $($name:ident),* $(,)? })*) => {
        &[$($(Test {
            name: concat!(stringify!($module), "::", stringify!($name)),
            host: $host,
            model: $model,
            run: $module::$name,
        }),*),*]
    };
}

/// What runs on every device. A new template is added here and in `templates.rs`.
const SHARED: &[Test] = tests!(true, None; contract::{
    bytes_come_back,
    a_write_takes_the_bytes_at_once,
    copies_stay_on_the_device,
    too_much_memory_is_a_typed_error,
    launches_run_in_order,
    one_graph_serves_many_extents,
    launches_of_a_long_graph_can_be_replaced,
    a_replaced_kernel_may_go,
    a_kernel_of_other_clusters_is_right_but_not_fast,
} edges::{
    branches_meet_again,
    a_kernel_that_starts_early_waits,
    kernels_between_programmatic_edges_can_be_replaced,
    edges_that_lead_nowhere_are_refused,
} contract::{
    an_empty_graph_does_nothing,
    an_arena_grows_in_place,
    streams_are_independent,
    marks_measure_the_work_between_them,
    a_block_may_use_all_its_shared_memory,
    impossible_geometry_is_refused_and_forgotten,
    null_tensors_of_no_length_are_fine,
} refusals::{
    a_missing_driver_is_a_message,
} kernels::{
    they_compile_for_every_architecture,
} templates::{
    pointwise,
    gemm,
    conv,
    conv_transpose,
    pool,
    reduce,
    softmax,
    normalize,
    cumsum,
    group,
    arg_reduce,
    attention,
    topk,
    gather,
    scatter,
    resize,
    pad,
    ints,
} flows::{
    rounds_and_branches,
});

/// What concerns the GPU alone.
const GPU: &[Test] = tests!(false, None; refusals::{
    bad_images_are_refused_by_name,
    an_image_for_another_card_is_refused,
    things_of_another_device_are_refused,
    a_stray_write_loses_the_device_cleanly,
});

/// What runs the small encoder.
const ENCODER: &[Test] = tests!(true, Some(&models::BERT); strategies::{
    encoder_agrees_under_every_strategy,
    one_graph_serves_ten_shapes_of_the_encoder,
    bits_of_the_encoder_are_stable,
});

/// What runs the recogniser.
const RECOGNISER: &[Test] = tests!(true, Some(&models::RECOGNISER); strategies::{
    one_graph_serves_ten_shapes_of_the_recogniser,
    bits_of_the_recogniser_are_stable,
});

/// What runs the recogniser and compiles too much for a machine without a GPU.
const RECOGNISER_ON_GPU: &[Test] = tests!(false, Some(&models::RECOGNISER); strategies::{
    recogniser_agrees_under_every_strategy,
});

/// What was asked for on the command line.
#[derive(Default)]
struct Options {
    require_gpu: bool,
    list: bool,
    seeds: u64,
    child: Option<String>,
    names: Vec<String>,
}

fn options(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        seeds: 4,
        ..Options::default()
    };
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let mut value = |of: &str| arguments.next().ok_or(format!("{of} needs a value"));
        match argument.as_str() {
            "--require-gpu" => options.require_gpu = true,
            "--list" => options.list = true,
            "--seeds" => {
                let text = value("--seeds")?;
                options.seeds = text
                    .parse()
                    .map_err(|_| format!("--seeds {text} is no number"))?;
            }
            "--child" => options.child = Some(value("--child")?),
            // what `cargo test` hands to every test executable
            "--nocapture" | "--no-capture" | "--quiet" | "-q" | "--show-output"
            | "--include-ignored" | "--exact" => {}
            "--test-threads" | "--format" | "--color" => drop(value(&argument)?),
            other if other.starts_with("--test-threads=") || other.starts_with("--format=") => {}
            other if other.starts_with("--color=") => {}
            other if other.starts_with('-') => return Err(format!("unknown option {other}")),
            _ => options.names.push(argument),
        }
    }
    Ok(options)
}

/// The host device.
fn host() -> Rig {
    let device = HostDevice::new(HostOptions {
        threads: 2,
        poison: true,
        ..HostOptions::default()
    });
    Rig {
        device,
        nvrtc: Nvrtc::load(&SearchPlan::from_env(&[])).ok(),
        cubin: None,
        seeds: 1,
    }
}

/// The first GPU with the contract's kernels, or why it cannot be used.
fn gpu(seeds: u64) -> Result<Rig, String> {
    let device = CudaDevice::open(0, None).map_err(|e| e.to_string())?;
    let nvrtc = Nvrtc::load(&SearchPlan::from_env(&[])).map_err(|e| e.to_string())?;
    let arch = device
        .target()
        .ok_or("the GPU names no architecture")?
        .to_string();
    let cubin = kernels::compile(&nvrtc, &arch)?;
    Ok(Rig {
        device,
        nvrtc: Some(nvrtc),
        cubin: Some(cubin),
        seeds,
    })
}

/// Runs one test; a panic is a failure of it alone.
fn run(test: &Test, rig: &Rig) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| (test.run)(rig))).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|w| (*w).to_owned()));
        Err(format!("it panicked: {}", words.unwrap_or_default()))
    })
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    if let Some(child) = &options.child {
        return match refusals::run_child(child, || gpu(1)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    let wanted = |name: &str| {
        options.names.is_empty() || options.names.iter().any(|n| name.contains(n.as_str()))
    };
    let mut tests: Vec<(bool, String, &Test)> = Vec::new();
    for on_gpu in [false, true] {
        let all = [SHARED, ENCODER, RECOGNISER, RECOGNISER_ON_GPU, GPU]
            .into_iter()
            .flatten();
        for test in all.filter(|t| on_gpu || t.host) {
            let name = format!("{}::{}", if on_gpu { "cuda" } else { "host" }, test.name);
            if wanted(&name) {
                tests.push((on_gpu, name, test));
            }
        }
    }
    if options.list {
        tests
            .iter()
            .for_each(|(_, name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let host = host();
    let gpu = gpu(options.seeds);
    match &gpu {
        Ok(rig) => {
            let props = rig.device.props();
            println!("on {}, {}, driver {}", props.name, props.arch, props.driver);
        }
        Err(reason) if options.require_gpu => eprintln!("error: {reason}"),
        Err(_) => {}
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (on_gpu, name, test) in tests {
        let rig = match (&gpu, on_gpu) {
            (_, false) => &host,
            (Ok(rig), true) => rig,
            (Err(reason), true) if !options.require_gpu => {
                println!("skipped: {name}: {reason}");
                skipped += 1;
                continue;
            }
            (Err(_), true) => {
                println!("{name} ... FAILED");
                failed += 1;
                continue;
            }
        };
        if let Some(Err(reason)) = test.model.map(models::Model::file) {
            println!("skipped: {name}: {reason}");
            skipped += 1;
            continue;
        }
        let start = Instant::now();
        match run(test, rig) {
            Ok(()) => {
                println!("{name} ... ok ({:.2} s)", start.elapsed().as_secs_f64());
                passed += 1;
            }
            Err(reason) => {
                println!("{name} ... FAILED\n    {reason}");
                failed += 1;
            }
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {word}. {passed} passed; {failed} failed; {skipped} skipped");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
