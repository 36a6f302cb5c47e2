//! The host device with other kernels: every twin is replaced by what the test makes of it.

use std::fmt;
use std::sync::Arc;

use bespoke_device::{
    Arch, Arena, Device, DeviceError, DeviceProps, Edge, Graph, Image, Kernel, Launch,
    LaunchConfig, Memory, NoDependentLaunch, Result, Stream, Twin,
};

/// What becomes of a kernel's twin.
type Wrap = dyn Fn(&Image) -> Arc<dyn Twin> + Send + Sync;

/// See the module.
pub(crate) struct Wrapped {
    host: Arc<dyn Device>,
    wrap: Box<Wrap>,
}

impl Wrapped {
    /// A device over another one, with its own twins.
    #[expect(
        clippy::new_ret_no_self,
        reason = "callers hold devices of every kind as trait objects"
    )]
    pub(crate) fn new(
        host: Arc<dyn Device>,
        wrap: impl Fn(&Image) -> Arc<dyn Twin> + Send + Sync + 'static,
    ) -> Arc<dyn Device> {
        let wrap = Box::new(wrap);
        Arc::new(Wrapped { host, wrap })
    }
}

impl fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the host with other kernels")
    }
}

impl Device for Wrapped {
    fn load(&self, image: &Image) -> Result<Arc<dyn Kernel>> {
        self.host.load(&Image {
            twin: (self.wrap)(image),
            ..image.clone()
        })
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
    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.host.stream()
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
