//! A copy of the data with slices replaced or combined, addressed by index tuples. ONNX: ScatterND.
//!
//! Operands `data: [d…]`, `indices: [i…, t]`, `updates: [i…, d[t..]…]`.

use super::gather::check_indices;
use super::scatter_elements::ScatterReduction;
use super::{Attributes, Infer, InferError, Operator, expect_inputs};
use crate::sym::SymbolTable;
use crate::types::TensorType;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScatterNd {
    /// How an update meets what is there.
    pub reduction: ScatterReduction,
}

impl Operator for ScatterNd {
    fn infer(&self, inputs: &[&TensorType], cx: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 3)?;
        let (data, indices, updates) = (inputs[0], inputs[1], inputs[2]);
        check_indices(indices)?;
        let tuple = indices
            .dims
            .last()
            .and_then(|d| d.as_const())
            .and_then(|t| usize::try_from(t).ok())
            .ok_or_else(|| InferError::new("the length of the index tuples is not a constant"))?;
        if tuple > data.rank() || data.dtype != updates.dtype {
            return Err(InferError::new("indices or updates do not fit the data"));
        }
        let mut want = indices.dims[..indices.rank() - 1].to_vec();
        want.extend_from_slice(&data.dims[tuple..]);
        if want.len() != updates.rank() {
            return Err(InferError::new(format!("updates have rank {}, not {}", updates.rank(), want.len())));
        }
        for (a, b) in want.iter().zip(&updates.dims) {
            cx.require_equal("extents of the updates", a, b)?;
        }
        Ok(vec![data.clone()])
    }

    fn attributes(&self, _: &SymbolTable) -> String {
        Attributes::default().show("reduction", self.reduction.name()).done()
    }
}
