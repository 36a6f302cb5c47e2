//! Operators that combine the elements of rows: reductions, softmax, normalisations, scans, sorts.
//!
//! The iteration space has outer axes, one position of which is a row, and inner axes, which a row is made of. A pending
//! map that only feeds the operator becomes its prologue; one that others read as well may be stored by a normalisation
//! (`residual`).

use bespoke_ir::expr::Expr;
use bespoke_ir::{NodeId, Op, SymInt, ValueId};
use bespoke_templates::arg_reduce::ArgReduce;
use bespoke_templates::cumsum::CumSum;
use bespoke_templates::normalize::Normalize;
use bespoke_templates::reduce::Reduce;
use bespoke_templates::softmax::Softmax;
use bespoke_templates::topk::TopK;

use super::space::{Space, memory_order};
use super::{Epilogue, Lowering, PlanError};
use crate::access::Access;
use crate::builder::{Args, Phase};

impl Lowering<'_> {
    /// The operand as elementwise work over computed values: a pending map, or the value itself.
    fn prologue(&mut self, x: ValueId, phase: Phase) -> Result<(Expr, Vec<Access>), PlanError> {
        let pending = self.take_pending(x, phase, |p| p.anchor.is_none() && !p.expr.reads_coords());
        let Some(p) = pending else {
            return Ok((Expr::identity(self.dtype(x)), vec![self.access(x)?]));
        };
        let dims = self.graph.dims(x).to_vec();
        let mut accesses = Vec::new();
        for v in p.operands {
            accesses.push(self.access(v)?.broadcast(&dims, &self.graph.symbols));
        }
        Ok((p.expr, accesses))
    }

    pub(super) fn emit_rows(
        &mut self,
        id: NodeId,
        name: &str,
        v: ValueId,
        epilogue: Epilogue,
    ) -> Result<Access, PlanError> {
        let graph = self.graph;
        let node = graph.node(id);
        let phase = self.phase(v);
        let vx = node.inputs()[0];
        let dims = graph.dims(vx).to_vec();
        let rank = dims.len();
        let inner: Vec<usize> = match &node.op {
            Op::Reduce(r) => r.axes.clone(),
            Op::Normalize(n) => n.axes.clone(),
            Op::Softmax(s) => vec![s.axis],
            Op::CumSum(c) => vec![c.axis],
            Op::ArgReduce(a) => vec![a.axis],
            _ => return Err(self.internal(id, "not an operator over rows")),
        };
        let outer: Vec<usize> = (0..rank).filter(|i| !inner.contains(i)).collect();
        let fuses = matches!(node.op, Op::Reduce(_) | Op::Softmax(_) | Op::Normalize(_));
        let stored = self.residual(id, vx, v, &epilogue.extras)?;
        let (residual, z) = match &stored {
            Some(r) => (Some(r.expr.clone()), Some(r.place.clone())),
            None => (None, None),
        };
        let (prologue, xs) = match stored {
            Some(r) => (r.prologue, r.operands),
            None if fuses => self.prologue(vx, phase)?,
            None => (Expr::identity(graph.dtype(vx)), vec![self.access(vx)?]),
        };
        let like = z.as_ref().map_or(&xs[..], std::slice::from_ref);
        let y = self.result(v, phase, name, like, None)?;
        let reduces = matches!(node.op, Op::Reduce(_) | Op::ArgReduce(_));
        let keep_dims = match &node.op {
            Op::Reduce(r) => r.keep_dims,
            Op::ArgReduce(a) => a.keep_dims,
            _ => true,
        };
        // results and epilogue operands in the operand's axes; reduced ones have stride 0
        let in_axes = |a: &Access| {
            if !reduces {
                return a.strides.clone();
            }
            let mut kept = 0;
            (0..rank)
                .map(|i| {
                    let own = if keep_dims { i } else { kept };
                    if inner.contains(&i) {
                        return SymInt::constant(0);
                    }
                    kept += 1;
                    a.strides[own].clone()
                })
                .collect()
        };
        let mut strides = vec![in_axes(&y)];
        strides.extend(xs.iter().map(|x| x.strides.clone()));
        strides.extend(epilogue.extras.iter().map(in_axes));
        strides.extend(z.iter().map(|z| z.strides.clone()));
        let space = Space { dims, strides };
        // walk the outer axes as the result lies in memory, the inner ones as the first operand does, or what is stored of
        // it
        let lead = match z {
            Some(_) => space.strides.len() - 1,
            None => 1,
        };
        let sorted = |a: &[SymInt], axes: &[usize]| -> Vec<usize> {
            let view = Access {
                buffer: y.buffer,
                offset: SymInt::constant(0),
                dims: axes.iter().map(|&i| space.dims[i].clone()).collect(),
                strides: axes.iter().map(|&i| a[i].clone()).collect(),
            };
            memory_order(&view, &graph.symbols)
                .into_iter()
                .map(|i| axes[i])
                .collect()
        };
        let outer = sorted(&space.strides[0], &outer);
        let inner = if fuses {
            sorted(&space.strides[lead], &inner)
        } else {
            inner
        };
        let outer_space = space.select(&outer).collapse(&graph.symbols, 1);
        let single = !matches!(node.op, Op::Reduce(_) | Op::Normalize(_));
        let inner_space = if single {
            space.select(&inner)
        } else {
            space.select(&inner).collapse(&graph.symbols, 1)
        };
        let (o, n) = (outer_space.dims.len(), inner_space.dims.len());
        let space = outer_space.join(inner_space);
        let y_rank = if reduces { o } else { o + n };
        let mut args = Args::default();
        args.ints("d", &space.dims);
        args.strided("y", y.buffer, &y.offset, &space.strides[0][..y_rank]);
        let many = fuses;
        for (i, x) in xs.iter().enumerate() {
            let x_name = if many {
                format!("x{i}")
            } else {
                "x".to_owned()
            };
            args.strided(&x_name, x.buffer, &x.offset, &space.strides[1 + i]);
        }
        for (i, e) in epilogue.extras.iter().enumerate() {
            let s = &space.strides[1 + xs.len() + i][..y_rank];
            args.strided(&format!("e{i}"), e.buffer, &e.offset, s);
        }
        if let Some(z) = &z {
            args.strided("z", z.buffer, &z.offset, &space.strides[lead]);
        }
        let epilogue = epilogue.expr;
        match &node.op {
            Op::Reduce(r) => {
                let t = Reduce {
                    kind: r.kind,
                    outer: o,
                    inner: n,
                    prologue,
                    epilogue,
                };
                self.step(phase, name, t, args)?;
            }
            Op::Softmax(s) => {
                self.step(
                    phase,
                    name,
                    Softmax {
                        outer: o,
                        log: s.log,
                        prologue,
                        epilogue,
                    },
                    args,
                )?;
            }
            Op::Normalize(op) => {
                let t = Normalize {
                    outer: o,
                    inner: n,
                    center: op.center,
                    epsilon: op.epsilon,
                    residual,
                    prologue,
                    epilogue,
                };
                self.step(phase, name, t, args)?;
            }
            Op::CumSum(c) => {
                let t = CumSum {
                    outer: o,
                    dtype: graph.dtype(vx),
                    exclusive: c.exclusive,
                    reverse: c.reverse,
                };
                self.step(phase, name, t, args)?;
            }
            Op::ArgReduce(a) => {
                let t = ArgReduce {
                    outer: o,
                    dtype: graph.dtype(vx),
                    largest: a.largest,
                    select_last: a.select_last,
                };
                self.step(phase, name, t, args)?;
            }
            _ => return Err(self.internal(id, "not an operator over rows")),
        }
        Ok(y)
    }

    /// Operators of several results.
    pub(super) fn emit_multiple(&mut self, id: NodeId) -> Result<(), PlanError> {
        let graph = self.graph;
        let node = graph.node(id);
        let Op::TopK(op) = &node.op else {
            return self.emit_pool_with_indices(id);
        };
        let (vy, vi) = (node.outputs()[0], node.outputs()[1]);
        let vx = node.inputs()[0];
        let phase = self.phase(vy);
        let x = self.access(vx)?;
        let y = self.result(vy, phase, &node.name, &[], None)?;
        let idx = self.result(vi, phase, &node.name, &[], None)?;
        let mut axes: Vec<usize> = (0..x.rank()).filter(|&i| i != op.axis).collect();
        axes.push(op.axis);
        let mut args = Args::default();
        let (x2, y2, idx2) = (x.transpose(&axes), y.transpose(&axes), idx.transpose(&axes));
        args.ints("d", &x2.dims).int("k", &op.k);
        args.view("x", &x2).view("y", &y2).view("idx", &idx2);
        let t = TopK {
            outer: x.rank() - 1,
            dtype: graph.dtype(vx),
            largest: op.largest,
        };
        self.step(phase, &node.name, t, args)?;
        self.done(vy, y);
        self.done(vi, idx);
        Ok(())
    }
}
