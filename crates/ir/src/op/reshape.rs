//! The same elements in row-major order under other extents. ONNX: Reshape, Flatten, Squeeze, Unsqueeze.

use super::{Attributes, Infer, InferError, Operator, expect_inputs};
use crate::sym::{SymInt, SymbolTable};
use crate::types::TensorType;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Reshape {
    /// Extents of the result; importers have replaced 0 and −1.
    pub dims: Vec<SymInt>,
}

impl Operator for Reshape {
    fn infer(&self, inputs: &[&TensorType], cx: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 1)?;
        cx.require_extents(&self.dims)?;
        let result = TensorType::new(inputs[0].dtype, self.dims.clone());
        cx.require_equal("element counts", &inputs[0].elements(), &result.elements())?;
        Ok(vec![result])
    }

    fn attributes(&self, symbols: &SymbolTable) -> String {
        Attributes::default().syms("dims", &self.dims, symbols).done()
    }

    fn extents_mut(&mut self) -> Vec<&mut SymInt> {
        self.dims.iter_mut().collect()
    }
}
