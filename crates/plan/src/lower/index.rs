//! Gathers and scatters: data-dependent addresses.
//!
//! All three gathers are one template: for a position of the result, a tuple of indices is read, and each index moves
//! along one axis of the data. All scatters are one template over the positions of the updates, after a copy of the
//! data.

use bespoke_ir::op::scatter_elements::ScatterReduction;
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
            Op::ScatterElements(s) => {
                return self.emit_scatter(id, name, v, &data, &index, s.reduction, Some(s.axis));
            }
            Op::ScatterNd(s) => {
                return self.emit_scatter(id, name, v, &data, &index, s.reduction, None);
            }
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

    #[allow(
        clippy::too_many_arguments,
        reason = "two operators share the tail of one function"
    )]
    fn emit_scatter(
        &mut self,
        id: NodeId,
        name: &str,
        v: ValueId,
        data: &Access,
        index: &Access,
        reduction: ScatterReduction,
        axis: Option<usize>,
    ) -> Result<Access, PlanError> {
        let graph = self.graph;
        let node = graph.node(id);
        let phase = self.phase(v);
        let updates = self.access(node.inputs()[2])?;
        let y = self.result(
            v,
            phase,
            name,
            &[],
            Some((0..graph.dims(v).len()).collect()),
        )?;
        let dtype = graph.dtype(v);
        self.copy(phase, name, dtype, data, &y)?;
        let addressing = match axis {
            Some(axis) => Addressing::elements(&y, index, axis),
            None => {
                let tuple = index.dims.last().and_then(SymInt::as_const).unwrap_or(0) as usize;
                Addressing::tuples(&y, index, 0, tuple)
            }
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
            index: graph.dtype(node.inputs()[1]),
            reduction,
        };
        self.step(phase, name, template, args)?;
        Ok(y)
    }
}
