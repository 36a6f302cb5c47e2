//! Running sum along an axis. ONNX: CumSum.

use super::{Attributes, Infer, InferError, Operator, check_axes, expect_inputs};
use crate::sym::SymbolTable;
use crate::types::TensorType;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CumSum {
    /// The axis.
    pub axis: usize,
    /// Whether an element is left out of its own sum.
    pub exclusive: bool,
    /// Whether sums run from the end.
    pub reverse: bool,
}

impl Operator for CumSum {
    fn infer(&self, inputs: &[&TensorType], _: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 1)?;
        check_axes(&[self.axis], inputs[0].rank())?;
        Ok(vec![inputs[0].clone()])
    }

    fn attributes(&self, _: &SymbolTable) -> String {
        Attributes::default()
            .show("axis", self.axis)
            .flag("exclusive", self.exclusive)
            .flag("reverse", self.reverse)
            .done()
    }
}
