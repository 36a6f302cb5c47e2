//! A round: a fresh device, compiler, cache and session, and every point measured in it, in order.
//!
//! A timed run is a synchronised one: from the call until the device is done, by the host's clock. Inputs and outputs lie
//! in the device's memory, unless transfers are part of what is measured. Timing begins when the strategy has nothing more
//! to install, and after warm-up runs: a GPU that waited for a compiler has lowered its clocks and takes a while to raise
//! them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bespoke::ErrorKind;
use bespoke::ir::Constant;
use bespoke::onnx::{ImportOptions, import};
use bespoke::runtime::Feed;
use bespoke::runtime::{ArithmeticUse, CompileCost, EventKind, RunReport, Session, Stats};
use serde::Serialize;

use super::host::HostTime;
use super::points::Points;
use super::profile::Profile;
use super::statistics::Statistics;
use super::warm::{Warming, warm_up};
use super::warnings::{Disturbance, Evidence, Warning, find};
use super::work::Work;
use crate::console::Console;
use crate::failure::Failure;
use crate::options::SessionOptions;
use crate::session::Workplace;
use crate::warnings;

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Effort {
    /// Timed runs at least.
    pub(crate) iterations: usize,
    /// Time of untimed runs before, at least.
    pub(crate) warm_up: Duration,
    /// Time of timed runs at least.
    pub(crate) duration: Duration,
    /// Time of timed runs after which a measurement ends even with fewer iterations.
    pub(crate) max_duration: Option<Duration>,
    /// Percentiles to report.
    pub(crate) percentiles: Vec<f64>,
    /// The longest wait for specialised kernels.
    pub(crate) patience: Duration,
    /// Whether inputs come from host memory and outputs go there, in every run.
    pub(crate) transfers: bool,
    /// Whether steps are profiled too.
    pub(crate) profile: bool,
    /// Whether the host's part of a run is measured too.
    pub(crate) host_time: bool,
}

/// Timed runs at least, whatever the limit on time.
const FEWEST: usize = 5;

/// What the kernel cache holds when a round begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CacheState {
    /// What the user's folder happens to hold.
    Found,
    /// Nothing.
    Cold,
    /// Every kernel that the round needs.
    Warm,
}

impl CacheState {
    /// The name in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            CacheState::Found => "found",
            CacheState::Cold => "cold",
            CacheState::Warm => "warm",
        }
    }
}

/// What loading took, in milliseconds; the phases add up to `load_ms` less what starts the session's threads.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Load {
    /// To open the device, the compile threads and the cache.
    pub(crate) open_ms: f64,
    /// To read the model, plan it and make it ready, what the strategy compiles beforehand included.
    pub(crate) load_ms: f64,
    /// To read the model.
    pub(crate) import_ms: f64,
    /// To bring the graph into canonical form and fuse it.
    pub(crate) passes_ms: f64,
    /// To make the plan.
    pub(crate) plan_ms: f64,
    /// To compile and load the generic kernels.
    pub(crate) load_compile_ms: f64,
    /// To upload and prepare weights and record the generic graph.
    pub(crate) setup_ms: f64,
    /// Of that, the weights.
    pub(crate) weights_ms: f64,
    /// Of that, to record.
    pub(crate) load_record_ms: f64,
    /// Kernels compiled.
    pub(crate) load_compiled: u64,
    /// Kernels from the cache.
    pub(crate) load_cached: u64,
}

/// One timed run, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    /// From the beginning of the first timed run to that of this one.
    pub(crate) start_ms: f64,
    /// What it took.
    pub(crate) ms: f64,
}

/// A point in a round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measurement {
    /// Extents of every input.
    pub(crate) shape: String,
    pub(crate) strategy: String,
    pub(crate) graph: &'static str,
    /// What came of --arithmetic, a choice each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) arithmetic: Vec<ArithmeticUse>,
    pub(crate) cache: CacheState,
    /// Whether inputs and outputs travelled.
    pub(crate) transfers: bool,
    pub(crate) device: String,
    #[serde(flatten)]
    pub(crate) load: Load,
    /// The first run at this shape.
    pub(crate) first_ms: f64,
    /// To bind the shape, within the first run.
    pub(crate) bind_us: u64,
    /// To record a graph on the path of the first run.
    pub(crate) record_us: u64,
    /// To record graphs for this point, beside the path too.
    pub(crate) record_ms: f64,
    /// Waiting after the first run until nothing is left to install.
    pub(crate) specialize_ms: f64,
    /// After that, planning the shape anew and compiling its second tier, if the strategy has one.
    pub(crate) second_tier_ms: f64,
    /// After that, compiling and timing tiles that may be better, if that is asked for.
    pub(crate) refine_ms: f64,
    /// Kinds of steps whose tiles were timed for it, and those that have other tiles since.
    pub(crate) tiles_timed: u64,
    pub(crate) tiles_won: u64,
    /// Tier of the program in the timed runs: 0 is the generic one, 1 has kernels made for the shape, 2 a plan of its own.
    pub(crate) tier: u8,
    /// Kernels compiled for this point.
    pub(crate) compiled: u64,
    /// Kernels from the cache for this point.
    pub(crate) cached: u64,
    /// Kernels replayed from the cache for this point, as `--compile-cost` asks.
    pub(crate) replayed: u64,
    /// By which the times of compiles were multiplied.
    pub(crate) compile_cost: CompileCost,
    /// What the compiler took for them, summed over its threads.
    pub(crate) compile_ms: f64,
    /// Generic kernels in the timed runs.
    pub(crate) generic: usize,
    /// Specialised kernels in the timed runs.
    pub(crate) specialized: usize,
    pub(crate) steps: usize,
    /// Steps that only copy.
    pub(crate) copies: usize,
    /// Timed runs.
    pub(crate) runs: usize,
    /// The median of the timed runs.
    pub(crate) steady_ms: f64,
    /// The fastest of them.
    pub(crate) fastest_ms: f64,
    pub(crate) steady: Statistics,
    /// Most memory of the GPU in use, by anyone, of the looks between the phases; absent on the host.
    pub(crate) peak_memory_bytes: Option<u64>,
    /// The same before the model was loaded.
    pub(crate) memory_before_bytes: Option<u64>,
    /// Most device memory that the session has held so far, as its limit counts it, and this point's inputs and outputs.
    pub(crate) session_memory_bytes: u64,
    pub(crate) warnings: Vec<Warning>,
    /// The time of every step, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) profile: Option<Profile>,
    /// What a run takes of the host, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host_time: Option<HostTime>,
    /// Every timed run.
    #[serde(skip)]
    pub(crate) samples: Vec<Sample>,
}

/// A round's name and how it is set up.
#[derive(Debug)]
pub(crate) struct Round<'a> {
    pub(crate) model: &'a Path,
    pub(crate) flags: SessionOptions,
    pub(crate) cache: CacheState,
    pub(crate) effort: &'a Effort,
    /// Who hears of what the session does.
    pub(crate) feeds: Vec<Feed>,
}

/// A model on a device that was just opened.
struct Opened {
    place: Workplace,
    session: Session,
    load: Load,
    memory_before: Option<u64>,
}

/// Memory of a GPU in use.
fn memory(place: &Workplace) -> Option<u64> {
    let known = place.on_gpu.then(|| place.device.memory().ok()).flatten();
    known.map(|(free, total)| total.saturating_sub(free))
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Time to record graphs, of the events from number `from` on, and the number after the last.
fn recorded(session: &Session, from: u64) -> (f64, u64) {
    let events = session.events();
    let micros: u64 = events
        .iter()
        .filter(|event| event.seq >= from)
        .filter_map(|event| match event.kind {
            EventKind::Record { micros, .. } => Some(micros),
            _ => None,
        })
        .sum();
    let next = events.last().map_or(from, |event| event.seq + 1);
    (micros as f64 / 1e3, next)
}

/// A point that is warmed up.
struct Warmed<'a, 'w> {
    round: &'a Round<'a>,
    session: &'a Session,
    shape: (&'a [String], &'a [Arc<Constant>]),
    work: &'a mut Work<'w>,
}

impl Warming for Warmed<'_, '_> {
    fn stats(&self) -> Stats {
        self.session.stats()
    }

    fn run(&mut self) -> Result<(), Failure> {
        self.work.run().map(drop)
    }

    fn settle(&mut self) -> Result<f64, Failure> {
        self.round.settle(self.session)
    }

    fn ask(&mut self) -> Result<f64, Failure> {
        let (names, inputs) = self.shape;
        self.round.ask(self.session, names, inputs)
    }
}

impl Round<'_> {
    fn open(&self, console: &mut Console) -> Result<Opened, Failure> {
        let start = Instant::now();
        let place = Workplace::open(&self.flags, console)?;
        let open_ms = ms(start);
        let memory_before = memory(&place);
        let start = Instant::now();
        let model = import(self.model, &ImportOptions::segmented())?;
        let import_ms = ms(start);
        let session = place.session(model, self.feeds.clone(), console)?;
        let load_ms = ms(start);
        let stats = place.service.stats();
        let mut load = Load {
            open_ms,
            load_ms,
            import_ms,
            load_record_ms: recorded(&session, 0).0,
            load_compiled: stats.compiled,
            load_cached: stats.cache_hits,
            ..Load::default()
        };
        for event in session.events() {
            if let EventKind::Loaded {
                passes_us,
                plan_us,
                compile_us,
                setup_us,
                weights_us,
                ..
            } = event.kind
            {
                let ms = |us: u64| us as f64 / 1e3;
                load.passes_ms = ms(passes_us);
                load.plan_ms = ms(plan_us);
                load.load_compile_ms = ms(compile_us);
                load.setup_ms = ms(setup_us);
                load.weights_ms = ms(weights_us);
            }
        }
        Ok(Opened {
            place,
            session,
            load,
            memory_before,
        })
    }

    /// Runs every point once and waits for what it compiles, so that the cache holds all that a later round needs.
    ///
    /// # Errors
    ///
    /// As [`Round::measure`].
    pub(crate) fn fill(&self, points: &Points, console: &mut Console) -> Result<(), Failure> {
        let opened = self.open(console)?;
        for inputs in &points.inputs {
            let mut work = Work::new(&opened.session, &points.names, inputs, false)?;
            work.run()?;
            self.settle(&opened.session)?;
            // its second tier, and then its tiles
            for _ in 0..2 {
                self.ask(&opened.session, &points.names, inputs)?;
            }
        }
        Ok(())
    }

    /// Measures every point and hands each measurement on as soon as it is there. Returns the kernels that did not
    /// compile, each with the reason.
    ///
    /// # Errors
    ///
    /// A device or a cache that cannot be used, a model that cannot be run, kernels that are not ready in time.
    pub(crate) fn measure(
        &self,
        points: &Points,
        console: &mut Console,
        mut each: impl FnMut(Measurement, &mut Console) -> Result<(), Failure>,
    ) -> Result<Vec<String>, Failure> {
        let opened = self.open(console)?;
        let mut measured = Ok(());
        for inputs in &points.inputs {
            let point = self.point(&opened, &points.names, inputs);
            measured = point.and_then(|measurement| each(measurement, console));
            if measured.is_err() {
                break;
            }
        }
        // What befell the session is told before the error that it may have led to.
        let (events, stats) = (opened.session.events(), opened.session.stats());
        for line in warnings::of_session(&events, stats.events_dropped) {
            console.warn(line);
        }
        opened.place.tell_cache(console);
        measured?;
        let refused = events.into_iter().filter_map(|event| match event.kind {
            EventKind::CompileFailed { kernel, reason, .. } => Some(format!("{kernel}: {reason}")),
            _ => None,
        });
        Ok(refused.collect())
    }

    /// Waits until nothing is left to install; returns how long that took, in milliseconds.
    fn settle(&self, session: &Session) -> Result<f64, Failure> {
        let start = Instant::now();
        if session.wait_specialized(self.effort.patience) {
            return Ok(ms(start));
        }
        let message = format!(
            "the specialised kernels were not ready after {} s",
            self.effort.patience.as_secs_f64()
        );
        Err(Failure::new(
            ErrorKind::Timeout,
            message,
            "raise --patience, or use --specialize none",
        ))
    }

    /// Asks for the best that the strategy has for a shape, and waits for it: what many more runs would bring about.
    /// Returns how long that took, in milliseconds.
    fn ask(
        &self,
        session: &Session,
        names: &[String],
        inputs: &[Arc<Constant>],
    ) -> Result<f64, Failure> {
        let shape = names
            .iter()
            .zip(inputs)
            .map(|(name, input)| (name.clone(), input.dims().to_vec()));
        session.prewarm(&[shape.collect()])?;
        self.settle(session)
    }

    fn point(
        &self,
        opened: &Opened,
        names: &[String],
        inputs: &[Arc<Constant>],
    ) -> Result<Measurement, Failure> {
        let Opened { place, session, .. } = opened;
        let effort = self.effort;
        let mut work = Work::new(session, names, inputs, effort.transfers)?;
        let mut peak = memory(place).max(opened.memory_before);
        let (_, from) = recorded(session, u64::MAX);
        let (compiles, events) = (place.service.stats(), session.stats());

        let start = Instant::now();
        let first = work.run()?;
        let first_ms = ms(start);
        peak = peak.max(memory(place));
        let mut specialize_ms = self.settle(session)?;
        peak = peak.max(memory(place));
        let counted = session.stats();
        let mut warming = Warmed {
            round: self,
            session,
            shape: (names, inputs),
            work: &mut work,
        };
        let waited = warm_up(&mut warming, effort.warm_up)?;
        specialize_ms += waited.specialize_ms;
        let (record_ms, _) = recorded(session, from);
        let calm = session.stats();
        let (samples, last) = time(effort, &mut work)?;
        // Whatever began meanwhile is over after this, and so is counted.
        self.settle(session)?;
        let disturbance = Disturbance::between(&calm, &session.stats());
        peak = peak.max(memory(place));

        let times: Vec<f64> = samples.iter().map(|s| s.ms).collect();
        let steady = Statistics::of(&times, &effort.percentiles).ok_or_else(|| {
            Failure::new(
                ErrorKind::Internal,
                "nothing was measured",
                "please report it",
            )
        })?;
        let stats = place.service.stats();
        let compiled = stats.compiled - compiles.compiled;
        let failed = |s: &Stats| s.kernels_failed;
        let found = find(&Evidence {
            samples: &times,
            steady: &steady,
            disturbance,
            still_generic: match self.flags.specialize.word.as_str() {
                "none" => 0,
                _ => last.generic_kernels,
            },
            warm_compiled: match self.cache {
                CacheState::Warm => compiled + opened.load.load_compiled,
                _ => 0,
            },
            failed: failed(&session.stats()) - failed(&events),
        });
        let profile = match effort.profile {
            true => Some(work.profile(names, inputs)?),
            false => None,
        };
        let session_memory_bytes = session.stats().peak_memory_bytes + work.bytes();
        let host_time = match effort.host_time {
            true => Some(work.host_time(names, inputs, steady.median_ms)?),
            false => None,
        };
        Ok(Measurement {
            shape: first.shape,
            strategy: self.flags.specialize.word.clone(),
            graph: self.flags.cuda_graph.name(),
            arithmetic: session.arithmetic(),
            cache: self.cache,
            transfers: effort.transfers,
            device: place.words.clone(),
            load: opened.load,
            first_ms,
            bind_us: first.bind_us,
            record_us: first.record_us,
            record_ms,
            specialize_ms,
            second_tier_ms: waited.second_tier_ms,
            refine_ms: waited.refine_ms,
            tiles_timed: calm.tiles_timed - counted.tiles_timed,
            tiles_won: calm.tiles_won - counted.tiles_won,
            tier: last.tier,
            compiled,
            cached: stats.cache_hits - compiles.cache_hits,
            replayed: stats.replayed - compiles.replayed,
            compile_cost: self.flags.cost.compile_cost,
            compile_ms: (stats.compile_micros - compiles.compile_micros) as f64 / 1e3,
            generic: last.generic_kernels,
            specialized: last.specialized_kernels,
            steps: session.plans().iter().map(|plan| plan.steps.len()).sum(),
            copies: session.plans().iter().map(|plan| plan.copy_count()).sum(),
            runs: steady.runs,
            steady_ms: steady.median_ms,
            fastest_ms: steady.min_ms,
            steady,
            peak_memory_bytes: peak,
            memory_before_bytes: opened.memory_before,
            session_memory_bytes,
            warnings: found,
            profile,
            host_time,
            samples,
        })
    }
}

/// The timed runs and the report of the last.
fn time(effort: &Effort, work: &mut Work<'_>) -> Result<(Vec<Sample>, RunReport), Failure> {
    let mut samples = Vec::with_capacity(effort.iterations.min(1 << 16));
    let began = Instant::now();
    loop {
        let start = Instant::now();
        let report = work.run()?;
        let took = ms(start);
        samples.push(Sample {
            start_ms: start.duration_since(began).as_secs_f64() * 1e3,
            ms: took,
        });
        if enough(effort, samples.len(), began.elapsed()) {
            return Ok((samples, report));
        }
    }
}

/// Whether so many runs in that time suffice.
fn enough(effort: &Effort, runs: usize, elapsed: Duration) -> bool {
    let limit = effort.max_duration.is_some_and(|most| elapsed >= most);
    let full = runs >= effort.iterations && elapsed >= effort.duration;
    full || limit && runs >= FEWEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timing_ends_with_enough_runs_and_time_or_at_the_limit() {
        let effort = |iterations, duration, most: Option<u64>| Effort {
            iterations,
            warm_up: Duration::ZERO,
            duration: Duration::from_secs(duration),
            max_duration: most.map(Duration::from_secs),
            percentiles: Vec::new(),
            patience: Duration::ZERO,
            transfers: false,
            profile: false,
            host_time: false,
        };
        let after =
            |effort: Effort, runs, seconds| enough(&effort, runs, Duration::from_secs(seconds));
        assert!(!after(effort(10, 3, None), 9, 60));
        assert!(!after(effort(10, 3, None), 1000, 2));
        assert!(after(effort(10, 3, None), 10, 3));
        assert!(after(effort(10, 0, None), 10, 0));
        assert!(
            !after(effort(10, 3, Some(20)), 4, 60),
            "a median of fewer means nothing"
        );
        assert!(after(effort(10, 3, Some(20)), 5, 20));
        assert!(after(effort(1, 0, None), 1, 0));
    }
}
