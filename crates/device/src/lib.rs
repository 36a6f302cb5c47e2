//! What the runtime asks of a device.
//!
//! Two devices implement these traits: `cuda`, the real one, and `host`, which runs the Rust twin of every kernel. The
//! runtime sees only `dyn Device`, so specialisation, swaps, graphs and memory are the same code on both.
//!
//! - [`Device`] makes memory, streams, kernels and graphs.
//! - [`Image`] is a kernel on its way to a device: a cubin for `cuda`, a [`Twin`] for `host`, with one [`Signature`].
//! - A [`Launch`] has exactly one kernel argument: the address of its *slots*, a row of `i64` in device memory that holds
//!   every pointer, extent, stride and offset of the step (the *extent block*), and [tensor maps](mod@map). Nothing that varies with the shape or
//!   with the caller's pointers is part of a launch, so a recorded [`Graph`] outlives both.
//! - A [`Graph`] is launches with [`Edge`]s: what no path of edges orders may run at the same time. A *programmatic* edge
//!   lets the later kernel start while the earlier one ends; the kernel itself waits before it touches memory.
//!
//! Errors carry the device's own code and text; [`DeviceError::is_sticky`] tells those after which nothing on the device
//! works any more.

pub mod arch;
pub mod edge;
pub mod map;
pub mod occupancy;
pub mod props;
pub mod twin;

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;

pub use arch::{Arch, ArchError};
pub use edge::{Edge, NoDependentLaunch, chain, check_edges};
pub use map::{EncodedMap, MAP_ALIGNMENT, MAP_SLOTS, MapOf, TensorMap};
pub use occupancy::{BlockNeeds, Limiter, Occupancy, occupancy};
pub use props::DeviceProps;
pub use twin::{Operand, Twin, TwinCall, TwinError};

/// An address in a device's memory (for `host`, an address of this process).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// The address `bytes` further on.
    pub fn offset(self, bytes: u64) -> DevicePtr {
        DevicePtr(self.0.wrapping_add(bytes))
    }
}

/// Why a device did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// There is no such device, or its driver does not work; the text has the remedy.
    #[error("no usable device: {0}")]
    Unavailable(String),
    /// Not enough memory.
    #[error("out of device memory: {wanted} bytes wanted for {what}, {free} free")]
    OutOfMemory {
        /// What the memory was for.
        what: String,
        /// Bytes wanted.
        wanted: u64,
        /// Bytes free.
        free: u64,
    },
    /// The driver refuses a kernel image (built for another card, or damaged).
    #[error("the device refuses the image of kernel `{kernel}`: {reason}")]
    BadImage {
        /// Name of the kernel.
        kernel: String,
        /// The driver's words.
        reason: String,
    },
    /// A call failed and later calls may work.
    #[error("{call} failed: {reason}")]
    Call {
        /// The call.
        call: &'static str,
        /// The driver's words.
        reason: String,
    },
    /// A kernel's twin refused its operands.
    #[error("kernel `{kernel}`: {source}")]
    Twin {
        /// Name of the kernel.
        kernel: String,
        /// The twin's words.
        source: TwinError,
    },
    /// The device is lost: the process must be restarted to use it again.
    #[error("the device is lost: {call} failed: {reason}; restart the process")]
    Lost {
        /// The call that found it lost.
        call: &'static str,
        /// The driver's words.
        reason: String,
    },
}

impl DeviceError {
    /// Whether every later call fails too.
    pub fn is_sticky(&self) -> bool {
        matches!(self, DeviceError::Lost { .. })
    }
}

/// Results of device calls.
pub type Result<T> = std::result::Result<T, DeviceError>;

/// One slot group of a kernel's arguments, in order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotKind {
    /// A tensor that the kernel reads: two slots, address and length in bytes.
    Read,
    /// A tensor that the kernel writes: two slots, address and length in bytes.
    Write,
    /// An integer: one slot.
    Int,
    /// A tensor map of an operand whose slots are in the same row: [`MAP_SLOTS`] slots. Maps come before all others.
    Map(MapOf),
}

impl SlotKind {
    /// Number of slots.
    pub fn slots(&self) -> usize {
        match self {
            SlotKind::Read | SlotKind::Write => 2,
            SlotKind::Int => 1,
            SlotKind::Map(_) => MAP_SLOTS,
        }
    }
}

/// The argument layout of a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Signature(pub Vec<SlotKind>);

impl Signature {
    /// Number of `i64` slots.
    pub fn slots(&self) -> usize {
        self.0.iter().map(SlotKind::slots).sum()
    }
}

/// A kernel on its way to a device.
#[derive(Clone, Debug)]
pub struct Image {
    /// Name for people.
    pub name: String,
    /// Name of the function in the cubin.
    pub entry: String,
    /// Machine code; needed by `cuda`, ignored by `host`.
    pub cubin: Option<Bytes>,
    /// The same kernel in Rust; needed by `host`, ignored by `cuda`.
    pub twin: Arc<dyn Twin>,
    /// The argument layout.
    pub signature: Signature,
}

/// A kernel that a device can launch. Dropping the last handle unloads it.
pub trait Kernel: Debug + Send + Sync + Any {
    /// Name for people.
    fn name(&self) -> &str;
    /// For the device's own use.
    fn as_any(&self) -> &dyn Any;
}

/// Grid, block and dynamic shared memory of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaunchConfig {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
}

/// One kernel launch.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The kernel.
    pub kernel: Arc<dyn Kernel>,
    /// Its geometry.
    pub config: LaunchConfig,
    /// Address of its first slot.
    pub slots: DevicePtr,
}

/// A piece of device memory; dropping it frees it.
pub trait Memory: Debug + Send + Sync {
    /// First byte, aligned to 256.
    fn ptr(&self) -> DevicePtr;
    /// Length in bytes.
    fn len(&self) -> u64;
    /// Whether the length is 0.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Device memory that grows in place: addresses handed out stay valid.
pub trait Arena: Debug + Send {
    /// First byte, aligned to 256; the same for the arena's whole life.
    fn ptr(&self) -> DevicePtr;
    /// Bytes that are backed by memory now.
    fn len(&self) -> u64;
    /// Whether nothing is backed yet.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Makes at least `bytes` usable.
    fn grow(&mut self, bytes: u64) -> Result<()>;
}

/// Recorded launches and their order.
pub trait Graph: Debug + Send {
    /// Number of launches.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Number of edges that are programmatic here. A device may make any edge plain, and says so with this number.
    fn programmatic(&self) -> usize;
    /// Whether launch `index` can be replaced by this one and run as fast as where it had been recorded. It runs as it
    /// should in any case.
    fn suits(&self, index: usize, launch: &Launch) -> bool {
        let _ = (index, launch);
        true
    }
    /// Replaces launch `index`; its edges stay. The graph must not be running.
    fn update(&mut self, index: usize, launch: &Launch) -> Result<()>;
    /// For the device's own use.
    fn as_any(&self) -> &dyn Any;
}

/// A queue of device work, executed in order.
pub trait Stream: Debug + Send {
    /// Copies into device memory. The bytes are taken before the call returns.
    fn write(&self, to: DevicePtr, from: &[u8]) -> Result<()>;
    /// Copies out of device memory and waits for it.
    fn read(&self, to: &mut [u8], from: DevicePtr) -> Result<()>;
    /// Copies within device memory.
    fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: u64) -> Result<()>;
    /// Launches a kernel.
    fn launch(&self, launch: &Launch) -> Result<()>;
    /// Moves what a graph needs to the device, so that its first replay is as fast as any.
    fn upload(&self, graph: &dyn Graph) -> Result<()>;
    /// Replays a graph.
    fn replay(&self, graph: &dyn Graph) -> Result<()>;
    /// Waits until everything is done.
    fn synchronize(&self) -> Result<()>;
    /// Marks a point in the queue; the time between two marks is device time.
    fn mark(&self) -> Result<Box<dyn Mark>>;
    /// The native handle, for callers who bring their own work (`CUstream` on `cuda`, 0 on `host`).
    fn native(&self) -> u64;
    /// What is queued here from now on begins after everything that the stream of a native handle holds now. The handle
    /// must be of a living stream of this device; 0 is the driver's default stream.
    fn follow(&self, other: u64) -> Result<()>;
    /// What is queued on the stream of a native handle from now on begins after everything that this one holds now.
    fn precede(&self, other: u64) -> Result<()>;
}

/// A point in a stream's queue.
pub trait Mark: Debug + Send {
    /// Waits for the point and returns the device time since an earlier one, in milliseconds.
    fn since(&self, earlier: &dyn Mark) -> Result<f64>;
    /// For the device's own use.
    fn as_any(&self) -> &dyn Any;
}

/// A device; see the crate.
pub trait Device: Debug + Send + Sync {
    /// What it is and can do.
    fn props(&self) -> &DeviceProps;
    /// The architecture that cubins are compiled for, if this device wants any. `host` names one only when asked to
    /// compile for a target.
    fn target(&self) -> Option<Arch>;
    /// Whether kernels cannot be loaded without a cubin.
    fn needs_cubin(&self) -> bool;
    /// Allocates memory.
    fn alloc(&self, what: &str, bytes: u64) -> Result<Arc<dyn Memory>>;
    /// Reserves `limit` bytes of addresses, none backed yet.
    fn reserve(&self, limit: u64) -> Result<Box<dyn Arena>>;
    /// Makes a stream.
    fn stream(&self) -> Result<Box<dyn Stream>>;
    /// Loads a kernel.
    fn load(&self, image: &Image) -> Result<Arc<dyn Kernel>>;
    /// Records launches that are ordered by edges and nothing else; [`chain`] gives those of a list. Every edge leads
    /// from an earlier launch of the list to a later one. May hold locks for milliseconds: never call it while requests
    /// wait.
    fn graph(&self, launches: &[Launch], edges: &[Edge]) -> Result<Box<dyn Graph>>;
    /// Whether programmatic edges are more than plain ones here, and why not.
    fn dependent_launch(&self) -> std::result::Result<(), NoDependentLaunch>;
    /// The tensor map of a matrix ([`mod@map`]); `None` where the card has none or the driver makes none of it. Asks the
    /// device nothing, and is called while a run waits.
    fn tensor_map(&self, map: &TensorMap) -> Option<EncodedMap> {
        let _ = map;
        None
    }
    /// Blocks of `kernel` that one multiprocessor runs at once.
    fn occupancy(&self, kernel: &Arc<dyn Kernel>, config: LaunchConfig) -> Result<u32>;
    /// Free and total memory in bytes.
    fn memory(&self) -> Result<(u64, u64)>;
    /// The error after which nothing works, if one happened.
    fn lost(&self) -> Option<DeviceError>;
}
