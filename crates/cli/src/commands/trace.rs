//! `bespoke trace`: make up shape traces.
//!
//! The generators are the runtime's; this file spells them on the command line. What is made depends on the flags alone.

use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

use bespoke::ErrorKind;
use bespoke::runtime::trace::generate::{Generator, PRESETS, Recipe, Template, generate};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::console::Console;
use crate::failure::Failure;
use crate::shapes::Dims;

/// Make up a sequence of shapes, for `bespoke run --shape-trace`
///
/// The same flags make the same trace on every machine. Inputs have variables, as in x:1x3x48xW; --dims fixes some of
/// them, the generator gives the others their values.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    generator: Kind,
}

/// What all generators take.
#[derive(Debug, Args)]
struct Common {
    /// An input with its shape: NAME:1x3x48xW, letters are variables; may be given several times
    #[arg(long, value_name = "SHAPE", required = true)]
    input: Vec<Template>,
    /// Values of variables that stay as they are: N=8,C=3
    #[arg(long, value_name = "DIMS")]
    dims: Vec<Dims>,
    /// Number of requests
    #[arg(long, value_name = "K", default_value_t = 100)]
    count: u64,
    /// Seed of everything that is left to chance
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Requests a second on average, as a Poisson process [default: each waits for the one before]
    #[arg(long, value_name = "X")]
    rate: Option<f64>,
    /// Bring the requests into an order of chance
    #[arg(long)]
    shuffle: bool,
    /// Where to write the trace [default: standard output]
    #[arg(long, short, value_name = "FILE.jsonl")]
    output: Option<PathBuf>,
}

/// The value of a flag that takes values: `64,128`, `1..128`, `32..640:32`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Values(Vec<i64>);

/// Values in a list, at most.
const MOST: i64 = 1 << 20;

impl FromStr for Values {
    type Err = String;

    fn from_str(text: &str) -> Result<Values, String> {
        let wrong =
            || format!("`{text}` is no list of values: write 64,128 or 1..128 or 32..640:32");
        let number = |part: &str| match part.trim().parse::<i64>() {
            Ok(value) if value >= 0 => Ok(value),
            _ => Err(wrong()),
        };
        let mut values = Vec::new();
        for part in text.split(',') {
            let Some((first, rest)) = part.split_once("..") else {
                values.push(number(part)?);
                continue;
            };
            let (last, step) = rest.split_once(':').unwrap_or((rest, "1"));
            let (first, last, step) = (number(first)?, number(last)?, number(step)?);
            if step == 0 || last < first {
                return Err(wrong());
            }
            if (last - first) / step >= MOST {
                return Err(format!("`{text}` has more than {MOST} values"));
            }
            values.extend((first..=last).step_by(step as usize));
        }
        Ok(Values(values))
    }
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// One shape again and again
    Const {
        #[command(flatten)]
        common: Common,
    },
    /// One variable goes through a list of values, over and over
    Cycle {
        /// The list: 64,128 or 1..128 or 32..640:32
        #[arg(long, value_name = "LIST", required = true)]
        values: Values,
        #[command(flatten)]
        common: Common,
    },
    /// One variable; few values come often, many seldom
    Zipf {
        /// The values: 64,128 or 1..128 or 32..640:32
        #[arg(long, value_name = "LIST", required = true)]
        values: Values,
        /// How much the frequent ones prevail: the value of rank k comes in proportion to k^-X
        #[arg(long, value_name = "X", default_value_t = 1.0)]
        exponent: f64,
        #[command(flatten)]
        common: Common,
    },
    /// One variable, log-normal, as lengths of texts are
    Lognormal {
        /// A measured distribution: llm-code, llm-conv, llm-long or news-sentence
        #[arg(long, value_name = "NAME", value_parser = PRESETS.map(|p| p.0))]
        preset: Option<String>,
        /// Mean of the logarithm
        #[arg(long, value_name = "X", required_unless_present = "preset")]
        mu: Option<f64>,
        /// Deviation of the logarithm
        #[arg(long, value_name = "X", required_unless_present = "preset")]
        sigma: Option<f64>,
        /// Smaller values become this [default: 1, or the preset's]
        #[arg(long, value_name = "N")]
        min: Option<i64>,
        /// Larger values become this [default: 4096, or the preset's]
        #[arg(long, value_name = "N")]
        max: Option<i64>,
        /// Round up to a multiple of this
        #[arg(long, value_name = "N", default_value_t = 1)]
        round: i64,
        #[command(flatten)]
        common: Common,
    },
    /// Text lines in batches, as an OCR pipeline recognises them: variables N and W
    OcrRec {
        /// Lines in a batch, at most
        #[arg(long, value_name = "N", default_value_t = 6)]
        batch: u64,
        #[command(flatten)]
        common: Common,
    },
    /// Pictures that a diffusion model makes in several steps each: variables H and W
    Diffusion {
        /// Requests for a picture
        #[arg(long, value_name = "N", default_value_t = 20)]
        steps: u64,
        #[command(flatten)]
        common: Common,
    },
    /// One variable, whose values are others from a point on
    Phase {
        /// The values before: 64,128 or 1..128 or 32..640:32
        #[arg(long, value_name = "LIST", required = true)]
        values: Values,
        /// The values after
        #[arg(long, value_name = "LIST", required = true)]
        then: Values,
        /// The request from which on they hold [default: the middle]
        #[arg(long, value_name = "K")]
        at: Option<u64>,
        #[command(flatten)]
        common: Common,
    },
    /// A language model that answers prompts token by token: variables S (new), P (past) and T (both)
    Decode {
        /// Tokens of each prompt [default: drawn, as in conversations]
        #[arg(long, value_name = "N")]
        prompt: Option<i64>,
        /// Tokens of each answer [default: drawn, as in conversations]
        #[arg(long, value_name = "N")]
        answer: Option<i64>,
        /// Tokens at which a conversation is cut off
        #[arg(long, value_name = "N", default_value_t = 4096)]
        max: i64,
        #[command(flatten)]
        common: Common,
    },
}

impl Kind {
    fn parts(&self) -> (Generator, &Common) {
        let own = |values: &Values| values.0.clone();
        match self {
            Kind::Const { common } => (Generator::Const, common),
            Kind::Cycle { values, common } => {
                let values = own(values);
                (Generator::Cycle { values }, common)
            }
            Kind::Zipf {
                values,
                exponent,
                common,
            } => {
                let (values, exponent) = (own(values), *exponent);
                (Generator::Zipf { values, exponent }, common)
            }
            Kind::Lognormal {
                preset,
                mu,
                sigma,
                min,
                max,
                round,
                common,
            } => {
                let preset = PRESETS.iter().find(|p| Some(p.0) == preset.as_deref());
                let base = preset.map_or((0.0, 0.0, 1, 4096), |p| (p.1, p.2, p.3, p.4));
                let generator = Generator::LogNormal {
                    mu: mu.unwrap_or(base.0),
                    sigma: sigma.unwrap_or(base.1),
                    min: min.unwrap_or(base.2),
                    max: max.unwrap_or(base.3),
                    round: *round,
                };
                (generator, common)
            }
            Kind::OcrRec { batch, common } => (Generator::OcrRec { batch: *batch }, common),
            Kind::Diffusion { steps, common } => (Generator::Diffusion { steps: *steps }, common),
            Kind::Phase {
                values,
                then,
                at,
                common,
            } => {
                let generator = Generator::Phase {
                    first: own(values),
                    then: own(then),
                    at: at.unwrap_or(common.count / 2),
                };
                (generator, common)
            }
            Kind::Decode {
                prompt,
                answer,
                max,
                common,
            } => {
                let generator = Generator::Decode {
                    prompt: *prompt,
                    answer: *answer,
                    max: *max,
                };
                (generator, common)
            }
        }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    generator: &'static str,
    requests: usize,
    shapes: usize,
    blake3: Option<String>,
    output: &'a Option<PathBuf>,
    exit_code: u8,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, console: &mut Console) -> Result<u8, Failure> {
    let (generator, common) = arguments.generator.parts();
    if console.json && common.output.is_none() {
        return Err(Failure::usage(
            "--json and a trace do not share standard output",
            "write the trace to a file with --output",
        ));
    }
    let name = generator.name();
    let recipe = Recipe {
        generator,
        inputs: common.input.clone(),
        fixed: common.dims.iter().flat_map(|d| d.0.clone()).collect(),
        count: common.count,
        seed: common.seed,
        rate: common.rate,
        shuffle: common.shuffle,
    };
    let trace = generate(&recipe).map_err(|error| {
        Failure::usage(
            error.to_string(),
            format!("`bespoke trace {name} --help` shows its flags"),
        )
    })?;
    let internal = |error: serde_json::Error| {
        Failure::new(ErrorKind::Internal, error.to_string(), "please report it")
    };
    let text = trace.text().map_err(internal)?;
    let Some(path) = &common.output else {
        console.line(text.trim_end())?;
        return Ok(0);
    };
    let written = std::fs::File::create(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| Failure::file(path, "write", &error))?;
    let shapes: std::collections::BTreeSet<_> = trace.entries.iter().map(|e| &e.dims).collect();
    let header = text.lines().next().unwrap_or_default();
    let header: bespoke::runtime::trace::Header = serde_json::from_str(header).map_err(internal)?;
    let document = Document {
        schema_version: 1,
        generator: name,
        requests: trace.entries.len(),
        shapes: shapes.len(),
        blake3: header.blake3,
        output: &common.output,
        exit_code: 0,
    };
    console.line(format_args!(
        "{}: {} requests, {} shapes, blake3 {}",
        path.display(),
        document.requests,
        document.shapes,
        document.blake3.as_deref().unwrap_or_default()
    ))?;
    if console.json {
        console.document(&document)?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_values_are_read() {
        let read = |text: &str| text.parse::<Values>().map(|v| v.0);
        assert_eq!(read("3"), Ok(vec![3]));
        assert_eq!(read("64,8"), Ok(vec![64, 8]));
        assert_eq!(read("1..3,10..31:10"), Ok(vec![1, 2, 3, 10, 20, 30]));
        for wrong in ["", "1,", "-1", "3..1", "1..", "1..9:0", "1..9:", "x"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(read("0..9999999999").unwrap_err().contains("more than"));
    }
}
