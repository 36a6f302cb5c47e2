//! Broadcast to larger extents.

use bespoke_ir::op::Expand;

use super::{Evaluate, rearrange};
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::index::{broadcast_strides, flat};
use crate::tensor::{Number, Tensor};

impl Evaluate for Expand {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let strides = broadcast_strides(inputs[0].dims(), cx.dims());
        rearrange(inputs[0], cx.dims(), Number::I(0), |p| Ok(Some(flat(&strides, p))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn both_sides_broadcast() {
        let op = |dims: &[i64]| Expand { dims: dims.iter().map(|&d| d.into()).collect() };
        let x = i64s(&[2, 1], &[1, 2]);
        assert_eq!(eval(op(&[2, 3]), &[&x]), i64s(&[2, 3], &[1, 1, 1, 2, 2, 2]));
        assert_eq!(eval(op(&[2, 1, 1]), &[&x]), i64s(&[2, 2, 1], &[1, 2, 1, 2]));
        assert!(try_eval(op(&[3, 3]), &[&x]).is_err());
    }
}
