//! One element for each index: `out[i][j] = data[indices[i][j]][j]` for axis 0. Indices may be negative.
//! ONNX: GatherElements.

use super::gather::check_indices;
use super::{Attributes, Infer, InferError, Operator, check_axes, expect_inputs};
use crate::sym::SymbolTable;
use crate::types::TensorType;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatherElements {
    /// The axis.
    pub axis: usize,
}

impl Operator for GatherElements {
    fn infer(&self, inputs: &[&TensorType], _: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 2)?;
        let (data, indices) = (inputs[0], inputs[1]);
        check_axes(&[self.axis], data.rank())?;
        check_indices(indices)?;
        if data.rank() != indices.rank() {
            return Err(InferError::new("data and indices differ in rank"));
        }
        Ok(vec![TensorType::new(data.dtype, indices.dims.clone())])
    }

    fn attributes(&self, _: &SymbolTable) -> String {
        Attributes::default().show("axis", self.axis).done()
    }
}
