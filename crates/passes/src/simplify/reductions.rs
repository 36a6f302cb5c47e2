//! Reductions that combine one element each: a map, and a reshape if the axes go.

use bespoke_ir::expr::{BinaryOp, Expr, UnaryOp};
use bespoke_ir::op::reduce::ReduceKind;
use bespoke_ir::op::{Map, Reshape};
use bespoke_ir::{DType, Graph, NodeId, Op};

use crate::PassError;
use crate::rewrite::{add, swap};

/// What a reduction makes of a single element.
fn single(kind: ReduceKind, dtype: DType) -> Option<Expr> {
    use ReduceKind::*;
    match kind {
        Sum | Mean | Max | Min | Prod => Some(Expr::identity(dtype)),
        SumSquare => Some(Expr::binary(BinaryOp::Mul, dtype).remap_inputs(&[0, 0], 1)),
        L1 | L2 if dtype.is_float() => Some(Expr::unary(UnaryOp::Abs, dtype)),
        LogSum if dtype.is_float() => Some(Expr::unary(UnaryOp::Log, dtype)),
        LogSumExp if dtype.is_float() => Some(Expr::identity(dtype)),
        _ => None,
    }
}

pub(super) fn reduce(graph: &mut Graph, id: NodeId) -> Result<bool, PassError> {
    let node = graph.node(id);
    let Op::Reduce(op) = &node.op else {
        return Ok(false);
    };
    let (x, y) = (node.inputs()[0], node.outputs()[0]);
    let dims = graph.dims(x);
    if !op.axes.iter().all(|&a| dims[a].as_const() == Some(1)) {
        return Ok(false);
    }
    let Some(expr) = single(op.kind, graph.dtype(x)) else {
        return Ok(false);
    };
    if graph.dims(x) == graph.dims(y) {
        return Ok(swap(graph, id, Map::new(expr), &[x])?.is_some());
    }
    let (name, dims) = (node.name.clone(), graph.dims(y).to_vec());
    let x = if expr.is_identity() {
        x
    } else {
        add(graph, &name, Map::new(expr), &[x])?
    };
    Ok(swap(graph, id, Reshape { dims }, &[x])?.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simplify::run;
    use bespoke_ir::TensorType;
    use bespoke_ir::op::Reduce;

    #[test]
    fn reductions_of_one_element_reduce_nothing() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[4, 1]));
        let mut reduce = |name: &str, kind, axes: &[usize], keep_dims| {
            let v = g
                .add1(
                    name,
                    Reduce {
                        kind,
                        axes: axes.to_vec(),
                        keep_dims,
                    },
                    &[x],
                )
                .unwrap();
            g.add_output(v);
        };
        reduce("sum", ReduceKind::Sum, &[1], false);
        reduce("square", ReduceKind::SumSquare, &[1], false);
        reduce("norm", ReduceKind::L2, &[1], true);
        reduce("log", ReduceKind::LogSum, &[], true);
        reduce("real", ReduceKind::Sum, &[0], true);
        assert_eq!(run(&mut g), Ok(4));
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[4,1]) {
          %0 = reduce(x) kind=sum axes=[0] keep_dims : f32[1,1]  ; real
          %1 = reshape(x) dims=[4] : f32[4]  ; sum
          %2 = map(x) expr=(mul(x0, x0)) : f32[4,1]  ; square
          %3 = reshape(%2) dims=[4] : f32[4]  ; square
          %4 = map(x) expr=(abs(x0)) : f32[4,1]  ; norm
          %5 = map(x) expr=(log(x0)) : f32[4,1]  ; log
          return %1, %3, %4, %5, %0
        }
        ");
    }
}
