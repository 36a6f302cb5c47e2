//! Convolution.

use std::ops::Range;

use bespoke_ir::op::Conv;
use bespoke_ir::op::conv::Window;

use super::Evaluate;
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::index::{flat, for_positions, map_positions, strides};
use crate::tensor::{Number, Tensor};

/// How a window lies along one axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taps {
    /// Position in the input of tap 0; negative in the leading pad.
    pub start: i128,
    /// Distance between taps.
    pub dilation: i128,
}

impl Taps {
    /// The window of output position `o` along an axis.
    pub(super) fn new(window: &Window, axis: usize, begin: i64, o: i64) -> Taps {
        Taps {
            start: i128::from(o) * i128::from(window.strides[axis]) - i128::from(begin),
            dilation: window.dilations[axis].into(),
        }
    }

    /// The taps among `0..kernel` that lie in `low..high`.
    pub(super) fn within(self, kernel: i64, low: i128, high: i128) -> Range<i64> {
        // first k with start + k·dilation ≥ bound
        let first = |bound: i128| {
            let ceil = -(self.start - bound).div_euclid(self.dilation);
            ceil.clamp(0, kernel.into()) as i64
        };
        let (from, to) = (first(low), first(high));
        from..to.max(from)
    }

    /// Position in the input of a tap.
    pub(super) fn at(self, tap: i64) -> i64 {
        (self.start + i128::from(tap) * self.dilation) as i64
    }
}

impl Evaluate for Conv {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let (x, w) = (inputs[0], inputs[1]);
        let axes = x.rank() - 2;
        let begins = cx.values(self.window.pads.iter().map(|p| &p.0))?;
        let filters = w.dims()[0];
        if filters % self.groups != 0 {
            return Err(cx.error(format!("{filters} filters in {} groups", self.groups)));
        }
        let (channels, per_group) = (w.dims()[1], (filters / self.groups).max(1));
        let (x_strides, w_strides) = (strides(x.dims()), strides(w.dims()));
        let (xs, ws) = (x.to_f64s(), w.to_f64s());
        let elements = map_positions(cx.dims(), |p| {
            let (n, k) = (p[0], p[1]);
            let taps: Vec<Taps> =
                (0..axes).map(|i| Taps::new(&self.window, i, begins[i], p[2 + i])).collect();
            let inside: Vec<Range<i64>> = (0..axes)
                .map(|i| taps[i].within(w.dims()[2 + i], 0, x.dims()[2 + i].into()))
                .collect();
            let counts: Vec<i64> = inside.iter().map(|r| r.end - r.start).collect();
            let mut sum = 0.0;
            for c in 0..channels {
                let x_base = flat(&x_strides[..2], &[n, k / per_group * channels + c]);
                let w_base = flat(&w_strides[..2], &[k, c]);
                for_positions(&counts, |t| {
                    let (mut xi, mut wi) = (x_base, w_base);
                    for i in 0..axes {
                        let tap = inside[i].start + t[i];
                        xi += (taps[i].at(tap) * x_strides[2 + i]) as usize;
                        wi += (tap * w_strides[2 + i]) as usize;
                    }
                    sum += xs[xi] * ws[wi];
                });
            }
            Ok::<_, ReferenceError>(Number::F(sum))
        })?;
        Ok(vec![Tensor::new(cx.dtype(), cx.dims(), elements)?])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn window(strides: &[i64], dilations: &[i64], pads: &[(i64, i64)]) -> Window {
        Window {
            strides: strides.to_vec(),
            dilations: dilations.to_vec(),
            pads: pads.iter().map(|&(b, e)| (b.into(), e.into())).collect(),
        }
    }

    #[test]
    fn a_box_filter_sums_neighbours() {
        // the example of the ONNX operator's page: 5×5 iota, 3×3 ones
        let (x, w) = (iota(&[1, 1, 5, 5]), f32s(&[1, 1, 3, 3], &[1.0; 9]));
        let padded = eval(Conv { window: window(&[1, 1], &[1, 1], &[(1, 1); 2]), groups: 1 }, &[&x, &w]);
        assert_eq!(padded.dims(), [1, 1, 5, 5]);
        assert_eq!(padded.to_f64s()[..7], [12.0, 21.0, 27.0, 33.0, 24.0, 33.0, 54.0]);
        let plain = eval(Conv { window: window(&[1, 1], &[1, 1], &[(0, 0); 2]), groups: 1 }, &[&x, &w]);
        assert_eq!(plain, f32s(&[1, 1, 3, 3], &[54., 63., 72., 99., 108., 117., 144., 153., 162.]));
    }

    #[test]
    fn groups_strides_and_dilations() {
        // two groups of one channel; taps 2 apart, windows 3 apart
        let x = f32s(&[1, 2, 6], &[0., 1., 2., 3., 4., 5., 10., 11., 12., 13., 14., 15.]);
        let w = f32s(&[2, 1, 2], &[1., 10., 1., -1.]);
        let op = Conv { window: window(&[3], &[2], &[(1, 0)]), groups: 2 };
        // windows start at −1 and 2
        assert_eq!(eval(op, &[&x, &w]), f32s(&[1, 2, 2], &[10., 42., -11., -2.]));
        let bad = Conv { window: Window::unit(1), groups: 2 };
        assert!(try_eval(bad, &[&x, &f32s(&[3, 1, 1], &[0.0; 3])]).is_err());
    }

    #[test]
    fn taps_are_clipped_without_counting() {
        let t = Taps { start: -5, dilation: 3 };
        assert_eq!(t.within(i64::MAX, 0, 4), 2..3);
        assert_eq!(t.within(2, 0, 4), 2..2);
        assert_eq!(t.within(3, -5, 4), 0..3);
        assert_eq!(t.at(2), 1);
    }
}
