//! Matrix products.
//!
//! Operands are brought to `(batch…, m, k)` and `(batch…, k, n)`. Batch axes that only the first operand has join `m`,
//! so that a linear layer is one product whatever the rank of its input. Constant second operands are stored K-major
//! (`[N, K]`), the canonical layout of weights. An epilogue of pairs of columns halves them.

use bespoke_ir::op::MatMul;
use bespoke_ir::{NodeId, SymInt, ValueId};
use bespoke_templates::gemm::Gemm;

use super::space::Space;
use super::{Epilogue, Lowering, PlanError};
use crate::access::Access;
use crate::builder::Args;

/// An access with an axis of extent 1 put in at `at`.
fn with_axis(a: &Access, at: usize) -> Access {
    let mut a = a.clone();
    a.dims.insert(at, SymInt::constant(1));
    a.strides.insert(at, SymInt::constant(0));
    a
}

impl Lowering<'_> {
    pub(super) fn emit_matmul(
        &mut self,
        id: NodeId,
        op: MatMul,
        name: &str,
        v: ValueId,
        epilogue: Epilogue,
    ) -> Result<Access, PlanError> {
        let graph = self.graph;
        let symbols = &graph.symbols;
        let node = graph.node(id);
        let (va, vb) = (node.inputs()[0], node.inputs()[1]);
        let mut a = self.access(va)?;
        let rank_b = graph.dims(vb).len();
        let mut b = if rank_b >= 2 {
            let mut order: Vec<usize> = (0..rank_b).collect();
            if !op.transpose_b {
                order.swap(rank_b - 2, rank_b - 1);
            }
            self.weight(vb, &order)?
        } else {
            self.access(vb)?
        };
        let phase = self.phase(v);
        let y = self.result(
            v,
            phase,
            name,
            &[],
            Some((0..graph.dims(v).len()).collect()),
        )?;

        let (vector_a, vector_b) = (a.rank() == 1, b.rank() == 1);
        let swap = |a: &Access| {
            let mut perm: Vec<usize> = (0..a.rank()).collect();
            perm.swap(a.rank() - 2, a.rank() - 1);
            a.transpose(&perm)
        };
        if vector_a {
            a = with_axis(&a, 0);
        } else if op.transpose_a {
            a = swap(&a);
        }
        if vector_b {
            b = with_axis(&b, 1);
        } else if op.transpose_b {
            b = swap(&b);
        }
        // results and epilogue operands as (batch…, m, n)
        let full = |x: &Access| {
            let mut x = x.clone();
            if vector_b {
                x = with_axis(&x, x.rank());
            }
            if vector_a {
                x = with_axis(&x, x.rank() - 1);
            }
            x
        };
        let out = full(&y);
        let extras: Vec<Access> = epilogue.extras.iter().map(full).collect();
        let batch = out.rank() - 2;
        let (m, n) = (out.dims[batch].clone(), out.dims[batch + 1].clone());
        let k = a.dims[a.rank() - 1].clone();
        let sums = epilogue.sums();
        let columns = SymInt::constant(sums as i64) * &n;
        // one space (batch…, m) for everything that varies along it; b does not vary along m
        let lead = |x: &Access, last: &SymInt| {
            let mut dims = out.dims[..batch].to_vec();
            dims.push(last.clone());
            let own_batch = x.rank() - 2;
            let head = Access {
                buffer: x.buffer,
                offset: x.offset.clone(),
                dims: x.dims[..own_batch].to_vec(),
                strides: x.strides[..own_batch].to_vec(),
            };
            let mut strides = head.broadcast(&dims[..batch], symbols).strides;
            strides.push(SymInt::constant(0));
            strides
        };
        let mut space = Space {
            dims: out.dims[..=batch].to_vec(),
            strides: vec![lead(&a, &m), lead(&b, &m), out.strides[..=batch].to_vec()],
        };
        space.strides[0][batch] = a.strides[a.rank() - 2].clone();
        for e in &extras {
            space.strides.push(e.strides[..=batch].to_vec());
        }
        let space = space.collapse(symbols, 1);
        // the last axis left is m only if b does not move along it; otherwise m has extent 1 and was dropped
        let zero = SymInt::constant(0);
        let last = space.dims.len() - 1;
        let is_m = m.as_const() != Some(1) || space.strides[1][last] == zero;
        let (batch_axes, m, m_strides): (usize, SymInt, Vec<SymInt>) = if is_m {
            let strides = space.strides.iter().map(|s| s[last].clone()).collect();
            (last, space.dims[last].clone(), strides)
        } else {
            (
                last + 1,
                SymInt::constant(1),
                vec![zero; space.strides.len()],
            )
        };
        let strides = |i: usize, tail: &SymInt, m_first: bool| {
            let mut s = space.strides[i][..batch_axes].to_vec();
            if m_first {
                s.push(m_strides[i].clone());
            }
            s.push(tail.clone());
            s
        };
        let mut args = Args::default();
        args.int("m", &m)
            .int("n", &columns)
            .int("k", &k)
            .ints("d", &space.dims[..batch_axes]);
        args.strided(
            "a",
            a.buffer,
            &a.offset,
            &strides(0, &a.strides[a.rank() - 1], true),
        );
        let mut b_strides = strides(1, &b.strides[b.rank() - 2], false);
        b_strides.push(b.strides[b.rank() - 1].clone());
        args.strided("b", b.buffer, &b.offset, &b_strides);
        args.strided(
            "y",
            out.buffer,
            &out.offset,
            &strides(2, &out.strides[batch + 1], true),
        );
        for (i, e) in extras.iter().enumerate() {
            let s = strides(3 + i, &e.strides[batch + 1], true);
            args.strided(&format!("e{i}"), e.buffer, &e.offset, &s);
        }
        let template = Gemm {
            batch: batch_axes,
            a: graph.dtype(va),
            b: graph.dtype(vb),
            sums,
            products: self.products(phase, graph.dtype(va), graph.dtype(vb)),
            epilogue: epilogue.expr,
        };
        self.step(phase, name, template, args)?;
        Ok(y)
    }
}
