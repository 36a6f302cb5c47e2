//! Normalisation over a set of axes: `(x − mean) / √(variance + ε)`, or `x / √(mean square + ε)`.
//!
//! Statistics are computed in `f32` at least. Scale and bias are [`super::Map`]s behind it. ONNX:
//! LayerNormalization, RMSNormalization, InstanceNormalization, GroupNormalization (between two reshapes).

use super::{Attributes, Infer, InferError, Operator, check_axes, expect_inputs};
use crate::sym::SymbolTable;
use crate::types::TensorType;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalize {
    /// Axes over which statistics are taken, increasing.
    pub axes: Vec<usize>,
    /// Added to the variance.
    pub epsilon: f64,
    /// Whether the mean is subtracted; without, this is RMS normalisation.
    pub center: bool,
}

impl Operator for Normalize {
    fn infer(&self, inputs: &[&TensorType], _: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 1)?;
        check_axes(&self.axes, inputs[0].rank())?;
        if !inputs[0].dtype.is_float() {
            return Err(InferError::new(format!("cannot normalise {}", inputs[0].dtype)));
        }
        Ok(vec![inputs[0].clone()])
    }

    fn attributes(&self, _: &SymbolTable) -> String {
        Attributes::default()
            .list("axes", &self.axes)
            .show("epsilon", self.epsilon)
            .flag("center", self.center)
            .done()
    }
}
