//! Pooling: a window slides over the spatial axes and each window yields one element.
//!
//! `x: [N, C, d…]`; ONNX MaxPool, AveragePool and LpPool. Pooling over whole axes ("global") is [`super::Reduce`].
//! With `indices`, max pooling has a second result: the flat position of each maximum (`i64`, row-major over
//! `[N, C, d…]`, or column-major over the spatial axes if `column_major`).

use super::conv::Window;
use super::{Infer, InferError, Operator, expect_inputs};
use crate::dtype::DType;
use crate::sym::{SymInt, SymbolTable};
use crate::types::TensorType;

/// What a window yields.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PoolKind {
    /// The largest element.
    Max {
        /// Whether the positions of the maxima are a second result.
        indices: bool,
        /// Whether positions count the last spatial axis slowest.
        column_major: bool,
    },
    /// The mean.
    Average {
        /// Whether padding counts as elements.
        count_include_pad: bool,
    },
    /// The p-norm.
    Lp(i64),
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// What a window yields.
    pub kind: PoolKind,
    /// Extents of the window.
    pub kernel: Vec<i64>,
    /// How it slides.
    pub window: Window,
    /// Whether the number of windows rounds up.
    pub ceil: bool,
}

impl Operator for Pool {
    fn infer(&self, inputs: &[&TensorType], cx: &mut Infer<'_>) -> Result<Vec<TensorType>, InferError> {
        expect_inputs(inputs, 1)?;
        let x = inputs[0];
        if x.rank() < 3 || self.kernel.len() != x.rank() - 2 || self.kernel.iter().any(|&k| k < 1) {
            return Err(InferError::new(format!(
                "a window {:?} does not fit a tensor of rank {}",
                self.kernel,
                x.rank()
            )));
        }
        self.window.check(self.kernel.len())?;
        let mut dims = x.dims[..2].to_vec();
        for (i, &k) in self.kernel.iter().enumerate() {
            let extent = self.window.extent(i, &x.dims[2 + i], &SymInt::constant(k), self.ceil);
            cx.require_at_least("the output extent", &extent, 0)?;
            dims.push(extent.simplify(cx.symbols));
        }
        let mut results = vec![TensorType::new(x.dtype, dims.clone())];
        if let PoolKind::Max { indices: true, .. } = self.kind {
            results.push(TensorType::new(DType::I64, dims));
        }
        Ok(results)
    }

    fn attributes(&self, symbols: &SymbolTable) -> String {
        let kind = match self.kind {
            PoolKind::Max { .. } => "max".to_owned(),
            PoolKind::Average { count_include_pad: true } => "average_with_pads".to_owned(),
            PoolKind::Average { .. } => "average".to_owned(),
            PoolKind::Lp(p) => format!("l{p}"),
        };
        self.window
            .attributes(symbols)
            .show("kind", kind)
            .list("kernel", &self.kernel)
            .flag("ceil", self.ceil)
            .done()
    }

    fn extents_mut(&mut self) -> Vec<&mut SymInt> {
        self.window.extents_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Graph;

    #[test]
    fn ceil_mode_never_begins_a_window_in_the_trailing_pad() {
        let mut g = Graph::new("t");
        let x = g.add_input("x", TensorType::fixed(DType::F32, &[1, 1, 6]));
        let pool = |ceil| Pool {
            kind: PoolKind::Average { count_include_pad: false },
            kernel: vec![2],
            window: Window { strides: vec![4], dilations: vec![1], pads: vec![(0.into(), 1.into())] },
            ceil,
        };
        let floor = g.add1("floor", pool(false), &[x]).unwrap();
        let ceil = g.add1("ceil", pool(true), &[x]).unwrap();
        assert_eq!(g.ty(floor).static_dims().unwrap(), [1, 1, 2]);
        assert_eq!(g.ty(ceil).static_dims().unwrap(), [1, 1, 2]);
    }
}
