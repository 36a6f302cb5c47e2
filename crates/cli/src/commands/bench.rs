//! `bespoke bench`: time a model.
//!
//! The flags, the axes that they span, and the order in which things are measured; the measuring itself is in the module
//! `bench`. Names are those that users of trtexec know, in either spelling.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bespoke::ErrorKind;
use bespoke::onnx::{ImportOptions, import};
use clap::{Args, ValueEnum};
use tempfile::TempDir;

use crate::arithmetic::ArithmeticOptions;
use crate::bench::measure::{CacheState, Effort, Round};
use crate::bench::points::{self, Asked, Points};
use crate::bench::profile;
use crate::bench::report::{Document, Exports, text};
use crate::console::Console;
use crate::failure::Failure;
use crate::inputs::{Given, Port};
use crate::options::{
    CacheMode, CacheOptions, CostOptions, Graphs, PlaceOptions, Programmatic, Refine,
    SessionOptions, Size, Strategy,
};
use crate::shapes::{Dims, Shapes};
use crate::sight::{Sight, SightOptions};

/// Time a model: what happens once, and the steady state
///
/// Measures every --shapes in turn, for every --specialize, --cuda-graph and --cache-state. Load, first run, compile,
/// record and the wait for specialised kernels stand apart from the steady state, which is timed after the specialised
/// kernels are in service. A timed run is a synchronised one; inputs and outputs stay on the device, unless --transfers is
/// given. Inputs that are not given are filled with floats within ±0.175 and integers 1.
///
/// A warning says why a number cannot be trusted; it does not change the exit code.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The ONNX file, or a folder that holds model.onnx
    model: PathBuf,
    /// A shape to measure: NAME:1x3x48x320,…; several times for several shapes, one after the other in one session
    #[arg(long, alias = "input-shapes", value_name = "SHAPES")]
    shapes: Vec<Shapes>,
    /// Least shapes: every other shape must be at least as large
    #[arg(long, alias = "minShapes", value_name = "SHAPES")]
    min_shapes: Option<Shapes>,
    /// The shapes that --specialize static tunes for; measured if there is no --shapes [default: the first --shapes]
    #[arg(long, alias = "optShapes", value_name = "SHAPES")]
    opt_shapes: Option<Shapes>,
    /// Largest shapes: every other shape must be at most as large
    #[arg(long, alias = "maxShapes", value_name = "SHAPES")]
    max_shapes: Option<Shapes>,
    /// Extents of the model's symbols: N=8,S=128 ('*=1' for all that are not given)
    #[arg(long, value_name = "DIMS")]
    dims: Vec<Dims>,
    /// Content of an input, from a NumPy or ONNX tensor file; may be given several times
    #[arg(long, value_name = "NAME=FILE")]
    input: Vec<Given>,
    /// Seed of the inputs' content
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    #[command(flatten)]
    effort: EffortOptions,
    #[command(flatten)]
    exports: ExportOptions,
    #[command(flatten)]
    sight: SightOptions,
    #[command(flatten)]
    place: PlaceOptions,
    /// Strategies to measure
    #[arg(
        long,
        value_name = "STRATEGY",
        value_delimiter = ',',
        default_value = "lazy",
        alias = "specializeStrategyDS",
        help_heading = "Device and strategy"
    )]
    specialize: Vec<Strategy>,
    /// Neither remember the shapes that occur nor begin with the programs of those that occurred before
    #[arg(long, help_heading = "Device and strategy")]
    no_learn: bool,
    /// Specialise without changing the order of any sum, so that a swap changes no bit of a result
    #[arg(long, help_heading = "Device and strategy")]
    bit_stable: bool,
    /// Whether tiles are timed before the timed runs: auto (as the strategy says, on a GPU), off, or a number, which is on
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "auto",
        help_heading = "Device and strategy"
    )]
    refine: Refine,
    #[command(flatten)]
    arithmetic: ArithmeticOptions,
    /// Limit on the device memory that a session holds, such as 512M or 2G [default: what the device has]
    #[arg(long, value_name = "SIZE", help_heading = "Device and strategy")]
    memory_limit: Option<Size>,
    /// Ways of running to measure: one recorded graph, or kernel by kernel
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "whole",
        alias = "cudaGraph",
        help_heading = "Device and strategy"
    )]
    cuda_graph: Vec<Graphs>,
    /// Whether a kernel of a graph may start while the one before it ends
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        help_heading = "Device and strategy"
    )]
    programmatic_launch: Programmatic,
    /// What the kernel cache holds at first, in a folder made for the measurement and removed after it
    /// [default: whatever is in the user's folder]
    #[arg(long, value_enum, alias = "cacheState", help_heading = "Kernel cache")]
    cache_state: Option<States>,
    #[command(flatten)]
    cost: CostOptions,
    #[command(flatten)]
    cache: CacheOptions,
}

/// How much is measured.
#[derive(Debug, Args)]
#[command(next_help_heading = "Measuring")]
struct EffortOptions {
    /// Timed runs of a measurement, at least
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
    /// Milliseconds of untimed runs before the timed ones, at least
    #[arg(long, alias = "warmUp", value_name = "MS", default_value = "300")]
    warm_up: Number,
    /// Seconds of timed runs, at least
    #[arg(long, value_name = "S", default_value = "3")]
    duration: Number,
    /// Seconds of timed runs after which a measurement ends with fewer --iterations, but not before the fifth run
    #[arg(long, alias = "maxDuration", value_name = "S")]
    max_duration: Option<Number>,
    /// Percentiles to report
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "P",
        default_value = "90,95,99"
    )]
    percentile: Vec<Percent>,
    /// Seconds to wait for specialised kernels, at most
    #[arg(long, value_name = "S", default_value = "600")]
    patience: Number,
    /// Inputs come from host memory and outputs go there, in every run
    #[arg(long)]
    transfers: bool,
}

/// Where results go besides standard output.
#[derive(Debug, Args)]
#[command(next_help_heading = "Results")]
struct ExportOptions {
    /// Write the document of --json there
    #[arg(long, alias = "exportJson", value_name = "FILE")]
    export_json: Option<PathBuf>,
    /// Write a Markdown table there
    #[arg(long, alias = "exportMarkdown", value_name = "FILE")]
    export_markdown: Option<PathBuf>,
    /// Write the time of every timed run there, as JSON
    #[arg(long, alias = "exportTimes", value_name = "FILE")]
    export_times: Option<PathBuf>,
    /// Also time every step, kernel by kernel, and show it (with --json: in the document)
    #[arg(long, alias = "dumpProfile")]
    dump_profile: bool,
    /// Also time every step, kernel by kernel, and write it there, as JSON
    #[arg(long, alias = "exportProfile", value_name = "FILE")]
    export_profile: Option<PathBuf>,
    /// Also measure what a run takes of the host, with the same pointers and with others
    #[arg(long)]
    host_time: bool,
}

/// `--cache-state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum States {
    /// Nothing
    Cold,
    /// Every kernel: the shapes are run once before, which is not measured
    Warm,
    /// First nothing, then what that left
    Both,
}

/// A number from 0 on.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Number(f64);

impl FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> Result<Number, String> {
        // A century is longer than anybody measures and still a valid span of time.
        match text.parse() {
            Ok(value) if (0.0..3e9).contains(&value) => Ok(Number(value)),
            _ => Err(format!("`{text}` is no time: write a number from 0 on")),
        }
    }
}

impl Number {
    fn seconds(self) -> Duration {
        Duration::from_secs_f64(self.0)
    }
}

/// A number in (0, 100].
#[derive(Clone, Copy, Debug, PartialEq)]
struct Percent(f64);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Percent, String> {
        match text.parse() {
            Ok(value) if value > 0.0 && value <= 100.0 => Ok(Percent(value)),
            _ => Err(format!(
                "`{text}` is no percentile: write a number above 0 and up to 100, such as 99"
            )),
        }
    }
}

impl Arguments {
    fn effort(&self) -> Effort {
        let effort = &self.effort;
        Effort {
            iterations: effort.iterations as usize,
            warm_up: Number(effort.warm_up.0 / 1e3).seconds(),
            duration: effort.duration.seconds(),
            max_duration: effort.max_duration.map(Number::seconds),
            percentiles: effort.percentile.iter().map(|p| p.0).collect(),
            patience: effort.patience.seconds(),
            transfers: effort.transfers,
            profile: self.exports.dump_profile || self.exports.export_profile.is_some(),
            host_time: self.exports.host_time,
        }
    }

    /// What no parser sees.
    fn check(&self) -> Result<(), Failure> {
        if self.cache_state.is_some() && self.cache.cache != CacheMode::Rw {
            return Err(Failure::usage(
                "--cache-state needs a cache that is read and written",
                "leave --cache away, or leave --cache-state away",
            ));
        }
        if self.cost.compile_cost.replays()
            && matches!(self.cache_state, Some(States::Cold | States::Both))
        {
            return Err(Failure::usage(
                "--compile-cost below 1 replays compiles from the kernel cache, and --cache-state cold has none",
                "measure with --cache-state warm, which fills the cache first",
            ));
        }
        for strategy in &self.specialize {
            self.flags(strategy, Graphs::Whole, &self.cache, &Shapes::default())
                .check()?;
        }
        Ok(())
    }

    /// The flags of a session.
    fn flags(
        &self,
        strategy: &Strategy,
        graph: Graphs,
        cache: &CacheOptions,
        opt: &Shapes,
    ) -> SessionOptions {
        SessionOptions {
            place: self.place.clone(),
            specialize: strategy.clone(),
            no_learn: self.no_learn,
            verify_swap: false,
            bit_stable: self.bit_stable,
            refine: self.refine,
            arithmetic: self.arithmetic,
            memory_limit: self.memory_limit,
            opt_shapes: strategy.takes_opt_shapes().then(|| opt.clone()),
            cuda_graph: graph,
            programmatic_launch: self.programmatic_launch,
            require_graph: false,
            error_on_cache_miss: false,
            cost: self.cost.clone(),
            cache: cache.clone(),
            workers: None,
        }
    }

    /// The points, of a model that is read for this alone.
    fn points(&self, console: &mut Console) -> Result<Points, Failure> {
        let model = import(&self.model, &ImportOptions::segmented())?;
        for note in &model.notes {
            console.note(note);
        }
        let graph = &model.graph;
        let ports = Port::of(graph);
        let asked = Asked {
            files: self.input.clone(),
            shapes: self.shapes.clone(),
            dims: Dims(self.dims.iter().flat_map(|d| d.0.clone()).collect()),
            seed: self.seed,
            min: self.min_shapes.clone(),
            opt: self.opt_shapes.clone(),
            max: self.max_shapes.clone(),
        };
        points::resolve(&ports, &graph.symbols, &asked)
    }

    /// An empty folder for a cache: in --cache-dir if it is given, so that one may choose the disk.
    fn folder(&self) -> Result<TempDir, Failure> {
        let near = self.cache.cache_dir.clone();
        let place = near.unwrap_or_else(std::env::temp_dir);
        let made = std::fs::create_dir_all(&place)
            .and_then(|()| tempfile::Builder::new().prefix("bench-").tempdir_in(&place));
        made.map_err(|error| Failure::file(&place, "make a folder in", &error))
    }
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, console: &mut Console) -> Result<u8, Failure> {
    arguments.check()?;
    let effort = arguments.effort();
    let points = arguments.points(console)?;
    let exports = Exports {
        json: arguments.exports.export_json.clone(),
        markdown: arguments.exports.export_markdown.clone(),
        times: arguments.exports.export_times.clone(),
        profile: arguments.exports.export_profile.clone(),
    };
    let sight = Sight::open(&arguments.sight, None, false)?;
    let mut bench = Bench {
        arguments,
        effort: &effort,
        points: &points,
        exports,
        sight: &sight,
        document: Document {
            schema_version: 1,
            version: env!("CARGO_PKG_VERSION"),
            model: &arguments.model,
            device: String::new(),
            measurements: Vec::new(),
            exit_code: 0,
        },
        refused: Vec::new(),
    };
    // A file that cannot be written is said before anything is measured.
    bench.exports.write(&bench.document)?;
    for strategy in &arguments.specialize {
        for &graph in &arguments.cuda_graph {
            bench.combination(strategy, graph, console)?;
        }
    }
    let failure = refused(&bench.refused);
    if let Some(failure) = &failure {
        bench.document.exit_code = failure.kind.code();
        bench.exports.write(&bench.document)?;
    }
    if console.json {
        console.document(&bench.document)?;
    }
    for line in sight.finish().told {
        console.warn(line);
    }
    failure.map_or(Ok(0), Err)
}

/// Kernels that were asked for and did not compile.
fn refused(reasons: &[String]) -> Option<Failure> {
    let first = reasons.first()?;
    let message = format!(
        "{} kernels could not be compiled, so that the numbers are those of other kernels. The first: {first}",
        reasons.len()
    );
    let help = "`bespoke doctor` shows which compiler is used; --specialize none without --target needs none";
    Some(Failure::new(ErrorKind::Compile, message, help))
}

/// A command at work.
struct Bench<'a> {
    arguments: &'a Arguments,
    effort: &'a Effort,
    points: &'a Points,
    exports: Exports,
    sight: &'a Sight,
    document: Document<'a>,
    refused: Vec<String>,
}

impl Bench<'_> {
    /// Every state of the cache for one strategy and one way of running.
    fn combination(
        &mut self,
        strategy: &Strategy,
        graph: Graphs,
        console: &mut Console,
    ) -> Result<(), Failure> {
        let arguments = self.arguments;
        let Some(states) = arguments.cache_state else {
            let flags = arguments.flags(strategy, graph, &arguments.cache, &self.points.opt);
            return self.round(flags, CacheState::Found, console);
        };
        let folder = arguments.folder()?;
        let cache = CacheOptions {
            cache_dir: Some(cache_folder(folder.path())),
            ..arguments.cache.clone()
        };
        let flags = arguments.flags(strategy, graph, &cache, &self.points.opt);
        if states == States::Warm {
            console.note(format_args!("filling the cache for {}", strategy.word));
            let round = Round {
                model: &arguments.model,
                // what fills the cache takes the time that it takes
                flags: SessionOptions {
                    cost: CostOptions::default(),
                    ..flags.clone()
                },
                cache: CacheState::Cold,
                effort: self.effort,
                feeds: self.sight.feeds(),
            };
            round.fill(self.points, console)?;
        } else {
            self.round(flags.clone(), CacheState::Cold, console)?;
        }
        if states != States::Cold {
            self.round(flags, CacheState::Warm, console)?;
        }
        folder.close().map_err(|error| {
            Failure::usage(
                format!("the cache made for the measurement stays: {error}"),
                "",
            )
        })
    }

    fn round(
        &mut self,
        flags: SessionOptions,
        cache: CacheState,
        console: &mut Console,
    ) -> Result<(), Failure> {
        let round = Round {
            model: &self.arguments.model,
            flags,
            cache,
            effort: self.effort,
            feeds: self.sight.feeds(),
        };
        let (document, exports) = (&mut self.document, &self.exports);
        let dump = self.arguments.exports.dump_profile;
        let refused = round.measure(self.points, console, |measurement, console| {
            if document.device.is_empty() {
                document.device.clone_from(&measurement.device);
                console.line(format_args!("device: {}", measurement.device))?;
            }
            console.line(text(&measurement))?;
            if let Some(profile) = measurement.profile.as_ref().filter(|_| dump) {
                console.line(profile::text(profile))?;
            }
            for warning in &measurement.warnings {
                console.warn(format_args!(
                    "{} ({}, graph {}, cache {}): {}: {}",
                    measurement.shape,
                    measurement.strategy.clone(),
                    measurement.graph,
                    measurement.cache.name(),
                    warning.code,
                    warning.text
                ));
            }
            document.measurements.push(measurement);
            exports.write(document)
        })?;
        self.refused.extend(refused);
        Ok(())
    }
}

/// The cache makes its folder itself, with the permissions that it wants.
fn cache_folder(folder: &Path) -> PathBuf {
    folder.join("cache")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_percentiles_are_read() {
        assert_eq!("0".parse(), Ok(Number(0.0)));
        assert_eq!("2.5".parse(), Ok(Number(2.5)));
        for text in ["", "-1", "nan", "inf", "1e30", "s"] {
            assert!(text.parse::<Number>().is_err(), "{text}");
        }
        assert_eq!("99.9".parse(), Ok(Percent(99.9)));
        for text in ["0", "-1", "100.1", "nan", "p99"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }
}
