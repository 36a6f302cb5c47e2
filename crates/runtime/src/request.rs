//! What callers say to a session and hear from it: options, ports, bindings, reports.
//!
//! Plain data; everything here is public and re-exported by the crate.

use std::time::Instant;

use bespoke_ir::{DType, SymInt};
use bespoke_plan::{Plan, Port};
use bespoke_templates::Arithmetic;
use serde::Serialize;

use crate::error::Error;
use crate::feed::Feed;
use crate::patience::{CancelToken, Patience};
use crate::strategy::Strategy;
use crate::tensor::{Tensor, TensorView};

/// Whether runs are graphs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GraphMode {
    /// The whole run is one graph, in the order that the plan asks for: small independent kernels run side by side.
    #[default]
    Whole,
    /// The whole run is one graph in which each kernel follows the one before it, for comparison.
    Chain,
    /// Kernels are launched one by one.
    Off,
}

/// Whether a kernel of a graph may start while the one before it ends (programmatic dependent launch).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgrammaticLaunch {
    /// Between small kernels, where card and driver can. Events of recorded graphs say how often, or why not.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// Why a run was a graph or was not: a stable code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GraphReason {
    /// Off: the session was set up without graphs.
    Asked,
    /// Recorded: the lane had not run this program before, and nobody had made the graph beside the path.
    FirstOnLane,
    /// Replayed: the graph was made when the session was loaded.
    MadeAtLoad,
    /// Replayed: the graph was made when the program was installed, beside the path.
    MadeAtInstall,
    /// Replayed: an earlier run on this lane recorded it.
    MadeByRun,
}

impl GraphReason {
    /// The code, as documents and events have it.
    pub fn code(self) -> &'static str {
        match self {
            GraphReason::Asked => "asked",
            GraphReason::FirstOnLane => "first_on_lane",
            GraphReason::MadeAtLoad => "made_at_load",
            GraphReason::MadeAtInstall => "made_at_install",
            GraphReason::MadeByRun => "made_by_run",
        }
    }

    /// What it means, for people.
    pub fn meaning(self) -> &'static str {
        match self {
            GraphReason::Asked => "graphs are switched off",
            GraphReason::FirstOnLane => "the lane had not run this program before",
            GraphReason::MadeAtLoad => "made when the session was loaded",
            GraphReason::MadeAtInstall => "made when the program was installed",
            GraphReason::MadeByRun => "recorded by an earlier run",
        }
    }
}

/// Whether the tiles of kernels that stay hot are timed on the device, and better ones put in their place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refinement {
    /// As the strategy says, on devices that run compiled kernels. The host runs twins, which ignore tiles: there is nothing
    /// to find out there.
    #[default]
    Auto,
    /// Never.
    Off,
    /// After so many runs of the best tier of a class, whatever the strategy and the device.
    After(u32),
}

/// How to set up a session.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// The specialisation strategy, by name (`"lazy".into()`), as a file's text, or the caller's own.
    pub strategy: Strategy,
    /// For `static`: the extents of each input to tune for.
    pub opt_shapes: Vec<(String, Vec<i64>)>,
    /// Whether runs are graphs.
    pub cuda_graph: GraphMode,
    /// Whether kernels of a graph may start while the ones before them end.
    pub programmatic_launch: ProgrammaticLaunch,
    /// Whether a specialised program must agree with the one in service on a live run, and be no slower, before it
    /// serves. The run that follows its compile takes a few runs' time then.
    pub verify_swap: bool,
    /// Whether specialised kernels keep the tiles of the generic ones, and so the order of every sum: a swap then changes
    /// no bit of a result. Costs the speed that other tiles bring.
    pub bit_stable: bool,
    /// What products of floats are computed in; what comes of it is said by [`Session::arithmetic`](crate::Session::arithmetic).
    pub arithmetic: Arithmetic,
    /// Whether tiles are timed for what stays hot.
    pub refine: Refinement,
    /// Runs at the same time, at most.
    pub max_lanes: usize,
    /// Device memory that the session may hold, in bytes; `None` is what the device has. Kernels and graphs are not
    /// counted: the driver does not say what they take.
    pub memory_limit: Option<u64>,
    /// Whether to remember the shapes that occur, in the cache, and to begin with the programs of those that occurred
    /// before, as far as their kernels are in the cache.
    pub learn: bool,
    /// Specialised programs kept, at most; the least recently seen leaves first.
    pub max_variants: usize,
    /// Refuse runs that are no recorded graph, with [`Error::NoGraph`], and models that are several, with
    /// [`Error::Segmented`].
    pub require_graph: bool,
    /// Who hears of every event from the first on; see [`mod@crate::feed`].
    pub feeds: Vec<Feed>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions {
            strategy: Strategy::default(),
            opt_shapes: Vec::new(),
            cuda_graph: GraphMode::Whole,
            programmatic_launch: ProgrammaticLaunch::Auto,
            verify_swap: false,
            bit_stable: false,
            arithmetic: Arithmetic::default(),
            refine: Refinement::Auto,
            max_lanes: 4,
            memory_limit: None,
            learn: true,
            max_variants: 32,
            require_graph: false,
            feeds: Vec::new(),
        }
    }
}

/// An input or output of a model, for people and tools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortInfo {
    /// Name.
    pub name: String,
    /// Element type.
    #[serde(serialize_with = "as_text")]
    pub dtype: DType,
    /// Extents: numbers, or expressions of the model's symbols.
    pub dims: Vec<String>,
}

impl PortInfo {
    /// An input or output of a plan.
    pub(crate) fn of(plan: &Plan, port: &Port) -> PortInfo {
        let text = |d: &SymInt| d.display(&plan.symbols).to_string();
        PortInfo {
            name: port.name.clone(),
            dtype: port.ty.dtype,
            dims: port.ty.dims.iter().map(text).collect(),
        }
    }
}

fn as_text<S: serde::Serializer>(dtype: &DType, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(dtype)
}

/// What happened to the graph in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GraphUse {
    /// The program's graph had to be made in this run.
    Recorded,
    /// It was there.
    Replayed,
    /// Kernels were launched one by one.
    Off,
}

/// What a run was like.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Number of the run in its session.
    pub run: u64,
    /// Extents of every input: `x:1x3x48x320`.
    pub shape: String,
    /// From the call to the results, in microseconds.
    pub latency_us: u64,
    /// Kernels that serve every shape.
    pub generic_kernels: usize,
    /// Kernels made for this shape or for the strategy's class of it.
    pub specialized_kernels: usize,
    /// What happened to the graph.
    pub graph: GraphUse,
    /// Why.
    pub graph_reason: GraphReason,
    /// Time to bind the shape, in microseconds; 0 if it was bound before.
    pub bind_us: u64,
    /// Time to make a graph, in microseconds.
    pub record_us: u64,
    /// Whether the shape was seen for the first time.
    pub new_shape: bool,
    /// Which tier the program was of: 0 is the generic program, 1 has kernels made for the class, 2 a plan of its own.
    /// The lowest of all segments that ran.
    pub tier: u8,
    /// Segments that ran, each a graph of its own; 1 where the model is a single graph. Kernels are counted over all of
    /// them, and `graph` is `recorded` as soon as one of them had to be made.
    pub segments: usize,
}

/// Outputs and report of a run.
#[derive(Clone, Debug)]
pub struct RunResult {
    /// Outputs in the model's order.
    pub outputs: Vec<(String, Tensor)>,
    /// What the run was like.
    pub report: RunReport,
}

/// The caller's device memory for a run, by name.
///
/// An output may be the memory of an input, of as many bytes from the same address, if whatever reads the input is over when it is
/// written, or works element by element. Every other overlap is an [`Error::Buffer`].
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    /// Inputs.
    pub inputs: Vec<(String, TensorView)>,
    /// Outputs; each must have the capacity that the model needs.
    pub outputs: Vec<(String, TensorView)>,
}

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Return when the work is queued, not when it is done. The caller may then only read the outputs after
    /// [`Session::synchronize`](crate::Session::synchronize), or behind the run on a stream of its own. Runs whose
    /// outputs go to the host are over when they return in any case.
    pub asynchronous: bool,
    /// The caller's stream, by its native handle (`CUstream`; 0 is the driver's default stream). The run begins after
    /// what that stream holds, and what is queued there afterwards begins after the run. It must be alive until then.
    pub stream: Option<u64>,
    /// By which another thread calls the run off while it waits; see [`crate::patience`].
    pub cancel: Option<CancelToken>,
    /// When to give up waiting; see [`crate::patience`].
    pub deadline: Option<Instant>,
}

impl RunOptions {
    pub(crate) fn patience(&self) -> Patience<'_> {
        Patience {
            cancel: self.cancel.as_ref(),
            deadline: self.deadline,
        }
    }
}

/// The extents of a shape in the order of the inputs.
pub(crate) fn in_order<'s>(
    plan: &Plan,
    shape: &'s [(String, Vec<i64>)],
) -> Result<Vec<&'s [i64]>, Error> {
    let of = |port: &Port| {
        let given = shape.iter().find(|(n, _)| *n == port.name);
        given
            .map(|(_, dims)| &dims[..])
            .ok_or_else(|| Error::MissingInput(port.name.clone()))
    };
    plan.inputs.iter().map(of).collect()
}
