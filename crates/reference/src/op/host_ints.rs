//! Integers that follow from the extents.

use bespoke_ir::op::HostInts;

use super::Evaluate;
use crate::error::ReferenceError;
use crate::eval::Context;
use crate::tensor::{Number, Tensor};

impl Evaluate for HostInts {
    fn evaluate(&self, _: &[&Tensor], cx: &Context<'_>) -> Result<Vec<Tensor>, ReferenceError> {
        let values = cx.values(&self.elements)?;
        let elements = values.into_iter().map(|v| Number::I(v.into()));
        Ok(vec![Tensor::new(self.dtype, &self.dims, elements)?])
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::i64s;
    use super::*;
    use crate::eval_node;
    use bespoke_ir::{DType, Op, SymInt, SymbolId};

    #[test]
    fn expressions_are_evaluated() {
        let s = |i| SymInt::symbol(SymbolId(i));
        let op = Op::from(HostInts { dtype: DType::I64, dims: vec![2], elements: vec![s(0) * s(1), s(1) + 1] });
        assert_eq!(eval_node(&op, &[], &[3, 4]).unwrap(), [i64s(&[2], &[12, 5])]);
        assert!(matches!(eval_node(&op, &[], &[3]), Err(ReferenceError::Symbol { .. })));
    }
}
