//! The `k` largest or smallest elements along an axis and their positions (`i64`). Equal elements keep their order.
//! ONNX: TopK.

use super::{Attributes, Infer, InferError, Operator, check_axes, expect_inputs};
use crate::dtype::DType;
use crate::sym::{SymInt, SymbolTable};
use crate::types::TensorType;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct TopK {
    /// The axis.
    pub axis: usize,
    /// How many.
    pub k: SymInt,
    /// Whether the largest are sought.
    pub largest: bool,
}

impl Operator for TopK {
    fn infer(&self, inputs: &[&TensorType], cx: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 1)?;
        let x = inputs[0];
        check_axes(&[self.axis], x.rank())?;
        cx.require_at_least("k", &self.k, 0)?;
        cx.require_at_least("the axis less k", &(x.dims[self.axis].clone() - &self.k), 0)?;
        let mut dims = x.dims.clone();
        dims[self.axis] = self.k.clone();
        Ok(vec![TensorType::new(x.dtype, dims.clone()), TensorType::new(DType::I64, dims)])
    }

    fn attributes(&self, symbols: &SymbolTable) -> String {
        Attributes::default()
            .show("axis", self.axis)
            .show("k", self.k.display(symbols))
            .flag("largest", self.largest)
            .done()
    }

    fn extents_mut(&mut self) -> Vec<&mut SymInt> {
        vec![&mut self.k]
    }
}
