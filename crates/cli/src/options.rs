//! Flags that several commands share: the device, the strategy, the cache.
//!
//! Every flag has one canonical spelling with hyphens; trtexec's camel-case spellings are accepted where it has the same
//! flag, so that a command line can be carried over.

use std::path::PathBuf;
use std::str::FromStr;

use bespoke::cache::{CacheConfig, Mode};
use bespoke::device::Arch;
use bespoke::policy::PRESETS;
use bespoke::runtime::{self, CompileCost};
use clap::{Args, ValueEnum};

use crate::arithmetic::ArithmeticOptions;
use crate::console::Console;
use crate::failure::Failure;
use crate::shapes::Shapes;

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A GPU if one works, else the processor.
    Auto,
    /// The processor.
    Host,
    /// The GPU of this number.
    Cuda(u32),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let wrong = || format!("`{text}` is no device: write auto, host, cuda or cuda:1");
        match (text, text.strip_prefix("cuda:")) {
            ("auto", _) => Ok(Place::Auto),
            ("host", _) => Ok(Place::Host),
            ("cuda", _) => Ok(Place::Cuda(0)),
            (_, Some(number)) if !number.starts_with('+') => {
                number.parse().map(Place::Cuda).map_err(|_| wrong())
            }
            _ => Err(wrong()),
        }
    }
}

/// `--cache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CacheMode {
    /// Read and write
    Rw,
    /// Read only: nothing is created, moved or deleted
    Ro,
    /// Neither: every kernel is compiled anew
    Off,
}

/// `--specialize`: the name of a strategy, or a file that describes one.
#[derive(Clone, Debug)]
pub(crate) struct Strategy {
    /// As it was written.
    pub(crate) word: String,
    /// What a session takes.
    pub(crate) strategy: runtime::Strategy,
}

impl Strategy {
    /// Whether it tunes one set of kernels for a shape that must be given.
    pub(crate) fn takes_opt_shapes(&self) -> bool {
        self.word == "static" || matches!(self.strategy, runtime::Strategy::File { .. })
    }
}

impl FromStr for Strategy {
    type Err = String;

    fn from_str(word: &str) -> Result<Strategy, String> {
        let strategy = runtime::Strategy::named_or_file(word).map_err(|e| e.to_string())?;
        if matches!(strategy, runtime::Strategy::Named(_)) {
            let names: Vec<&str> = PRESETS.iter().map(|p| p.name).collect();
            if !names.contains(&word) {
                let hint = runtime::error::did_you_mean(word, names.iter().copied());
                let names = names.join(", ");
                return Err(format!(
                    "`{word}` is no strategy{hint}: write {names}, or a file that ends in .toml"
                ));
            }
        }
        Ok(Strategy {
            word: word.to_owned(),
            strategy,
        })
    }
}

/// `--cuda-graph`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Graphs {
    /// A run is one recorded graph, whose small independent kernels run side by side
    Whole,
    /// A run is one recorded graph in which each kernel follows the one before it
    Chain,
    /// Kernels are launched one by one
    Off,
}

impl Graphs {
    /// The name in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Graphs::Whole => "whole",
            Graphs::Chain => "chain",
            Graphs::Off => "off",
        }
    }
}

/// `--programmatic-launch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Programmatic {
    /// Between small kernels of a graph, where card and driver can
    #[default]
    Auto,
    /// Never
    Off,
}

/// `--refine`: whether tiles are timed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refine(pub(crate) runtime::Refinement);

impl FromStr for Refine {
    type Err = String;

    fn from_str(text: &str) -> Result<Refine, String> {
        let wrong = || {
            format!(
                "`{text}` is not when to time tiles: write auto, off, or a number of runs of at least 1"
            )
        };
        Ok(Refine(match text {
            "auto" => runtime::Refinement::Auto,
            "off" => runtime::Refinement::Off,
            runs => match runs.parse() {
                Ok(runs @ 1..) => runtime::Refinement::After(runs),
                _ => return Err(wrong()),
            },
        }))
    }
}

/// A number of bytes with a base-2 suffix: `512M`, `2G`, `0.5G`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let wrong =
            || format!("`{text}` is no size: write a number with B, K, M, G or T, such as 512M");
        let plain = text.trim_end_matches("iB").trim_end_matches('B');
        let (number, shift) = match plain.chars().last() {
            Some('K' | 'k') => (&plain[..plain.len() - 1], 10),
            Some('M' | 'm') => (&plain[..plain.len() - 1], 20),
            Some('G' | 'g') => (&plain[..plain.len() - 1], 30),
            Some('T' | 't') => (&plain[..plain.len() - 1], 40),
            _ => (plain, 0),
        };
        let value: f64 = number.trim().parse().map_err(|_| wrong())?;
        let bytes = value * (1_u64 << shift) as f64;
        // 2^63 is the first that would not fit the signed sizes of file systems.
        if value.is_sign_negative() || !bytes.is_finite() || bytes >= (1_u64 << 63) as f64 {
            return Err(wrong());
        }
        Ok(Size(bytes as u64))
    }
}

/// Flags about the kernel cache.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Kernel cache")]
pub(crate) struct CacheOptions {
    /// What the kernel cache may do
    #[arg(
        long,
        value_enum,
        default_value = "rw",
        env = "BESPOKE_CACHE",
        hide_env_values = true
    )]
    pub(crate) cache: CacheMode,
    /// Folder of the kernel cache [default: $BESPOKE_CACHE_DIR, $XDG_CACHE_HOME/bespoke or ~/.cache/bespoke]
    #[arg(long, alias = "cacheDir", value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Limit on the size of the kernel cache, such as 512M or 2G [default: 10G]
    #[arg(
        long,
        value_name = "SIZE",
        env = "BESPOKE_CACHE_MAX_SIZE",
        hide_env_values = true
    )]
    pub(crate) cache_max_size: Option<Size>,
    /// Folder of kernels to read besides the cache, never written; may be given several times [default: $BESPOKE_CACHE_LAYERS, separated as in $PATH]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache_layer: Vec<PathBuf>,
}

impl CacheOptions {
    /// The configuration that the flags mean.
    pub(crate) fn config(&self) -> CacheConfig {
        let mut config = CacheConfig {
            dir: self.cache_dir.clone(),
            ro_layers: Some(self.cache_layer.clone()).filter(|layers| !layers.is_empty()),
            ..CacheConfig::default()
        };
        config.mode = match self.cache {
            CacheMode::Rw => Mode::Rw,
            CacheMode::Ro => Mode::Ro,
            CacheMode::Off => Mode::Off,
        };
        if let Some(Size(bytes)) = self.cache_max_size {
            config.max_bytes = bytes;
        }
        config
    }
}

/// Flags about where a model runs.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Device and strategy")]
pub(crate) struct PlaceOptions {
    /// Where to run: auto (a GPU if one works), host, cuda or cuda:N
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub(crate) device: Place,
    /// With the host device: also compile the GPU's kernels for this architecture, such as sm_89. With --device cuda: compile
    /// for it instead of the card's own, to see what the card's own instructions bring
    #[arg(long, value_name = "sm_XX")]
    pub(crate) target: Option<Arch>,
    /// Threads of the host device [default: one for each processor]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
}

/// Flags about where a model runs and how it adapts.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Device and strategy")]
pub(crate) struct SessionOptions {
    #[command(flatten)]
    pub(crate) place: PlaceOptions,
    /// When kernels are compiled for the shapes that occur: none, eager, lazy, hot, ranges, divisible, static or FILE.toml
    #[arg(
        long,
        default_value = "lazy",
        value_name = "STRATEGY",
        alias = "specializeStrategyDS"
    )]
    pub(crate) specialize: Strategy,
    /// With --specialize static: the shapes to tune for, NAME:1x3x48x320,…
    #[arg(
        long,
        alias = "optShapes",
        value_name = "SHAPES",
        required_if_eq("specialize", "static")
    )]
    pub(crate) opt_shapes: Option<Shapes>,
    /// Neither remember the shapes that occur nor begin with the programs of those that occurred before
    #[arg(long)]
    pub(crate) no_learn: bool,
    /// Try a specialised program on a live run beside the one in service, and drop it if it is wrong or slower
    #[arg(long)]
    pub(crate) verify_swap: bool,
    /// Specialise without changing the order of any sum, so that a swap changes no bit of a result
    #[arg(long)]
    pub(crate) bit_stable: bool,
    /// When the tiles of kernels that stay in use are timed on the device: auto (as the strategy says, on a GPU), off, or
    /// after so many runs
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) refine: Refine,
    #[command(flatten)]
    pub(crate) arithmetic: ArithmeticOptions,
    /// Limit on the device memory that the session holds, such as 512M or 2G [default: what the device has]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory_limit: Option<Size>,
    /// Whether a run is replayed as one recorded graph
    #[arg(long, value_enum, default_value = "whole", alias = "cudaGraph")]
    pub(crate) cuda_graph: Graphs,
    /// Whether a kernel of a graph may start while the one before it ends
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto")]
    pub(crate) programmatic_launch: Programmatic,
    /// Fail where a run is no recorded graph
    #[arg(long)]
    pub(crate) require_graph: bool,
    /// Compile nothing: a kernel that is not in the kernel cache is an error
    #[arg(long)]
    pub(crate) error_on_cache_miss: bool,
    #[command(flatten)]
    pub(crate) cache: CacheOptions,
    /// From commands that have the flag.
    #[arg(skip)]
    pub(crate) cost: CostOptions,
    /// Compile threads; as many as the service likes if there is no number. From commands that have the flag.
    #[arg(skip)]
    pub(crate) workers: Option<usize>,
}

/// What compiles cost, in experiments.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Device and strategy")]
pub(crate) struct CostOptions {
    /// For experiments: multiply the time of every compile by FACTOR, 0.1 to 100; below 1 compiles are replayed from the
    /// kernel cache, which must hold them
    #[arg(long, value_name = "FACTOR", default_value = "1")]
    pub(crate) compile_cost: CompileCost,
}

impl CostOptions {
    /// Says on the console that compile times are not what they are.
    pub(crate) fn tell(&self, console: &mut Console) {
        let cost = self.compile_cost;
        if cost.replays() {
            console.note(format_args!(
                "compiles are replayed from the kernel cache in {cost} of their time (--compile-cost)"
            ));
        } else if !cost.is_real() {
            console.note(format_args!(
                "compile times are stretched {cost} (--compile-cost)"
            ));
        }
    }
}

impl SessionOptions {
    /// What no parser sees.
    ///
    /// # Errors
    ///
    /// Flags that contradict each other.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.cost.compile_cost.replays() && self.cache.cache == CacheMode::Off {
            return Err(Failure::usage(
                "--compile-cost below 1 replays compiles from the kernel cache, and --cache off has none",
                "leave --cache off away, and run the same once without --compile-cost before",
            ));
        }
        if self.opt_shapes.is_some() && !self.specialize.takes_opt_shapes() {
            return Err(Failure::usage(
                "--opt-shapes is only used by --specialize static and by strategy files",
                "add --specialize static, or leave --opt-shapes away",
            ));
        }
        if self.require_graph && self.cuda_graph == Graphs::Off {
            return Err(Failure::usage(
                "--require-graph and --cuda-graph off contradict each other",
                "leave one of them away",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read() {
        for (text, place) in [
            ("auto", Place::Auto),
            ("host", Place::Host),
            ("cuda", Place::Cuda(0)),
            ("cuda:3", Place::Cuda(3)),
        ] {
            assert_eq!(text.parse(), Ok(place));
        }
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:+1", "cuda:x"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    #[test]
    fn strategies_are_names_or_files() {
        for preset in PRESETS {
            let strategy: Strategy = preset.name.parse().unwrap();
            assert_eq!(strategy.word, preset.name);
        }
        let wrong = "egaer".parse::<Strategy>().unwrap_err();
        assert!(wrong.contains("did you mean `eager`"), "{wrong}");
        let missing = "mine.toml".parse::<Strategy>().unwrap_err();
        assert!(missing.contains("mine.toml"), "{missing}");
    }

    #[test]
    fn sizes_have_base_2_suffixes() {
        let cases = [
            ("0", 0),
            ("512", 512),
            ("2K", 2048),
            ("0.25M", 1 << 18),
            ("2GiB", 2 << 30),
            ("1T", 1 << 40),
            ("7B", 7),
        ];
        for (text, bytes) in cases {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "G", "-1", "1X", "nan", "inf", "99999999T"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
