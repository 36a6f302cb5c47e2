//! The benchmark harness: one model, some shapes, some strategies, one JSON line a measurement.
//!
//! Inputs and outputs stay on the device. What happens once (load, compile, first run, record) is reported apart from the
//! steady state, which is the median of many runs, each timed from the call to the end of the device's work. Numbers mean
//! something only next to others of the same run of this program on the same machine.

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bespoke::cache::{CacheConfig, Mode};
use bespoke::device::Memory;
use bespoke::ir::DType;
use bespoke::{
    Bindings, CompileService, DeviceChoice, GraphMode, RunOptions, ServiceOptions, Session,
    SessionOptions, TensorView,
};
use clap::Parser;
use serde::Serialize;

/// Times a model.
#[derive(Debug, Parser)]
struct Arguments {
    /// The model.
    model: PathBuf,
    /// Extents of every input, `ids:1x128,mask:1x128`; may be given several times.
    #[arg(long, required = true)]
    shapes: Vec<String>,
    /// Strategies to time.
    #[arg(long, value_delimiter = ',', default_value = "none,lazy")]
    strategies: Vec<String>,
    /// Whether runs are graphs: whole, off.
    #[arg(long, value_delimiter = ',', default_value = "whole")]
    graphs: Vec<String>,
    /// Shape that `static` tunes for; the first one if not given.
    #[arg(long)]
    opt_shapes: Option<String>,
    /// Timed runs of each measurement.
    #[arg(long, default_value_t = 30)]
    iterations: usize,
    /// Seconds after which a measurement ends with fewer timed runs, but at least 5.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// Folder of the cache; nothing is cached without.
    #[arg(long)]
    cache_dir: Option<PathBuf>,
    /// Run on the processor.
    #[arg(long)]
    host: bool,
    /// Threads of the processor.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Seconds to wait for background compiles.
    #[arg(long, default_value_t = 300)]
    patience: u64,
}

/// One measurement; times in milliseconds.
#[derive(Debug, Serialize)]
struct Line {
    schema: u32,
    model: String,
    shape: String,
    strategy: String,
    graph: String,
    load_ms: f64,
    load_compiled: u64,
    load_cached: u64,
    first_ms: f64,
    bind_us: u64,
    record_us: u64,
    specialize_ms: f64,
    compiled: u64,
    cached: u64,
    compile_ms: f64,
    generic: usize,
    specialized: usize,
    steps: usize,
    copies: usize,
    /// Timed runs, of which `steady_ms` is the median.
    runs: usize,
    steady_ms: f64,
    fastest_ms: f64,
    device: String,
}

type Shapes = Vec<(String, Vec<i64>)>;

fn parse_shapes(text: &str) -> Result<Shapes, Box<dyn Error>> {
    text.split(',')
        .map(|part| {
            let (name, dims) = part
                .rsplit_once(':')
                .ok_or(format!("`{part}` is not NAME:1x2x3"))?;
            let dims = if dims.is_empty() {
                Vec::new()
            } else {
                dims.split('x').map(str::parse).collect::<Result<_, _>>()?
            };
            Ok((name.to_owned(), dims))
        })
        .collect()
}

/// Elements after which the sequence of [`fill`] repeats: enough that data looks random to the hardware, little enough
/// that filling large tensors takes no time that matters.
const PERIOD: usize = 1 << 20;

/// Small numbers of a fixed sequence: floats around 0, ones for integers, which index tables and mask nothing.
fn fill(dtype: DType, bytes: usize) -> Vec<u8> {
    let size = dtype.size().unwrap_or(1);
    let mut state: u32 = 0x9e37_79b9;
    let whole = bytes.min(PERIOD * size);
    let mut out = Vec::with_capacity(bytes);
    while out.len() < whole {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let x = (f64::from(state >> 8) / f64::from(1 << 24) - 0.5) * 0.35;
        let scalar = match dtype {
            _ if dtype.is_float() => bespoke::ir::Scalar::float(dtype, x),
            _ => bespoke::ir::Scalar::int(dtype, 1),
        };
        let element = bespoke::ir::op::map::scalar_bytes(scalar);
        debug_assert_eq!(element.len(), size);
        out.extend(element);
    }
    while out.len() < bytes {
        let more = out.len().min(bytes - out.len());
        out.extend_from_within(..more);
    }
    out.truncate(bytes);
    out
}

/// Device memory for a shape's inputs and outputs.
struct Tensors {
    bindings: Bindings,
    _memory: Vec<Arc<dyn Memory>>,
}

fn tensors(session: &Session, shapes: &Shapes) -> Result<Tensors, Box<dyn Error>> {
    let device = session.device();
    let plan = session.plan();
    let stream = device.stream()?;
    let mut dims: Vec<&[i64]> = Vec::new();
    for port in &plan.inputs {
        let found = shapes.iter().find(|s| s.0 == port.name);
        dims.push(
            &found
                .ok_or(format!("no shape for input `{}`", port.name))?
                .1,
        );
    }
    let binding = plan.bind(&dims)?;
    let mut bindings = Bindings::default();
    let mut memory = Vec::new();
    for (ports, inputs) in [(&plan.inputs, true), (&plan.outputs, false)] {
        for port in ports {
            let bytes = binding.sizes[port.buffer.0 as usize];
            let m = device.alloc(&port.name, bytes.max(1))?;
            if inputs {
                stream.write(m.ptr(), &fill(port.ty.dtype, bytes as usize))?;
            }
            let view = TensorView {
                pointer: m.ptr(),
                dtype: port.ty.dtype,
                dims: port.dims.iter().map(|&d| binding.get(d)).collect(),
                strides: None,
                capacity: bytes,
            };
            let list = if inputs {
                &mut bindings.inputs
            } else {
                &mut bindings.outputs
            };
            list.push((port.name.clone(), view));
            memory.push(m);
        }
    }
    stream.synchronize()?;
    Ok(Tensors {
        bindings,
        _memory: memory,
    })
}

/// What precedes timing, at least: a GPU that waited for a compiler has lowered its clocks and takes a while to raise them.
const WARM_RUNS: u32 = 4;
const WARM_TIME: Duration = Duration::from_millis(300);

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn time(args: &Arguments, out: &mut impl std::io::Write) -> Result<(), Box<dyn Error>> {
    let choice = if args.host {
        DeviceChoice::Host {
            threads: args.threads,
            target: None,
        }
    } else {
        DeviceChoice::Cuda { ordinal: 0 }
    };
    let (device, name) = bespoke::open_device(choice)?;
    let shapes: Vec<Shapes> = args
        .shapes
        .iter()
        .map(|s| parse_shapes(s))
        .collect::<Result<_, _>>()?;
    let opt = match &args.opt_shapes {
        Some(text) => parse_shapes(text)?,
        None => shapes.first().cloned().unwrap_or_default(),
    };
    for strategy in &args.strategies {
        for graph in &args.graphs {
            // each strategy starts like a new process: a service and a session of its own
            let cache = match &args.cache_dir {
                Some(dir) => CacheConfig::at(dir),
                None => CacheConfig {
                    mode: Mode::Off,
                    ..CacheConfig::default()
                },
            };
            let service = CompileService::new(ServiceOptions {
                cache,
                ..ServiceOptions::default()
            })?;
            let options = SessionOptions {
                strategy: strategy.clone(),
                opt_shapes: if strategy == "static" {
                    opt.clone()
                } else {
                    Vec::new()
                },
                cuda_graph: if graph == "off" {
                    GraphMode::Off
                } else {
                    GraphMode::Whole
                },
                ..SessionOptions::default()
            };
            let start = Instant::now();
            let session = Session::load(&args.model, device.clone(), service.clone(), options)?;
            let load_ms = ms(start);
            let loaded = service.stats();
            for shape in &shapes {
                let line = measure(args, &session, &service, shape, strategy, graph)?;
                let line = Line {
                    load_ms,
                    load_compiled: loaded.compiled,
                    load_cached: loaded.cache_hits,
                    device: name.clone(),
                    ..line
                };
                writeln!(out, "{}", serde_json::to_string(&line)?)?;
                out.flush()?;
            }
        }
    }
    Ok(())
}

fn measure(
    args: &Arguments,
    session: &Session,
    service: &CompileService,
    shape: &Shapes,
    strategy: &str,
    graph: &str,
) -> Result<Line, Box<dyn Error>> {
    let t = tensors(session, shape)?;
    let before = service.stats();
    let options = RunOptions::default();
    let start = Instant::now();
    let first = session.run_into(&t.bindings, &options)?;
    let first_ms = ms(start);
    if !session.wait_specialized(Duration::from_secs(args.patience)) {
        return Err(format!("{strategy} did not settle in {} s", args.patience).into());
    }
    let specialize_ms = ms(start) - first_ms;
    let mut report = session.run_into(&t.bindings, &options)?;
    let warming = Instant::now();
    let mut warm = 1;
    while warm < WARM_RUNS || warming.elapsed() < WARM_TIME {
        report = session.run_into(&t.bindings, &options)?;
        warm += 1;
    }
    let mut times = Vec::with_capacity(args.iterations);
    let began = Instant::now();
    for run in 0..args.iterations.max(1) {
        if run >= 5 && began.elapsed().as_secs_f64() > args.seconds {
            break;
        }
        let start = Instant::now();
        session.run_into(&t.bindings, &options)?;
        times.push(ms(start));
    }
    times.sort_by(f64::total_cmp);
    let after = service.stats();
    Ok(Line {
        schema: 1,
        model: args.model.display().to_string(),
        shape: first.shape,
        strategy: strategy.to_owned(),
        graph: graph.to_owned(),
        load_ms: 0.0,
        load_compiled: 0,
        load_cached: 0,
        first_ms,
        bind_us: first.bind_us,
        record_us: first.record_us,
        specialize_ms,
        compiled: after.compiled - before.compiled,
        cached: after.cache_hits - before.cache_hits,
        compile_ms: (after.compile_micros - before.compile_micros) as f64 / 1e3,
        generic: report.generic_kernels,
        specialized: report.specialized_kernels,
        steps: session.plan().steps.len(),
        copies: session.plan().copy_count(),
        runs: times.len(),
        steady_ms: times[times.len() / 2],
        fastest_ms: times[0],
        device: String::new(),
    })
}

fn main() -> ExitCode {
    let args = Arguments::parse();
    match time(&args, &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // nothing is left to do if even this cannot be written
            let _ = writeln!(std::io::stderr(), "error: {e}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_repeat_after_a_period_and_have_the_size_asked_for() {
        let period = PERIOD * 2;
        let long = fill(DType::F16, 3 * period + 6);
        assert_eq!(long.len(), 3 * period + 6);
        assert_eq!(long[..period], long[period..2 * period]);
        assert_eq!(long[..6], long[3 * period..]);
        assert_eq!(long[..10], fill(DType::F16, 10));
        assert_ne!(long[..2], long[2..4]);
        assert!(fill(DType::F32, 0).is_empty());
    }

    #[test]
    fn shapes_are_names_with_extents() {
        let shapes = parse_shapes("a:1x128,b::2,s:").unwrap();
        let expected = [("a", vec![1, 128]), ("b:", vec![2]), ("s", vec![])];
        assert_eq!(shapes, expected.map(|(name, dims)| (name.to_owned(), dims)));
        for wrong in ["a", "a:1x", "a:y"] {
            assert!(parse_shapes(wrong).is_err(), "{wrong}");
        }
    }
}
