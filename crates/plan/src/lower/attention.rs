//! Attention.
//!
//! Heads of queries that share a head of keys become an axis of their own, the group; the heads of keys join the batch.
//! Operands are read and the result is written under whatever strides they have, so that splitting and joining heads costs
//! nothing. Only elements of a head that do not lie next to each other are copied first.

use bespoke_ir::op::Attention;
use bespoke_ir::{NodeId, SymInt, ValueId};
use bespoke_templates::attention;

use super::space::Space;
use super::{Lowering, PlanError};
use crate::access::{Access, row_major};
use crate::builder::Args;

/// The heads of an access of rank `3` or more as two axes: heads of keys and, if they are `group`, those that share one.
fn split_heads(a: &Access, heads: usize, shared: &SymInt, group: &SymInt) -> Access {
    let mut a = a.clone();
    a.dims[heads] = shared.clone();
    a.dims.insert(heads + 1, group.clone());
    let stride = a.strides[heads].clone();
    a.strides[heads] = stride.clone() * group;
    a.strides.insert(heads + 1, stride);
    a
}

impl Lowering<'_> {
    pub(super) fn emit_attention(
        &mut self,
        id: NodeId,
        op: Attention,
        name: &str,
        v: ValueId,
    ) -> Result<Access, PlanError> {
        let graph = self.graph;
        let node = graph.node(id);
        let phase = self.phase(v);
        let rank = graph.dims(v).len();
        let (heads, rows, last) = (rank - 3, rank - 2, rank - 1);
        let size = |v: ValueId| graph.dims(v)[last].as_const();
        let unsupported = |reason: &str| PlanError::Unsupported {
            node: node.name.clone(),
            op: node.op.name().to_owned(),
            reason: reason.to_owned(),
        };
        let (Some(query_size), Some(value_size)) = (size(node.inputs()[0]), size(v)) else {
            return Err(unsupported("the size of a head is not known"));
        };
        let mut operands = Vec::new();
        for &x in &node.inputs()[..3] {
            let access = self.access(x)?;
            let next = access.strides[last].as_const() == Some(1)
                || access.dims[last].as_const() == Some(1);
            operands.push(if next {
                access
            } else {
                self.copy_in_order(self.phase(x), x, &access, &row_major(rank))?
            });
        }
        let [q, k, values] = &operands[..] else {
            return Err(self.internal(id, "attention has three operands"));
        };
        // scores' extents, over which the mask is seen
        let mut scores = graph.dims(v).to_vec();
        scores[last] = k.dims[rows].clone();
        let mask = match node.inputs().get(3) {
            Some(&mask) => Some((
                self.access(mask)?.broadcast(&scores, &graph.symbols),
                self.dtype(mask),
            )),
            None => None,
        };
        let y = self.result(v, phase, name, &[], Some(row_major(rank)))?;

        let shared = k.dims[heads].clone();
        let group = if shared.known_eq(&q.dims[heads], &graph.symbols) == Some(true) {
            SymInt::constant(1)
        } else {
            // heads that are not known to be shared evenly are guarded to be as many
            q.dims[heads]
                .exact_div(&shared)
                .unwrap_or(SymInt::constant(1))
        };
        let over = |a: &Access| split_heads(a, heads, &shared, &group);
        let (query, result) = (over(q), over(&y));
        let mask = mask.map(|(access, dtype)| (over(&access), dtype));
        // axes before the group are batches of everything
        let mut accesses = vec![&query, k, values, &result];
        accesses.extend(mask.as_ref().map(|(access, _)| access));
        let space = Space {
            dims: query.dims[..=heads].to_vec(),
            strides: accesses
                .iter()
                .map(|a| a.strides[..=heads].to_vec())
                .collect(),
        }
        .collapse(&graph.symbols, 0);
        let mut args = Args::default();
        args.int("m", &q.dims[rows])
            .int("n", &k.dims[rows])
            .int("g", &group)
            .ints("d", &space.dims);
        for (i, (name, access)) in ["q", "k", "v", "y", "e0"].iter().zip(&accesses).enumerate() {
            let own = &access.strides[heads + 1..];
            let strides = [&space.strides[i][..], own].concat();
            args.strided(name, access.buffer, &access.offset, &strides);
        }
        let template = attention::Attention {
            batch: space.dims.len(),
            dtype: graph.dtype(v),
            size: query_size,
            value_size,
            scale: op.scale,
            mask: mask.map(|(_, dtype)| dtype),
            fill: op.fill,
            undefined_as_zero: op.undefined_as_zero,
        };
        if let Some(reason) = template.refuses() {
            return Err(unsupported(reason));
        }
        self.step(phase, name, template, args)?;
        Ok(y)
    }
}
