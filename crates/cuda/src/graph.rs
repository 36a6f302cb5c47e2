//! Recorded launches and their edges.
//!
//! A graph is cut into executables of at most [`CHUNK`] kernels. Instantiating holds a driver lock for a time that grows
//! with the size (0.2 ms for 100 nodes, 5 ms for 1000), and requests on other threads wait for it meanwhile; small pieces
//! bound that wait. Launching a piece more costs the host some two microseconds, hidden behind the piece before it. Pieces
//! follow one another on the stream, so an edge from one to a later one needs no recording.
//!
//! A node waits for others by plain edges, given when it is added, or by programmatic ones, added behind it with their
//! kind: the later kernel may start when the blocks of the earlier one have triggered or ended, and waits itself. A driver
//! that cannot record those, or a card without such launches, gets plain ones.
//!
//! A node can be given another function later; nothing about it but function, geometry and the one parameter is ever set,
//! so every update is one that the driver accepts. Edges belong to the graph and not to a node's function. What stays from the
//! first function is the room that the driver plans for clusters: a kernel of other clusters runs, but slowly (1.5 times as long
//! with clusters of two in the place of eight, driver 580). Such a launch does not [suit](Graph::suits) the node.

use std::any::Any;
use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

use bespoke_device::{
    Arch, DeviceError, Edge, Graph, Kernel, Launch, NoDependentLaunch, Result, check_edges,
};
use cudarc::driver::sys;

use crate::api::{Api, Code};
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
    /// Blocks of a cluster of the function that each node was made with.
    clusters: Vec<i32>,
}

/// How the driver adds edges that have a kind.
type AddEdges = unsafe extern "C" fn(
    sys::CUgraph,
    *const sys::CUgraphNode,
    *const sys::CUgraphNode,
    *const sys::CUgraphEdgeData,
    usize,
) -> Code;

/// The later kernel may start when every block of the earlier one has triggered or ended.
const PROGRAMMATIC: sys::CUgraphEdgeData = sys::CUgraphEdgeData {
    from_port: sys::CU_GRAPH_KERNEL_NODE_PORT_PROGRAMMATIC as u8,
    to_port: 0,
    type_: sys::CUgraphDependencyType_enum::CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC as u8,
    reserved: [0; 5],
};

/// How programmatic edges are added on this card by this driver, or why they are not.
pub(crate) fn dependent_launch(
    api: &Api,
    arch: Arch,
) -> std::result::Result<AddEdges, NoDependentLaunch> {
    if !arch.has_dependent_launch() {
        return Err(NoDependentLaunch::Architecture);
    }
    api.cuGraphAddDependencies_v2
        .ok_or(NoDependentLaunch::Driver)
}

/// Recorded launches and their edges.
#[derive(Debug)]
pub(crate) struct CudaGraph {
    context: Arc<Context>,
    pieces: Vec<Piece>,
    programmatic: usize,
    /// The kernels in use: their modules must stay loaded.
    kernels: Vec<Arc<dyn Kernel>>,
}

/// The address of a list of nodes; none for an empty list.
fn nodes_at(nodes: &[sys::CUgraphNode]) -> *const sys::CUgraphNode {
    match nodes {
        [] => std::ptr::null(),
        nodes => nodes.as_ptr(),
    }
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
    pub(crate) fn record(
        context: Arc<Context>,
        arch: Arch,
        launches: &[Launch],
        edges: &[Edge],
    ) -> Result<CudaGraph> {
        check_edges(launches.len(), edges)?;
        let mut before: Vec<Vec<Edge>> = vec![Vec::new(); launches.len()];
        for edge in edges {
            before[edge.to].push(*edge);
        }
        let kernels = launches.iter().map(|l| l.kernel.clone()).collect();
        // pieces join one by one, so that a failure drops those that exist
        let mut graph = CudaGraph {
            context: context.clone(),
            pieces: Vec::new(),
            programmatic: 0,
            kernels,
        };
        let on = context.enter()?;
        for range in chunks(launches.len()) {
            graph.record_piece(
                &on,
                arch,
                range.start,
                &launches[range.clone()],
                &before[range],
            )?;
        }
        drop(on);
        Ok(graph)
    }

    /// Adds an executable of the launches from `first` on; `before` has the edges to each.
    fn record_piece(
        &mut self,
        on: &Entered<'_>,
        arch: Arch,
        first: usize,
        launches: &[Launch],
        before: &[Vec<Edge>],
    ) -> Result<()> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let code = unsafe { (on.api.cuGraphCreate)(&mut raw, 0) };
        on.check("cuGraphCreate", code)?;
        self.pieces.push(Piece {
            graph: Handle(raw),
            executable: Handle(std::ptr::null_mut()),
            nodes: Vec::new(),
            clusters: Vec::new(),
        });
        let Some(piece) = self.pieces.last_mut() else {
            return Ok(());
        };
        let add_edges = dependent_launch(on.api, arch).ok();
        let (mut plain, mut programmatic) = (Vec::new(), Vec::new());
        for (launch, before) in launches.iter().zip(before) {
            plain.clear();
            programmatic.clear();
            // what lies before the piece is over when it begins
            for edge in before.iter().filter(|e| e.from >= first) {
                match add_edges.filter(|_| edge.programmatic) {
                    Some(_) => programmatic.push(piece.nodes[edge.from - first].0),
                    None => plain.push(piece.nodes[edge.from - first].0),
                }
            }
            let mut node = std::ptr::null_mut();
            with_parameters(on, &self.context, launch, |parameters| {
                // SAFETY: writes one handle; reads as many nodes as it is told, which are of the same graph, and the
                // parameters, whose one value is copied into the node during the call.
                let code = unsafe {
                    (on.api.cuGraphAddKernelNode_v2)(
                        &mut node,
                        raw,
                        nodes_at(&plain),
                        plain.len(),
                        parameters,
                    )
                };
                on.check("cuGraphAddKernelNode", code)
            })?;
            piece.nodes.push(Handle(node));
            let kernel = CudaKernel::of(launch, &self.context)?;
            piece.clusters.push(kernel.cluster());
            let Some(add_edges) = add_edges.filter(|_| !programmatic.is_empty()) else {
                continue;
            };
            let count = programmatic.len();
            let (to, data) = (vec![node; count], vec![PROGRAMMATIC; count]);
            // SAFETY: reads `count` entries of each list; all nodes are of this graph.
            let code = unsafe {
                add_edges(
                    raw,
                    programmatic.as_ptr(),
                    to.as_ptr(),
                    data.as_ptr(),
                    count,
                )
            };
            on.check("cuGraphAddDependencies", code)?;
            self.programmatic += count;
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

    /// The piece that a launch is in, and its place there.
    fn place(&self, index: usize) -> Option<(&Piece, usize)> {
        let mut first = 0;
        self.pieces.iter().find_map(|piece| {
            let at = index.checked_sub(first)?;
            first += piece.nodes.len();
            (at < piece.nodes.len()).then_some((piece, at))
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

    fn programmatic(&self) -> usize {
        self.programmatic
    }

    fn suits(&self, index: usize, launch: &Launch) -> bool {
        let kernel = CudaKernel::of(launch, &self.context);
        let place = self.place(index);
        matches!((place, kernel), (Some((piece, at)), Ok(kernel)) if piece.clusters[at] == kernel.cluster())
    }

    fn update(&mut self, index: usize, launch: &Launch) -> Result<()> {
        let place = self.place(index);
        let place = place.map(|(piece, at)| (piece.executable.0, piece.nodes[at].0));
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
    use bespoke_device::{DevicePtr, LaunchConfig, chain};
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

    const ARCH: Arch = Arch::sm(90);

    fn record(context: &Arc<Context>, launches: &[Launch], edges: &[Edge]) -> Result<CudaGraph> {
        CudaGraph::record(context.clone(), ARCH, launches, edges)
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
        let mut graph = record(&context, &launches, &chain(600)).unwrap();
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
        let error = record(&context, &launches, &chain(300)).unwrap_err();
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
        let mut graph = record(&context, std::slice::from_ref(&old), &[]).unwrap();
        fake::fail("cuGraphExecKernelNodeSetParams_v2", 0, 910);
        assert!(graph.update(0, &new).is_err());
        assert!(Arc::ptr_eq(&graph.kernels[0], &old.kernel));
        graph.update(0, &new).unwrap();
        assert!(Arc::ptr_eq(&graph.kernels[0], &new.kernel));
    }

    #[test]
    fn a_kernel_of_other_clusters_does_not_suit_a_node() {
        let context = Arc::new(Context::over(fake::driver()));
        let (plain, other) = (launch(&context, 8), launch(&context, 16));
        fake::clusters(8);
        let (wide, same) = (launch(&context, 8), launch(&context, 16));
        fake::clusters(2);
        let narrow = launch(&context, 8);
        let graph = record(&context, &[plain.clone(), wide.clone()], &chain(2)).unwrap();
        let suits = |at: usize| [&plain, &other, &wide, &same, &narrow].map(|l| graph.suits(at, l));
        assert_eq!(suits(0), [true, true, false, false, false]);
        assert_eq!(suits(1), [false, false, true, true, false]);
        assert_eq!(suits(2), [false; 5], "there is no such launch");
    }

    #[test]
    fn edges_have_their_kind_and_end_with_their_piece() {
        let context = Arc::new(Context::over(fake::driver()));
        let launches = vec![launch(&context, 8); 4];
        let diamond = [
            Edge::programmatic(0, 1),
            Edge::plain(0, 2),
            Edge::programmatic(1, 3),
            Edge::plain(2, 3),
        ];
        fake::edges();
        let graph = record(&context, &launches, &diamond).unwrap();
        let node = |at: usize| graph.pieces[0].nodes[at].0 as u64;
        let expected = diamond.map(|e| (node(e.from), node(e.to), e.programmatic));
        let mut found = fake::edges();
        found.sort_unstable_by_key(|e| (e.1, e.0));
        assert_eq!(found, expected);
        assert_eq!(graph.programmatic(), 2);
        // the two pieces of a long graph follow one another in any case
        let launches = vec![launch(&context, 8); CHUNK + 1];
        let edges: Vec<Edge> = (1..=CHUNK).map(|i| Edge::programmatic(i - 1, i)).collect();
        let graph = record(&context, &launches, &edges).unwrap();
        assert_eq!(
            (graph.programmatic(), fake::edges().len()),
            (CHUNK - 1, CHUNK - 1)
        );
    }

    #[test]
    fn what_cannot_be_programmatic_is_plain() {
        let edges = [Edge::programmatic(0, 1)];
        let context = Arc::new(Context::over(fake::driver_without_edge_kinds()));
        let launches = vec![launch(&context, 8); 2];
        let on = context.enter().unwrap();
        assert_eq!(
            dependent_launch(on.api, ARCH).err(),
            Some(NoDependentLaunch::Driver)
        );
        drop(on);
        fake::edges();
        let graph = record(&context, &launches, &edges).unwrap();
        assert_eq!((graph.programmatic(), fake::edges().len()), (0, 1));

        let context = Arc::new(Context::over(fake::driver()));
        let launches = vec![launch(&context, 8); 2];
        let old = Arch::sm(89);
        let on = context.enter().unwrap();
        assert_eq!(
            dependent_launch(on.api, old).err(),
            Some(NoDependentLaunch::Architecture)
        );
        drop(on);
        fake::edges();
        let graph = CudaGraph::record(context.clone(), old, &launches, &edges).unwrap();
        assert_eq!(graph.programmatic(), 0);
        assert!(fake::edges().iter().all(|e| !e.2));
    }

    #[test]
    fn edges_that_lead_nowhere_are_refused() {
        let context = Arc::new(Context::over(fake::driver()));
        let launches = vec![launch(&context, 8); 2];
        fake::notes();
        for edge in [Edge::plain(1, 0), Edge::plain(0, 2)] {
            assert!(record(&context, &launches, &[edge]).is_err());
        }
        assert!(!fake::notes().contains(&"cuGraphCreate"));
        fake::fail("cuGraphAddDependencies_v2", 0, 1);
        assert!(record(&context, &launches, &[Edge::programmatic(0, 1)]).is_err());
        assert!(fake::notes().contains(&"cuGraphDestroy"));
    }
}
