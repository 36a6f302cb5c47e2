//! How long the host takes to start a replay: everything between a call of `Session::run_into` and its return but the
//! device's own work.
//!
//! The device is the host device, except that its graphs do nothing, so what is left is the runtime. The model is a chain
//! of so many products with some inputs, of which a few get other pointers in every run. It prints one line for each
//! number of changed pointers:
//!
//! ```text
//! cargo run --release -p bespoke-runtime --example replay [STEPS]
//! ```
//!
//! On a GPU the driver's part comes on top: one graph launch for every 250 steps, and one copy for each piece of the
//! extent block that changed.
#![allow(
    clippy::print_stdout,
    reason = "a program that prints what it measures"
)]

use std::any::Any;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bespoke_cache::{CacheConfig, Mode};
use bespoke_device::{
    Arch, Arena, Device, DeviceError, DeviceProps, DevicePtr, Edge, Graph, Image, Kernel, Launch,
    LaunchConfig, Mark, Memory, NoDependentLaunch, Result, Stream,
};
use bespoke_host::{HostDevice, HostOptions};
use bespoke_ir::op::MatMul;
use bespoke_ir::sym::{Symbol, SymbolOrigin};
use bespoke_ir::{Constant, DType, SymInt, TensorType};
use bespoke_runtime::{
    Bindings, CompileService, RunOptions, ServiceOptions, Session, SessionOptions, TensorView,
};

/// Runs of each case.
const RUNS: usize = 2000;
/// Inputs besides `x`; the other factors are weights.
const INPUTS: usize = 16;

/// The host device with graphs that do nothing.
#[derive(Debug)]
struct Idle(Arc<dyn Device>);

#[derive(Debug)]
struct IdleGraph(usize);

impl Graph for IdleGraph {
    fn len(&self) -> usize {
        self.0
    }
    fn programmatic(&self) -> usize {
        0
    }
    fn update(&mut self, _: usize, _: &Launch) -> Result<()> {
        Ok(())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[derive(Debug)]
struct IdleStream(Box<dyn Stream>);

impl Stream for IdleStream {
    fn write(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        self.0.write(to, from)
    }
    fn read(&self, to: &mut [u8], from: DevicePtr) -> Result<()> {
        self.0.read(to, from)
    }
    fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: u64) -> Result<()> {
        self.0.copy(to, from, bytes)
    }
    fn launch(&self, launch: &Launch) -> Result<()> {
        self.0.launch(launch)
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
        self.0.mark()
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
    fn load(&self, image: &Image) -> Result<Arc<dyn Kernel>> {
        self.0.load(image)
    }
    fn props(&self) -> &DeviceProps {
        self.0.props()
    }
    fn target(&self) -> Option<Arch> {
        None
    }
    fn needs_cubin(&self) -> bool {
        false
    }
    fn alloc(&self, what: &str, bytes: u64) -> Result<Arc<dyn Memory>> {
        self.0.alloc(what, bytes)
    }
    fn reserve(&self, limit: u64) -> Result<Box<dyn Arena>> {
        self.0.reserve(limit)
    }
    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(IdleStream(self.0.stream()?)))
    }
    fn graph(&self, launches: &[Launch], _: &[Edge]) -> Result<Box<dyn Graph>> {
        Ok(Box::new(IdleGraph(launches.len())))
    }
    fn dependent_launch(&self) -> std::result::Result<(), NoDependentLaunch> {
        self.0.dependent_launch()
    }
    fn occupancy(&self, kernel: &Arc<dyn Kernel>, config: LaunchConfig) -> Result<u32> {
        self.0.occupancy(kernel, config)
    }
    fn memory(&self) -> Result<(u64, u64)> {
        self.0.memory()
    }
    fn lost(&self) -> Option<DeviceError> {
        None
    }
}

/// `x[N,8] · y0[8,8] · y1[8,8] · …`.
fn product(steps: usize) -> std::result::Result<bespoke_ir::Graph, Box<dyn Error>> {
    let mut g = bespoke_ir::Graph::new("product");
    let origin = SymbolOrigin::InputDim { input: 0, axis: 0 };
    let n = SymInt::symbol(g.symbols.add(Symbol::new("N", origin)));
    let mut at = g.add_input("x", TensorType::new(DType::F32, vec![n, 8.into()]));
    for i in 0..steps {
        let ty = TensorType::new(DType::F32, vec![8.into(), 8.into()]);
        let y = match i < INPUTS {
            true => g.add_input(format!("y{i}"), ty),
            false => {
                let zeros = vec![0; 256].into();
                g.add_constant("w", Constant::new(DType::F32, vec![8, 8], zeros)?)
            }
        };
        at = g.add1(format!("p{i}"), MatMul::default(), &[at, y])?;
    }
    g.add_output(at);
    Ok(g)
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let steps = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 300,
    };
    let host = HostDevice::new(HostOptions {
        threads: 1,
        ..HostOptions::default()
    });
    let device: Arc<dyn Device> = Arc::new(Idle(host));
    let service = CompileService::new(ServiceOptions {
        cache: CacheConfig {
            mode: Mode::Off,
            ..CacheConfig::default()
        },
        ..ServiceOptions::default()
    })?;
    let options = SessionOptions {
        learn: false,
        ..SessionOptions::default()
    };
    let session = Session::from_graph(product(steps)?, device.clone(), service, options)?;
    let memory = device.alloc("inputs and outputs", 1 << 20)?;
    let view = |at: u64, dims: Vec<i64>| TensorView {
        pointer: memory.ptr().offset(at * 256),
        dtype: DType::F32,
        dims,
        strides: None,
        capacity: 256,
    };
    let mut bindings = Bindings::default();
    bindings.inputs.push(("x".into(), view(0, vec![4, 8])));
    for i in 0..INPUTS {
        bindings
            .inputs
            .push((format!("y{i}"), view(1 + i as u64, vec![8, 8])));
    }
    let output = session.outputs()[0].name.clone();
    bindings.outputs.push((output, view(100, vec![4, 8])));
    session.run_into(&bindings, &RunOptions::default())?;
    session.wait_specialized(Duration::from_secs(60));
    println!("{} steps", session.plan().steps.len());
    for changed in [0, 1, 2, 4, 8, INPUTS] {
        let mut times = Vec::with_capacity(RUNS);
        for run in 0..RUNS {
            for (i, (_, view)) in bindings.inputs.iter_mut().skip(1).take(changed).enumerate() {
                let at = 200 + 32 * (run as u64 % 2) + i as u64;
                view.pointer = memory.ptr().offset(at * 256);
            }
            let start = Instant::now();
            session.run_into(&bindings, &RunOptions::default())?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        let at = |permille: usize| times[RUNS * permille / 1000];
        println!(
            "{changed:>3} pointers changed: p10 {:>6.2} µs, median {:>6.2} µs, p99 {:>6.2} µs",
            at(100),
            at(500),
            at(990)
        );
    }
    Ok(())
}
