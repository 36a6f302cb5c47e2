//! Slices chosen by index tuples.

use bespoke_ir::op::GatherNd;

use super::{Evaluate, rearrange, resolve_index};
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::index::{flat, strides};
use crate::tensor::{Number, Tensor};

impl Evaluate for GatherNd {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let (data, indices) = (inputs[0], inputs[1]);
        let (own, by_index) = (strides(data.dims()), strides(indices.dims()));
        let (batch, lead) = (self.batch_dims, indices.rank() - 1);
        let tuple = indices.dims()[lead];
        rearrange(data, cx.dims(), Number::I(0), |p| {
            let first = flat(&by_index[..lead], &p[..lead]);
            let mut position = p[..batch].to_vec();
            for t in 0..tuple as usize {
                match resolve_index(indices.get(first + t).to_int(), data.dims()[batch + t]) {
                    Some(at) => position.push(at),
                    None => return Ok(None),
                }
            }
            position.extend_from_slice(&p[lead..]);
            Ok(Some(flat(&own, &position)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn the_examples_of_the_standard() {
        let x = iota(&[2, 2]);
        let op = GatherNd { batch_dims: 0 };
        assert_eq!(eval(op, &[&x, &i64s(&[2, 2], &[0, 0, 1, 1])]), f32s(&[2], &[0., 3.]));
        assert_eq!(eval(op, &[&x, &i64s(&[2, 1], &[1, -2])]), f32s(&[2, 2], &[2., 3., 0., 1.]));
        assert_eq!(eval(op, &[&x, &i64s(&[1, 2], &[0, 2])]), f32s(&[1], &[0.]));
        let x = iota(&[2, 2, 2]);
        let y = eval(GatherNd { batch_dims: 1 }, &[&x, &i64s(&[2, 1], &[1, 0])]);
        assert_eq!(y, f32s(&[2, 2], &[2., 3., 4., 5.]));
    }
}
