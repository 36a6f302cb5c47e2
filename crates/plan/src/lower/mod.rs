//! Lowering: from nodes to steps.
//!
//! Nodes are visited in topological order. A node with one reader is not emitted at once but kept as `Pending`: an
//! elementwise reader then joins it as its epilogue, a reduction absorbs elementwise work as its prologue. Whoever needs
//! the bytes *forces* it. Elementwise work of several readers is emitted at once, unless one of them is a normalisation
//! that can store it (`residual`). Where a result is a part of a concat or ends in an output of the model, `ahead` has told
//! before anything else where its bytes go. A map of two columns of a product joins that with its views (`pairs`).
//!
//! One file an anchor:
//!
//! | file | operators |
//! |---|---|
//! | `view` | Transpose, Reshape, Expand, Slice: no step where strides suffice |
//! | `pointwise` | Map, and every copy |
//! | `matmul` | MatMul |
//! | `attention` | Attention |
//! | `conv` | Conv, ConvTranspose, Pool |
//! | `rows` | Reduce, Softmax, Normalize, CumSum, ArgReduce, TopK |
//! | `index` | Gather, GatherElements, GatherND, ScatterElements, ScatterND |
//! | `place` | Concat, Pad, Resize, HostInts |

mod ahead;
mod attention;
mod conv;
mod index;
mod matmul;
mod pairs;
mod place;
mod pointwise;
mod residual;
mod rows;
pub(crate) mod space;
mod view;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bespoke_ir::expr::Expr;
use bespoke_ir::{DType, Graph, NodeId, Op, SymInt, SymbolTable, TensorType, ValueId};
use bespoke_templates::{Arithmetic, Products, Template};

use crate::Plan;
use crate::access::{Access, row_major};
use crate::builder::{Args, Builder, Phase};

/// Why a graph has no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A node needs something that no template offers.
    #[error("node `{node}` ({op}) cannot be planned: {reason}")]
    Unsupported {
        /// Name of the node.
        node: String,
        /// Name of the operator.
        op: String,
        /// What is missing.
        reason: String,
    },
    /// The planner broke its own rules.
    #[error("internal error of the planner at `{node}`: {reason}; please report it with the model")]
    Internal {
        /// Name of the node.
        node: String,
        /// What happened.
        reason: String,
    },
}

/// A result that is not computed yet.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    /// The node that does the work; `None` if there is only elementwise work.
    pub(crate) anchor: Option<NodeId>,
    /// Elementwise work. With an anchor, operand 0 is the anchor's result, or operands 0 and 1 are neighbouring columns of
    /// that, and the last ones are `operands`.
    pub(crate) expr: Expr,
    /// Values that `expr` reads, already computed, broadcast to the result's extents.
    pub(crate) operands: Vec<ValueId>,
    /// Name of the step.
    pub(crate) name: String,
}

#[derive(Clone, Debug)]
enum State {
    Todo,
    Pending(Pending),
    Done(Access),
}

/// Elementwise work behind an anchor, as its template wants it.
#[derive(Debug)]
pub(crate) struct Epilogue {
    /// Operand 0 is the anchor's result, or operands 0 and 1 are neighbouring columns of that.
    pub(crate) expr: Expr,
    /// Operands behind those, broadcast to the result's extents.
    pub(crate) extras: Vec<Access>,
}

impl Epilogue {
    /// How many columns of the anchor's result make one of the epilogue's.
    pub(crate) fn sums(&self) -> usize {
        self.expr.inputs().len() - self.extras.len()
    }
}

pub(crate) struct Lowering<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) builder: Builder,
    arithmetic: Arithmetic,
    state: Vec<State>,
    phase: Vec<Phase>,
    readers: Vec<u32>,
    targets: HashMap<ValueId, Access>,
    /// Values that a normalisation may store, with that.
    left: HashMap<ValueId, NodeId>,
    /// Products that maps take in pairs, by map, with their even and odd columns.
    pairs: HashMap<NodeId, (NodeId, [ValueId; 2])>,
    /// The results of those products.
    paired: HashSet<ValueId>,
    reordered: HashMap<(ValueId, Vec<usize>), Access>,
}

pub(crate) fn lower(graph: &Graph, arithmetic: Arithmetic) -> Result<Plan, PlanError> {
    let bound = graph.value_bound();
    let mut readers = vec![0u32; bound];
    for id in graph.topological_order() {
        let mut seen = graph.node(id).inputs().to_vec();
        seen.sort_unstable();
        seen.dedup();
        for v in seen {
            readers[v.index()] += 1;
        }
    }
    for v in graph.outputs() {
        readers[v.index()] += 1;
    }
    let mut l = Lowering {
        graph,
        builder: Builder::default(),
        arithmetic,
        state: vec![State::Todo; bound],
        phase: vec![Phase::Run; bound],
        readers,
        targets: HashMap::new(),
        left: HashMap::new(),
        pairs: HashMap::new(),
        paired: HashSet::new(),
        reordered: HashMap::new(),
    };
    let mut inputs = Vec::new();
    for (i, &v) in graph.inputs().iter().enumerate() {
        let value = graph.value(v);
        let buffer = l.builder.input(i, &value.ty, &value.name);
        inputs.push(buffer);
        l.done(
            v,
            Access::dense(buffer, &value.ty.dims, &row_major(value.ty.rank())),
        );
    }
    for i in 0..bound {
        if let Some(v) = graph.value_at(i).filter(|&v| graph.constant(v).is_some()) {
            l.phase[v.index()] = Phase::Setup;
        }
    }
    let order = graph.topological_order();
    for &id in &order {
        let node = graph.node(id);
        let constant = !reads_symbols(&node.op)
            && !node.inputs().is_empty()
            && node
                .inputs()
                .iter()
                .all(|v| l.phase[v.index()] == Phase::Setup);
        for v in node.outputs() {
            l.phase[v.index()] = if constant { Phase::Setup } else { Phase::Run };
        }
    }
    let mut outputs = Vec::new();
    for (i, &v) in graph.outputs().iter().enumerate() {
        let value = graph.value(v);
        let buffer = l.builder.output(i, &value.ty, &value.name);
        outputs.push(buffer);
        let access = Access::dense(buffer, &value.ty.dims, &row_major(value.ty.rank()));
        l.aim(v, access);
    }
    l.place_ahead(&order);
    for id in order {
        l.visit(id)?;
    }
    for (i, &v) in graph.outputs().iter().enumerate() {
        let access = l.access(v)?;
        if access.buffer != outputs[i] {
            let value = graph.value(v);
            let target = Access::dense(outputs[i], &value.ty.dims, &row_major(value.ty.rank()));
            l.copy(Phase::Run, &value.name, value.ty.dtype, &access, &target)?;
        }
    }
    Ok(l.builder.finish(graph, arithmetic, &inputs, &outputs))
}

/// Whether the attributes of an operator hold run-time extents.
fn reads_symbols(op: &Op) -> bool {
    let any = |dims: &[SymInt]| dims.iter().any(|d| !d.is_const());
    match op {
        Op::Map(m) => m.shape.as_deref().is_some_and(any),
        Op::Expand(e) => any(&e.dims),
        Op::Reshape(r) => any(&r.dims),
        Op::Slice(s) => any(&s.starts) || any(&s.dims),
        Op::Resize(r) => any(&r.dims),
        Op::Pad(p) => p.pads.iter().any(|(a, b)| !a.is_const() || !b.is_const()),
        Op::TopK(t) => !t.k.is_const(),
        Op::HostInts(h) => any(&h.elements),
        _ => false,
    }
}

impl Lowering<'_> {
    // ---- values ----

    pub(crate) fn done(&mut self, v: ValueId, access: Access) {
        self.state[v.index()] = State::Done(access);
    }

    pub(crate) fn phase(&self, v: ValueId) -> Phase {
        self.phase[v.index()]
    }

    /// The arithmetic of products of these types. At load there is time to be exact.
    pub(crate) fn products(&self, phase: Phase, a: DType, b: DType) -> Products {
        match phase {
            Phase::Setup => Products::Exact,
            Phase::Run => self.arithmetic.of(a, b),
        }
    }

    /// The value's bytes; computes it now if it is pending.
    pub(crate) fn access(&mut self, v: ValueId) -> Result<Access, PlanError> {
        self.recall(v)?;
        match std::mem::replace(&mut self.state[v.index()], State::Todo) {
            State::Done(access) => {
                self.state[v.index()] = State::Done(access.clone());
                Ok(access)
            }
            State::Pending(pending) => {
                self.free_target(v, &pending);
                let access = self.emit(v, pending)?;
                self.done(v, access.clone());
                Ok(access)
            }
            State::Todo => {
                let value = self.graph.value(v);
                let Some(constant) = &value.constant else {
                    return Err(PlanError::Internal {
                        node: value.name.clone(),
                        reason: "it is read before it is computed".into(),
                    });
                };
                let buffer = self.builder.constant(constant, &value.name);
                let access = Access::dense(buffer, &value.ty.dims, &row_major(value.ty.rank()));
                self.done(v, access.clone());
                Ok(access)
            }
        }
    }

    /// Takes a pending result away, if it can be joined by its only reader in `phase`.
    pub(crate) fn take_pending(
        &mut self,
        v: ValueId,
        phase: Phase,
        accept: impl FnOnce(&Pending) -> bool,
    ) -> Option<Pending> {
        if self.readers[v.index()] != 1 || self.phase(v) != phase || self.targets.contains_key(&v) {
            return None;
        }
        match &self.state[v.index()] {
            State::Pending(p) if accept(p) => {}
            _ => return None,
        }
        match std::mem::replace(&mut self.state[v.index()], State::Todo) {
            State::Pending(p) => Some(p),
            _ => None,
        }
    }

    /// Gives a value that is still pending its place. Returns whether it took it.
    pub(crate) fn set_target(&mut self, v: ValueId, target: &Access, phase: Phase) -> bool {
        let free = self.readers[v.index()] == 1
            && self.phase(v) == phase
            && !self.targets.contains_key(&v)
            && matches!(self.state[v.index()], State::Pending(_));
        if free {
            self.targets.insert(v, target.clone());
        }
        free
    }

    /// A constant in a physical order that suits its reader; reordered once, at load. Parts of one that are all read are
    /// views of the whole in that order, so that it is the same bytes whether its reader is split or not.
    pub(crate) fn weight(&mut self, v: ValueId, order: &[usize]) -> Result<Access, PlanError> {
        let access = self.access(v)?;
        if self.phase(v) != Phase::Setup || access.is_dense(order) {
            return Ok(access);
        }
        if let Some((whole, s)) = view::part_of_whole(self.graph, v, order) {
            let whole = self.weight(whole, order)?;
            return Ok(whole.slice(&s.starts, &s.steps, &s.dims));
        }
        let key = (v, order.to_vec());
        if let Some(found) = self.reordered.get(&key) {
            return Ok(found.clone());
        }
        let copy = self.copy_in_order(Phase::Setup, v, &access, order)?;
        self.reordered.insert(key, copy.clone());
        Ok(copy)
    }

    /// A dense copy of a value in a physical order.
    pub(crate) fn copy_in_order(
        &mut self,
        phase: Phase,
        v: ValueId,
        from: &Access,
        order: &[usize],
    ) -> Result<Access, PlanError> {
        let value = self.graph.value(v);
        let ty = TensorType::new(value.ty.dtype, from.dims.clone());
        let buffer = self.builder.temporary(phase, &ty, &value.name);
        let to = Access::dense(buffer, &from.dims, order);
        self.copy(phase, &value.name, ty.dtype, from, &to)?;
        Ok(to)
    }

    // ---- nodes ----

    fn visit(&mut self, id: NodeId) -> Result<(), PlanError> {
        let node = self.graph.node(id);
        if view::is_view(&node.op) {
            return self.visit_view(id);
        }
        if let Op::Map(_) = &node.op {
            return self.visit_map(id);
        }
        if node.outputs().len() > 1 || matches!(node.op, Op::TopK(_)) {
            return self.emit_multiple(id);
        }
        let v = node.outputs()[0];
        if self.readers[v.index()] == 0 {
            return Ok(());
        }
        let dtype = self.graph.dtype(v);
        let pending = Pending {
            anchor: Some(id),
            expr: Expr::identity(dtype),
            operands: Vec::new(),
            name: node.name.clone(),
        };
        self.note_pairs(id);
        self.keep(v, pending)
    }

    /// Keeps a result pending if its only reader may join it, with or without views in between, or a normalisation store
    /// it; computes it otherwise.
    pub(crate) fn keep(&mut self, v: ValueId, pending: Pending) -> Result<(), PlanError> {
        self.state[v.index()] = State::Pending(pending);
        let joined = self.readers[v.index()] == 1 || self.paired.contains(&v);
        if !joined && !self.leave(v) {
            self.access(v)?;
        }
        Ok(())
    }

    /// Emits a pending result to its target, or to a buffer of its own.
    fn emit(&mut self, v: ValueId, pending: Pending) -> Result<Access, PlanError> {
        let phase = self.phase(v);
        let ty = self.graph.ty(v).clone();
        let mut extras = Vec::new();
        for &operand in &pending.operands {
            let access = self.access(operand)?;
            extras.push(access.broadcast(&ty.dims, &self.graph.symbols));
        }
        let epilogue = Epilogue {
            expr: pending.expr,
            extras,
        };
        let Some(anchor) = pending.anchor else {
            let y = self.result(v, phase, &pending.name, &epilogue.extras, None)?;
            self.pointwise(
                phase,
                &pending.name,
                &epilogue.expr,
                &epilogue.extras,
                &y,
                false,
            )?;
            return Ok(y);
        };
        let node = self.graph.node(anchor);
        let name = pending.name.clone();
        match &node.op {
            Op::MatMul(op) => self.emit_matmul(anchor, *op, &name, v, epilogue),
            Op::Attention(op) => self.emit_attention(anchor, *op, &name, v),
            Op::Conv(_) | Op::ConvTranspose(_) | Op::Pool(_) => {
                self.emit_conv(anchor, &name, v, epilogue)
            }
            Op::Reduce(_)
            | Op::Softmax(_)
            | Op::Normalize(_)
            | Op::CumSum(_)
            | Op::ArgReduce(_) => self.emit_rows(anchor, &name, v, epilogue),
            Op::Gather(_)
            | Op::GatherElements(_)
            | Op::GatherNd(_)
            | Op::ScatterElements(_)
            | Op::ScatterNd(_) => self.emit_index(anchor, &name, v, epilogue),
            Op::Concat(_) | Op::Pad(_) | Op::Resize(_) | Op::HostInts(_) => {
                self.emit_place(anchor, &name, v, epilogue)
            }
            Op::Map(_)
            | Op::Transpose(_)
            | Op::Reshape(_)
            | Op::Expand(_)
            | Op::Slice(_)
            | Op::TopK(_) => Err(self.internal(anchor, "this operator is never pending")),
        }
    }

    pub(crate) fn internal(&self, node: NodeId, reason: &str) -> PlanError {
        PlanError::Internal {
            node: self.graph.node(node).name.clone(),
            reason: reason.to_owned(),
        }
    }

    // ---- results ----

    /// Where a result goes: its target, or a new buffer in the order `default`, or in the order of the operands.
    pub(crate) fn result(
        &mut self,
        v: ValueId,
        phase: Phase,
        name: &str,
        like: &[Access],
        default: Option<Vec<usize>>,
    ) -> Result<Access, PlanError> {
        if let Some(target) = self.targets.get(&v) {
            return Ok(target.clone());
        }
        let ty = self.graph.ty(v).clone();
        let order = default.unwrap_or_else(|| inherited_order(&ty, like, &self.graph.symbols));
        let order = self.order_for_readers(v, order);
        let buffer = self.builder.temporary(phase, &ty, name);
        Ok(Access::dense(buffer, &ty.dims, &order))
    }

    /// The order that spares the only reader a copy: if what follows is a transpose and a reshape that only works for a
    /// row-major transposed tensor, that one.
    fn order_for_readers(&self, v: ValueId, order: Vec<usize>) -> Vec<usize> {
        let only = |v: ValueId| -> Option<NodeId> {
            if self.readers[v.index()] != 1 {
                return None;
            }
            self.graph.users(v).first().copied()
        };
        let dims = self.graph.dims(v);
        let Some(user) = only(v) else { return order };
        let Op::Transpose(t) = &self.graph.node(user).op else {
            return order;
        };
        let transposed = self.graph.node(user).outputs()[0];
        let Some(next) = only(transposed) else {
            // the transposed tensor itself leaves the graph
            let leaves = self.graph.outputs().contains(&transposed);
            return if leaves { t.perm.clone() } else { order };
        };
        let Op::Reshape(r) = &self.graph.node(next).op else {
            return order;
        };
        let fits = |order: &[usize]| {
            Access::dense(crate::BufferId(0), dims, order)
                .transpose(&t.perm)
                .reshape(&r.dims, &self.graph.symbols)
                .is_some()
        };
        if fits(&order) { order } else { t.perm.clone() }
    }

    pub(crate) fn step(
        &mut self,
        phase: Phase,
        name: &str,
        template: impl Template,
        args: Args,
    ) -> Result<(), PlanError> {
        self.builder
            .step(phase, name, Arc::new(template), args, false)
    }

    pub(crate) fn dtype(&self, v: ValueId) -> DType {
        self.graph.dtype(v)
    }
}

/// The order of the first operand of the result's extents that lies in another one than row-major; row-major if an
/// operand is, or if there is none.
///
/// A tensor seen through a transpose keeps its order this way (channels-last pixels, split into groups or not; heads
/// between tokens), so that whatever views made it also undo it.
pub(crate) fn inherited_order(
    ty: &TensorType,
    like: &[Access],
    symbols: &SymbolTable,
) -> Vec<usize> {
    let rank = ty.rank();
    let rows = row_major(rank);
    let mut found = None;
    for a in like.iter().filter(|a| rank > 2 && a.dims == ty.dims) {
        if a.is_dense(&rows) {
            return rows;
        }
        let order = space::memory_order(a, symbols);
        let wide = |&&i: &&usize| a.dims[i].as_const() != Some(1);
        let stride = |&i: &usize| a.strides[i].as_const();
        // a part of a tensor counts, a vector that is broadcast does not
        let contiguous = order.iter().rev().find(wide).and_then(stride) == Some(1);
        let broadcast = order.iter().filter(wide).any(|i| stride(i) == Some(0));
        if contiguous && !broadcast {
            found.get_or_insert(order);
        }
    }
    found.unwrap_or(rows)
}
