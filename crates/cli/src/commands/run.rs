//! `bespoke run`: run a model some times and report each run.
//!
//! One line a run says what adapting means in numbers: which shape, how long, how many kernels were generic and how many
//! were made for the shape, and whether the run was a recorded graph.

use bespoke::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bespoke::ir::Constant;
use bespoke::onnx::{ImportOptions, import, write_tensor_file};
use bespoke::runtime::{Event, GraphUse, RunReport, Session, Tensor};
use clap::Args;
use serde::Serialize;

use crate::console::{Console, micros};
use crate::failure::Failure;
use crate::inputs::{Given, Port, Wanted, resolve};
use crate::npy;
use crate::options::SessionOptions;
use crate::session::{CacheReport, Workplace, constant, tensor};
use crate::shapes::{Dims, Shapes, show};
use crate::warnings;

/// Run a model and report each run
///
/// Inputs that are not given are filled with random numbers from --seed: floats around 0, integers 0 or 1. Extents that the
/// model leaves open come from files, --shapes or --dims.
///
/// Prints one line a run: shape, latency, how many kernels were generic and how many specialised, and whether the run was
/// a recorded graph; then medians and what was compiled.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The ONNX file, or a folder that holds model.onnx
    model: PathBuf,
    /// Content of an input, from a NumPy or ONNX tensor file; may be given several times
    #[arg(long, value_name = "NAME=FILE")]
    input: Vec<Given>,
    /// Shapes of inputs: NAME:1x3x48x320,… (as trtexec and Polygraphy write them; `*` in a name stands for any part)
    #[arg(long, alias = "input-shapes", value_name = "SHAPES")]
    shapes: Vec<Shapes>,
    /// Extents of the model's symbols: N=8,S=128 ('*=1' for all that are not given)
    #[arg(long, value_name = "DIMS")]
    dims: Vec<Dims>,
    /// How often to run
    #[arg(long, alias = "runs", value_name = "K", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
    /// Seed of the random inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Write inputs and outputs there, as .npy and as .pb (the layout of ONNX test data)
    #[arg(long, alias = "saveOutput", value_name = "DIR")]
    output: Option<PathBuf>,
    /// After the first run, wait until its specialised kernels are in service
    #[arg(long)]
    wait_specialized: bool,
    #[command(flatten)]
    session: SessionOptions,
}

/// The longest that `--wait-specialized` waits.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Serialize)]
struct Run {
    shape: String,
    latency_us: u64,
    generic_kernels: usize,
    specialized_kernels: usize,
    graph: &'static str,
    bind_us: u64,
    record_us: u64,
    new_shape: bool,
}

#[derive(Default, Serialize)]
struct Summary {
    runs: usize,
    first_us: u64,
    median_us: u64,
    min_us: u64,
    max_us: u64,
    /// Over runs after the first in which some kernel was generic.
    median_generic_us: Option<u64>,
    /// Over runs after the first in which all kernels were specialised.
    median_specialized_us: Option<u64>,
    recorded: usize,
    replayed: usize,
    launched: usize,
}

#[derive(Serialize)]
struct Output {
    name: String,
    dtype: &'static str,
    dims: Vec<i64>,
    npy: Option<PathBuf>,
    pb: Option<PathBuf>,
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    version: &'static str,
    model: &'a Path,
    device: &'a str,
    strategy: &'a str,
    runs: Vec<Run>,
    summary: Summary,
    outputs: Vec<Output>,
    /// Classes of shapes that have no program of their own, each with its reason.
    refused: Vec<warnings::Refusal>,
    /// The warnings of standard error.
    warnings: Vec<String>,
    session: bespoke::runtime::Stats,
    compile: bespoke::runtime::CompileStats,
    cache: CacheReport,
    exit_code: u8,
}

fn graph_word(graph: &GraphUse) -> &'static str {
    match graph {
        GraphUse::Recorded => "recorded",
        GraphUse::Replayed => "replayed",
        GraphUse::Off => "off",
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, console: &mut Console) -> Result<u8, Failure> {
    arguments.session.check()?;
    let model = import(&arguments.model, &ImportOptions::default())?;
    for note in &model.notes {
        console.note(note);
    }
    let wanted = Wanted {
        files: arguments.input.clone(),
        shapes: Shapes(arguments.shapes.iter().flat_map(|s| s.0.clone()).collect()),
        dims: Dims(arguments.dims.iter().flat_map(|d| d.0.clone()).collect()),
        seed: arguments.seed,
    };
    // A wrong command line is said before a device is opened or anything is compiled.
    let graph = &model.graph;
    let ports: Vec<Port<'_>> = graph
        .inputs()
        .iter()
        .map(|&v| Port {
            name: &graph.value(v).name,
            ty: graph.ty(v),
        })
        .collect();
    let names: Vec<String> = ports.iter().map(|p| p.name.to_owned()).collect();
    let inputs = resolve(&ports, &graph.symbols, &wanted)?;
    let tensors: Vec<Tensor> = inputs.iter().map(|c| tensor(c)).collect::<Result<_, _>>()?;
    let folder = arguments.output.as_deref();
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::file(folder, "make the folder", &error))?;
    }

    let place = Workplace::open(&arguments.session, console)?;
    console.note(format_args!("device: {}", place.words));
    let session = place.session(model.graph)?;
    let given: Vec<(&str, &Tensor)> = names.iter().map(String::as_str).zip(&tensors).collect();
    let ended = repeat(&session, &given, arguments, console);
    // What befell the session is told before the error that it may have led to.
    let (events, stats) = (session.events(), session.stats());
    let mut told = warnings::of_session(&events, stats.events_dropped);
    for line in &told {
        console.warn(line);
    }
    told.extend(place.tell_cache(console));
    let (reports, outputs) = ended?;
    let refused = refused(&events);

    let shown = outputs
        .iter()
        .enumerate()
        .map(|(index, (name, tensor))| output(folder, index, name, &*constant(tensor)?))
        .collect::<Result<Vec<_>, Failure>>()?;
    if let Some(folder) = folder {
        for (index, (name, input)) in names.iter().zip(&inputs).enumerate() {
            write_tensor_file(&folder.join(format!("input_{index}.pb")), name, input)?;
        }
    }
    let document = Document {
        schema_version: 1,
        version: env!("CARGO_PKG_VERSION"),
        model: &arguments.model,
        device: &place.words,
        strategy: &arguments.session.specialize.word,
        summary: summary(&reports),
        runs: reports.iter().map(describe).collect(),
        outputs: shown,
        refused: warnings::refusals(&events),
        warnings: told,
        session: stats,
        compile: place.service.stats(),
        cache: CacheReport::of(place.service.cache()),
        exit_code: if refused.is_some() {
            ErrorKind::Compile.exit_code()
        } else {
            0
        },
    };
    conclude(&document, console)?;
    if console.json {
        console.document(&document)?;
    }
    refused.map_or(Ok(0), Err)
}

/// A report for each run, and the outputs of the last.
type Ran = (Vec<RunReport>, Vec<(String, Tensor)>);

/// The runs themselves, a line each.
fn repeat(
    session: &Session,
    given: &[(&str, &Tensor)],
    arguments: &Arguments,
    console: &mut Console,
) -> Result<Ran, Failure> {
    let mut reports = Vec::new();
    let mut outputs = Vec::new();
    let bar = console.progress(u64::from(arguments.iterations), "running");
    for index in 0..arguments.iterations {
        let result = session.run(given)?;
        bar.suspend(|| console.line(line(index + 1, &result.report)))?;
        bar.inc(1);
        reports.push(result.report);
        outputs = result.outputs;
        if index == 0 && arguments.wait_specialized {
            wait(session)?;
        }
    }
    bar.finish_and_clear();
    if arguments.session.place.target.is_some() {
        // Compiling for the target is part of what was asked for, so the process does not end before it is done.
        wait(session)?;
    }
    Ok((reports, outputs))
}

/// Kernels that were asked for and did not compile. The runs themselves went on with those that were there.
fn refused(events: &[Event]) -> Option<Failure> {
    let message = warnings::uncompiled(events)?;
    let help = "`bespoke doctor` shows which compiler is used; --specialize none without --target needs none";
    Some(Failure::new(ErrorKind::Compile, message, help))
}

fn wait(session: &Session) -> Result<(), Failure> {
    if session.wait_specialized(PATIENCE) {
        return Ok(());
    }
    let message = format!(
        "the specialised kernels were not ready after {} s",
        PATIENCE.as_secs()
    );
    Err(Failure::new(
        ErrorKind::Timeout,
        message,
        "leave --wait-specialized away, or use --specialize none",
    ))
}

fn describe(report: &RunReport) -> Run {
    Run {
        shape: report.shape.clone(),
        latency_us: report.latency_us,
        generic_kernels: report.generic_kernels,
        specialized_kernels: report.specialized_kernels,
        graph: graph_word(&report.graph),
        bind_us: report.bind_us,
        record_us: report.record_us,
        new_shape: report.new_shape,
    }
}

fn line(number: u32, report: &RunReport) -> String {
    let mut text = format!(
        "run {number:>3}  {}  {:>9}  kernels {} generic, {} specialised  graph {}",
        report.shape,
        micros(report.latency_us),
        report.generic_kernels,
        report.specialized_kernels,
        graph_word(&report.graph)
    );
    if report.record_us > 0 {
        text.push_str(&format!(" in {}", micros(report.record_us)));
    }
    if report.new_shape {
        text.push_str(&format!("  new shape, bound in {}", micros(report.bind_us)));
    }
    text
}

/// The middle of the times, the lower one of two.
fn median(times: impl Iterator<Item = u64>) -> Option<u64> {
    let mut times: Vec<u64> = times.collect();
    times.sort_unstable();
    times.get(times.len().saturating_sub(1) / 2).copied()
}

/// The first run pays for what later ones have, so it has a row of its own.
fn summary(reports: &[RunReport]) -> Summary {
    let times = || reports.iter().map(|r| r.latency_us);
    let later = reports.get(1..).unwrap_or_default();
    let of = |generic: bool| {
        median(
            later
                .iter()
                .filter(|r| (r.generic_kernels > 0) == generic)
                .map(|r| r.latency_us),
        )
    };
    let graphs = |word| {
        reports
            .iter()
            .filter(|r| graph_word(&r.graph) == word)
            .count()
    };
    Summary {
        runs: reports.len(),
        first_us: times().next().unwrap_or(0),
        median_us: median(times()).unwrap_or(0),
        min_us: times().min().unwrap_or(0),
        max_us: times().max().unwrap_or(0),
        median_generic_us: of(true),
        median_specialized_us: of(false),
        recorded: graphs("recorded"),
        replayed: graphs("replayed"),
        launched: graphs("off"),
    }
}

/// Writes an output if there is a folder for it.
fn output(
    folder: Option<&Path>,
    index: usize,
    name: &str,
    tensor: &Constant,
) -> Result<Output, Failure> {
    let mut shown = Output {
        name: name.to_owned(),
        dtype: tensor.dtype().name(),
        dims: tensor.dims().to_vec(),
        npy: None,
        pb: None,
    };
    if let Some(folder) = folder {
        let pb = folder.join(format!("output_{index}.pb"));
        write_tensor_file(&pb, name, tensor)?;
        shown.pb = Some(pb);
        shown.npy = Some(npy::write(
            &folder.join(format!("output_{index}.npy")),
            tensor,
        )?);
    }
    Ok(shown)
}

fn conclude(document: &Document<'_>, console: &mut Console) -> Result<(), Failure> {
    for output in &document.outputs {
        let place = output
            .npy
            .as_ref()
            .map_or_else(String::new, |path| format!(" in {}", path.display()));
        console.line(format_args!(
            "output {}: {} {}{place}",
            output.name,
            output.dtype,
            show(&output.dims)
        ))?;
    }
    let s = &document.summary;
    let part = |word: &str, time: Option<u64>| {
        time.map_or_else(String::new, |time| format!(", {word} {}", micros(time)))
    };
    console.line(format_args!(
        "{} runs: first {}, median {}{}{}, min {}, max {}",
        s.runs,
        micros(s.first_us),
        micros(s.median_us),
        part("median on generic kernels", s.median_generic_us),
        part("median on specialised kernels", s.median_specialized_us),
        micros(s.min_us),
        micros(s.max_us)
    ))?;
    console.line(format_args!(
        "graph: {} recorded, {} replayed, {} launched kernel by kernel",
        s.recorded, s.replayed, s.launched
    ))?;
    let p = &document.session;
    console.line(format_args!(
        "programs: {} installed, {} evicted, {} refused",
        p.installs, p.evictions, p.rejects
    ))?;
    let c = &document.compile;
    console.line(format_args!(
        "compile: {} kernels compiled in {} of compiler time, {} from the cache, {} failed",
        c.compiled,
        micros(c.compile_micros),
        c.cache_hits,
        c.failed
    ))?;
    console.line(format_args!("cache: {}", document.cache.line()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_time_that_occurred() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([3].into_iter()), Some(3));
        assert_eq!(median([9, 1].into_iter()), Some(1));
        assert_eq!(median([9, 1, 5].into_iter()), Some(5));
    }
}
