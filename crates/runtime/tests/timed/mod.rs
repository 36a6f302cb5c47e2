//! The host device with a clock of the test's own: a launch takes what the test says of the kernel's name, and marks tell
//! that time. The test also says which kernels the device refuses, and which twin computes instead of a kernel's own.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bespoke_device::{
    Arch, Arena, Device, DeviceError, DeviceProps, DevicePtr, Edge, Graph, Image, Kernel, Launch,
    LaunchConfig, Mark, Memory, NoDependentLaunch, Result, Stream, Twin,
};
use bespoke_host::{HostDevice, HostOptions};

/// What a test says of a kernel, given its name or its image.
type Rule<A, R> = Option<Box<dyn Fn(&A) -> R + Send + Sync>>;

/// What the test decides of a kernel, by its name.
#[derive(Default)]
pub(crate) struct Rules {
    /// Microseconds of a launch; 10 where nothing is said.
    pub(crate) micros: Rule<str, f64>,
    /// Whether the device does not take it.
    pub(crate) refuses: Rule<str, bool>,
    /// What computes instead.
    pub(crate) twin: Rule<Image, Arc<dyn Twin>>,
}

impl Rules {
    /// All kernels take ten microseconds, but for those with this tile, which take one.
    pub(crate) fn favour(tile: &str) -> Rules {
        let tile = tile.to_owned();
        Rules {
            micros: Some(Box::new(move |name| match name.contains(&tile) {
                true => 1.0,
                false => 10.0,
            })),
            ..Rules::default()
        }
    }
}

/// See the module.
pub(crate) struct Timed {
    host: Arc<dyn Device>,
    rules: Arc<Rules>,
    /// Names of all kernels that were to be loaded.
    pub(crate) loads: Mutex<Vec<String>>,
}

impl Timed {
    pub(crate) fn new(rules: Rules) -> Arc<Timed> {
        let host = HostDevice::new(HostOptions {
            threads: 1,
            target: None,
            poison: true,
        });
        Arc::new(Timed {
            host,
            rules: Arc::new(rules),
            loads: Mutex::default(),
        })
    }

    /// How often a kernel with this tile was to be loaded.
    pub(crate) fn loads_of(&self, tile: &str) -> usize {
        let loads = self.loads.lock().expect("no panic");
        loads.iter().filter(|name| name.contains(tile)).count()
    }
}

impl fmt::Debug for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the host with a clock of the test's")
    }
}

impl Device for Timed {
    fn load(&self, image: &Image) -> Result<Arc<dyn Kernel>> {
        self.loads
            .lock()
            .expect("no panic")
            .push(image.name.clone());
        if self.rules.refuses.as_ref().is_some_and(|r| r(&image.name)) {
            return Err(DeviceError::BadImage {
                kernel: image.name.clone(),
                reason: "the test says so".into(),
            });
        }
        let twin = match &self.rules.twin {
            Some(twin) => twin(image),
            None => image.twin.clone(),
        };
        self.host.load(&Image {
            twin,
            ..image.clone()
        })
    }
    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(TimedStream {
            host: self.host.stream()?,
            rules: self.rules.clone(),
            nanos: AtomicU64::new(0),
        }))
    }
    fn props(&self) -> &DeviceProps {
        self.host.props()
    }
    fn target(&self) -> Option<Arch> {
        None
    }
    fn needs_cubin(&self) -> bool {
        false
    }
    fn alloc(&self, what: &str, bytes: u64) -> Result<Arc<dyn Memory>> {
        self.host.alloc(what, bytes)
    }
    fn reserve(&self, limit: u64) -> Result<Box<dyn Arena>> {
        self.host.reserve(limit)
    }
    fn graph(&self, launches: &[Launch], edges: &[Edge]) -> Result<Box<dyn Graph>> {
        self.host.graph(launches, edges)
    }
    fn dependent_launch(&self) -> std::result::Result<(), NoDependentLaunch> {
        self.host.dependent_launch()
    }
    fn occupancy(&self, kernel: &Arc<dyn Kernel>, config: LaunchConfig) -> Result<u32> {
        self.host.occupancy(kernel, config)
    }
    fn memory(&self) -> Result<(u64, u64)> {
        self.host.memory()
    }
    fn lost(&self) -> Option<DeviceError> {
        None
    }
}

struct TimedStream {
    host: Box<dyn Stream>,
    rules: Arc<Rules>,
    nanos: AtomicU64,
}

impl fmt::Debug for TimedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a stream with a clock of the test's")
    }
}

#[derive(Debug)]
struct TimedMark(u64);

impl Mark for TimedMark {
    fn since(&self, earlier: &dyn Mark) -> Result<f64> {
        let earlier = earlier.as_any().downcast_ref::<TimedMark>();
        Ok(earlier.map_or(0.0, |e| (self.0 - e.0) as f64 / 1e6))
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Stream for TimedStream {
    fn launch(&self, launch: &Launch) -> Result<()> {
        let micros = match &self.rules.micros {
            Some(micros) => micros(launch.kernel.name()),
            None => 10.0,
        };
        self.nanos
            .fetch_add((micros * 1e3) as u64, Ordering::Relaxed);
        self.host.launch(launch)
    }
    fn mark(&self) -> Result<Box<dyn Mark>> {
        Ok(Box::new(TimedMark(self.nanos.load(Ordering::Relaxed))))
    }
    fn write(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        self.host.write(to, from)
    }
    fn read(&self, to: &mut [u8], from: DevicePtr) -> Result<()> {
        self.host.read(to, from)
    }
    fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: u64) -> Result<()> {
        self.host.copy(to, from, bytes)
    }
    fn upload(&self, graph: &dyn Graph) -> Result<()> {
        self.host.upload(graph)
    }
    fn replay(&self, graph: &dyn Graph) -> Result<()> {
        self.host.replay(graph)
    }
    fn synchronize(&self) -> Result<()> {
        self.host.synchronize()
    }
    fn native(&self) -> u64 {
        self.host.native()
    }
    fn follow(&self, other: u64) -> Result<()> {
        self.host.follow(other)
    }
    fn precede(&self, other: u64) -> Result<()> {
        self.host.precede(other)
    }
}
