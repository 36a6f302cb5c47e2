//! The queue, which executes at once, and graphs as recorded launches.
//!
//! Two streams of one device may run on two threads. They share the device's thread pool; where they touch the same
//! bytes and one of them writes, the later one gets an error (see [`crate::space`]).

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use bespoke_device::{
    DeviceError, DevicePtr, Edge, Graph, Launch, Mark, Operand, Result, Stream, check_edges,
};

use crate::Shared;
use crate::kernel::{HostKernel, checked};
use crate::space::{Want, What};

/// A queue of the host device.
#[derive(Debug)]
pub(crate) struct HostStream {
    shared: Arc<Shared>,
}

impl HostStream {
    pub(crate) fn new(shared: Arc<Shared>) -> HostStream {
        HostStream { shared }
    }

    fn transfer(
        &self,
        call: &'static str,
        wants: Vec<Want>,
        work: impl FnOnce(Vec<Operand<'_>>),
    ) -> Result<()> {
        let fail = |reason| DeviceError::Call { call, reason };
        let mut access = self.shared.space.access(wants).map_err(fail)?;
        work(access.operands());
        Ok(())
    }

    fn graph<'g>(&self, call: &'static str, graph: &'g dyn Graph) -> Result<&'g HostGraph> {
        let own = graph
            .as_any()
            .downcast_ref::<HostGraph>()
            .filter(|g| Arc::ptr_eq(&g.shared, &self.shared));
        own.ok_or_else(|| DeviceError::Call {
            call,
            reason: "the graph was recorded by another device".to_owned(),
        })
    }
}

fn want(at: DevicePtr, bytes: u64, writes: bool, what: &'static str) -> Want {
    Want {
        address: at.0,
        bytes,
        writes,
        what: What::Named(what),
    }
}

/// Every stream of this device has the handle 0, and whatever was queued on it is done.
fn known(call: &'static str, handle: u64) -> Result<()> {
    if handle == 0 {
        return Ok(());
    }
    let reason = format!("the host has no stream {handle:#x}; its streams have the handle 0");
    Err(DeviceError::Call { call, reason })
}

impl Stream for HostStream {
    fn write(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        let wants = vec![want(to, from.len() as u64, true, "the destination")];
        self.transfer("write", wants, |operands| {
            for operand in operands {
                if let Operand::Write(bytes) = operand {
                    bytes.copy_from_slice(from);
                }
            }
        })
    }

    fn read(&self, to: &mut [u8], from: DevicePtr) -> Result<()> {
        let wants = vec![want(from, to.len() as u64, false, "the source")];
        self.transfer("read", wants, |operands| {
            for operand in operands {
                if let Operand::Read(bytes) = operand {
                    to.copy_from_slice(bytes);
                }
            }
        })
    }

    fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: u64) -> Result<()> {
        let wants = vec![
            want(from, bytes, false, "the source"),
            want(to, bytes, true, "the destination"),
        ];
        self.transfer("copy", wants, |mut operands| {
            if let [Operand::Read(source), Operand::Write(destination)] = operands.as_mut_slice() {
                destination.copy_from_slice(source);
            }
        })
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let kernel = checked(launch, &self.shared.props)?;
        self.shared
            .pool()?
            .install(|| kernel.execute(&self.shared.space, launch.slots))
    }

    fn upload(&self, graph: &dyn Graph) -> Result<()> {
        self.graph("upload", graph).map(|_| ())
    }

    fn replay(&self, graph: &dyn Graph) -> Result<()> {
        let graph = self.graph("replay", graph)?;
        // one entry into the pool for the whole graph: entering costs a thread switch
        self.shared.pool()?.install(|| {
            for launch in &graph.launches {
                // checked when it was recorded; only the type is asked for again
                if let Some(kernel) = launch.kernel.as_any().downcast_ref::<HostKernel>() {
                    kernel.execute(&self.shared.space, launch.slots)?;
                }
            }
            Ok(())
        })
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn mark(&self) -> Result<Box<dyn Mark>> {
        Ok(Box::new(HostMark(Instant::now())))
    }

    fn native(&self) -> u64 {
        0
    }

    fn follow(&self, other: u64) -> Result<()> {
        known("follow", other)
    }

    fn precede(&self, other: u64) -> Result<()> {
        known("precede", other)
    }
}

/// Launches, checked when they were recorded. They run in list order, which every edge follows.
#[derive(Debug)]
pub(crate) struct HostGraph {
    shared: Arc<Shared>,
    launches: Vec<Launch>,
}

impl HostGraph {
    pub(crate) fn new(
        shared: Arc<Shared>,
        launches: &[Launch],
        edges: &[Edge],
    ) -> Result<HostGraph> {
        check_edges(launches.len(), edges)?;
        for launch in launches {
            checked(launch, &shared.props)?;
        }
        Ok(HostGraph {
            shared,
            launches: launches.to_vec(),
        })
    }
}

impl Graph for HostGraph {
    fn len(&self) -> usize {
        self.launches.len()
    }

    fn programmatic(&self) -> usize {
        0
    }

    fn update(&mut self, index: usize, launch: &Launch) -> Result<()> {
        checked(launch, &self.shared.props)?;
        let len = self.launches.len();
        let Some(place) = self.launches.get_mut(index) else {
            let reason = format!("launch {index} of a graph of {len}");
            return Err(DeviceError::Call {
                call: "update",
                reason,
            });
        };
        *place = launch.clone();
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A moment: since work is done when a call returns, wall time is device time.
#[derive(Debug)]
struct HostMark(Instant);

impl Mark for HostMark {
    fn since(&self, earlier: &dyn Mark) -> Result<f64> {
        let Some(HostMark(start)) = earlier.as_any().downcast_ref::<HostMark>() else {
            let reason = "the earlier mark was made by another device".to_owned();
            return Err(DeviceError::Call {
                call: "since",
                reason,
            });
        };
        Ok(self.0.saturating_duration_since(*start).as_secs_f64() * 1e3)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
