//! Softmax along one axis.

use bespoke_ir::op::Softmax;

use super::Evaluate;
use super::reduce::groups;
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::tensor::{Number, Tensor};

impl Evaluate for Softmax {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let x = inputs[0];
        if !x.dtype().is_float() {
            return Err(cx.error(format!("is not defined on {}", x.dtype())));
        }
        let values = x.to_f64s();
        let mut y = vec![0.0; values.len()];
        for group in groups(x.dims(), &[self.axis]) {
            // a NaN element makes the sum NaN, whatever maximum is subtracted
            let max = group.iter().map(|&i| values[i]).fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = group.iter().map(|&i| (values[i] - max).exp()).sum();
            for &i in &group {
                y[i] = if self.log { values[i] - max - sum.ln() } else { (values[i] - max).exp() / sum };
            }
        }
        Ok(vec![Tensor::new(x.dtype(), x.dims(), y.into_iter().map(Number::F))?])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn shares_sum_to_one() {
        let x = f32s(&[2, 2], &[0., 3f64.ln(), 1000., 1000.]);
        near(&eval(Softmax { axis: 1, log: false }, &[&x]), &[0.25, 0.75, 0.5, 0.5], 1e-6);
        let l = [0.25f64.ln(), 0.75f64.ln(), 0.5f64.ln(), 0.5f64.ln()];
        near(&eval(Softmax { axis: 1, log: true }, &[&x]), &l, 1e-6);
        near(&eval(Softmax { axis: 0, log: false }, &[&x]), &[0., 0., 1., 1.], 1e-6);
        let none = f32s(&[1, 2], &[f64::NEG_INFINITY; 2]);
        assert!(eval(Softmax { axis: 1, log: false }, &[&none]).to_f64s().iter().all(|v| v.is_nan()));
        assert!(try_eval(Softmax { axis: 0, log: false }, &[&i64s(&[1], &[1])]).is_err());
    }
}
