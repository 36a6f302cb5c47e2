//! Whole models under every strategy, with and without graphs, from a cold cache and from a warm one.
//!
//! What must not change a result is compared bit by bit: whether a run is a graph, whether its kernels were compiled or
//! found, and which of the strategies with the same kernels chose them. Specialised kernels may round otherwise than
//! generic ones; their results are held to the bounds that `bespoke check` has for the element type.
//!
//! On the host device every kernel is its twin, and kernels are compiled for an architecture beside that, where there is
//! NVRTC: that shows the decisions, the cache and this suite itself to be right. The host runs all cases of the small
//! encoder only: the recogniser's kernels compile for minutes on a few processors.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bespoke_cache::CacheConfig;
use bespoke_device::Device;
use bespoke_host::{HostDevice, HostOptions};
use bespoke_ir::DType;
use bespoke_runtime::{
    CompileService, EventKind, GraphMode, GraphUse, RunReport, ServiceOptions, Session,
    SessionOptions, Tensor,
};

use crate::ensure;
use crate::models::{BERT, Inputs, Model, RECOGNISER};
use crate::rig::{Outcome, Rig};

/// What the host device compiles for.
const TARGET: &str = "sm_89";
/// Compiling all kernels of a model takes seconds; a machine under load may need more.
const PATIENCE: Duration = Duration::from_secs(300);
/// Runs a shape after its first; the fastest is the steady one.
const STEADY_RUNS: usize = 5;
/// Shapes of a model that every case runs: the one that `static` tunes for, and another.
const SHAPES: usize = 2;
const STRATEGIES: [&str; 6] = ["none", "eager", "lazy", "ranges", "divisible", "static"];
/// Those of them whose first run at a shape may be generic.
const BACKGROUND: [&str; 3] = ["lazy", "ranges", "divisible"];

/// Every case on the small encoder.
pub(crate) fn encoder_agrees_under_every_strategy(rig: &Rig) -> Outcome {
    agrees(rig, &BERT)
}

/// Every case on the recogniser.
pub(crate) fn recogniser_agrees_under_every_strategy(rig: &Rig) -> Outcome {
    agrees(rig, &RECOGNISER)
}

/// One graph at ten shapes of the small encoder.
pub(crate) fn one_graph_serves_ten_shapes_of_the_encoder(rig: &Rig) -> Outcome {
    one_graph(rig, &BERT)
}

/// One graph at ten shapes of the recogniser.
pub(crate) fn one_graph_serves_ten_shapes_of_the_recogniser(rig: &Rig) -> Outcome {
    one_graph(rig, &RECOGNISER)
}

/// Specialisation that changes no bit, on the small encoder.
pub(crate) fn bits_of_the_encoder_are_stable(rig: &Rig) -> Outcome {
    bits_are_stable(rig, &BERT)
}

/// Specialisation that changes no bit, on the recogniser.
pub(crate) fn bits_of_the_recogniser_are_stable(rig: &Rig) -> Outcome {
    bits_are_stable(rig, &RECOGNISER)
}

/// How a model is run.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Case {
    strategy: &'static str,
    graph: GraphMode,
    warm: bool,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let graph = match self.graph {
            GraphMode::Whole => "whole",
            GraphMode::Chain => "chain",
            GraphMode::Off => "off",
        };
        let cache = if self.warm { "warm" } else { "cold" };
        write!(f, "{:<9} {graph:<5} {cache:<4}", self.strategy)
    }
}

/// What a case computed at one shape.
struct Seen {
    case: Case,
    /// Index among the model's shapes.
    shape: usize,
    /// Kernels of the first run that serve every shape.
    generic_at_first: usize,
    first: Outputs,
    /// What every run gave after the strategy had what it wants.
    steady: Outputs,
}

type Outputs = Vec<(String, Tensor)>;

/// The device to run on: the rig's, or a host that compiles beside running, if it shall and there is a compiler.
fn device(rig: &Rig, compiling: bool) -> Result<Arc<dyn Device>, String> {
    if rig.device.needs_cubin() || rig.nvrtc.is_none() || !compiling {
        return Ok(rig.device.clone());
    }
    let target = TARGET
        .parse()
        .map_err(|_| format!("{TARGET} is no architecture"))?;
    Ok(HostDevice::new(HostOptions {
        threads: 2,
        target: Some(target),
        poison: true,
    }))
}

fn service(folder: &tempfile::TempDir) -> Result<Arc<CompileService>, String> {
    CompileService::new(ServiceOptions {
        cache: CacheConfig::at(folder.path()),
        workers: std::thread::available_parallelism().ok().map(usize::from),
        ..ServiceOptions::default()
    })
    .map_err(|e| e.to_string())
}

fn folder() -> Result<tempfile::TempDir, String> {
    tempfile::tempdir().map_err(|e| format!("no folder for a cache: {e}"))
}

fn load(
    model: &Model,
    device: Arc<dyn Device>,
    service: Arc<CompileService>,
    strategy: &str,
    cuda_graph: GraphMode,
) -> Result<Session, String> {
    let opt_shapes = if strategy == "static" {
        let inputs = (model.inputs)(model.shapes[0])?;
        let shape = |(name, tensor): &(&str, Tensor)| ((*name).to_owned(), tensor.dims().to_vec());
        inputs.iter().map(shape).collect()
    } else {
        Vec::new()
    };
    let options = SessionOptions {
        strategy: strategy.into(),
        opt_shapes,
        cuda_graph,
        ..SessionOptions::default()
    };
    Session::load(&model.file()?, device, service, options).map_err(|e| e.to_string())
}

fn run(session: &Session, inputs: &Inputs) -> Result<(Outputs, RunReport), String> {
    let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (*n, t)).collect();
    let result = session.run(&inputs).map_err(|e| e.to_string())?;
    Ok((result.outputs, result.report))
}

/// Graphs that were made, all of them beside the path of runs.
fn records(session: &Session) -> Result<usize, String> {
    let mut count = 0;
    for event in session.events() {
        if let EventKind::Record { on_path, class, .. } = event.kind {
            ensure!(!on_path, "a run had to wait for the graph of class {class}");
            count += 1;
        }
    }
    Ok(count)
}

/// Every program that the strategy wanted could be made.
fn none_refused(session: &Session) -> Outcome {
    for event in session.events() {
        if let EventKind::Reject { class, reason, .. } = event.kind {
            return Err(format!("class {class} has no program: {reason}"));
        }
    }
    Ok(())
}

fn digest(outputs: &Outputs) -> String {
    let mut hasher = blake3::Hasher::new();
    for (_, tensor) in outputs {
        hasher.update(tensor.bytes());
    }
    hasher.finalize().to_hex().as_str()[..12].to_owned()
}

/// Largest difference of two runs' outputs and how much of what `bespoke check` allows that is, at the worst element.
fn difference(actual: &Outputs, expected: &Outputs) -> Result<(f64, f64), String> {
    let (mut largest, mut excess) = (0.0_f64, 0.0_f64);
    for ((name, a), (_, e)) in actual.iter().zip(expected) {
        ensure!(
            a.dtype() == e.dtype() && a.dims() == e.dims(),
            "{name}: {} {:?} against {} {:?}",
            a.dtype(),
            a.dims(),
            e.dtype(),
            e.dims()
        );
        let (a, e, dtype) = (a.to_f64(), e.to_f64(), e.dtype());
        let max = e.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        for (a, e) in a.iter().zip(&e) {
            ensure!(a.is_finite() && e.is_finite(), "{name}: {a} against {e}");
            let by = (a - e).abs();
            let allowed = match dtype {
                DType::F32 | DType::F64 => 1e-4 * max + 1e-3 * e.abs(),
                ty if ty.is_float() => 2e-2 * max,
                _ => 0.0,
            };
            largest = largest.max(by);
            if by > 0.0 {
                excess = excess.max(by / allowed);
            }
        }
    }
    Ok((largest, excess))
}

fn same(what: &str, actual: &Outputs, expected: &Outputs) -> Outcome {
    let bytes = |o: &Outputs| -> Vec<Vec<u8>> { o.iter().map(|(_, t)| t.bytes().into()).collect() };
    if bytes(actual) == bytes(expected) {
        return Ok(());
    }
    let (by, _) = difference(actual, expected)?;
    Err(format!(
        "{what}: the bits differ, by {by:.3e} at most ({} against {})",
        digest(actual),
        digest(expected)
    ))
}

/// Runs one case at the first [`SHAPES`] shapes and prints a row for each.
fn run_case(
    model: &Model,
    device: &Arc<dyn Device>,
    cache: &tempfile::TempDir,
    case: Case,
) -> Result<Vec<Seen>, String> {
    let service = service(cache)?;
    let session = load(
        model,
        device.clone(),
        service.clone(),
        case.strategy,
        case.graph,
    )?;
    let kernels = session.plan().steps.len();
    let graph = match case.graph {
        GraphMode::Whole | GraphMode::Chain => GraphUse::Replayed,
        GraphMode::Off => GraphUse::Off,
    };
    let mut all = Vec::new();
    let (mut before, mut graphs) = (bespoke_runtime::CompileStats::default(), 0);
    for shape in 0..SHAPES {
        let inputs = (model.inputs)(model.shapes[shape])?;
        let clock = Instant::now();
        let (first, start) = run(&session, &inputs)?;
        let first_ms = clock.elapsed().as_secs_f64() * 1e3;
        ensure!(
            session.wait_specialized(PATIENCE),
            "kernels are still compiling after {} s",
            PATIENCE.as_secs()
        );
        let (steady, mut report) = run(&session, &inputs)?;
        for _ in 1..STEADY_RUNS {
            let (outputs, again) = run(&session, &inputs)?;
            same("a later run of the shape", &outputs, &steady)?;
            report.latency_us = report.latency_us.min(again.latency_us);
        }
        none_refused(&session)?;
        let (now, made) = (service.stats(), records(&session)?);
        println!(
            "    {case} {:<18} {first_ms:>9.2} {:>9.3} {:>8} {:>6} {:>7} {:>9} {:>9} {}",
            start.shape.split(',').next().unwrap_or_default(),
            report.latency_us as f64 / 1e3,
            now.compiled - before.compiled,
            now.cache_hits - before.cache_hits,
            made - graphs,
            format!("{}+{}", start.generic_kernels, start.specialized_kernels),
            format!("{}+{}", report.generic_kernels, report.specialized_kernels),
            digest(&steady)
        );
        (before, graphs) = (now, made);

        ensure!(
            (start.graph, report.graph) == (graph, graph),
            "graphs: {:?}, then {:?}",
            start.graph,
            report.graph
        );
        let generic = (report.generic_kernels, report.specialized_kernels);
        let wanted = match case.strategy {
            "none" => (kernels, 0),
            _ => (0, kernels),
        };
        ensure!(generic == wanted, "kernels: {generic:?}, not {wanted:?}");
        if !BACKGROUND.contains(&case.strategy) {
            let generic = (start.generic_kernels, start.specialized_kernels);
            ensure!(
                generic == wanted,
                "kernels of the first run: {generic:?}, not {wanted:?}"
            );
            same("the first run and later ones", &first, &steady)?;
        }
        all.push(Seen {
            case,
            shape,
            generic_at_first: start.generic_kernels,
            first,
            steady,
        });
    }
    let stats = service.stats();
    ensure!(
        stats.failed == 0,
        "{} kernels did not compile",
        stats.failed
    );
    if device.target().is_some() {
        let found = (stats.compiled > 0, stats.cache_hits > 0);
        ensure!(
            found == (!case.warm, case.warm),
            "{} kernels were compiled and {} came from the cache",
            stats.compiled,
            stats.cache_hits
        );
    }
    Ok(all)
}

fn agrees(rig: &Rig, model: &Model) -> Outcome {
    println!(
        "    strategy  graph cache {:<17} {:>9} {:>9} {:>8} {:>6} {:>7} {:>9} {:>9} digest",
        "shape", "first ms", "steady ms", "compiled", "cached", "graphs", "first run", "later"
    );
    let mut all: Vec<Seen> = Vec::new();
    for strategy in STRATEGIES {
        for graph in [GraphMode::Whole, GraphMode::Off] {
            let cache = folder()?;
            // what is compiled does not depend on graphs, and these two show all that a host that only stores it can
            let compiling = graph == GraphMode::Whole && matches!(strategy, "eager" | "lazy");
            let device = device(rig, compiling)?;
            for warm in [false, true] {
                let case = Case {
                    strategy,
                    graph,
                    warm,
                };
                let seen = run_case(model, &device, &cache, case);
                all.extend(seen.map_err(|e| format!("{}, {case}: {e}", model.name))?);
            }
        }
    }
    for shape in 0..SHAPES {
        let at: Vec<&Seen> = all.iter().filter(|s| s.shape == shape).collect();
        compare(model, shape, &at)?;
    }
    // kernels take longer to compile than a run takes to choose a program
    let generic = |s: &Seen| s.case.strategy == "lazy" && !s.case.warm && s.generic_at_first > 0;
    ensure!(
        rig.nvrtc.is_none() || all.iter().any(generic),
        "no first run was generic under lazy"
    );
    Ok(())
}

/// Compares all cases at one shape.
fn compare(model: &Model, shape: usize, all: &[&Seen]) -> Outcome {
    let of = |strategy: &str| {
        let found = all.iter().find(|s| s.case.strategy == strategy);
        found.copied().ok_or(format!("{strategy} did not run"))
    };
    let (none, eager) = (of("none")?, of("eager")?);
    let shape = model.shapes[shape];
    for seen in all {
        let about = format!("{} at {shape:?}, {}", model.name, seen.case);
        let peer = of(seen.case.strategy)?;
        same(
            &format!("{about} and {}", peer.case),
            &seen.steady,
            &peer.steady,
        )?;
        if seen.case.strategy == "lazy" {
            same(&format!("{about} and eager"), &seen.steady, &eager.steady)?;
            // who the first run met is a race that compiling loses; the program it met decides its bits
            let (name, peer) = if seen.generic_at_first > 0 {
                ("none", none)
            } else {
                ("eager", eager)
            };
            same(
                &format!("{about}, its first run and {name}"),
                &seen.first,
                &peer.steady,
            )?;
        }
    }
    for strategy in &STRATEGIES[1..] {
        let (by, excess) = difference(&of(strategy)?.steady, &none.steady)?;
        println!(
            "    {} at {shape:?}: {strategy} and none differ by {by:.3e} at most, {:.1} % of what is allowed",
            model.name,
            100.0 * excess
        );
        if excess > 1.0 {
            return Err(format!(
                "{} at {shape:?}: {strategy} and none differ by {by:.3e}, {excess:.2} times what is allowed",
                model.name
            ));
        }
    }
    Ok(())
}

/// Specialised kernels that keep the order of sums, change no bit.
fn bits_are_stable(rig: &Rig, model: &Model) -> Outcome {
    let device = device(rig, false)?;
    let cache = folder()?;
    let service = service(&cache)?;
    let open = |strategy: &str| {
        let options = SessionOptions {
            strategy: strategy.into(),
            bit_stable: true,
            ..SessionOptions::default()
        };
        Session::load(&model.file()?, device.clone(), service.clone(), options)
            .map_err(|e| e.to_string())
    };
    let (none, eager) = (open("none")?, open("eager")?);
    for shape in &model.shapes[..SHAPES] {
        let inputs = (model.inputs)(*shape)?;
        let (generic, _) = run(&none, &inputs)?;
        let (specialised, report) = run(&eager, &inputs)?;
        none_refused(&eager)?;
        ensure!(report.generic_kernels == 0, "the run was not specialised");
        let what = format!("{} at {shape:?}, bit-stable and generic", model.name);
        same(&what, &specialised, &generic)?;
        println!("    {what}: {}", digest(&specialised));
    }
    Ok(())
}

/// One graph, recorded at load, serves every shape and gives what single launches give.
fn one_graph(rig: &Rig, model: &Model) -> Outcome {
    let device = device(rig, false)?;
    let cache = folder()?;
    let service = service(&cache)?;
    let open = |graph| load(model, device.clone(), service.clone(), "none", graph);
    let (whole, off) = (open(GraphMode::Whole)?, open(GraphMode::Off)?);
    ensure!(records(&whole)? == 1, "loading makes one graph");
    for shape in model.shapes {
        let inputs = (model.inputs)(shape)?;
        let (replayed, report) = run(&whole, &inputs)?;
        let (launched, _) = run(&off, &inputs)?;
        ensure!(
            report.graph == GraphUse::Replayed && report.new_shape,
            "{} at {shape:?}: the graph was {:?}",
            model.name,
            report.graph
        );
        same(
            &format!("{} at {shape:?}, as a graph and not", model.name),
            &replayed,
            &launched,
        )?;
    }
    let stats = whole.stats();
    let shapes = model.shapes.len() as u64;
    ensure!(
        (stats.runs, stats.shapes, stats.graph_replayed) == (shapes, shapes, shapes),
        "{} runs, {} shapes, {} replayed",
        stats.runs,
        stats.shapes,
        stats.graph_replayed
    );
    ensure!(
        (stats.graph_recorded, records(&whole)?) == (0, 1),
        "graphs were made after loading"
    );
    let stats = off.stats();
    ensure!(
        (stats.graph_off, records(&off)?) == (shapes, 0),
        "a session without graphs made one"
    );
    println!(
        "    {}: recorded once, replayed at {shapes} shapes of {} steps",
        model.name,
        whole.plan().steps.len()
    );
    Ok(())
}
