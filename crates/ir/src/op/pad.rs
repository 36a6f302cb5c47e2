//! Elements added before and after each axis; negative amounts remove. ONNX: Pad.

use super::{Attributes, Infer, InferError, Operator, expect_inputs};
use crate::expr::Scalar;
use crate::sym::{SymInt, SymbolTable};
use crate::types::TensorType;

/// What the new elements are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PadMode {
    /// A literal of the operand's type.
    Constant(Scalar),
    /// The nearest element.
    Edge,
    /// The mirror image without the edge itself.
    Reflect,
    /// The other end.
    Wrap,
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Pad {
    /// Elements before and after each axis.
    pub pads: Vec<(SymInt, SymInt)>,
    /// What they are.
    pub mode: PadMode,
}

impl Operator for Pad {
    fn infer(&self, inputs: &[&TensorType], cx: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 1)?;
        if self.pads.len() != inputs[0].rank() {
            return Err(InferError::new(format!(
                "has {} pairs of pads for rank {}",
                self.pads.len(),
                inputs[0].rank()
            )));
        }
        let mut dims = Vec::with_capacity(self.pads.len());
        for (d, (begin, end)) in inputs[0].dims.iter().zip(&self.pads) {
            let extent = d.clone() + begin + end;
            cx.require_at_least("the padded extent", &extent, 0)?;
            if !matches!(self.mode, PadMode::Constant(_)) && d.as_const() == Some(0) {
                return Err(InferError::new("an empty axis has no elements to repeat"));
            }
            if self.mode == PadMode::Reflect {
                cx.require_at_least("the room to reflect", &(d.clone() - begin), 1)?;
                cx.require_at_least("the room to reflect", &(d.clone() - end), 1)?;
            }
            dims.push(extent);
        }
        Ok(vec![TensorType::new(inputs[0].dtype, dims)])
    }

    fn attributes(&self, symbols: &SymbolTable) -> String {
        let begin: Vec<SymInt> = self.pads.iter().map(|p| p.0.clone()).collect();
        let end: Vec<SymInt> = self.pads.iter().map(|p| p.1.clone()).collect();
        let a = Attributes::default().syms("begin", &begin, symbols).syms("end", &end, symbols);
        match self.mode {
            PadMode::Constant(c) => a.scalar("value", c),
            PadMode::Edge => a.show("mode", "edge"),
            PadMode::Reflect => a.show("mode", "reflect"),
            PadMode::Wrap => a.show("mode", "wrap"),
        }
        .done()
    }
}
