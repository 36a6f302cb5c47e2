//! Transposed convolution: the gradient of [`super::Conv`] with respect to its data.
//!
//! `x: [N, C, d…]`, `w: [C, K/groups, k…]`, result `[N, K, o…]` with
//! `o = stride·(d−1) + output_padding + dilation·(k−1) + 1 − begin − end` (ONNX ConvTranspose). Importers turn
//! `output_shape` and `auto_pad` into pads.

use super::conv::Window;
use super::{Infer, InferError, Operator, expect_inputs};
use crate::sym::{SymInt, SymbolTable};
use crate::types::TensorType;

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvTranspose {
    /// The window; pads remove elements of the result and may be negative.
    pub window: Window,
    /// Elements added after each axis of the result.
    pub output_padding: Vec<i64>,
    /// Channels are split into this many independent convolutions.
    pub groups: i64,
}

impl Operator for ConvTranspose {
    fn infer(&self, inputs: &[&TensorType], cx: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 2)?;
        let (x, w) = (inputs[0], inputs[1]);
        if x.rank() < 3 || w.rank() != x.rank() {
            return Err(InferError::new(format!(
                "needs data and weights of equal rank of at least 3, has {} and {}",
                x.rank(),
                w.rank()
            )));
        }
        if x.dtype != w.dtype || !x.dtype.is_float() {
            return Err(InferError::new(format!("cannot convolve {} with {}", x.dtype, w.dtype)));
        }
        let axes = x.rank() - 2;
        self.window.check(axes)?;
        if self.output_padding.len() != axes || self.groups < 1 {
            return Err(InferError::new("output_padding or groups is malformed"));
        }
        cx.require_equal("channels", &x.dims[1], &w.dims[0])?;
        let mut dims = vec![x.dims[0].clone(), w.dims[1].clone() * SymInt::constant(self.groups)];
        for i in 0..axes {
            let (begin, end) = &self.window.pads[i];
            let reach = (w.dims[2 + i].clone() - 1) * SymInt::constant(self.window.dilations[i]) + 1;
            let extent = (x.dims[2 + i].clone() - 1) * SymInt::constant(self.window.strides[i])
                + SymInt::constant(self.output_padding[i])
                + reach
                - begin
                - end;
            cx.require_at_least("the output extent", &extent, 0)?;
            dims.push(extent.simplify(cx.symbols));
        }
        Ok(vec![TensorType::new(x.dtype, dims)])
    }

    fn attributes(&self, symbols: &SymbolTable) -> String {
        self.window
            .attributes(symbols)
            .list("output_padding", &self.output_padding)
            .show("groups", self.groups)
            .done()
    }

    fn extents_mut(&mut self) -> Vec<&mut SymInt> {
        self.window.extents_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Graph};

    #[test]
    fn output_extents_follow_the_standard() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[1, 8, 10]));
        let w = g.add_input("w", TensorType::fixed(DType::F32, &[8, 4, 3]));
        let window = Window { strides: vec![2], dilations: vec![1], pads: vec![(1.into(), 1.into())] };
        let op = ConvTranspose { window, output_padding: vec![1], groups: 1 };
        let y = g.add1("y", op, &[x, w]).unwrap();
        assert_eq!(g.ty(y).static_dims().unwrap(), [1, 4, 20]);
    }
}
