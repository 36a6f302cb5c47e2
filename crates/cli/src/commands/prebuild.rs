//! `bespoke prebuild`: fill a folder with the kernels that a model needs on cards that are elsewhere.
//!
//! Kernels are compiled for an architecture, which needs NVRTC and no GPU. Which kernels those are is asked of the runtime
//! (`bespoke::runtime::prebuild`), so that a session on such a card looks up the same keys. The folder is a kernel cache
//! as any other, used as a read-only layer (`--cache-layer`).
//!
//! Tiles are chosen by the figures of a card, so that every row belongs to a card and not to an architecture alone; which
//! card was assumed is said before the table. Occupancy is arithmetic (`bespoke::device::occupancy`), not a measurement.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use bespoke::ErrorKind;
use bespoke::cache::{CacheConfig, Mode};
use bespoke::device::{Arch, BlockNeeds, DeviceProps, occupancy};
use bespoke::onnx::{ImportOptions, import};
use bespoke::runtime::service::{CompileError, Origin, Ready};
use bespoke::runtime::{CompileService, Prebuild, Serves, ServiceOptions, Wanted as Kernel};
use clap::Args;
use serde::Serialize;

use crate::arithmetic::{self, ArithmeticOptions};
use crate::console::{Console, bytes, micros};
use crate::failure::Failure;
use crate::inputs::{self, Port, Wanted};
use crate::options::Strategy;
use crate::session::no_threads;
use crate::shapes::{Dims, Shapes, show};

/// Compile a model's kernels for cards that are elsewhere, into a folder
///
/// For each target the kernels that serve every shape, those that prepare the weights, and for each --shapes those that a
/// session under --specialize asks for when it sees the shape. No GPU is needed; NVRTC is, unless the folder holds
/// everything already.
///
/// Tiles depend on the card: of each architecture one common card is assumed, which --card changes.
///
/// Use the folder with --cache-layer. The exit code is 6 if a kernel could not be compiled.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The ONNX file, or a folder that holds model.onnx
    model: PathBuf,
    /// Architectures: sm_89,sm_120
    #[arg(
        long,
        value_name = "sm_XX,…",
        value_delimiter = ',',
        required_unless_present = "card"
    )]
    target: Vec<Arch>,
    /// Cards by name, for their architectures: RTX 4090,L4
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    card: Vec<String>,
    /// Shapes of all inputs that are expected together: NAME:1x3x48x320,…; give it once for each such set
    #[arg(long, alias = "input-shapes", value_name = "SHAPES")]
    shapes: Vec<Shapes>,
    /// Extents of symbols that --shapes leaves open: N=8,S=128 ('*=1' for all that are not given)
    #[arg(long, value_name = "DIMS")]
    dims: Vec<Dims>,
    /// The strategy of the sessions to come: none, eager, lazy, static or another one that `bespoke run` takes
    #[arg(
        long,
        default_value = "eager",
        value_name = "STRATEGY",
        alias = "specializeStrategyDS"
    )]
    specialize: Strategy,
    /// For sessions with --bit-stable
    #[arg(long)]
    bit_stable: bool,
    #[command(flatten)]
    arithmetic: ArithmeticOptions,
    /// The folder to fill
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

/// A card to compile for.
struct Target {
    props: DeviceProps,
    /// The card is of another architecture than the target.
    borrowed: bool,
}

/// A kernel on a card.
#[derive(Serialize)]
struct Row {
    key: String,
    spec: String,
    /// `every`, `setup`, or the numbers of shapes from 1 on.
    serves: Vec<String>,
    steps: usize,
    threads: u32,
    registers: u32,
    static_shared_bytes: u32,
    dynamic_shared_bytes: u32,
    spill_store_bytes: u32,
    spill_load_bytes: u32,
    blocks_per_multiprocessor: u32,
    limited_by: &'static str,
    occupancy_permille: u32,
    compile_us: u64,
    bytes: u64,
    compiled_now: bool,
}

/// A kernel that is not in the folder.
#[derive(Serialize)]
struct Lacking {
    key: String,
    spec: String,
    reason: String,
}

#[derive(Serialize)]
struct Totals {
    kernels: usize,
    compiled: usize,
    failed: usize,
    spilling: usize,
    bytes: u64,
    /// Of NVRTC's threads, also for kernels that were compiled earlier.
    compile_us: u64,
}

#[derive(Serialize)]
struct TargetDocument {
    arch: String,
    card: String,
    multiprocessors: u32,
    kernels: Vec<Row>,
    failed: Vec<Lacking>,
    totals: Totals,
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    version: &'static str,
    model: &'a Path,
    output: &'a Path,
    specialize: &'a str,
    bit_stable: bool,
    arithmetic: String,
    shapes: Vec<String>,
    targets: Vec<TargetDocument>,
    exit_code: u8,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, console: &mut Console) -> Result<u8, Failure> {
    let targets = targets(arguments, console)?;
    let model = import(&arguments.model, &ImportOptions::default())?;
    for note in &model.notes {
        console.note(note);
    }
    let shapes = sets(arguments, &model.graph)?;
    let prebuild = Prebuild::new(model.graph, arguments.arithmetic.arithmetic)?;
    let strategy = &arguments.specialize.strategy;
    for target in &targets {
        arithmetic::tell(&prebuild.arithmetic(target.props.arch), console);
    }
    let plans = targets
        .into_iter()
        .map(|target| {
            let kernels =
                prebuild.kernels(&target.props, strategy, arguments.bit_stable, &shapes)?;
            Ok((target, kernels))
        })
        .collect::<Result<Vec<_>, bespoke::Error>>()?;
    for (number, set) in shapes.iter().enumerate() {
        let own = |kernel: &Kernel| kernel.serves.contains(&Serves::Shape(number));
        if !plans.iter().any(|(_, kernels)| kernels.iter().any(own)) {
            console.note(format_args!(
                "{}: the strategy `{}` asks for no kernels for this shape",
                spell(set),
                arguments.specialize.word
            ));
        }
    }
    // Everything that may be wrong with the command line has been said before the folder is made.
    let service = open(&arguments.output)?;
    let mut documents = Vec::new();
    let mut first: Option<CompileError> = None;
    for (target, kernels) in plans {
        let answers = compile(&service, &kernels, console);
        let failure = answers.iter().find_map(|answer| answer.as_ref().err());
        first = first.or_else(|| failure.cloned());
        documents.push(describe(&service, &target, &kernels, &answers)?);
        if let Some(document) = documents.last() {
            table(&target, document, console)?;
        }
    }
    let lacking: usize = documents.iter().map(|d| d.failed.len()).sum();
    let failure = first.map(|error| failure(lacking, &error));
    console.line(format_args!(
        "{}: use it with --cache-layer {0}",
        arguments.output.display()
    ))?;
    if console.json {
        console.document(&Document {
            schema_version: 1,
            version: env!("CARGO_PKG_VERSION"),
            model: &arguments.model,
            output: &arguments.output,
            specialize: &arguments.specialize.word,
            bit_stable: arguments.bit_stable,
            arithmetic: arguments.arithmetic.arithmetic.to_string(),
            shapes: shapes.iter().map(spell).collect(),
            targets: documents,
            exit_code: failure.as_ref().map_or(0, |f| f.kind.code()),
        })?;
    }
    failure.map_or(Ok(0), Err)
}

/// The cards that the flags mean: for each target the cards named for it, or else the common one.
fn targets(arguments: &Arguments, console: &mut Console) -> Result<Vec<Target>, Failure> {
    let mut cards = Vec::new();
    for name in &arguments.card {
        let card = DeviceProps::card(name).ok_or_else(|| {
            let known: Vec<&str> = DeviceProps::cards().iter().map(|(name, _)| *name).collect();
            let help = format!(
                "the cards are {}; --target takes any architecture",
                known.join(", ")
            );
            Failure::usage(format!("--card: no card is known as `{name}`"), help)
        })?;
        cards.push(card);
    }
    let mut targets: Vec<Target> = Vec::new();
    for &asked in &arguments.target {
        // What a card of this architecture asks for: with its own instructions where there are any.
        let arch = Arch::of_card(asked.number / 10, asked.number % 10);
        if arch != asked {
            console.note(format_args!(
                "{asked}: cards of this architecture ask for kernels for {arch}"
            ));
        }
        if cards.iter().any(|card| card.arch == arch) {
            continue;
        }
        let props = DeviceProps::preset(arch);
        let known = DeviceProps::cards();
        let borrowed = !known.iter().any(|(_, of)| *of == arch);
        targets.push(Target { props, borrowed });
    }
    targets.extend(cards.into_iter().map(|props| Target {
        props,
        borrowed: false,
    }));
    targets.sort_by_key(|target| target.props.arch);
    targets.dedup_by(|a, b| a.props == b.props);
    Ok(targets)
}

type Set = Vec<(String, Vec<i64>)>;

/// The sets of input shapes: one for each `--shapes`, or the one that `--dims` and the model leave.
fn sets(arguments: &Arguments, graph: &bespoke::ir::Graph) -> Result<Vec<Set>, Failure> {
    if arguments.specialize.word == "none" {
        if !arguments.shapes.is_empty() || !arguments.dims.is_empty() {
            return Err(Failure::usage(
                "--specialize none has no kernels for shapes",
                "leave --shapes and --dims away, or use --specialize eager",
            ));
        }
        return Ok(Vec::new());
    }
    let ports = Port::of(graph);
    let given = match arguments.shapes.as_slice() {
        [] => vec![Shapes::default()],
        given => given.to_vec(),
    };
    given
        .into_iter()
        .map(|shapes| {
            let wanted = Wanted {
                shapes,
                dims: Dims(arguments.dims.iter().flat_map(|d| d.0.clone()).collect()),
                ..Wanted::default()
            };
            let found = inputs::shapes(&ports, &graph.symbols, &wanted)?;
            let names = ports.iter().map(|port| port.name.to_owned());
            Ok(names.zip(found).collect())
        })
        .collect()
}

/// `x:1x3,mask:1`.
fn spell(set: &Set) -> String {
    let parts = set
        .iter()
        .map(|(name, dims)| format!("{name}:{}", show(dims)));
    parts.collect::<Vec<_>>().join(",")
}

/// A compile service whose cache is the folder and nothing else.
fn open(output: &Path) -> Result<Arc<CompileService>, Failure> {
    let service = CompileService::new(ServiceOptions {
        cache: CacheConfig {
            // nothing is evicted, and nothing is left out because another folder has it
            max_bytes: u64::MAX,
            max_entries: u64::MAX,
            ro_layers: Some(Vec::new()),
            ..CacheConfig::at(output)
        },
        workers: std::thread::available_parallelism().ok().map(usize::from),
        ..ServiceOptions::default()
    })
    .map_err(|error| no_threads(&error))?;
    unwritable(&service).map_or(Ok(service), Err)
}

/// Why the folder cannot be filled, if it cannot.
fn unwritable(service: &CompileService) -> Option<Failure> {
    let cache = service.cache();
    let reason = cache.reason().filter(|_| cache.mode() != Mode::Rw)?;
    Some(Failure::usage(
        format!("--output cannot be filled: {reason}"),
        "name a folder that is yours alone",
    ))
}

type Answer = Result<Ready, CompileError>;

/// Compiles what is not there yet, on all processors.
fn compile(service: &CompileService, kernels: &[Kernel], console: &Console) -> Vec<Answer> {
    let bar = console.progress(kernels.len() as u64, "compiling");
    let (send, receive) = mpsc::channel();
    for (index, kernel) in kernels.iter().enumerate() {
        let send = send.clone();
        service.submit(kernel.request.clone(), 0, move |answer| {
            // the receiver waits for every answer
            let _ = send.send((index, answer));
        });
    }
    drop(send);
    let mut answers: Vec<Option<Answer>> = vec![None; kernels.len()];
    for (index, answer) in receive {
        answers[index] = Some(answer);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let cancelled = |kernel: &Kernel| CompileError::Cancelled(kernel.request.name().to_owned());
    answers
        .into_iter()
        .zip(kernels)
        .map(|(answer, kernel)| answer.unwrap_or_else(|| Err(cancelled(kernel))))
        .collect()
}

/// What is in the folder for a card, and what is not.
fn describe(
    service: &CompileService,
    target: &Target,
    kernels: &[Kernel],
    answers: &[Answer],
) -> Result<TargetDocument, Failure> {
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for (kernel, answer) in kernels.iter().zip(answers) {
        match answer {
            Ok(ready) => rows.push(row(service, target, kernel, ready)?),
            Err(error) => failed.push(Lacking {
                key: kernel.request.key().to_string(),
                spec: kernel.request.name().to_owned(),
                reason: error.to_string(),
            }),
        }
    }
    let totals = Totals {
        kernels: kernels.len(),
        compiled: rows.iter().filter(|row| row.compiled_now).count(),
        failed: failed.len(),
        spilling: rows
            .iter()
            .filter(|row| row.spill_store_bytes + row.spill_load_bytes > 0)
            .count(),
        bytes: rows.iter().map(|row| row.bytes).sum(),
        compile_us: rows.iter().map(|row| row.compile_us).sum(),
    };
    Ok(TargetDocument {
        arch: target.props.arch.to_string(),
        card: target.props.name.trim_end_matches(" (preset)").to_owned(),
        multiprocessors: target.props.multiprocessors,
        kernels: rows,
        failed,
        totals,
    })
}

/// A row, from what the folder holds: a kernel that was compiled and could not be stored is a failure.
fn row(
    service: &CompileService,
    target: &Target,
    kernel: &Kernel,
    ready: &Ready,
) -> Result<Row, Failure> {
    let entry = match service.cache().inspect(&ready.key) {
        Ok(entry) => entry,
        Err(error) => return Err(unwritable(service).unwrap_or_else(|| error.into())),
    };
    // one source has one function
    let info = entry.metadata.kernels.first().cloned().unwrap_or_default();
    let found = occupancy(
        &target.props,
        &BlockNeeds {
            threads: kernel.threads,
            registers: info.registers,
            shared_bytes: info.shared_bytes.saturating_add(kernel.shared_bytes),
        },
    );
    let serves = kernel.serves.iter().map(|serves| match serves {
        Serves::Every => "every".to_owned(),
        Serves::Setup => "setup".to_owned(),
        Serves::Shape(number) => (number + 1).to_string(),
    });
    Ok(Row {
        key: ready.key.to_string(),
        spec: kernel.request.name().to_owned(),
        serves: serves.collect(),
        steps: kernel.steps,
        threads: kernel.threads,
        registers: info.registers,
        static_shared_bytes: info.shared_bytes,
        dynamic_shared_bytes: kernel.shared_bytes,
        spill_store_bytes: info.spill_store_bytes,
        spill_load_bytes: info.spill_load_bytes,
        blocks_per_multiprocessor: found.blocks,
        limited_by: found.limiter.name(),
        occupancy_permille: found.permille,
        compile_us: entry.metadata.compile_micros,
        bytes: entry.bytes,
        compiled_now: ready.origin == Origin::Compiled,
    })
}

fn table(target: &Target, document: &TargetDocument, console: &mut Console) -> Result<(), Failure> {
    let (arch, card) = (&document.arch, &document.card);
    let words = if target.borrowed {
        ", which is of an older architecture: no card of this one is listed"
    } else {
        ""
    };
    console.line(format_args!(
        "{arch}: tiles as on the {card} ({} multiprocessors){words}; another card may ask for others",
        document.multiprocessors
    ))?;
    console.line(format_args!(
        "{:<12}  {:<9}  {:>4}  {:>13}  {:>6}  {:>6}  {:>14}  {:>9}  kernel",
        "key", "for", "regs", "shared", "spills", "blocks", "occupancy", "compile"
    ))?;
    for row in &document.kernels {
        let shared = format!("{}+{}", row.static_shared_bytes, row.dynamic_shared_bytes);
        let spills = row.spill_store_bytes + row.spill_load_bytes;
        let share = format!(
            "{:.0} % {}",
            f64::from(row.occupancy_permille) / 10.0,
            row.limited_by
        );
        let key: String = row.key.chars().take(12).collect();
        console.line(format_args!(
            "{key:<12}  {:<9}  {:>4}  {shared:>13}  {spills:>6}  {:>6}  {share:>14}  {:>9}  {}",
            row.serves.join(","),
            row.registers,
            row.blocks_per_multiprocessor,
            micros(row.compile_us),
            row.spec
        ))?;
        if row.blocks_per_multiprocessor == 0 {
            console.warn(format_args!(
                "{arch}: the {card} cannot launch {key}: its blocks take more {} than there are",
                row.limited_by
            ));
        }
    }
    for lacking in &document.failed {
        let key: String = lacking.key.chars().take(12).collect();
        console.line(format_args!("{key:<12}  failed: {}", lacking.reason))?;
    }
    let totals = &document.totals;
    console.line(format_args!(
        "{arch}: {} kernels, {} compiled now, {} failed, {} spill, {} in the folder, {} of compiler time",
        totals.kernels,
        totals.compiled,
        totals.failed,
        totals.spilling,
        bytes(totals.bytes),
        micros(totals.compile_us)
    ))
}

fn failure(count: usize, first: &CompileError) -> Failure {
    let help = match first {
        CompileError::NoCompiler { .. } => {
            "install NVRTC, or name its library with BESPOKE_NVRTC; `bespoke doctor` shows what is found"
        }
        _ => "`bespoke doctor` shows which compiler is used and what it can compile for",
    };
    let message = match count {
        1 => format!("a kernel is not in the folder: {first}"),
        count => format!("{count} kernels are not in the folder. The first: {first}"),
    };
    Failure::new(ErrorKind::Compile, message, help)
}
