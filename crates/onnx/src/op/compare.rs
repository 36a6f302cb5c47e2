//! Comparisons of two broadcast operands. ONNX: Equal, Greater, GreaterOrEqual, Less, LessOrEqual.
//!
//! Versions since 7 differ in element types only; opset 6 places the second operand as arithmetic does there.
//! Comparisons of shapes are decided at import where the symbols' ranges
//! allow it.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use crate::known::Elem;
use bespoke_ir::op::Map;
use bespoke_ir::{BinaryOp, DType, Expr, SymInt, SymbolTable};

const TABLE: &[(&str, BinaryOp)] = &[
    ("Equal", BinaryOp::Eq),
    ("Greater", BinaryOp::Gt),
    ("GreaterOrEqual", BinaryOp::Ge),
    ("Less", BinaryOp::Lt),
    ("LessOrEqual", BinaryOp::Le),
];

/// Imports every operator of the table.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 2)?;
    let Some(&(_, op)) = TABLE.iter().find(|row| row.0 == cx.op_type()) else {
        return invalid("it is no comparison");
    };
    let (a, b) = (cx.dtype(0)?, cx.dtype(1)?);
    if a != b {
        return invalid(format!(
            "its operands have different element types, {a} and {b}"
        ));
    }
    if a == DType::Bool && op != BinaryOp::Eq {
        return invalid("booleans have no order");
    }
    if cx.opset >= 7
        && let (Some(x), Some(y)) = (cx.known(0), cx.known(1))
    {
        let decided = x.zip(&y, DType::Bool, |x, y| decide(op, x, y, cx.symbols()));
        if let Some(known) = decided {
            cx.set_known(0, known);
            return Ok(());
        }
    }
    let (x, y) = (cx.value(0)?, super::binary::second_operand(cx)?);
    let result = cx.emit("", Map::new(Expr::binary(op, a)), &[x, y])?;
    cx.set(0, result);
    Ok(())
}

fn decide(op: BinaryOp, a: &Elem, b: &Elem, symbols: &SymbolTable) -> Option<Elem> {
    let result = match (a, b) {
        (Elem::Int(a), Elem::Int(b)) => decide_ints(op, a, b, symbols)?,
        (Elem::Float(a), Elem::Float(b)) => match op {
            BinaryOp::Eq => a == b,
            BinaryOp::Gt => a > b,
            BinaryOp::Ge => a >= b,
            BinaryOp::Lt => a < b,
            _ => a <= b,
        },
        _ => return None,
    };
    Some(Elem::Int(i64::from(result).into()))
}

fn decide_ints(op: BinaryOp, a: &SymInt, b: &SymInt, symbols: &SymbolTable) -> Option<bool> {
    match op {
        BinaryOp::Eq => a.known_eq(b, symbols),
        BinaryOp::Gt => b.known_lt(a, symbols),
        BinaryOp::Ge => b.known_le(a, symbols),
        BinaryOp::Lt => a.known_lt(b, symbols),
        _ => a.known_le(b, symbols),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::testing::{Model, ints};

    #[test]
    fn an_extent_is_never_minus_one() {
        // The usual code around Expand: where(shape == -1, 1, shape).
        let model = Model::new(13)
            .input("x", DType::F32, &["N", "4"])
            .initializer(ints("minus", &[1], &[-1]))
            .initializer(ints("one", &[1], &[1]))
            .node("Shape", &["x"], &["s"], &[])
            .node("Equal", &["s", "minus"], &["e"], &[])
            .node("Where", &["e", "one", "s"], &["w"], &[]);
        assert!(model.graph("w").contains("elements=[N,4]"));
    }

    #[test]
    fn data_is_compared_on_the_device() {
        let model = Model::new(16)
            .input("x", DType::I64, &["N"])
            .input("y", DType::I64, &["1"]);
        let graph = model
            .node("LessOrEqual", &["x", "y"], &["z"], &[])
            .graph("z");
        assert!(
            graph.contains("map(x, y) expr=(le(x0, x1)) : bool[N]"),
            "{graph}"
        );
    }
}
