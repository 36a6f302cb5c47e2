//! Operands one after the other along an axis. ONNX: Concat.

use super::{Attributes, Infer, InferError, Operator, check_axes};
use crate::sym::{SymInt, SymbolTable};
use crate::types::TensorType;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Concat {
    /// The axis.
    pub axis: usize,
}

impl Operator for Concat {
    fn infer(&self, inputs: &[&TensorType], cx: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        let Some(first) = inputs.first() else {
            return Err(InferError::new("has no operands"));
        };
        check_axes(&[self.axis], first.rank())?;
        let mut dims = first.dims.clone();
        dims[self.axis] = SymInt::constant(0);
        for ty in inputs {
            if ty.dtype != first.dtype || ty.rank() != first.rank() {
                return Err(InferError::new("operands differ in type or rank"));
            }
            for (i, d) in ty.dims.iter().enumerate() {
                if i == self.axis {
                    dims[i] = dims[i].clone() + d;
                } else {
                    cx.require_equal("extents", &dims[i], d)?;
                }
            }
        }
        Ok(vec![TensorType::new(first.dtype, dims)])
    }

    fn attributes(&self, _: &SymbolTable) -> String {
        Attributes::default().show("axis", self.axis).done()
    }
}
