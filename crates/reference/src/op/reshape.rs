//! The same elements under other extents.

use bespoke_ir::op::Reshape;

use super::Evaluate;
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::tensor::Tensor;

impl Evaluate for Reshape {
    fn evaluate(&self, inputs: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        Ok(vec![inputs[0].reshaped(cx.dims())?])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn order_is_kept() {
        let op = |dims: &[i64]| Reshape { dims: dims.iter().map(|&d| d.into()).collect() };
        assert_eq!(eval(op(&[3, 2]), &[&iota(&[2, 3])]), iota(&[3, 2]));
        assert!(try_eval(op(&[4]), &[&iota(&[2, 3])]).is_err());
    }
}
