//! Slices of the data along an axis, chosen by an index tensor. Indices may be negative. ONNX: Gather.
//!
//! `data: [p…, A, s…]`, `indices: [i…]` (`i32` or `i64`), result `[p…, i…, s…]`. An index outside `-A..A` yields zeros.

use super::{Attributes, Infer, InferError, Operator, check_axes, expect_inputs};
use crate::dtype::DType;
use crate::sym::SymbolTable;
use crate::types::TensorType;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gather {
    /// The axis.
    pub axis: usize,
}

pub(crate) fn check_indices(ty: &TensorType) -> Result<(), InferError> {
    if matches!(ty.dtype, DType::I32 | DType::I64) {
        return Ok(());
    }
    Err(InferError::new(format!("indices are {}, not i32 or i64", ty.dtype)))
}

impl Operator for Gather {
    fn infer(&self, inputs: &[&TensorType], _: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 2)?;
        let (data, indices) = (inputs[0], inputs[1]);
        check_axes(&[self.axis], data.rank())?;
        check_indices(indices)?;
        let mut dims = data.dims[..self.axis].to_vec();
        dims.extend_from_slice(&indices.dims);
        dims.extend_from_slice(&data.dims[self.axis + 1..]);
        Ok(vec![TensorType::new(data.dtype, dims)])
    }

    fn attributes(&self, _: &SymbolTable) -> String {
        Attributes::default().show("axis", self.axis).done()
    }
}
