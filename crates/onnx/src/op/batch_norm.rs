//! Normalisation by stored statistics. ONNX: BatchNormalization (7, 9, 14, 15).
//!
//! `y = (x − mean) · scale / √(var + ε) + bias`, per channel (axis 1). The factor and the shift depend on constants
//! alone, so they are nodes of their own that folding turns into constants. Statistics may have another type than the
//! data since opset 15; the arithmetic is `f32` at least. Training mode is not supported; between opsets 7 and 13 it
//! shows in extra outputs. `spatial = 0` (opset 7) has statistics for each element.

use crate::context::Cx;
use crate::importer::{Done, invalid, unsupported};
use bespoke_ir::{BinaryOp, DType, UnaryOp};

/// BatchNormalization.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(5, 5)?;
    cx.attrs.ignore(&["momentum", "consumed_inputs"]);
    let epsilon = f64::from(cx.attrs.float("epsilon")?.unwrap_or(1e-5));
    let spatial = cx.opset >= 9 || cx.attrs.flag("spatial", true)?;
    let training = match cx.opset {
        ..7 => !cx.attrs.flag("is_test", false)?,
        14.. => cx.attrs.flag("training_mode", false)?,
        _ => false,
    };
    if training {
        return unsupported("training mode is not supported; export the model for inference");
    }
    if (1..cx.output_count()).any(|i| cx.wants(i)) {
        return unsupported(
            "its statistics are wanted as outputs, which is training; export the model for inference",
        );
    }
    let (ty, rank) = (cx.dtype(0)?, cx.rank(0)?);
    if !ty.is_float() || rank < 2 {
        return invalid(format!("it does not take a tensor of {ty} of rank {rank}"));
    }
    let channels = cx.dims(0)?[1].clone();
    let compute = if ty == DType::F64 {
        DType::F64
    } else {
        DType::F32
    };
    let mut statistics = Vec::with_capacity(4);
    for (i, name) in [(1, "scale"), (2, "bias"), (3, "mean"), (4, "var")] {
        let dims = cx.dims(i)?;
        if spatial {
            if dims.len() != 1 {
                return invalid(format!(
                    "its input {i} ({name}) has rank {}, not 1",
                    dims.len()
                ));
            }
            cx.require_equal(&format!("{name} and the channels"), &dims[0], &channels)?;
        }
        statistics.push(cx.value(i)?);
    }
    let factor = cx.map("factor", &[statistics[0], statistics[3]], |b, r| {
        let (scale, var) = (b.cast(compute, r[0]), b.cast(compute, r[1]));
        let epsilon = b.number(compute, epsilon);
        let var = b.binary(BinaryOp::Add, var, epsilon);
        let root = b.unary(UnaryOp::Sqrt, var);
        b.binary(BinaryOp::Div, scale, root)
    })?;
    let shift = cx.map("shift", &[statistics[1], statistics[2], factor], |b, r| {
        let (bias, mean) = (b.cast(compute, r[0]), b.cast(compute, r[1]));
        let moved = b.binary(BinaryOp::Mul, mean, r[2]);
        b.binary(BinaryOp::Sub, bias, moved)
    })?;
    let (factor, shift) = if spatial {
        (
            cx.along_axis("factors", factor, 1, rank)?,
            cx.along_axis("shifts", shift, 1, rank)?,
        )
    } else {
        (factor, shift)
    };
    let x = cx.value(0)?;
    let y = cx.map("", &[x, factor, shift], |b, r| {
        let x = b.cast(compute, r[0]);
        let scaled = b.binary(BinaryOp::Mul, x, r[1]);
        let y = b.binary(BinaryOp::Add, scaled, r[2]);
        b.cast(ty, y)
    })?;
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use bespoke_ir::DType;

    fn model(opset: i64, ty: DType) -> Model {
        let mut model = Model::new(opset).input("x", ty, &["N", "3", "H"]);
        for name in ["s", "b", "m", "v"] {
            model = model.input(name, ty, &["3"]);
        }
        model
    }

    #[test]
    fn factor_and_shift() {
        let inputs = ["x", "s", "b", "m", "v"];
        let half = model(15, DType::F16).node(
            "BatchNormalization",
            &inputs,
            &["y"],
            &[attr("epsilon", 0.5f32)],
        );
        insta::assert_snapshot!(half.graph("y"), @r"
        graph g(x: f16[N,3,H], s: f16[3], b: f16[3], m: f16[3], v: f16[3]) {
          %0 = map(s, v) expr=(div(f32(x0), sqrt(add(f32(x1), 0.5:f32)))) : f32[3]  ; BatchNormalization_y/factor
          %1 = map(b, m, %0) expr=(sub(f32(x0), mul(f32(x1), x2))) : f32[3]  ; BatchNormalization_y/shift
          %2 = reshape(%0) dims=[3,1] : f32[3,1]  ; BatchNormalization_y/factors
          %3 = reshape(%1) dims=[3,1] : f32[3,1]  ; BatchNormalization_y/shifts
          %4 = map(x, %2, %3) expr=(f16(add(mul(f32(x0), x1), x2))) : f16[N,3,H]  ; BatchNormalization_y
          return %4
        }
        ");
        let training = model(15, DType::F32).node(
            "BatchNormalization",
            &inputs,
            &["y"],
            &[attr("training_mode", 1i64)],
        );
        assert!(
            training
                .error("y")
                .contains("training mode is not supported")
        );
        let outputs = model(9, DType::F32).node("BatchNormalization", &inputs, &["y", "mean"], &[]);
        assert!(outputs.error("y").contains("which is training"));
    }
}
