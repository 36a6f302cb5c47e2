//! Places that are known before anything is computed.
//!
//! A part of a concat, and whatever becomes an output of the model through transposes and reshapes, is best written
//! where it is needed in the end. This goes through the graph from its results to its inputs: a concat gets its buffer,
//! its operands get their parts of it, and a view hands its place on to what it views. A concat of concats, such as the
//! caches of all layers of a language model, is so written once, straight into the output; readers in between see a
//! view of that. A skip connection is written next to the place of what it will be joined with.
//!
//! A place is a wish. A step cannot write a buffer that it also reads, so a result that is made of another part of the
//! same concat goes elsewhere and is copied ([`Lowering::free_target`]).

use bespoke_ir::{NodeId, Op, ValueId};

use super::{Lowering, Pending, State};
use crate::access::{Access, channels_last, row_major};
use crate::builder::Phase;

/// Operators that are followed upwards in search of what decides a layout.
const MAX_CLIMB: usize = 16;

impl Lowering<'_> {
    /// Gives results of the run their places; outputs of the model have theirs already.
    pub(super) fn place_ahead(&mut self, order: &[NodeId]) {
        for &id in order.iter().rev() {
            let node = self.graph.node(id);
            let Op::Concat(op) = &node.op else { continue };
            let v = node.outputs()[0];
            if self.readers[v.index()] == 0 || self.phase(v) != Phase::Run {
                continue;
            }
            let y = match self.targets.get(&v) {
                Some(target) => target.clone(),
                None => {
                    let ty = self.graph.ty(v).clone();
                    let order = self.order_for_readers(v, self.concat_order(v));
                    let buffer = self.builder.temporary(Phase::Run, &ty, &node.name);
                    Access::dense(buffer, &ty.dims, &order)
                }
            };
            self.targets.insert(v, y.clone());
            for (&x, part) in node.inputs().iter().zip(self.parts(id, op.axis, &y)) {
                self.aim(x, part);
            }
        }
    }

    /// Where the operands of a concat lie in its result.
    pub(super) fn parts(&self, id: NodeId, axis: usize, y: &Access) -> Vec<Access> {
        let mut starts = vec![bespoke_ir::SymInt::constant(0); y.rank()];
        let inputs = self.graph.node(id).inputs().iter();
        inputs
            .map(|&x| {
                let dims = self.graph.dims(x);
                let part = y.slice(&starts, &vec![1; dims.len()], dims);
                starts[axis] = starts[axis].clone() + &dims[axis];
                part
            })
            .collect()
    }

    /// Makes `target` the place of a value, or of what it is a view of.
    pub(super) fn aim(&mut self, mut v: ValueId, mut target: Access) {
        loop {
            if self.phase(v) != Phase::Run || self.targets.contains_key(&v) {
                return;
            }
            let Some(id) = self.graph.producer(v) else {
                return;
            };
            let node = self.graph.node(id);
            let seen = match &node.op {
                Op::Slice(_) | Op::Expand(_) | Op::TopK(_) => None,
                _ if node.outputs().len() > 1 => None,
                Op::Transpose(t) => {
                    let mut back = vec![0; t.perm.len()];
                    for (i, &axis) in t.perm.iter().enumerate() {
                        back[axis] = i;
                    }
                    Some(target.transpose(&back))
                }
                Op::Reshape(_) => {
                    let dims = self.graph.dims(node.inputs()[0]);
                    target.reshape(dims, &self.graph.symbols)
                }
                _ => {
                    self.targets.insert(v, target);
                    return;
                }
            };
            let Some(seen) = seen else { return };
            (v, target) = (node.inputs()[0], seen);
        }
    }

    /// Takes a value's place back if its step would read the buffer that it writes.
    pub(super) fn free_target(&mut self, v: ValueId, pending: &Pending) {
        let Some(buffer) = self.targets.get(&v).map(|t| t.buffer) else {
            return;
        };
        let mut reads = pending.operands.clone();
        if let Some(anchor) = pending.anchor {
            // a concat writes each operand by a step of its own
            if matches!(self.graph.node(anchor).op, Op::Concat(_)) {
                return;
            }
            reads.extend_from_slice(self.graph.node(anchor).inputs());
        }
        // elementwise work that is still pending joins the step
        while let Some(x) = reads.pop() {
            let elsewhere = |place: &Access| place.buffer != buffer;
            let apart = match &self.state[x.index()] {
                State::Done(access) => elsewhere(access),
                // the normalisation that it is left to may store it, and then reads what it is made of
                State::Pending(p) if self.left.contains_key(&x) => {
                    if self.left.get(&x).copied() == pending.anchor {
                        reads.extend_from_slice(&p.operands);
                    }
                    self.targets.get(&x).is_none_or(elsewhere)
                }
                State::Pending(p) if p.anchor.is_none() && !self.targets.contains_key(&x) => {
                    reads.extend_from_slice(&p.operands);
                    true
                }
                _ => self.targets.get(&x).is_none_or(elsewhere),
            };
            if !apart {
                self.targets.remove(&v);
                return;
            }
        }
    }

    /// Channels-last if an operand will be, row-major otherwise.
    fn concat_order(&self, v: ValueId) -> Vec<usize> {
        let rank = self.graph.dims(v).len();
        if rank > 2 && self.channels_last_made(v, MAX_CLIMB) {
            channels_last(rank)
        } else {
            row_major(rank)
        }
    }

    /// Whether a value comes from a convolution, through operators that keep the order that they find.
    fn channels_last_made(&self, v: ValueId, climb: usize) -> bool {
        let Some(id) = self.graph.producer(v).filter(|_| climb > 0) else {
            return false;
        };
        let node = self.graph.node(id);
        match &node.op {
            Op::Conv(_) | Op::ConvTranspose(_) | Op::Pool(_) => true,
            Op::Map(_) | Op::Concat(_) | Op::Resize(_) | Op::Normalize(_) | Op::Pad(_) => {
                let rank = self.graph.dims(v).len();
                let mut inputs = node.inputs().iter();
                inputs.any(|&x| {
                    self.graph.dims(x).len() == rank && self.channels_last_made(x, climb - 1)
                })
            }
            _ => false,
        }
    }
}
