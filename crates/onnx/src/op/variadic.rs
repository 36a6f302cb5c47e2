//! Elementwise functions of any number of broadcast operands. ONNX: Max, Mean, Min, Sum.
//!
//! Broadcasting since opset 8; before, all operands must have the same extents, which is a special case. Max and Min
//! take integers since opset 12.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use crate::known::{Arith, Known, arith};
use bespoke_ir::BinaryOp;

const TABLE: &[(&str, BinaryOp, Arith)] = &[
    ("Max", BinaryOp::Max, Arith::Max),
    ("Mean", BinaryOp::Add, Arith::Add),
    ("Min", BinaryOp::Min, Arith::Min),
    ("Sum", BinaryOp::Add, Arith::Add),
];

/// Imports every operator of the table.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    let count = cx.inputs(1, usize::MAX)?;
    cx.attrs.ignore(&["consumed_inputs"]);
    let Some(&(name, op, folding)) = TABLE.iter().find(|row| row.0 == cx.op_type()) else {
        return invalid("it is no elementwise operator of many operands");
    };
    let dtype = cx.dtype(0)?;
    for i in 1..count {
        if cx.dtype(i)? != dtype {
            return invalid(format!(
                "its operands have different element types, {dtype} and {}",
                cx.dtype(i)?
            ));
        }
    }
    if name != "Mean"
        && let Some(known) = fold(cx, folding, count)
    {
        cx.set_known(0, known);
        return Ok(());
    }
    // One expression of all operands, folded from the left as the standard's reference does.
    let values = (0..count).map(|i| cx.value(i)).collect::<Done<Vec<_>>>()?;
    if count == 1 {
        return cx.forward(0, 0);
    }
    let y = cx.map("", &values, |b, r| {
        let mut sum = r[0];
        for &next in &r[1..] {
            sum = b.binary(op, sum, next);
        }
        if name == "Mean" {
            let n = b.number(dtype, count as f64);
            sum = b.binary(BinaryOp::Div, sum, n);
        }
        sum
    })?;
    cx.set(0, y);
    Ok(())
}

fn fold(cx: &Cx<'_>, op: Arith, count: usize) -> Option<Known> {
    let mut result = (*cx.known(0)?).clone();
    for i in 1..count {
        let next = cx.known(i)?;
        let dtype = result.dtype;
        result = result.zip(&next, dtype, |a, b| arith(op, dtype, a, b, cx.symbols()))?;
    }
    Some(result)
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, ints};
    use bespoke_ir::DType;

    #[test]
    fn all_operands_are_one_expression() {
        let model = Model::new(13)
            .input("x", DType::F32, &["N"])
            .input("y", DType::F32, &["1"]);
        let graph = model
            .clone()
            .node("Mean", &["x", "y", "x"], &["z"], &[])
            .graph("z");
        assert!(
            graph.contains("expr=(div(add(add(x0, x1), x2), 3.0:f32)) : f32[N]"),
            "{graph}"
        );
        let graph = model.node("Max", &["x", "y"], &["z"], &[]).graph("z");
        assert!(graph.contains("expr=(max(x0, x1))"), "{graph}");
    }

    #[test]
    fn extents_fold() {
        let model = Model::new(13)
            .input("x", DType::F32, &["N"])
            .initializer(ints("limit", &[], &[8]))
            .node("Size", &["x"], &["n"], &[])
            .node("Min", &["n", "limit"], &["m"], &[]);
        assert!(model.graph("m").contains("elements=[min(8, N)]"));
    }
}
