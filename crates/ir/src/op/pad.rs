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
            let pads = begin.as_const() != Some(0) || end.as_const() != Some(0);
            if pads && !matches!(self.mode, PadMode::Constant(_)) {
                // An empty axis has no elements to repeat.
                cx.require_at_least("the extent to repeat from", d, 1)?;
                if self.mode == PadMode::Reflect {
                    cx.require_at_least("the room to reflect", &(d.clone() - begin), 1)?;
                    cx.require_at_least("the room to reflect", &(d.clone() - end), 1)?;
                }
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

    fn extents_mut(&mut self) -> Vec<&mut SymInt> {
        self.pads.iter_mut().flat_map(|(begin, end)| [begin, end]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::graph::Graph;
    use crate::sym::{Symbol, SymbolOrigin};

    #[test]
    fn only_a_padded_axis_must_have_elements_to_repeat() {
        for mode in [PadMode::Edge, PadMode::Reflect, PadMode::Wrap] {
            let mut g = Graph::new("t");
            let mut symbol = |name| SymInt::symbol(g.symbols.add(Symbol::new(name, SymbolOrigin::Free)));
            let (n, w) = (symbol("n"), symbol("w"));
            let x = g.add_input("x", TensorType::new(DType::F32, vec![n, w]));
            let pads = vec![(0.into(), 0.into()), (1.into(), 0.into())];
            g.add("y", Pad { pads, mode }, &[x]).unwrap();
            let holds = |n, w| g.guards.iter().all(|g| g.holds(&[n, w]));
            assert!(holds(0, 5) && !holds(5, 0), "{mode:?}");
        }
    }
}
