//! Integers that the host knows as soon as the shapes are: the bridge from extents back to tensors.
//!
//! No operands; the result holds one expression an element, row-major. Importers fold shape arithmetic into
//! expressions and use this operator only where a model feeds such a number to real arithmetic.

use super::{Attributes, Infer, InferError, Operator, expect_inputs};
use crate::dtype::DType;
use crate::sym::{SymInt, SymbolTable};
use crate::types::TensorType;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct HostInts {
    /// Element type, `i32` or `i64`.
    pub dtype: DType,
    /// Extents.
    pub dims: Vec<i64>,
    /// The elements.
    pub elements: Vec<SymInt>,
}

impl Operator for HostInts {
    fn infer(&self, inputs: &[&TensorType], _: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 0)?;
        let step = |count: i64, &d: &i64| if d < 0 { None } else { count.checked_mul(d) };
        let count = self.dims.iter().try_fold(1, step);
        if !matches!(self.dtype, DType::I32 | DType::I64) || count != Some(self.elements.len() as i64) {
            return Err(InferError::new("elements do not fit the type"));
        }
        Ok(vec![TensorType::fixed(self.dtype, &self.dims)])
    }

    fn attributes(&self, symbols: &SymbolTable) -> String {
        Attributes::default().syms("elements", &self.elements, symbols).done()
    }

    fn extents_mut(&mut self) -> Vec<&mut SymInt> {
        self.elements.iter_mut().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;

    #[test]
    fn extents_whose_product_overflows_are_refused() {
        for dims in [vec![1 << 40, 1 << 40], vec![-1, -1], vec![2]] {
            let op = HostInts { dtype: DType::I64, dims, elements: vec![SymInt::constant(1)] };
            assert!(Graph::new("g").add("h", op, &[]).is_err());
        }
    }
}
