//! Pooling.
//!
//! Padding never takes part in a maximum; NaN beats every element. A mean is taken over the taps inside the input, or,
//! with `count_include_pad`, over those inside input and pads: the elements by which `ceil` lets the last window reach
//! beyond the pads never count. A window without taps yields −∞ (the smallest integer), NaN and 0 for maximum, mean
//! and norm.

use std::ops::Range;

use bespoke_ir::DType;
use bespoke_ir::op::Pool;
use bespoke_ir::op::pool::PoolKind;

use super::Evaluate;
use super::arg_reduce::beats;
use super::conv::Taps;
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::index::{flat, for_positions, map_positions, strides};
use crate::round::int_range;
use crate::tensor::{Number, Tensor};

impl Evaluate for Pool {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let x = inputs[0];
        if let PoolKind::Lp(p @ ..1) = self.kind {
            return Err(cx.error(format!("there is no l{p} norm")));
        }
        let axes = self.kernel.len();
        let begins = cx.values(self.window.pads.iter().map(|p| &p.0))?;
        let ends = cx.values(self.window.pads.iter().map(|p| &p.1))?;
        let own = strides(x.dims());
        let order = match self.kind {
            PoolKind::Max { column_major: true, .. } => column_major_strides(x.dims()),
            _ => own.clone(),
        };
        let spatial = &x.dims()[2..];
        // each window's value and the position of its maximum
        let windows = map_positions(cx.dims(), |p| {
            let taps: Vec<Taps> =
                (0..axes).map(|i| Taps::new(&self.window, i, begins[i], p[2 + i])).collect();
            let inside: Vec<Range<i64>> =
                (0..axes).map(|i| taps[i].within(self.kernel[i], 0, spatial[i].into())).collect();
            let counts: Vec<i64> = inside.iter().map(|r| r.end - r.start).collect();
            let (mut sum, mut norm) = (0.0, 0.0);
            let mut best: Option<(Number, Vec<i64>)> = None;
            let mut position = p.to_vec();
            for_positions(&counts, |t| {
                for i in 0..axes {
                    position[2 + i] = taps[i].at(inside[i].start + t[i]);
                }
                let v = x.get(flat(&own, &position));
                sum += v.to_f64();
                if let PoolKind::Lp(p) = self.kind {
                    norm += v.to_f64().abs().powf(p as f64);
                }
                // the first of equal elements stays
                if best.as_ref().is_none_or(|b| beats(v, b.0, true)) {
                    best = Some((v, position.clone()));
                }
            });
            let padded: f64 = (0..axes)
                .map(|i| {
                    let end = i128::from(spatial[i]) + i128::from(ends[i]);
                    let r = taps[i].within(self.kernel[i], -i128::from(begins[i]), end);
                    (r.end - r.start) as f64
                })
                .product();
            let real: f64 = counts.iter().map(|&c| c as f64).product();
            let value = match self.kind {
                PoolKind::Max { .. } => best.as_ref().map_or(lowest(x.dtype()), |b| b.0),
                PoolKind::Average { count_include_pad: true } => Number::F(sum / padded),
                PoolKind::Average { count_include_pad: false } => Number::F(sum / real),
                PoolKind::Lp(p) => Number::F(norm.powf(1.0 / p as f64)),
            };
            let at = best.map_or(0, |b| flat(&order, &b.1));
            Ok::<_, ReferenceError>((value, Number::I(at as i128)))
        })?;
        let mut results = vec![Tensor::new(cx.dtype(), cx.dims(), windows.iter().map(|w| w.0))?];
        if let PoolKind::Max { indices: true, .. } = self.kind {
            results.push(Tensor::new(DType::I64, cx.dims(), windows.iter().map(|w| w.1))?);
        }
        Ok(results)
    }
}

/// What no element is smaller than.
pub(super) fn lowest(dtype: DType) -> Number {
    if dtype.is_float() { Number::F(f64::NEG_INFINITY) } else { Number::I(int_range(dtype).0) }
}

/// Strides over `[N, C, d…]` where the first spatial axis is the fastest.
fn column_major_strides(dims: &[i64]) -> Vec<i64> {
    let mut strides = strides(dims);
    let mut stride = 1;
    for (s, d) in strides.iter_mut().zip(dims).skip(2) {
        *s = stride;
        stride *= d;
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use bespoke_ir::op::conv::Window;

    fn pool(kind: PoolKind, kernel: &[i64], stride: i64, pads: (i64, i64), ceil: bool) -> Pool {
        let n = kernel.len();
        let window = Window {
            strides: vec![stride; n],
            dilations: vec![1; n],
            pads: vec![(pads.0.into(), pads.1.into()); n],
        };
        Pool { kind, kernel: kernel.to_vec(), window, ceil }
    }

    const MAX: PoolKind = PoolKind::Max { indices: false, column_major: false };
    const MEAN: PoolKind = PoolKind::Average { count_include_pad: false };
    const MEAN_PADDED: PoolKind = PoolKind::Average { count_include_pad: true };

    #[test]
    fn the_standard_s_ceil_example() {
        // 4×4 from 1, 3×3 windows 2 apart: ceil adds a second row and column
        let x = eval_plus_one(&iota(&[1, 1, 4, 4]));
        let y = eval(pool(MAX, &[3, 3], 2, (0, 0), true), &[&x]);
        assert_eq!(y, f32s(&[1, 1, 2, 2], &[11., 12., 15., 16.]));
        let y = eval(pool(MEAN, &[3, 3], 2, (0, 0), true), &[&x]);
        assert_eq!(y, f32s(&[1, 1, 2, 2], &[6., 7.5, 12., 13.5]));
    }

    fn eval_plus_one(x: &Tensor) -> Tensor {
        f32s(x.dims(), &x.to_f64s().iter().map(|v| v + 1.0).collect::<Vec<_>>())
    }

    #[test]
    fn pads_count_only_when_asked_and_ceil_never() {
        let x = f32s(&[1, 1, 4], &[2., 4., 6., 8.]);
        assert_eq!(eval(pool(MEAN, &[3], 1, (1, 1), false), &[&x]), f32s(&[1, 1, 4], &[3., 4., 6., 7.]));
        assert_eq!(
            eval(pool(MEAN_PADDED, &[3], 1, (1, 1), false), &[&x]),
            f32s(&[1, 1, 4], &[2., 4., 6., 14. / 3.])
        );
        // windows at −1, 1, 3 of length 3; the last one reaches 6 > 4 + 1, so it has 2 elements with its pad
        assert_eq!(
            eval(pool(MEAN_PADDED, &[3], 2, (1, 1), true), &[&x]),
            f32s(&[1, 1, 3], &[2., 6., 4.])
        );
        let large = pool(MEAN, &[2], 1, (3, 0), false);
        assert!(eval(large, &[&x]).to_f64s()[0].is_nan());
    }

    #[test]
    fn maxima_know_where_they_came_from() {
        let x = f32s(&[1, 2, 2, 3], &[1., 9., 9., 0., 0., 0., -5., -4., -3., -2., -1., -1.]);
        let at = |column_major| {
            let op = pool(PoolKind::Max { indices: true, column_major }, &[2, 3], 1, (0, 0), false);
            try_eval(op, &[&x]).unwrap()
        };
        assert_eq!(at(false), [f32s(&[1, 2, 1, 1], &[9., -1.]), i64s(&[1, 2, 1, 1], &[1, 10])]);
        // columns of 2: (0, 1) is 2, and (1, 1) is 3 in the second channel
        assert_eq!(at(true)[1], i64s(&[1, 2, 1, 1], &[2, 9]));
    }

    #[test]
    fn dilated_maxima_norms_and_bytes() {
        let x = f32s(&[1, 1, 5], &[3., -9., 4., 1., 0.]);
        let mut op = pool(MAX, &[2], 1, (0, 0), false);
        op.window.dilations = vec![2];
        assert_eq!(eval(op, &[&x]), f32s(&[1, 1, 3], &[4., 1., 4.]));
        let y = eval(pool(PoolKind::Lp(2), &[3], 2, (0, 0), false), &[&x]);
        near(&y, &[106f64.sqrt(), 17f64.sqrt()], 1e-6);
        let b = Tensor::from_i64(DType::I8, &[1, 1, 2], &[-128, -127]).unwrap();
        assert_eq!(eval(pool(MAX, &[2], 1, (1, 0), false), &[&b]).to_i64s(), [-128, -127]);
        let n = f32s(&[1, 1, 3], &[1., f64::NAN, 2.]);
        assert!(eval(pool(MAX, &[3], 1, (0, 0), false), &[&n]).to_f64s()[0].is_nan());
        assert!(try_eval(pool(PoolKind::Lp(0), &[1], 1, (0, 0), false), &[&x]).is_err());
    }

    #[test]
    fn a_window_far_larger_than_the_input_costs_nothing() {
        let x = f32s(&[1, 1, 2], &[1., 2.]);
        let op = pool(MAX, &[1 << 40], 1, (0, (1 << 40) - 2), false);
        assert_eq!(eval(op, &[&x]), f32s(&[1, 1, 1], &[2.]));
    }
}
