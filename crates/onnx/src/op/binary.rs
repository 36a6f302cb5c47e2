//! Elementwise functions of two broadcast operands.
//!
//! ONNX: Add, And, BitShift, BitwiseAnd, BitwiseOr, BitwiseXor, Div, Mod, Mul, Or, Pow, Sub, Xor. Broadcasting is
//! multidirectional since opset 7; before, the second operand is placed along the first by `broadcast` and `axis`. The
//! versions since differ in element types only, but for Pow, whose exponent may be of another type since opset 12, and
//! Mod, which takes floats without `fmod` since opset 28.

use crate::context::Cx;
use crate::importer::{Done, invalid, unsupported};
use crate::known::{Arith, Elem, arith, round_to};
use bespoke_ir::op::Map;
use bespoke_ir::{BinaryOp, DType, Expr, SymInt, ValueId};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Number,
    Bool,
    Int,
}

const TABLE: &[(&str, BinaryOp, Option<Arith>, Takes)] = &[
    ("Add", BinaryOp::Add, Some(Arith::Add), Takes::Number),
    ("And", BinaryOp::And, Some(Arith::Min), Takes::Bool),
    ("BitwiseAnd", BinaryOp::And, None, Takes::Int),
    ("BitwiseOr", BinaryOp::Or, None, Takes::Int),
    ("BitwiseXor", BinaryOp::Xor, None, Takes::Int),
    ("Div", BinaryOp::Div, Some(Arith::Div), Takes::Number),
    ("Mul", BinaryOp::Mul, Some(Arith::Mul), Takes::Number),
    ("Or", BinaryOp::Or, Some(Arith::Max), Takes::Bool),
    ("Sub", BinaryOp::Sub, Some(Arith::Sub), Takes::Number),
    ("Xor", BinaryOp::Xor, None, Takes::Bool),
];

/// The common element type of inputs 0 and 1.
fn common(cx: &Cx<'_>) -> Done<DType> {
    let (a, b) = (cx.dtype(0)?, cx.dtype(1)?);
    if a != b {
        return invalid(format!(
            "its operands have different element types, {a} and {b}"
        ));
    }
    Ok(a)
}

/// Computes on known operands; true if that gave the result.
fn fold(cx: &mut Cx<'_>, op: Arith, dtype: DType) -> bool {
    if cx.opset < 7 {
        return false;
    }
    let (Some(a), Some(b)) = (cx.known(0), cx.known(1)) else {
        return false;
    };
    let result = a.zip(&b, dtype, |x, y| arith(op, dtype, x, y, cx.symbols()));
    match result {
        Some(known) => {
            cx.set_known(0, known);
            true
        }
        None => false,
    }
}

/// Imports every operator of the table.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 2)?;
    let Some(&(_, op, folding, takes)) = TABLE.iter().find(|row| row.0 == cx.op_type()) else {
        return invalid("it is no elementwise operator of two operands");
    };
    let dtype = common(cx)?;
    let fits = match takes {
        Takes::Number => dtype.is_float() || dtype.is_int(),
        Takes::Bool => dtype == DType::Bool,
        Takes::Int => dtype.is_int(),
    };
    if !fits {
        return invalid(format!("it does not take operands of type {dtype}"));
    }
    if let Some(op) = folding
        && fold(cx, op, dtype)
    {
        return Ok(());
    }
    emit(cx, op, dtype)
}

/// The second operand, placed along the first as opset 6 asks for: its axes stand at `axis`, by default at the end.
pub(super) fn second_operand(cx: &mut Cx<'_>) -> Done<ValueId> {
    let value = cx.value(1)?;
    if cx.opset >= 7 {
        return Ok(value);
    }
    cx.attrs.ignore(&["consumed_inputs"]);
    let broadcast = cx.attrs.flag("broadcast", false)?;
    let (rank, mut dims) = (cx.rank(0)?, cx.dims(1)?);
    let Some(axis) = cx.attrs.int("axis")? else {
        return Ok(value);
    };
    let axis = cx.axis(axis, rank)?;
    let Some(trailing) = rank.checked_sub(axis + dims.len()) else {
        return invalid(format!(
            "its second operand of rank {} does not fit at axis {axis}",
            dims.len()
        ));
    };
    if broadcast {
        dims.extend(vec![SymInt::constant(1); trailing]);
    }
    cx.reshape("aligned", value, dims)
}

fn emit(cx: &mut Cx<'_>, op: BinaryOp, dtype: DType) -> Done {
    let (a, b) = (cx.value(0)?, second_operand(cx)?);
    let y = cx.emit("", Map::new(Expr::binary(op, dtype)), &[a, b])?;
    cx.set(0, y);
    Ok(())
}

/// Mod: `fmod = 0` takes the sign of the divisor, `fmod = 1` that of the dividend.
pub(super) fn modulo(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 2)?;
    let fmod = cx.attrs.flag("fmod", false)?;
    let dtype = common(cx)?;
    if dtype.is_float() && !fmod && cx.opset < 28 {
        return invalid("attribute 'fmod' must be 1 for floating point operands");
    }
    if !(dtype.is_float() || dtype.is_int()) {
        return invalid(format!("it does not take operands of type {dtype}"));
    }
    if !fmod && fold(cx, Arith::Mod, dtype) {
        return Ok(());
    }
    emit(cx, if fmod { BinaryOp::Rem } else { BinaryOp::Mod }, dtype)
}

/// BitShift: attribute `direction`, `LEFT` or `RIGHT`; unsigned operands.
pub(super) fn shift(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 2)?;
    let op = cx.attrs.choice(
        "direction",
        None,
        &[
            ("LEFT", Some(BinaryOp::Shl)),
            ("RIGHT", Some(BinaryOp::Shr)),
        ],
    )?;
    let Some(op) = op else {
        return invalid("attribute 'direction' is required");
    };
    let dtype = common(cx)?;
    if !dtype.is_int() {
        return invalid(format!("it does not take operands of type {dtype}"));
    }
    emit(cx, op, dtype)
}

/// Pow: the result has the type of the base; the power is computed in the wider type of both.
pub(super) fn pow(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 2)?;
    let (base, exponent) = (cx.dtype(0)?, cx.dtype(1)?);
    if !(base.is_float() || base.is_int()) || !(exponent.is_float() || exponent.is_int()) {
        return invalid(format!(
            "it does not take operands of types {base} and {exponent}"
        ));
    }
    if let (Some(a), Some(b)) = (cx.known(0), cx.known(1))
        && base.is_float()
        && cx.opset >= 7
        && let Some(result) = a.zip(&b, base, |x, y| match (x, y.number()?) {
            (Elem::Float(x), y) => Some(Elem::Float(round_to(base, x.powf(y)))),
            (Elem::Ratio(..), 1.0) => Some(x.clone()),
            _ => None,
        })
    {
        cx.set_known(0, result);
        return Ok(());
    }
    let compute = match (base.is_float(), exponent.is_float()) {
        _ if base == exponent => base,
        (true, true) if exponent.bits() > base.bits() => exponent,
        // f16 and bf16 are equally wide and neither holds the other.
        (true, true) if exponent.bits() == base.bits() => DType::F32,
        (true, _) => base,
        (false, true) if exponent.bits() >= 32 => exponent,
        (false, true) => DType::F32,
        (false, false) => base,
    };
    if !compute.is_computable() {
        return unsupported(format!("powers of {compute} are not supported"));
    }
    let (a, b) = (cx.value(0)?, second_operand(cx)?);
    let y = cx.map("", &[a, b], |e, r| {
        let (a, b) = (e.cast(compute, r[0]), e.cast(compute, r[1]));
        let power = e.binary(BinaryOp::Pow, a, b);
        e.cast(base, power)
    })?;
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::testing::{Model, attr, floats, ints};

    #[test]
    fn operands_broadcast_and_shapes_fold() {
        let model = Model::new(14)
            .input("x", DType::F32, &["N", "4"])
            .initializer(floats("w", &[4], &[1.0, 2.0, 3.0, 4.0]))
            .initializer(ints("two", &[], &[2]))
            .node("Mul", &["x", "w"], &["y"], &[])
            .node("Size", &["x"], &["s"], &[])
            .node("Div", &["s", "two"], &["h"], &[]);
        insta::assert_snapshot!(model.graph("y h"), @r"
        graph g(x: f32[N,4]) {
          %0 = map(x, [1.0,2.0,3.0,4.0]:f32) expr=(mul(x0, x1)) : f32[N,4]  ; Mul_y
          %1 = host_ints() elements=[2*N] : i64[]  ; h
          return %0, %1
        }
        ");
    }

    #[test]
    fn pow_and_mod_choose_their_arithmetic() {
        let model = Model::new(15)
            .input("x", DType::F16, &["3"])
            .input("i", DType::I32, &["3"])
            .initializer(floats("e", &[], &[3.0]))
            .node("Pow", &["x", "e"], &["p"], &[])
            .node("Pow", &["i", "e"], &["q"], &[])
            .node("Mod", &["i", "i"], &["m"], &[])
            .node("Mod", &["x", "x"], &["f"], &[attr("fmod", 1i64)]);
        insta::assert_snapshot!(model.graph("p q m f"), @r"
        graph g(x: f16[3], i: i32[3]) {
          %0 = map(x, 3.0:f32) expr=(f16(pow(f32(x0), x1))) : f16[3]  ; Pow_p
          %1 = map(i, 3.0:f32) expr=(i32(pow(f32(x0), x1))) : i32[3]  ; Pow_q
          %2 = map(i, i) expr=(mod(x0, x1)) : i32[3]  ; Mod_m
          %3 = map(x, x) expr=(rem(x0, x1)) : f16[3]  ; Mod_f
          return %0, %1, %2, %3
        }
        ");
        let model =
            Model::new(15)
                .input("x", DType::F16, &["3"])
                .node("Mod", &["x", "x"], &["y"], &[]);
        assert!(model.error("y").contains("'fmod' must be 1"));
    }

    #[test]
    fn opset_6_places_the_second_operand_at_an_axis() {
        let model = Model::new(6)
            .input("x", DType::F32, &["N", "3", "H"])
            .input("b", DType::F32, &["3"]);
        let at = [attr("broadcast", 1i64), attr("axis", 1i64)];
        let graph = model
            .clone()
            .node("Add", &["x", "b"], &["y"], &at)
            .graph("y");
        assert!(
            graph.contains("reshape(b) dims=[3,1]") && graph.contains(": f32[N,3,H]"),
            "{graph}"
        );
        let far = [attr("broadcast", 1i64), attr("axis", 3i64)];
        assert!(
            model
                .node("Add", &["x", "b"], &["y"], &far)
                .error("y")
                .contains("axis 3 is outside")
        );
    }

    #[test]
    fn types_are_checked() {
        let model = Model::new(14)
            .input("x", DType::F32, &["3"])
            .input("i", DType::I32, &["3"]);
        let error = model
            .clone()
            .node("Add", &["x", "i"], &["y"], &[])
            .error("y");
        assert_eq!(
            error,
            "node 'Add_y' (Add): its operands have different element types, f32 and i32"
        );
        assert!(
            model
                .clone()
                .node("And", &["x", "x"], &["y"], &[])
                .error("y")
                .contains("does not take operands")
        );
        let error = model.node("Add", &["x"], &["y"], &[]).error("y");
        assert_eq!(error, "node 'Add_y' (Add): it has 1 inputs, but takes 2");
    }
}
