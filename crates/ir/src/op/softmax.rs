//! Softmax along one axis: `exp(x − max) / Σ exp(x − max)`, or its logarithm. ONNX: Softmax, LogSoftmax (opset 13 rule;
//! importers reshape for the older one).

use super::{Attributes, Infer, InferError, Operator, check_axes, expect_inputs};
use crate::sym::SymbolTable;
use crate::types::TensorType;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Softmax {
    /// The axis.
    pub axis: usize,
    /// Whether the logarithm is the result.
    pub log: bool,
}

impl Operator for Softmax {
    fn infer(&self, inputs: &[&TensorType], _: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 1)?;
        check_axes(&[self.axis], inputs[0].rank())?;
        Ok(vec![inputs[0].clone()])
    }

    fn attributes(&self, _: &SymbolTable) -> String {
        Attributes::default().show("axis", self.axis).flag("log", self.log).done()
    }
}
