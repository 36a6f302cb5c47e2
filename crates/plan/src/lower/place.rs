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
                let one = SymInt::constant(1);
                args.int("y_s0", y.strides.first().unwrap_or(&one));
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

    /// Operands that are not in their part of the result yet are computed there, or copied.
    fn emit_concat(
        &mut self,
        id: NodeId,
        axis: usize,
        name: &str,
        v: ValueId,
    ) -> Result<Access, PlanError> {
        let graph = self.graph;
        let phase = self.phase(v);
        let rank = graph.dims(v).len();
        let y = self.result(v, phase, name, &[], Some(row_major(rank)))?;
        let parts = self.parts(id, axis, &y);
        for (&x, part) in graph.node(id).inputs().iter().zip(parts) {
            self.set_target(x, &part, phase);
            let mut from = self.access(x)?;
            if from.is_same(&part) {
                continue;
            }
            if from.buffer == part.buffer {
                // another part of the result, or this one in another order
                from = self.copy_in_order(phase, x, &from, &row_major(rank))?;
            }
            self.copy(phase, name, graph.dtype(x), &from, &part)?;
        }
        Ok(y)
    }
}
