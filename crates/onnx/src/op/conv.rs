//! Convolution. ONNX: Conv (1, 11, 22; they differ in element types only). The bias is added behind.

use super::window::{check_kernel, window};
use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::op::{Conv, Map};
use bespoke_ir::{BinaryOp, Expr};

/// Conv.
pub(super) fn import(cx: &mut Cx<'_>) -> Done {
    cx.inputs(2, 3)?;
    let (x, w) = (cx.ty(0)?, cx.ty(1)?);
    if x.rank() < 3 || w.rank() != x.rank() {
        return invalid(format!(
            "its data has rank {} and its weights rank {}; both must be equal and at least 3",
            x.rank(),
            w.rank()
        ));
    }
    let kernel = &w.dims[2..];
    check_kernel(cx, kernel)?;
    let groups = cx.attrs.int("group")?.unwrap_or(1);
    if groups < 1 {
        return invalid(format!("attribute 'group' is {groups}"));
    }
    let window = window(cx, &x.dims[2..], kernel, true)?;
    let operands = [cx.value(0)?, cx.value(1)?];
    let bias = cx.optional(2)?;
    let suffix = if bias.is_some() { "conv" } else { "" };
    let mut y = cx.emit(suffix, Conv { window, groups }, &operands)?;
    if let Some(bias) = bias {
        y = add_bias(cx, y, bias)?;
    }
    cx.set(0, y);
    Ok(())
}

/// Adds one number for each channel (axis 1).
pub(super) fn add_bias(
    cx: &mut Cx<'_>,
    x: bespoke_ir::ValueId,
    bias: bespoke_ir::ValueId,
) -> Done<bespoke_ir::ValueId> {
    let (dtype, rank) = (cx.value_ty(x).dtype, cx.value_ty(x).rank());
    let channels = cx.value_ty(x).dims[1].clone();
    let ty = cx.value_ty(bias).clone();
    if ty.rank() != 1 || ty.dtype != dtype {
        return invalid(format!(
            "its bias is {}{:?}, but must be a list of {dtype}",
            ty.dtype, ty.dims
        ));
    }
    cx.require_equal("the bias and the output channels", &ty.dims[0], &channels)?;
    let bias = cx.along_axis("bias", bias, 1, rank)?;
    cx.emit("", Map::new(Expr::binary(BinaryOp::Add, dtype)), &[x, bias])
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use bespoke_ir::DType;

    fn model() -> Model {
        Model::new(11)
            .input("x", DType::F32, &["N", "4", "H", "9"])
            .input("w", DType::F32, &["8", "4", "3", "2"])
            .input("b", DType::F32, &["8"])
    }

    #[test]
    fn a_bias_is_a_map_behind() {
        let attributes = [
            attr("strides", &[2i64, 2]),
            attr("pads", &[1i64, 0, 1, 0]),
            attr("kernel_shape", &[3i64, 2]),
        ];
        insta::assert_snapshot!(model().node("Conv", &["x", "w", "b"], &["y"], &attributes).graph("y"), @r"
        graph g(x: f32[N,4,H,9], w: f32[8,4,3,2], b: f32[8]) {
          %0 = conv(x, w) strides=[2,2] pads=[1,0,1,0] dilations=[1,1] groups=1 : f32[N,8,floor((H + 1)/2),4]  ; Conv_y/conv
          %1 = reshape(b) dims=[8,1,1] : f32[8,1,1]  ; Conv_y/bias
          %2 = map(%0, %1) expr=(add(x0, x1)) : f32[N,8,floor((H + 1)/2),4]  ; Conv_y
          return %2
        }
        ");
    }

    #[test]
    fn automatic_padding() {
        let auto = |how: &str| {
            model().node(
                "Conv",
                &["x", "w"],
                &["y"],
                &[attr("auto_pad", how), attr("strides", &[1i64, 2])],
            )
        };
        let upper = auto("SAME_UPPER").graph("y");
        assert!(
            upper.contains("pads=[1,0,1,1] dilations=[1,1] groups=1 : f32[N,8,H,5]"),
            "{upper}"
        );
        let lower = auto("SAME_LOWER").graph("y");
        assert!(lower.contains("pads=[1,1,1,0]"), "{lower}");
        assert_eq!(auto("VALID").output_type("y"), "f32[N,8,H - 2,4]");
        let strided = model().node(
            "Conv",
            &["x", "w"],
            &["y"],
            &[attr("auto_pad", "SAME_UPPER"), attr("strides", &[2i64, 2])],
        );
        let graph = strided.import("y").unwrap();
        let extent = &graph.dims(graph.outputs()[0])[2];
        for h in 1..10 {
            assert_eq!(extent.eval(&[2, h]), Ok((h + 1) / 2), "H = {h}");
        }
    }

    #[test]
    fn malformed_attributes_are_named() {
        let error = |name: &str, value: &[i64; 2]| {
            model()
                .node("Conv", &["x", "w"], &["y"], &[attr(name, value)])
                .error("y")
        };
        assert!(
            error("strides", &[0, 1])
                .contains("'strides' [0, 1] must have 2 entries of at least 1")
        );
        assert!(error("dilations", &[1, -1]).contains("'dilations'"));
        assert!(error("pads", &[1, 1]).contains("'pads' [1, 1] must have 4 entries"));
        assert!(
            error("kernel_shape", &[3, 3])
                .contains("'kernel_shape' and the weights' extents differ: 3 and 2")
        );
        let grouped = model().node("Conv", &["x", "w"], &["y"], &[attr("group", 3i64)]);
        assert!(grouped.error("y").contains("channels differ: 4 and 12"));
        let bias =
            model()
                .input("c", DType::F32, &["7"])
                .node("Conv", &["x", "w", "c"], &["y"], &[]);
        assert!(
            bias.error("y")
                .contains("the bias and the output channels differ: 7 and 8")
        );
    }
}
