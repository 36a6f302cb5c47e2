//! Permutation of the axes: axis `i` of the result is axis `perm[i]` of the operand. ONNX: Transpose.

use super::{Attributes, Infer, InferError, Operator, expect_inputs};
use crate::sym::SymbolTable;
use crate::types::TensorType;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Transpose {
    /// The permutation.
    pub perm: Vec<usize>,
}

impl Operator for Transpose {
    fn infer(&self, inputs: &[&TensorType], _: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 1)?;
        let mut sorted = self.perm.clone();
        sorted.sort_unstable();
        if sorted != (0..inputs[0].rank()).collect::<Vec<_>>() {
            return Err(InferError::new(format!(
                "{:?} is no permutation of {} axes",
                self.perm,
                inputs[0].rank()
            )));
        }
        let dims = self.perm.iter().map(|&i| inputs[0].dims[i].clone()).collect();
        Ok(vec![TensorType::new(inputs[0].dtype, dims)])
    }

    fn attributes(&self, _: &SymbolTable) -> String {
        Attributes::default().list("perm", &self.perm).done()
    }
}
