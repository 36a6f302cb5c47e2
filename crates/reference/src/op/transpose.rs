//! Permutation of the axes.

use bespoke_ir::op::Transpose;

use super::{Evaluate, rearrange};
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::index::{flat, strides};
use crate::tensor::{Number, Tensor};

impl Evaluate for Transpose {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let own = strides(inputs[0].dims());
        let permuted: Vec<i64> = self.perm.iter().map(|&a| own[a]).collect();
        rearrange(inputs[0], cx.dims(), Number::I(0), |p| Ok(Some(flat(&permuted, p))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn axes_move() {
        let y = eval(Transpose { perm: vec![1, 0] }, &[&iota(&[2, 3])]);
        assert_eq!(y, f32s(&[3, 2], &[0., 3., 1., 4., 2., 5.]));
        let y = eval(Transpose { perm: vec![2, 0, 1] }, &[&iota(&[1, 2, 3])]);
        assert_eq!(y, f32s(&[3, 1, 2], &[0., 3., 1., 4., 2., 5.]));
    }
}
