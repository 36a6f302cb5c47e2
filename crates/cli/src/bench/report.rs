//! Measurements for people and for scripts: text, the JSON document, a Markdown table, every sample.
//!
//! The document's `schema_version` is 1; fields are only ever added within a version. Times are in the unit that a field's
//! name ends with.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bespoke::runtime::ArithmeticUse;
use serde::Serialize;

use super::host;
use super::measure::{CacheState, Measurement, Sample};
use super::profile::Profile;
use crate::console::bytes;
use crate::export::{json, save};
use crate::failure::Failure;

/// What `--json` and `--export-json` show.
#[derive(Debug, Serialize)]
pub(crate) struct Document<'a> {
    pub(crate) schema_version: u32,
    pub(crate) version: &'static str,
    pub(crate) model: &'a Path,
    /// Where it ran; empty before the first measurement.
    pub(crate) device: String,
    pub(crate) measurements: Vec<Measurement>,
    pub(crate) exit_code: u8,
}

/// The samples of a measurement, as `--export-times` shows them.
#[derive(Debug, Serialize)]
struct Times<'a> {
    shape: &'a str,
    strategy: &'a str,
    graph: &'static str,
    cache: CacheState,
    samples: &'a [Sample],
}

/// The steps of a measurement, as `--export-profile` shows them.
#[derive(Debug, Serialize)]
struct Steps<'a> {
    shape: &'a str,
    strategy: &'a str,
    graph: &'static str,
    cache: CacheState,
    #[serde(flatten)]
    profile: &'a Profile,
}

/// Files to write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exports {
    pub(crate) json: Option<PathBuf>,
    pub(crate) markdown: Option<PathBuf>,
    pub(crate) times: Option<PathBuf>,
    pub(crate) profile: Option<PathBuf>,
}

impl Exports {
    /// Writes the files anew; called after every measurement, so that a command that is stopped leaves what it has.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub(crate) fn write(&self, document: &Document<'_>) -> Result<(), Failure> {
        let list = || document.measurements.iter();
        save(self.json.as_ref(), || json(document))?;
        save(self.markdown.as_ref(), || Ok(markdown(document)))?;
        save(self.times.as_ref(), || {
            json(&list().map(times).collect::<Vec<_>>())
        })?;
        save(self.profile.as_ref(), || {
            json(&list().filter_map(steps).collect::<Vec<_>>())
        })
    }
}

fn times(m: &Measurement) -> Times<'_> {
    Times {
        shape: &m.shape,
        strategy: &m.strategy,
        graph: m.graph,
        cache: m.cache,
        samples: &m.samples,
    }
}

fn steps(m: &Measurement) -> Option<Steps<'_>> {
    Some(Steps {
        shape: &m.shape,
        strategy: &m.strategy,
        graph: m.graph,
        cache: m.cache,
        profile: m.profile.as_ref()?,
    })
}

/// A time with three digits that mean something, in the unit that suits it.
pub(crate) fn time(ms: f64) -> String {
    let (value, unit) = match ms {
        _ if ms >= 1e3 => (ms / 1e3, "s"),
        _ if ms >= 1.0 => (ms, "ms"),
        _ if ms >= 1e-3 || ms <= 0.0 => (ms * 1e3, "µs"),
        _ => (ms * 1e6, "ns"),
    };
    format!("{} {unit}", digits(value))
}

/// A number with three digits that mean something, whole numbers whole.
fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

/// What was asked for, where it is not the exact arithmetic: `, arithmetic tf32,promoted`.
fn arithmetic(uses: &[ArithmeticUse]) -> String {
    let words: Vec<&str> = uses.iter().map(|came| came.asked.word()).collect();
    match words.is_empty() {
        true => String::new(),
        false => format!(", arithmetic {}", words.join(",")),
    }
}

/// A measurement for people, some lines.
pub(crate) fn text(m: &Measurement) -> String {
    let mut lines = vec![format!(
        "{}  {}, graph {}, cache {}{}{}",
        m.shape,
        m.strategy,
        m.graph,
        m.cache.name(),
        if m.transfers { ", with transfers" } else { "" },
        arithmetic(&m.arithmetic)
    )];
    let l = &m.load;
    lines.push(format!(
        "  load        {} (import {}, passes {}, plan {}, compile {}, set-up {}; {} kernels compiled, {} from the cache)",
        time(l.load_ms),
        time(l.import_ms),
        time(l.passes_ms),
        time(l.plan_ms),
        time(l.load_compile_ms),
        time(l.setup_ms),
        l.load_compiled,
        l.load_cached
    ));
    lines.push(format!(
        "  first run   {} (shape bound in {}, graph recorded in {})",
        time(m.first_ms),
        time(m.bind_us as f64 / 1e3),
        time(m.record_us as f64 / 1e3)
    ));
    let stretched = match m.compile_cost.is_real() {
        true => String::new(),
        false => format!(" ({})", m.compile_cost),
    };
    let replayed = match m.replayed {
        0 => String::new(),
        count => format!(" and {count} replayed from it"),
    };
    lines.push(format!(
        "  specialise  {} of waiting; {} kernels compiled in {} of compiler time{stretched}, {} from the cache{replayed}; graphs recorded in {}",
        time(m.specialize_ms),
        m.compiled,
        time(m.compile_ms),
        m.cached,
        time(m.record_ms)
    ));
    let s = &m.steady;
    let mut steady = format!(
        "  steady      {} median of {} runs; mean {}, min {}, max {}, stddev {}",
        time(s.median_ms),
        s.runs,
        time(s.mean_ms),
        time(s.min_ms),
        time(s.max_ms),
        time(s.stddev_ms)
    );
    for p in &s.percentiles {
        // writing to a String cannot fail
        let _ = write!(steady, ", p{} {}", p.percent, time(p.ms));
    }
    lines.push(steady);
    let mut kernels = format!(
        "  kernels     {} generic, {} specialised; {} steps",
        m.generic, m.specialized, m.steps
    );
    if m.tier == 2 {
        // writing to a String cannot fail
        let _ = write!(
            kernels,
            ", {} planned anew for the shape in {}",
            m.generic + m.specialized,
            time(m.second_tier_ms)
        );
    }
    lines.push(kernels);
    if m.tiles_timed > 0 {
        lines.push(format!(
            "  refined     tiles of {} kinds of steps timed in {}, {} are others since",
            m.tiles_timed,
            time(m.refine_ms),
            m.tiles_won
        ));
    }
    lines.push(format!("  GPU memory  {}", memory(m)));
    lines.push(format!(
        "  session     {} of device memory at most",
        bytes(m.session_memory_bytes)
    ));
    lines.extend(m.host_time.as_ref().map(host::text));
    lines.join("\n")
}

fn memory(m: &Measurement) -> String {
    match (m.peak_memory_bytes, m.memory_before_bytes) {
        (Some(peak), Some(before)) => format!(
            "{} in use at most, {} before the model was loaded",
            bytes(peak),
            bytes(before)
        ),
        _ => "unknown".into(),
    }
}

/// All measurements as a Markdown table, with the warnings below.
pub(crate) fn markdown(document: &Document<'_>) -> String {
    let mut percents: Vec<f64> = Vec::new();
    for m in &document.measurements {
        for p in &m.steady.percentiles {
            if !percents.contains(&p.percent) {
                percents.push(p.percent);
            }
        }
    }
    let model = document.model.display();
    let mut out = format!(
        "`{model}` on {}, bespoke {}. Times in ms.\n\n",
        document.device, document.version
    );
    let mut heads: Vec<String> = [
        "shape",
        "strategy",
        "graph",
        "cache",
        "load",
        "first run",
        "compile",
        "record",
        "specialise",
        "steady",
        "mean",
        "stddev",
        "min",
        "max",
    ]
    .map(String::from)
    .to_vec();
    heads.extend(percents.iter().map(|p| format!("p{p}")));
    heads.extend(["runs", "compiled / from cache", "GPU memory"].map(String::from));
    let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    out += &row(&heads);
    let rules: Vec<String> = (0..heads.len())
        .map(|i| if i < 4 { "---" } else { "--:" }.to_owned())
        .collect();
    out += &row(&rules);
    let number = |ms: f64| format!("{ms:.3}");
    for m in &document.measurements {
        let s = &m.steady;
        let mut cells = vec![
            m.shape.replace('|', "\\|"),
            m.strategy.clone(),
            m.graph.to_owned(),
            m.cache.name().to_owned(),
        ];
        let times = [
            m.load.load_ms,
            m.first_ms,
            m.compile_ms,
            m.record_ms,
            m.specialize_ms,
            s.median_ms,
            s.mean_ms,
            s.stddev_ms,
            s.min_ms,
            s.max_ms,
        ];
        cells.extend(times.map(number));
        cells.extend(percents.iter().map(|percent| {
            let found = s.percentiles.iter().find(|p| p.percent == *percent);
            found.map_or_else(|| "–".to_owned(), |p| number(p.ms))
        }));
        cells.push(s.runs.to_string());
        cells.push(format!(
            "{} / {}",
            m.load.load_compiled + m.compiled,
            m.load.load_cached + m.cached
        ));
        cells.push(
            m.peak_memory_bytes
                .map_or_else(|| "unknown".to_owned(), bytes),
        );
        out += &row(&cells);
    }
    let warned: Vec<String> = document
        .measurements
        .iter()
        .flat_map(|m| m.warnings.iter().map(move |w| (m, w)))
        .map(|(m, w)| {
            let cache = m.cache.name();
            format!(
                "- {}, {}, graph {}, cache {cache}: `{}`: {}\n",
                m.shape, m.strategy, m.graph, w.code, w.text
            )
        })
        .collect();
    if !warned.is_empty() {
        out += "\nWarnings:\n\n";
        out += &warned.concat();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measure::Load;
    use crate::bench::statistics::Statistics;
    use crate::bench::warnings::Warning;
    use bespoke::runtime::CompileCost;

    fn measurement() -> Measurement {
        let steady = Statistics::of(&[1.0, 3.0], &[90.0]).unwrap();
        Measurement {
            shape: "x:1x4".into(),
            strategy: "lazy".to_owned(),
            graph: "whole",
            arithmetic: Vec::new(),
            cache: CacheState::Cold,
            transfers: false,
            device: "the host".into(),
            load: Load {
                load_ms: 12.0,
                load_compiled: 2,
                ..Load::default()
            },
            first_ms: 0.5,
            bind_us: 12,
            record_us: 0,
            record_ms: 0.25,
            specialize_ms: 1500.0,
            second_tier_ms: 0.0,
            refine_ms: 0.0,
            tiles_timed: 0,
            tiles_won: 0,
            tier: 1,
            compiled: 3,
            cached: 0,
            replayed: 0,
            compile_cost: CompileCost::default(),
            compile_ms: 900.0,
            generic: 0,
            specialized: 1,
            steps: 1,
            copies: 0,
            runs: 2,
            steady_ms: steady.median_ms,
            fastest_ms: steady.min_ms,
            steady,
            peak_memory_bytes: None,
            memory_before_bytes: None,
            session_memory_bytes: 3 << 20,
            warnings: vec![Warning {
                code: "few-iterations",
                text: "2 timed runs".into(),
            }],
            profile: None,
            host_time: None,
            samples: vec![
                Sample {
                    start_ms: 0.0,
                    ms: 1.0,
                },
                Sample {
                    start_ms: 1.0,
                    ms: 3.0,
                },
            ],
        }
    }

    fn document() -> Document<'static> {
        Document {
            schema_version: 1,
            version: "0",
            model: Path::new("m.onnx"),
            device: "the host".into(),
            measurements: vec![measurement()],
            exit_code: 0,
        }
    }

    #[test]
    fn times_have_three_digits_and_a_unit() {
        let shown = [0.0, 0.000_045_6, 0.0123, 0.3456, 1.0, 12.34, 345.6, 2300.0].map(time);
        assert_eq!(
            shown,
            [
                "0 µs", "45.6 ns", "12.3 µs", "346 µs", "1.00 ms", "12.3 ms", "346 ms", "2.30 s"
            ]
        );
    }

    #[test]
    fn a_measurement_says_what_happened_once_apart_from_what_repeats() {
        let text = text(&measurement());
        for words in [
            "x:1x4  lazy, graph whole, cache cold",
            "load        12.0 ms",
            "first run   500 µs (shape bound in 12.0 µs",
            "specialise  1.50 s of waiting; 3 kernels compiled in 900 ms",
            "steady      1.00 ms median of 2 runs; mean 2.00 ms",
            "p90 3.00 ms",
            "GPU memory  unknown",
            "session     3.0 MiB of device memory at most",
        ] {
            assert!(text.contains(words), "`{words}` is missing: {text}");
        }
        let known = Measurement {
            peak_memory_bytes: Some(3 << 30),
            memory_before_bytes: Some(1 << 30),
            ..measurement()
        };
        assert_eq!(
            memory(&known),
            "3.0 GiB in use at most, 1.0 GiB before the model was loaded"
        );
    }

    #[test]
    fn the_table_has_a_cell_for_every_column() {
        let table = markdown(&document());
        let rows: Vec<&str> = table.lines().filter(|l| l.starts_with('|')).collect();
        assert_eq!(rows.len(), 3, "{table}");
        let cells = |row: &str| row.matches('|').count();
        assert!(
            rows.iter().all(|row| cells(row) == cells(rows[0])),
            "{table}"
        );
        assert!(
            rows[0].contains("| p90 |") && rows[2].contains("| 5 / 0 |"),
            "{table}"
        );
        assert!(
            table.contains("cache cold: `few-iterations`: 2 timed runs"),
            "{table}"
        );
    }

    #[test]
    fn files_hold_what_they_are_named_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| Some(dir.path().join(name));
        let exports = Exports {
            json: path("a.json"),
            markdown: path("a.md"),
            times: path("t.json"),
            profile: None,
        };
        exports.write(&document()).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        let value: serde_json::Value = serde_json::from_str(&read("a.json")).unwrap();
        let row = &value["measurements"][0];
        assert_eq!(
            (&row["load_ms"], &row["steady_ms"]),
            (&12.0.into(), &1.0.into())
        );
        assert!(row["peak_memory_bytes"].is_null() && row.get("samples").is_none());
        let value: serde_json::Value = serde_json::from_str(&read("t.json")).unwrap();
        assert_eq!(value[0]["samples"][1]["ms"], 3.0);
        assert!(read("a.md").starts_with("`m.onnx` on the host"));
        let nowhere = Exports {
            json: path("absent/a.json"),
            ..Exports::default()
        };
        assert!(
            nowhere
                .write(&document())
                .unwrap_err()
                .message
                .contains("cannot write")
        );
    }
}
