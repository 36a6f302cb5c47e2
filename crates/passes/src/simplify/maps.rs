//! Maps as nodes: their expression is simplified, operands that it does not read go, a shape that the operands imply
//! goes, and the identity is the operand itself, or its expansion.

use bespoke_ir::op::Expand;
use bespoke_ir::{Graph, NodeId, Op};

use super::arithmetic;
use crate::PassError;
use crate::rewrite::{alias, infer, swap, swap_map, tidy_operands};

pub(super) fn simplify(graph: &mut Graph, id: NodeId) -> Result<bool, PassError> {
    let node = graph.node(id);
    let Op::Map(map) = &node.op else {
        return Ok(false);
    };
    let y = node.outputs()[0];
    if map.expr.is_identity() {
        let x = node.inputs()[0];
        if graph.ty(x) == graph.ty(y) {
            return Ok(alias(graph, y, x));
        }
        let dims = graph.dims(y).to_vec();
        return Ok(swap(graph, id, Expand { dims }, &[x])?.is_some());
    }
    let simple = arithmetic::simplify(&map.expr);
    let (expr, inputs) = tidy_operands(&simple, node.inputs());
    let mut bare = map.clone();
    bare.shape = None;
    let idle_shape = map.shape.is_some()
        && infer(graph, &Op::from(bare), node.inputs()).is_some_and(|t| t[0] == *graph.ty(y));
    if expr == map.expr && inputs == node.inputs() && !idle_shape {
        return Ok(false);
    }
    Ok(swap_map(graph, id, &expr, &inputs)?.is_some())
}

#[cfg(test)]
mod tests {
    use crate::simplify::run;
    use crate::testing::ints;
    use bespoke_ir::expr::{BinaryOp, Expr};
    use bespoke_ir::op::Map;
    use bespoke_ir::{DType, Graph, TensorType};

    #[test]
    fn operands_shapes_and_identities_are_tidied() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[4, 2]));
        let i = g.add_input("i", TensorType::fixed(DType::I64, &[2]));
        let add = Expr::binary(BinaryOp::Add, DType::F32);
        let a = g
            .add1("twice", Map::over(add, ints(&[1, 2])), &[x, x])
            .unwrap();
        // the result does not depend on `i`, but its extents do
        let wide = Expr::identity(DType::I64).then_cast(DType::F32);
        let b = g
            .add1("wide", Map::over(wide, ints(&[3, 2])), &[i])
            .unwrap();
        let same = g
            .add1("same", Map::new(Expr::identity(DType::F32)), &[a])
            .unwrap();
        let grown = g
            .add1(
                "grown",
                Map::over(Expr::identity(DType::I64), ints(&[3, 2])),
                &[i],
            )
            .unwrap();
        for v in [same, b, grown] {
            g.add_output(v);
        }
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[4,2], i: i64[2]) {
          %0 = map(x, x) expr=(add(x0, x1)) shape=[1,2] : f32[4,2]  ; twice
          %1 = map(i) expr=(f32(x0)) shape=[3,2] : f32[3,2]  ; wide
          %2 = map(%0) expr=(x0) : f32[4,2]  ; same
          %3 = map(i) expr=(x0) shape=[3,2] : i64[3,2]  ; grown
          return %2, %1, %3
        }
        ");
        assert_eq!(run(&mut g), Ok(3));
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[4,2], i: i64[2]) {
          %0 = map(i) expr=(f32(x0)) shape=[3,2] : f32[3,2]  ; wide
          %1 = map(x) expr=(add(x0, x0)) : f32[4,2]  ; twice
          %2 = expand(i) dims=[3,2] : i64[3,2]  ; grown
          return %1, %0, %2
        }
        ");
        assert_eq!(run(&mut g), Ok(0));
    }
}
