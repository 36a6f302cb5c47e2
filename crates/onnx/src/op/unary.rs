//! Elementwise functions of one operand that are one instruction of the expression language.
//!
//! ONNX: Abs, Acos, Acosh, Asin, Asinh, Atan, Atanh, BitwiseNot, Ceil, Cos, Cosh, Erf, Exp, Floor, IsInf, IsNaN, Log,
//! Neg, Not, Reciprocal, Round, Sigmoid, Sign, Sin, Sinh, Sqrt, Tan, Tanh. The versions differ in element types only;
//! opset 1 and 6 versions of some have an attribute `consumed_inputs` that never meant anything.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use crate::known::{Elem, Rounding, round, round_to};
use bespoke_ir::op::Map;
use bespoke_ir::{BinaryOp, DType, Expr, SymInt, UnaryOp};

/// What an operator's operand may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Float,
    Number,
    Bool,
    Int,
}

const TABLE: &[(&str, UnaryOp, Takes)] = &[
    ("Abs", UnaryOp::Abs, Takes::Number),
    ("Acos", UnaryOp::Acos, Takes::Float),
    ("Acosh", UnaryOp::Acosh, Takes::Float),
    ("Asin", UnaryOp::Asin, Takes::Float),
    ("Asinh", UnaryOp::Asinh, Takes::Float),
    ("Atan", UnaryOp::Atan, Takes::Float),
    ("Atanh", UnaryOp::Atanh, Takes::Float),
    ("BitwiseNot", UnaryOp::Not, Takes::Int),
    ("Ceil", UnaryOp::Ceil, Takes::Float),
    ("Cos", UnaryOp::Cos, Takes::Float),
    ("Cosh", UnaryOp::Cosh, Takes::Float),
    ("Erf", UnaryOp::Erf, Takes::Number),
    ("Exp", UnaryOp::Exp, Takes::Float),
    ("Floor", UnaryOp::Floor, Takes::Float),
    ("IsNaN", UnaryOp::IsNan, Takes::Float),
    ("Log", UnaryOp::Log, Takes::Float),
    ("Neg", UnaryOp::Neg, Takes::Number),
    ("Not", UnaryOp::Not, Takes::Bool),
    ("Reciprocal", UnaryOp::Recip, Takes::Float),
    ("Round", UnaryOp::Round, Takes::Float),
    ("Sigmoid", UnaryOp::Sigmoid, Takes::Float),
    ("Sign", UnaryOp::Sign, Takes::Number),
    ("Sin", UnaryOp::Sin, Takes::Float),
    ("Sinh", UnaryOp::Sinh, Takes::Float),
    ("Sqrt", UnaryOp::Sqrt, Takes::Float),
    ("Tan", UnaryOp::Tan, Takes::Float),
    ("Tanh", UnaryOp::Tanh, Takes::Float),
];

/// Imports every operator of the table.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 1)?;
    cx.attrs.ignore(&["consumed_inputs"]);
    let Some(&(name, op, takes)) = TABLE.iter().find(|row| row.0 == cx.op_type()) else {
        return invalid("it is no elementwise operator of one operand");
    };
    let dtype = cx.dtype(0)?;
    let fits = match takes {
        Takes::Float => dtype.is_float(),
        Takes::Number => dtype.is_float() || dtype.is_int(),
        Takes::Bool => dtype == DType::Bool,
        Takes::Int => dtype.is_int(),
    };
    if !fits {
        return invalid(format!("it does not take operands of type {dtype}"));
    }
    if let Some(known) = cx.known(0)
        && let Some(result) = known.map(dtype, |elem| fold(name, elem, dtype, cx))
    {
        cx.set_known(0, result);
        return Ok(());
    }
    let x = cx.value(0)?;
    let y = if op == UnaryOp::Erf && !dtype.is_float() {
        // Integers are allowed by the standard: the value is converted and the result truncated.
        cx.map("", &[x], |b, r| {
            let wide = b.cast(DType::F32, r[0]);
            let erf = b.unary(UnaryOp::Erf, wide);
            b.cast(dtype, erf)
        })?
    } else {
        cx.emit("", Map::new(Expr::unary(op, dtype)), &[x])?
    };
    cx.set(0, y);
    Ok(())
}

/// What shape code computes with these operators.
fn fold(name: &str, elem: &Elem, dtype: DType, cx: &Cx<'_>) -> Option<Elem> {
    match (name, elem) {
        ("Floor", _) => round(Rounding::Floor, elem),
        ("Ceil", _) => round(Rounding::Ceil, elem),
        ("Round", _) => round(Rounding::Nearest, elem),
        ("Neg", Elem::Int(value)) if dtype.is_signed_int() => {
            let value = SymInt::neg(value);
            value.error().is_none().then_some(Elem::Int(value))
        }
        ("Neg", Elem::Float(value)) => Some(Elem::Float(-value)),
        ("Neg", Elem::Ratio(num, den)) => Some(Elem::Ratio(SymInt::neg(num), *den)),
        ("Abs", Elem::Int(value)) if value.range(cx.symbols()).0 >= 0 => Some(elem.clone()),
        ("Abs", Elem::Int(value)) => Some(Elem::Int(value.as_const()?.checked_abs()?.into())),
        ("Abs", Elem::Float(value)) => Some(Elem::Float(value.abs())),
        ("Not", Elem::Int(value)) if dtype == DType::Bool => {
            Some(Elem::Int((1 - value.as_const()?).into()))
        }
        ("Sqrt", Elem::Float(value)) => Some(Elem::Float(round_to(dtype, value.sqrt()))),
        ("Reciprocal", Elem::Float(value)) => Some(Elem::Float(round_to(dtype, 1.0 / value))),
        _ => None,
    }
}

/// IsInf: attributes `detect_positive` and `detect_negative`, both 1 by default.
pub(super) fn is_inf(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 1)?;
    let positive = cx.attrs.flag("detect_positive", true)?;
    let negative = cx.attrs.flag("detect_negative", true)?;
    if !cx.dtype(0)?.is_float() {
        return invalid(format!(
            "it does not take operands of type {}",
            cx.dtype(0)?
        ));
    }
    let x = cx.value(0)?;
    let y = cx.map("", &[x], |b, r| {
        let above = b.unary(UnaryOp::IsPosInf, r[0]);
        let below = b.unary(UnaryOp::IsNegInf, r[0]);
        match (positive, negative) {
            (true, true) => b.binary(BinaryOp::Or, above, below),
            (true, false) => above,
            (false, true) => below,
            (false, false) => {
                let nan = b.unary(UnaryOp::IsNan, r[0]);
                let not = b.unary(UnaryOp::Not, nan);
                b.binary(BinaryOp::And, nan, not)
            }
        }
    })?;
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::testing::{Model, attr};
    use crate::op::{OPERATORS, find};

    #[test]
    fn the_table_and_the_registry_agree() {
        for (name, ..) in TABLE {
            assert!(OPERATORS.iter().any(|row| row.1 == *name), "{name}");
            assert!(find("", name, 28).is_ok());
        }
    }

    #[test]
    fn one_instruction_each() {
        let model = Model::new(13).input("x", DType::F16, &["N", "3"]);
        let graph = model
            .node("Tanh", &["x"], &["t"], &[])
            .node("IsNaN", &["t"], &["y"], &[])
            .graph("y");
        insta::assert_snapshot!(graph, @r"
        graph g(x: f16[N,3]) {
          %0 = map(x) expr=(tanh(x0)) : f16[N,3]  ; Tanh_t
          %1 = map(%0) expr=(is_nan(x0)) : bool[N,3]  ; IsNaN_y
          return %1
        }
        ");
    }

    #[test]
    fn is_inf_can_look_one_way() {
        let model = Model::new(20).input("x", DType::F32, &["2"]);
        let graph = model
            .node("IsInf", &["x"], &["y"], &[attr("detect_negative", 0i64)])
            .graph("y");
        assert!(graph.contains("expr=(is_pos_inf(x0)) : bool[2]"), "{graph}");
    }

    #[test]
    fn wrong_types_are_refused() {
        let model = Model::new(13).input("x", DType::I64, &["2"]);
        let error = model.node("Sqrt", &["x"], &["y"], &[]).error("y");
        assert_eq!(
            error,
            "node 'Sqrt_y' (Sqrt): it does not take operands of type i64"
        );
    }
}
