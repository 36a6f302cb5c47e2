//! Broadcast of one operand to larger extents. ONNX: Expand (after broadcasting both shapes).

use super::{Attributes, Infer, InferError, Operator, expect_inputs};
use crate::sym::{SymInt, SymbolTable};
use crate::types::TensorType;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Expand {
    /// Extents that the operand is broadcast with; the result has the broadcast extents of both.
    pub dims: Vec<SymInt>,
}

impl Operator for Expand {
    fn infer(&self, inputs: &[&TensorType], cx: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 1)?;
        cx.require_extents(&self.dims)?;
        let dims = cx.broadcast_dims(&inputs[0].dims, &self.dims)?;
        Ok(vec![TensorType::new(inputs[0].dtype, dims)])
    }

    fn attributes(&self, symbols: &SymbolTable) -> String {
        Attributes::default().syms("dims", &self.dims, symbols).done()
    }

    fn extents_mut(&mut self) -> Vec<&mut SymInt> {
        self.dims.iter_mut().collect()
    }
}
