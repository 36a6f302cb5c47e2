//! Sums that a normalisation stores beside its result.
//!
//! A transformer that normalises first reads a sum twice: `y = x + r` goes into a normalisation, and into the sum behind the
//! block. Where the sum joins the product that made `x`, that is all one can want. Where it would be a step of its own, the
//! normalisation does it: it reads `x` and `r`, stores `y` and goes on with what it stored. So `y` is written and never read
//! back, and a kernel is spared.
//!
//! Such a value is *left* to the normalisation: it stays pending although it has several readers. The normalisation computes
//! it, if it is the first to need it, or if whoever else needs it finds the normalisation complete. Otherwise, and where
//! the two do not suit one another in memory ([`Lowering::suits`]), it becomes the step that it would have been. Results
//! are the same either way.

use bespoke_ir::expr::Expr;
use bespoke_ir::{NodeId, Op, SymInt, ValueId};

use super::space::memory_order;
use super::{Lowering, PlanError, State};
use crate::access::Access;
use crate::builder::Phase;

/// Elements of a row at most: a longer one may not fit in the registers of a block, and what it is made of would be read
/// once for each statistic.
const MOST_COLUMNS: i64 = 1 << 14;

/// What a normalisation stores before it normalises it.
#[derive(Debug)]
pub(super) struct Residual {
    /// Its value.
    pub(super) expr: Expr,
    /// Operands of that, broadcast to its extents.
    pub(super) operands: Vec<Access>,
    /// Where it goes.
    pub(super) place: Access,
    /// What is normalised, as a function of it.
    pub(super) prologue: Expr,
}

impl Lowering<'_> {
    /// Leaves a pending value of several readers to a normalisation among them, if there is one that may store it.
    pub(super) fn leave(&mut self, v: ValueId) -> bool {
        let State::Pending(p) = &self.state[v.index()] else {
            return false;
        };
        if p.anchor.is_some() || p.expr.reads_coords() || self.readers[v.index()] < 2 {
            return false;
        }
        let users = self.graph.users(v);
        let Some(norm) = users.into_iter().find_map(|id| self.keeper(v, id)) else {
            return false;
        };
        self.left.insert(v, norm);
        true
    }

    /// The normalisation of a value that this reader of it is, or leads to by a map of nothing else, such as a conversion.
    fn keeper(&self, v: ValueId, reader: NodeId) -> Option<NodeId> {
        let node = self.graph.node(reader);
        let y = *node.outputs().first()?;
        if self.phase(v) != Phase::Run || self.phase(y) != Phase::Run || !self.dtype(v).is_float() {
            return None;
        }
        match &node.op {
            Op::Normalize(n) => {
                let dims = self.graph.dims(v);
                let one = SymInt::constant(1);
                let columns = n.axes.iter().fold(one, |c, &a| c * &dims[a]);
                let short = columns.range(&self.graph.symbols).1 <= MOST_COLUMNS;
                (short && self.readers[y.index()] > 0).then_some(reader)
            }
            Op::Map(m) => {
                let alone = node.inputs().iter().all(|&x| x == v)
                    && !m.expr.reads_coords()
                    && self.graph.dims(y) == self.graph.dims(v)
                    && self.readers[y.index()] == 1
                    && !self.targets.contains_key(&y);
                let &[next] = &self.graph.users(y)[..] else {
                    return None;
                };
                let norm = matches!(self.graph.node(next).op, Op::Normalize(_));
                (alone && norm).then(|| self.keeper(y, next)).flatten()
            }
            _ => None,
        }
    }

    /// Whether `y` is the map between a value that is left to a normalisation and that normalisation.
    pub(super) fn is_between(&self, v: ValueId, y: ValueId) -> bool {
        let norm = self.left.get(&v).map(|&id| self.graph.node(id));
        norm.is_some_and(|n| n.inputs().first() == Some(&y))
    }

    /// Computes a value that is left to a normalisation, now that another reader needs it: with the normalisation, if all
    /// that joins that has done so, and otherwise by itself.
    pub(super) fn recall(&mut self, v: ValueId) -> Result<(), PlanError> {
        let Some(&norm) = self.left.get(&v) else {
            return Ok(());
        };
        if let Some(complete) = self.complete(norm) {
            self.access(complete)?;
        }
        self.left.remove(&v);
        Ok(())
    }

    /// The pending result of an anchor, unless its only reader may still join it.
    fn complete(&self, anchor: NodeId) -> Option<ValueId> {
        let mut v = *self.graph.node(anchor).outputs().first()?;
        loop {
            if let State::Pending(p) = &self.state[v.index()] {
                let readers = self.graph.users(v);
                let joins = |&id: &NodeId| matches!(self.graph.node(id).op, Op::Map(_));
                let whole = p.anchor == Some(anchor) && !readers.iter().any(joins);
                return whole.then_some(v);
            }
            // what was joined is pending further on
            let &[next] = &self.graph.users(v)[..] else {
                return None;
            };
            if !matches!(self.graph.node(next).op, Op::Map(_)) {
                return None;
            }
            v = *self.graph.node(next).outputs().first()?;
        }
    }

    /// The value left to a normalisation of `x`, whose result is `v`, for it to store. Whatever becomes of it, the value is
    /// computed.
    pub(super) fn residual(
        &mut self,
        norm: NodeId,
        x: ValueId,
        v: ValueId,
        extras: &[Access],
    ) -> Result<Option<Residual>, PlanError> {
        let behind = self.graph.producer(x).map(|id| self.graph.node(id));
        let behind = behind.and_then(|node| node.inputs().first().copied());
        let mut candidates = [Some(x), behind].into_iter().flatten();
        let Some(y) = candidates.find(|y| self.left.get(y) == Some(&norm)) else {
            return Ok(None);
        };
        self.left.remove(&y);
        let State::Pending(p) = self.state[y.index()].clone() else {
            return Ok(None);
        };
        let phase = self.phase(y);
        self.free_target(y, &p);
        let dims = self.graph.dims(y).to_vec();
        let mut operands = Vec::with_capacity(p.operands.len());
        for &operand in &p.operands {
            let access = self.access(operand)?;
            operands.push(access.broadcast(&dims, &self.graph.symbols));
        }
        let place = self.result(y, phase, &p.name, &operands, None)?;
        self.done(y, place.clone());
        let fits = self.suits(norm, v, &place, &operands, extras);
        let prologue = match fits {
            true if x == y => Some(Expr::identity(self.dtype(x))),
            true => self.take_pending(x, phase, |_| true).map(|p| p.expr),
            false => None,
        };
        let Some(prologue) = prologue else {
            self.pointwise(phase, &p.name, &p.expr, &operands, &place, false)?;
            return Ok(None);
        };
        Ok(Some(Residual {
            expr: p.expr,
            operands,
            place,
            prologue,
        }))
    }

    /// Whether one step can store a value at `place` and its normalisation `v`, and is the better for it: nothing that it
    /// reads lies in a buffer that it writes, and rows lie along the memory of all that is read and written.
    fn suits(
        &self,
        norm: NodeId,
        v: ValueId,
        place: &Access,
        operands: &[Access],
        extras: &[Access],
    ) -> bool {
        let Op::Normalize(n) = &self.graph.node(norm).op else {
            return false;
        };
        let result = self.targets.get(&v).map(|t| t.buffer);
        let reads = || operands.iter().chain(extras);
        let apart = result != Some(place.buffer)
            && reads().all(|a| a.buffer != place.buffer && Some(a.buffer) != result);
        let mut order = memory_order(place, &self.graph.symbols);
        order.retain(|&a| place.dims[a].as_const() != Some(1));
        let rows = order.iter().rev().take_while(|a| n.axes.contains(a));
        let wide = n.axes.iter().filter(|a| order.contains(a));
        let along = rows.count() == wide.count();
        let last = order.last();
        let reads_along = |a: &Access| {
            let stride = last.and_then(|&i| a.strides[i].as_const());
            last.is_none() || matches!(stride, Some(0 | 1))
        };
        apart && along && reads_along(place) && operands.iter().all(reads_along)
    }
}
