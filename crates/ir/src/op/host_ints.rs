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
        if !matches!(self.dtype, DType::I32 | DType::I64)
            || self.dims.iter().product::<i64>() != self.elements.len() as i64
        {
            return Err(InferError::new("elements do not fit the type"));
        }
        Ok(vec![TensorType::fixed(self.dtype, &self.dims)])
    }

    fn attributes(&self, symbols: &SymbolTable) -> String {
        Attributes::default().syms("elements", &self.elements, symbols).done()
    }
}
