//! Resampling along some axes: Resize, Upsample.
//!
//! Every axis on its own turns a position of the result into weighted positions of the input, and the result is the sum
//! over their product. Positions are computed in `f32`, one rounded operation after the other as the standard writes them,
//! on every device alike, because a nearest neighbour hangs on their last bit. The twin makes the weights of each axis
//! once and then works row by row: over neighbouring channels with vector code, or along the row with a table.

use std::fmt::Write as _;
use std::sync::Arc;

use bespoke_device::{DeviceProps, LaunchConfig, Operand, TwinError};
use bespoke_ir::op::resize::{CoordinateMode, Interpolation, NearestMode};
use bespoke_ir::{DType, Expr, Scalar};

use crate::arguments::{self, Arguments};
use crate::expr::cuda;
use crate::expr::lanes::{self, Elements};
use crate::pointwise::view_bytes;
use crate::random;
use crate::sample::{Rng, Sample};
use crate::source::kernel_text;
use crate::spec::{Args, Cost, Param, Template, Tile};
use crate::view::{self, Strided};
use crate::walk::{self, One, Target};

mod host;

use host::{Axis, Run, Taps};

/// Scales below this are refused: a filter would reach over everything.
const LEAST_SCALE: f32 = 1e-6;

/// See the module.
///
/// Space `d0 … d{rank-1}`, that of the result; `x` is viewed over its own axes, of extents `in0 …`.
#[derive(Clone, Debug, PartialEq)]
pub struct Resize {
    /// Number of axes.
    pub rank: usize,
    /// Element type of the operand.
    pub dtype: DType,
    /// How elements are combined.
    pub interpolation: Interpolation,
    /// How positions are computed.
    pub coordinates: CoordinateMode,
    /// Whether shrinking widens the support of linear and cubic filters.
    pub antialias: bool,
    /// Scale of each axis if the model gives one; otherwise `d / in`.
    pub scales: Vec<Option<f32>>,
    /// Region of each axis for `tf_crop_and_resize`, with the value outside.
    pub crop: Option<(Vec<(f32, f32)>, f32)>,
    /// Axes that may be resampled; the others read themselves.
    pub axes: Vec<usize>,
    /// What happens to each value; operand 0 is the value as `dtype`, in compute precision, the others are `e0, e1, …`.
    pub epilogue: Expr,
}

impl Resize {
    /// The template for an operator on elements of type `dtype`.
    pub fn new(op: &bespoke_ir::op::Resize, dtype: DType, epilogue: Expr) -> Resize {
        let whole = |a: usize| op.crop.as_ref().is_none_or(|c| c.0[a] == (0.0, 1.0));
        let axes = (0..op.scales.len())
            .filter(|&a| op.scales[a] != Some(1.0) || !whole(a))
            .collect();
        Resize {
            rank: op.scales.len(),
            dtype,
            interpolation: op.interpolation,
            coordinates: op.coordinates,
            antialias: op.antialias && !matches!(op.interpolation, Interpolation::Nearest(_)),
            scales: op.scales.clone(),
            crop: op.crop.clone(),
            axes,
            epilogue,
        }
    }

    fn extents(&self, args: &Args<'_>) -> Vec<i64> {
        args.ints("d", self.rank)
    }

    /// Type in which weights and sums are formed: more than `f32` where the result is not rounded to it anyway.
    fn weight(&self) -> DType {
        match self.dtype {
            DType::F32 | DType::F16 | DType::BF16 => DType::F32,
            _ => DType::F64,
        }
    }

    fn is_nearest(&self) -> bool {
        matches!(self.interpolation, Interpolation::Nearest(_))
    }

    /// The value outside a cropped region, saturated to the element type.
    fn outside(&self) -> Scalar {
        let v = f64::from(self.crop.as_ref().map_or(0.0, |c| c.1));
        let (low, high) = match self.dtype {
            DType::I8 => (-128.0, 127.0),
            DType::U8 => (0.0, 255.0),
            DType::I16 => (-32768.0, 32767.0),
            DType::U16 => (0.0, 65535.0),
            DType::I32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
            DType::U32 | DType::U64 => (0.0, f64::from(u32::MAX)),
            DType::Bool => return Scalar::int(DType::Bool, i64::from(v != 0.0)),
            _ => (f64::MIN, f64::MAX),
        };
        Scalar::new(
            self.dtype,
            if self.dtype.is_float() {
                v
            } else {
                v.clamp(low, high)
            },
        )
    }

    /// The region of an axis, unless it is all of it.
    fn region(&self, axis: usize) -> Option<(f32, f32)> {
        self.crop.as_ref().map(|c| c.0[axis])
    }

    /// Whether an axis reads itself if its extent stays.
    fn may_keep(&self, axis: usize) -> bool {
        self.scales[axis].is_none_or(|s| s == 1.0)
            && self.region(axis).is_none_or(|r| r == (0.0, 1.0))
    }
}

/// A float literal that names exactly this value.
fn literal(v: f32) -> String {
    cuda::literal(Scalar::float(DType::F32, v.into()))
}

impl Template for Resize {
    fn name(&self) -> &'static str {
        "resize"
    }

    fn describe(&self) -> String {
        let mode = match self.interpolation {
            Interpolation::Nearest(m) => format!("nearest:{m:?}"),
            Interpolation::Linear => "linear".into(),
            Interpolation::Cubic {
                coefficient,
                exclude_outside,
            } => format!("cubic:{coefficient}:{exclude_outside}"),
        };
        let scales: Vec<String> = self
            .scales
            .iter()
            .map(|s| s.map_or("_".into(), |s| format!("{s:?}")))
            .collect();
        let mut text = format!(
            "rank={} {} {mode} {:?} scales=[{}] axes={:?}",
            self.rank,
            self.dtype,
            self.coordinates,
            scales.join(","),
            self.axes
        );
        if self.antialias {
            text.push_str(" antialias");
        }
        if let Some((regions, value)) = &self.crop {
            let _ = write!(text, " crop={regions:?}:{value:?}");
        }
        let _ = write!(text, " -> {} = {}", self.epilogue.dtype(), self.epilogue);
        text
    }

    fn params(&self) -> Vec<Param> {
        let mut params = view::extents(self.rank);
        params.extend((0..self.rank).map(|a| Param::int(format!("in{a}"))));
        params.extend(view::write("y", self.epilogue.dtype(), self.rank));
        params.extend(view::read("x", self.dtype, self.rank));
        params.extend(walk::extras(&self.epilogue, self.rank));
        params
    }

    fn body(&self) -> &'static str {
        kernel_text!(""; "walk.cuh", "resize.cu")
    }

    fn definitions(&self, _: &DeviceProps) -> String {
        let mut out = String::new();
        let extents: Vec<String> = (0..self.rank).map(|a| format!("d{a}")).collect();
        walk::space(&mut out, &extents);
        walk::load_macro(&mut out, "x", self.dtype);
        walk::finish(&mut out, self.dtype, &self.epilogue, self.rank);
        let (filter, radius, coefficient, exclude) = match self.interpolation {
            Interpolation::Nearest(_) => ("NEAREST", 1, 0.0, false),
            Interpolation::Linear => ("LINEAR", 1, 0.0, false),
            Interpolation::Cubic {
                coefficient,
                exclude_outside,
            } => ("CUBIC", 2, coefficient, exclude_outside),
        };
        let round = match self.interpolation {
            Interpolation::Nearest(NearestMode::Floor) => "floorf(x)",
            Interpolation::Nearest(NearestMode::Ceil) => "ceilf(x)",
            Interpolation::Nearest(NearestMode::RoundPreferCeil) => "floorf(__fadd_rn(x, 0.5f))",
            _ => "ceilf(__fsub_rn(x, 0.5f))",
        };
        let (weight, f) = if self.weight() == DType::F64 {
            ("double", "")
        } else {
            ("float", "f")
        };
        // writing to a String cannot fail
        let _ = writeln!(
            out,
            "#define NEAREST 0\n#define LINEAR 1\n#define CUBIC 2\n#define FILTER {filter}"
        );
        let _ = writeln!(out, "#define ROUND(x) {round}");
        let _ = writeln!(out, "typedef {weight} WEIGHT;");
        let _ = writeln!(
            out,
            "#define FABS fabs{f}\n#define CEIL ceil{f}\n#define FLOOR floor{f}"
        );
        let _ = writeln!(
            out,
            "constexpr WEIGHT RADIUS = {radius}, COEFFICIENT = (WEIGHT){coefficient:?};"
        );
        let _ = writeln!(
            out,
            "constexpr bool ANTIALIAS = {}, EXCLUDE_OUTSIDE = {exclude};",
            self.antialias
        );
        let _ = writeln!(
            out,
            "constexpr int RESAMPLED = {}, RESAMPLED_OR_ONE = {};",
            self.axes.len(),
            self.axes.len().max(1)
        );
        // sums that become integers are settled on a grid, as on the host
        let value = match self.dtype {
            ty if ty.is_float() => "(VALUE)(v)",
            DType::Bool => "(rint((v) * 1048576.0) != 0)",
            _ => "saturate<VALUE>(rint((v) * 1048576.0) / 1048576.0)",
        };
        let _ = writeln!(out, "#define AS_VALUE(v) {value}");
        let _ = writeln!(out, "#define OUTSIDE {}", cuda::literal(self.outside()));
        for &a in &self.axes {
            let scale = self.scales[a].map_or("__fdiv_rn(m, n)".to_owned(), |s| {
                literal(s.max(LEAST_SCALE))
            });
            let _ = writeln!(
                out,
                "__device__ __forceinline__ float scale{a}(float n, float m) {{ return {scale}; }}\n\
                 __device__ __forceinline__ float position{a}(float o, float n, float m) {{\n{}}}",
                position_text(self, a)
            );
        }
        out.push_str("#define SET_AXES");
        for (j, &a) in self.axes.iter().enumerate() {
            let keep = if self.may_keep(a) {
                format!("in{a} == d{a}")
            } else {
                "false".into()
            };
            let _ = write!(
                out,
                " \\\n    if ({keep}) {{ \\\n        axes[{j}] = keep(p[{a}], in{a}, x_s{a}); \\\n    }} else {{ \\\n        \
                 const float position = position{a}(p[{a}], in{a}, d{a}); \\\n        \
                 axes[{j}] = prepare(position, scale{a}(in{a}, d{a}), in{a}, x_s{a}); \\\n"
            );
            if self.region(a).is_some() {
                let _ = writeln!(
                    out,
                    "        outside = outside || !(position >= 0 && position <= (float)(in{a} - 1)); \\"
                );
            }
            out.push_str("    }");
        }
        for a in (0..self.rank).filter(|a| !self.axes.contains(a)) {
            let _ = write!(out, " \\\n    at += minimum(p[{a}], in{a} - 1) * x_s{a};");
        }
        out.push('\n');
        out
    }

    fn tiles(&self, args: Option<&Args<'_>>, props: &DeviceProps) -> Vec<Tile> {
        walk::tiles(
            walk::work(args, self.rank),
            if self.is_nearest() { 4 } else { 1 },
            props,
        )
    }

    fn geometry(&self, tile: &Tile, args: Option<&Args<'_>>, props: &DeviceProps) -> LaunchConfig {
        walk::geometry(tile, walk::work(args, self.rank), props)
    }

    fn cost(&self, args: &Args<'_>) -> Cost {
        let extents = self.extents(args);
        let count = walk::points(&extents) as f64;
        let size = |ty: DType| f64::from(ty.bits()) / 8.0;
        let mut bytes = walk::points(&args.ints("in", self.rank)) as f64 * size(self.dtype);
        bytes += count * size(self.epilogue.dtype());
        for (i, ty) in self.epilogue.inputs().iter().skip(1).enumerate() {
            bytes += view_bytes(args, &format!("e{i}"), &extents, *ty);
        }
        let taps = match self.interpolation {
            Interpolation::Nearest(_) => 0,
            Interpolation::Linear => 2i32.saturating_pow(self.axes.len() as u32),
            Interpolation::Cubic { .. } => 4i32.saturating_pow(self.axes.len() as u32),
        };
        let operations = count * (2.0 * f64::from(taps) + self.epilogue.operations() as f64);
        Cost {
            operations,
            bytes,
            tensor_cores: None,
        }
    }

    fn run(&self, args: &Args<'_>, operands: &mut [Operand<'_>]) -> Result<(), TwinError> {
        let (mut writes, reads) = lanes::split_operands(operands);
        let ([y], [x, extras @ ..]) = (&mut writes[..], &reads[..]) else {
            return Err(TwinError("resize needs a result and an operand".into()));
        };
        let (extents, input) = (self.extents(args), args.ints("in", self.rank));
        let x = Elements::of(self.dtype, x)?;
        let view = Strided::of(args, "x", self.rank);
        lanes::check("x", &view, &input, x.len())?;
        if walk::points(&extents) == 0 {
            return Ok(());
        }
        if walk::points(&input) == 0 {
            return Err(TwinError(
                "nothing can be resampled from no elements".into(),
            ));
        }
        let taps: Result<Vec<Taps>, _> = (0..self.rank)
            .map(|axis| {
                Axis {
                    t: self,
                    axis,
                    input: input[axis],
                    output: extents[axis],
                }
                .taps()
            })
            .collect();
        let run = Run {
            x,
            view: &view,
            input: &input,
            taps: taps?,
        };
        let scalar = bespoke_ir::op::map::scalar_bytes(self.outside());
        let target = Target {
            bytes: y,
            strided: Strided::of(args, "y", self.rank),
            extents,
        };
        if self.is_nearest() {
            let outside = One::new(self.dtype, &scalar);
            let outside = outside.elements()?;
            return walk::rows(
                target,
                args,
                &self.epilogue,
                extras,
                self.dtype,
                &|position, axis, count, out| {
                    run.nearest(position, axis, count, outside, out);
                },
            );
        }
        let outside = self.outside().as_f64();
        let narrow = matches!(self.dtype, DType::F16 | DType::BF16);
        let raw = if narrow { DType::F32 } else { self.dtype };
        walk::rows(
            target,
            args,
            &self.epilogue,
            extras,
            raw,
            &|position, axis, count, out| {
                run.blend(position, axis, count, outside, out);
            },
        )
    }
}

/// The body of `position{axis}(o, n, m)`: the twin's `Axis::position` with every operation rounded on its own.
fn position_text(t: &Resize, axis: usize) -> String {
    let width = t.scales[axis].map_or("m".to_owned(), |s| format!("__fmul_rn({}, n)", literal(s)));
    let scale = format!("scale{axis}(n, m)");
    let half = format!("__fsub_rn(__fdiv_rn(__fadd_rn(o, 0.5f), {scale}), 0.5f)");
    if let Some((start, end)) = t.region(axis) {
        let (start_text, sum, span) = (
            literal(start),
            literal(0.5 * (start + end)),
            literal(end - start),
        );
        return format!(
            "    const float width = {width}, last = __fsub_rn(n, 1.0f);\n    \
             if (width == 1.0f) return __fmul_rn({sum}, last);\n    \
             const float way = __fdiv_rn(__fmul_rn(__fmul_rn(o, {span}), last), __fsub_rn(width, 1.0f));\n    \
             return __fadd_rn(__fmul_rn({start_text}, last), way);\n"
        );
    }
    match t.coordinates {
        CoordinateMode::HalfPixel => format!("    return {half};\n"),
        CoordinateMode::PytorchHalfPixel => format!("    return m == 1.0f ? 0.0f : {half};\n"),
        CoordinateMode::HalfPixelSymmetric => format!(
            "    const float offset = __fmul_rn(__fdiv_rn(n, 2.0f), __fsub_rn(1.0f, __fdiv_rn(m, {width})));\n    \
             return __fadd_rn(offset, {half});\n"
        ),
        CoordinateMode::AlignCorners => format!(
            "    const float width = {width};\n    \
             return width == 1.0f ? 0.0f : __fdiv_rn(__fmul_rn(o, __fsub_rn(n, 1.0f)), __fsub_rn(width, 1.0f));\n"
        ),
        CoordinateMode::Asymmetric => format!("    return __fdiv_rn(o, {scale});\n"),
        CoordinateMode::TfHalfPixelForNn => {
            format!("    return __fdiv_rn(__fadd_rn(o, 0.5f), {scale});\n")
        }
    }
}

/// Random runs of every mode.
pub fn samples(rng: &mut Rng) -> Vec<Sample> {
    cases(rng)
        .into_iter()
        .map(|(_, _, sample)| sample)
        .collect()
}

fn cases(rng: &mut Rng) -> Vec<(bespoke_ir::op::Resize, Resize, Sample)> {
    use CoordinateMode::*;
    let interpolations = [
        Interpolation::Nearest(NearestMode::RoundPreferFloor),
        Interpolation::Nearest(NearestMode::RoundPreferCeil),
        Interpolation::Nearest(NearestMode::Floor),
        Interpolation::Nearest(NearestMode::Ceil),
        Interpolation::Linear,
        Interpolation::Cubic {
            coefficient: -0.75,
            exclude_outside: false,
        },
        Interpolation::Cubic {
            coefficient: -0.5,
            exclude_outside: true,
        },
    ];
    let coordinates = [
        HalfPixel,
        HalfPixelSymmetric,
        PytorchHalfPixel,
        AlignCorners,
        Asymmetric,
        TfHalfPixelForNn,
    ];
    let types = [
        DType::F32,
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::F64,
        DType::U8,
        DType::I32,
    ];
    let mut all = Vec::new();
    for interpolation in interpolations {
        for coordinates in coordinates {
            let dtype = types[rng.int(0, types.len() as i64 - 1) as usize];
            all.push(case(rng, interpolation, coordinates, dtype));
        }
    }
    all
}

fn case(
    rng: &mut Rng,
    interpolation: Interpolation,
    coordinates: CoordinateMode,
    dtype: DType,
) -> (bespoke_ir::op::Resize, Resize, Sample) {
    let rank = rng.int(1, 4) as usize;
    let crop = rng.chance(6);
    let (mut input, mut extents, mut scales, mut regions) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rank {
        let n = rng.int(1, 12);
        input.push(n);
        match rng.int(0, 3) {
            0 => {
                scales.push(Some(1.0));
                extents.push(n);
            }
            1 => {
                scales.push(None);
                extents.push(n);
            }
            2 => {
                scales.push(None);
                extents.push(rng.int(1, 25));
            }
            _ => {
                let scale = [0.4f32, 0.6, 1.5, 2.0, 2.7][rng.int(0, 4) as usize];
                let out = (n as f32 * scale).floor() as i64;
                scales.push(if out > 0 { Some(scale) } else { None });
                extents.push(out.max(1));
            }
        }
        let region = [(0.0, 1.0), (0.25, 0.75), (-0.5, 1.25), (0.9, 0.1)][rng.int(0, 3) as usize];
        regions.push(region);
    }
    let op = bespoke_ir::op::Resize {
        dims: extents.iter().map(|&d| d.into()).collect(),
        scales,
        interpolation,
        coordinates,
        antialias: rng.chance(3),
        crop: crop.then_some((regions, 7.5)),
    };
    let template = Resize::new(&op, dtype, random::epilogue(rng, dtype, rank));
    let mut args = Arguments::new(&template);
    random::ints(&mut args, "d", &extents);
    random::ints(&mut args, "in", &input);
    let mut channels_last: Vec<usize> = (0..rank).collect();
    if rank > 2 {
        channels_last.remove(1);
        channels_last.push(1);
    }
    for (name, dims) in [("x", &input), ("y", &extents)] {
        if rng.chance(2) {
            args.tensor_in_order(rng, name, dims, &[], &channels_last);
        } else {
            args.tensor(rng, name, dims, &[]);
        }
    }
    let every: Vec<usize> = (0..rank).collect();
    for i in 1..template.epilogue.inputs().len() {
        args.tensor(rng, &format!("e{}", i - 1), &extents, &every);
    }
    let tolerance = arguments::tolerance(template.epilogue.dtype());
    (
        op,
        template.clone(),
        args.finish(Arc::new(template), tolerance),
    )
}

#[cfg(test)]
mod tests;
