//! What the host does around a device that does nothing.
//!
//! On a real device the host's work hides behind the device's, and on the host device behind the twins'. Here every launch
//! is over at once and every copy is one copy in memory, so what is left is what this crate costs: planning, binding
//! shapes, starting from a full cache, queueing a run. The device takes any cubin, and asks for those of an H100.
//!
//! ```text
//! cargo run --release -p bespoke-runtime --example host_side -- MODEL.onnx CACHE plan,bind,run,warm
//! ```
//!
//! `warm` compiles what the folder CACHE lacks first, for which NVRTC is needed once. Say `warm` alone to start in a
//! process that did nothing before. Times are least and median (in brackets: most) over several rounds.

use std::any::Any;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bespoke_cache::CacheConfig;
use bespoke_device::{
    Arch, Arena, Device, DeviceError, DeviceProps, DevicePtr, Edge, Graph, Image, Kernel, Launch,
    LaunchConfig, Mark, Memory, NoDependentLaunch, Result, Stream,
};
use bespoke_onnx::ImportOptions;
use bespoke_plan::{Plan, memory};
use bespoke_runtime::{
    Bindings, CompileService, EventKind, RunOptions, ServiceOptions, Session, SessionOptions,
    TensorView,
};

/// How long the host waits for a device between two runs.
const PAUSES: [Duration; 3] = [
    Duration::from_micros(500),
    Duration::from_millis(3),
    Duration::from_millis(20),
];

type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let mut args = std::env::args().skip(1);
    let (Some(model), Some(cache)) = (args.next(), args.next()) else {
        return Err("usage: host_side MODEL.onnx CACHE [plan,bind,run,warm]".into());
    };
    let parts = args.next().unwrap_or_else(|| "plan,bind,run,warm".into());
    let bench = Bench {
        model: model.into(),
        cache: cache.into(),
    };
    for part in parts.split(',') {
        match part {
            "plan" => bench.plan()?,
            "bind" => bench.bind()?,
            "run" => bench.run()?,
            "warm" => bench.warm()?,
            other => return Err(format!("no part `{other}`").into()),
        }
    }
    Ok(())
}

struct Bench {
    model: PathBuf,
    cache: PathBuf,
}

/// Times of one thing, in microseconds.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn take<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.0.push(start.elapsed().as_nanos() as f64 / 1e3);
        result
    }

    fn say(mut self, what: &str) {
        self.0.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (self.0.first(), self.0.last()) else {
            return;
        };
        let median = self.0[self.0.len() / 2];
        say(&format!(
            "  {what:<28} {least:>10.1} {median:>10.1} µs  (most {most:.1}, {} rounds)",
            self.0.len()
        ));
    }
}

fn say(line: &str) {
    // nobody reads a closed pipe
    let _ = writeln!(std::io::stdout(), "{line}");
}

impl Bench {
    fn planned(&self) -> std::result::Result<Plan, Box<dyn std::error::Error>> {
        let mut graph = bespoke_onnx::import(&self.model, &ImportOptions::default())?.graph;
        bespoke_passes::canonicalize(&mut graph)?;
        Ok(bespoke_plan::plan(&graph)?)
    }

    /// Import, passes and plan.
    fn plan(&self) -> Outcome {
        let (mut import, mut passes, mut plan) =
            (Times::default(), Times::default(), Times::default());
        let mut each: Vec<(&str, Times)> = Vec::new();
        for _ in 0..7 {
            let model =
                import.take(|| bespoke_onnx::import(&self.model, &ImportOptions::default()))?;
            let mut graph = model.graph;
            let report = passes.take(|| bespoke_passes::canonicalize(&mut graph))?;
            each.resize_with(report.passes.len(), || ("", Times::default()));
            for ((name, times), pass) in each.iter_mut().zip(&report.passes) {
                *name = pass.name;
                times.0.push(pass.time.as_nanos() as f64 / 1e3);
            }
            plan.take(|| bespoke_plan::plan(&graph))?;
        }
        say("plan");
        import.say("import");
        passes.say("passes");
        for (name, times) in each {
            times.say(&format!("  {name}"));
        }
        plan.say("plan");
        Ok(())
    }

    /// Binding, piece by piece.
    fn bind(&self) -> Outcome {
        let plan = self.planned()?;
        let shapes = shapes(&plan, 200);
        let mut times: [Times; 5] = Default::default();
        let mut values = Vec::new();
        let mut slots = Vec::new();
        for (symbols, dims) in &shapes {
            let dims: Vec<&[i64]> = dims.iter().map(Vec::as_slice).collect();
            times[0].take(|| plan.signature(&dims))?;
            let binding = times[1].take(|| plan.bind_symbols(symbols.clone()))?;
            let program = times[2].take(|| plan.program.run(symbols, &mut values));
            program.map_err(|(_, e)| e)?;
            times[3].take(|| memory::layout(&plan, &binding.sizes));
            times[4]
                .take(|| plan.slots(&plan.steps, &binding, |_, _, at| at, |_| None, &mut slots));
        }
        say(&format!(
            "bind: {} steps, {} buffers, {} expressions, {} guards, {} slots, {} shapes",
            plan.steps.len(),
            plan.buffers.len(),
            plan.exprs.len(),
            plan.guards.len(),
            slots.len(),
            shapes.len()
        ));
        let names = [
            "signature",
            "bind_symbols, the whole",
            "  program",
            "  layout",
            "slots",
        ];
        for (times, name) in times.into_iter().zip(names) {
            times.say(name);
        }
        Ok(())
    }

    fn service(&self) -> std::io::Result<Arc<CompileService>> {
        CompileService::new(ServiceOptions {
            cache: CacheConfig {
                dir: Some(self.cache.clone()),
                ..CacheConfig::default()
            },
            ..ServiceOptions::default()
        })
    }

    fn load(
        &self,
        strategy: &str,
        learn: bool,
    ) -> std::result::Result<Session, Box<dyn std::error::Error>> {
        let options = SessionOptions {
            strategy: strategy.into(),
            learn,
            ..SessionOptions::default()
        };
        Ok(Session::load(
            &self.model,
            Arc::new(Idle::new()?),
            self.service()?,
            options,
        )?)
    }

    /// Runs: new shapes and steady ones.
    fn run(&self) -> Outcome {
        let session = self.load("none", false)?;
        let shapes = shapes(session.plan(), 200);
        let (mut fresh, mut bound, mut steady) =
            (Times::default(), Times::default(), Times::default());
        for (_, dims) in &shapes {
            let bindings = bindings(session.plan(), dims);
            let report = fresh.take(|| session.run_into(&bindings, &RunOptions::default()))?;
            bound.0.push(report.bind_us as f64);
        }
        let bindings = bindings(session.plan(), &shapes[0].1);
        for _ in 0..2000 {
            steady.take(|| session.run_into(&bindings, &RunOptions::default()))?;
        }
        say("run");
        fresh.say("a new shape, the whole call");
        bound.say("  bind");
        steady.say("a steady replay");
        // as on a device that works for so long: the threads of the session have gone to sleep
        for pause in PAUSES {
            let mut rested = Times::default();
            for _ in 0..200 {
                std::thread::sleep(pause);
                rested.take(|| session.run_into(&bindings, &RunOptions::default()))?;
            }
            rested.say(&format!("a steady replay after {pause:?}"));
        }
        Ok(())
    }

    /// From nothing to a first run on specialised kernels, everything being in the cache.
    fn warm(&self) -> Outcome {
        say("warm");
        let mut first = true;
        let (mut load, mut run) = (Times::default(), Times::default());
        let mut rounds = 0;
        while rounds < 7 {
            let session = load.take(|| self.load("lazy", true))?;
            let plan = session.plan();
            let bindings = bindings(plan, &shapes(plan, 1)[0].1);
            let report = run.take(|| session.run_into(&bindings, &RunOptions::default()))?;
            let ready = session.wait_specialized(Duration::from_secs(900));
            let stats = session.stats();
            let full = stats.kernels_compiled == 0;
            if first {
                say(&format!(
                    "  the first start: {} of {} kernels generic in the first run; {} compiled, {} from the cache, \
                     {} from memory, {} failed; came to rest: {ready}",
                    report.generic_kernels,
                    plan.steps.len(),
                    stats.kernels_compiled,
                    stats.kernels_from_cache,
                    stats.kernels_from_memory,
                    stats.kernels_failed,
                ));
                for event in session.events() {
                    match event.kind {
                        EventKind::Loaded {
                            import_us,
                            passes_us,
                            plan_us,
                            compile_us,
                            setup_us,
                            total_us,
                            ..
                        } => say(&format!(
                            "  loaded: import {import_us}, passes {passes_us}, plan {plan_us}, compile {compile_us}, \
                             set-up {setup_us}, total {total_us} µs"
                        )),
                        EventKind::Recall { .. } | EventKind::Install { .. } => {
                            say(&format!("  {:>8} µs {:?}", event.at_us, event.kind));
                        }
                        _ => {}
                    }
                }
                say(&format!(
                    "  session after {:.0} µs, first run {:.0} µs",
                    load.0[0], run.0[0]
                ));
            }
            if !full {
                // that one filled the cache: the times that count begin now
                (load, run) = (Times::default(), Times::default());
                continue;
            }
            first = false;
            rounds += 1;
            if report.generic_kernels > 0 {
                say("  the first run was not specialised");
            }
        }
        load.say("load");
        run.say("first run");
        Ok(())
    }
}

/// Shapes that a plan takes: the values of its symbols, and the extents of every input.
fn shapes(plan: &Plan, count: usize) -> Vec<(Vec<i64>, Vec<Vec<i64>>)> {
    let mut found = Vec::new();
    for i in 0..count as i64 * 4 {
        let symbols: Vec<i64> = plan
            .symbols
            .iter()
            .enumerate()
            .map(|(k, (_, symbol))| {
                let step = symbol.divisor.max(1);
                let first = (symbol.min.max(1) + step - 1) / step * step;
                let choices = ((symbol.max - first) / step + 1).clamp(1, 21);
                // neighbours differ in every extent
                first + step * ((i + i / 21 * k as i64) % choices)
            })
            .collect();
        let dims: Option<Vec<Vec<i64>>> = plan
            .inputs
            .iter()
            .map(|p| p.ty.dims.iter().map(|d| d.eval(&symbols).ok()).collect())
            .collect();
        let known = found.iter().any(|(known, _)| *known == symbols);
        if let Some(dims) = dims
            && !known
            && plan.bind_symbols(symbols.clone()).is_ok()
        {
            found.push((symbols, dims));
        }
        if found.len() == count {
            break;
        }
    }
    found
}

fn bindings(plan: &Plan, dims: &[Vec<i64>]) -> Bindings {
    let view = |dtype, dims: &[i64], at: u64| TensorView {
        pointer: DevicePtr(at),
        dtype,
        dims: dims.to_vec(),
        strides: None,
        capacity: 1 << 40,
    };
    let inputs = plan.inputs.iter().zip(dims);
    let outputs = plan.outputs.iter();
    Bindings {
        inputs: inputs
            .enumerate()
            .map(|(i, (p, d))| (p.name.clone(), view(p.ty.dtype, d, (i as u64 + 1) << 40)))
            .collect(),
        outputs: outputs
            .enumerate()
            .map(|(i, p)| (p.name.clone(), view(p.ty.dtype, &[], (i as u64 + 64) << 40)))
            .collect(),
    }
}

/// A device whose work is over at once.
#[derive(Debug)]
struct Idle {
    props: DeviceProps,
    next: Arc<AtomicU64>,
}

impl Idle {
    fn new() -> std::result::Result<Idle, Box<dyn std::error::Error>> {
        let arch: Arch = "sm_90a".parse()?;
        Ok(Idle {
            props: DeviceProps::preset(arch),
            next: Arc::new(AtomicU64::new(1 << 32)),
        })
    }
}

/// Addresses without memory.
#[derive(Debug)]
struct Range {
    at: u64,
    len: u64,
}

impl Memory for Range {
    fn ptr(&self) -> DevicePtr {
        DevicePtr(self.at)
    }

    fn len(&self) -> u64 {
        self.len
    }
}

impl Arena for Range {
    fn ptr(&self) -> DevicePtr {
        DevicePtr(self.at)
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn grow(&mut self, bytes: u64) -> Result<()> {
        self.len = self.len.max(bytes);
        Ok(())
    }
}

#[derive(Debug)]
struct Name(String);

impl Kernel for Name {
    fn name(&self) -> &str {
        &self.0
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[derive(Debug)]
struct Chain(Vec<Launch>);

impl Graph for Chain {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn programmatic(&self) -> usize {
        0
    }

    fn update(&mut self, index: usize, launch: &Launch) -> Result<()> {
        self.0[index] = launch.clone();
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[derive(Debug)]
struct Now;

impl Mark for Now {
    fn since(&self, _: &dyn Mark) -> Result<f64> {
        Ok(0.0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What is written goes through one buffer, as copies to a device go through pinned memory.
#[derive(Debug)]
struct Queue(Mutex<Vec<u8>>);

/// Length of that buffer.
const STAGE: usize = 4 << 20;

impl Stream for Queue {
    fn write(&self, _: DevicePtr, from: &[u8]) -> Result<()> {
        let mut stage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in from.chunks(STAGE) {
            let len = stage.len().max(piece.len());
            stage.resize(len, 0);
            stage[..piece.len()].copy_from_slice(piece);
        }
        Ok(())
    }

    fn read(&self, to: &mut [u8], _: DevicePtr) -> Result<()> {
        to.fill(0);
        Ok(())
    }

    fn copy(&self, _: DevicePtr, _: DevicePtr, _: u64) -> Result<()> {
        Ok(())
    }

    fn launch(&self, _: &Launch) -> Result<()> {
        Ok(())
    }

    fn upload(&self, _: &dyn Graph) -> Result<()> {
        Ok(())
    }

    fn replay(&self, _: &dyn Graph) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn mark(&self) -> Result<Box<dyn Mark>> {
        Ok(Box::new(Now))
    }

    fn native(&self) -> u64 {
        0
    }

    fn follow(&self, _: u64) -> Result<()> {
        Ok(())
    }

    fn precede(&self, _: u64) -> Result<()> {
        Ok(())
    }
}

impl Device for Idle {
    fn props(&self) -> &DeviceProps {
        &self.props
    }

    fn target(&self) -> Option<Arch> {
        Some(self.props.arch)
    }

    fn needs_cubin(&self) -> bool {
        true
    }

    fn alloc(&self, _: &str, bytes: u64) -> Result<Arc<dyn Memory>> {
        let len = bytes.next_multiple_of(256);
        Ok(Arc::new(Range {
            at: self.next.fetch_add(len, Ordering::Relaxed),
            len: bytes,
        }))
    }

    fn reserve(&self, _: u64) -> Result<Box<dyn Arena>> {
        Ok(Box::new(Range {
            at: 1 << 50,
            len: 0,
        }))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(Queue(Mutex::default())))
    }

    fn load(&self, image: &Image) -> Result<Arc<dyn Kernel>> {
        Ok(Arc::new(Name(image.name.clone())))
    }

    fn graph(&self, launches: &[Launch], _: &[Edge]) -> Result<Box<dyn Graph>> {
        Ok(Box::new(Chain(launches.to_vec())))
    }

    fn dependent_launch(&self) -> std::result::Result<(), NoDependentLaunch> {
        Err(NoDependentLaunch::Serial)
    }

    fn occupancy(&self, _: &Arc<dyn Kernel>, _: LaunchConfig) -> Result<u32> {
        Ok(1)
    }

    fn memory(&self) -> Result<(u64, u64)> {
        Ok((80 << 30, 80 << 30))
    }

    fn lost(&self) -> Option<DeviceError> {
        None
    }
}
