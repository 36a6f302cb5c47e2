//! Constants with one value become literals.
//!
//! An operand of a map that is a constant all of whose elements are equal is written into the expression. Its extents
//! may have decided the result's; then the map states them itself. Only small constants are looked at whole.

use bespoke_ir::expr::ExprBuilder;
use bespoke_ir::{Graph, NodeId, Op, Scalar};

use crate::PassError;
use crate::rewrite::{live_nodes, rebuild, skip, splat, swap_map};

/// Larger constants are not searched for different elements.
const MAX_BYTES: usize = 1 << 18;

/// See the module.
pub(crate) fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut changes = 0;
    for id in live_nodes(graph) {
        if !skip(graph, id) {
            changes += inline(graph, id)?;
        }
    }
    graph.remove_dead();
    Ok(changes)
}

fn inline(graph: &mut Graph, id: NodeId) -> Result<usize, PassError> {
    let node = graph.node(id);
    let Op::Map(map) = &node.op else { return Ok(0) };
    let literals: Vec<Option<Scalar>> = node
        .inputs()
        .iter()
        .map(|&v| {
            graph
                .constant(v)
                .filter(|c| c.data().len() <= MAX_BYTES)
                .and_then(|c| splat(c))
        })
        .collect();
    let count = literals.iter().flatten().count();
    if count == 0 {
        return Ok(0);
    }
    let mut b = ExprBuilder::new(map.expr.inputs());
    let result = rebuild(&mut b, &map.expr, |b, i| match literals[i] {
        Some(value) => b.constant(value),
        None => b.input(i),
    });
    let (expr, inputs) = (b.finish(result), node.inputs().to_vec());
    Ok(match swap_map(graph, id, &expr, &inputs)? {
        Some(_) => count,
        None => 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{f32s, i64s};
    use bespoke_ir::expr::{BinaryOp, Expr};
    use bespoke_ir::op::Map;
    use bespoke_ir::{DType, TensorType};

    #[test]
    fn literals_keep_the_extents_of_the_result() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[3]));
        let half = f32s(&mut g, "half", &[], &[0.5]);
        let wide = f32s(&mut g, "wide", &[1, 1], &[2.0]);
        let full = f32s(&mut g, "full", &[4, 3], &[7.0; 12]);
        let mixed = f32s(&mut g, "mixed", &[3], &[1.0, 1.0, 2.0]);
        let binary = |op| Map::new(Expr::binary(op, DType::F32));
        let a = g.add1("a", binary(BinaryOp::Mul), &[x, half]).unwrap();
        let b = g.add1("b", binary(BinaryOp::Pow), &[a, wide]).unwrap();
        let c = g.add1("c", binary(BinaryOp::Sub), &[full, b]).unwrap();
        let d = g.add1("d", binary(BinaryOp::Add), &[c, mixed]).unwrap();
        g.add_output(d);
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[3]) {
          %0 = map(x, 0.5:f32) expr=(mul(x0, x1)) : f32[3]  ; a
          %1 = map(%0, [2.0]:f32) expr=(pow(x0, x1)) : f32[1,3]  ; b
          %2 = map(full: f32[4,3], %1) expr=(sub(x0, x1)) : f32[4,3]  ; c
          %3 = map(%2, [1.0,1.0,2.0]:f32) expr=(add(x0, x1)) : f32[4,3]  ; d
          return %3
        }
        ");
        assert_eq!(run(&mut g), Ok(3));
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[3]) {
          %0 = map(x) expr=(mul(x0, 0.5:f32)) : f32[3]  ; a
          %1 = map(%0) expr=(pow(x0, 2.0:f32)) shape=[1,3] : f32[1,3]  ; b
          %2 = map(%1) expr=(sub(7.0:f32, x0)) shape=[4,3] : f32[4,3]  ; c
          %3 = map(%2, [1.0,1.0,2.0]:f32) expr=(add(x0, x1)) : f32[4,3]  ; d
          return %3
        }
        ");
        assert_eq!(run(&mut g), Ok(0));
    }

    #[test]
    fn wide_integers_are_exact() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::I64, &[2]));
        let c = i64s(&mut g, "c", &[1], &[i64::MIN + 1]);
        let y = g
            .add1(
                "y",
                Map::new(Expr::binary(BinaryOp::Max, DType::I64)),
                &[x, c],
            )
            .unwrap();
        g.add_output(y);
        assert_eq!(run(&mut g), Ok(1));
        insta::assert_snapshot!(g, @r"
        graph t(x: i64[2]) {
          %0 = map(x) expr=(max(x0, -9223372036854775807:i64)) : i64[2]  ; y
          return %0
        }
        ");
    }
}
