//! A regular part of each axis.

use bespoke_ir::op::Slice;

use super::{Evaluate, rearrange};
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::index::{flat, strides};
use crate::tensor::{Number, Tensor};

impl Evaluate for Slice {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let x = inputs[0];
        let starts = cx.values(&self.starts)?;
        for (axis, &extent) in cx.dims().iter().enumerate() {
            let (start, step) = (i128::from(starts[axis]), i128::from(self.steps[axis]));
            let inside = 0..i128::from(x.dims()[axis]);
            let last = start + step * i128::from(extent - 1);
            if extent > 0 && !(inside.contains(&start) && inside.contains(&last)) {
                return Err(cx.error(format!(
                    "elements {start} to {last} of axis {axis} are outside its {} elements",
                    x.dims()[axis]
                )));
            }
        }
        let own = strides(x.dims());
        rearrange(x, cx.dims(), Number::I(0), |p| {
            let from: Vec<i64> = (0..p.len()).map(|a| starts[a] + p[a] * self.steps[a]).collect();
            Ok(Some(flat(&own, &from)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn steps_go_both_ways() {
        let op = |start: i64, step, extent: i64| Slice {
            starts: vec![0.into(), start.into()],
            steps: vec![1, step],
            dims: vec![2.into(), extent.into()],
        };
        let x = iota(&[2, 4]);
        assert_eq!(eval(op(1, 2, 2), &[&x]), f32s(&[2, 2], &[1., 3., 5., 7.]));
        assert_eq!(eval(op(3, -3, 2), &[&x]), f32s(&[2, 2], &[3., 0., 7., 4.]));
        assert!(eval(op(9, 1, 0), &[&x]).is_empty());
        assert!(try_eval(op(3, -3, 3), &[&x]).is_err());
        assert!(try_eval(op(2, 1, 3), &[&x]).is_err());
    }
}
