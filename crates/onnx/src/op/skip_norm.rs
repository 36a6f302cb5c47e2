//! Normalisation of a sum, as ONNX Runtime's optimiser joins them: SkipLayerNormalization and
//! SkipSimplifiedLayerNormalization (`com.microsoft` 1).
//!
//! The sum of the input, a residual and a bias is normalised over the last axis, then scaled and shifted. The sum is an output
//! too. Statistics are computed in `f32` at least.

use super::sdpa;
use crate::context::Cx;
use crate::importer::{Done, invalid, unsupported};
use bespoke_ir::BinaryOp;
use bespoke_ir::op::Normalize;

/// SkipLayerNormalization, SkipSimplifiedLayerNormalization.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    let center = cx.op_type() == "SkipLayerNormalization";
    // the simplified one has no shift, so that its bias comes one earlier
    let (shift, bias) = if center { (Some(3), 4) } else { (None, 3) };
    cx.inputs(3, bias + 1)?;
    let epsilon = f64::from(cx.attrs.float("epsilon")?.unwrap_or(1e-12));
    for i in 1..3 {
        if cx.wants(i) {
            return unsupported(format!(
                "its output {i}, a statistic for training, is used; export the model for inference"
            ));
        }
    }
    let dtype = cx.dtype(0)?;
    if !dtype.is_float() {
        return invalid(format!("it does not take operands of type {dtype}"));
    }
    let rank = cx.rank(0)?;
    let dims = cx.dims(0)?;
    let skip = cx.value(1)?;
    let mut operands = vec![cx.value(0)?, sdpa::fit(cx, "skip", skip, &dims)?];
    operands.extend(cx.optional(bias)?);
    for &x in &operands {
        let found = cx.value_ty(x).dtype;
        if found != dtype {
            return invalid(format!("its input is {dtype}, but {found} is added to it"));
        }
    }
    let sum = cx.map("sum", &operands, |b, r| {
        r[1..]
            .iter()
            .fold(r[0], |sum, &x| b.binary(BinaryOp::Add, sum, x))
    })?;
    if rank == 0 || cx.value_ty(sum).dims != dims {
        return invalid("its bias does not fit its input");
    }
    let op = Normalize {
        axes: vec![rank - 1],
        epsilon,
        center,
    };
    let mut operands = vec![cx.emit("normalize", op, &[sum])?, cx.value(2)?];
    if let Some(shift) = shift {
        operands.extend(cx.optional(shift)?);
    }
    for &x in &operands[1..] {
        let found = cx.value_ty(x).dtype;
        if found != dtype {
            return invalid(format!(
                "its input is {dtype} and its scale or shift {found}"
            ));
        }
    }
    let y = cx.map("", &operands, |b, r| {
        let scaled = b.binary(BinaryOp::Mul, r[0], r[1]);
        match r.get(2) {
            Some(&shift) => b.binary(BinaryOp::Add, scaled, shift),
            None => scaled,
        }
    })?;
    if cx.value_ty(y).dims != dims {
        return invalid("its scale or shift does not fit the last axis");
    }
    cx.set(0, y);
    cx.set(3, sum);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::Model;
    use bespoke_ir::DType;

    fn model() -> Model {
        Model::contrib(17)
            .input("x", DType::F16, &["B", "S", "8"])
            .input("r", DType::F16, &["B", "S", "8"])
            .input("g", DType::F16, &["8"])
            .input("b", DType::F16, &["8"])
    }

    #[test]
    fn the_sum_is_normalised_and_an_output() {
        let both = model().contrib_node(
            "SkipLayerNormalization",
            &["x", "r", "g", "b", "b"],
            &["y", "", "", "sum"],
            &[],
        );
        insta::assert_snapshot!(both.graph("y sum"), @r"
        graph g(x: f16[B,S,8], r: f16[B,S,8], g: f16[8], b: f16[8]) {
          %0 = map(x, r, b) expr=(add(add(x0, x1), x2)) : f16[B,S,8]  ; SkipLayerNormalization_y/sum
          %1 = normalize(%0) axes=[2] epsilon=0.0000000000009999999960041972 center : f16[B,S,8]  ; SkipLayerNormalization_y/normalize
          %2 = map(%1, g, b) expr=(add(mul(x0, x1), x2)) : f16[B,S,8]  ; SkipLayerNormalization_y
          return %2, %0
        }
        ");
        let simple = model().contrib_node(
            "SkipSimplifiedLayerNormalization",
            &["x", "r", "g"],
            &["y"],
            &[],
        );
        insta::assert_snapshot!(simple.graph("y"), @r"
        graph g(x: f16[B,S,8], r: f16[B,S,8], g: f16[8], b: f16[8]) {
          %0 = map(x, r) expr=(add(x0, x1)) : f16[B,S,8]  ; SkipSimplifiedLayerNormalization_y/sum
          %1 = normalize(%0) axes=[2] epsilon=0.0000000000009999999960041972 : f16[B,S,8]  ; SkipSimplifiedLayerNormalization_y/normalize
          %2 = map(%1, g) expr=(mul(x0, x1)) : f16[B,S,8]  ; SkipSimplifiedLayerNormalization_y
          return %2
        }
        ");
    }

    #[test]
    fn statistics_and_misfits_are_refused() {
        let op = "SkipSimplifiedLayerNormalization";
        let error = model()
            .contrib_node(op, &["x", "r", "g"], &["y", "mean"], &[])
            .error("y mean");
        assert!(error.contains("export the model for inference"), "{error}");
        let error = model()
            .input("w", DType::F16, &["B", "S", "T", "8"])
            .contrib_node(op, &["x", "w", "g"], &["y"], &[])
            .error("y");
        assert!(error.contains("its skip has rank 4"), "{error}");
    }
}
