//! Running sum along an axis.

use bespoke_ir::BinaryOp;
use bespoke_ir::op::CumSum;

use super::Evaluate;
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::index::{flat, map_positions, strides};
use crate::tensor::{Number, Tensor};

impl Evaluate for CumSum {
    fn evaluate(&self, inputs: &[&Tensor], _: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let x = inputs[0];
        let (own, extent) = (strides(x.dims()), x.dims()[self.axis]);
        let mut y: Vec<Number> = x.iter().collect();
        let mut rows = x.dims().to_vec();
        // an empty axis has no row to walk along
        rows[self.axis] = extent.min(1);
        map_positions(&rows, |p| {
            let base = flat(&own, p);
            let mut sum = if x.dtype().is_float() { Number::F(0.0) } else { Number::I(0) };
            for i in 0..extent {
                let at = if self.reverse { extent - 1 - i } else { i };
                let at = base + (at * own[self.axis]) as usize;
                let before = sum;
                sum = match (sum, x.get(at)) {
                    (Number::F(a), Number::F(b)) => Number::F(a + b),
                    (a, b) => crate::expr::binary(BinaryOp::Add, x.dtype(), a, b),
                };
                y[at] = if self.exclusive { before } else { sum };
            }
            Ok::<_, ReferenceError>(())
        })?;
        Ok(vec![Tensor::new(x.dtype(), x.dims(), y)?])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use bespoke_ir::DType;

    #[test]
    fn sums_run_both_ways() {
        let x = i64s(&[2, 3], &[1, 2, 3, 4, 5, 6]);
        let op = |axis, exclusive, reverse| CumSum { axis, exclusive, reverse };
        assert_eq!(eval(op(1, false, false), &[&x]), i64s(&[2, 3], &[1, 3, 6, 4, 9, 15]));
        assert_eq!(eval(op(0, false, false), &[&x]), i64s(&[2, 3], &[1, 2, 3, 5, 7, 9]));
        assert_eq!(eval(op(1, true, false), &[&x]), i64s(&[2, 3], &[0, 1, 3, 0, 4, 9]));
        assert_eq!(eval(op(1, true, true), &[&x]), i64s(&[2, 3], &[5, 3, 0, 11, 6, 0]));
        let bytes = Tensor::from_i64(DType::U8, &[2], &[200, 100]).unwrap();
        assert_eq!(eval(op(0, false, false), &[&bytes]).to_i64s(), [200, 44]);
        assert!(eval(op(1, false, false), &[&i64s(&[2, 0], &[])]).is_empty());
    }
}
