//! What convolutions and pools share: strides, dilations, pads and `auto_pad`.
//!
//! `auto_pad` is `NOTSET` (the `pads` attribute), `VALID` (none), or `SAME_UPPER` and `SAME_LOWER`: so much padding that
//! the number of windows is `⌈extent / stride⌉`, the odd element after or before.

use crate::context::Cx;
use crate::importer::{Done, invalid};
use bespoke_ir::SymInt;
use bespoke_ir::op::conv::Window;

/// How padding is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AutoPad {
    Explicit,
    Valid,
    SameUpper,
    SameLower,
}

/// The attribute `auto_pad`.
pub(super) fn auto_pad(cx: &Cx<'_>) -> Done<AutoPad> {
    let table = [
        ("NOTSET", AutoPad::Explicit),
        ("VALID", AutoPad::Valid),
        ("SAME_UPPER", AutoPad::SameUpper),
        ("SAME_LOWER", AutoPad::SameLower),
        ("", AutoPad::Explicit),
    ];
    Ok(cx.attrs.choice("auto_pad", AutoPad::Explicit, &table)?)
}

/// A list attribute with one entry for each spatial axis, each at least `min`; `default` if it is not given.
pub(super) fn per_axis(
    cx: &Cx<'_>,
    name: &'static str,
    axes: usize,
    min: i64,
    default: i64,
) -> Done<Vec<i64>> {
    let list = match cx.attrs.ints(name)? {
        None => return Ok(vec![default; axes]),
        Some([]) => return Ok(vec![default; axes]),
        Some(list) => list.to_vec(),
    };
    if list.len() != axes || list.iter().any(|&v| v < min || v > i64::from(i32::MAX)) {
        return invalid(format!(
            "attribute '{name}' {list:?} must have {axes} entries of at least {min}"
        ));
    }
    Ok(list)
}

/// The attribute `pads`: all begins, then all ends; zeros if it is not given.
pub(super) fn explicit_pads(cx: &Cx<'_>, axes: usize) -> Done<Vec<(SymInt, SymInt)>> {
    let list = per_axis(cx, "pads", 2 * axes, 0, 0)?;
    Ok((0..axes)
        .map(|i| (list[i].into(), list[axes + i].into()))
        .collect())
}

/// Strides, dilations and pads for a kernel over the spatial extents `input`.
pub(super) fn window(
    cx: &Cx<'_>,
    input: &[SymInt],
    kernel: &[SymInt],
    dilated: bool,
) -> Done<Window> {
    let axes = input.len();
    let strides = per_axis(cx, "strides", axes, 1, 1)?;
    let dilations = if dilated {
        per_axis(cx, "dilations", axes, 1, 1)?
    } else {
        vec![1; axes]
    };
    let auto = auto_pad(cx)?;
    let explicit = explicit_pads(cx, axes)?;
    let pads = match auto {
        AutoPad::Explicit => explicit,
        AutoPad::Valid => vec![(SymInt::constant(0), SymInt::constant(0)); axes],
        AutoPad::SameUpper | AutoPad::SameLower => (0..axes)
            .map(|i| {
                let stride = SymInt::constant(strides[i]);
                let reach = (&kernel[i] - 1) * dilations[i] + 1;
                let windows = input[i].ceil_div(&stride);
                let total = ((windows - 1) * stride + reach - &input[i]).max(SymInt::constant(0));
                halves(cx, &total, auto)
            })
            .collect(),
    };
    Ok(Window {
        strides,
        dilations,
        pads,
    })
}

/// A total amount of padding shared between both ends.
pub(super) fn halves(cx: &Cx<'_>, total: &SymInt, auto: AutoPad) -> (SymInt, SymInt) {
    let total = cx.simplify(total);
    let small = cx.simplify(&total.floor_div(&SymInt::constant(2)));
    let large = cx.simplify(&(total - &small));
    if auto == AutoPad::SameLower {
        (large, small)
    } else {
        (small, large)
    }
}

/// Checks the attribute `kernel_shape` against the weights' spatial extents.
pub(super) fn check_kernel(cx: &mut Cx<'_>, kernel: &[SymInt]) -> Done {
    let Some(shape) = cx
        .attrs
        .ints("kernel_shape")?
        .filter(|shape| !shape.is_empty())
    else {
        return Ok(());
    };
    if shape.len() != kernel.len() {
        return invalid(format!(
            "attribute 'kernel_shape' {shape:?} must have {} entries",
            kernel.len()
        ));
    }
    for (&want, have) in shape.iter().zip(kernel) {
        cx.require_equal(
            "attribute 'kernel_shape' and the weights' extents",
            &want.into(),
            have,
        )?;
    }
    Ok(())
}
