//! Position of the largest or smallest element along an axis, as `i64`. ONNX: ArgMax, ArgMin.

use super::reduce::reduced_dims;
use super::{Attributes, Infer, InferError, Operator, check_axes, expect_inputs};
use crate::dtype::DType;
use crate::sym::SymbolTable;
use crate::types::TensorType;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ArgReduce {
    /// Whether the largest element is sought.
    pub largest: bool,
    /// The axis.
    pub axis: usize,
    /// Whether the axis stays with extent 1.
    pub keep_dims: bool,
    /// Whether the last of equal elements wins, not the first.
    pub select_last: bool,
}

impl Operator for ArgReduce {
    fn infer(&self, inputs: &[&TensorType], cx: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 1)?;
        check_axes(&[self.axis], inputs[0].rank())?;
        cx.require_at_least("the searched extent", &inputs[0].dims[self.axis], 1)?;
        let dims = reduced_dims(&inputs[0].dims, &[self.axis], self.keep_dims);
        Ok(vec![TensorType::new(DType::I64, dims)])
    }

    fn attributes(&self, _: &SymbolTable) -> String {
        Attributes::default()
            .show("kind", if self.largest { "max" } else { "min" })
            .show("axis", self.axis)
            .flag("keep_dims", self.keep_dims)
            .flag("select_last", self.select_last)
            .done()
    }
}
