//! Slices of the data chosen by index tuples. Indices may be negative. ONNX: GatherND.
//!
//! `data: [b…, d…]`, `indices: [b…, i…, t]`, result `[b…, i…, d[t..]…]`, where `b` are `batch_dims` common axes.

use super::gather::check_indices;
use super::{Attributes, Infer, InferError, Operator, expect_inputs};
use crate::sym::SymbolTable;
use crate::types::TensorType;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatherNd {
    /// Number of leading axes that data and indices share.
    pub batch_dims: usize,
}

impl Operator for GatherNd {
    fn infer(&self, inputs: &[&TensorType], cx: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 2)?;
        let (data, indices) = (inputs[0], inputs[1]);
        check_indices(indices)?;
        let b = self.batch_dims;
        if indices.rank() <= b || data.rank() <= b {
            return Err(InferError::new(format!("batch_dims {b} leaves no axis to index")));
        }
        let Some(tuple) = indices.dims[indices.rank() - 1].as_const() else {
            return Err(InferError::new("the length of the index tuples is not a constant"));
        };
        let tuple = usize::try_from(tuple).unwrap_or(usize::MAX);
        if tuple == 0 || tuple > data.rank() - b {
            return Err(InferError::new(format!(
                "index tuples of {tuple} do not fit data of rank {} with batch_dims {b}",
                data.rank()
            )));
        }
        for i in 0..b {
            cx.require_equal("batch extents", &data.dims[i], &indices.dims[i])?;
        }
        let mut dims = indices.dims[..indices.rank() - 1].to_vec();
        dims.extend_from_slice(&data.dims[b + tuple..]);
        Ok(vec![TensorType::new(data.dtype, dims)])
    }

    fn attributes(&self, _: &SymbolTable) -> String {
        Attributes::default().show("batch_dims", self.batch_dims).done()
    }
}
