//! Resampling.
//!
//! Each axis on its own turns an output position into weighted input positions; the result is the sum over their
//! product. Positions beyond the input read the nearest element. Three things are worth knowing:
//!
//! - Positions are computed in `f32`, in the order in which the standard writes the formulas: a nearest neighbour
//!   hangs on their last bit. Weights are computed in `f64` from them.
//! - `AlignCorners`, `HalfPixelSymmetric` and cropping divide by the *exact* output width, `scale · in`, which a model
//!   that gives a scale may make fractional; this is what the standard's test data holds.
//! - Integers are truncated, as a conversion does, after the sum is rounded to a multiple of 2⁻²⁰: a sum that is an
//!   integer but for the order of its terms counts as one.

use bespoke_ir::op::Resize;
use bespoke_ir::op::resize::{CoordinateMode, Interpolation, NearestMode};

use super::Evaluate;
use crate::MAX_ELEMENTS;
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::index::{flat, map_positions, strides};
use crate::tensor::{Number, Tensor};

/// Sums that become integers are first rounded to multiples of 1 / `GRID`.
const GRID: f64 = (1 << 20) as f64;

/// Input positions and their weights; `None` outside a cropped region.
type Sources = Option<Vec<(i64, f64)>>;

/// One axis of a [`Resize`] with its extents.
#[derive(Clone, Copy, Debug)]
struct Axis<'a> {
    op: &'a Resize,
    axis: usize,
    input: i64,
    output: i64,
}

impl Axis<'_> {
    fn scale(&self) -> f32 {
        self.op.scales[self.axis].unwrap_or(self.output as f32 / self.input as f32)
    }

    fn region(&self) -> Option<(f32, f32)> {
        self.op.crop.as_ref().map(|c| c.0[self.axis])
    }

    /// Whether the axis reads itself.
    fn is_kept(&self) -> bool {
        self.input == self.output
            && self.op.scales[self.axis].is_none_or(|s| s == 1.0)
            && self.region().is_none_or(|r| r == (0.0, 1.0))
    }

    /// The input position that output position `o` reads.
    fn position(&self, o: i64) -> f32 {
        let (o, n, m, scale) = (o as f32, self.input as f32, self.output as f32, self.scale());
        let width = self.op.scales[self.axis].map_or(m, |s| s * n);
        if let Some((start, end)) = self.region() {
            if width == 1.0 {
                return 0.5 * (start + end) * (n - 1.0);
            }
            return start * (n - 1.0) + o * (end - start) * (n - 1.0) / (width - 1.0);
        }
        match self.op.coordinates {
            CoordinateMode::HalfPixel => (o + 0.5) / scale - 0.5,
            CoordinateMode::HalfPixelSymmetric => {
                let offset = n / 2.0 * (1.0 - m / width);
                offset + ((o + 0.5) / scale - 0.5)
            }
            CoordinateMode::PytorchHalfPixel if self.output == 1 => 0.0,
            CoordinateMode::PytorchHalfPixel => (o + 0.5) / scale - 0.5,
            CoordinateMode::AlignCorners if width == 1.0 => 0.0,
            CoordinateMode::AlignCorners => o * (n - 1.0) / (width - 1.0),
            CoordinateMode::Asymmetric => o / scale,
            CoordinateMode::TfHalfPixelForNn => (o + 0.5) / scale,
        }
    }

    fn sources(&self, o: i64) -> Sources {
        if self.is_kept() {
            return Some(vec![(o, 1.0)]);
        }
        let x = self.position(o);
        let last = (self.input - 1) as f32;
        if self.region().is_some() && !(0.0..=last).contains(&x) {
            return None;
        }
        let mut taps = self.taps(x);
        if let Interpolation::Cubic { exclude_outside: true, .. } = self.op.interpolation {
            taps.retain(|t| (0..self.input).contains(&t.0));
        }
        let sum: f64 = taps.iter().map(|t| t.1).sum();
        Some(taps.iter().map(|t| (t.0.clamp(0, self.input - 1), t.1 / sum)).collect())
    }

    /// Positions and weights before the ends of the input are looked at.
    fn taps(&self, x: f32) -> Vec<(i64, f64)> {
        type Filter = fn(f64, f64) -> f64;
        let (filter, radius, a): (Filter, f64, f64) = match self.op.interpolation {
            Interpolation::Nearest(mode) => return vec![(nearest(mode, x), 1.0)],
            Interpolation::Linear => (|x, _| (1.0 - x).max(0.0), 1.0, 0.0),
            Interpolation::Cubic { coefficient, .. } => (keys, 2.0, coefficient),
        };
        let shrink = if self.op.antialias { f64::from(self.scale()).min(1.0) } else { 1.0 };
        let x = f64::from(x);
        let (from, to) = ((x - radius / shrink).ceil() as i64, (x + radius / shrink).floor() as i64);
        (from..=to).map(|i| (i, filter((i as f64 - x).abs() * shrink, a))).collect()
    }
}

fn nearest(mode: NearestMode, x: f32) -> i64 {
    let rounded = match mode {
        NearestMode::Floor => x.floor(),
        NearestMode::Ceil => x.ceil(),
        // the integer in [x − ½, x + ½); ties go down or up
        NearestMode::RoundPreferFloor => (x - 0.5).ceil(),
        NearestMode::RoundPreferCeil => (x + 0.5).floor(),
    };
    rounded as i64
}

/// Keys' cubic convolution kernel at a distance, with coefficient `a` (IEEE Trans. ASSP 29(6), 1981).
fn keys(x: f64, a: f64) -> f64 {
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

/// For one axis of `op` with these extents, what each output position reads.
///
/// # Errors
///
/// The text of what is wrong: an axis without elements, or a scale that is not positive or shrinks without bound.
fn axis_sources(op: &Resize, axis: usize, input: i64, output: i64) -> Result<Vec<Sources>, String> {
    let axis = Axis { op, axis, input, output };
    if output > 0 && !axis.is_kept() {
        if input < 1 {
            return Err("an axis without elements cannot be resampled".into());
        }
        let scale = f64::from(axis.scale());
        // also refuses NaN
        if !(scale > 1.0 / MAX_ELEMENTS as f64 && scale.is_finite()) {
            return Err(format!("cannot resample by a factor of {scale}"));
        }
    }
    Ok((0..output).map(|o| axis.sources(o)).collect())
}

impl Evaluate for Resize {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let x = inputs[0];
        if cx.dims().contains(&0) {
            return Ok(vec![Tensor::zeros(cx.dtype(), cx.dims())?]);
        }
        let mut axes = Vec::with_capacity(x.rank());
        for (a, (&input, &output)) in x.dims().iter().zip(cx.dims()).enumerate() {
            axes.push(axis_sources(self, a, input, output).map_err(|reason| cx.error(reason))?);
        }
        let outside = Number::F(self.crop.as_ref().map_or(0.0, |c| c.1.into()));
        let exact = matches!(self.interpolation, Interpolation::Nearest(_));
        let own = strides(x.dims());
        let mut position = vec![0; x.rank()];
        let elements = map_positions(cx.dims(), |p| {
            let mut sources = Vec::with_capacity(p.len());
            for (axis, &o) in axes.iter().zip(p) {
                match &axis[o as usize] {
                    Some(taps) => sources.push(&taps[..]),
                    None => return Ok::<_, ReferenceError>(outside),
                }
            }
            if exact {
                let at: Vec<i64> = sources.iter().map(|taps| taps[0].0).collect();
                return Ok(x.get(flat(&own, &at)));
            }
            let sum = blend(x, &own, &sources, &mut position);
            Ok(Number::F(if x.dtype().is_float() { sum } else { (sum * GRID).round_ties_even() / GRID }))
        })?;
        Ok(vec![Tensor::new(cx.dtype(), cx.dims(), elements)?])
    }
}

/// The weighted sum over the axes from `position`'s first unset one on; `sources` are those of the remaining axes.
fn blend(x: &Tensor, strides: &[i64], sources: &[&[(i64, f64)]], position: &mut [i64]) -> f64 {
    let axis = position.len() - sources.len();
    let Some((taps, rest)) = sources.split_first() else {
        return x.get(flat(strides, position)).to_f64();
    };
    let mut sum = 0.0;
    for &(at, weight) in *taps {
        // an element without weight does not count, not even if it is infinite
        if weight != 0.0 {
            position[axis] = at;
            sum += weight * blend(x, strides, rest, position);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn op(dims: &[i64], scales: &[Option<f32>], interpolation: Interpolation) -> Resize {
        Resize {
            dims: dims.iter().map(|&d| d.into()).collect(),
            scales: scales.to_vec(),
            interpolation,
            coordinates: CoordinateMode::HalfPixel,
            antialias: false,
            crop: None,
        }
    }

    const NEAREST: Interpolation = Interpolation::Nearest(NearestMode::RoundPreferFloor);
    const CUBIC: Interpolation = Interpolation::Cubic { coefficient: -0.75, exclude_outside: false };

    fn from_one(dims: &[i64]) -> Tensor {
        f32s(dims, &iota(dims).to_f64s().iter().map(|v| v + 1.0).collect::<Vec<_>>())
    }

    #[test]
    fn nearest_repeats_and_drops() {
        let x = from_one(&[2, 2]);
        let y = eval(op(&[4, 6], &[Some(2.0), Some(3.0)], NEAREST), &[&x]);
        let (a, b) = ([1., 1., 1., 2., 2., 2.], [3., 3., 3., 4., 4., 4.]);
        assert_eq!(y, f32s(&[4, 6], &[a, a, b, b].concat()));
        // 4 → 2 by 0.6: positions 1/3 and 2
        let y = eval(op(&[2], &[Some(0.6)], NEAREST), &[&from_one(&[4])]);
        assert_eq!(y, f32s(&[2], &[1., 3.]));
        // 3 → 4 reads at 0, 0.75, 1.5 and 2.25
        for (mode, want) in [
            (NearestMode::Floor, [1., 1., 2., 3.]),
            (NearestMode::Ceil, [1., 2., 3., 3.]),
            (NearestMode::RoundPreferFloor, [1., 2., 2., 3.]),
            (NearestMode::RoundPreferCeil, [1., 2., 3., 3.]),
        ] {
            let interpolation = Interpolation::Nearest(mode);
            let r = Resize { coordinates: CoordinateMode::Asymmetric, ..op(&[4], &[None], interpolation) };
            assert_eq!(eval(r, &[&from_one(&[3])]).to_f64s(), want, "{mode:?}");
        }
    }

    #[test]
    fn large_integers_survive_nearest() {
        let x = i64s(&[1], &[i64::MAX]);
        assert_eq!(eval(op(&[2], &[None], NEAREST), &[&x]), i64s(&[2], &[i64::MAX; 2]));
    }

    #[test]
    fn linear_follows_the_standard_s_examples() {
        let x = from_one(&[2, 2]);
        let y = eval(op(&[4, 4], &[Some(2.0); 2], Interpolation::Linear), &[&x]);
        let rows = [1., 1.25, 1.75, 2.0, 1.5, 1.75, 2.25, 2.5, 2.5, 2.75, 3.25, 3.5, 3., 3.25, 3.75, 4.];
        near(&y, &rows, 1e-6);
        let corners = Resize { coordinates: CoordinateMode::AlignCorners, ..op(&[4], &[Some(2.0)], Interpolation::Linear) };
        near(&eval(corners, &[&from_one(&[2])]), &[1., 4. / 3., 5. / 3., 2.], 1e-6);
        // 4 → 2 by 0.6: the exact width is 2.4, so the last position is 3/1.4
        let corners = Resize { coordinates: CoordinateMode::AlignCorners, ..op(&[2], &[Some(0.6)], Interpolation::Linear) };
        near(&eval(corners, &[&from_one(&[4])]), &[1., 3.142_857], 1e-5);
    }

    #[test]
    fn the_other_coordinates() {
        let x = from_one(&[4]);
        let with = |coordinates, out: i64, scale| {
            let r = Resize { coordinates, ..op(&[out], &[scale], Interpolation::Linear) };
            eval(r, &[&x]).to_f64s()
        };
        // one element: the middle for half pixels, the first for pytorch's
        assert_eq!(with(CoordinateMode::HalfPixel, 1, None), [2.5]);
        assert_eq!(with(CoordinateMode::PytorchHalfPixel, 1, None), [1.0]);
        assert_eq!(with(CoordinateMode::PytorchHalfPixel, 2, None), [1.5, 3.5]);
        assert_eq!(with(CoordinateMode::Asymmetric, 2, None), [1.0, 3.0]);
        assert_eq!(with(CoordinateMode::TfHalfPixelForNn, 2, None), [2.0, 4.0]);
        // exact width 2.4: positions move by 2·(1 − 2/2.4) = 1/3
        let y = with(CoordinateMode::HalfPixelSymmetric, 2, Some(0.6));
        assert!((y[0] - 5. / 3.).abs() < 1e-6 && (y[1] - 10. / 3.).abs() < 1e-6, "{y:?}");
    }

    #[test]
    fn cubic_weights_are_keys_() {
        // halfway between elements the weights are −3/32, 19/32, 19/32, −3/32
        let x = f32s(&[4], &[0., 32., 0., 64.]);
        let mid = Resize { coordinates: CoordinateMode::AlignCorners, ..op(&[7], &[None], CUBIC) };
        let y = eval(mid.clone(), &[&x]).to_f64s();
        assert_eq!((y[2], y[3], y[4]), (32., 19. - 6., 0.));
        // beyond the end: the first element twice, or left out
        assert_eq!(y[1], 19.0);
        let out = Resize {
            interpolation: Interpolation::Cubic { coefficient: -0.75, exclude_outside: true },
            ..mid
        };
        let y = eval(out, &[&x]).to_f64s();
        assert!((y[1] - 19.0 / (35. / 32.)).abs() < 1e-5);
    }

    #[test]
    fn antialiasing_widens_the_support() {
        // the standard's example: 4×4 from 1 by 0.6
        let r = Resize { antialias: true, ..op(&[2, 2], &[Some(0.6); 2], Interpolation::Linear) };
        near(&eval(r, &[&from_one(&[4, 4])]), &[2.875, 4.5, 9.375, 11.0], 1e-5);
        // growing is unchanged
        let grow = op(&[8], &[None], CUBIC);
        let x = f32s(&[4], &[1., -2., 5., 0.]);
        assert_eq!(eval(Resize { antialias: true, ..grow.clone() }, &[&x]), eval(grow, &[&x]));
    }

    #[test]
    fn cropping_reads_a_region() {
        let r = Resize {
            crop: Some((vec![(0.25, 1.25)], 10.0)),
            ..op(&[5], &[None], Interpolation::Linear)
        };
        // positions 1, 2, 3, 4, 5 of 0..=4
        assert_eq!(eval(r, &[&iota(&[5])]), f32s(&[5], &[1., 2., 3., 4., 10.]));
        let one = Resize { crop: Some((vec![(0.5, 1.0)], 0.0)), ..op(&[1], &[None], Interpolation::Linear) };
        assert_eq!(eval(one, &[&iota(&[5])]), f32s(&[1], &[3.]));
    }

    #[test]
    fn impossible_scales_are_errors() {
        for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-30] {
            assert!(try_eval(op(&[2], &[Some(scale)], Interpolation::Linear), &[&iota(&[3])]).is_err());
        }
        assert!(try_eval(op(&[2], &[None], NEAREST), &[&iota(&[0])]).is_err());
        assert!(eval(op(&[0], &[None], NEAREST), &[&iota(&[0])]).is_empty());
    }
}
