//! One element for each index.

use bespoke_ir::op::GatherElements;

use super::{Evaluate, rearrange, resolve_index};
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::index::{flat, strides};
use crate::tensor::{Number, Tensor};

impl Evaluate for GatherElements {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let (data, indices) = (inputs[0], inputs[1]);
        for (axis, (d, i)) in data.dims().iter().zip(indices.dims()).enumerate() {
            if axis != self.axis && i > d {
                return Err(cx.error(format!("indices reach {i} of {d} elements along axis {axis}")));
            }
        }
        let own = strides(data.dims());
        let by_index = strides(indices.dims());
        rearrange(data, cx.dims(), Number::I(0), |p| {
            let index = indices.get(flat(&by_index, p)).to_int();
            let mut position = p.to_vec();
            Ok(resolve_index(index, data.dims()[self.axis]).map(|at| {
                position[self.axis] = at;
                flat(&own, &position)
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn the_example_of_the_standard() {
        let x = f32s(&[3, 3], &[1., 2., 3., 4., 5., 6., 7., 8., 9.]);
        let i = i64s(&[2, 3], &[1, 2, 0, 2, 0, 0]);
        assert_eq!(eval(GatherElements { axis: 0 }, &[&x, &i]), f32s(&[2, 3], &[4., 8., 3., 7., 2., 3.]));
        let i = i64s(&[1, 2], &[-1, 3]);
        assert_eq!(eval(GatherElements { axis: 1 }, &[&x, &i]), f32s(&[1, 2], &[3., 0.]));
        assert!(try_eval(GatherElements { axis: 1 }, &[&x, &i64s(&[4, 1], &[0; 4])]).is_err());
    }
}
