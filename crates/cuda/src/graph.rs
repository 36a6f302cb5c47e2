//! Recorded chains of launches.
//!
//! A graph is cut into executables of at most [`CHUNK`] kernels. Instantiating holds a driver lock for a time that grows
//! with the size (0.2 ms for 100 nodes, 5 ms for 1000), and requests on other threads wait for it meanwhile; small pieces
//! bound that wait. Launching a piece more costs the host some two microseconds, hidden behind the piece before it.
//!
//! Nodes depend on the node before them by plain edges. A node can be given another function later; nothing about it but
//! function, geometry and the one parameter is ever set, so every update is one that the driver accepts.

use std::any::Any;
use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

use bespoke_device::{DeviceError, Graph, Kernel, Launch, Result};
use cudarc::driver::sys;

use crate::context::{Context, Entered, Handle};
use crate::kernel::CudaKernel;

/// The most kernels of one executable.
pub(crate) const CHUNK: usize = 250;

/// Cuts `length` launches into the fewest pieces of at most [`CHUNK`], as even as possible.
pub(crate) fn chunks(length: usize) -> Vec<Range<usize>> {
    let count = length.div_ceil(CHUNK);
    (0..count)
        .map(|i| length * i / count..length * (i + 1) / count)
        .collect()
}

/// One executable and the graph that its nodes are named by.
#[derive(Debug)]
struct Piece {
    graph: Handle<sys::CUgraph>,
    executable: Handle<sys::CUgraphExec>,
    nodes: Vec<Handle<sys::CUgraphNode>>,
}

/// A recorded chain of launches.
#[derive(Debug)]
pub(crate) struct CudaGraph {
    context: Arc<Context>,
    pieces: Vec<Piece>,
    /// The kernels in use: their modules must stay loaded.
    kernels: Vec<Arc<dyn Kernel>>,
}

/// Calls `with` with the driver's description of a launch.
fn with_parameters(
    on: &Entered<'_>,
    context: &Arc<Context>,
    launch: &Launch,
    with: impl FnOnce(&sys::CUDA_KERNEL_NODE_PARAMS) -> Result<()>,
) -> Result<()> {
    let function = CudaKernel::of(launch, context)?.prepared(on, &launch.config)?;
    let mut slots = launch.slots.0;
    let mut parameters: [*mut c_void; 1] = [(&raw mut slots).cast()];
    let [x, y, z] = launch.config.grid;
    with(&sys::CUDA_KERNEL_NODE_PARAMS {
        func: function,
        gridDimX: x,
        gridDimY: y,
        gridDimZ: z,
        blockDimX: launch.config.block,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: launch.config.shared_bytes,
        kernelParams: parameters.as_mut_ptr(),
        extra: std::ptr::null_mut(),
        kern: std::ptr::null_mut(),
        ctx: std::ptr::null_mut(),
    })
}

impl CudaGraph {
    pub(crate) fn record(context: Arc<Context>, launches: &[Launch]) -> Result<CudaGraph> {
        let kernels = launches.iter().map(|l| l.kernel.clone()).collect();
        // pieces join one by one, so that a failure drops those that exist
        let mut graph = CudaGraph {
            context: context.clone(),
            pieces: Vec::new(),
            kernels,
        };
        let on = context.enter()?;
        for range in chunks(launches.len()) {
            graph.record_piece(&on, &launches[range])?;
        }
        drop(on);
        Ok(graph)
    }

    fn record_piece(&mut self, on: &Entered<'_>, launches: &[Launch]) -> Result<()> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let code = unsafe { (on.api.cuGraphCreate)(&mut raw, 0) };
        on.check("cuGraphCreate", code)?;
        self.pieces.push(Piece {
            graph: Handle(raw),
            executable: Handle(std::ptr::null_mut()),
            nodes: Vec::new(),
        });
        let Some(piece) = self.pieces.last_mut() else {
            return Ok(());
        };
        for launch in launches {
            with_parameters(on, &self.context, launch, |parameters| {
                let before = piece.nodes.last().map(|n| n.0);
                let (after, count) = before
                    .as_ref()
                    .map_or((std::ptr::null(), 0), |n| (std::ptr::from_ref(n), 1));
                let mut node = std::ptr::null_mut();
                // SAFETY: writes one handle; reads the node before, which is of the same graph, and the parameters, whose
                // one value is copied into the node during the call.
                let code = unsafe {
                    (on.api.cuGraphAddKernelNode_v2)(&mut node, raw, after, count, parameters)
                };
                on.check("cuGraphAddKernelNode", code)?;
                piece.nodes.push(Handle(node));
                Ok(())
            })?;
        }
        // SAFETY: writes one handle; the graph is complete.
        let code = unsafe { (on.api.cuGraphInstantiateWithFlags)(&mut piece.executable.0, raw, 0) };
        on.check("cuGraphInstantiate", code)
    }

    /// The graph behind a trait object, if this context recorded it.
    pub(crate) fn of<'g>(
        call: &'static str,
        graph: &'g dyn Graph,
        context: &Arc<Context>,
    ) -> Result<&'g CudaGraph> {
        let own = graph
            .as_any()
            .downcast_ref::<CudaGraph>()
            .filter(|g| Arc::ptr_eq(&g.context, context));
        own.ok_or_else(|| DeviceError::Call {
            call,
            reason: "the graph was recorded by another device".to_owned(),
        })
    }

    /// The executables in their order.
    pub(crate) fn executables(&self) -> impl Iterator<Item = sys::CUgraphExec> {
        self.pieces.iter().map(|p| p.executable.0)
    }
}

impl Graph for CudaGraph {
    fn len(&self) -> usize {
        self.kernels.len()
    }

    fn update(&mut self, index: usize, launch: &Launch) -> Result<()> {
        let mut first = 0;
        let place = self.pieces.iter().find_map(|piece| {
            let at = index.checked_sub(first)?;
            first += piece.nodes.len();
            Some((piece.executable.0, piece.nodes.get(at)?.0))
        });
        let Some((executable, node)) = place else {
            let reason = format!("launch {index} of a graph of {}", self.kernels.len());
            return Err(DeviceError::Call {
                call: "update",
                reason,
            });
        };
        let on = self.context.enter()?;
        with_parameters(&on, &self.context, launch, |parameters| {
            // SAFETY: the node belongs to the graph that the executable was made of, which is still there; `&mut self`
            // and the caller's promise keep the executable from running. The parameters are copied during the call.
            let code =
                unsafe { (on.api.cuGraphExecKernelNodeSetParams_v2)(executable, node, parameters) };
            on.check("cuGraphExecKernelNodeSetParams", code)
        })?;
        drop(on);
        self.kernels[index] = launch.kernel.clone();
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        self.context.quietly(|on| {
            for piece in &self.pieces {
                if !piece.executable.0.is_null() {
                    // SAFETY: made in `record_piece` and destroyed once; a running one is kept by the driver until done.
                    on.last("cuGraphExecDestroy", |api| unsafe {
                        (api.cuGraphExecDestroy)(piece.executable.0)
                    });
                }
                // SAFETY: as above.
                on.last("cuGraphDestroy", |api| unsafe {
                    (api.cuGraphDestroy)(piece.graph.0)
                });
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;
    use bespoke_device::{DevicePtr, LaunchConfig};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_cover_everything_evenly(length in 0_usize..5000) {
            let chunks = chunks(length);
            prop_assert_eq!(chunks.len(), length.div_ceil(CHUNK));
            prop_assert!(chunks.iter().all(|c| !c.is_empty() && c.len() <= CHUNK));
            prop_assert_eq!(chunks.first().map_or(0, |c| c.start), 0);
            prop_assert_eq!(chunks.last().map_or(0, |c| c.end), length);
            prop_assert!(chunks.windows(2).all(|w| w[0].end == w[1].start));
            let sizes = || chunks.iter().map(|c| c.len());
            prop_assert!(sizes().max().unwrap_or(0) - sizes().min().unwrap_or(0) <= 1);
        }
    }

    #[test]
    fn one_more_than_a_chunk_makes_two_halves() {
        assert_eq!(chunks(CHUNK), vec![0..CHUNK]);
        assert_eq!(chunks(CHUNK + 1), [0..125, 125..251]);
    }

    fn launch(context: &Arc<Context>, slots: u64) -> Launch {
        let kernel = Arc::new(CudaKernel::load(context.clone(), &fake::image("k")).unwrap());
        let config = LaunchConfig {
            grid: [1, 2, 3],
            block: 32,
            shared_bytes: 0,
        };
        Launch {
            kernel,
            config,
            slots: DevicePtr(slots),
        }
    }

    #[test]
    fn a_long_graph_is_cut_and_its_nodes_are_found_again() {
        let context = Arc::new(Context::over(fake::driver()));
        let launches = vec![launch(&context, 8); 600];
        fake::notes();
        let mut graph = CudaGraph::record(context.clone(), &launches).unwrap();
        let notes = fake::notes();
        let count = |name| notes.iter().filter(|n| **n == name).count();
        assert_eq!(count("cuGraphAddKernelNode_v2"), 600);
        assert_eq!(count("cuGraphInstantiateWithFlags"), 3);
        assert_eq!((graph.len(), graph.executables().count()), (600, 3));
        for index in [0, 199, 200, 400, 599] {
            graph.update(index, &launches[0]).unwrap();
        }
        assert!(matches!(
            graph.update(600, &launches[0]),
            Err(DeviceError::Call { call: "update", .. })
        ));
        drop(graph);
        let notes = fake::notes();
        assert_eq!(
            notes.iter().filter(|n| **n == "cuGraphExecDestroy").count(),
            3
        );
        assert_eq!(notes.iter().filter(|n| **n == "cuGraphDestroy").count(), 3);
    }

    #[test]
    fn a_failed_recording_leaves_nothing_behind() {
        let context = Arc::new(Context::over(fake::driver()));
        let launches = vec![launch(&context, 8); 300];
        fake::fail("cuGraphInstantiateWithFlags", 1, 2);
        fake::notes();
        let error = CudaGraph::record(context, &launches).unwrap_err();
        assert!(
            matches!(error, DeviceError::OutOfMemory { .. }),
            "{error:?}"
        );
        let notes = fake::notes();
        assert_eq!(notes.iter().filter(|n| **n == "cuGraphDestroy").count(), 2);
    }

    #[test]
    fn a_failed_update_keeps_the_kernel_that_is_there() {
        let context = Arc::new(Context::over(fake::driver()));
        let (old, new) = (launch(&context, 8), launch(&context, 8));
        let mut graph = CudaGraph::record(context, std::slice::from_ref(&old)).unwrap();
        fake::fail("cuGraphExecKernelNodeSetParams_v2", 0, 910);
        assert!(graph.update(0, &new).is_err());
        assert!(Arc::ptr_eq(&graph.kernels[0], &old.kernel));
        graph.update(0, &new).unwrap();
        assert!(Arc::ptr_eq(&graph.kernels[0], &new.kernel));
    }
}
