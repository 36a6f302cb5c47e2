//! Flows: models in which the host decides something between two graphs.
//!
//! A [`Graph`] is straight: every node runs once, and every extent is an expression of symbols that are known before the
//! first node runs. Where a model branches or loops on data, or computes an extent, one graph is not enough. Such a model
//! is a [`Flow`]: straight graphs, its *segments*, in blocks of items. Between segments the host reads a few numbers from
//! the device and decides what runs next; everything else that passes from one segment to another is a
//! [`Tensor`] of the flow and stays where it is.
//!
//! ```text
//! flow demo(x: f32[N])
//!   segment 0 (x) -> count
//!   read count -> C
//!   segment 1 (x) -> y: f32[C]     cut: `NonZero` needs its number of elements
//!   return y
//! ```
//!
//! **One table of symbols for all.** The symbols of the inputs' extents are bound before the first item. [`Read`] binds
//! more, and so does a tensor that [`binds`](Tensor::binds) extents: the result of a branch, what a loop carries. A
//! segment's extents are expressions over all of them. In a loop a symbol has the value of the iteration.
//!
//! What a flow means is written once, in [`walk`](mod@walk): the reference and the runtime bring only the machine that
//! runs segments. [`Flow::finish`] completes a flow; nothing else has to be called to build one.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::Graph;
use crate::sym::{SymInt, SymbolId, SymbolOrigin, SymbolTable};
use crate::types::TensorType;

mod text;
pub mod walk;

#[cfg(test)]
mod tests;

pub use walk::{FlowError, Machine, walk};

/// Names a tensor of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorId(pub u32);

impl TensorId {
    /// The number as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A tensor that passes between items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Name for people.
    pub name: String,
    /// Type, over the flow's symbols.
    pub ty: TensorType,
    /// Axes whose extent is a symbol that gets its value when the tensor gets its content.
    pub binds: Vec<(usize, SymbolId)>,
}

/// What the host has to know before a flow goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CutKind {
    /// A condition that the device computes.
    If,
    /// A trip count or a condition that the device computes, or more iterations than are unrolled.
    Loop,
    /// More slices of an axis than are unrolled.
    Scan,
    /// An extent that the device computes, or that an input's content decides.
    Extent,
}

impl CutKind {
    /// A stable code.
    pub fn code(self) -> &'static str {
        match self {
            CutKind::If => "if",
            CutKind::Loop => "loop",
            CutKind::Scan => "scan",
            CutKind::Extent => "extent",
        }
    }
}

/// Why a flow has another segment, not one graph: the kind, and the node that made it necessary.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cut {
    /// What the host has to know.
    pub kind: CutKind,
    /// Name of the node, for people.
    pub node: String,
}

/// A straight part of the model.
#[derive(Clone, Debug)]
pub struct Segment {
    /// What it computes. Its symbols are the flow's, all of origin [`SymbolOrigin::Cut`].
    pub graph: Graph,
    /// The tensors that it reads, one for each input of the graph.
    pub inputs: Vec<TensorId>,
    /// The tensors that it makes, one for each output of the graph.
    pub outputs: Vec<TensorId>,
}

/// Binds symbols to the elements of a small integer tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Name of the node that needs it, for people.
    pub node: String,
    /// The tensor.
    pub tensor: TensorId,
    /// A symbol for each element, row-major.
    pub symbols: Vec<SymbolId>,
    /// Whether the elements are a target shape in which -1 and 0 have the meaning that they have for reshaping.
    pub shape_of: Option<ShapeOf>,
}

/// What a target shape is applied to (ONNX "Reshape").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeOf {
    /// Extents of the data.
    pub dims: Vec<SymInt>,
    /// Whether 0 means 0, and not the data's extent at that place.
    pub allow_zero: bool,
}

/// One of two bodies runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct If {
    /// Name of the node, for people.
    pub node: String,
    /// One boolean.
    pub condition: TensorId,
    /// What runs if it is true, and what runs otherwise.
    pub branches: [Branch; 2],
    /// What the branch that ran gave.
    pub results: Vec<TensorId>,
}

/// A body of an [`If`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Branch {
    /// Its items.
    pub block: Block,
    /// What it gives; tensors of its own or of blocks around it.
    pub results: Vec<TensorId>,
}

/// How often a loop runs at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trip {
    /// Until its condition is false.
    Unbounded,
    /// So often; the host knows.
    Extent(SymInt),
    /// As often as this integer says.
    Tensor(TensorId),
}

/// A value that an iteration hands to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Before the first iteration; a tensor of a block around the loop.
    pub initial: TensorId,
    /// What an iteration reads.
    pub inner: TensorId,
    /// What an iteration gives.
    pub next: TensorId,
    /// After the last iteration.
    pub result: TensorId,
}

/// What iterations give, one behind the other along a new first axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stacked {
    /// What an iteration gives; all must have one shape.
    pub element: TensorId,
    /// All of them.
    pub result: TensorId,
}

/// A body runs again and again (ONNX "Loop"; a Scan is one whose body picks its slices).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loop {
    /// Name of the node, for people.
    pub node: String,
    /// Which operator it was: [`CutKind::Loop`] or [`CutKind::Scan`].
    pub kind: CutKind,
    /// How often at most.
    pub trip: Trip,
    /// A boolean that must be true for the first iteration; `None` is true.
    pub condition: Option<TensorId>,
    /// Number of the iteration, an `i64` of rank 0, if the body reads it.
    pub iteration: Option<TensorId>,
    /// State.
    pub carried: Vec<Carried>,
    /// The body.
    pub block: Block,
    /// A boolean of the body that must be true for the next iteration; `None` is true.
    pub next_condition: Option<TensorId>,
    /// Results that grow.
    pub stacked: Vec<Stacked>,
}

/// One thing after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Runs the segment of this number.
    Segment(usize),
    /// Binds symbols.
    Read(Read),
    /// Branches.
    If(Box<If>),
    /// Loops.
    Loop(Box<Loop>),
}

/// Items in order, and what each is the last to need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The items.
    pub items: Vec<Item>,
    /// For each item the tensors of this block that nothing after it reads. [`Flow::finish`] fills it in.
    pub last_uses: Vec<Vec<TensorId>>,
    /// The tensors of this block that are handed on when it ends. [`Flow::finish`] fills it in.
    pub handed_on: Vec<TensorId>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// Name for people.
    pub name: String,
    /// Free text that the model carries.
    pub metadata: BTreeMap<String, String>,
    /// Every symbol of every segment.
    pub symbols: SymbolTable,
    /// Every tensor.
    pub tensors: Vec<Tensor>,
    /// Every segment.
    pub segments: Vec<Segment>,
    /// Inputs of the model; their symbols are bound by their extents.
    pub inputs: Vec<TensorId>,
    /// Outputs of the model, by name. One may be an input, or the same tensor as another.
    pub outputs: Vec<(String, TensorId)>,
    /// What runs.
    pub block: Block,
}

impl Item {
    /// Calls `f` with every tensor that the item or something in it reads.
    fn reads(&self, segments: &[Segment], f: &mut dyn FnMut(TensorId)) {
        match self {
            Item::Segment(at) => segments[*at].inputs.iter().copied().for_each(f),
            Item::Read(read) => f(read.tensor),
            Item::If(branch) => {
                f(branch.condition);
                for body in &branch.branches {
                    body.block.reads(segments, f);
                    body.results.iter().copied().for_each(&mut *f);
                }
            }
            Item::Loop(body) => {
                if let Trip::Tensor(trip) = body.trip {
                    f(trip);
                }
                body.condition.into_iter().for_each(&mut *f);
                for carried in &body.carried {
                    f(carried.initial);
                    f(carried.next);
                }
                body.block.reads(segments, f);
                body.next_condition.into_iter().for_each(&mut *f);
                body.stacked.iter().for_each(|s| f(s.element));
            }
        }
    }

    /// The tensors that the item adds to the block it stands in.
    fn makes(&self, segments: &[Segment]) -> Vec<TensorId> {
        match self {
            Item::Segment(at) => segments[*at].outputs.clone(),
            Item::Read(_) => Vec::new(),
            Item::If(branch) => branch.results.clone(),
            Item::Loop(body) => {
                let carried = body.carried.iter().map(|c| c.result);
                carried
                    .chain(body.stacked.iter().map(|s| s.result))
                    .collect()
            }
        }
    }

    /// The blocks in the item.
    pub fn bodies(&self) -> Vec<&Block> {
        match self {
            Item::Segment(_) | Item::Read(_) => Vec::new(),
            Item::If(branch) => branch.branches.iter().map(|b| &b.block).collect(),
            Item::Loop(body) => vec![&body.block],
        }
    }

    fn bodies_mut(&mut self) -> Vec<&mut Block> {
        match self {
            Item::Segment(_) | Item::Read(_) => Vec::new(),
            Item::If(branch) => branch.branches.iter_mut().map(|b| &mut b.block).collect(),
            Item::Loop(body) => vec![&mut body.block],
        }
    }
}

impl Block {
    fn reads(&self, segments: &[Segment], f: &mut dyn FnMut(TensorId)) {
        for item in &self.items {
            item.reads(segments, f);
        }
    }

    /// Notes what each item is the last to read of what the block makes; `given` are tensors that the block has from
    /// its beginning and may let go, `kept` those that are read after it.
    fn note_last_uses(
        &mut self,
        segments: &[Segment],
        given: &BTreeSet<TensorId>,
        kept: &BTreeSet<TensorId>,
    ) {
        let mut own = given.clone();
        for item in &self.items {
            own.extend(item.makes(segments));
        }
        let mut later = kept.clone();
        let mut last_uses = vec![Vec::new(); self.items.len()];
        for (at, item) in self.items.iter().enumerate().rev() {
            let mut here: BTreeSet<TensorId> = item.makes(segments).into_iter().collect();
            item.reads(segments, &mut |t| {
                here.insert(t);
            });
            last_uses[at] = here
                .into_iter()
                .filter(|t| own.contains(t) && later.insert(*t))
                .collect();
        }
        self.last_uses = last_uses;
        self.handed_on = own.intersection(kept).copied().collect();
        for item in &mut self.items {
            match item {
                Item::Segment(_) | Item::Read(_) => {}
                Item::If(branch) => {
                    for body in &mut branch.branches {
                        let kept = body.results.iter().copied().collect();
                        body.block.note_last_uses(segments, &BTreeSet::new(), &kept);
                    }
                }
                Item::Loop(body) => {
                    let given = body.carried.iter().map(|c| c.inner).chain(body.iteration);
                    let next = body.carried.iter().map(|c| c.next);
                    let stacked = body.stacked.iter().map(|s| s.element);
                    let kept = next.chain(stacked).chain(body.next_condition).collect();
                    body.block.note_last_uses(segments, &given.collect(), &kept);
                }
            }
        }
    }
}

impl Flow {
    /// A tensor.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.index()]
    }

    /// Adds a tensor.
    pub fn add_tensor(&mut self, name: impl Into<String>, ty: TensorType) -> TensorId {
        self.tensors.push(Tensor {
            name: name.into(),
            ty,
            binds: Vec::new(),
        });
        TensorId(self.tensors.len() as u32 - 1)
    }

    /// Every reason why this is no single graph, in the order of the items.
    pub fn cuts(&self) -> Vec<Cut> {
        fn visit(block: &Block, cuts: &mut Vec<Cut>) {
            for item in &block.items {
                let (kind, node) = match item {
                    Item::Segment(_) => continue,
                    Item::Read(read) => (CutKind::Extent, &read.node),
                    Item::If(branch) => (CutKind::If, &branch.node),
                    Item::Loop(body) => (body.kind, &body.node),
                };
                let node = node.clone();
                cuts.push(Cut { kind, node });
                for body in item.bodies() {
                    visit(body, cuts);
                }
            }
        }
        let mut cuts = Vec::new();
        visit(&self.block, &mut cuts);
        cuts
    }

    /// Completes a flow whose segments have their outputs: drops what nobody needs, gives every segment the symbols of the
    /// flow, and notes when each tensor is read for the last time.
    pub fn finish(&mut self) {
        let mut needed: BTreeSet<TensorId> = self.outputs.iter().map(|o| o.1).collect();
        let mut block = std::mem::take(&mut self.block);
        self.prune(&mut block, &mut needed);
        self.renumber(&mut block);
        for (number, segment) in self.segments.iter_mut().enumerate() {
            segment.graph.name = format!("{}.{number}", self.name);
            segment.graph.symbols = self.symbols.clone();
            let ids: Vec<SymbolId> = self.symbols.iter().map(|(id, _)| id).collect();
            for id in ids {
                if let Some(symbol) = segment.graph.symbols.get_mut(id) {
                    symbol.origin = SymbolOrigin::Cut;
                }
            }
        }
        // inputs belong to whoever runs the flow, so they are let go like all others
        let given = self.inputs.iter().copied().collect();
        let kept = self.outputs.iter().map(|o| o.1).collect();
        block.note_last_uses(&self.segments, &given, &kept);
        self.block = block;
    }

    /// Drops segments, branches and loops whose results nobody needs, from the last to the first.
    fn prune(&mut self, block: &mut Block, needed: &mut BTreeSet<TensorId>) {
        let mut kept = Vec::with_capacity(block.items.len());
        for mut item in std::mem::take(&mut block.items).into_iter().rev() {
            let alive = match &item {
                Item::Segment(at) => self.prune_segment(*at, needed),
                Item::Read(_) => true,
                other => {
                    let made = other.makes(&self.segments);
                    made.iter().any(|t| needed.contains(t))
                }
            };
            if !alive {
                continue;
            }
            // what a body gives is needed where its item is; what it only computes for itself is not
            let gives: Vec<TensorId> = match &item {
                Item::If(branch) => branch
                    .branches
                    .iter()
                    .flat_map(|b| b.results.clone())
                    .collect(),
                Item::Loop(body) => {
                    let next = body.carried.iter().map(|c| c.next);
                    let stacked = body.stacked.iter().map(|s| s.element);
                    next.chain(stacked).chain(body.next_condition).collect()
                }
                Item::Segment(_) | Item::Read(_) => Vec::new(),
            };
            needed.extend(gives);
            for body in item.bodies_mut() {
                self.prune(body, needed);
            }
            if let Item::Loop(body) = &mut item {
                body.iteration = body.iteration.filter(|t| needed.contains(t));
            }
            item.reads(&self.segments, &mut |t| {
                needed.insert(t);
            });
            kept.push(item);
        }
        kept.reverse();
        block.items = kept;
    }

    /// Drops what nobody needs of a segment; returns whether anything is left.
    fn prune_segment(&mut self, at: usize, needed: &BTreeSet<TensorId>) -> bool {
        let segment = &mut self.segments[at];
        let keep: Vec<bool> = segment.outputs.iter().map(|t| needed.contains(t)).collect();
        segment.graph.retain_outputs(&keep);
        let mut kept = keep.iter();
        segment.outputs.retain(|_| kept.next() == Some(&true));
        segment.graph.remove_dead();
        let kept = segment.graph.drop_unread_inputs();
        let mut kept = kept.iter();
        segment.inputs.retain(|_| kept.next() == Some(&true));
        !segment.outputs.is_empty()
    }

    /// Numbers the segments in the order of the items and forgets those that no item runs.
    fn renumber(&mut self, block: &mut Block) {
        fn visit(block: &mut Block, order: &mut Vec<usize>) {
            for item in &mut block.items {
                if let Item::Segment(at) = item {
                    order.push(*at);
                    *at = order.len() - 1;
                }
                for body in item.bodies_mut() {
                    visit(body, order);
                }
            }
        }
        let mut order = Vec::new();
        visit(block, &mut order);
        let mut old: Vec<Option<Segment>> = std::mem::take(&mut self.segments)
            .into_iter()
            .map(Some)
            .collect();
        self.segments = order.iter().filter_map(|&at| old[at].take()).collect();
    }
}
