//! Normalisation over the trailing axes. ONNX: LayerNormalization (17).
//!
//! Statistics are computed in `f32` at least, whatever `stash_type` asks for. The optional outputs Mean and InvStdDev
//! are computed where they are wanted. ONNX Runtime's optimiser writes the operator at opsets before 17 too.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::op::reduce::ReduceKind;
use bespoke_ir::op::{Normalize, Reduce};
use bespoke_ir::{BinaryOp, DType, UnaryOp, ValueId};

/// LayerNormalization.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 3)?;
    cx.attrs.ignore(&["stash_type"]);
    let epsilon = f64::from(cx.attrs.float("epsilon")?.unwrap_or(1e-5));
    let rank = cx.rank(0)?;
    let axis = cx.axis(cx.attrs.int("axis")?.unwrap_or(-1), rank)?;
    let dtype = cx.dtype(0)?;
    for i in 1..3 {
        if cx.has(i) && cx.dtype(i)? != dtype {
            return invalid(format!(
                "its operands have different element types, {dtype} and {}",
                cx.dtype(i)?
            ));
        }
    }
    let axes: Vec<usize> = (axis..rank).collect();
    let x = cx.value(0)?;
    let mut operands = vec![cx.emit(
        "normalize",
        Normalize {
            axes: axes.clone(),
            epsilon,
            center: true,
        },
        &[x],
    )?];
    operands.push(cx.value(1)?);
    operands.extend(cx.optional(2)?);
    let y = cx.map("", &operands, |b, r| {
        let scaled = b.binary(BinaryOp::Mul, r[0], r[1]);
        match r.get(2) {
            Some(&bias) => b.binary(BinaryOp::Add, scaled, bias),
            None => scaled,
        }
    })?;
    if cx.value_ty(y).dims != cx.dims(0)? {
        return invalid("its scale or bias does not fit the normalised axes");
    }
    cx.set(0, y);
    if cx.wants(1) || cx.wants(2) {
        statistics(cx, x, axes, epsilon)?;
    }
    Ok(())
}

fn statistics(cx: &mut Cx<'_>, x: ValueId, axes: Vec<usize>, epsilon: f64) -> Done {
    let compute = if cx.value_ty(x).dtype == DType::F64 {
        DType::F64
    } else {
        DType::F32
    };
    let mean_of = Reduce {
        kind: ReduceKind::Mean,
        axes,
        keep_dims: true,
    };
    let wide = cx.cast("wide", x, compute)?;
    let mean = cx.emit("mean", mean_of.clone(), &[wide])?;
    if cx.wants(2) {
        let squares = cx.map("squares", &[wide, mean], |b, r| {
            let centred = b.binary(BinaryOp::Sub, r[0], r[1]);
            b.binary(BinaryOp::Mul, centred, centred)
        })?;
        let variance = cx.emit("variance", mean_of, &[squares])?;
        let inverse = cx.map("inverse", &[variance], |b, r| {
            let epsilon = b.number(compute, epsilon);
            let sum = b.binary(BinaryOp::Add, r[0], epsilon);
            b.unary(UnaryOp::Rsqrt, sum)
        })?;
        cx.set(2, inverse);
    }
    cx.set(1, mean);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use bespoke_ir::DType;

    #[test]
    fn scale_bias_and_statistics() {
        let model = Model::new(17)
            .input("x", DType::F16, &["N", "S", "8"])
            .input("s", DType::F16, &["8"])
            .input("b", DType::F16, &["8"]);
        insta::assert_snapshot!(model.clone().node("LayerNormalization", &["x", "s", "b"], &["y"], &[]).graph("y"), @r"
        graph g(x: f16[N,S,8], s: f16[8], b: f16[8]) {
          %0 = normalize(x) axes=[2] epsilon=0.000009999999747378752 center : f16[N,S,8]  ; LayerNormalization_y/normalize
          %1 = map(%0, s, b) expr=(add(mul(x0, x1), x2)) : f16[N,S,8]  ; LayerNormalization_y
          return %1
        }
        ");
        let all = model
            .clone()
            .node("LayerNormalization", &["x", "s"], &["y", "m", "i"], &[]);
        assert_eq!(all.output_type("y m i"), "f16[N,S,8] f32[N,S,1] f32[N,S,1]");
        let wide = model.input("t", DType::F16, &["7", "8"]);
        let error = wide
            .node(
                "LayerNormalization",
                &["x", "t"],
                &["y"],
                &[attr("axis", -1i64)],
            )
            .error("y");
        assert!(error.contains("does not fit"), "{error}");
    }
}
