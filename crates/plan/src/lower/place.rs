//! Operators that put elements somewhere: concat, pad, resize, integers of the host.

use bespoke_ir::{NodeId, Op, SymInt, ValueId};
use bespoke_templates::ints::Ints;
use bespoke_templates::pad::Pad;
use bespoke_templates::resize::Resize;

use super::{Epilogue, Lowering, PlanError};
use crate::access::{Access, channels_last, row_major};
use crate::builder::Args;

impl Lowering<'_> {
    pub(super) fn emit_place(
        &mut self,
        id: NodeId,
        name: &str,
        v: ValueId,
        epilogue: Epilogue,
    ) -> Result<Access, PlanError> {
        let graph = self.graph;
        let node = graph.node(id);
        let phase = self.phase(v);
        let dtype = graph.dtype(v);
        match &node.op {
            Op::Concat(op) => self.emit_concat(id, op.axis, name, v),
            Op::Pad(op) => {
                let x = self.access(node.inputs()[0])?;
                let y = self.result(v, phase, name, std::slice::from_ref(&x), None)?;
                let begins: Vec<SymInt> = op.pads.iter().map(|p| p.0.clone()).collect();
                let mut args = Args::default();
                args.ints("d", &y.dims)
                    .ints("in", &x.dims)
                    .ints("begin", &begins);
                args.view("x", &x).view("y", &y);
                self.step(
                    phase,
                    name,
                    Pad {
                        rank: y.rank(),
                        dtype,
                        mode: op.mode,
                    },
                    args,
                )?;
                Ok(y)
            }
            Op::Resize(op) => {
                let x = self.access(node.inputs()[0])?;
                let order = if x.is_dense(&channels_last(x.rank())) && x.rank() > 2 {
                    channels_last(x.rank())
                } else {
                    row_major(x.rank())
                };
                let y = self.result(v, phase, name, &[], Some(order))?;
                let mut args = Args::default();
                args.ints("d", &y.dims)
                    .ints("in", &x.dims)
                    .view("x", &x)
                    .view("y", &y);
                for (i, e) in epilogue.extras.iter().enumerate() {
                    args.view(&format!("e{i}"), e);
                }
                let template = Resize::new(op, dtype, epilogue.expr);
                self.step(phase, name, template, args)?;
                Ok(y)
            }
            Op::HostInts(op) => {
                let y = self.result(v, phase, name, &[], None)?;
                let mut args = Args::default();
                args.ints("v", &op.elements)
                    .tensor("y", y.buffer)
                    .int("y_o", &y.offset);
                args.int("y_s0", &SymInt::constant(1));
                let template = Ints {
                    dtype: op.dtype,
                    count: op.elements.len(),
                };
                self.step(phase, name, template, args)?;
                Ok(y)
            }
            _ => Err(self.internal(id, "not a placement")),
        }
    }

    /// Operands that are still pending are computed straight into their part; the others are copied.
    fn emit_concat(
        &mut self,
        id: NodeId,
        axis: usize,
        name: &str,
        v: ValueId,
    ) -> Result<Access, PlanError> {
        let graph = self.graph;
        let node = graph.node(id);
        let phase = self.phase(v);
        let mut like = Vec::new();
        for &x in node.inputs() {
            if let Some(access) = self.computed(x) {
                like.push(access);
            }
        }
        let order = self.concat_order(v, &like);
        let y = self.result(v, phase, name, &[], Some(order))?;
        let mut start = SymInt::constant(0);
        for &x in node.inputs() {
            let dims = graph.dims(x).to_vec();
            let mut starts = vec![SymInt::constant(0); dims.len()];
            starts[axis] = start.clone();
            let part = y.slice(&starts, &vec![1; dims.len()], &dims);
            start = start + &dims[axis];
            if self.set_target(x, &part, phase) {
                self.access(x)?;
            } else {
                let from = self.access(x)?;
                self.copy(phase, name, graph.dtype(x), &from, &part)?;
            }
        }
        Ok(y)
    }

    /// Channels-last if an operand is, or if a convolution will make it so.
    fn concat_order(&self, v: ValueId, like: &[Access]) -> Vec<usize> {
        let graph = self.graph;
        let rank = graph.dims(v).len();
        let spatial = |x: &ValueId| {
            graph.producer(*x).is_some_and(|p| {
                matches!(
                    graph.node(p).op,
                    Op::Conv(_) | Op::ConvTranspose(_) | Op::Pool(_)
                )
            })
        };
        let inputs = graph
            .producer(v)
            .map(|p| graph.node(p).inputs())
            .unwrap_or_default();
        let channels = channels_last(rank);
        let last = like
            .iter()
            .any(|a| a.rank() > 2 && a.is_dense(&channels) && !a.is_dense(&row_major(rank)));
        if rank > 2 && (last || inputs.iter().any(spatial)) {
            channels
        } else {
            row_major(rank)
        }
    }
}
