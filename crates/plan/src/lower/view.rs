//! Operators that only change how a tensor is addressed.

use bespoke_ir::op::Slice;
use bespoke_ir::{Graph, NodeId, Op, ValueId};

use super::{Lowering, PlanError};
use crate::access::{Access, row_major};

pub(crate) fn is_view(op: &Op) -> bool {
    matches!(
        op,
        Op::Transpose(_) | Op::Reshape(_) | Op::Expand(_) | Op::Slice(_)
    )
}

/// The value that `v` is a slice of, if all its readers are slices along the slowest axis of `order` that leave out nothing of
/// it: reordered as a whole it takes no more memory than its parts, which lie without gaps in it.
pub(crate) fn part_of_whole<'g>(
    graph: &'g Graph,
    v: ValueId,
    order: &[usize],
) -> Option<(ValueId, &'g Slice)> {
    let whole = graph.node(graph.producer(v)?).inputs().first().copied()?;
    let &slowest = order.first()?;
    let dims = graph.dims(whole);
    // elements along the slowest axis that a reader takes
    let taken = |id: NodeId| -> Option<(i64, i64)> {
        let Op::Slice(s) = &graph.node(id).op else {
            return None;
        };
        let others = (0..dims.len()).all(|i| i == slowest || s.dims[i] == dims[i]);
        let (start, extent) = (s.starts[slowest].as_const()?, s.dims[slowest].as_const()?);
        (others && s.steps.iter().all(|&s| s == 1)).then_some((start, start.checked_add(extent)?))
    };
    let mut parts: Vec<(i64, i64)> = graph
        .users(whole)
        .into_iter()
        .map(taken)
        .collect::<Option<_>>()?;
    parts.sort_unstable();
    let reach = parts.iter().try_fold(0, |reach, &(start, end)| {
        (start <= reach).then_some(end.max(reach))
    });
    let Op::Slice(s) = &graph.node(graph.producer(v)?).op else {
        return None;
    };
    (reach? == dims[slowest].as_const()?).then_some((whole, s))
}

impl Lowering<'_> {
    pub(crate) fn visit_view(&mut self, id: NodeId) -> Result<(), PlanError> {
        let node = self.graph.node(id);
        let (x, y) = (node.inputs()[0], node.outputs()[0]);
        if self.paired.contains(&x) {
            return Ok(());
        }
        let from = self.access(x)?;
        let access = match &node.op {
            Op::Transpose(t) => from.transpose(&t.perm),
            Op::Slice(s) => from.slice(&s.starts, &s.steps, &s.dims),
            Op::Expand(_) => from.broadcast(self.graph.dims(y), &self.graph.symbols),
            _ => self.reshape(id, &from)?,
        };
        self.done(y, access);
        Ok(())
    }

    /// A reshape as a view; a row-major copy first where no strides can say it.
    fn reshape(&mut self, id: NodeId, from: &Access) -> Result<Access, PlanError> {
        let node = self.graph.node(id);
        let (x, y) = (node.inputs()[0], node.outputs()[0]);
        let dims = self.graph.dims(y).to_vec();
        if let Some(view) = from.reshape(&dims, &self.graph.symbols) {
            return Ok(view);
        }
        let order = row_major(from.rank());
        let dense = if from.is_dense(&order) {
            from.clone()
        } else {
            self.copy_in_order(self.phase(y), x, from, &order)?
        };
        // a dense row-major tensor takes any extents of equal product, even where the algebra cannot prove it
        Ok(Access {
            buffer: dense.buffer,
            offset: dense.offset,
            strides: crate::access::dense_strides(&dims, &row_major(dims.len())),
            dims,
        })
    }
}
