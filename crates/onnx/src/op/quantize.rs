//! Quantisation. ONNX: QuantizeLinear, DequantizeLinear (10, 13, 19, 21, 23, …), DynamicQuantizeLinear (11).
//!
//! One scale and zero point for the tensor, for each element of `axis` (opset 13), or for each block of `block_size`
//! elements along `axis` (opset 21). The quantised type is the zero point's, or `output_dtype` (opset 21). Arithmetic is
//! `f32`, whatever `precision` (opset 23) allows to be less. Types below eight bits and 8-bit floats are refused by
//! name.

use crate::context::Cx;
use crate::importer::{Done, invalid, unsupported};
use crate::tensor::element_type;
use bespoke_ir::op::reduce::ReduceKind;
use bespoke_ir::op::{Expand, Gather, Map, Reduce};
use bespoke_ir::{BinaryOp, DType, ExprBuilder, SymInt, UnaryOp, ValueId};

/// The numbers of an integer type that quantisation uses.
fn limits(dtype: DType) -> Option<(f64, f64)> {
    match dtype {
        DType::U8 => Some((0.0, 255.0)),
        DType::I8 => Some((-128.0, 127.0)),
        DType::U16 => Some((0.0, 65535.0)),
        DType::I16 => Some((-32768.0, 32767.0)),
        _ => None,
    }
}

/// Brings a scale or zero point to a form that broadcasts against the data.
fn parameter(cx: &mut Cx<'_>, i: usize, name: &str) -> Done<ValueId> {
    let dims = cx.dims(0)?;
    let own = cx.dims(i)?;
    let value = cx.value(i)?;
    if own.is_empty() {
        return Ok(value);
    }
    let axis = if cx.opset >= 13 {
        cx.attrs.int("axis")?.unwrap_or(1)
    } else {
        1
    };
    let block = if cx.opset >= 21 {
        cx.attrs.int("block_size")?.unwrap_or(0)
    } else {
        0
    };
    if block == 0 {
        if own.len() != 1 {
            return invalid(format!(
                "its {name} has rank {}, but must be a scalar or a list",
                own.len()
            ));
        }
        if own[0].as_const() == Some(1) {
            return cx.reshape(name, value, vec![]);
        }
        if cx.opset < 13 {
            return invalid(format!("its {name} must be a scalar before opset 13"));
        }
        let axis = cx.axis(axis, dims.len())?;
        cx.require_equal(
            &format!("its {name} and the extent of the axis"),
            &own[0],
            &dims[axis],
        )?;
        return cx.along_axis(name, value, axis, dims.len());
    }
    let axis = cx.axis(axis, dims.len())?;
    if own.len() != dims.len() || block < 1 {
        return invalid(format!(
            "its {name} has rank {} for blocks of {block} in a tensor of rank {}",
            own.len(),
            dims.len()
        ));
    }
    let size = SymInt::constant(block);
    for (other, (have, want)) in own.iter().zip(&dims).enumerate() {
        let want = if other == axis {
            want.ceil_div(&size)
        } else {
            want.clone()
        };
        cx.require_equal(&format!("its {name} and the blocks"), have, &want)?;
    }
    if dims[axis]
        .as_const()
        .is_some_and(|extent| extent % block == 0)
    {
        // Every element of the parameter stands for a whole block.
        let mut apart = own.clone();
        apart.insert(axis + 1, SymInt::constant(1));
        let mut wide = own;
        wide.insert(axis + 1, size);
        let value = cx.reshape(&format!("{name}_apart"), value, apart)?;
        let value = cx.emit(&format!("{name}_blocks"), Expand { dims: wide }, &[value])?;
        return cx.reshape(name, value, dims);
    }
    let mut b = ExprBuilder::new(&[]);
    let place = b.coord(0);
    let size = b.number(DType::I64, block as f64);
    let place = b.binary(BinaryOp::Div, place, size);
    let places = cx.emit(
        &format!("{name}_places"),
        Map::over(b.finish(place), vec![dims[axis].clone()]),
        &[],
    )?;
    cx.emit(name, Gather { axis }, &[value, places])
}

/// The attribute `output_dtype`, since `opset`; 0 means not given.
fn output_dtype(cx: &Cx<'_>, opset: i64) -> Done<Option<DType>> {
    if cx.opset < opset {
        return Ok(None);
    }
    match cx.attrs.int("output_dtype")?.unwrap_or(0) {
        0 => Ok(None),
        code => {
            let code =
                i32::try_from(code).map_err(|_| format!("attribute 'output_dtype' is {code}"))?;
            Ok(Some(element_type(code).map_err(|reason| {
                format!("attribute 'output_dtype': {reason}")
            })?))
        }
    }
}

/// Marks the attributes that the opset knows and that change nothing here.
fn ignore(cx: &Cx<'_>) {
    if cx.opset >= 13 {
        cx.attrs.ignore(&["axis"]);
    }
    if cx.opset >= 19 {
        cx.attrs.ignore(&["saturate"]);
    }
    if cx.opset >= 21 {
        cx.attrs.ignore(&["block_size"]);
    }
    if cx.opset >= 23 {
        cx.attrs.ignore(&["precision"]);
    }
}

/// QuantizeLinear: `saturate(round(x / scale) + zero_point)`, ties to even.
pub(super) fn quantize(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 3)?;
    ignore(cx);
    let wanted = output_dtype(cx, 21)?;
    let target = match (cx.has(2), wanted) {
        (true, Some(wanted)) if cx.dtype(2)? != wanted => {
            return invalid(format!(
                "'output_dtype' is {wanted}, but the zero point is {}",
                cx.dtype(2)?
            ));
        }
        (true, _) => cx.dtype(2)?,
        (false, wanted) => wanted.unwrap_or(DType::U8),
    };
    let Some((low, high)) = limits(target) else {
        return unsupported(format!("quantisation to {target} is not supported"));
    };
    let x = cx.value(0)?;
    let mut operands = vec![x, parameter(cx, 1, "scale")?];
    if cx.has(2) {
        operands.push(parameter(cx, 2, "zero_point")?);
    }
    let y = cx.map("", &operands, |b, r| {
        let (x, scale) = (b.cast(DType::F32, r[0]), b.cast(DType::F32, r[1]));
        let quotient = b.binary(BinaryOp::Div, x, scale);
        let mut value = b.unary(UnaryOp::Round, quotient);
        if let Some(&zero) = r.get(2) {
            let zero = b.cast(DType::F32, zero);
            value = b.binary(BinaryOp::Add, value, zero);
        }
        let (low, high) = (b.number(DType::F32, low), b.number(DType::F32, high));
        let value = b.binary(BinaryOp::Max, value, low);
        let value = b.binary(BinaryOp::Min, value, high);
        b.cast(target, value)
    })?;
    cx.set(0, y);
    Ok(())
}

/// DequantizeLinear: `(x − zero_point) · scale`.
pub(super) fn dequantize(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 3)?;
    ignore(cx);
    let source = cx.dtype(0)?;
    let target = match output_dtype(cx, 23)? {
        Some(target) => target,
        None => cx.dtype(1)?,
    };
    if !target.is_float() || !target.is_computable() {
        return unsupported(format!("dequantisation to {target} is not supported"));
    }
    if cx.has(2) && cx.dtype(2)? != source {
        return invalid(format!(
            "its zero point has element type {}, its data {source}",
            cx.dtype(2)?
        ));
    }
    let x = cx.value(0)?;
    let mut operands = vec![x, parameter(cx, 1, "scale")?];
    if cx.has(2) {
        operands.push(parameter(cx, 2, "zero_point")?);
    }
    let y = cx.map("", &operands, |b, r| {
        let mut value = b.cast(DType::I32, r[0]);
        if let Some(&zero) = r.get(2) {
            let zero = b.cast(DType::I32, zero);
            value = b.binary(BinaryOp::Sub, value, zero);
        }
        let (value, scale) = (b.cast(DType::F32, value), b.cast(DType::F32, r[1]));
        let product = b.binary(BinaryOp::Mul, value, scale);
        b.cast(target, product)
    })?;
    cx.set(0, y);
    Ok(())
}

/// DynamicQuantizeLinear: to `u8` with the scale that just covers the data and 0. All-zero data gets scale 1.
pub(super) fn dynamic(cx: &mut Cx<'_>) -> Done {
    cx.inputs(1, 1)?;
    if cx.dtype(0)? != DType::F32 {
        return invalid(format!(
            "it does not take operands of type {}",
            cx.dtype(0)?
        ));
    }
    let x = cx.value(0)?;
    let axes: Vec<usize> = (0..cx.rank(0)?).collect();
    let over = |kind| Reduce {
        kind,
        axes: axes.clone(),
        keep_dims: false,
    };
    let low = cx.emit("min", over(ReduceKind::Min), &[x])?;
    let high = cx.emit("max", over(ReduceKind::Max), &[x])?;
    let scale = cx.map("scale", &[low, high], |b, r| {
        let zero = b.number(DType::F32, 0.0);
        let low = b.binary(BinaryOp::Min, r[0], zero);
        let high = b.binary(BinaryOp::Max, r[1], zero);
        let span = b.binary(BinaryOp::Sub, high, low);
        let steps = b.number(DType::F32, 255.0);
        let scale = b.binary(BinaryOp::Div, span, steps);
        let one = b.number(DType::F32, 1.0);
        let flat = b.binary(BinaryOp::Eq, span, zero);
        b.select(flat, one, scale)
    })?;
    let zero_point = cx.map("zero_point", &[low, scale], |b, r| {
        let zero = b.number(DType::F32, 0.0);
        let low = b.binary(BinaryOp::Min, r[0], zero);
        let start = b.binary(BinaryOp::Sub, zero, low);
        let start = b.binary(BinaryOp::Div, start, r[1]);
        let top = b.number(DType::F32, 255.0);
        let start = b.binary(BinaryOp::Min, start, top);
        let start = b.binary(BinaryOp::Max, start, zero);
        let start = b.unary(UnaryOp::Round, start);
        b.cast(DType::U8, start)
    })?;
    let y = cx.map("", &[x, scale, zero_point], |b, r| {
        let quotient = b.binary(BinaryOp::Div, r[0], r[1]);
        let value = b.unary(UnaryOp::Round, quotient);
        let zero = b.cast(DType::F32, r[2]);
        let value = b.binary(BinaryOp::Add, value, zero);
        let (low, high) = (b.number(DType::F32, 0.0), b.number(DType::F32, 255.0));
        let value = b.binary(BinaryOp::Max, value, low);
        let value = b.binary(BinaryOp::Min, value, high);
        b.cast(DType::U8, value)
    })?;
    cx.set(0, y);
    cx.set(1, scale);
    cx.set(2, zero_point);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use bespoke_ir::DType;

    fn model(opset: i64, scale: &[&str]) -> Model {
        Model::new(opset)
            .input("x", DType::F32, &["N", "6"])
            .input("q", DType::I8, &["N", "6"])
            .input("s", DType::F32, scale)
            .input("z", DType::I8, scale)
    }

    #[test]
    fn one_scale_one_an_axis_one_a_block() {
        let graph = model(13, &[])
            .node("QuantizeLinear", &["x", "s", "z"], &["y"], &[])
            .graph("y");
        insta::assert_snapshot!(graph, @r"
        graph g(x: f32[N,6], q: i8[N,6], s: f32[], z: i8[]) {
          %0 = map(x, s, z) expr=(i8(min(max(add(round(div(x0, x1)), f32(x2)), -128.0:f32), 127.0:f32))) : i8[N,6]  ; QuantizeLinear_y
          return %0
        }
        ");
        let graph = model(13, &["6"])
            .node("DequantizeLinear", &["q", "s", "z"], &["y"], &[])
            .graph("y");
        assert!(
            graph.contains("map(q, s, z) expr=(mul(f32(sub(i32(x0), i32(x2))), x1)) : f32[N,6]"),
            "{graph}"
        );
        let graph = model(13, &["N"])
            .node(
                "DequantizeLinear",
                &["q", "s"],
                &["y"],
                &[attr("axis", 0i64)],
            )
            .graph("y");
        assert!(graph.contains("reshape(s) dims=[N,1]"), "{graph}");
        let blocks = |size: i64| [attr("block_size", size), attr("axis", -1i64)];
        let even = model(21, &["N", "3"])
            .node("DequantizeLinear", &["q", "s"], &["y"], &blocks(2))
            .graph("y");
        assert!(
            even.contains("expand(") && even.contains("f32[N,3,2]"),
            "{even}"
        );
        let odd = model(21, &["N", "2"])
            .node("DequantizeLinear", &["q", "s"], &["y"], &blocks(4))
            .graph("y");
        assert!(odd.contains("gather(s, "), "{odd}");
        let wrong =
            model(21, &["N", "2"]).node("DequantizeLinear", &["q", "s"], &["y"], &blocks(2));
        assert!(wrong.error("y").contains("the blocks differ: 2 and 3"));
    }

    #[test]
    fn types() {
        let default = model(10, &[]).node("QuantizeLinear", &["x", "s"], &["y"], &[]);
        assert_eq!(default.output_type("y"), "u8[N,6]");
        let wide = model(21, &[]).node(
            "QuantizeLinear",
            &["x", "s"],
            &["y"],
            &[attr("output_dtype", 5i64)],
        );
        assert_eq!(wide.output_type("y"), "i16[N,6]");
        let narrow = model(21, &[]).node(
            "QuantizeLinear",
            &["x", "s"],
            &["y"],
            &[attr("output_dtype", 22i64)],
        );
        assert!(
            narrow
                .error("y")
                .contains("quantisation to i4 is not supported")
        );
        let dynamic = model(11, &[]).node("DynamicQuantizeLinear", &["x"], &["y", "a", "b"], &[]);
        assert_eq!(dynamic.output_type("y a b"), "u8[N,6] f32[] u8[]");
    }
}
