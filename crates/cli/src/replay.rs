//! `--shape-trace`: the shapes of a trace, one run each, and what came of every shape.
//!
//! Every request of the trace is a run, in the trace's order and one at a time. Inputs have random content, which depends
//! on seed and shape alone and is kept for the next run of the shape. Inputs that the trace does not name take what the
//! command line says. With `--no-transfers` the inputs of all shapes lie on the device before the first run, and outputs stay
//! there.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bespoke::device::Memory;
use bespoke::ir::SymbolTable;
use bespoke::runtime::trace::Trace;
use bespoke::runtime::{Bindings, RunReport, Session, Tensor};
use clap::ValueEnum;
use serde::Serialize;

use crate::console::{Console, micros};
use crate::failure::Failure;
use crate::inputs::{Port, Wanted, choose, resolve};
use crate::placed::on_device;
use crate::session::tensor;
use crate::shapes::{Shape, Shapes};
use crate::times::{median, percentile};

/// `--pace`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pace {
    /// Each run begins when the one before is over
    Asap,
    /// A run begins no earlier than its request came, from the first one on
    Recorded,
}

/// Keeps a pace.
struct Metronome {
    pace: Pace,
    start: Instant,
    late: Duration,
}

impl Metronome {
    fn new(pace: Pace) -> Metronome {
        Metronome {
            pace,
            start: Instant::now(),
            late: Duration::ZERO,
        }
    }

    /// Returns when a request comes that comes so long after the first.
    fn wait(&mut self, at: Duration) {
        if self.pace == Pace::Recorded {
            let now = self.start.elapsed();
            match at.checked_sub(now) {
                Some(early) => std::thread::sleep(early),
                None => self.late = self.late.max(now - at),
            }
        }
    }

    /// By how much it was late at most, in microseconds.
    fn late_us(&self) -> u64 {
        self.late.as_micros() as u64
    }
}

/// Inputs and room for outputs on the device, and the memory that holds them.
type Placed = (Bindings, Vec<Arc<dyn Memory>>);

/// Inputs that are kept for the next run of their shape, in bytes.
const KEPT: usize = 1 << 30;

/// Shapes that the text shows; the document has all.
const SHOWN: usize = 20;

/// Requests and their distinct shapes.
#[derive(Debug)]
pub(crate) struct Requests {
    /// What the command line would say for each distinct shape.
    wanted: Vec<Wanted>,
    /// Time and shape of every request.
    order: Vec<(Duration, usize)>,
}

impl Requests {
    /// Reads a trace for these inputs. `base` is what the command line says besides.
    ///
    /// # Errors
    ///
    /// A file that is no trace, a trace without requests, and shapes that the model does not take.
    pub(crate) fn read(
        path: &Path,
        ports: &[Port<'_>],
        symbols: &SymbolTable,
        base: &Wanted,
    ) -> Result<Requests, Failure> {
        let text =
            std::fs::read_to_string(path).map_err(|error| Failure::file(path, "read", &error))?;
        let wrong = |message: String| {
            Failure::usage(
                format!("{}: {message}", path.display()),
                "`bespoke trace` makes traces, `bespoke run --record-trace` records them",
            )
        };
        let trace = Trace::parse(&text).map_err(|error| wrong(error.to_string()))?;
        let Some(start) = trace.entries.iter().map(|e| e.at_us).min() else {
            return Err(wrong("the trace has no requests".into()));
        };
        let mut known = HashMap::new();
        let mut requests = Requests {
            wanted: Vec::new(),
            order: Vec::with_capacity(trace.entries.len()),
        };
        for entry in trace.entries {
            let at = Duration::from_micros(entry.at_us - start);
            let shape = match known.get(&entry.dims) {
                Some(&shape) => shape,
                None => {
                    let mut wanted = base.clone();
                    let shapes = entry.dims.iter().map(|(name, dims)| Shape {
                        name: name.clone(),
                        dims: dims.clone(),
                    });
                    let Shapes(list) = &mut wanted.shapes;
                    list.extend(shapes);
                    wanted.shapes_by = Some("the trace");
                    choose(ports, symbols, &wanted).map_err(|failure| Failure {
                        message: format!("request {}: {}", entry.seq, failure.message),
                        ..failure
                    })?;
                    requests.wanted.push(wanted);
                    known.insert(entry.dims, requests.wanted.len() - 1);
                    requests.wanted.len() - 1
                }
            };
            requests.order.push((at, shape));
        }
        Ok(requests)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Calls `run` with the inputs of each request and whether its shape is new, at the pace. Returns by how much runs
    /// began late, at most, in microseconds.
    ///
    /// # Errors
    ///
    /// Those of `run`, and too little memory for inputs.
    pub(crate) fn replay(
        &self,
        ports: &[Port<'_>],
        symbols: &SymbolTable,
        pace: Pace,
        mut run: impl FnMut(&[Tensor], bool) -> Result<(), Failure>,
    ) -> Result<u64, Failure> {
        let mut kept: HashMap<usize, Vec<Tensor>> = HashMap::new();
        let mut bytes = 0;
        let mut seen = vec![false; self.wanted.len()];
        let mut metronome = Metronome::new(pace);
        for &(at, shape) in &self.order {
            if !kept.contains_key(&shape) {
                let inputs = resolve(ports, symbols, &self.wanted[shape])?;
                let inputs: Vec<Tensor> =
                    inputs.iter().map(|c| tensor(c)).collect::<Result<_, _>>()?;
                let size: usize = inputs.iter().map(|t| t.bytes().len()).sum();
                if bytes + size > KEPT {
                    kept.clear();
                    bytes = 0;
                }
                bytes += size;
                kept.insert(shape, inputs);
            }
            metronome.wait(at);
            let new = !std::mem::replace(&mut seen[shape], true);
            run(kept.get(&shape).map_or(&[], Vec::as_slice), new)?;
        }
        Ok(metronome.late_us())
    }

    /// Calls `run` with the device memory of each request and whether its shape is new, at the pace. Returns what
    /// [`Requests::replay`] does.
    ///
    /// # Errors
    ///
    /// Those of `run`, and too little memory for the inputs and outputs of all shapes together.
    pub(crate) fn replay_placed(
        &self,
        session: &Session,
        ports: &[Port<'_>],
        symbols: &SymbolTable,
        pace: Pace,
        mut run: impl FnMut(&Bindings, bool) -> Result<(), Failure>,
    ) -> Result<u64, Failure> {
        let place = |wanted| on_device(session, &resolve(ports, symbols, wanted)?);
        let placed: Vec<Placed> = self.wanted.iter().map(place).collect::<Result<_, _>>()?;
        let mut seen = vec![false; placed.len()];
        let mut metronome = Metronome::new(pace);
        for &(at, shape) in &self.order {
            metronome.wait(at);
            let new = !std::mem::replace(&mut seen[shape], true);
            run(&placed[shape].0, new)?;
        }
        Ok(metronome.late_us())
    }
}

/// Runs on kernels of one kind.
#[derive(Debug, Serialize)]
struct Part {
    runs: usize,
    median_us: Option<u64>,
}

/// What came of a shape.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    shape: String,
    count: usize,
    first_us: u64,
    median_us: u64,
    p99_us: u64,
    /// Runs in which some kernel was generic.
    generic: Part,
    /// Runs in which all kernels were specialised.
    specialized: Part,
}

/// A row for each shape, those that came most often first.
pub(crate) fn rows(reports: &[RunReport]) -> Vec<Row> {
    let mut index: HashMap<&str, usize> = HashMap::new();
    let mut groups: Vec<(&str, Vec<&RunReport>)> = Vec::new();
    for report in reports {
        let at = *index.entry(&report.shape).or_insert_with(|| {
            groups.push((&report.shape, Vec::new()));
            groups.len() - 1
        });
        groups[at].1.push(report);
    }
    let mut rows: Vec<Row> = groups
        .into_iter()
        .map(|(shape, runs)| {
            let part = |generic: bool| {
                let times = || {
                    let of = runs
                        .iter()
                        .filter(move |r| (r.generic_kernels > 0) == generic);
                    of.map(|r| r.latency_us)
                };
                Part {
                    runs: times().count(),
                    median_us: median(times()),
                }
            };
            let times = || runs.iter().map(|r| r.latency_us);
            Row {
                shape: shape.to_owned(),
                count: runs.len(),
                first_us: times().next().unwrap_or(0),
                median_us: median(times()).unwrap_or(0),
                p99_us: percentile(times(), 99).unwrap_or(0),
                generic: part(true),
                specialized: part(false),
            }
        })
        .collect();
    // stable: equally frequent ones stay in the order of their first request
    rows.sort_by_key(|row| std::cmp::Reverse(row.count));
    rows
}

/// The rows for people.
pub(crate) fn show(rows: &[Row], console: &mut Console) -> Result<(), Failure> {
    for row in rows.iter().take(SHOWN) {
        let part = |part: &Part| match part.median_us {
            Some(time) => format!("{} (median {})", part.runs, micros(time)),
            None => part.runs.to_string(),
        };
        console.line(format_args!(
            "shape {}  {} runs: first {}, median {}, p99 {}  generic {}, specialised {}",
            row.shape,
            row.count,
            micros(row.first_us),
            micros(row.median_us),
            micros(row.p99_us),
            part(&row.generic),
            part(&row.specialized)
        ))?;
    }
    if let Some(more @ 1..) = rows.len().checked_sub(SHOWN) {
        console.line(format_args!("… and {more} more shapes, which --json shows"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bespoke::runtime::{GraphReason, GraphUse};

    fn report(shape: &str, latency_us: u64, generic_kernels: usize) -> RunReport {
        RunReport {
            run: 0,
            shape: shape.into(),
            latency_us,
            generic_kernels,
            specialized_kernels: 0,
            graph: GraphUse::Replayed,
            graph_reason: GraphReason::MadeAtLoad,
            bind_us: 0,
            record_us: 0,
            new_shape: false,
            segments: 1,
            tier: 0,
        }
    }

    #[test]
    fn each_shape_has_its_numbers() {
        let rows = rows(&[
            report("a", 50, 1),
            report("b", 9, 1),
            report("a", 20, 1),
            report("b", 5, 0),
            report("b", 7, 0),
        ]);
        let numbers: Vec<_> = rows
            .iter()
            .map(|r| (r.shape.as_str(), r.count, r.first_us, r.median_us, r.p99_us))
            .collect();
        assert_eq!(numbers, [("b", 3, 9, 7, 9), ("a", 2, 50, 20, 50)]);
        let split = |row: &Row| {
            (
                row.generic.runs,
                row.generic.median_us,
                row.specialized.median_us,
            )
        };
        assert_eq!(split(&rows[0]), (1, Some(9), Some(5)));
        assert_eq!(split(&rows[1]), (2, Some(20), None));
    }
}
