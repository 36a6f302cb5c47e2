//! Normalisation of each channel of each sample. ONNX: InstanceNormalization (6, 22).

use super::conv::add_bias;
use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::op::{Map, Normalize};
use bespoke_ir::{BinaryOp, Expr, ValueId};

/// InstanceNormalization.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(3, 3)?;
    cx.attrs.ignore(&["consumed_inputs"]);
    let epsilon = f64::from(cx.attrs.float("epsilon")?.unwrap_or(1e-5));
    let rank = cx.rank(0)?;
    if rank < 3 {
        return invalid(format!(
            "its data has rank {rank}, but must have at least 3"
        ));
    }
    let x = cx.value(0)?;
    let (scale, bias) = (cx.value(1)?, cx.value(2)?);
    let normal = cx.emit(
        "normalize",
        Normalize {
            axes: (2..rank).collect(),
            epsilon,
            center: true,
        },
        &[x],
    )?;
    let scaled = scale_channels(cx, normal, scale)?;
    let y = add_bias(cx, scaled, bias)?;
    cx.set(0, y);
    Ok(())
}

/// Multiplies each channel (axis 1) by one number.
pub(super) fn scale_channels(cx: &mut Cx<'_>, x: ValueId, scale: ValueId) -> Done<ValueId> {
    let (dtype, rank) = (cx.value_ty(x).dtype, cx.value_ty(x).rank());
    let channels = cx.value_ty(x).dims[1].clone();
    let ty = cx.value_ty(scale).clone();
    if ty.rank() != 1 || ty.dtype != dtype {
        return invalid(format!(
            "its scale is {}{:?}, but must be a list of {dtype}",
            ty.dtype, ty.dims
        ));
    }
    cx.require_equal("the scale and the channels", &ty.dims[0], &channels)?;
    let scale = cx.along_axis("scales", scale, 1, rank)?;
    cx.emit(
        "scale",
        Map::new(Expr::binary(BinaryOp::Mul, dtype)),
        &[x, scale],
    )
}

#[cfg(test)]
mod tests {
    use crate::op::testing::Model;
    use bespoke_ir::DType;

    #[test]
    fn spatial_axes() {
        let model = Model::new(6 + 1)
            .input("x", DType::F16, &["N", "4", "H", "W"])
            .input("s", DType::F16, &["4"])
            .input("b", DType::F16, &["4"])
            .node("InstanceNormalization", &["x", "s", "b"], &["y"], &[]);
        insta::assert_snapshot!(model.graph("y"), @r"
        graph g(x: f16[N,4,H,W], s: f16[4], b: f16[4]) {
          %0 = normalize(x) axes=[2,3] epsilon=0.000009999999747378752 center : f16[N,4,H,W]  ; InstanceNormalization_y/normalize
          %1 = reshape(s) dims=[4,1,1] : f16[4,1,1]  ; InstanceNormalization_y/scales
          %2 = map(%0, %1) expr=(mul(x0, x1)) : f16[N,4,H,W]  ; InstanceNormalization_y/scale
          %3 = reshape(b) dims=[4,1,1] : f16[4,1,1]  ; InstanceNormalization_y/bias
          %4 = map(%2, %3) expr=(add(x0, x1)) : f16[N,4,H,W]  ; InstanceNormalization_y
          return %4
        }
        ");
    }
}
