//! `bespoke run`: run a model some times and report each run.
//!
//! One line a run says what adapting means in numbers: which shape, how long, how many kernels were generic and how many
//! were made for the shape, and whether the run was a recorded graph.

use bespoke::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bespoke::ir::{Constant, SymbolTable, TensorType};
use bespoke::onnx::{ImportOptions, import, write_tensor_file};
use bespoke::runtime::{ArithmeticUse, Event, GraphUse, RunOptions, RunReport, Session, Tensor};
use clap::Args;
use serde::Serialize;

use crate::console::{Console, micros};
use crate::failure::Failure;
use crate::inputs::{Given, Port, Wanted, resolve};
use crate::npy;
use crate::options::{CostOptions, SessionOptions};
use crate::replay::{self, Pace, Requests};
use crate::session::{CacheReport, Workplace, constant, tensor};
use crate::shapes::{Dims, Shapes, show};
use crate::sight::{Sight, SightOptions};
use crate::times::median;
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
    #[arg(long, alias = "runs", value_name = "K", default_value_t = 10, conflicts_with = "shape_trace",
          value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
    /// Seed of the random inputs
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Write inputs and outputs there, as .npy and as .pb (the layout of ONNX test data)
    #[arg(long, alias = "saveOutput", value_name = "DIR")]
    output: Option<PathBuf>,
    /// After the first run of each shape, wait until its specialised kernels are in service
    #[arg(long)]
    wait_specialized: bool,
    /// Run the shapes of this trace, in its order
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["input", "output"])]
    shape_trace: Option<PathBuf>,
    /// With --shape-trace: whether to keep the times at which its requests came
    #[arg(long, value_enum, default_value = "asap", requires = "shape_trace")]
    pace: Pace,
    /// With --shape-trace: inputs are on the device before the first run, and outputs stay there
    #[arg(long, alias = "noDataTransfers", requires = "shape_trace")]
    no_transfers: bool,
    /// Write the shapes of the runs there, as a trace for --shape-trace
    #[arg(long, value_name = "FILE.jsonl")]
    record_trace: Option<PathBuf>,
    /// Fail if a run that is not the first of its shape makes anything compile
    #[arg(long)]
    fail_on_recompile: bool,
    #[command(flatten)]
    session: SessionOptions,
    #[command(flatten)]
    cost: CostOptions,
    #[command(flatten)]
    sight: SightOptions,
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
    graph_reason: &'static str,
    bind_us: u64,
    record_us: u64,
    new_shape: bool,
    /// 0 is the generic program, 1 has kernels made for the shape, 2 a plan of its own.
    tier: u8,
    /// Graphs that the run consisted of.
    segments: usize,
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
    /// Of those, over runs that a plan of the shape's own served.
    median_second_tier_us: Option<u64>,
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
    /// What came of --arithmetic, a choice each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    arithmetic: Vec<ArithmeticUse>,
    runs: Vec<Run>,
    /// With --shape-trace: each shape, those that came most often first.
    #[serde(skip_serializing_if = "Option::is_none")]
    shapes: Option<Vec<replay::Row>>,
    /// With --pace recorded: by how much runs began later than their requests had come, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    late_us: Option<u64>,
    summary: Summary,
    outputs: Vec<Output>,
    /// Classes of shapes that have no program of their own, or none of the second tier, each with its reason.
    refused: Vec<warnings::Refusal>,
    /// The warnings of standard error.
    warnings: Vec<String>,
    /// Whether the device still works.
    healthy: bool,
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
    let flags = SessionOptions {
        cost: arguments.cost.clone(),
        ..arguments.session.clone()
    };
    flags.check()?;
    let model = import(&arguments.model, &ImportOptions::segmented())?;
    for note in &model.notes {
        console.note(note);
    }
    let wanted = Wanted {
        files: arguments.input.clone(),
        shapes: Shapes(arguments.shapes.iter().flat_map(|s| s.0.clone()).collect()),
        dims: Dims(arguments.dims.iter().flat_map(|d| d.0.clone()).collect()),
        seed: arguments.seed,
        shapes_by: None,
    };
    // A wrong command line is said before a device is opened or anything is compiled.
    let graph = &model.graph;
    let ports = Port::of(graph);
    let names: Vec<String> = ports.iter().map(|p| p.name.to_owned()).collect();
    let requests = match &arguments.shape_trace {
        None => None,
        Some(path) => Some(Requests::read(path, &ports, &graph.symbols, &wanted)?),
    };
    let inputs = match requests {
        None => resolve(&ports, &graph.symbols, &wanted)?,
        Some(_) => Vec::new(),
    };
    let tensors: Vec<Tensor> = inputs.iter().map(|c| tensor(c)).collect::<Result<_, _>>()?;
    let folder = arguments.output.as_deref();
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::file(folder, "make the folder", &error))?;
    }

    let record = arguments.record_trace.as_deref();
    let sight = Sight::open(&arguments.sight, record, arguments.fail_on_recompile)?;

    let place = Workplace::open(&flags, console)?;
    console.note(format_args!("device: {}", place.words));
    let types: Vec<TensorType> = ports.iter().map(|p| p.ty.clone()).collect();
    let symbols = model.graph.symbols.clone();
    let session = place.session(model, sight.feeds(), console)?;
    let arithmetic = session.arithmetic();
    let mut runs = Runs {
        place: &place,
        session: &session,
        names: &names,
        arguments,
        reports: Vec::new(),
        outputs: Vec::new(),
        late_us: None,
    };
    let ended = match &requests {
        None => runs.repeat(&tensors, console),
        Some(requests) => {
            let ports = names.iter().zip(&types);
            let ports: Vec<Port<'_>> = ports.map(|(name, ty)| Port { name, ty }).collect();
            runs.replay(requests, &ports, &symbols, console)
        }
    };
    let Runs {
        reports,
        outputs,
        late_us,
        ..
    } = runs;
    // What befell the session is told before the error that it may have led to.
    let (events, stats, healthy) = (session.events(), session.stats(), session.is_healthy());
    drop(session);
    let sighted = sight.finish();
    let mut told = warnings::of_session(&events, stats.events_dropped);
    told.extend(sighted.told);
    for line in &told {
        console.warn(line);
    }
    told.extend(place.tell_cache(console));
    ended?;
    let late = arguments
        .fail_on_recompile
        .then(|| sighted.recompiles.failure());
    let refused = refused(&events).or(late.flatten());
    let shapes = requests.map(|_| replay::rows(&reports));

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
        arithmetic,
        summary: summary(&reports),
        runs: reports.iter().map(describe).collect(),
        shapes,
        late_us,
        outputs: shown,
        refused: warnings::refusals(&events),
        warnings: told,
        healthy,
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

/// The runs under way.
struct Runs<'a> {
    place: &'a Workplace,
    session: &'a Session,
    names: &'a [String],
    arguments: &'a Arguments,
    /// A report for each run.
    reports: Vec<RunReport>,
    /// The outputs of the last.
    outputs: Vec<(String, Tensor)>,
    late_us: Option<u64>,
}

impl Runs<'_> {
    fn once(&mut self, tensors: &[Tensor], new: bool, console: &Console) -> Result<(), Failure> {
        let names = self.names.iter().map(String::as_str);
        let given: Vec<(&str, &Tensor)> = names.zip(tensors).collect();
        let result = self.session.run(&given)?;
        self.outputs = result.outputs;
        self.report(result.report, new, console)
    }

    fn report(&mut self, report: RunReport, new: bool, console: &Console) -> Result<(), Failure> {
        self.reports.push(report);
        if new && self.arguments.wait_specialized {
            self.wait(console)?;
        }
        Ok(())
    }

    /// The same inputs again and again, a line each.
    fn repeat(&mut self, tensors: &[Tensor], console: &mut Console) -> Result<(), Failure> {
        let count = self.arguments.iterations;
        let bar = console.progress(u64::from(count), "running");
        for index in 0..count {
            self.once(tensors, index == 0, console)?;
            if let Some(report) = self.reports.last() {
                bar.suspend(|| console.line(line(index + 1, report)))?;
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        self.settle(console)
    }

    /// The requests of a trace.
    fn replay(
        &mut self,
        requests: &Requests,
        ports: &[Port<'_>],
        symbols: &SymbolTable,
        console: &Console,
    ) -> Result<(), Failure> {
        let pace = self.arguments.pace;
        let bar = console.progress(requests.len() as u64, "replaying");
        let late = if self.arguments.no_transfers {
            let session = self.session;
            requests.replay_placed(session, ports, symbols, pace, |bindings, new| {
                let report = session.run_into(bindings, &RunOptions::default())?;
                bar.inc(1);
                self.report(report, new, console)
            })?
        } else {
            requests.replay(ports, symbols, pace, |tensors, new| {
                bar.inc(1);
                self.once(tensors, new, console)
            })?
        };
        bar.finish_and_clear();
        self.late_us = (pace == Pace::Recorded).then_some(late);
        self.settle(console)
    }

    /// Compiling for a target is part of what was asked for, and a verdict on compiles needs all of them, so the process
    /// does not end before they are done.
    fn settle(&self, console: &Console) -> Result<(), Failure> {
        if self.arguments.session.place.target.is_some() || self.arguments.fail_on_recompile {
            self.wait(console)?;
        }
        Ok(())
    }

    fn wait(&self, console: &Console) -> Result<(), Failure> {
        if self.place.wait(self.session, PATIENCE, console) {
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
}

/// Kernels that were asked for and did not compile. The runs themselves went on with those that were there.
fn refused(events: &[Event]) -> Option<Failure> {
    let message = warnings::uncompiled(events)?;
    let help = "`bespoke doctor` shows which compiler is used; --specialize none without --target needs none";
    Some(Failure::new(ErrorKind::Compile, message, help))
}

fn describe(report: &RunReport) -> Run {
    Run {
        shape: report.shape.clone(),
        latency_us: report.latency_us,
        generic_kernels: report.generic_kernels,
        specialized_kernels: report.specialized_kernels,
        graph: graph_word(&report.graph),
        graph_reason: report.graph_reason.code(),
        bind_us: report.bind_us,
        record_us: report.record_us,
        new_shape: report.new_shape,
        tier: report.tier,
        segments: report.segments,
    }
}

fn line(number: u32, report: &RunReport) -> String {
    let mut text = format!(
        "run {number:>3}  {}  {:>9}  kernels {} generic, {} specialised  graph {}",
        report.shape,
        micros(report.latency_us),
        report.generic_kernels,
        report.specialized_kernels,
        graph_word(&report.graph),
    );
    if report.segments != 1 {
        text.push_str(&format!(" in {} segments", report.segments));
    }
    if report.tier == 2 {
        text.push_str("  second tier");
    }
    if report.record_us > 0 {
        text.push_str(&format!(" in {}", micros(report.record_us)));
    }
    if report.new_shape {
        text.push_str(&format!("  new shape, bound in {}", micros(report.bind_us)));
    }
    text
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
    let second = later.iter().filter(|r| r.tier == 2);
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
        median_second_tier_us: median(second.map(|r| r.latency_us)),
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
    if let Some(shapes) = &document.shapes {
        replay::show(shapes, console)?;
    }
    if let Some(late) = document.late_us {
        console.line(format_args!(
            "pace: runs began {} late at most",
            micros(late)
        ))?;
    }
    let s = &document.summary;
    let part = |word: &str, time: Option<u64>| {
        time.map_or_else(String::new, |time| format!(", {word} {}", micros(time)))
    };
    console.line(format_args!(
        "{} runs: first {}, median {}{}{}{}, min {}, max {}",
        s.runs,
        micros(s.first_us),
        micros(s.median_us),
        part("median on generic kernels", s.median_generic_us),
        part("median on specialised kernels", s.median_specialized_us),
        part("median on the second tier", s.median_second_tier_us),
        micros(s.min_us),
        micros(s.max_us)
    ))?;
    console.line(format_args!(
        "graph: {} recorded, {} replayed, {} launched kernel by kernel",
        s.recorded, s.replayed, s.launched
    ))?;
    let p = &document.session;
    console.line(format_args!(
        "programs: {} installed{}{}{}, {} evicted, {} refused",
        p.installs,
        many(p.second_tiers, "of the second tier", " (", ")"),
        many(p.refined_installs, "with timed tiles", " (", ")"),
        many(p.borrowed, "borrowed", ", ", ""),
        p.evictions,
        p.rejects
    ))?;
    let c = &document.compile;
    console.line(format_args!(
        "compile: {} kernels compiled in {} of compiler time{}, {} from the cache{}, {} failed",
        c.compiled,
        micros(c.compile_micros),
        many(c.stretched, "stretched", " (", ")"),
        c.cache_hits,
        many(c.replayed, "replayed from it", " and ", ""),
        c.failed
    ))?;
    console.line(format_args!("cache: {}", document.cache.line()))
}

/// `(3 stretched)`, or nothing if there are none.
fn many(count: u64, what: &str, before: &str, after: &str) -> String {
    match count {
        0 => String::new(),
        _ => format!("{before}{count} {what}{after}"),
    }
}
