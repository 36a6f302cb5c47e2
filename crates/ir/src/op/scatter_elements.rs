//! A copy of the data with single elements replaced or combined: `out[indices[i][j]][j] = updates[i][j]` for axis 0.
//! ONNX: ScatterElements.

use super::gather::check_indices;
use super::{Attributes, Infer, InferError, Operator, check_axes, expect_inputs};
use crate::sym::SymbolTable;
use crate::types::TensorType;

/// How an update meets the element that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScatterReduction {
    /// It replaces it; of several updates of one element any may win.
    Replace,
    /// Sum.
    Add,
    /// Product.
    Mul,
    /// Smaller of both.
    Min,
    /// Larger of both.
    Max,
}

impl ScatterReduction {
    /// Name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            ScatterReduction::Replace => "replace",
            ScatterReduction::Add => "add",
            ScatterReduction::Mul => "mul",
            ScatterReduction::Min => "min",
            ScatterReduction::Max => "max",
        }
    }
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScatterElements {
    /// The axis.
    pub axis: usize,
    /// How an update meets what is there.
    pub reduction: ScatterReduction,
}

impl Operator for ScatterElements {
    fn infer(&self, inputs: &[&TensorType], cx: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 3)?;
        let (data, indices, updates) = (inputs[0], inputs[1], inputs[2]);
        check_axes(&[self.axis], data.rank())?;
        check_indices(indices)?;
        if indices.rank() != data.rank() || updates.rank() != data.rank() || updates.dtype != data.dtype {
            return Err(InferError::new("data, indices and updates differ in rank or type"));
        }
        for (a, b) in indices.dims.iter().zip(&updates.dims) {
            cx.require_equal("extents of indices and updates", a, b)?;
        }
        Ok(vec![data.clone()])
    }

    fn attributes(&self, _: &SymbolTable) -> String {
        Attributes::default().show("axis", self.axis).show("reduction", self.reduction.name()).done()
    }
}
