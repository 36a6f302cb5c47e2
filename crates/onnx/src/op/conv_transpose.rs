//! Transposed convolution. ONNX: ConvTranspose (1, 11, 22; they differ in element types only).
//!
//! `pads` cut elements off the full result, of extent `stride·(d−1) + output_padding + dilation·(k−1) + 1`. With
//! `output_shape`, or `auto_pad = SAME_*` (output `stride·d`), the pads follow from the wanted extent; what is too
//! little for it is added at the end.

use super::conv::add_bias;
use super::window::{AutoPad, auto_pad, check_kernel, explicit_pads, halves, per_axis};
use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::SymInt;
use bespoke_ir::op::ConvTranspose;
use bespoke_ir::op::conv::Window;

/// ConvTranspose.
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
    let axes = x.rank() - 2;
    let kernel = &w.dims[2..];
    check_kernel(cx, kernel)?;
    let groups = cx.attrs.int("group")?.unwrap_or(1);
    if groups < 1 {
        return invalid(format!("attribute 'group' is {groups}"));
    }
    let strides = per_axis(cx, "strides", axes, 1, 1)?;
    let dilations = per_axis(cx, "dilations", axes, 1, 1)?;
    let output_padding = per_axis(cx, "output_padding", axes, 0, 0)?;
    let auto = auto_pad(cx)?;
    let explicit = explicit_pads(cx, axes)?;
    let wanted: Option<Vec<SymInt>> = match cx
        .attrs
        .ints("output_shape")?
        .filter(|shape| !shape.is_empty())
    {
        // Some writers list batch and channels too.
        Some(shape) if shape.len() == axes || shape.len() == axes + 2 => Some(
            shape[shape.len() - axes..]
                .iter()
                .map(|&d| d.into())
                .collect(),
        ),
        Some(shape) => {
            return invalid(format!(
                "attribute 'output_shape' {shape:?} must have {axes} entries"
            ));
        }
        None => match auto {
            AutoPad::SameUpper | AutoPad::SameLower => Some(
                x.dims[2..]
                    .iter()
                    .zip(&strides)
                    .map(|(d, &s)| d * s)
                    .collect(),
            ),
            AutoPad::Explicit | AutoPad::Valid => None,
        },
    };
    let pads = match wanted {
        None if auto == AutoPad::Valid => vec![(SymInt::constant(0), SymInt::constant(0)); axes],
        None => explicit,
        Some(wanted) => (0..axes)
            .map(|i| {
                let reach = (&kernel[i] - 1) * dilations[i] + 1;
                let full = (&x.dims[2 + i] - 1) * strides[i] + output_padding[i] + reach;
                let total = cx.simplify(&(full - &wanted[i]));
                // The standard puts the odd element first unless SAME_UPPER asks for the end.
                let side = if auto == AutoPad::SameUpper {
                    AutoPad::SameUpper
                } else {
                    AutoPad::SameLower
                };
                let (begin, _) = halves(cx, &SymInt::max(&total, &SymInt::constant(0)), side);
                let end = cx.simplify(&(total - &begin));
                (begin, end)
            })
            .collect(),
    };
    let window = Window {
        strides,
        dilations,
        pads,
    };
    let operands = [cx.value(0)?, cx.value(1)?];
    let bias = cx.optional(2)?;
    let suffix = if bias.is_some() { "conv" } else { "" };
    let mut y = cx.emit(
        suffix,
        ConvTranspose {
            window,
            output_padding,
            groups,
        },
        &operands,
    )?;
    if let Some(bias) = bias {
        y = add_bias(cx, y, bias)?;
    }
    cx.set(0, y);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr};
    use crate::proto::AttributeProto;
    use bespoke_ir::DType;

    fn transposed(attributes: &[AttributeProto]) -> Model {
        Model::new(11)
            .input("x", DType::F32, &["N", "4", "10"])
            .input("w", DType::F32, &["4", "3", "3"])
            .input("b", DType::F32, &["6"])
            .node("ConvTranspose", &["x", "w", "b"], &["y"], attributes)
    }

    #[test]
    fn extents_and_pads() {
        let groups = attr("group", 2i64);
        let strides = attr("strides", &[2i64]);
        assert_eq!(
            transposed(std::slice::from_ref(&groups)).output_type("y"),
            "f32[N,6,12]"
        );
        let padded = [
            groups.clone(),
            strides.clone(),
            attr("pads", &[1i64, 1]),
            attr("output_padding", &[1i64]),
        ];
        assert_eq!(transposed(&padded).output_type("y"), "f32[N,6,20]");
        let same = |how: &str| {
            transposed(&[groups.clone(), strides.clone(), attr("auto_pad", how)]).graph("y")
        };
        assert!(
            same("SAME_UPPER")
                .contains("pads=[0,1] dilations=[1] output_padding=[0] groups=2 : f32[N,6,20]")
        );
        assert!(same("SAME_LOWER").contains("pads=[1,0]"));
        let shaped = |extent: i64| {
            transposed(&[
                groups.clone(),
                strides.clone(),
                attr("output_shape", &[extent]),
            ])
            .graph("y")
        };
        assert!(shaped(18).contains("pads=[2,1]"), "{}", shaped(18));
        assert!(
            shaped(23)
                .contains("pads=[0,-2] dilations=[1] output_padding=[0] groups=2 : f32[N,6,23]"),
            "{}",
            shaped(23)
        );
    }
}
