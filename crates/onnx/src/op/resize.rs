//! Resampling. ONNX: Resize (10, 11, 13, 18, 19), Upsample (7, 9; gone since 10).
//!
//! Upsample and opset 10 of Resize know scales alone and read the input at `o / scale`, rounding down (opset 10: up
//! where an axis shrinks). Opset 11 adds target sizes and all ways to compute and round positions; 13 drops
//! `tf_half_pixel_for_nn`; 18 adds `antialias`, `axes` and `keep_aspect_ratio_policy`; 19 `half_pixel_symmetric`.
//! Scales, sizes and the region of interest must be known on the host.

use crate::context::Cx;
use crate::importer::{Done, invalid, unsupported};
use bespoke_ir::SymInt;
use bespoke_ir::op::Resize;
use bespoke_ir::op::resize::{CoordinateMode, Interpolation, NearestMode};

/// Upsample.
pub(super) fn upsample(cx: &mut Cx<'_>) -> Done {
    if cx.opset >= 10 {
        return invalid("the operator was removed in opset 10; Resize replaces it");
    }
    let linear = linear_mode(cx)?;
    let scales = if cx.opset < 9 {
        cx.inputs(1, 1)?;
        match cx.attrs.floats("scales")? {
            Some(scales) => scales.to_vec(),
            None => return invalid("attribute 'scales' is required"),
        }
    } else {
        cx.inputs(2, 2)?;
        scales(cx, 1)?
    };
    let interpolation = if linear {
        Interpolation::Linear
    } else {
        Interpolation::Nearest(NearestMode::Floor)
    };
    by_scales(cx, scales, interpolation)
}

fn linear_mode(cx: &Cx<'_>) -> Done<bool> {
    Ok(cx.attrs.choice(
        "mode",
        false,
        &[("nearest", false), ("linear", true), ("bilinear", true)],
    )?)
}

fn by_scales(cx: &mut Cx<'_>, scales: Vec<f32>, interpolation: Interpolation) -> Done {
    let dims = cx.dims(0)?;
    if scales.len() != dims.len() {
        return invalid(format!(
            "it has {} scales for a tensor of rank {}",
            scales.len(),
            dims.len()
        ));
    }
    let target = dims
        .iter()
        .zip(&scales)
        .map(|(d, &s)| scaled(cx, d, s))
        .collect::<Done<Vec<_>>>()?;
    finish(
        cx,
        Resize {
            dims: target,
            scales: scales.into_iter().map(Some).collect(),
            interpolation,
            coordinates: CoordinateMode::Asymmetric,
            antialias: false,
            crop: None,
        },
    )
}

/// Constant scales, all positive.
fn scales(cx: &Cx<'_>, input: usize) -> Done<Vec<f32>> {
    let scales: Vec<f32> = cx
        .const_numbers(input, "the scales")?
        .into_iter()
        .map(|s| s as f32)
        .collect();
    match scales.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
        Some(scale) => invalid(format!("its scale {scale} is not positive")),
        None => Ok(scales),
    }
}

/// `⌊extent · scale⌋`.
fn scaled(cx: &Cx<'_>, extent: &SymInt, scale: f32) -> Done<SymInt> {
    if !(scale.is_finite() && scale > 0.0) {
        return invalid(format!("its scale {scale} is not positive"));
    }
    if let Some(extent) = extent.as_const() {
        // In the arithmetic of the scale, so that 10 · 1.7 is 17 although 1.7 is a little less in binary.
        let result = (extent as f32 * scale).floor();
        if result >= 9.0e18 {
            return invalid(format!("its scale {scale} makes an axis too large"));
        }
        return Ok(SymInt::constant(result as i64));
    }
    let Some((num, den)) = fraction(scale) else {
        return unsupported(format!(
            "the scale {scale} of an axis of symbolic extent is not supported"
        ));
    };
    Ok(cx.simplify(&(extent * num).floor_div(&SymInt::constant(den))))
}

/// A fraction that rounds to the scale: of small numbers if there is one, else the scale's exact value.
fn fraction(scale: f32) -> Option<(i64, i64)> {
    for den in 1..=64i64 {
        let num = (f64::from(scale) * den as f64).round();
        if num >= 1.0 && (num / den as f64) as f32 == scale {
            return Some((num as i64, den));
        }
    }
    let (mut num, mut den) = (f64::from(scale), 1i64);
    while num.fract() != 0.0 && den < 1 << 30 {
        num *= 2.0;
        den *= 2;
    }
    (num.fract() == 0.0 && num < 2f64.powi(40)).then_some((num as i64, den))
}

fn finish(cx: &mut Cx<'_>, op: Resize) -> Done {
    let same = op.dims == cx.dims(0)?
        && op.scales.iter().all(|s| s.is_none_or(|s| s == 1.0))
        && op.crop.is_none();
    // Half a pixel is lost even at scale 1 in this mode.
    if same && op.coordinates != CoordinateMode::TfHalfPixelForNn {
        return cx.forward(0, 0);
    }
    let x = cx.value(0)?;
    let y = cx.emit("", op, &[x])?;
    cx.set(0, y);
    Ok(())
}

/// Whether an optional list input is given and not empty; opset 11 has empty tensors where later ones leave them out.
fn given(cx: &Cx<'_>, i: usize) -> Done<bool> {
    Ok(cx.has(i) && cx.ty(i)?.elements().as_const() != Some(0))
}

/// Resize.
pub(super) fn resize(cx: &mut Cx<'_>) -> Done {
    if cx.opset < 11 {
        cx.inputs(2, 2)?;
        let linear = linear_mode(cx)?;
        let scales = scales(cx, 1)?;
        let nearest = match (
            scales.iter().any(|&s| s < 1.0),
            scales.iter().any(|&s| s > 1.0),
        ) {
            (true, true) if !linear => {
                return unsupported(
                    "opset 10 nearest resampling that shrinks one axis and stretches another",
                );
            }
            (true, _) => NearestMode::Ceil,
            (false, _) => NearestMode::Floor,
        };
        let interpolation = if linear {
            Interpolation::Linear
        } else {
            Interpolation::Nearest(nearest)
        };
        return by_scales(cx, scales, interpolation);
    }
    cx.inputs(1, 4)?;
    let dims = cx.dims(0)?;
    let rank = dims.len();
    let options = options(cx)?;
    let axes: Vec<usize> = match if cx.opset >= 18 {
        cx.attrs.ints("axes")?
    } else {
        None
    } {
        None => (0..rank).collect(),
        Some(list) => {
            cx.axes(list, rank)?;
            list.iter()
                .map(|&axis| cx.axis(axis, rank))
                .collect::<Done<_>>()?
        }
    };
    let mut op = Resize {
        dims: dims.clone(),
        scales: vec![None; rank],
        interpolation: options.interpolation,
        coordinates: options.coordinates.unwrap_or(CoordinateMode::AlignCorners),
        antialias: options.antialias,
        crop: None,
    };
    if options.coordinates.is_none() {
        op.crop = Some((region(cx, &axes, rank)?, options.extrapolation));
    }
    match (given(cx, 2)?, given(cx, 3)?) {
        (true, true) => return invalid("it has both scales and sizes"),
        (false, false) => return invalid("it has neither scales nor sizes"),
        (true, false) => {
            let scales = scales(cx, 2)?;
            if scales.len() != axes.len() {
                return invalid(format!(
                    "it has {} scales for {} axes",
                    scales.len(),
                    axes.len()
                ));
            }
            for (&axis, &scale) in axes.iter().zip(&scales) {
                let part = op
                    .crop
                    .as_ref()
                    .map_or(1.0, |(region, _)| region[axis].1 - region[axis].0);
                op.dims[axis] = scaled(cx, &dims[axis], scale * part)?;
                op.scales[axis] = Some(scale);
            }
        }
        (false, true) => {
            let sizes = cx.host_ints(3, "the sizes")?;
            if sizes.len() != axes.len() {
                return invalid(format!(
                    "it has {} sizes for {} axes",
                    sizes.len(),
                    axes.len()
                ));
            }
            for size in &sizes {
                cx.require(|infer| infer.require_at_least("a size", size, 0))?;
            }
            match options.policy {
                Policy::Stretch => {
                    for (&axis, size) in axes.iter().zip(sizes) {
                        op.dims[axis] = size;
                    }
                }
                policy => keep_aspect(&mut op, policy, &dims, &axes, &sizes)?,
            }
        }
    }
    finish(cx, op)
}

struct Options {
    interpolation: Interpolation,
    /// None for `tf_crop_and_resize`.
    coordinates: Option<CoordinateMode>,
    antialias: bool,
    policy: Policy,
    extrapolation: f32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Stretch,
    NotLarger,
    NotSmaller,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

fn options(cx: &Cx<'_>) -> Done<Options> {
    let mode = [
        ("nearest", Mode::Nearest),
        ("linear", Mode::Linear),
        ("cubic", Mode::Cubic),
    ];
    let mode = cx.attrs.choice("mode", Mode::Nearest, &mode)?;
    let nearest = [
        ("round_prefer_floor", NearestMode::RoundPreferFloor),
        ("round_prefer_ceil", NearestMode::RoundPreferCeil),
        ("floor", NearestMode::Floor),
        ("ceil", NearestMode::Ceil),
    ];
    let nearest = cx
        .attrs
        .choice("nearest_mode", NearestMode::RoundPreferFloor, &nearest)?;
    let mut coordinates = vec![
        ("half_pixel", Some(CoordinateMode::HalfPixel)),
        ("pytorch_half_pixel", Some(CoordinateMode::PytorchHalfPixel)),
        ("align_corners", Some(CoordinateMode::AlignCorners)),
        ("asymmetric", Some(CoordinateMode::Asymmetric)),
        ("tf_crop_and_resize", None),
    ];
    if cx.opset < 13 {
        coordinates.push((
            "tf_half_pixel_for_nn",
            Some(CoordinateMode::TfHalfPixelForNn),
        ));
    }
    if cx.opset >= 19 {
        coordinates.push((
            "half_pixel_symmetric",
            Some(CoordinateMode::HalfPixelSymmetric),
        ));
    }
    let name = "coordinate_transformation_mode";
    let coordinates = cx
        .attrs
        .choice(name, Some(CoordinateMode::HalfPixel), &coordinates)?;
    let coefficient = f64::from(cx.attrs.float("cubic_coeff_a")?.unwrap_or(-0.75));
    let exclude_outside = cx.attrs.flag("exclude_outside", false)?;
    let extrapolation = cx.attrs.float("extrapolation_value")?.unwrap_or(0.0);
    let (mut antialias, mut policy) = (false, Policy::Stretch);
    if cx.opset >= 18 {
        antialias = cx.attrs.flag("antialias", false)?;
        let policies = [
            ("stretch", Policy::Stretch),
            ("not_larger", Policy::NotLarger),
            ("not_smaller", Policy::NotSmaller),
        ];
        policy = cx
            .attrs
            .choice("keep_aspect_ratio_policy", Policy::Stretch, &policies)?;
    }
    let interpolation = match mode {
        Mode::Nearest => Interpolation::Nearest(nearest),
        Mode::Linear => Interpolation::Linear,
        Mode::Cubic => Interpolation::Cubic {
            coefficient,
            exclude_outside,
        },
    };
    Ok(Options {
        interpolation,
        coordinates,
        antialias,
        policy,
        extrapolation,
    })
}

/// The region of interest of every axis: starts, then ends, for `axes`; the whole of the others.
fn region(cx: &Cx<'_>, axes: &[usize], rank: usize) -> Done<Vec<(f32, f32)>> {
    if !given(cx, 1)? {
        return invalid("'tf_crop_and_resize' needs the region of interest (input 1)");
    }
    let list = cx.const_numbers(1, "the region of interest")?;
    if list.len() != 2 * axes.len() {
        return invalid(format!(
            "the region of interest has {} numbers for {} axes",
            list.len(),
            axes.len()
        ));
    }
    let mut region = vec![(0.0, 1.0); rank];
    for (i, &axis) in axes.iter().enumerate() {
        region[axis] = (list[i] as f32, list[axes.len() + i] as f32);
    }
    Ok(region)
}

/// Sizes that keep the aspect ratio: one scale for all axes, the smallest or largest that a size asks for.
fn keep_aspect(
    op: &mut Resize,
    policy: Policy,
    dims: &[SymInt],
    axes: &[usize],
    sizes: &[SymInt],
) -> Done {
    let mut scale: Option<f32> = None;
    for (&axis, size) in axes.iter().zip(sizes) {
        let (Some(size), Some(extent)) = (size.as_const(), dims[axis].as_const()) else {
            return unsupported(
                "'keep_aspect_ratio_policy' with symbolic extents is not supported",
            );
        };
        if extent == 0 {
            return invalid("'keep_aspect_ratio_policy' with an empty axis has no scale");
        }
        let ratio = size as f32 / extent as f32;
        scale = Some(match (scale, policy) {
            (None, _) => ratio,
            (Some(scale), Policy::NotLarger) => scale.min(ratio),
            (Some(scale), _) => scale.max(ratio),
        });
    }
    let Some(scale) = scale else { return Ok(()) };
    for &axis in axes {
        let extent = dims[axis].as_const().unwrap_or(0);
        op.dims[axis] = SymInt::constant((scale * extent as f32 + 0.5).floor() as i64);
        op.scales[axis] = Some(scale);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::op::testing::{Model, attr, floats, ints};
    use crate::proto::AttributeProto;
    use bespoke_ir::DType;

    fn model(opset: i64) -> Model {
        Model::new(opset)
            .input("x", DType::F32, &["N", "3", "H", "10"])
            .initializer(floats("empty", &[0], &[]))
            .initializer(floats("scales", &[4], &[1.0, 1.0, 2.0, 1.7]))
            .initializer(ints("sizes", &[2], &[7, 8]))
            .initializer(floats("two", &[2], &[0.5, 0.6]))
    }

    fn node(opset: i64, inputs: &[&str], attributes: &[AttributeProto]) -> Model {
        model(opset).node("Resize", inputs, &["y"], attributes)
    }

    #[test]
    fn scales_and_sizes() {
        insta::assert_snapshot!(node(11, &["x", "empty", "scales"], &[]).graph("y"), @r"
        graph g(x: f32[N,3,H,10]) {
          %0 = resize(x) dims=[N,3,2*H,17] scales=[1,1,2,1.7] mode=nearest:RoundPreferFloor coordinates=HalfPixel : f32[N,3,2*H,17]  ; Resize_y
          return %0
        }
        ");
        let sizes = [
            attr("axes", &[2i64, 3]),
            attr("mode", "linear"),
            attr("antialias", 1i64),
        ];
        let graph = node(18, &["x", "", "", "sizes"], &sizes).graph("y");
        assert!(
            graph.contains(
                "dims=[N,3,7,8] scales=[_,_,_,_] mode=linear coordinates=HalfPixel antialias"
            ),
            "{graph}"
        );
        let half = [attr("axes", &[-2i64, -1])];
        assert_eq!(
            node(18, &["x", "", "two"], &half).output_type("y"),
            "f32[N,3,floor(H/2),6]"
        );
        assert!(
            node(13, &["x"], &[])
                .error("y")
                .contains("neither scales nor sizes")
        );
    }

    #[test]
    fn every_option() {
        let with = |opset: i64, name: &str, value: &str| {
            node(opset, &["x", "", "scales"], &[attr(name, value)]).import("y")
        };
        for mode in [
            "half_pixel",
            "pytorch_half_pixel",
            "align_corners",
            "asymmetric",
        ] {
            assert!(
                with(11, "coordinate_transformation_mode", mode).is_ok(),
                "{mode}"
            );
        }
        assert!(with(12, "coordinate_transformation_mode", "tf_half_pixel_for_nn").is_ok());
        assert!(with(13, "coordinate_transformation_mode", "tf_half_pixel_for_nn").is_err());
        assert!(with(19, "coordinate_transformation_mode", "half_pixel_symmetric").is_ok());
        let error = with(13, "coordinate_transformation_mode", "tf_crop_and_resize").unwrap_err();
        assert!(error.contains("needs the region of interest"), "{error}");
        let crop = Model::new(13)
            .input("x", DType::F32, &["4", "4"])
            .initializer(floats("roi", &[4], &[0.25, 0.0, 0.75, 1.0]))
            .initializer(ints("sizes", &[2], &[3, 3]));
        let attributes = [
            attr("coordinate_transformation_mode", "tf_crop_and_resize"),
            attr("extrapolation_value", 9f32),
        ];
        assert!(
            crop.node("Resize", &["x", "roi", "", "sizes"], &["y"], &attributes)
                .graph("y")
                .contains("crop")
        );
    }

    #[test]
    fn aspect_ratio() {
        let keep = |policy: &str| {
            Model::new(18)
                .input("x", DType::F32, &["10", "20"])
                .initializer(ints("sizes", &[2], &[5, 30]))
                .node(
                    "Resize",
                    &["x", "", "", "sizes"],
                    &["y"],
                    &[attr("keep_aspect_ratio_policy", policy)],
                )
                .output_type("y")
        };
        assert_eq!(keep("not_larger"), "f32[5,10]");
        assert_eq!(keep("not_smaller"), "f32[15,30]");
        assert_eq!(keep("stretch"), "f32[5,30]");
    }

    #[test]
    fn older_operators() {
        let old = Model::new(7).input("x", DType::F32, &["N", "3", "H", "10"]);
        let scales = attr("scales", &[1f32, 1.0, 2.0, 3.0]);
        assert_eq!(
            old.node("Upsample", &["x"], &["y"], &[scales])
                .output_type("y"),
            "f32[N,3,2*H,30]"
        );
        let nine = model(9)
            .node(
                "Upsample",
                &["x", "scales"],
                &["y"],
                &[attr("mode", "linear")],
            )
            .graph("y");
        assert!(
            nine.contains("mode=linear coordinates=Asymmetric"),
            "{nine}"
        );
        let ten = model(10)
            .node("Resize", &["x", "scales"], &["y"], &[])
            .graph("y");
        assert!(
            ten.contains("mode=nearest:Floor coordinates=Asymmetric"),
            "{ten}"
        );
        assert!(
            model(10)
                .node("Upsample", &["x", "scales"], &["y"], &[])
                .error("y")
                .contains("removed in opset 10")
        );
    }
}
