//! A regular part of each axis: element `i` of the result is element `start + i·step` of the operand. ONNX: Slice,
//! Split.

use super::{Attributes, Infer, InferError, Operator, expect_inputs};
use crate::sym::{SymInt, SymbolTable};
use crate::types::TensorType;

/// See the module. One entry an axis; importers have clamped starts and ends and resolved negative ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// First element of each axis.
    pub starts: Vec<SymInt>,
    /// Steps, not 0.
    pub steps: Vec<i64>,
    /// Extents of the result.
    pub dims: Vec<SymInt>,
}

impl Operator for Slice {
    fn infer(&self, inputs: &[&TensorType], cx: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 1)?;
        let rank = inputs[0].rank();
        if [self.starts.len(), self.steps.len(), self.dims.len()] != [rank; 3] {
            return Err(InferError::new(format!("needs one start, step and extent for each of {rank} axes")));
        }
        if self.steps.contains(&0) {
            return Err(InferError::new("a step is 0"));
        }
        cx.require_extents(&self.dims)?;
        Ok(vec![TensorType::new(inputs[0].dtype, self.dims.clone())])
    }

    fn attributes(&self, symbols: &SymbolTable) -> String {
        Attributes::default()
            .syms("starts", &self.starts, symbols)
            .list("steps", &self.steps)
            .syms("dims", &self.dims, symbols)
            .done()
    }

    fn extents_mut(&mut self) -> Vec<&mut SymInt> {
        self.starts.iter_mut().chain(&mut self.dims).collect()
    }
}
