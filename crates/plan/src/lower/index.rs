//! Gathers and scatters: data-dependent addresses.
//!
//! All three gathers are one template: for a position of the result, a tuple of indices is read, and each index moves
//! along one axis of the data. All scatters are one template over the positions of the updates, after the data was
//! copied, or was written there in the first place.

use bespoke_ir::{NodeId, Op, SymInt, ValueId};
use bespoke_templates::gather::Gather;
use bespoke_templates::scatter::Scatter;

use super::space::{Space, memory_order};
use super::{Epilogue, Lowering, PlanError};
use crate::access::Access;
use crate::builder::Args;

fn zeros(n: usize) -> Vec<SymInt> {
    vec![SymInt::constant(0); n]
}

/// Strides of the data and of the indices over the kernel's positions, and the indexed axes of the data.
struct Addressing {
    data: Vec<SymInt>,
    index: Vec<SymInt>,
    tuple_stride: SymInt,
    axes: Vec<usize>,
}

impl Addressing {
    /// Gather: positions are (before the axis, index axes, after the axis).
    fn along_axis(data: &Access, index: &Access, axis: usize) -> Addressing {
        let before = &data.strides[..axis];
        let after = &data.strides[axis + 1..];
        Addressing {
            data: [before, &zeros(index.rank()), after].concat(),
            index: [
                &zeros(before.len()),
                &index.strides[..],
                &zeros(after.len()),
            ]
            .concat(),
            tuple_stride: SymInt::constant(0),
            axes: vec![axis],
        }
    }

    /// GatherElements, ScatterElements: positions are those of the indices.
    fn elements(data: &Access, index: &Access, axis: usize) -> Addressing {
        let mut strides = data.strides.clone();
        strides[axis] = SymInt::constant(0);
        Addressing {
            data: strides,
            index: index.strides.clone(),
            tuple_stride: SymInt::constant(0),
            axes: vec![axis],
        }
    }

    /// GatherND, ScatterND: positions are (batch, index axes without the last, rest of the data).
    fn tuples(data: &Access, index: &Access, batch: usize, tuple: usize) -> Addressing {
        let lead = index.rank() - 1;
        let rest = &data.strides[batch + tuple..];
        Addressing {
            data: [&data.strides[..batch], &zeros(lead - batch), rest].concat(),
            index: [&index.strides[..lead], &zeros(rest.len())].concat(),
            tuple_stride: index.strides[lead].clone(),
            axes: (batch..batch + tuple).collect(),
        }
    }
}

impl Lowering<'_> {
    pub(super) fn emit_index(
        &mut self,
        id: NodeId,
        name: &str,
        v: ValueId,
        epilogue: Epilogue,
    ) -> Result<Access, PlanError> {
        let graph = self.graph;
        let node = graph.node(id);
        let phase = self.phase(v);
        if let Op::ScatterElements(_) | Op::ScatterNd(_) = &node.op {
            return self.emit_scatter(id, name, v);
        }
        let data = self.access(node.inputs()[0])?;
        let index = self.access(node.inputs()[1])?;
        let index_type = graph.dtype(node.inputs()[1]);
        let tuple = || {
            graph
                .dims(node.inputs()[1])
                .last()
                .and_then(SymInt::as_const)
                .unwrap_or(0) as usize
        };
        let addressing = match &node.op {
            Op::Gather(g) => Addressing::along_axis(&data, &index, g.axis),
            Op::GatherElements(g) => Addressing::elements(&data, &index, g.axis),
            Op::GatherNd(g) => Addressing::tuples(&data, &index, g.batch_dims, tuple()),
            _ => return Err(self.internal(id, "not a gather")),
        };
        let y = self.result(
            v,
            phase,
            name,
            &[],
            Some((0..graph.dims(v).len()).collect()),
        )?;
        let mut strides = vec![y.strides.clone(), addressing.data, addressing.index];
        strides.extend(epilogue.extras.iter().map(|e| e.strides.clone()));
        let mut space = Space {
            dims: y.dims.clone(),
            strides,
        };
        // an expression that reads positions names axes as they are
        if !epilogue.expr.reads_coords() {
            let order = memory_order(&y, &graph.symbols);
            space = space.select(&order).collapse(&graph.symbols, 0);
        }
        let [to, from, choice, extras @ ..] = &space.strides[..] else {
            return Err(self.internal(id, "a gather without operands"));
        };
        let mut args = Args::default();
        args.ints("d", &space.dims);
        args.strided("y", y.buffer, &y.offset, to);
        args.strided("x", data.buffer, &data.offset, from);
        args.strided("i", index.buffer, &index.offset, choice);
        args.int("i_t", &addressing.tuple_stride);
        for (j, &axis) in addressing.axes.iter().enumerate() {
            args.int(format!("n{j}"), &data.dims[axis]);
            args.int(format!("x_t{j}"), &data.strides[axis]);
        }
        for (i, (e, strides)) in epilogue.extras.iter().zip(extras).enumerate() {
            args.strided(&format!("e{i}"), e.buffer, &e.offset, strides);
        }
        let template = Gather {
            rank: space.dims.len(),
            tuple: addressing.axes.len(),
            data: graph.dtype(node.inputs()[0]),
            index: index_type,
            epilogue: epilogue.expr,
        };
        self.step(phase, name, template, args)?;
        Ok(y)
    }

    /// Updates are written over a copy of the data, or over the data where nothing else reads it and it is not there yet.
    fn emit_scatter(&mut self, id: NodeId, name: &str, v: ValueId) -> Result<Access, PlanError> {
        let graph = self.graph;
        let node = graph.node(id);
        let &[old, indices, new] = node.inputs() else {
            return Err(self.internal(id, "a scatter has three operands"));
        };
        let phase = self.phase(v);
        let y = self.result(
            v,
            phase,
            name,
            &[],
            Some((0..graph.dims(v).len()).collect()),
        )?;
        self.set_target(old, &y, phase);
        let data = self.access(old)?;
        let index = self.access(indices)?;
        let updates = self.access(new)?;
        let dtype = graph.dtype(v);
        if !data.is_same(&y) {
            self.copy(phase, name, dtype, &data, &y)?;
        }
        let tuple = || index.dims.last().and_then(SymInt::as_const).unwrap_or(0) as usize;
        let (addressing, reduction) = match &node.op {
            Op::ScatterElements(s) => (Addressing::elements(&y, &index, s.axis), s.reduction),
            Op::ScatterNd(s) => (Addressing::tuples(&y, &index, 0, tuple()), s.reduction),
            _ => return Err(self.internal(id, "not a scatter")),
        };
        let mut args = Args::default();
        args.ints("d", &updates.dims).view("u", &updates);
        args.strided("i", index.buffer, &index.offset, &addressing.index);
        args.int("i_t", &addressing.tuple_stride);
        args.strided("y", y.buffer, &y.offset, &addressing.data);
        for (j, &axis) in addressing.axes.iter().enumerate() {
            args.int(format!("n{j}"), &y.dims[axis]);
            args.int(format!("y_t{j}"), &y.strides[axis]);
        }
        let template = Scatter {
            rank: updates.rank(),
            tuple: addressing.axes.len(),
            data: dtype,
            index: graph.dtype(indices),
            reduction,
        };
        self.step(phase, name, template, args)?;
        Ok(y)
    }
}
