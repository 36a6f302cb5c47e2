//! Traces made up: the same for the same seed on every machine.
//!
//! Inputs are given as [`Template`]s, `x:1x3x48xW`: extents that are numbers stay, names are *variables*. Some are fixed
//! by the caller; a [`Generator`] gives the others their values, request by request. Generators of one variable give
//! theirs to whatever single variable is left; the others have variables with names of their own.
//!
//! What the measured distributions are that some of them draw from, and which of their parameters are choices, the
//! documentation of each says.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde_json::{Value, json};

use crate::trace::random::{Random, exp, ln};
use crate::trace::{Entry, Header, MAGIC, Trace, TraceError, VERSION};

/// Version of all generators: it rises when any of them makes another trace of the same seed.
pub const GENERATORS: u32 = 1;

/// Requests in a trace, at most.
pub const MOST: u64 = 10_000_000;

/// An extent of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Extent {
    Fixed(i64),
    Variable(String),
}

/// An input whose shape has variables: `x:1x3x48xW`, `y:scalar`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    name: String,
    dims: Vec<Extent>,
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Template, String> {
        let wrong = || format!("`{text}` is no input: write NAME:1x3x48xW");
        // names may contain colons, extents may not
        let (name, dims) = text.rsplit_once(':').ok_or_else(wrong)?;
        if name.is_empty() {
            return Err(wrong());
        }
        let extent = |part: &str| {
            let letters = |c: char| c.is_ascii_alphanumeric() || c == '_';
            match part.parse::<i64>() {
                Ok(value) if value >= 0 => Ok(Extent::Fixed(value)),
                Err(_)
                    if part.starts_with(|c: char| c.is_ascii_alphabetic() && c != 'x')
                        && part.chars().all(letters) =>
                {
                    Ok(Extent::Variable(part.to_owned()))
                }
                _ => Err(wrong()),
            }
        };
        let dims = match dims {
            "" | "scalar" => Vec::new(),
            dims => dims.split('x').map(extent).collect::<Result<_, _>>()?,
        };
        Ok(Template {
            text: text.to_owned(),
            name: name.to_owned(),
            dims,
        })
    }
}

/// Which values the variables have, and in which order.
#[derive(Clone, Debug, PartialEq)]
pub enum Generator {
    /// The same shape again and again.
    Const,
    /// One variable goes through a list of values, over and over. A list longer than what is kept defeats caches that
    /// drop what was not used for longest.
    Cycle {
        /// The list.
        values: Vec<i64>,
    },
    /// One variable; the value of rank k comes with a probability proportional to k to the power of -`exponent`. Which
    /// value has which rank depends on the seed.
    Zipf {
        /// The values.
        values: Vec<i64>,
        /// From 0, which makes all equally likely.
        exponent: f64,
    },
    /// One variable, log-normal: e to the power of a normal variate.
    LogNormal {
        /// Mean of the logarithm.
        mu: f64,
        /// Deviation of the logarithm.
        sigma: f64,
        /// Smaller values become this.
        min: i64,
        /// Larger values become this.
        max: i64,
        /// Values are rounded up to a multiple of this.
        round: i64,
    },
    /// Lines of text on their way through the recogniser of an OCR pipeline, as RapidOCR batches them: the lines of a page
    /// are sorted by aspect ratio and cut into batches; a batch is as wide as its widest line at height 48, and at least
    /// 320. Variables `N` (lines in the batch) and `W` (width). Characters of a line are log-normal with mu 2.760 and
    /// sigma 0.968 (measured on lines of law texts), 1 to 60; that a page has 1 to 24 lines and a character is 0.45 to
    /// 0.65 as wide as its line is high are choices.
    OcrRec {
        /// Lines in a batch, at most.
        batch: u64,
    },
    /// Images made by a diffusion model: variables `H` and `W` of the latent image, an eighth of a picture's; the
    /// pictures have the nine sizes recommended for SDXL, Zipf-distributed with exponent 1 (a choice) in an order that
    /// depends on the seed; each picture takes `steps` requests of one shape.
    Diffusion {
        /// Requests for a picture.
        steps: u64,
    },
    /// One variable, each value as likely as the others: of the one list until request `at`, of the other from then on.
    Phase {
        /// Values before.
        first: Vec<i64>,
        /// Values after.
        then: Vec<i64>,
        /// The request with which the second phase begins.
        at: u64,
    },
    /// A language model that answers one prompt after the other. Variables `S` (tokens that go in), `P` (tokens that are
    /// in the key-value cache) and `T` (their sum): a prompt of L tokens is one request with S = L and P = 0, each
    /// further token one with S = 1 and P one larger than before. Lengths that are not given are log-normal as in the
    /// conversations of the Azure LLM trace of 2023: mu 6.633 and sigma 0.985 for prompts, 5.019 and 0.859 for answers.
    Decode {
        /// Tokens of every prompt.
        prompt: Option<i64>,
        /// Tokens of every answer.
        answer: Option<i64>,
        /// A conversation is cut off where its tokens reach this.
        max: i64,
    },
}

/// Presets of [`Generator::LogNormal`]: name, mu, sigma, min, max, and what was measured.
pub const PRESETS: [(&str, f64, f64, i64, i64, &str); 4] = [
    (
        "llm-code",
        6.999,
        1.360,
        1,
        8192,
        "prompts for code, Azure 2023",
    ),
    (
        "llm-conv",
        6.633,
        0.985,
        1,
        16_384,
        "prompts of conversations, Azure 2023",
    ),
    (
        "llm-long",
        8.737,
        1.199,
        1,
        131_072,
        "prompts of long conversations, Mooncake 2024",
    ),
    (
        "news-sentence",
        3.042,
        0.431,
        1,
        128,
        "words in sentences of news, the Lee corpus",
    ),
];

/// Sizes of pictures recommended for SDXL, height and width.
const PICTURES: [(i64, i64); 9] = [
    (1024, 1024),
    (1152, 896),
    (896, 1152),
    (1216, 832),
    (832, 1216),
    (1344, 768),
    (768, 1344),
    (1536, 640),
    (640, 1536),
];

/// A trace to be made.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// What gives the variables their values.
    pub generator: Generator,
    /// The inputs.
    pub inputs: Vec<Template>,
    /// Variables that the caller gives a value.
    pub fixed: BTreeMap<String, i64>,
    /// Requests.
    pub count: u64,
    /// Seed.
    pub seed: u64,
    /// Requests a second, on average, with exponential gaps between them (a Poisson process). Without it all come at 0:
    /// each waits for the one before.
    pub rate: Option<f64>,
    /// Whether the requests come in an order of chance: the same shapes, without what their order had.
    pub shuffle: bool,
}

/// Values of the variables in a request.
type Values = Vec<(String, i64)>;

impl Generator {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Generator::Const => "const",
            Generator::Cycle { .. } => "cycle",
            Generator::Zipf { .. } => "zipf",
            Generator::LogNormal { .. } => "lognormal",
            Generator::OcrRec { .. } => "ocr-rec",
            Generator::Diffusion { .. } => "diffusion",
            Generator::Phase { .. } => "phase",
            Generator::Decode { .. } => "decode",
        }
    }

    /// The names of its variables; `None` is any one name.
    fn variables(&self) -> Option<&'static [&'static str]> {
        match self {
            Generator::Const => Some(&[]),
            Generator::OcrRec { .. } => Some(&["N", "W"]),
            Generator::Diffusion { .. } => Some(&["H", "W"]),
            Generator::Decode { .. } => Some(&["S", "P", "T"]),
            _ => None,
        }
    }

    fn params(&self) -> Value {
        match self {
            Generator::Const => json!({}),
            Generator::Cycle { values } => json!({"values": values}),
            Generator::Zipf { values, exponent } => json!({"values": values, "exponent": exponent}),
            Generator::LogNormal {
                mu,
                sigma,
                min,
                max,
                round,
            } => json!({"mu": mu, "sigma": sigma, "min": min, "max": max, "round": round}),
            Generator::OcrRec { batch } => json!({"batch": batch}),
            Generator::Diffusion { steps } => json!({"steps": steps}),
            Generator::Phase { first, then, at } => {
                json!({"values": first, "then": then, "at": at})
            }
            Generator::Decode {
                prompt,
                answer,
                max,
            } => json!({"prompt": prompt, "answer": answer, "max": max}),
        }
    }

    /// What no generator can work with.
    fn check(&self) -> Result<(), String> {
        let list = |values: &[i64]| match values {
            [] => Err("there are no values to choose from".to_owned()),
            values if values.iter().any(|&v| v < 0) => Err("a value is below 0".to_owned()),
            _ => Ok(()),
        };
        let finite = |what: &str, value: f64| match value.is_finite() && value >= 0.0 {
            true => Ok(()),
            false => Err(format!("{what} is {value}; it must be a number from 0 on")),
        };
        let least = |what: &str, value: i64, least: i64| match value >= least {
            true => Ok(()),
            false => Err(format!("{what} is {value}; it must be at least {least}")),
        };
        match self {
            Generator::Const => Ok(()),
            Generator::Cycle { values } => list(values),
            Generator::Zipf { values, exponent } => {
                list(values)?;
                finite("the exponent", *exponent)
            }
            Generator::LogNormal {
                mu,
                sigma,
                min,
                max,
                round,
            } => {
                finite("mu", *mu)?;
                finite("sigma", *sigma)?;
                least("min", *min, 0)?;
                least("max", *max, *min)?;
                least("round", *round, 1)
            }
            Generator::OcrRec { batch } => match batch {
                0 => Err("a batch of 0 lines holds none".into()),
                _ => Ok(()),
            },
            Generator::Diffusion { steps } => match steps {
                0 => Err("a picture of 0 steps is none".into()),
                _ => Ok(()),
            },
            Generator::Phase { first, then, .. } => {
                list(first)?;
                list(then)
            }
            Generator::Decode {
                prompt,
                answer,
                max,
            } => {
                least("the prompt", prompt.unwrap_or(1), 1)?;
                least("the answer", answer.unwrap_or(1), 1)?;
                least("max", *max, 1)
            }
        }
    }

    /// Values of `count` requests; `name` is the variable of generators of one.
    fn values(&self, count: usize, name: &str, random: &mut Random) -> Vec<Values> {
        let one = |value: i64| vec![(name.to_owned(), value)];
        match self {
            Generator::Const => vec![Vec::new(); count],
            Generator::Cycle { values } => {
                values.iter().cycle().take(count).map(|&v| one(v)).collect()
            }
            Generator::Zipf { values, exponent } => {
                let ranks = Ranks::new(values, *exponent, random);
                (0..count).map(|_| one(*ranks.draw(random))).collect()
            }
            Generator::LogNormal {
                mu,
                sigma,
                min,
                max,
                round,
            } => {
                let mut draw = || {
                    let value = lognormal(random, *mu, *sigma, *min, *max);
                    // a multiple beyond the largest is the largest
                    let up = value.div_euclid(*round) + i64::from(value % round != 0);
                    up.saturating_mul(*round).min(*max)
                };
                (0..count).map(|_| one(draw())).collect()
            }
            Generator::OcrRec { batch } => ocr_rec(count, *batch as usize, random),
            Generator::Diffusion { steps } => {
                let ranks = Ranks::new(&PICTURES, 1.0, random);
                let mut out: Vec<Values> = Vec::with_capacity(count);
                while out.len() < count {
                    let &(height, width) = ranks.draw(random);
                    let values = vec![("H".to_owned(), height / 8), ("W".to_owned(), width / 8)];
                    let room = (count - out.len()) as u64;
                    out.extend((0..room.min(*steps)).map(|_| values.clone()));
                }
                out
            }
            Generator::Phase { first, then, at } => (0..count as u64)
                .map(|i| {
                    let list = if i < *at { first } else { then };
                    one(list[random.below(list.len() as u64) as usize])
                })
                .collect(),
            Generator::Decode {
                prompt,
                answer,
                max,
            } => decode(count, *prompt, *answer, *max, random),
        }
    }
}

/// Things whose rank decides how often they come.
struct Ranks<T> {
    things: Vec<T>,
    /// Up to and including each of them.
    sums: Vec<f64>,
}

impl<T: Clone> Ranks<T> {
    fn new(things: &[T], exponent: f64, random: &mut Random) -> Ranks<T> {
        let mut things = things.to_vec();
        random.shuffle(&mut things);
        let mut sum = 0.0;
        let sums = (1..=things.len())
            .map(|rank| {
                sum += exp(-exponent * ln(rank as f64));
                sum
            })
            .collect();
        Ranks { things, sums }
    }

    /// There must be something to draw.
    fn draw(&self, random: &mut Random) -> &T {
        let last = self.sums.len() - 1;
        let at = random.unit() * self.sums[last];
        &self.things[self.sums.partition_point(|&sum| sum <= at).min(last)]
    }
}

fn lognormal(random: &mut Random, mu: f64, sigma: f64, min: i64, max: i64) -> i64 {
    // the conversion saturates
    let value = exp(mu + sigma * random.normal()).round() as i64;
    value.clamp(min, max)
}

fn ocr_rec(count: usize, batch: usize, random: &mut Random) -> Vec<Values> {
    let mut out: Vec<Values> = Vec::with_capacity(count);
    while out.len() < count {
        let lines = 1 + random.below(24);
        let mut aspects: Vec<f64> = (0..lines)
            .map(|_| {
                let characters = lognormal(random, 2.760, 0.968, 1, 60);
                characters as f64 * (0.45 + 0.2 * random.unit())
            })
            .collect();
        aspects.sort_by(f64::total_cmp);
        for lines in aspects.chunks(batch).take(count - out.len()) {
            let widest = lines.iter().copied().fold(320.0 / 48.0, f64::max);
            let values = [("N", lines.len() as i64), ("W", (48.0 * widest) as i64)];
            out.push(values.map(|(name, value)| (name.to_owned(), value)).into());
        }
    }
    out
}

fn decode(
    count: usize,
    prompt: Option<i64>,
    answer: Option<i64>,
    max: i64,
    random: &mut Random,
) -> Vec<Values> {
    let mut out: Vec<Values> = Vec::with_capacity(count);
    let request = |s: i64, p: i64| {
        let values = [("S", s), ("P", p), ("T", s + p)];
        values.map(|(name, value)| (name.to_owned(), value)).into()
    };
    while out.len() < count {
        let prompt = match prompt {
            Some(tokens) => tokens.min(max),
            None => lognormal(random, 6.633, 0.985, 1, max),
        };
        let answer = answer.unwrap_or_else(|| lognormal(random, 5.019, 0.859, 1, max));
        out.push(request(prompt, 0));
        // the prompt's own request makes the first token of the answer
        let steps = (answer - 1)
            .min(max - prompt)
            .min((count - out.len()) as i64);
        out.extend((0..steps).map(|i| request(1, prompt + i)));
    }
    out
}

/// Makes a trace.
///
/// # Errors
///
/// Parameters that make no sense, and variables that nobody gives a value, or two do.
pub fn generate(recipe: &Recipe) -> Result<Trace, TraceError> {
    let refuse = |reason: String| Err(TraceError::Generator(reason));
    let generator = &recipe.generator;
    generator.check().map_err(TraceError::Generator)?;
    if recipe.inputs.is_empty() {
        return refuse("no input is given: name one, as x:1x3x48xW".into());
    }
    if recipe.count > MOST {
        return refuse(format!(
            "{} requests are too many; make {MOST} at most",
            recipe.count
        ));
    }
    if let Some(rate) = recipe.rate.filter(|r| !r.is_finite() || *r <= 0.0) {
        return refuse(format!(
            "{rate} requests a second make no sense; give a number above 0"
        ));
    }
    let mut names = BTreeSet::new();
    for input in &recipe.inputs {
        if !names.insert(&input.name) {
            return refuse(format!(
                "input `{}` is given twice; give it once",
                input.name
            ));
        }
    }
    let name = variable(recipe).map_err(TraceError::Generator)?;

    let mut values = generator.values(
        recipe.count as usize,
        &name,
        &mut Random::new(recipe.seed, 0),
    );
    if recipe.shuffle {
        Random::new(recipe.seed, 1).shuffle(&mut values);
    }
    let mut arrivals = Random::new(recipe.seed, 2);
    let mut now = 0.0;
    let mut entries = Vec::with_capacity(values.len());
    for (seq, values) in (0..).zip(values) {
        let extent = |extent: &Extent| match extent {
            Extent::Fixed(value) => *value,
            Extent::Variable(name) => {
                let given = values.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
                // every variable is one or the other, as was checked
                given
                    .or_else(|| recipe.fixed.get(name).copied())
                    .unwrap_or(0)
            }
        };
        let dims = |t: &Template| (t.name.clone(), t.dims.iter().map(extent).collect());
        entries.push(Entry {
            seq,
            at_us: now as u64,
            dims: recipe.inputs.iter().map(dims).collect(),
        });
        if let Some(rate) = recipe.rate {
            now += arrivals.exponential() / rate * 1e6;
        }
    }

    let mut params: BTreeMap<String, Value> = match generator.params() {
        Value::Object(map) => map.into_iter().collect(),
        _ => BTreeMap::new(),
    };
    let inputs: Vec<&str> = recipe.inputs.iter().map(|t| t.text.as_str()).collect();
    params.insert("inputs".into(), json!(inputs));
    params.insert("fixed".into(), json!(recipe.fixed));
    params.insert("rate".into(), json!(recipe.rate));
    params.insert("shuffle".into(), json!(recipe.shuffle));
    Ok(Trace {
        header: Header {
            trace: MAGIC.into(),
            v: VERSION,
            source: generator.name().into(),
            source_version: Some(GENERATORS),
            seed: Some(recipe.seed),
            params,
            blake3: None,
        },
        entries,
    })
}

/// The name of the variable of a generator of one; empty for others.
fn variable(recipe: &Recipe) -> Result<String, String> {
    let generator = &recipe.generator;
    let all: BTreeSet<&str> = recipe
        .inputs
        .iter()
        .flat_map(|t| &t.dims)
        .filter_map(|e| match e {
            Extent::Fixed(_) => None,
            Extent::Variable(name) => Some(name.as_str()),
        })
        .collect();
    if let Some(name) = recipe.fixed.keys().find(|n| !all.contains(n.as_str())) {
        return Err(format!(
            "no input has the variable `{name}`; do not give it a value"
        ));
    }
    let open: Vec<&str> = all
        .iter()
        .copied()
        .filter(|n| !recipe.fixed.contains_key(*n))
        .collect();
    let list = |names: &[&str]| {
        names
            .iter()
            .map(|n| format!("`{n}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    match generator.variables() {
        Some(known) => {
            if let Some(name) = recipe.fixed.keys().find(|n| known.contains(&n.as_str())) {
                return Err(format!(
                    "{} gives `{name}` its values; do not give it one",
                    generator.name()
                ));
            }
            match open.iter().find(|n| !known.contains(n)) {
                Some(name) => Err(format!(
                    "nobody gives `{name}` a value: {} knows {}; fix it",
                    generator.name(),
                    if known.is_empty() {
                        "none".into()
                    } else {
                        list(known)
                    }
                )),
                None => Ok(String::new()),
            }
        }
        None => match open.as_slice() {
            [name] => Ok((*name).to_owned()),
            [] => Err(format!(
                "{} needs a variable, as in x:1x3x48xW",
                generator.name()
            )),
            names => Err(format!(
                "{} gives one variable its values, and {} are open; fix the others",
                generator.name(),
                list(names)
            )),
        },
    }
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;
