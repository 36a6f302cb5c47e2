//! Products of one tensor with several weights become one product.
//!
//! Queries, keys and values, the projections of one embedding for every layer: each reads the same operand. One product of it with the weights one after the other reads it once, is a single kernel, and
//! fills the device better; its parts are slices, which are views.
//!
//! What stands behind the products would have to join a slice, which no kernel takes work for, so it moves into the
//! joint product: `(x·W + b)·s`, with biases and factors as vectors that have zeros and ones for the parts that lack
//! them. A product takes part if that is all its only reader does, or if its readers are views and operators that take
//! nothing in. What one map reads together is `pair_products`' business.
//!
//! Parts begin at multiples of 16 bytes, so that readers can load vectors. The joint weight is computed at load.
//!
//! This pass is one of the last: what can move behind a product has done so.

use std::collections::BTreeMap;

use bespoke_ir::expr::{BinaryOp, ExprBuilder, Instr};
use bespoke_ir::op::{Concat, Expand, Map, MatMul, Slice, Transpose};
use bespoke_ir::{DType, Expr, Graph, NodeId, Op, Scalar, SymInt, ValueId};

use crate::PassError;
use crate::rewrite::{add, drop_dead, live_nodes, only_reader, skip};

/// See the module.
pub(crate) fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut groups: BTreeMap<(ValueId, bool, i64), Vec<NodeId>> = BTreeMap::new();
    for id in live_nodes(graph) {
        if let Some((key, _)) = candidate(graph, id) {
            groups.entry(key).or_default().push(id);
        }
    }
    let mut changes = 0;
    for group in groups.into_values() {
        let branches: Vec<Branch> = group.iter().filter_map(|&id| branch(graph, id)).collect();
        if branches.len() > 1 {
            merge(graph, &branches)?;
            changes += 1;
        }
    }
    graph.remove_dead();
    Ok(changes)
}

/// A product that can become a part of another.
struct Branch {
    node: NodeId,
    /// What the joint product's part takes the place of.
    result: ValueId,
    weight: ValueId,
    width: i64,
    /// A vector to be added.
    bias: Option<ValueId>,
    factor: f64,
}

/// What products of one group have in common, and the columns of this one.
fn candidate(graph: &Graph, id: NodeId) -> Option<((ValueId, bool, i64), i64)> {
    if skip(graph, id) {
        return None;
    }
    let node = graph.node(id);
    let Op::MatMul(op) = &node.op else {
        return None;
    };
    let [x, w] = *node.inputs() else { return None };
    let (k, n) = match (graph.constant(w)?.dims(), op.transpose_b) {
        ([k, n], false) | ([n, k], true) => (*k, *n),
        _ => return None,
    };
    let dtype = graph.dtype(x);
    let whole = dtype.size().is_some_and(|s| (n * s as i64) % 16 == 0);
    let fits = dtype.is_float() && graph.dtype(w) == dtype && graph.dims(x).len() >= 2 && whole;
    fits.then_some(((x, op.transpose_a, k), n))
}

fn branch(graph: &Graph, node: NodeId) -> Option<Branch> {
    let (_, width) = candidate(graph, node)?;
    let weight = graph.node(node).inputs()[1];
    let y = graph.node(node).outputs()[0];
    let plain = Branch {
        node,
        result: y,
        weight,
        width,
        bias: None,
        factor: 1.0,
    };
    if graph.outputs().contains(&y) {
        return None;
    }
    let Some(reader) = only_reader(graph, y) else {
        return Some(plain);
    };
    let Op::Map(map) = &graph.node(reader).op else {
        return Some(plain);
    };
    let inputs = graph.node(reader).inputs();
    let result = graph.node(reader).outputs()[0];
    let (bias, factor) = affine(graph, &map.expr, inputs, y, width)?;
    let same = graph.ty(result) == graph.ty(y) && !graph.outputs().contains(&result);
    same.then_some(Branch {
        result,
        bias,
        factor,
        ..plain
    })
}

/// `b` and `s`, if a map of `y` is `(y + b)·s` with a vector and a literal, either of which may be missing.
fn affine(
    graph: &Graph,
    expr: &Expr,
    inputs: &[ValueId],
    y: ValueId,
    width: i64,
) -> Option<(Option<ValueId>, f64)> {
    let code = expr.code();
    let mut at = code.len() - 1;
    let mut factor = 1.0;
    while let Instr::Binary(BinaryOp::Mul, a, b) = code[at].0 {
        let (a, b) = (a.0 as usize, b.0 as usize);
        let (rest, literal) = match (code[a].0, code[b].0) {
            (Instr::Const(c), _) => (b, c),
            (_, Instr::Const(c)) => (a, c),
            _ => return None,
        };
        factor *= literal.as_f64();
        at = rest;
    }
    let operand = |at: usize| match code[at].0 {
        Instr::Input(i) => inputs.get(i as usize).copied(),
        _ => None,
    };
    if let Instr::Binary(BinaryOp::Add, a, b) = code[at].0 {
        let (a, b) = (operand(a.0 as usize)?, operand(b.0 as usize)?);
        let bias = if a == y { b } else { a };
        let vector = graph.constant(bias)?.dims() == [width];
        return (vector && (a == y || b == y)).then_some((Some(bias), factor));
    }
    (operand(at)? == y).then_some((None, factor))
}

fn merge(graph: &mut Graph, branches: &[Branch]) -> Result<(), PassError> {
    let first = graph.node(branches[0].node);
    let name = first.name.clone();
    let x = first.inputs()[0];
    let Op::MatMul(MatMul { transpose_a, .. }) = first.op else {
        return Ok(());
    };
    let dtype = graph.dtype(x);
    // one row a column of the result, as the planner stores weights
    let mut rows = Vec::new();
    for b in branches {
        let weight_name = graph.value(b.weight).name.clone();
        rows.push(match &graph.node(b.node).op {
            Op::MatMul(op) if op.transpose_b => b.weight,
            _ => {
                let perm = vec![1, 0];
                add(graph, &weight_name, Transpose { perm }, &[b.weight])?
            }
        });
    }
    let weight_name = graph.value(branches[0].weight).name.clone();
    let weight = add(graph, &weight_name, Concat { axis: 0 }, &rows)?;
    let op = MatMul {
        transpose_a,
        transpose_b: true,
    };
    let mut y = add(graph, &name, op, &[x, weight])?;
    let mut operands = vec![y];
    let (has_bias, has_factor) = (
        branches.iter().any(|b| b.bias.is_some()),
        branches.iter().any(|b| b.factor != 1.0),
    );
    if has_bias {
        let mut parts = Vec::new();
        for b in branches {
            parts.push(match b.bias {
                Some(bias) => bias,
                None => vector(graph, dtype, b.width, 0.0)?,
            });
        }
        operands.push(add(graph, &name, Concat { axis: 0 }, &parts)?);
    }
    if has_factor {
        let mut parts = Vec::new();
        for b in branches {
            parts.push(vector(graph, dtype, b.width, b.factor)?);
        }
        operands.push(add(graph, &name, Concat { axis: 0 }, &parts)?);
    }
    if operands.len() > 1 {
        let mut e = ExprBuilder::new(&vec![dtype; operands.len()]);
        let mut r = e.input(0);
        for i in 1..operands.len() {
            let op = if has_bias && i == 1 {
                BinaryOp::Add
            } else {
                BinaryOp::Mul
            };
            let operand = e.input(i);
            r = e.binary(op, r, operand);
        }
        y = add(graph, &name, Map::new(e.finish(r)), &operands)?;
    }
    let axis = graph.dims(y).len() - 1;
    let mut start = 0;
    for b in branches {
        let dims = graph.dims(b.result).to_vec();
        let mut starts = vec![SymInt::constant(0); dims.len()];
        starts[axis] = start.into();
        start += b.width;
        let slice = Slice {
            starts,
            steps: vec![1; dims.len()],
            dims,
        };
        let name = graph.node(b.node).name.clone();
        let part = add(graph, &name, slice, &[y])?;
        let value_name = graph.value(b.result).name.clone();
        graph.rename_value(part, value_name);
        graph.replace_uses(b.result, part);
        drop_dead(graph, graph.producer(b.result).unwrap_or(b.node));
    }
    Ok(())
}

/// A vector of equal elements.
fn vector(graph: &mut Graph, dtype: DType, width: i64, value: f64) -> Result<ValueId, PassError> {
    let scalar = graph.add_scalar("scalar", Scalar::float(dtype, value));
    let dims = vec![width.into()];
    add(graph, "vector", Expand { dims }, &[scalar])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{agree, f32s, symbol};
    use bespoke_ir::TensorType;
    use bespoke_ir::expr::UnaryOp;

    fn input(g: &mut Graph) -> ValueId {
        let n = symbol(g, "N");
        g.add_input("x", TensorType::new(DType::F32, vec![n, 2.into()]))
    }

    fn product(g: &mut Graph, name: &str, x: ValueId) -> ValueId {
        let at = g.value_bound() as f32;
        let values: Vec<f32> = (0..8).map(|i| (i as f32 * at).sin()).collect();
        let w = f32s(g, &format!("w_{name}"), &[2, 4], &values);
        g.add1(name, MatMul::default(), &[x, w]).unwrap()
    }

    fn binary(g: &mut Graph, op: BinaryOp, a: ValueId, b: ValueId) -> ValueId {
        let map = Map::new(Expr::binary(op, DType::F32));
        g.add1("map", map, &[a, b]).unwrap()
    }

    #[test]
    fn products_of_one_tensor_with_biases_and_factors_become_one() {
        let mut g = Graph::new("t");
        let x = input(&mut g);
        let (q, k, v) = (
            product(&mut g, "q", x),
            product(&mut g, "k", x),
            product(&mut g, "v", x),
        );
        let bias = f32s(&mut g, "bias", &[4], &[1.0, 2.0, 3.0, 4.0]);
        let mut e = ExprBuilder::new(&[DType::F32, DType::F32]);
        let (a, b, half) = (e.input(0), e.input(1), e.number(DType::F32, 0.5));
        let r = e.binary(BinaryOp::Add, a, b);
        let r = e.binary(BinaryOp::Mul, half, r);
        let q = g.add1("scaled", Map::new(e.finish(r)), &[q, bias]).unwrap();
        let k = binary(&mut g, BinaryOp::Add, bias, k);
        let perm = vec![1, 0];
        let k = g.add1("turned", Transpose { perm }, &[k]).unwrap();
        let scores = g.add1("scores", MatMul::default(), &[q, k]).unwrap();
        let y = g.add1("y", MatMul::default(), &[scores, v]).unwrap();
        g.add_output(y);
        let before = g.clone();
        assert_eq!(run(&mut g), Ok(1));
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[N,2]) {
          %0 = transpose(w_q: f32[2,4]) perm=[1,0] : f32[4,2]  ; w_q
          %1 = transpose(w_k: f32[2,4]) perm=[1,0] : f32[4,2]  ; w_k
          %2 = transpose(w_v: f32[2,4]) perm=[1,0] : f32[4,2]  ; w_v
          %3 = concat(%0, %1, %2) axis=0 : f32[12,2]  ; w_q
          %4 = matmul(x, %3) transpose_b : f32[N,12]  ; q
          %5 = expand(0.0:f32) dims=[4] : f32[4]  ; vector
          %6 = concat([1.0,2.0,3.0,4.0]:f32, [1.0,2.0,3.0,4.0]:f32, %5) axis=0 : f32[12]  ; q
          %7 = expand(0.5:f32) dims=[4] : f32[4]  ; vector
          %8 = expand(1.0:f32) dims=[4] : f32[4]  ; vector
          %9 = expand(1.0:f32) dims=[4] : f32[4]  ; vector
          %10 = concat(%7, %8, %9) axis=0 : f32[12]  ; q
          %11 = map(%4, %6, %10) expr=(mul(add(x0, x1), x2)) : f32[N,12]  ; q
          %12 = slice(%11) starts=[0,0] steps=[1,1] dims=[N,4] : f32[N,4]  ; q
          %13 = slice(%11) starts=[0,4] steps=[1,1] dims=[N,4] : f32[N,4]  ; k
          %14 = transpose(%13) perm=[1,0] : f32[4,N]  ; turned
          %15 = matmul(%12, %14) : f32[N,N]  ; scores
          %16 = slice(%11) starts=[0,8] steps=[1,1] dims=[N,4] : f32[N,4]  ; v
          %17 = matmul(%15, %16) : f32[N,4]  ; y
          return %17
        }
        ");
        assert_eq!(run(&mut g), Ok(0));
        agree(&before, &g, 1, 1e-6);
    }

    #[test]
    fn products_whose_work_would_be_left_alone_stay() {
        let mut g = Graph::new("t");
        let x = input(&mut g);
        let other = input(&mut g);
        // activations, and a summand that is no constant
        let (a, b, c) = (
            product(&mut g, "a", x),
            product(&mut g, "b", x),
            product(&mut g, "c", x),
        );
        let tanh = Map::new(Expr::unary(UnaryOp::Tanh, DType::F32));
        let a = g.add1("tanh", tanh, &[a]).unwrap();
        let d = product(&mut g, "d", other);
        let b = binary(&mut g, BinaryOp::Add, b, d);
        // an output of the model
        for v in [a, b, c] {
            g.add_output(v);
        }
        assert_eq!(run(&mut g), Ok(0));
    }
}
