//! Folding: a node all of whose operands are constants becomes a constant.
//!
//! The value is what [`bespoke_reference`] says. Folding is for shape-like and scale-like tensors, not for weights:
//! results have at most [`MAX_RESULT`] elements, operands at most [`MAX_OPERANDS`], and the arithmetic is bounded, so
//! that no model makes loading slow. Larger nodes stay; the planner runs them once, at load, on the device. A
//! broadcast that grows is kept as well, because as a view it costs nothing. Nodes whose attributes hold symbols stay.

use std::sync::Arc;

use bespoke_ir::op::map::scalar_bytes;
use bespoke_ir::{Constant, Graph, Node, Op, Scalar};
use bespoke_reference::{Tensor, eval_node};

use crate::PassError;
use crate::rewrite::{drop_dead, live_nodes, skip};

/// Most elements of all results of a folded node.
const MAX_RESULT: i64 = 1 << 16;
/// Most elements of all its operands.
const MAX_OPERANDS: usize = 1 << 18;
/// Most multiplications that a fold may cost.
const MAX_WORK: i64 = 1 << 21;
/// A broadcast result of at most this many elements is folded although it grows.
const MAX_BROADCAST: i64 = 64;

/// See the module.
pub(crate) fn run(graph: &mut Graph) -> Result<usize, PassError> {
    let mut changes = 0;
    for id in live_nodes(graph) {
        if skip(graph, id) {
            continue;
        }
        let node = graph.node(id);
        let Some(results) = evaluate(graph, node) else {
            continue;
        };
        for (v, constant) in node.outputs().to_vec().into_iter().zip(results) {
            let name = graph.value(v).name.clone();
            let new = graph.add_constant(name, constant);
            graph.replace_uses(v, new);
        }
        drop_dead(graph, id);
        changes += 1;
    }
    graph.remove_dead();
    Ok(changes)
}

/// The results as constants; `None` if they are not known or too large.
fn evaluate(graph: &Graph, node: &Node) -> Option<Vec<Arc<Constant>>> {
    if let Op::HostInts(ints) = &node.op {
        let mut bytes = Vec::new();
        for element in &ints.elements {
            bytes.extend(scalar_bytes(Scalar::int(ints.dtype, element.as_const()?)));
        }
        return Some(vec![
            Constant::new(ints.dtype, ints.dims.clone(), bytes.into()).ok()?,
        ]);
    }
    let constants: Vec<&Arc<Constant>> = node
        .inputs()
        .iter()
        .map(|&v| graph.constant(v))
        .collect::<Option<_>>()?;
    let mut elements = 0i64;
    for &v in node.outputs() {
        elements = elements.checked_add(graph.ty(v).elements().as_const()?)?;
        graph.ty(v).static_dims()?;
    }
    let operands = constants
        .iter()
        .fold(0usize, |n, c| n.saturating_add(c.elements()));
    let grows = matches!(node.op, Op::Expand(_)) && elements > MAX_BROADCAST;
    if elements > MAX_RESULT || operands > MAX_OPERANDS || grows {
        return None;
    }
    if elements.checked_mul(work_per_element(&node.op, &constants)?)? > MAX_WORK {
        return None;
    }
    let tensors: Vec<Tensor> = constants
        .iter()
        .map(|c| Tensor::from_constant(c).ok())
        .collect::<Option<_>>()?;
    let operands: Vec<&Tensor> = tensors.iter().collect();
    // without values for symbols, so that an operator that needs one is an error and stays
    let results = eval_node(&node.op, &operands, &[]).ok()?;
    let mut folded = Vec::with_capacity(results.len());
    for (result, &v) in results.iter().zip(node.outputs()) {
        let constant = result.to_constant().ok()?;
        // sub-byte constants are widened by the reference; those stay
        if constant.ty() != *graph.ty(v) {
            return None;
        }
        folded.push(constant);
    }
    Some(folded)
}

/// An upper bound of the multiplications for each element of the result, where they are more than a few.
fn work_per_element(op: &Op, constants: &[&Arc<Constant>]) -> Option<i64> {
    let largest = |dims: &[i64]| dims.iter().copied().max().unwrap_or(1);
    match op {
        Op::MatMul(_) => Some(largest(constants.first()?.dims())),
        Op::Conv(_) | Op::ConvTranspose(_) => i64::try_from(constants.get(1)?.elements()).ok(),
        Op::Pool(p) => p.kernel.iter().try_fold(1i64, |n, &k| n.checked_mul(k)),
        Op::Map(m) => i64::try_from(m.expr.operations().max(1)).ok(),
        Op::TopK(_) | Op::Resize(_) => Some(32),
        _ => Some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{f32s, i64s, ints, symbol};
    use bespoke_ir::expr::{BinaryOp, Expr};
    use bespoke_ir::op::{Expand, Gather, HostInts, Map, MatMul, Slice};
    use bespoke_ir::{DType, TensorType};

    #[test]
    fn constants_meet_constants() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[2]));
        let a = f32s(&mut g, "a", &[2], &[1.0, 2.0]);
        let i = i64s(&mut g, "i", &[2], &[1, -2]);
        let g1 = g.add1("take", Gather { axis: 0 }, &[a, i]).unwrap();
        let add = Map::new(Expr::binary(BinaryOp::Add, DType::F32));
        let s = g.add1("sum", add.clone(), &[g1, a]).unwrap();
        let y = g.add1("y", add, &[x, s]).unwrap();
        g.add_output(y);
        g.add_output(s);
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[2]) {
          %0 = gather([1.0,2.0]:f32, [1,-2]:i64) axis=0 : f32[2]  ; take
          %1 = map(%0, [1.0,2.0]:f32) expr=(add(x0, x1)) : f32[2]  ; sum
          %2 = map(x, %1) expr=(add(x0, x1)) : f32[2]  ; y
          return %2, %1
        }
        ");
        assert_eq!(run(&mut g), Ok(2));
        insta::assert_snapshot!(g, @r"
        graph t(x: f32[2]) {
          %0 = map(x, [3.0,3.0]:f32) expr=(add(x0, x1)) : f32[2]  ; y
          return %0, [3.0,3.0]:f32
        }
        ");
        assert_eq!(g.value(g.outputs()[1]).name, "sum");
        assert_eq!(run(&mut g), Ok(0));
    }

    #[test]
    fn host_integers_fold_once_they_are_numbers() {
        let mut g = Graph::new("t");
        let n = symbol(&mut g, "N");
        let known = HostInts {
            dtype: DType::I32,
            dims: vec![2],
            elements: ints(&[3, -4]),
        };
        let unknown = HostInts {
            dtype: DType::I64,
            dims: vec![1],
            elements: vec![n],
        };
        for (name, op) in [("known", known), ("unknown", unknown)] {
            let v = g.add1(name, op, &[]).unwrap();
            g.add_output(v);
        }
        assert_eq!(run(&mut g), Ok(1));
        insta::assert_snapshot!(g, @r"
        graph t() {
          %0 = host_ints() elements=[N] : i64[1]  ; unknown
          return [3,-4]:i32, %0
        }
        ");
    }

    #[test]
    fn symbols_large_results_and_growing_broadcasts_stay() {
        let mut g = Graph::new("t");
        let n = symbol(&mut g, "N");
        let a = f32s(&mut g, "a", &[300, 1], &[1.5; 300]);
        let b = f32s(&mut g, "b", &[1, 300], &[0.5; 300]);
        let big = g.add1("big", MatMul::default(), &[a, b]).unwrap();
        let grow = g
            .add1(
                "grow",
                Expand {
                    dims: ints(&[300, 2]),
                },
                &[a],
            )
            .unwrap();
        let cut = Slice {
            starts: vec![n, 0.into()],
            steps: vec![1, 1],
            dims: ints(&[2, 1]),
        };
        let cut = g.add1("cut", cut, &[a]).unwrap();
        for v in [big, grow, cut] {
            g.add_output(v);
        }
        assert_eq!(run(&mut g), Ok(0));
    }
}
