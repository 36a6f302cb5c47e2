//! Slices along an axis.

use bespoke_ir::op::Gather;

use super::{Evaluate, rearrange, resolve_index};
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::index::{flat, strides};
use crate::tensor::{Number, Tensor};

impl Evaluate for Gather {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let (data, indices) = (inputs[0], inputs[1]);
        let (own, by_index) = (strides(data.dims()), strides(indices.dims()));
        let (axis, behind) = (self.axis, self.axis + indices.rank());
        rearrange(data, cx.dims(), Number::I(0), |p| {
            let index = indices.get(flat(&by_index, &p[axis..behind])).to_int();
            Ok(resolve_index(index, data.dims()[axis]).map(|at| {
                flat(&own[..axis], &p[..axis])
                    + flat(&own[axis..=axis], &[at])
                    + flat(&own[axis + 1..], &p[behind..])
            }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn indices_replace_the_axis() {
        let x = iota(&[2, 3]);
        let i = i64s(&[2, 2], &[0, -1, 1, 7]);
        let y = eval(Gather { axis: 1 }, &[&x, &i]);
        assert_eq!(y, f32s(&[2, 2, 2], &[0., 2., 1., 0., 3., 5., 4., 0.]));
        let row = eval(Gather { axis: 0 }, &[&x, &i64s(&[], &[-1])]);
        assert_eq!(row, f32s(&[3], &[3., 4., 5.]));
    }
}
