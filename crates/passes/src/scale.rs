//! A factor of a matrix becomes a factor of the product.
//!
//! Exporters of attention multiply queries and keys by the root of the scale before their product; the keys may be a
//! whole cache. A map that only multiplies an operand of a matrix product by a literal is a kernel of its own, while the
//! product multiplies its result on the way out for nothing, in the precision in which it accumulates. So the factor
//! moves behind the product, unless it already follows an operator that takes it as epilogue.

use bespoke_ir::expr::{BinaryOp, Expr, Instr};
use bespoke_ir::op::Map;
use bespoke_ir::{Graph, NodeId, Op, ValueId};

use crate::PassError;
use crate::push::{MAX_CLIMB, from_anchor};
use crate::rewrite::{
    add, drop_dead, infer, live_nodes, load_time_values, map_of, only_reader, skip,
};

/// See the module.
pub(crate) fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let order = live_nodes(graph);
    let known = load_time_values(graph, &order);
    let mut changes = 0;
    for id in order {
        for operand in 0..2 {
            if !skip(graph, id) && move_factor(graph, id, operand, &known)? {
                changes += 1;
                break;
            }
        }
    }
    graph.remove_dead();
    Ok(changes)
}

/// The literal by which an expression multiplies its only operand, if it does nothing else.
pub(crate) fn literal_factor(expr: &Expr) -> Option<f64> {
    let [(a, _), (b, _), (Instr::Binary(BinaryOp::Mul, x, y), _)] = expr.code() else {
        return None;
    };
    match (a, b) {
        (Instr::Input(_), Instr::Const(c)) | (Instr::Const(c), Instr::Input(_))
            if expr.inputs().len() == 1 && x != y =>
        {
            Some(c.as_f64())
        }
        _ => None,
    }
}

fn move_factor(
    graph: &mut Graph,
    id: NodeId,
    operand: usize,
    known: &[bool],
) -> Result<bool, PassError> {
    let node = graph.node(id);
    let (Op::MatMul(op), Some(&v)) = (&node.op, node.inputs().get(operand)) else {
        return Ok(false);
    };
    let (op, y) = (*op, node.outputs()[0]);
    let Some((factor, map)) = map_of(graph, v) else {
        return Ok(false);
    };
    let x = graph.node(factor).inputs().first().copied();
    let Some(x) = x.filter(|_| literal_factor(&map.expr).is_some()) else {
        return Ok(false);
    };
    let stays = graph.ty(x) != graph.ty(v)
        || graph.dtype(y) != graph.dtype(x)
        || !graph.dtype(x).is_float()
        || only_reader(graph, v) != Some(id)
        || node.inputs().iter().filter(|&&i| i == v).count() > 1
        || known.get(v.index()).copied().unwrap_or(false)
        || from_anchor(graph, x, MAX_CLIMB);
    if stays {
        return Ok(false);
    }
    let mut inputs: Vec<ValueId> = node.inputs().to_vec();
    inputs[operand] = x;
    if infer(graph, &Op::from(op), &inputs).is_none_or(|t| t[0] != *graph.ty(y)) {
        return Ok(false);
    }
    let (name, factor_name) = (node.name.clone(), graph.node(factor).name.clone());
    let behind = Map::new(map.expr.clone());
    let value_name = graph.value(y).name.clone();
    let product = add(graph, &name, op, &inputs)?;
    let scaled = add(graph, &factor_name, behind, &[product])?;
    graph.rename_value(scaled, value_name);
    graph.replace_uses(y, scaled);
    drop_dead(graph, id);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::agree;
    use bespoke_ir::expr::ExprBuilder;
    use bespoke_ir::op::{MatMul, Transpose};
    use bespoke_ir::{DType, TensorType};

    fn times(c: f64) -> Map {
        let mut b = ExprBuilder::new(&[DType::F32]);
        let (x, c) = (b.input(0), b.number(DType::F32, c));
        let r = b.binary(BinaryOp::Mul, c, x);
        Map::new(b.finish(r))
    }

    #[test]
    fn factors_move_behind_the_product() {
        let mut g = Graph::new("t");
        let q = g.add_input("q", TensorType::fixed(DType::F32, &[3, 4]));
        let k = g.add_input("k", TensorType::fixed(DType::F32, &[5, 4]));
        let k = g
            .add1("transposed", Transpose { perm: vec![1, 0] }, &[k])
            .unwrap();
        let (a, b) = (
            g.add1("a", times(0.5), &[q]).unwrap(),
            g.add1("b", times(0.25), &[k]).unwrap(),
        );
        let y = g.add1("y", MatMul::default(), &[a, b]).unwrap();
        g.add_output(y);
        let before = g.clone();
        assert_eq!(run(&mut g), Ok(1));
        assert_eq!(run(&mut g), Ok(1));
        insta::assert_snapshot!(g, @r"
        graph t(q: f32[3,4], k: f32[5,4]) {
          %0 = transpose(k) perm=[1,0] : f32[4,5]  ; transposed
          %1 = matmul(q, %0) : f32[3,5]  ; y
          %2 = map(%1) expr=(mul(0.25:f32, x0)) : f32[3,5]  ; b
          %3 = map(%2) expr=(mul(0.5:f32, x0)) : f32[3,5]  ; a
          return %3
        }
        ");
        assert_eq!(run(&mut g), Ok(0));
        assert_eq!(g.value(g.outputs()[0]).name, "y");
        agree(&before, &g, 1, 1e-6);
    }

    #[test]
    fn factors_stay_where_they_cost_nothing() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[4, 4]));
        // an epilogue already
        let p = g.add1("p", MatMul::default(), &[x, x]).unwrap();
        let a = g.add1("a", times(0.5), &[p]).unwrap();
        let y = g.add1("y", MatMul::default(), &[a, x]).unwrap();
        // read by others too
        let b = g.add1("b", times(0.5), &[x]).unwrap();
        let z = g.add1("z", MatMul::default(), &[b, b]).unwrap();
        for v in [y, z] {
            g.add_output(v);
        }
        assert_eq!(run(&mut g), Ok(0));
    }
}
