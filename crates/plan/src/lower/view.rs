//! Operators that only change how a tensor is addressed.

use bespoke_ir::{NodeId, Op};

use super::{Lowering, PlanError};
use crate::access::{Access, row_major};

pub(crate) fn is_view(op: &Op) -> bool {
    matches!(
        op,
        Op::Transpose(_) | Op::Reshape(_) | Op::Expand(_) | Op::Slice(_)
    )
}

impl Lowering<'_> {
    pub(crate) fn visit_view(&mut self, id: NodeId) -> Result<(), PlanError> {
        let node = self.graph.node(id);
        let (x, y) = (node.inputs()[0], node.outputs()[0]);
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
