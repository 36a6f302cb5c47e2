//! The device that runs every kernel's Rust twin on the processor.
//!
//! It is the default where no GPU works, the oracle for every CUDA kernel, and how the planner, the memory plan, graphs
//! and swaps are tested anywhere. It keeps the contract of [`bespoke_device`] and checks more of it than a GPU can:
//!
//! - every address is resolved against the live allocations, so a pointer into freed or unbacked memory is an error
//!   that names the kernel, not a wrong result;
//! - what a kernel writes may overlap nothing else that it touches, nor anything that another stream touches meanwhile;
//! - grids, blocks and shared memory must be such as the planned-for card would accept;
//! - with [`HostOptions::poison`] memory without defined content is full of NaNs, so an output that nobody wrote shows.
//!
//! A stream executes at once and in order, on the calling thread together with the device's own thread pool. When a call
//! returns, its work is done.
//!
//! | module | what it holds |
//! |---|---|
//! | `pages` | memory from the operating system: reserve, commit, how much there is |
//! | `space` | which addresses are live, and who uses them now: the only other `unsafe` module |
//! | `kernel` | a loaded twin, a launch, its checks |
//! | `stream` | the queue, and graphs as recorded launches |

mod kernel;
mod pages;
mod space;
mod stream;

use std::sync::{Arc, OnceLock};

use bespoke_device::{
    Arch, Arena, Device, DeviceError, DeviceProps, DevicePtr, Edge, Graph, Image, Kernel, Launch,
    LaunchConfig, Memory, NoDependentLaunch, Result, Stream,
};

use kernel::HostKernel;
use space::{Region, Space};
use stream::{HostGraph, HostStream};

/// The architecture that the host device plans for when it compiles for none: a common card.
const PLANNED_FOR: Arch = Arch::sm(89);

/// How a host device is made.
#[derive(Clone, Debug, Default)]
pub struct HostOptions {
    /// Threads of the pool that twins run on; 0 takes one for each processor.
    pub threads: usize,
    /// The architecture to compile CUDA kernels for besides running their twins; `None` compiles nothing.
    pub target: Option<Arch>,
    /// Fill memory that has no defined content (fresh allocations, a freshly grown arena) with `0xFF`, which is a NaN in
    /// every float type, instead of zeros. For tests.
    pub poison: bool,
}

/// What all parts of one device share.
#[derive(Debug)]
struct Shared {
    options: HostOptions,
    props: DeviceProps,
    space: Arc<Space>,
    pool: OnceLock<std::result::Result<rayon::ThreadPool, String>>,
}

impl Shared {
    /// The thread pool, made at its first use.
    fn pool(&self) -> Result<&rayon::ThreadPool> {
        let made = self.pool.get_or_init(|| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(self.options.threads)
                .thread_name(|i| format!("bespoke-host-{i}"))
                .build()
                .map_err(|e| e.to_string())
        });
        made.as_ref().map_err(|e| {
            DeviceError::Unavailable(format!(
                "the thread pool cannot be made: {e}; raise the limit of processes"
            ))
        })
    }
}

/// The processor as a device.
#[derive(Clone, Debug)]
pub struct HostDevice {
    shared: Arc<Shared>,
}

impl HostDevice {
    /// Makes a device of its own: memory of one host device is unknown to another.
    #[expect(
        clippy::new_ret_no_self,
        reason = "callers hold devices of every kind as trait objects"
    )]
    pub fn new(options: HostOptions) -> Arc<dyn Device> {
        let mut props = DeviceProps::preset(options.target.unwrap_or(PLANNED_FOR));
        props.name = "host".to_owned();
        if let Some((_, total)) = pages::system_memory() {
            props.memory_bytes = total;
        }
        let space = Arc::new(Space::default());
        Arc::new(HostDevice {
            shared: Arc::new(Shared {
                options,
                props,
                space,
                pool: OnceLock::new(),
            }),
        })
    }
}

impl Device for HostDevice {
    fn props(&self) -> &DeviceProps {
        &self.shared.props
    }

    fn target(&self) -> Option<Arch> {
        self.shared.options.target
    }

    /// Twins run without machine code; cubins for a target are only stored.
    fn needs_cubin(&self) -> bool {
        false
    }

    fn alloc(&self, what: &str, bytes: u64) -> Result<Arc<dyn Memory>> {
        let out_of_memory = || DeviceError::OutOfMemory {
            what: what.to_owned(),
            wanted: bytes,
            free: pages::system_memory().map_or(0, |(free, _)| free),
        };
        let region = Region::allocate(bytes).ok_or_else(out_of_memory)?;
        if self.shared.options.poison {
            region.poison(0, bytes);
        }
        Ok(Arc::new(self.shared.space.register(region)))
    }

    fn reserve(&self, limit: u64) -> Result<Box<dyn Arena>> {
        let region = Region::reserve(limit).ok_or_else(|| DeviceError::OutOfMemory {
            what: "the addresses of an arena".to_owned(),
            wanted: limit,
            free: pages::system_memory().map_or(0, |(free, _)| free),
        })?;
        let memory = self.shared.space.register(region);
        Ok(Box::new(HostArena {
            memory,
            poison: self.shared.options.poison,
        }))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.shared.pool()?;
        Ok(Box::new(HostStream::new(self.shared.clone())))
    }

    fn load(&self, image: &Image) -> Result<Arc<dyn Kernel>> {
        Ok(Arc::new(HostKernel::new(image)))
    }

    fn graph(&self, launches: &[Launch], edges: &[Edge]) -> Result<Box<dyn Graph>> {
        let shared = self.shared.clone();
        Ok(Box::new(HostGraph::new(shared, launches, edges)?))
    }

    /// One launch follows the other here, in the order of their list.
    fn dependent_launch(&self) -> std::result::Result<(), NoDependentLaunch> {
        Err(NoDependentLaunch::Serial)
    }

    /// As many blocks as threads and shared memory of the planned-for card allow; registers are unknown here.
    fn occupancy(&self, kernel: &Arc<dyn Kernel>, config: LaunchConfig) -> Result<u32> {
        let props = &self.shared.props;
        kernel::check_geometry(kernel.name(), &config, props)?;
        let by_threads = props.threads_per_multiprocessor / config.block;
        let by_shared = props
            .shared_per_multiprocessor
            .checked_div(config.shared_bytes)
            .unwrap_or(u32::MAX);
        Ok(by_threads.min(by_shared))
    }

    fn memory(&self) -> Result<(u64, u64)> {
        pages::system_memory().ok_or_else(|| DeviceError::Call {
            call: "memory",
            reason: "this operating system does not say how much memory it has".to_owned(),
        })
    }

    fn lost(&self) -> Option<DeviceError> {
        None
    }
}

/// An arena: one region whose backed part grows.
#[derive(Debug)]
struct HostArena {
    memory: space::HostMemory,
    poison: bool,
}

impl Arena for HostArena {
    fn ptr(&self) -> DevicePtr {
        self.memory.ptr()
    }

    fn len(&self) -> u64 {
        self.memory.region().usable()
    }

    fn grow(&mut self, bytes: u64) -> Result<()> {
        let region = self.memory.region();
        let old = region.usable();
        if bytes <= old {
            return Ok(());
        }
        let new = region
            .commit(bytes)
            .ok_or_else(|| DeviceError::OutOfMemory {
                what: format!("an arena of {} reserved bytes", region.capacity()),
                wanted: bytes,
                free: pages::system_memory().map_or(0, |(free, _)| free),
            })?;
        if self.poison {
            region.poison(old, new - old);
        }
        region.publish(new);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
