//! Transposed convolution: every input element adds its multiple of the filter to the result.

use bespoke_ir::op::ConvTranspose;

use super::Evaluate;
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::index::{flat, for_positions, strides};
use crate::tensor::{Number, Tensor};

impl Evaluate for ConvTranspose {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let (x, w) = (inputs[0], inputs[1]);
        let axes = x.rank() - 2;
        let begins = cx.values(self.window.pads.iter().map(|p| &p.0))?;
        if x.dims()[1] % self.groups != 0 {
            return Err(cx.error(format!("{} channels in {} groups", x.dims()[1], self.groups)));
        }
        let channels = (x.dims()[1] / self.groups).max(1);
        let filters = w.dims()[1];
        let dims = cx.dims();
        let y_strides = strides(dims);
        let mut y = vec![0.0; crate::tensor::element_count(cx.dtype(), dims)?];
        let (w_strides, mut i) = (strides(w.dims()), 0);
        for_positions(x.dims(), |p| {
            let value = x.get(i).to_f64();
            i += 1;
            let group = p[1] / channels;
            for_positions(&w.dims()[1..], |t| {
                let mut at = flat(&y_strides[..2], &[p[0], group * filters + t[0]]);
                for a in 0..axes {
                    let o = i128::from(p[2 + a]) * i128::from(self.window.strides[a])
                        + i128::from(t[1 + a]) * i128::from(self.window.dilations[a])
                        - i128::from(begins[a]);
                    if o < 0 || o >= dims[2 + a].into() {
                        return;
                    }
                    at += (o as i64 * y_strides[2 + a]) as usize;
                }
                y[at] += value * w.get(flat(&w_strides[..1], &[p[1]]) + flat(&w_strides[1..], t)).to_f64();
            });
        });
        Ok(vec![Tensor::new(cx.dtype(), dims, y.into_iter().map(Number::F))?])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use bespoke_ir::op::conv::Window;

    fn op(stride: i64, pads: (i64, i64), output_padding: i64, groups: i64) -> ConvTranspose {
        let window =
            Window { strides: vec![stride], dilations: vec![1], pads: vec![(pads.0.into(), pads.1.into())] };
        ConvTranspose { window, output_padding: vec![output_padding], groups }
    }

    #[test]
    fn elements_spread_the_filter() {
        let x = f32s(&[1, 1, 3], &[1., 2., 3.]);
        let w = f32s(&[1, 1, 3], &[1., 10., 100.]);
        assert_eq!(eval(op(1, (0, 0), 0, 1), &[&x, &w]), f32s(&[1, 1, 5], &[1., 12., 123., 230., 300.]));
        assert_eq!(
            eval(op(2, (0, 0), 1, 1), &[&x, &w]),
            f32s(&[1, 1, 8], &[1., 10., 102., 20., 203., 30., 300., 0.])
        );
        assert_eq!(eval(op(1, (1, 2), 0, 1), &[&x, &w]), f32s(&[1, 1, 2], &[12., 123.]));
    }

    #[test]
    fn groups_keep_apart() {
        let x = f32s(&[1, 2, 1], &[2., 3.]);
        let w = f32s(&[2, 2, 1], &[1., 10., 100., 1000.]);
        assert_eq!(eval(op(1, (0, 0), 0, 2), &[&x, &w]), f32s(&[1, 4, 1], &[2., 20., 300., 3000.]));
        assert_eq!(eval(op(1, (0, 0), 0, 1), &[&x, &w]), f32s(&[1, 2, 1], &[302., 3020.]));
    }
}
