//! The planner: from a graph to steps.
//!
//! [`plan`] needs no device at all: which tile and which grid a step gets is decided when its kernel is specified, so one
//! plan serves every device and the host can run the plan of a GPU as its oracle. It turns each operator of a canonical graph into [`Step`]s, each one kernel in every
//! variant, and decides what they read and write:
//!
//! - **Views before copies** ([`access`]): transposes, slices, broadcasts and most reshapes only change how a tensor is
//!   addressed. What no stride can say becomes a counted copy step.
//! - **Fusion** ([`lower`]): elementwise work joins the step whose result it consumes (as epilogue) or that consumes it
//!   (as prologue); a normalisation stores the sum that it normalises; a concat's operands are written straight into
//!   their place.
//! - **Layout**: results of convolutions are channels-last; what follows elementwise keeps the order it finds; weights
//!   are brought into one canonical order once, by *setup* steps that run at load.
//! - **Groups** (`group`): elementwise steps side by side in the list, none of which needs another, share a launch.
//! - **Order** (`order`): steps run in list order, or, as a graph, in the order of the plan's edges, which leave small
//!   independent steps room to run side by side.
//! - **Memory** ([`memory`]): temporaries share one arena, laid out by liveness at the actual extents.
//!
//! A [`Plan`] serves every shape: its numbers are expressions, gathered in one [`bespoke_ir::sym::SymProgram`] that
//! [`Plan::bind`] evaluates in microseconds.

pub mod access;
pub mod bind;
mod builder;
mod closure;
mod group;
pub mod lower;
pub mod memory;
mod order;
mod ports;
mod runs;
mod text;
pub mod verify;

use std::sync::Arc;

use bespoke_device::{Edge, EncodedMap, MAP_ALIGNMENT, MAP_SLOTS, MapOf, TensorMap};
use bespoke_ir::sym::SymProgram;
use bespoke_ir::{Constant, DType, Graph, Guard, SymInt, SymbolTable, TensorType};
use bespoke_templates::{Arithmetic, Template};

pub use bind::{BindError, Binding};
pub use lower::PlanError;
pub use memory::{MemoryLayout, Placement};
pub use ports::{PortMap, PortPlaces, PortSlots};

/// Names a buffer of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufferId(pub u32);

/// Index of an expression of the plan's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExprId(pub u32);

/// Where a buffer's bytes live.
#[derive(Clone, Debug)]
pub enum Place {
    /// The caller's tensor for graph input `n`.
    Input(usize),
    /// The caller's or a pooled tensor for graph output `n`.
    Output(usize),
    /// Uploaded once at load.
    Constant(Arc<Constant>),
    /// Written once at load, by a setup step.
    Persistent,
    /// The lane's arena, from the first step that writes it to the last that reads it.
    Arena {
        /// First step that writes it.
        first: usize,
        /// Last step that touches it.
        last: usize,
    },
}

/// A run of bytes that steps read and write.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// Where it lives.
    pub place: Place,
    /// Element type.
    pub dtype: DType,
    /// Length in bytes.
    pub bytes: ExprId,
    /// Name of the value for people.
    pub name: String,
}

/// What one slot group of a step's kernel holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arg {
    /// Address and length of a buffer that is read.
    Read(BufferId),
    /// Address and length of a buffer that is written.
    Write(BufferId),
    /// An integer.
    Int(ExprId),
    /// A tensor map of a buffer that is read.
    Map(MapOf),
}

impl Arg {
    /// Number of slots.
    pub fn slots(&self) -> usize {
        match self {
            Arg::Read(_) | Arg::Write(_) => 2,
            Arg::Int(_) => 1,
            Arg::Map(_) => MAP_SLOTS,
        }
    }
}

/// One kernel, in every variant.
#[derive(Clone, Debug)]
pub struct Step {
    /// Name of the anchor's node, for people.
    pub name: String,
    /// The family of kernels.
    pub template: Arc<dyn Template>,
    /// Its arguments, in the order of the template's parameters.
    pub args: Vec<Arg>,
    /// Position of its first slot in the extent block: where the last step's end, or with tensor maps the next multiple of
    /// [`MAP_ALIGNMENT`].
    pub first_slot: usize,
    /// Number of slots.
    pub slots: usize,
    /// Whether it only moves data because no view could say what the consumer needs.
    pub is_copy: bool,
}

impl Step {
    /// The tensor maps of its operands, each with its first slot counted from the step's first.
    pub fn maps(&self) -> impl Iterator<Item = (usize, &MapOf)> {
        // they come first
        let maps = self.args.iter().map_while(|arg| match arg {
            Arg::Map(of) => Some(of),
            _ => None,
        });
        maps.enumerate().map(|(i, of)| (i * MAP_SLOTS, of))
    }

    /// Fills in the tensor maps of its row, whose other slots are there.
    pub fn write_maps(&self, row: &mut [i64], encode: impl Fn(&TensorMap) -> Option<EncodedMap>) {
        for (at, of) in self.maps() {
            let encoded = of.encoded(row, &encode);
            if let Some(slots) = row.get_mut(at..at + MAP_SLOTS) {
                slots.copy_from_slice(&encoded);
            }
        }
    }
}

/// Where the row of a step may begin, if the rows before it end at `end`.
pub(crate) fn first_slot(end: usize, args: &[Arg]) -> usize {
    match args.first() {
        Some(Arg::Map(_)) => end.next_multiple_of(MAP_ALIGNMENT),
        _ => end,
    }
}

/// An input or output of the model.
#[derive(Clone, Debug)]
pub struct Port {
    /// Name.
    pub name: String,
    /// Type.
    pub ty: TensorType,
    /// Extents as expressions of the program.
    pub dims: Vec<ExprId>,
    /// Its buffer.
    pub buffer: BufferId,
}

/// A model as steps; see the crate.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of the model.
    pub name: String,
    /// What its products were planned in.
    pub arithmetic: Arithmetic,
    /// Symbols of the expressions.
    pub symbols: SymbolTable,
    /// Every expression, hash-consed.
    pub program: SymProgram,
    /// The expressions behind [`ExprId`]s, for people and tests.
    pub exprs: Vec<SymInt>,
    /// Conditions on the extents.
    pub guards: Vec<Guard>,
    /// All buffers.
    pub buffers: Vec<Buffer>,
    /// Steps that run once, at load.
    pub setup: Vec<Step>,
    /// Steps of a run, in an order in which they may run one by one.
    pub steps: Vec<Step>,
    /// The order of the steps that counts: all that may not run at the same time is ordered by a path of these, each
    /// from an earlier step of the list to a later one.
    pub edges: Vec<Edge>,
    /// The temporaries in the order in which they are placed.
    pub arena: Vec<Placement>,
    /// Where the addresses of inputs and outputs stand in the extent block.
    pub port_slots: PortSlots,
    /// Graph inputs in order.
    pub inputs: Vec<Port>,
    /// Graph outputs in order.
    pub outputs: Vec<Port>,
}

/// Plans a canonical graph, with exact products.
pub fn plan(graph: &Graph) -> Result<Plan, PlanError> {
    plan_in(graph, Arithmetic::default())
}

/// Plans a canonical graph, with the products of a run in this arithmetic. What is computed once, at load, is exact.
pub fn plan_in(graph: &Graph, arithmetic: Arithmetic) -> Result<Plan, PlanError> {
    let plan = lower::lower(graph, arithmetic)?;
    debug_assert!(verify::verify(&plan).is_ok(), "{:?}", verify::verify(&plan));
    Ok(plan)
}

impl Plan {
    /// Slots of the extent block of a run.
    pub fn slot_count(&self) -> usize {
        self.steps.last().map_or(0, |s| s.first_slot + s.slots)
    }

    /// Bytes of the extent block of a run, with what kernels ask the cache for beyond their row.
    pub fn block_bytes(&self) -> u64 {
        (self.slot_count() + bespoke_templates::source::ROW_AHEAD) as u64 * 8
    }

    /// Slots of the extent block of the setup.
    pub fn setup_slot_count(&self) -> usize {
        self.setup.last().map_or(0, |s| s.first_slot + s.slots)
    }

    /// Copies that no view could avoid, a run.
    pub fn copy_count(&self) -> usize {
        self.steps.iter().filter(|s| s.is_copy).count()
    }
}
