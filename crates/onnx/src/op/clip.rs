//! Limits on each element. ONNX: Clip.
//!
//! Opset 6 has the limits as attributes, 11 as optional inputs; 12 adds integers. The upper limit wins where the lower
//! one is above it.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::{BinaryOp, Scalar};

/// Imports Clip. Constant limits become literals of the expression.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.attrs.ignore(&["consumed_inputs"]);
    let dtype = cx.dtype(0)?;
    if !(dtype.is_float() || dtype.is_int()) {
        return invalid(format!("it does not take operands of type {dtype}"));
    }
    let mut limits: [Option<Limit>; 2] = [None, None];
    if cx.opset < 11 {
        cx.inputs(1, 1)?;
        limits = [cx.attrs.float("min")?, cx.attrs.float("max")?]
            .map(|limit| limit.map(|value| Limit::Literal(Scalar::new(dtype, value.into()))));
    } else {
        cx.inputs(1, 3)?;
        for (i, limit) in limits.iter_mut().enumerate() {
            *limit = bound(cx, i + 1)?;
        }
    }
    if limits.iter().all(Option::is_none) {
        return cx.forward(0, 0);
    }
    let mut values = vec![cx.value(0)?];
    for limit in &limits {
        if let Some(Limit::Input(i)) = limit {
            values.push(cx.value(*i)?);
        }
    }
    let y = cx.map("", &values, |b, r| {
        let mut operands = r[1..].iter();
        let mut result = r[0];
        for (limit, op) in limits.iter().zip([BinaryOp::Max, BinaryOp::Min]) {
            let bound = match limit {
                None => continue,
                Some(Limit::Literal(scalar)) => b.constant(*scalar),
                Some(Limit::Input(_)) => match operands.next() {
                    Some(&register) => register,
                    None => continue,
                },
            };
            result = b.binary(op, result, bound);
        }
        result
    })?;
    cx.set(0, y);
    Ok(())
}

enum Limit {
    Literal(Scalar),
    Input(usize),
}

fn bound(cx: &Cx<'_>, i: usize) -> Done<Option<Limit>> {
    if !cx.has(i) {
        return Ok(None);
    }
    let (dtype, ty) = (cx.dtype(0)?, cx.ty(i)?);
    if ty.dtype != dtype {
        return invalid(format!(
            "its limits have element type {}, its data {dtype}",
            ty.dtype
        ));
    }
    if ty.elements().as_const() != Some(1) {
        return invalid(format!("its input {i} must be a scalar"));
    }
    let literal = cx.known(i).and_then(|known| match known.elems.first()? {
        crate::known::Elem::Int(value) => Some(Scalar::int(dtype, value.as_const()?)),
        crate::known::Elem::Float(value) => Some(Scalar::float(dtype, *value)),
        crate::known::Elem::Ratio(..) => None,
    });
    Ok(Some(literal.map_or(Limit::Input(i), Limit::Literal)))
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr, floats};
    use bespoke_ir::DType;

    #[test]
    fn limits_may_be_attributes_constants_or_computed() {
        let model = Model::new(9).input("x", DType::F32, &["N"]);
        let graph = model
            .node(
                "Clip",
                &["x"],
                &["y"],
                &[attr("min", 0f32), attr("max", 6f32)],
            )
            .graph("y");
        assert!(
            graph.contains("expr=(min(max(x0, 0.0:f32), 6.0:f32))"),
            "{graph}"
        );

        let model = Model::new(13)
            .input("x", DType::F32, &["N"])
            .input("high", DType::F32, &[])
            .initializer(floats("low", &[], &[-1.0]));
        let graph = model
            .clone()
            .node("Clip", &["x", "low", "high"], &["y"], &[])
            .graph("y");
        assert!(
            graph.contains("map(x, high) expr=(min(max(x0, -1.0:f32), x1))"),
            "{graph}"
        );
        let graph = model
            .clone()
            .node("Clip", &["x", "", "high"], &["y"], &[])
            .graph("y");
        assert!(graph.contains("map(x, high) expr=(min(x0, x1))"), "{graph}");
        let graph = model
            .node("Clip", &["x"], &["t"], &[])
            .node("Neg", &["t"], &["y"], &[])
            .graph("y");
        assert!(graph.contains("map(x) expr=(neg(x0))"), "{graph}");
    }

    #[test]
    fn limits_are_scalars_of_the_same_type() {
        let model = Model::new(13)
            .input("x", DType::F32, &["N"])
            .input("l", DType::F32, &["2"])
            .input("i", DType::I32, &[]);
        assert!(
            model
                .clone()
                .node("Clip", &["x", "l"], &["y"], &[])
                .error("y")
                .contains("must be a scalar")
        );
        assert!(
            model
                .node("Clip", &["x", "i"], &["y"], &[])
                .error("y")
                .contains("limits have element type i32")
        );
    }
}
