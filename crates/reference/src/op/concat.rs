//! Operands one after the other along an axis.

use bespoke_ir::op::Concat;

use super::Evaluate;
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::index::{flat, map_positions, strides};
use crate::tensor::Tensor;

impl Evaluate for Concat {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let elements = map_positions(cx.dims(), |p| {
            let mut position = p.to_vec();
            for x in inputs {
                let extent = x.dims()[self.axis];
                if position[self.axis] < extent {
                    return Ok(x.get(flat(&strides(x.dims()), &position)));
                }
                position[self.axis] -= extent;
            }
            Err(cx.error("the result is longer than its operands"))
        })?;
        Ok(vec![Tensor::new(cx.dtype(), cx.dims(), elements)?])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn parts_follow_each_other() {
        let (a, b) = (i64s(&[2, 1], &[1, 4]), i64s(&[2, 2], &[2, 3, 5, 6]));
        let empty = i64s(&[2, 0], &[]);
        let y = eval(Concat { axis: 1 }, &[&a, &empty, &b]);
        assert_eq!(y, i64s(&[2, 3], &[1, 2, 3, 4, 5, 6]));
    }
}
