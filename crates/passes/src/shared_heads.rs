//! A product reads heads that are shared by several queries where they are, instead of a copy for each.
//!
//! Grouped attention has fewer heads of keys and values than of queries. Exporters repeat them: an expansion
//! `[B, K, 1, …] → [B, K, R, …]`, and a reshape to `[B, K·R, …]` heads. The expansion is a view, but no stride can say
//! the joined axis, so the reshape is a copy of the whole cache. If the other operand of the product is split instead,
//! the product has one more batch axis, along which the shared operand has stride 0:
//!
//! ```text
//! matmul(q [B,K·R,M,D], reshape(k [B,K,R,D,S]))   →   reshape(matmul(reshape(q) [B,K,R,M,D], k))
//! ```
//!
//! This pass is one of the last, so that whoever looks for attention as it was written finds it.

use bespoke_ir::op::Reshape;
use bespoke_ir::{Graph, NodeId, Op, SymInt, ValueId};

use crate::PassError;
use crate::extents::runs;
use crate::rewrite::{add, drop_dead, infer, live_nodes, maker, only_reader, skip};

/// See the module.
pub(crate) fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut changes = 0;
    for id in live_nodes(graph) {
        for operand in 0..2 {
            if !skip(graph, id) && split(graph, id, operand)? {
                changes += 1;
                break;
            }
        }
    }
    graph.remove_dead();
    Ok(changes)
}

/// An operand of a product before its heads were joined.
struct Shared {
    value: ValueId,
    /// The joined axis.
    axis: usize,
    /// What it was joined from.
    heads: Vec<SymInt>,
}

fn shared(graph: &Graph, v: ValueId) -> Option<Shared> {
    let joins = maker(graph, v).filter(|n| matches!(n.op, Op::Reshape(_)))?;
    let value = joins.inputs()[0];
    let mut at = maker(graph, value)?;
    while matches!(at.op, Op::Transpose(_)) {
        at = maker(graph, at.inputs()[0])?;
    }
    if !matches!(at.op, Op::Expand(_)) {
        return None;
    }
    let (before, behind) = (graph.dims(value), graph.dims(v));
    let mut joined = None;
    for (left, right) in runs(before, behind)? {
        match (left.len(), right.len(), &joined) {
            (1, 1, _) => {}
            (2, 1, None) => joined = Some((right.start, before[left].to_vec())),
            _ => return None,
        }
    }
    let (axis, heads) = joined?;
    (axis + 2 < behind.len()).then_some(Shared { value, axis, heads })
}

fn split(graph: &mut Graph, id: NodeId, operand: usize) -> Result<bool, PassError> {
    let node = graph.node(id);
    let (Op::MatMul(op), [a, b]) = (&node.op, node.inputs()) else {
        return Ok(false);
    };
    let op = *op;
    let (v, other) = if operand == 0 { (*a, *b) } else { (*b, *a) };
    let Some(shared) = shared(graph, v).filter(|_| only_reader(graph, v) == Some(id)) else {
        return Ok(false);
    };
    let y = node.outputs()[0];
    let axis = shared.axis;
    let mut dims = graph.dims(other).to_vec();
    let fits =
        |dims: &[SymInt]| dims.len() == graph.dims(v).len() && dims[axis] == graph.dims(v)[axis];
    if !fits(&dims) || !fits(graph.dims(y)) {
        return Ok(false);
    }
    dims.splice(axis..=axis, shared.heads);
    let (name, back) = (node.name.clone(), graph.dims(y).to_vec());
    let other_name = graph.value(other).name.clone();
    let other = add(graph, &other_name, Reshape { dims }, &[other])?;
    let operands = if operand == 0 {
        [shared.value, other]
    } else {
        [other, shared.value]
    };
    if infer(graph, &Op::from(op), &operands).is_none() {
        return Ok(false);
    }
    let product = add(graph, &name, op, &operands)?;
    let result = add(graph, &name, Reshape { dims: back }, &[product])?;
    if graph.ty(result) != graph.ty(y) {
        return Ok(false);
    }
    let value_name = graph.value(y).name.clone();
    graph.rename_value(result, value_name);
    graph.replace_uses(y, result);
    drop_dead(graph, id);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{agree, symbol};
    use bespoke_ir::op::{Expand, MatMul, Transpose};
    use bespoke_ir::{DType, TensorType};

    #[test]
    fn heads_of_a_cache_are_read_in_place() {
        let mut g = Graph::new("t");
        let (m, s) = (symbol(&mut g, "M"), symbol(&mut g, "S"));
        let input = |g: &mut Graph, name: &str, heads: i64, rows: &SymInt| {
            let dims = vec![2.into(), heads.into(), rows.clone(), 4.into()];
            g.add_input(name, TensorType::new(DType::F32, dims))
        };
        let q = input(&mut g, "q", 6, &m);
        let (k, v) = (input(&mut g, "k", 2, &s), input(&mut g, "v", 2, &s));
        let repeat = |g: &mut Graph, x: ValueId, turn: bool| {
            let dims = vec![2.into(), 2.into(), 1.into(), s.clone(), 4.into()];
            let x = g.add1("unsqueezed", Reshape { dims }, &[x]).unwrap();
            let dims = vec![2.into(), 2.into(), 3.into(), s.clone(), 4.into()];
            let mut x = g.add1("expanded", Expand { dims }, &[x]).unwrap();
            let mut dims = vec![2.into(), 6.into(), s.clone(), 4.into()];
            if turn {
                let perm = vec![0, 1, 2, 4, 3];
                x = g.add1("turned", Transpose { perm }, &[x]).unwrap();
                dims.swap(2, 3);
            }
            g.add1("repeated", Reshape { dims }, &[x]).unwrap()
        };
        let (k, v) = (repeat(&mut g, k, true), repeat(&mut g, v, false));
        let scores = g.add1("scores", MatMul::default(), &[q, k]).unwrap();
        let y = g.add1("y", MatMul::default(), &[scores, v]).unwrap();
        g.add_output(y);
        let before = g.clone();
        assert_eq!(run(&mut g), Ok(2));
        insta::assert_snapshot!(g, @r"
        graph t(q: f32[2,6,M,4], k: f32[2,2,S,4], v: f32[2,2,S,4]) {
          %0 = reshape(k) dims=[2,2,1,S,4] : f32[2,2,1,S,4]  ; unsqueezed
          %1 = expand(%0) dims=[2,2,3,S,4] : f32[2,2,3,S,4]  ; expanded
          %2 = transpose(%1) perm=[0,1,2,4,3] : f32[2,2,3,4,S]  ; turned
          %3 = reshape(v) dims=[2,2,1,S,4] : f32[2,2,1,S,4]  ; unsqueezed
          %4 = expand(%3) dims=[2,2,3,S,4] : f32[2,2,3,S,4]  ; expanded
          %5 = reshape(q) dims=[2,2,3,M,4] : f32[2,2,3,M,4]  ; q
          %6 = matmul(%5, %2) : f32[2,2,3,M,S]  ; scores
          %7 = reshape(%6) dims=[2,6,M,S] : f32[2,6,M,S]  ; scores
          %8 = reshape(%7) dims=[2,2,3,M,S] : f32[2,2,3,M,S]  ; scores
          %9 = matmul(%8, %4) : f32[2,2,3,M,4]  ; y
          %10 = reshape(%9) dims=[2,6,M,4] : f32[2,6,M,4]  ; y
          return %10
        }
        ");
        assert_eq!(run(&mut g), Ok(0));
        agree(&before, &g, 1, 1e-6);
    }
}
