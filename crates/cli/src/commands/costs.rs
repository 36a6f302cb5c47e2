//! `bespoke costs`: what specialising costs and brings, kernel by kernel.
//!
//! For every kernel of a model at every shape: what compiling it takes, generic and specialised, what a launch takes with
//! either, and the least time in which the device could do the work. Kernels are compiled now, one at a time, so that no
//! compile waits for another; the kernel cache is not used unless it is asked for, and a time that it remembers is told
//! from one that was measured.

use std::path::PathBuf;

use bespoke::ErrorKind;
use bespoke::onnx::{ImportOptions, import};
use bespoke::runtime::service::CompileError;
use bespoke::runtime::{Costs, Session};
use clap::Args;

use crate::arithmetic::ArithmeticOptions;
use crate::bench::points::{self, Asked, Points};
use crate::console::Console;
use crate::costs::report::{Document, Exports, text, totals};
use crate::costs::table::Table;
use crate::costs::tiles;
use crate::failure::Failure;
use crate::inputs::{Given, Port};
use crate::options::{
    CacheMode, CacheOptions, CostOptions, Graphs, PlaceOptions, Programmatic, Refine,
    SessionOptions, Size,
};
use crate::placed::on_device;
use crate::shapes::{Dims, Shapes};

/// Measure what specialising costs and brings, for every kernel of a model
///
/// For every --shapes: what compiling each kernel takes, generic and specialised for the shape, what a launch takes with
/// either, the least time in which the device could do the work, and after how many runs a compile is paid. Kernels are
/// compiled for this, one at a time, whatever the kernel cache holds; without a GPU and without --target nothing is
/// compiled. Inputs that are not given are filled with floats within ±0.175 and integers 1.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The ONNX file, or a folder that holds model.onnx
    model: PathBuf,
    /// A shape to measure: NAME:1x3x48x320,…; several times for several shapes
    #[arg(long, alias = "input-shapes", value_name = "SHAPES")]
    shapes: Vec<Shapes>,
    /// Extents of the model's symbols: N=8,S=128 ('*=1' for all that are not given)
    #[arg(long, value_name = "DIMS")]
    dims: Vec<Dims>,
    /// Content of an input, from a NumPy or ONNX tensor file; may be given several times
    #[arg(long, value_name = "NAME=FILE")]
    input: Vec<Given>,
    /// Seed of the inputs' content
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Timed launches of every step with each kernel
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    launches: u32,
    /// Kernels compiled at the same time; more is faster, and each takes longer
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    workers: u32,
    /// Time so many tiles of every kind of step too, those that its cost model thinks best; each is a compile
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    tiles: Option<u32>,
    /// Write the document of --json there
    #[arg(
        long,
        alias = "exportJson",
        value_name = "FILE",
        help_heading = "Results"
    )]
    export_json: Option<PathBuf>,
    /// Write every row of every shape there, as CSV
    #[arg(
        long,
        alias = "exportCsv",
        value_name = "FILE",
        help_heading = "Results"
    )]
    export_csv: Option<PathBuf>,
    /// Write Markdown tables there
    #[arg(
        long,
        alias = "exportMarkdown",
        value_name = "FILE",
        help_heading = "Results"
    )]
    export_markdown: Option<PathBuf>,
    #[command(flatten)]
    place: PlaceOptions,
    /// Specialise without changing the order of any sum
    #[arg(long, help_heading = "Device and strategy")]
    bit_stable: bool,
    #[command(flatten)]
    arithmetic: ArithmeticOptions,
    /// Limit on the device memory that the session holds, such as 512M or 2G [default: what the device has]
    #[arg(long, value_name = "SIZE", help_heading = "Device and strategy")]
    memory_limit: Option<Size>,
    /// What the kernel cache may do; a kernel from it has the compile time that it remembers
    #[arg(long, value_enum, default_value = "off", help_heading = "Kernel cache")]
    cache: CacheMode,
    /// Folder of the kernel cache [default: $BESPOKE_CACHE_DIR, $XDG_CACHE_HOME/bespoke or ~/.cache/bespoke]
    #[arg(
        long,
        alias = "cacheDir",
        value_name = "DIR",
        help_heading = "Kernel cache"
    )]
    cache_dir: Option<PathBuf>,
    /// Folder of kernels to read besides the cache, never written; may be given several times
    /// [default: $BESPOKE_CACHE_LAYERS, separated as in $PATH]
    #[arg(long, value_name = "DIR", help_heading = "Kernel cache")]
    cache_layer: Vec<PathBuf>,
}

impl Arguments {
    /// The flags of the session: it never specialises by itself, and its runs are not graphs.
    fn flags(&self) -> Result<SessionOptions, Failure> {
        let internal = |error| Failure::new(ErrorKind::Internal, error, "please report it");
        Ok(SessionOptions {
            place: self.place.clone(),
            specialize: "none".parse().map_err(internal)?,
            opt_shapes: None,
            verify_swap: false,
            no_learn: true,
            bit_stable: self.bit_stable,
            refine: Refine::default(),
            arithmetic: self.arithmetic,
            memory_limit: self.memory_limit,
            cuda_graph: Graphs::Off,
            programmatic_launch: Programmatic::Off,
            require_graph: false,
            error_on_cache_miss: false,
            cost: CostOptions::default(),
            cache: CacheOptions {
                cache: self.cache,
                cache_dir: self.cache_dir.clone(),
                cache_layer: self.cache_layer.clone(),
                cache_max_size: None,
            },
            workers: Some(self.workers as usize),
        })
    }

    /// The shapes, with their inputs.
    fn points(&self, graph: &bespoke::ir::Graph) -> Result<Points, Failure> {
        let ports = Port::of(graph);
        let asked = Asked {
            files: self.input.clone(),
            shapes: self.shapes.clone(),
            dims: Dims(self.dims.iter().flat_map(|d| d.0.clone()).collect()),
            seed: self.seed,
            ..Asked::default()
        };
        points::resolve(&ports, &graph.symbols, &asked)
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, console: &mut Console) -> Result<u8, Failure> {
    let flags = arguments.flags()?;
    flags.check()?;
    let model = import(&arguments.model, &ImportOptions::default())?;
    for note in &model.notes {
        console.note(note);
    }
    // A wrong command line is said before a device is opened or anything is compiled.
    let points = arguments.points(&model.graph)?;
    let exports = Exports {
        json: arguments.export_json.clone(),
        csv: arguments.export_csv.clone(),
        markdown: arguments.export_markdown.clone(),
    };
    let place = crate::session::Workplace::open(&flags, console)?;
    let mut document = Document {
        schema_version: 1,
        version: env!("CARGO_PKG_VERSION"),
        model: &arguments.model,
        device: place.words.clone(),
        arch: place.device.target().map(|arch| arch.to_string()),
        workers: arguments.workers as usize,
        table: Table::new(place.device.needs_cubin()),
        notes: Vec::new(),
        exit_code: 0,
    };
    exports.write(&document)?;
    console.line(format_args!("device: {}", place.words))?;
    if document.arch.is_none() {
        let note =
            "nothing is compiled: the host runs without machine code, and no --target was given";
        document.notes.push(note.into());
    }
    if !document.table.timed_compiled {
        let note = "times are those of the host's own code, which is the same for every kernel of a step: gains mean \
                    nothing, and no compile pays; the floor is that of the card that is planned for";
        document.notes.push(note.into());
    }
    let session = place.session(model.graph, Vec::new(), console)?;
    let mut failure = None;
    for inputs in &points.inputs {
        let (bindings, _memory) = on_device(&session, inputs)?;
        let costs = session.costs(&bindings, arguments.launches as usize)?;
        explain(&costs, &mut document.notes, &mut failure);
        let at = document.table.add(shape(&session, inputs), &costs);
        if let Some(most) = arguments.tiles {
            let tiles =
                session.tile_costs(&bindings, arguments.launches as usize, most as usize)?;
            document.table.points[at].tiles = tiles::rows(&tiles);
        }
        let table = &document.table;
        console.line(text(&table.points[at], &table.kernels))?;
        exports.write(&document)?;
    }
    if let Some(line) = totals(&document.table) {
        console.line(line)?;
    }
    if document
        .table
        .kernels
        .iter()
        .any(|k| k.measured_now == Some(false))
    {
        let note = "some compile times are those that the kernel cache remembers; --cache off measures all";
        document.notes.push(note.into());
    }
    for note in &document.notes {
        console.note(note);
    }
    place.tell_cache(console);
    document.exit_code = failure.as_ref().map_or(0, |f: &Failure| f.kind.code());
    exports.write(&document)?;
    if console.json {
        console.document(&document)?;
    }
    failure.map_or(Ok(0), Err)
}

/// `x:1x3x48x320,…`.
fn shape(session: &Session, inputs: &[std::sync::Arc<bespoke::ir::Constant>]) -> String {
    let ports = session.inputs().iter().zip(inputs);
    let each =
        ports.map(|(p, tensor)| format!("{}:{}", p.name, crate::shapes::show(tensor.dims())));
    each.collect::<Vec<_>>().join(",")
}

/// Why compile times are missing: no compiler is a note, a kernel that does not compile is a failure, each told once.
fn explain(costs: &Costs, notes: &mut Vec<String>, failure: &mut Option<Failure>) {
    for kernel in &costs.kernels {
        let note = match &kernel.compile {
            Some(Err(CompileError::NoCompiler { reason, .. })) => {
                format!("nothing is compiled: {reason}")
            }
            Some(Err(error)) => {
                failure.get_or_insert_with(|| {
                    let help = "`bespoke doctor` shows which compiler is used";
                    Failure::new(ErrorKind::Compile, error.to_string(), help)
                });
                continue;
            }
            Some(Ok(_)) | None => continue,
        };
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
}
