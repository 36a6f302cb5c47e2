//! Normalisation over a set of axes.

use bespoke_ir::op::Normalize;

use super::Evaluate;
use super::reduce::groups;
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::tensor::{Number, Tensor};

impl Evaluate for Normalize {
    fn evaluate(&self, inputs: &[&Tensor], _: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let x = inputs[0];
        let values = x.to_f64s();
        let mut y = vec![0.0; values.len()];
        for group in groups(x.dims(), &self.axes) {
            let count = group.len() as f64;
            let mean = if self.center { group.iter().map(|&i| values[i]).sum::<f64>() / count } else { 0.0 };
            let variance = group.iter().map(|&i| (values[i] - mean).powi(2)).sum::<f64>() / count;
            for &i in &group {
                y[i] = (values[i] - mean) / (variance + self.epsilon).sqrt();
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
    fn rows_get_mean_zero_and_variance_one() {
        let x = f32s(&[2, 2], &[1., 3., -10., 10.]);
        let op = Normalize { axes: vec![1], epsilon: 0.0, center: true };
        near(&eval(op.clone(), &[&x]), &[-1., 1., -1., 1.], 0.0);
        let rms = Normalize { center: false, ..op.clone() };
        let r = 5f64.sqrt();
        near(&eval(rms, &[&x]), &[1. / r, 3. / r, -1., 1.], 1e-7);
        // mean 1, variance 51.5
        let all = Normalize { axes: vec![0, 1], epsilon: 1.5, ..op };
        let s = 53f64.sqrt();
        near(&eval(all, &[&x]), &[0., 2. / s, -11. / s, 9. / s], 1e-6);
    }
}
